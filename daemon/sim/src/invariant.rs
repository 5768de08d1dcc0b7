//! What must hold at every moment, whatever fails: one file per invariant.
//!
//! The invariants see the world from outside: what was executed where, which records are on stable storage, what was sent
//! and answered. The first violation ends the run.

pub mod agreement;
pub mod ballot;
pub mod chosen;
pub mod claim;
pub mod digest;
pub mod durability;
pub mod exactly_once;
pub mod executed;
pub mod ledger;
pub mod linearizability;

use std::fmt;

use panch_consensus::protocol::Value;
use panch_replica::core::GroupStatus;
use panch_wire::ids::{BatchId, GroupId, Slot};

use crate::inspect::{Claim, Fact};
use ledger::{Ledger, Vote};

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which, as the module is called.
    pub rule: &'static str,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

/// What a slot holds, as far as comparing goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Held {
    /// A no-op.
    Noop,
    /// The batch with this checksum.
    Batch(u64),
}

impl From<&Value> for Held {
    fn from(value: &Value) -> Self {
        match value {
            Value::Noop => Held::Noop,
            Value::Batch(frame) => Held::Batch(frame.checksum()),
        }
    }
}

/// What was executed in a slot. The frame itself is not kept: it would hold memory of the node's pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The content.
    pub held: Held,
    /// The batch's name.
    pub id: Option<BatchId>,
}

impl From<&Value> for Decision {
    fn from(value: &Value) -> Self {
        Self { held: Held::from(value), id: value.body().map(|frame| frame.id()) }
    }
}

/// All of them.
pub struct Invariants {
    /// See the module.
    pub agreement: agreement::Agreement,
    /// See the module.
    pub ledger: Ledger,
    /// See the module.
    pub claims: claim::Claims,
    /// See the module.
    pub digests: digest::Digests,
    /// See the module.
    pub ballots: ballot::Ballots,
    /// See the module.
    pub executed: executed::Executed,
    /// See the module.
    pub exactly_once: exactly_once::ExactlyOnce,
    violation: Option<Violation>,
}

impl Invariants {
    /// For a world that has not begun.
    pub fn new(node_count: usize) -> Self {
        Self {
            agreement: agreement::Agreement::default(),
            ledger: Ledger::new(node_count),
            claims: claim::Claims::default(),
            digests: digest::Digests::default(),
            ballots: ballot::Ballots::default(),
            executed: executed::Executed::default(),
            exactly_once: exactly_once::ExactlyOnce::default(),
            violation: None,
        }
    }

    /// Notes the result of a check.
    pub fn note(&mut self, rule: &'static str, result: Result<(), String>) {
        if let Err(text) = result
            && self.violation.is_none()
        {
            self.violation = Some(Violation { rule, text });
        }
    }

    /// The first violation.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// A node executed a slot; `replaying` while it reads its own log.
    pub fn on_executed(&mut self, node: usize, group: GroupId, slot: Slot, decision: Decision) {
        let first = self.agreement.is_new(group, slot);
        let agreed = self.agreement.on_executed(node, group, slot, decision);
        self.note("agreement", agreed);
        if first {
            let chosen = chosen::check(&self.ledger, group, slot, decision.held);
            self.note("chosen", chosen);
        }
        let order = self.executed.on_executed(node, group, slot);
        self.note("executed", order);
    }

    /// A record of a node is on stable storage.
    pub fn on_stable(&mut self, node: usize, group: GroupId, fact: Fact, held: Held) {
        let vote = Vote { ballot: fact.ballot, held };
        self.ledger.on_stable(node, group, fact.ballot, fact.accepts.map(|slot| (slot, vote)));
    }

    /// A node appended a record to its log.
    pub fn on_appended(&mut self, node: usize, group: GroupId, fact: Fact) {
        let obeyed = self.ballots.on_appended(node, group, fact);
        self.note("ballot", obeyed);
    }

    /// A node sent a message that claims something.
    pub fn on_claim(&mut self, node: usize, group: GroupId, claim: Claim) {
        let kept = self.claims.check(&self.ledger, &self.agreement, node, group, claim);
        self.note("claim", kept);
    }

    /// The status of a group on a node at the end of a turn.
    pub fn on_status(&mut self, node: usize, status: &GroupStatus) {
        let ballots = self.ballots.on_status(node, status);
        self.note("ballot", ballots);
        let executed = self.executed.on_status(node, status);
        self.note("executed", executed);
        let digests = self.digests.on_status(node, status);
        self.note("digest", digests);
    }

    /// A node lives again, with the votes that its log gave back.
    pub fn on_boot(&mut self, node: usize, status: &GroupStatus, replayed: &[(Slot, Vote)]) {
        let kept = durability::check_boot(&self.ledger, node, status, replayed);
        self.note("durability", kept);
    }

    /// A node's process is gone.
    pub fn on_crash(&mut self, node: usize) {
        self.ballots.on_crash(node);
        self.executed.on_crash(node);
    }
}
