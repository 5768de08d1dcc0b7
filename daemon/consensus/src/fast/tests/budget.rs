//! What a batch costs in messages and records when nothing goes wrong, with all replicas proposing.

use panch_wire::frame::FramePool;
use panch_wire::ids::{GroupId, Incarnation, ReplicaId};
use panch_wire::time::{Duration, Instant};
use rand_xoshiro::rand_core::SeedableRng;

use super::super::Fast;
use super::super::message::{Message, Record};
use crate::frontier::Frontier;
use crate::protocol::{Dest, Effects, Event, Group, Past, Protocol, Random, Tuning};
use crate::testing::{batch, tuning};

/// Messages between replicas and records since the last reset.
#[derive(Default, Debug)]
struct Costs {
    payloads: usize,
    votes: usize,
    skips: usize,
    other: usize,
    vote_records: usize,
    other_records: usize,
    chosen: usize,
    noops: usize,
}

/// Replicas in lockstep: in a turn each takes in all that was sent in the last one, and its log is written at the end.
struct Lockstep {
    replicas: Vec<(Fast, Effects<Fast>)>,
    inboxes: Vec<Vec<Event<Fast>>>,
    now: Instant,
    costs: Costs,
}

impl Lockstep {
    fn new(replica_count: usize, tuning: Tuning) -> Self {
        let replicas = (0..replica_count as u8).map(|id| {
            let group = Group { id: GroupId(0), me: ReplicaId(id), replica_count, home: ReplicaId(0) };
            let executed = Frontier::default();
            let past = Past { executed: &executed, stamp: 0, incarnation: Incarnation(1) };
            let mut fast = Fast::open(group, tuning, past, Random::seed_from_u64(u64::from(id)));
            let mut effects = Effects::default();
            fast.start(Instant(1), &mut effects);
            (fast, effects)
        });
        let inboxes = (0..replica_count).map(|_| Vec::new()).collect();
        Self { replicas: replicas.collect(), inboxes, now: Instant(1), costs: Costs::default() }
    }

    fn turn(&mut self) {
        self.now = self.now + Duration::from_micros(100);
        let inboxes: Vec<_> = self.inboxes.iter_mut().map(std::mem::take).collect();
        for (id, inbox) in inboxes.into_iter().enumerate() {
            let (fast, effects) = &mut self.replicas[id];
            for event in inbox {
                fast.step(self.now, event, effects);
            }
            // What a replica tells itself without waiting for its log arrives in the same turn.
            loop {
                let mut own = Vec::new();
                effects.outgoing.retain(|out| {
                    let mine = matches!(out.dest, Dest::All | Dest::One(_)) && out.after.is_none();
                    let mine = mine && (out.dest == Dest::All || out.dest == Dest::One(ReplicaId(id as u8)));
                    if mine && !own.iter().any(|(message, _)| *message == out.message) {
                        own.push((out.message, out.body.clone()));
                    }
                    !mine || out.dest == Dest::All
                });
                let fresh = own.len();
                for (message, body) in own {
                    let from = ReplicaId(id as u8);
                    fast.step(self.now, Event::Deliver { from, message, body }, effects);
                }
                for out in effects.outgoing.iter_mut().filter(|out| out.after.is_none()) {
                    if out.dest == Dest::All {
                        out.dest = Dest::Others;
                    }
                }
                let due = fast.deadline().is_some_and(|at| at <= self.now);
                if due {
                    fast.step(self.now, Event::Deadline, effects);
                }
                if fresh == 0 && !due {
                    break;
                }
            }
            self.carry_out(id);
        }
    }

    fn carry_out(&mut self, id: usize) {
        let count = self.replicas.len();
        let effects = &mut self.replicas[id].1;
        for (record, _) in effects.records.drain(..) {
            match record {
                Record::Vote(_) => self.costs.vote_records += 1,
                _ => self.costs.other_records += 1,
            }
        }
        for chosen in effects.chosen.drain(..) {
            let noop = chosen.value.body().is_none();
            *(if noop { &mut self.costs.noops } else { &mut self.costs.chosen }) += 1;
        }
        effects.repropose = false;
        for out in effects.outgoing.drain(..) {
            for to in 0..count {
                let meant = match out.dest {
                    Dest::One(one) => one.index() == to,
                    Dest::Others => to != id,
                    Dest::All => true,
                };
                if !meant {
                    continue;
                }
                if to != id {
                    match out.message {
                        Message::Propose(_) => self.costs.payloads += 1,
                        Message::Votes(_) => self.costs.votes += 1,
                        Message::Skip(_) => self.costs.skips += 1,
                        _ => self.costs.other += 1,
                    }
                }
                let from = ReplicaId(id as u8);
                let event = Event::Deliver { from, message: out.message, body: out.body.clone() };
                self.inboxes[to].push(event);
            }
        }
    }
}

#[test]
fn a_batch_costs_one_payload_per_peer_one_record_per_acceptor_and_shared_votes() {
    let depth = 10;
    let tuning = Tuning { pipeline_depth: depth, ..tuning() };
    let mut group = Lockstep::new(3, tuning);
    for _ in 0..4000 {
        group.turn();
    }
    assert!(group.replicas.iter().all(|(fast, _)| fast.plan.is_some_and(|plan| plan.mode.is_fast())));
    let pool = FramePool::new(1 << 26);
    group.costs = Costs::default();
    let rounds = 20;
    for round in 0..rounds {
        for id in 0..3u8 {
            for number in 1..=depth as u64 {
                let frame = batch(&pool, id, 1, round * depth as u64 + number);
                group.inboxes[usize::from(id)].push(Event::Propose(frame));
            }
        }
        // Propose; vote; count.
        for _ in 0..3 {
            group.turn();
        }
    }
    for _ in 0..5 {
        group.turn();
    }
    let costs = &group.costs;
    println!("{costs:?}");
    let batches = rounds as usize * 3 * depth;
    assert_eq!(costs.chosen, 3 * batches, "everything is chosen everywhere, at once");
    assert_eq!(costs.payloads, 2 * batches);
    assert_eq!(costs.vote_records, 3 * batches + costs.noops, "one record per acceptor and slot");
    assert_eq!(costs.other_records, 0);
    // Each acceptor's votes for ten batches take three messages; at most one more for what was skipped.
    assert!(costs.votes <= batches * 6 * 4 / 10, "{costs:?}");
    assert!(costs.noops <= 3 * 6 && costs.skips <= 12, "nobody skips while everybody proposes: {costs:?}");
    assert!(group.replicas.iter().all(|(fast, _)| fast.counters().recoveries == 0));
}
