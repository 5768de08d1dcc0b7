//! What a replica that missed something does about it, and what others do for it: commits from memory, or a snapshot.
//!
//! Invariants:
//! * Only committed values are sent. What was executed and has left memory is never answered as unknown: the peer is sent a snapshot.
//! * What this replica says to be executed is executed after a restart too: the commits behind it are durable before the message leaves.

use panch_wire::ids::{Position, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use super::message::{Commit, Covered, Fetch, Message, Numbers, Progress};
use super::{Epaxos, Footprint};
use crate::fitness::Standing;
use crate::frontier::Frontier;
use crate::protocol::{Dest, Effects, Persist, Value};

/// Heartbeats for which is asked what became of an own instance that a snapshot covers.
const DOUBT_ATTEMPTS_MAX: u32 = 20;

/// Keys in the index of conflicts. With three replicas each takes about 100 bytes.
const KEY_COUNT_MAX: usize = 1 << 21;

/// A replica that has executed so many instances less than others is catching up.
const BEHIND_AFTER: u64 = 1024;

/// What is known of a member of the group, this replica included.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Member {
    /// Per row, what it has executed and will not forget.
    pub(super) executed: Numbers,
    known: Numbers,
    /// When it last said anything that it had written down before.
    pub(super) heard: Instant,
    pub(super) suspected: bool,
    /// How it answers when its vote is needed.
    pub(super) standing: Standing,
    /// A snapshot is on its way to it.
    pub(super) snapshotting: bool,
    /// It has said in this life of this replica what it has executed.
    pub(super) has_reported: bool,
    /// It was suspected since it said that last.
    pub(super) report_is_old: bool,
    /// What it lacks is kept for it no longer, see [`Epaxos::give_up_without`].
    pub(super) given_up: bool,
    /// Per row, up to where it was asked for what is committed.
    pub(super) asked: Numbers,
}

/// Others are told of so many executed instances without waiting for the next heartbeat: what all have executed leaves the
/// index of conflicts, which is then small enough to stay in the processor's caches.
const REPORT_EVERY: u64 = 32;

impl Member {
    fn suspect(&mut self) {
        (self.suspected, self.report_is_old) = (true, true);
    }

    /// It has lost its disk: nothing is executed there.
    pub(super) fn forget(&mut self) {
        (self.executed, self.known) = (Numbers::default(), Numbers::default());
    }
}

impl Epaxos {
    pub(super) fn is_suspected(&self, id: ReplicaId) -> bool {
        let member = &self.members[id.index()];
        id != self.group.me && member.suspected
    }

    /// Whether a peer executes so long after this replica that it is no help in a fast quorum: it has other things to do, or has lost its
    /// disk and may not vote yet.
    pub(super) fn is_behind(&self, id: ReplicaId) -> bool {
        let executed = &self.members[id.index()].executed;
        let lag = |row: u8| self.graph.executed().upto(row).saturating_sub(executed[usize::from(row)]);
        let lag: u64 = (0..self.group.replica_count as u8).map(lag).sum();
        lag > BEHIND_AFTER || (lag > 0 && *executed == Numbers::default())
    }

    /// A member said something. It lives if it had to write that down before: one whose disk hangs goes on talking.
    pub(super) fn on_heard(&mut self, from: ReplicaId, message: &Message) {
        if !message.is_claim() {
            return;
        }
        let now = self.now;
        let member = &mut self.members[from.index()];
        member.heard = now;
        member.suspected = false;
    }

    pub(super) fn on_suspect(&mut self, id: ReplicaId) {
        if id.index() < self.group.replica_count {
            self.members[id.index()].suspect();
        }
    }

    /// What is executed here, but for instances whose outcome is still asked for: others keep these until then.
    pub(super) fn frontier_numbers(&self) -> Numbers {
        let mut numbers: Numbers = std::array::from_fn(|row| self.graph.executed().upto(row as u8));
        if let Some(doubtful) = self.doubtful.keys().next() {
            let own = &mut numbers[self.group.me.index()];
            *own = (*own).min(doubtful - 1);
        }
        numbers
    }

    /// Whether anything is unsettled here, or anybody else might lack something.
    fn is_busy(&self) -> bool {
        let own = self.frontier_numbers();
        let level = |member: &Member| member.executed == own && member.known == self.announced;
        let all = &self.members[..self.group.replica_count];
        !self.coordinations.is_empty() || own != self.announced || !all.iter().all(level)
    }

