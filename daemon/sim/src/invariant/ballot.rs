//! Promises never go back: not in a life, not over a restart, and no record of a lower ballot follows a higher one
//! [protocols §2.3, §3.3, D4; T-B2]. That a restart forgets no durable promise is in [`durability`](super::durability).

use std::collections::BTreeMap;

use panch_consensus::ballot::Ballot;
use panch_replica::status::GroupStatus;
use panch_wire::ids::GroupId;

use crate::inspect::{Fact, Scope};

/// The promises of the nodes in their present lives.
#[derive(Default)]
pub struct Ballots {
    promised: BTreeMap<(usize, GroupId), Ballot>,
    appended: BTreeMap<(usize, GroupId, Scope), Ballot>,
}

impl Ballots {
    /// The status of a group at the end of a turn.
    ///
    /// # Errors
    /// If the promise fell.
    pub fn on_status(&mut self, node: usize, status: &GroupStatus) -> Result<(), String> {
        let before = self.promised.entry((node, status.group)).or_default();
        let (old, new) = (*before, status.protocol.ballot);
        *before = new;
        if new >= old {
            return Ok(());
        }
        Err(format!("node {node} group {}: promised {old:?}, now {new:?}", status.group.0))
    }

    /// A record was appended to the log.
    ///
    /// # Errors
    /// If it is of a lower ballot than an earlier one.
    pub fn on_appended(&mut self, node: usize, group: GroupId, fact: Fact) -> Result<(), String> {
        let all = fact.promised.map(|ballot| (Scope::Group, ballot));
        let one = fact.joined.map(|(position, ballot)| (Scope::One(position), ballot));
        for (scope, ballot) in all.into_iter().chain(one) {
            let before = self.appended.entry((node, group, scope)).or_default();
            if ballot < *before {
                return Err(format!(
                    "node {node} group {}: wrote {fact:?} after a record of {before:?}",
                    group.0
                ));
            }
            *before = ballot;
        }
        Ok(())
    }

    /// The node's process is gone.
    pub fn on_crash(&mut self, node: usize) {
        self.promised.retain(|(of, _), _| *of != node);
        self.appended.retain(|(of, _, _), _| *of != node);
    }
}
