//! What a restart makes of the log.
//!
//! Invariants:
//! * Every record with a batch brings it into the index of conflicts. [T-E16]
//! * Nothing this replica was doing as a command leader or in a recovery is resumed. [D6]
//! * Numbers that may have been used are not used again; everything proposed from now on depends on all of them, at whatever replica: this
//!   one may have forgotten batches that others know. [T-E13, T-E23]

use panch_wire::frame::Frame;
use panch_wire::ids::Position;
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use super::Epaxos;
use super::footprint::Footprint;
use super::message::Phase;
use super::record::Record;
use crate::protocol::Effects;

impl Epaxos {
    pub(super) fn on_record(&mut self, record: Record, body: Option<Frame>, effects: &mut Effects<Self>) {
        let count = self.group.replica_count;
        if !record.is_plausible(count) {
            return;
        }
        if let Record::Reserve(record) = record {
            self.reserved = self.reserved.max(record.upto);
            return;
        }
        let Some(position) = record.place().map(|place| place.position) else { return };
        if self.graph.executed().contains(position)
            && self.instances.get(&position).is_none_or(|it| it.frame.is_none())
        {
            self.remember_executed(position, record, body.as_ref());
            return;
        }
        if self.committed.contains(position) {
            return;
        }
        self.announce(position);
        let had_body = body.is_some();
        if let Some(frame) = body {
            self.learn(position, record.stamp(), &frame);
            self.instance(position).logged = true;
        }
        let known = self.instance(position).frame.is_some();
        match record {
            Record::PreAccept(record) if known => {
                self.note_vote(position);
                self.announce_deps(&record.deps);
                let instance = self.instance(position);
                instance.phase = instance.phase.max(Phase::PreAccepted);
                instance.deps = record.deps;
                instance.initial_deps = record.initial_deps;
                instance.proposal_known = true;
                instance.buddy = record.buddy;
            }
            Record::Accept(record) if known || record.noop => {
                self.note_vote(position);
                self.note_decided(position);
                self.announce_deps(&record.deps);
                if record.noop && !known {
                    self.conflicts.insert_unknown(position);
                }
                let instance = self.instance(position);
                instance.ballot = instance.ballot.max(record.ballot);
                instance.accepted = record.ballot;
                instance.phase = Phase::Accepted;
                instance.noop = record.noop;
                instance.deps = record.deps;
            }
            Record::Promise(record) => {
                let instance = self.instance(position);
                instance.ballot = instance.ballot.max(record.ballot);
            }
            Record::Validate(record) if known => {
                let instance = self.instance(position);
                instance.ballot = instance.ballot.max(record.ballot);
                instance.initial_deps = record.initial_deps;
                instance.proposal_known = true;
            }
            Record::Commit(record) if known || record.noop => {
                self.settle(position, record.stamp, record.deps, record.noop);
                self.release(position, effects);
                self.drain(effects);
            }
            _ => debug_assert!(!had_body, "a record with a batch makes it known"),
        }
    }

    /// A record about an instance that the snapshot covers: others may ask for its value, which is in the log.
    fn remember_executed(&mut self, position: Position, record: Record, body: Option<&Frame>) {
        let is_beyond = self.is_beyond(position);
        let instance = self.instance(position);
        instance.executed = true;
        if let Some(frame) = body {
            instance.logged = true;
            instance.stamp = record.stamp();
            instance.touched = is_beyond.then(|| Box::new(Footprint::of(frame)));
        }
        if let Record::Commit(commit) = record {
            instance.phase = Phase::Committed;
            instance.noop = commit.noop;
            instance.deps = commit.deps;
        }
    }

    /// The log is replayed.
    pub(super) fn begin(&mut self, now: Instant, effects: &mut Effects<Self>) {
        self.now = now;
        self.replaying = false;
        for member in &mut self.members {
            member.heard = now;
        }
        // What the log does not hold to the end can only be had with a snapshot.
        let executed = self.graph.executed().clone();
        self.instances.retain(|position, instance| {
            let is_beyond = instance.touched.is_some() && position.number > executed.upto(position.row);
            let is_whole = instance.is_committed() && (instance.noop || instance.logged);
            !instance.executed || is_whole || is_beyond && holds(Rule::EpaxosVoterRemembers)
        });
        for instance in self.instances.values_mut() {
            instance.since = now;
        }
        self.measure_held();
        let me = self.group.me.0;
        if holds(Rule::EpaxosNumberNeverReused) {
            // A log that begins with the state of another cluster says nothing of the numbers that are executed in it.
            self.own_floor = self.reserved.max(self.graph.executed().highest(me));
        } else {
            let last = Position { row: me, number: u64::MAX };
            let used = self.instances.range(..=last).next_back().filter(|(position, _)| position.row == me);
            self.own_floor =
                used.map_or(0, |(position, _)| position.number).max(self.graph.executed().highest(me));
        }
        self.next = self.own_floor + 1;
        self.reserved_durable = self.own_floor;
        let known = &mut self.announced[usize::from(me)];
        *known = (*known).max(self.own_floor);
        if holds(Rule::EpaxosOwnRowFloor) {
            self.conflicts.set_floor(me, self.own_floor);
        }
        self.reserve(effects);
        self.trim_tail();
        self.heartbeat_at = Some(now);
    }
}