    fn report_progress(&mut self, effects: &mut Effects<Self>) {
        let progress = Progress { executed: self.frontier_numbers(), known: self.announced };
        self.reported = self.executed_count();
        // Others forget what everybody has executed: a restart must not lose it. [T-E19]
        effects.send_after(effects.last_persist(), Dest::All, progress, None);
    }

    /// Tells the others if much was executed since they were told.
    pub(super) fn report_if_far(&mut self, effects: &mut Effects<Self>) {
        if self.executed_count().0 >= self.reported.0 + REPORT_EVERY {
            self.report_progress(effects);
        }
    }

    /// Once per heartbeat interval.
    pub(super) fn on_heartbeat_time(&mut self, effects: &mut Effects<Self>) {
        if self.is_busy() {
            self.report_progress(effects);
        }
        for index in 0..self.group.replica_count {
            let (me, silent) = (self.group.me.index(), self.now.since(self.members[index].heard));
            // Whoever has something to settle is answered within a heartbeat by those that live.
            if index != me && silent >= self.tuning.recover_after && self.is_busy() {
                self.members[index].suspect();
            }
        }
        self.give_up_far_behind();
        self.ask_about_doubtful(effects);
        self.scan(effects);
        self.conflicts.forget(&self.collected);
        self.conflicts.limit(KEY_COUNT_MAX);
    }

    pub(super) fn on_progress(&mut self, from: ReplicaId, message: Progress) {
        let member = &mut self.members[from.index()];
        member.executed = message.executed;
        member.known = message.known;
        (member.has_reported, member.report_is_old) = (true, false);
        self.resume_waiting(from);
        for row in 0..self.group.replica_count {
            // A replica that is far behind has to hear of it, but gets there step by step.
            let known = message.known[row].max(message.executed[row]).min(self.number_limit(row as u8));
            self.announced[row] = self.announced[row].max(known);
        }
        self.collect();
    }

    /// Asks a peer for what it has committed of a row.
    pub(super) fn fetch(&mut self, row: u8, from: u64, upto: u64, effects: &mut Effects<Self>) {
        if let Some(peer) = self.peer_with(Position { row, number: from }) {
            self.fetch_from(peer, row, from, upto, effects);
        }
    }

    /// Those that say to have executed the instance take turns, or else all do.
    fn peer_with(&mut self, position: Position) -> Option<ReplicaId> {
        let count = self.group.replica_count;
        self.fetch_turn = self.fetch_turn.wrapping_add(1);
        let turn = self.fetch_turn;
        let rank = |id: &ReplicaId| {
            (self.has_executed(*id, position), !self.is_suspected(*id), (id.index() + turn) % count)
        };
        self.peers().max_by_key(rank)
    }

    /// Whether the member says so.
    fn has_executed(&self, id: ReplicaId, position: Position) -> bool {
        self.members[id.index()].executed[usize::from(position.row)] >= position.number
    }

    pub(super) fn fetch_from(
        &mut self,
        peer: ReplicaId,
        row: u8,
        from: u64,
        upto: u64,
        effects: &mut Effects<Self>,
    ) {
        let mut upto = upto.min(from + self.tuning.catchup_count(self.tail_size, self.tail.len()) - 1);
        // What finds no memory would be sent in vain.
        upto = upto.min((from + self.fetch_room()).max(self.soon(row)));
        self.fetching[usize::from(row)] = Some(upto);
        self.note_asked(peer, row, upto);
        effects.send(Dest::One(peer), Fetch { row, from, upto, memory_only: false }, None);
    }

    /// Something of the row is committed. When all of it that was fetched is, in whatever order and from whom: more, if a peer has more.
    pub(super) fn continue_fetch(&mut self, row: u8, effects: &mut Effects<Self>) {
        let fetching = &mut self.fetching[usize::from(row)];
        let from = self.committed.upto(row) + 1;
        if fetching.take_if(|upto| *upto < from).is_none() {
            return;
        }
        let Some(peer) = self.peer_with(Position { row, number: from }) else { return };
        let upto = self.members[peer.index()].executed[usize::from(row)];
        if from <= upto {
            self.fetch_from(peer, row, from, upto, effects);
        }
    }

