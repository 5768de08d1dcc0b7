//! What must not happen under load: memory that runs out, changes of the mode because a disk is slow.

use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::time::Duration;

use super::super::message::*;
use super::super::round::Round;
use super::solo::{R1, R2, Solo, free_for_all, stripes, term, votes};
use crate::protocol::{Dest, Event, Protocol, Tuning};
use crate::testing::{TIMEOUT, tuning};

/// Open slots may hold two batches here, and the first one its own.
fn narrow() -> Solo {
    let size = Solo::new(3).frame(1).footprint();
    Solo::with(3, Slot(0), &[], Tuning { unchosen_size_max: size, ..tuning() })
}

#[test]
fn later_slots_do_not_take_the_memory_that_the_next_one_needs() {
    let mut solo = narrow();
    let plan = stripes(term(1, 1), 3);
    let voted = |solo: &mut Solo, slot: u64| {
        let frame = solo.frame(slot);
        solo.propose(R1, plan, slot, &frame);
        solo.records().len()
    };
    assert_eq!([2, 3, 4, 5].map(|slot| voted(&mut solo, slot)), [1, 1, 0, 0]);
    let frame = solo.frame(6);
    solo.hear(R1, Accept { term: plan.term, slot: Slot(6) }, Some(&frame));
    solo.hear(R1, Decided { slot: Slot(6), commit: Slot(6) }, Some(&frame));
    assert_eq!(solo.records(), []);
    solo.sent();
    // Beside this handle nothing holds the batch.
    let held = solo.pool.used();
    drop(frame);
    assert!(solo.pool.used() < held);
    assert_eq!(voted(&mut solo, 1), 1);
    for slot in 1..=2 {
        let frame = solo.frame(slot);
        solo.hear(R1, Decided { slot: Slot(slot), commit: Slot(2) }, Some(&frame));
    }
    solo.records();
    assert_eq!(voted(&mut solo, 4), 1, "what is chosen gives its memory back");
}

#[test]
fn a_slot_that_is_refused_for_want_of_memory_stays_free() {
    let mut solo = narrow();
    let plan = free_for_all(term(1, 1));
    for counter in 1..=4 {
        let frame = solo.frame(counter);
        solo.propose(R1, plan, 0, &frame);
    }
    assert_eq!(solo.records().len(), 2);
    let frame = solo.frame(1);
    solo.hear(R1, Decided { slot: Slot(1), commit: Slot(1) }, Some(&frame));
    solo.records();
    let frame = solo.frame(4);
    solo.propose(R1, plan, 0, &frame);
    assert_eq!(solo.records().last().and_then(Record::slot), Some(Slot(3)));
}

/// A coordinator of three in fast rounds, driven in steps of five milliseconds with one proposal each.
struct Loaded {
    solo: Solo,
    plan: Plan,
    slot: u64,
    /// Replica 2 does what classic rounds want of it.
    obeys: bool,
    prepared: bool,
}

impl Loaded {
    fn new() -> Self {
        let (solo, plan) = Solo::coordinator(3, Tuning { free_for_all: true, ..tuning() });
        Self { solo, plan, slot: 0, obeys: false, prepared: false }
    }

    fn vote(&mut self, from: ReplicaId, slot: u64) {
        let frame = self.solo.frame(slot);
        self.solo.hear(from, votes(Round::fast(self.plan.term), slot, Some(&frame)), None);
    }

    fn step(&mut self) {
        self.slot += 1;
        let frame = self.solo.frame(self.slot);
        self.solo.propose(R1, self.plan, 0, &frame);
        self.vote(R1, self.slot);
        self.pass(Duration::from_millis(5));
    }

    fn pass(&mut self, time: Duration) {
        self.solo.pass(time);
        let told = self.solo.told();
        self.prepared |= told.iter().any(|(_, message, _)| matches!(message, Message::Prepare(_)));
        for (to, message, body) in told {
            let reaches = |id| matches!(to, Dest::All | Dest::Others) || to == Dest::One(id);
            match message {
                Message::SlotPrepare(SlotPrepare { term, slot }) if self.obeys && reaches(R2) => {
                    self.solo.hear(R2, SlotPromise { term, slot, voted: None }, None);
                }
                Message::Accept(Accept { term, slot }) if self.obeys && reaches(R2) => {
                    self.solo.hear(R2, votes(Round::classic(term), slot.0, body.as_ref()), None);
                }
                _ => {}
            }
        }
        for from in [R1, R2] {
            let reply = HeartbeatReply { term: self.plan.term, commit: Slot(0), last: Slot(0), votes: true };
            self.solo.hear(from, reply, None);
        }
    }
}

impl Loaded {
    /// So many slots, of which replica 2 votes three steps late in those that `is_late` names, and at once in all others.
    fn run(&mut self, count: u64, is_late: impl Fn(u64) -> bool) {
        for _ in 0..count {
            if self.prepared {
                return;
            }
            let next = self.slot + 1;
            if is_late(next) {
                self.step();
            } else {
                self.slot = next;
                let frame = self.solo.frame(next);
                self.solo.propose(R1, self.plan, 0, &frame);
                self.vote(R1, next);
                self.vote(R2, next);
                self.pass(Duration::from_millis(5));
            }
            if self.slot >= 3 && is_late(self.slot - 2) {
                let slot = self.slot - 2;
                self.vote(R2, slot);
            }
        }
    }

