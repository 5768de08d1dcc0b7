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
//! * A replica that is gone for long holds back the index, and nothing else. So does one that is heard and lacks so much that the log has
//!   reached its bound.
//! * A replica that is gone, or is given up and silent, may be one that only this one does not hear. What it lacks leaves only while this
//!   replica belongs to a live quorum, and only what the rest of that has had long enough to pass on to it. Without the one, two replicas that
//!   are left over would each forget what the other lacks while they cannot reach each other; without the other, before the one between them
//!   dies.
//! * With four replicas and more, what is executed although an earlier instance of its row is not stays, at least as what it touches: validations
//!   ask for it. Of the rest they need no more than how far it goes.

use panch_wire::ids::{Position, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::Epaxos;
use super::catchup::Member;
use super::footprint::Footprint;
use super::message::Numbers;
use crate::frontier::Frontier;

/// A replica that was silent for so many times the patience of recoveries is not waited for: it will need a snapshot.
/// While one is on its way to it, it is waited for again: what the others execute meanwhile is what it needs next.
pub(super) const GONE_AFTER: u32 = 15;

/// What everybody that was heard lately had executed at some moment, per row, and for how long others were heard since.
#[derive(Clone, Debug)]
pub(super) struct PassingOn {
    executed: Numbers,
    age: Duration,
    /// When that was looked at last, and how much was executed here then.
    at: Instant,
    count: Slot,
}

impl Epaxos {
    /// Drops what every member says to have executed.
    pub(super) fn collect(&mut self) {
        // After a pause, what is ready is executed at the end of this step only.
        if self.is_paused() || self.graph.has_ready() {
            return;
        }
        let count = self.group.replica_count;
        let gone_after = GONE_AFTER * self.tuning.recover_always_after;
        let now = self.now;
        let is_heard = |member: &Member| {
            let is_helped = member.snapshotting && holds(Rule::LogKeptForTransfers);
            is_helped || now.since(member.heard) < gone_after
        };
        // Who was given up and then silent is like one that is gone, until it reports again: it may have given this one up, too.
        let is_awaited =
            |member: &Member| !member.given_up || member.report_is_old && holds(Rule::EpaxosPassedOn);
        let by_awaited = self.executed_by(is_awaited);
        let by_heard = self.executed_by(|member| !member.given_up && is_heard(member));
        let passed_on = if holds(Rule::EpaxosPassedOn) { self.passed_on(&by_heard) } else { by_heard };
        for row in 0..count as u8 {
            let at = usize::from(row);
            let executed_here = self.graph.executed().upto(row);
            let executed = self.members[..count].iter().map(|member| member.executed[at]);
            let by_all = if holds(Rule::EpaxosCollectAfterAll) { executed.min() } else { executed.max() };
            let by_all = by_all.unwrap_or(0).min(executed_here);
            self.collected.raise(row, by_all);
            let upto = by_awaited[at].max(by_all).max(by_heard[at].min(passed_on[at]));
            let from = self.released.row(row) + 1;
            if upto < from {
                continue;
            }
            self.released.raise(row, upto);
            let range = Position { row, number: from }..=Position { row, number: upto };
            while let Some((position, _)) = self.instances.range(range.clone()).next() {
                let position = *position;
                self.drop_frame(position);
                self.instances.remove(&position);
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
    }

    /// Per row, what this replica has executed, and so have all of these members.
    fn executed_by(&self, counts: impl Fn(&Member) -> bool) -> Numbers {
        let members = self.members[..self.group.replica_count].iter().filter(|member| counts(member));
        members.fold(self.executed_numbers(), |least, member| {
            std::array::from_fn(|row| least[row].min(member.executed[row]))
        })
    }

    /// Of what everybody executed that was heard lately, what had been executed a while ago already: one of them that does hear a member
    /// which is gone has passed it on since. Only the time counts in which those that this replica hears decide something, with it or with
    /// others, or could: who is not heard may not have passed on anything, either.
    fn passed_on(&mut self, by_heard: &Numbers) -> Numbers {
        let others = self.peers().filter(|peer| !self.is_suspected(*peer)).count();
        let hears_enough = others + 1 >= self.quorum();
        let (now, executed, count) = (self.now, *by_heard, self.executed_count());
        let fresh = PassingOn { executed, age: Duration::ZERO, at: now, count };
        let Some(passing_on) = &mut self.passing_on else {
            self.passing_on = Some(fresh);
            return Numbers::default();
        };
        let hears_enough = hears_enough || count > passing_on.count;
        // Longer than it takes to notice that one of them is dead: it passes on nothing from then on.
        let patience = self.tuning.recover_always_after;
        if hears_enough {
            // A replica that stood still did not hear anybody meanwhile.
            passing_on.age += now.since(passing_on.at).min(2 * self.tuning.heartbeat_interval);
        }
        (passing_on.at, passing_on.count) = (now, count);
        if !hears_enough || passing_on.age < patience {
            return Numbers::default();
        }
        std::mem::replace(passing_on, fresh).executed
    }

    /// Members that have not executed `position`, which is executed here, are not waited for any longer: what it takes to help them without a
    /// snapshot is more than the log may hold. Returns how many.
    ///
    /// They are waited for again when they have executed what was kept, or nearly all there is, or have a snapshot. If two members gave each other up, each could come
    /// to need a snapshot that the other must not take. So only those are given up that have executed nothing that this replica has not,
    /// and less on the whole: of two members that hear each other, one at most has reason to. Of two that do not, each may: what such a one
    /// lacks leaves only when it can be passed on, see [`Self::collect`].
    pub(super) fn give_up_without(&mut self, position: Position) -> u64 {
        if !holds(Rule::EpaxosSlowGivenUp) || !self.graph.executed().contains(position) {
            return 0;
        }
        let own = self.executed_numbers();
        self.give_up_if(|member, _| {
            let has_nothing_more = member.executed.iter().zip(&own).all(|(theirs, own)| theirs <= own);
            has_nothing_more && member.executed[usize::from(position.row)] < position.number
        })
    }

    /// The same for those that are so far behind that what is known of the instances takes too much memory, whatever they have executed.
    pub(super) fn give_up_far_behind(&mut self) {
        let most = self.tuning.kept_count_max;
        let _ = self.give_up_if(|_, lag| lag > most);
    }

    fn executed_numbers(&self) -> Numbers {
        std::array::from_fn(|row| self.graph.executed().upto(row as u8))
    }

    fn give_up_if(&mut self, lacks: impl Fn(&Member, u64) -> bool) -> u64 {
        let (count, me) = (self.group.replica_count, self.group.me.index());
        let total = |numbers: &Numbers| numbers[..count].iter().sum::<u64>();
        let own = total(&self.executed_numbers());
        let mut given_up = 0;
        for (index, member) in self.members[..count].iter_mut().enumerate() {
            let lag = own.saturating_sub(total(&member.executed));
            // What a member has not told yet is no lag.
            let is_known = member.has_reported || member.snapshotting;
            if index != me && is_known && !member.given_up && lag > 0 && lacks(member, lag) {
                member.given_up = true;
                given_up += 1;
            }
        }
        if given_up > 0 {
            self.collect();
        }
        given_up
    }

    /// A member said what it has executed: it may be one to wait for again.
    pub(super) fn resume_waiting(&mut self, id: ReplicaId) {
        let mut rows = 0..self.group.replica_count as u8;
        let executed = &self.members[id.index()].executed;
        let has_kept = rows.all(|row| executed[usize::from(row)] >= self.released.row(row));
        if has_kept || !self.is_behind(id) {
            self.members[id.index()].given_up = false;
        }
    }

    /// Drops the batches executed first while the tail is too long. Those that the log does not hold stay, and for a while, so do those behind
    /// something that is missing here: a snapshot that brings it would have them executed again.
    pub(super) fn trim_tail(&mut self) {
        let size_max = self.tuning.tail_size_max;
        while self.tail_size > size_max
            && let Some(position) = self.tail.front().copied()
        {
            let is_behind_gap = position.number > self.committed.upto(position.row);
            if is_behind_gap && self.tail_size <= size_max + size_max / 2 {
                break;
            }
            self.tail.pop_front();
            if self.instances.get(&position).is_some_and(|instance| instance.logged) {
                self.drop_frame(position);
            }
        }
    }

    fn drop_frame(&mut self, position: Position) {
        let is_beyond = self.is_beyond(position);
        let Some(instance) = self.instances.get_mut(&position) else { return };
        assert!(instance.executed, "only what is executed leaves memory: {position:?} {instance:?}");
        self.tail_size -= instance.size();
        if !instance.noop
            && let Some(frame) = instance.frame.take()
            && is_beyond
        {
            instance.touched = Some(Box::new(Footprint::of(&frame)));
        }
    }

    /// Whether what an executed instance touches is needed although its batch is not: four replicas and more, and an earlier one of its row is
    /// not executed.
    pub(super) fn is_beyond(&self, position: Position) -> bool {
        !self.has_fixed_pair() && position.number > self.graph.executed().upto(position.row)
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