    pub(super) fn on_fetch(&mut self, from: ReplicaId, message: Fetch, effects: &mut Effects<Self>) {
        let window = self.tuning.catchup_window.max(1) as u64;
        let upto = message.upto.min(message.from + window - 1);
        // Whoever asks has heard of it. One that has lost its disk may be the only one that still knows, and cannot finish it.
        self.announce(Position { row: message.row, number: upto });
        for number in message.from..=upto {
            let position = Position { row: message.row, number };
            if self.has_left_memory(position) && !message.memory_only {
                // What lies behind it may be in memory.
                self.send_covered(from, position, effects);
                continue;
            }
            if self.load_for(from, position, effects) {
                continue;
            }
            if let Some((Message::Commit(commit), body, unannounced)) = self.commit_message(position)
                && !unannounced
            {
                effects.send_after(Persist::default(), Dest::One(from), Commit { ..commit }, body.as_ref());
            } else if from != self.group.me
                && let Some(instance) = self.instances.get_mut(&position)
            {
                // Whoever asks may not hear of it from others.
                instance.wanted.insert(from);
            }
        }
    }

    /// Only a snapshot can give the peer the instance, unless the peer has executed it by now: that may be why it has left memory.
    pub(super) fn send_covered(&mut self, to: ReplicaId, position: Position, effects: &mut Effects<Self>) {
        if self.has_executed(to, position) {
            return;
        }
        effects.send(Dest::One(to), Covered { position }, None);
        if to != self.group.me && !std::mem::replace(&mut self.members[to.index()].snapshotting, true) {
            // The peer goes on executing what it can until it hears that it is to wait, and keeps about as much of that in memory as is kept
            // here: a snapshot that lacks more could be of no use when it has arrived. Both are bounded by bytes, and count what lies behind
            // a gap, so this is a guess; if it was wrong the peer says so.
            let kept = self.tail.len() as u64;
            effects.send_snapshot(
                to,
                Slot(self.executed_count().0.saturating_sub(kept)).max(self.left_memory_at),
            );
        }
    }

    pub(super) fn on_snapshot_sent(&mut self, to: ReplicaId, has_it: bool) {
        if to.index() < self.group.replica_count {
            let member = &mut self.members[to.index()];
            member.snapshotting = false;
            if has_it {
                // It has written it down, and gets what follows now.
                member.heard = self.now;
                member.given_up = false;
            }
        }
    }

    /// Everything that was executed beyond the snapshot must still be here, to be executed again. And the log must still have the votes for
    /// it: what an own snapshot covers is in no log any more, and would be forgotten with that snapshot.
    pub(super) fn could_install(&self, covered: &Frontier) -> bool {
        if !covered.covers(&self.covered) {
            return false;
        }
        let executed = self.graph.executed();
        let in_memory = |position: Position| {
            let instance = self.instances.get(&position);
            instance.is_some_and(|it| it.is_committed() && (it.noop || it.frame.is_some()))
        };
        (0..REPLICAS_MAX as u8).all(|row| {
            let mut prefix = covered.upto(row) + 1..=executed.upto(row);
            prefix.all(|number| {
                covered.contains(Position { row, number }) || in_memory(Position { row, number })
            }) && executed.beyond(row).all(|number| {
                covered.contains(Position { row, number }) || in_memory(Position { row, number })
            })
        })
    }