    fn recoveries(&self) -> u64 {
        self.solo.protocol.counters().recoveries
    }
}

/// A late vote is one for which its slot is recovered after a timer. Of every slot in a while, or of more than a quarter for as long as an
/// election takes, they cost more than classic rounds; a quarter or less does not, nor a stall.
#[test]
fn a_voter_that_is_late_in_more_than_a_quarter_of_the_slots_is_passed_over() {
    for one_in in [1, 2, 3] {
        let mut loaded = Loaded::new();
        loaded.run(100, |_| false);
        assert_eq!(loaded.recoveries(), 0);
        let since = loaded.solo.now;
        loaded.run(200, |slot| slot % one_in == 0);
        let took = loaded.solo.now.since(since);
        assert!(loaded.prepared, "every slot in {one_in} waits for a timer for ever");
        assert!(took >= TIMEOUT && took <= 4 * TIMEOUT, "one slot in {one_in}: after {took:?}");
    }
}

#[test]
fn a_voter_that_is_late_in_a_quarter_of_the_slots_or_for_a_moment_stays() {
    for one_in in [4, 5, 10] {
        let mut loaded = Loaded::new();
        loaded.run(400, |slot| slot % one_in == 0);
        assert!(loaded.recoveries() > 30, "they are late");
        assert!(!loaded.prepared, "one slot in {one_in} is late");
    }
    // Twice a second, its votes are late for three quarters of an election timeout.
    let mut loaded = Loaded::new();
    loaded.run(400, |slot| slot % 100 < 15);
    assert!(loaded.recoveries() > 40 && !loaded.prepared);
}

#[test]
fn votes_that_stop_change_the_mode_soon_and_later_if_they_were_late_before() {
    let mut loaded = Loaded::new();
    // Too few for a judgement.
    for _ in 0..4 {
        for _ in 0..3 {
            loaded.step();
        }
        for slot in loaded.slot - 2..=loaded.slot {
            loaded.vote(R2, slot);
        }
    }
    assert!(loaded.recoveries() > 2 && !loaded.prepared, "they are late");
    // A disk known to be slow may be slower once.
    for _ in 0..6 {
        loaded.step();
    }
    let slot = loaded.slot;
    loaded.vote(R2, slot);
    assert!(!loaded.prepared);
    let silent_since = loaded.solo.now;
    while !loaded.prepared {
        loaded.step();
        assert!(loaded.solo.now.since(silent_since) < TIMEOUT * 3 / 4);
    }
}

#[test]
fn a_replica_that_is_down_is_missed_after_little_more_than_two_slow_slots() {
    let mut loaded = Loaded::new();
    let silent_since = loaded.solo.now;
    while !loaded.prepared {
        loaded.step();
        assert!(loaded.solo.now.since(silent_since) <= 3 * tuning().slow_after);
    }
}

#[test]
fn a_coordinator_that_was_held_up_itself_blames_nobody() {
    let mut loaded = Loaded::new();
    loaded.step();
    loaded.vote(R2, 1);
    loaded.step();
    // The process stood still; the vote waits to be read.
    loaded.pass(6 * tuning().slow_after);
    assert!(!loaded.prepared);
    loaded.vote(R2, 2);
    for _ in 0..3 {
        loaded.step();
        let slot = loaded.slot;
        loaded.vote(R2, slot);
    }
    assert!(!loaded.prepared);
}

/// Clients alone propose, and one replica never votes. Whether the coordinator gives it up.
fn is_given_up(obeys: bool) -> bool {
    let mut loaded = Loaded { obeys, ..Loaded::new() };
    for number in 1..=100 {
        let frame = crate::testing::batch(&loaded.solo.pool, R1.0, 0, number);
        loaded.solo.step(Event::ClientBatch(frame.clone()));
        loaded.solo.hear(R1, votes(Round::fast(loaded.plan.term), number, Some(&frame)), None);
        loaded.pass(Duration::from_millis(5));
    }
    assert!(loaded.solo.protocol.counters().recoveries > 0, "its votes are missing");
    loaded.prepared
}

#[test]
fn a_replica_that_clients_may_have_left_out_is_given_up_only_if_it_writes_nothing_down() {
    assert!(is_given_up(false));
    assert!(!is_given_up(true));
}

#[test]
fn a_replica_whose_votes_do_not_leave_counts_as_absent_however_well_it_answers() {
    for votes in [true, false] {
        let (mut solo, plan) = Solo::coordinator(3, tuning());
        for _ in 0..20 {
            for (peer, votes) in [(R1, true), (R2, votes)] {
                let reply = HeartbeatReply { term: plan.term, commit: Slot(0), last: Slot(0), votes };
                solo.hear(peer, reply, None);
            }
            solo.pass(tuning().heartbeat_interval);
            solo.settle();
        }
        assert_eq!(solo.protocol.status().ballot == plan.term, votes);
    }
}
