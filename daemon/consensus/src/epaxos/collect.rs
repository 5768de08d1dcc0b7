//! What leaves memory, and what may leave the log.
//!
//! Batches that are executed leave memory when they grow too many, and are read back from the log for a peer that asks. What
//! is known of the instances themselves stays, in memory and in the log, until every replica that was heard lately has
//! executed them: if two replicas lacked what the other had left to its snapshot, neither could take that snapshot.
//!
//! Invariants:
//! * An instance that is not executed here stays.
//! * What this replica knows of an executed instance leaves the index of conflicts only once every replica has executed it durably: an
//!   instance without that dependency could be executed first by a replica that has not. [T-E19]
//! * A replica that is gone for long holds back the index, and nothing else. What leaves memory meanwhile leaves its keys behind, for
//!   validations.

use panch_wire::ids::{Position, REPLICAS_MAX};
use panch_wire::rule::{Rule, holds};

use super::Epaxos;
use super::footprint::Footprint;
use crate::frontier::Frontier;

/// A replica that was silent for so many times the patience of recoveries is not waited for: it will need a snapshot.
const GONE_AFTER: u32 = 15;

impl Epaxos {
    /// Drops what every member says to have executed.
    pub(super) fn collect(&mut self) {
        // After a pause, what is ready is executed at the end of this step only.
        if self.is_paused() || self.graph.has_ready() {
            return;
        }
        let count = self.group.replica_count;
        let gone_after = GONE_AFTER * self.tuning.recover_always_after;
        for row in 0..count as u8 {
            let executed_here = self.graph.executed().upto(row);
            let mut by_all = u64::MAX;
            let mut by_any = 0;
            let mut by_heard = u64::MAX;
            for member in &self.members[..count] {
                let executed = member.executed[usize::from(row)];
                (by_all, by_any) = (by_all.min(executed), by_any.max(executed));
                if self.now.since(member.heard) < gone_after {
                    by_heard = by_heard.min(executed);
                }
            }
            let by_all = if holds(Rule::EpaxosCollectAfterAll) { by_all } else { by_any };
            let by_heard = by_heard.max(by_all).min(executed_here);
            self.collected.raise(row, by_all.min(executed_here));
            let from = self.released.row(row) + 1;
            if by_heard < from {
                continue;
            }
            self.released.raise(row, by_heard);
            let range = Position { row, number: from }..=Position { row, number: by_heard };
            while let Some((position, _)) = self.instances.range(range.clone()).next() {
                let position = *position;
                self.drop_frame(position);
                if let Some(instance) = self.instances.remove(&position)
                    && let Some(touched) = instance.touched
                    && !self.collected.contains(position)
                {
                    self.dropped.insert(position, 0, &touched);
                }
                self.left_memory_at = self.executed_count();
            }
        }
        while self.tail.front().is_some_and(|position| !self.instances.contains_key(position)) {
            self.tail.pop_front();
        }
        if self.tail.len() > 2 * self.instances.len() + 64 {
            self.tail.retain(|position| self.instances.contains_key(position));
        }
        self.conflicts.forget(&self.collected);
        self.dropped.forget(&self.collected);
    }

    /// Drops the batches executed first while the tail is too long. Those that the log does not hold stay.
    pub(super) fn trim_tail(&mut self) {
        while self.tail_size > self.tuning.tail_size_max
            && let Some(position) = self.tail.pop_front()
        {
            if self.instances.get(&position).is_some_and(|instance| instance.logged) {
                self.drop_frame(position);
            }
        }
    }

    fn drop_frame(&mut self, position: Position) {
        let is_large = !self.has_fixed_pair();
        let Some(instance) = self.instances.get_mut(&position) else { return };
        assert!(instance.executed, "only what is executed leaves memory: {position:?} {instance:?}");
        self.tail_size -= instance.size();
        if !instance.noop
            && let Some(frame) = instance.frame.take()
            && is_large
        {
            instance.touched = Some(Box::new(Footprint::of(&frame)));
        }
    }

    /// Of `covered`, what nobody is expected to ask for.
    pub(super) fn released_of(&self, covered: &Frontier) -> Frontier {
        let mut released = Frontier::default();
        for row in 0..REPLICAS_MAX as u8 {
            released.extend_to(row, self.released.row(row).min(covered.upto(row)));
        }
        released
    }
}
