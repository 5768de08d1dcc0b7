//! Which slot a batch goes to, and which holes this replica fills. Hints only: see the module of the protocol.
//!
//! * A batch goes to the lowest slot that nobody is known to use and that this replica prefers: its number is the
//!   replica's own modulo the group's size, or that of a replica that was not seen proposing for a while, in turns with
//!   the others that were. So a proposer that is alone takes every slot.
//! * Execution is in slot order, so a slot below one that is in use must be filled. Who prefers it does so at once if it
//!   has nothing to propose, soon if it has; everybody after a longer time, at random and one after the other.
//!
//! Invariants:
//! * A batch is in at most one run, and at most `pipeline_depth` batches are in runs.
//! * The batches of open slots take little more than a given number of bytes, so that memory remains to receive what the
//!   first open slot lacks: only that slot always has room.
//! * Holes are filled up to the highest slot in use only: replicas that fill holes make no new ones.

use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::time::Duration;

use super::Basic;
use crate::protocol::{Effects, Value};

/// Batches that wait for a slot, in pipelines; what comes beyond is dropped, and proposed again by the replica.
const QUEUE_DEPTHS: usize = 4;
/// Phases after which a replica fills a slot that is its own by number although it does not propose.
const IDLE_PHASES: u32 = 4;

impl Basic {
    pub(super) fn on_propose(&mut self, frame: Frame) {
        let id = frame.id();
        let in_run = |slot: u64| {
            let run = self.open.get(Slot(slot)).and_then(|open| open.run.as_ref());
            run.and_then(|run| run.batch.as_ref()).is_some_and(|batch| batch.id() == id)
        };
        let is_known = self.queue.iter().any(|queued| queued.id() == id)
            || self.decided.iter().any(|(_, decided)| *decided == id)
            || self.placed_count > 0 && (self.commit().0 + 1..=self.open.last().0).any(in_run);
        if !is_known && self.queue.len() < QUEUE_DEPTHS * self.tuning.pipeline_depth.max(1) {
            self.queue.push_back(frame);
        }
    }

    pub(super) fn on_suspect(&mut self, peer: ReplicaId) {
        if peer != self.me()
            && let Some(proposing) = self.proposing.get_mut(peer.index())
        {
            *proposing = None;
            self.learning.on_suspect(peer);
        }
    }

    /// Whether the replica was seen proposing lately.
    fn is_proposing(&self, id: ReplicaId) -> bool {
        let lately = 2 * self.tuning.heartbeat_interval;
        self.proposing[id.index()].is_some_and(|seen| self.now.since(seen) < lately)
    }

    /// Who is expected to use `slot`, as far as this replica can tell.
    pub(super) fn preferred(&self, slot: Slot) -> ReplicaId {
        let count = self.group.replica_count as u64;
        let by_number = ReplicaId((slot.0 % count) as u8);
        let at_work = |id: &ReplicaId| self.is_proposing(*id);
        let ids = || (0..count as u8).map(ReplicaId).filter(at_work);
        let active_count = ids().count() as u64;
        if active_count == 0 || self.is_proposing(by_number) {
            return by_number;
        }
        ids().nth((slot.0 / count % active_count) as usize).unwrap_or(by_number)
    }

    /// The lowest slot for a new batch.
    fn choose_slot(&mut self) -> Option<Slot> {
        let me = self.me();
        self.proposing[me.index()] = Some(self.now);
        // What is chosen elsewhere is learned before anything is proposed beyond it.
        let first = self.commit().max(self.known_to_others()).0 + 1;
        // Far behind the end of the span: peers that know less of what is chosen must have room for it too.
        let end = self.commit().0 + self.open.span() / 2;
        (first..=end).map(Slot).find(|slot| {
            let unused = self.open.get(*slot).is_none_or(|open| {
                !open.chosen && open.run.is_none() && open.told.is_none() && open.promised.round == 0
            });
            unused && self.window.get(*slot).is_none() && self.preferred(*slot) == me
        })
    }

    /// The most bytes of batches that open slots hold, the first one aside: twice what a proposer leaves open itself.
    fn held_size_max(&self) -> usize {
        2 * self.tuning.unchosen_size_max
    }

