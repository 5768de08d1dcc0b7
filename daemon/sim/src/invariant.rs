//! What must hold at every moment, whatever fails: one file per invariant.
//!
//! The invariants see the world from outside: what was executed where, which records are on stable storage, what was sent
//! and answered. The first violation ends the run.

pub mod access;
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
pub mod order;
pub mod stale;
pub mod visibility;

use std::collections::BTreeSet;
use std::fmt;

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::{Order, ProtocolKind, Value};
use panch_replica::status::GroupStatus;
use panch_wire::ids::{BatchId, GroupId, Position};

use crate::inspect::{Claim, Commitment, Fact};
use access::Access;
use ledger::{Entry, Ledger, Page};

/// How a protocol orders what it decides.
pub fn order_of(kind: ProtocolKind) -> Order {
    match kind {
        ProtocolKind::Basic | ProtocolKind::Multi | ProtocolKind::Fast => Order::Log,
        ProtocolKind::Epaxos => Order::Graph,
    }
}

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

/// What a position holds, as far as comparing goes.
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

/// What was executed at a position. The frame itself is not kept: it would hold memory of the node's pool.
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
    /// See the module.
    pub order: order::KeyOrder,
    /// See the module.
    pub stale: stale::Stale,
    /// See the module.
    pub visibility: visibility::Visibility,
    /// Nodes whose state a script has changed: they are to be found out.
    changed: BTreeSet<usize>,
    /// A script has made nodes forget votes without a trace: anything may happen.
    suspended: bool,
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
            order: order::KeyOrder::default(),
            stale: stale::Stale::default(),
            visibility: visibility::Visibility::new(node_count),
            changed: BTreeSet::new(),
            suspended: false,
            violation: None,
        }
    }

    /// Notes the result of a check.
    pub fn note(&mut self, rule: &'static str, result: Result<(), String>) {
        if let Err(text) = result
            && self.violation.is_none()
            && !self.suspended
        {
            self.violation = Some(Violation { rule, text });
        }
    }

    /// The first violation.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// A node executed a slot of a log.
    pub fn on_slot(&mut self, node: usize, group: GroupId, position: Position, decision: Decision) {
        let first = self.agreement.is_new(group, position);
        let agreed = self.agreement.on_executed(node, group, position, decision);
        self.note("agreement", agreed);
        if first {
            let chosen = chosen::check(&self.ledger, group, position, decision.held);
            self.note("chosen", chosen);
        }
        let order = self.executed.on_slot(node, group, position.slot());
        self.note("executed", order);
    }

    /// A node executed an instance of a graph, with what its batch touches.
    pub fn on_instance(
        &mut self,
        node: usize,
        group: GroupId,
        position: Position,
        decision: Decision,
        access: &Access,
    ) {
        let agreed = self.agreement.on_executed(node, group, position, decision);
        self.note("agreement", agreed);
        if let Some(batch) = decision.id {
            let once = self.agreement.on_batch(group, position, batch);
            self.note("agreement", once);
        }
        let once = self.executed.on_instance(node, group, position);
        self.note("executed", once);
        let ordered = self.order.on_executed(node, group, position, access);
        self.note("order", ordered);
        let seen = self.visibility.on_executed(node, group, position, access);
        self.note("visibility", seen);
    }

    /// Somebody says that an instance is committed.
    pub fn on_commitment(&mut self, group: GroupId, commitment: Commitment) {
        let agreed = self.visibility.on_commitment(group, commitment);
        self.note("visibility", agreed);
    }

    /// The state of a node in a graph is now that of a snapshot.
    pub fn on_restored(&mut self, node: usize, group: GroupId, covered: Frontier) {
        let whole = self.order.on_restored(node, group, &covered);
        self.note("order", whole);
        self.visibility.on_restored(node, group, &covered);
        self.executed.on_restored(node, group, covered);
    }

    /// A record of a node is on stable storage.
    pub fn on_stable(&mut self, node: usize, group: GroupId, entry: Entry) {
        let once = self.ledger.on_stable(node, group, entry);
        self.note("vote", once);
    }

    /// A node appended a record to its log.
    pub fn on_appended(&mut self, node: usize, group: GroupId, fact: Fact) {
        if let Some(voting) = fact.votes.filter(|voting| voting.attributes != 0) {
            self.visibility.on_voted(group, voting.position);
        }
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
        if !self.changed.contains(&node) {
            let digests = self.digests.on_status(node, status);
            self.note("digest", digests);
        }
        if self.changed.is_empty() {
            self.note("divergence", digest::check_standing(node, status));
        }
    }

    /// From now on nothing counts as a violation.
    pub fn suspend(&mut self) {
        self.suspended = true;
    }

    /// A script has changed the state of a node.
    pub fn on_changed(&mut self, node: usize) {
        self.changed.insert(node);
    }

    /// A group without a log executed so many instances at most in one strongly connected component.
    pub fn on_component(&mut self, node: usize, group: GroupId, size: u64, bound: usize) {
        let text = || format!("node {node} group {}: executed {size} instances as one component", group.0);
        self.note("component", if size <= bound as u64 { Ok(()) } else { Err(text()) });
    }

    /// A node lives again, with what its log gave back.
    pub fn on_boot(&mut self, node: usize, status: &GroupStatus, executed: &Frontier, replayed: &Page) {
        let kept = durability::check_boot(&self.ledger, node, status, executed, replayed);
        self.note("durability", kept);
    }

    /// A node has lost its disk: what it had claimed, it may have forgotten.
    pub fn on_wipe(&mut self, node: usize) {
        self.on_crash(node);
        self.ledger.forget(node);
        self.claims.forget(node);
        self.visibility.forget(node);
    }

    /// A node's process is gone.
    pub fn on_crash(&mut self, node: usize) {
        self.ballots.on_crash(node);
        self.executed.on_crash(node);
        self.order.on_crash(node);
    }
}