    /// A snapshot replaced the state: exactly `covered` is executed. What was executed beyond it is executed again, in the
    /// order in which it was: what nobody depends on any more has no other.
    pub(super) fn on_installed(&mut self, covered: &Frontier, stamp: u64, effects: &mut Effects<Self>) {
        self.installing = false;
        self.pause = None;
        self.covered = covered.clone();
        self.left_memory_at = self.left_memory_at.max(covered.count());
        self.doubt_covered(covered);
        self.take_in(covered, stamp);
        let mut executed = covered.clone();
        let beyond = self.tail.iter().copied().filter(|position| !covered.contains(*position));
        for position in beyond.filter(|position| self.graph.executed().contains(*position)) {
            let Some(instance) = self.instances.get(&position) else { continue };
            let stamp = if instance.noop { 0 } else { instance.stamp };
            if executed.insert(position) {
                effects.execute(position, stamp, Value::from(instance.body().cloned()));
            }
        }
        // No-ops may have left the tail; their order does not matter.
        for (position, instance) in &self.instances {
            if instance.executed && instance.noop && executed.insert(*position) {
                effects.execute(*position, 0, Value::Noop);
            }
        }
        self.graph.install(&executed);
        // What is covered and was not known to be committed: its value is in the snapshot only. Validations need to hear of it all the same.
        let is_large = !self.has_fixed_pair();
        self.instances.retain(|position, instance| {
            let is_undecided = covered.contains(*position) && !instance.is_committed();
            if is_undecided {
                instance.executed = true;
                let touched = instance.frame.take().map(|frame| Box::new(Footprint::of(&frame)));
                instance.touched = touched.filter(|_| holds(Rule::EpaxosVoterRemembers));
            }
            let is_beyond = is_large && position.number > covered.upto(position.row);
            !is_undecided || is_beyond && instance.touched.is_some()
        });
        self.coordinations.retain(|position, _| !covered.contains(*position));
        for (position, instance) in &mut self.instances {
            if covered.contains(*position) && !instance.executed {
                instance.executed = true;
                if let Some(frame) = instance.body() {
                    let id = frame.id();
                    if id.proposer == self.group.me && id.incarnation == self.incarnation {
                        effects.settle(id);
                    }
                }
                self.tail.push_back(*position);
                self.tail_size += instance.size();
            }
        }
        self.measure_held();
    }

    /// A snapshot covers own instances that were not known to be decided. Whether their batches were executed or must be proposed again is only
    /// known to those that decided it.
    fn doubt_covered(&mut self, covered: &Frontier) {
        let row = self.group.me.0;
        let lost =
            self.in_flight.extract_if(.., |number, _| covered.contains(Position { row, number: *number }));
        for (number, _) in lost {
            let instance = self.instances.get(&Position { row, number });
            if let Some(frame) = instance.and_then(|instance| instance.frame.clone()) {
                self.doubtful.insert(number, (frame, 0));
            }
        }
    }

    fn ask_about_doubtful(&mut self, effects: &mut Effects<Self>) {
        let row = self.group.me.0;
        self.doubtful.retain(|number, (frame, attempts)| {
            *attempts += 1;
            if *attempts > DOUBT_ATTEMPTS_MAX {
                // Nobody remembers. It may have been executed: it is never proposed again.
                let id = frame.id();
                self.batches.remove(&id.counter);
                self.finished.insert(Position { row: 0, number: id.counter });
                effects.settle(id);
                return false;
            }
            let fetch = Fetch { row, from: *number, upto: *number, memory_only: true };
            effects.send(Dest::Others, fetch, None);
            true
        });
    }

    /// Somebody remembers what became of an own instance.
    pub(super) fn resolve_doubt(&mut self, position: Position, noop: bool, effects: &mut Effects<Self>) {
        if !self.is_mine(position) {
            return;
        }
        let Some((frame, _)) = self.doubtful.remove(&position.number) else { return };
        let id = frame.id();
        if noop {
            self.counters.resubmitted += 1;
            self.queue.push_back(frame);
        } else {
            self.batches.remove(&id.counter);
            self.finished.insert(Position { row: 0, number: id.counter });
            effects.settle(id);
        }
    }

    /// Everything in `covered` is decided and executed, with stamps up to `stamp`, but what it holds is not known here.
    pub(super) fn take_in(&mut self, covered: &Frontier, stamp: u64) {
        self.conflicts.raise_stamp(stamp);
        for row in 0..self.group.replica_count as u8 {
            self.committed.extend_to(row, covered.upto(row));
            for number in covered.beyond(row) {
                self.committed.insert(Position { row, number });
            }
            let highest = covered.highest(row);
            self.announced[usize::from(row)] = self.announced[usize::from(row)].max(highest);
            self.voted[usize::from(row)] = self.voted[usize::from(row)].max(highest);
            self.decided[usize::from(row)] = self.decided[usize::from(row)].max(highest);
            if holds(Rule::EpaxosIndexRebuilt) {
                // The batches are not known: everything later depends on all of them.
                self.conflicts.set_floor(row, highest);
            }
        }
    }

    pub(super) fn executed_count(&self) -> Slot {
        self.graph.executed().count()
    }
}
