//! What a batch costs in messages and slots, with one proposer and with all.

use std::cell::Cell;
use std::rc::Rc;

use panch_wire::time::Duration;

use super::super::Basic;
use crate::protocol::{Protocol, Tuning};
use crate::testing::cluster::{Cluster, Verdict};
use crate::testing::tuning;

struct Cost {
    batches: f64,
    messages: f64,
    slots: f64,
    duels: f64,
}

/// A closed loop for a while: every proposer keeps its pipeline full, but for the last `slow_count` that have one batch
/// every five milliseconds.
fn run(proposers: &[u8], slow_count: usize, seed: u64) -> Cost {
    let tuning = Tuning { pipeline_depth: 10, ..tuning() };
    let mut cluster = Cluster::<Basic>::new(3, 0, seed, tuning);
    // The test's logs write one record after the other; real ones write all of a turn at once.
    cluster.weather.disk = Duration::from_micros(10);
    let count = Rc::new(Cell::new(0u64));
    let counting = count.clone();
    cluster.filter = Some(Box::new(move |_, _, _| {
        counting.set(counting.get() + 1);
        Verdict::Pass
    }));
    let load = |cluster: &mut Cluster<Basic>, milliseconds: u64| {
        let mut batches = 0u64;
        let (fast, slow) = proposers.split_at(proposers.len() - slow_count);
        for millisecond in 0..milliseconds {
            for id in fast {
                while cluster.propose(*id).is_some() {
                    batches += 1;
                }
            }
            for id in slow.iter().filter(|_| millisecond % 5 == 0) {
                batches += u64::from(cluster.propose(*id).is_some());
            }
            cluster.run_for(1);
        }
        batches
    };
    load(&mut cluster, 100);
    let duels = |cluster: &Cluster<Basic>| -> u64 {
        cluster.ids().map(|id| cluster.protocol(id).counters().duels).sum()
    };
    let (slots, duelled) = (cluster.last_decided(), duels(&cluster));
    count.set(0);
    let batches = load(&mut cluster, 300) as f64;
    let cost = Cost {
        batches,
        messages: count.get() as f64 / batches,
        slots: (cluster.last_decided().0 - slots.0) as f64 / batches,
        duels: (duels(&cluster) - duelled) as f64 / batches,
    };
    let Cost { batches, messages, slots, duels } = cost;
    println!(
        "{proposers:?}: {batches} batches, each {messages:.2} messages {slots:.3} slots {duels:.3} duels"
    );
    cost
}

/// Ten messages at three replicas: four for each phase and two with the news; here every message is a turn of its own,
/// so nothing is shared but what leaves together.
#[test]
fn a_lone_proposer_takes_every_slot() {
    let cost = run(&[0], 0, 1);
    assert!(cost.batches > 300.0, "{} batches", cost.batches);
    assert!(cost.messages < 10.5, "{} messages per batch", cost.messages);
    assert!(cost.slots < 1.1, "{} slots per batch", cost.slots);
    assert!(cost.duels == 0.0, "{} duels per batch", cost.duels);
}

#[test]
fn proposers_at_work_at_once_do_not_fight() {
    let alone = run(&[1], 0, 2);
    let two = run(&[0, 2], 0, 2);
    let three = run(&[0, 1, 2], 0, 2);
    for cost in [&two, &three] {
        assert!(cost.messages < 11.0, "{} messages per batch", cost.messages);
        assert!(cost.slots < 1.1, "{} slots per batch", cost.slots);
        assert!(cost.duels < 0.05, "{} duels per batch", cost.duels);
    }
    assert!(three.batches > 1.5 * alone.batches, "{} against {} batches", three.batches, alone.batches);
}

/// The slots of those who have little to propose are skipped in time, and not for long if they have nothing.
#[test]
fn a_fast_proposer_is_not_held_up_by_slow_ones() {
    let alone = run(&[0], 0, 3);
    let one = run(&[0, 1], 1, 3);
    let two = run(&[0, 1, 2], 2, 3);
    for cost in [&one, &two] {
        assert!(cost.batches > 0.5 * alone.batches, "{} against {} batches", cost.batches, alone.batches);
        assert!(cost.duels < 0.1, "{} duels per batch", cost.duels);
    }
}