    /// Whether `value` may be kept in `slot`. The first open slot always has room: it is the one that gives memory back.
    pub(super) fn has_room(&self, slot: Slot, value: &Value) -> bool {
        let Some(frame) = value.body().filter(|_| slot > self.commit().next()) else { return true };
        let replaced = self.window.get(slot).and_then(|entry| entry.value.body()).map_or(0, Frame::footprint);
        self.window.unchosen_size() - replaced + frame.footprint() <= self.held_size_max()
    }

    /// Whether a run may take over a batch that was reported accepted in `slot`.
    pub(super) fn has_room_to_adopt(&self, slot: Slot, frame: &Frame) -> bool {
        let held = self.window.unchosen_size() + self.open.adopted_size();
        slot <= self.commit().next() || held + frame.footprint() <= self.held_size_max()
    }

    /// Batches that wait get slots while the pipeline has room.
    pub(super) fn place_batches(&mut self) {
        while let Some(batch) = self.queue.front() {
            // Memory for what is not chosen must not take what is needed to choose it.
            let too_large = self.placed_count > 0
                && self.window.unchosen_size() + batch.footprint() > self.tuning.unchosen_size_max;
            if self.placed_count >= self.tuning.pipeline_depth.max(1) || too_large {
                return;
            }
            let Some(slot) = self.choose_slot() else { return };
            let batch = self.queue.pop_front();
            self.start_run(slot, batch);
        }
    }

    /// `slot` is in use, so every slot below it will be needed.
    pub(super) fn note_used(&mut self, slot: Slot) {
        let slot = slot.min(Slot(self.commit().0 + self.open.span()));
        while self.used < slot {
            let next = self.used.next();
            self.used = next;
            if next <= self.commit() {
                continue;
            }
            let wait = self.fill_wait(next, slot);
            self.fill_after(next, wait);
        }
    }

    fn fill_after(&mut self, slot: Slot, wait: Duration) {
        let at = self.now + wait;
        let Some(open) = self.open.reach(slot) else { return };
        open.fill_at = Some(at);
        self.wake(at);
    }

    /// Somebody works on `slot`: it gets the time to finish.
    pub(super) fn touch(&mut self, slot: Slot) {
        let wait = self.hole_wait(slot);
        self.fill_after(slot, wait);
    }

    /// How long a hole may stay: replicas come one after the other, so that they do not meet.
    fn hole_wait(&mut self, slot: Slot) -> Duration {
        let count = self.group.replica_count as u64;
        let slow = self.slow();
        let rank = (slot.0 + u64::from(self.me().0)) % count;
        2 * slow + slow * rank as u32 / count as u32 + self.random_wait(slow / 2)
    }

    /// How long to leave `slot`, just overtaken by the use of `used`, to others.
    fn fill_wait(&mut self, slot: Slot, used: Slot) -> Duration {
        let me = self.me();
        if slot == used {
            self.hole_wait(slot)
        } else if self.preferred(slot) == me && self.is_proposing(me) {
            // Nobody else will take it: with a batch on its way back another may follow at once and fill it.
            if self.placed_count > 0 || !self.queue.is_empty() { self.pace } else { Duration::ZERO }
        } else if slot.0 % self.group.replica_count as u64 == u64::from(me.0) {
            IDLE_PHASES * self.pace
        } else {
            self.hole_wait(slot)
        }
    }

    /// Looks at every open slot: runs that wait too long, holes that nobody fills.
    pub(super) fn on_slots_time(&mut self, effects: &mut Effects<Self>) {
        for slot in (self.commit().0 + 1..=self.open.last().0).map(Slot) {
            let Some(open) = self.open.get(slot).filter(|open| !open.chosen) else { continue };
            match (&open.run, open.fill_at) {
                (Some(run), _) if run.deadline <= self.now => self.on_run_time(slot, effects),
                (None, Some(at)) if at <= self.now => self.on_fill_time(slot),
                _ => {}
            }
            let next = self.open.get(slot).and_then(|open| match &open.run {
                Some(run) => Some(run.deadline),
                None => open.fill_at,
            });
            if let Some(at) = next {
                self.wake(at);
            }
        }
    }

    /// Nobody filled the slot in time.
    fn on_fill_time(&mut self, slot: Slot) {
        let is_known = self.open.get(slot).is_some_and(|open| open.told.is_some());
        if is_known || slot <= self.known_to_others() {
            // Chosen: to be learned, not to be filled.
            self.touch(slot);
            return;
        }
        self.start_run(slot, None);
    }
}
