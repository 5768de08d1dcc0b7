//! A small sweep, the seeds that once failed, and that a seed is a run.

use panch_consensus::protocol::ProtocolKind;
use panch_sim::coverage::Coverage;
use panch_sim::run::run_seed;
use panch_sim::settings::Mix;

const MULTI: Mix = Mix::One(ProtocolKind::Multi);

fn sweep(seeds: impl IntoIterator<Item = u64>, replica_count: usize) -> Coverage {
    sweep_of(MULTI, seeds, replica_count)
}

fn sweep_of(mix: Mix, seeds: impl IntoIterator<Item = u64>, replica_count: usize) -> Coverage {
    let mut total = Coverage::default();
    for seed in seeds {
        match run_seed(seed, mix, replica_count, false) {
            Ok(coverage) => total.add(&coverage),
            Err(violation) => {
                let name = mix.name();
                panic!("panch-sim --seed {seed} --protocol {name} --replicas {replica_count}: {violation}")
            }
        }
    }
    total
}

const BASIC: Mix = Mix::One(ProtocolKind::Basic);
const FAST: Mix = Mix::One(ProtocolKind::Fast);
const EPAXOS: Mix = Mix::One(ProtocolKind::Epaxos);

/// Protocol, replicas and seed; the last column says what failed. Most of the first found a mistake of the simulator itself
/// while it was young.
const ONCE_FAILED: &[(Mix, usize, u64, &str)] = &[
    (MULTI, 3, 234, "a vote behind a lost write was taken for durable"),
    (MULTI, 3, 1484, "a client sent a command without a session twice"),
    (MULTI, 3, 2160, "a client sent a command without a session twice"),
    (MULTI, 3, 1889, "frames of replayed slots were kept and exhausted the pool"),
    (
        BASIC,
        5,
        14606,
        "what was read back from the log came from a segment that had been written over meanwhile",
    ),
    (MULTI, 3, 8898, "a node without its disk asked one that had restarted and had nothing to say"),
    (BASIC, 5, 295, "batches of later slots took the memory that the first open slot needed"),
    (EPAXOS, 5, 718, "a no-op that was committed while a snapshot was written down was never executed"),
    (
        EPAXOS,
        5,
        4390,
        "nobody could say any more whether an open instance was excluded: all had forgotten what it asked about",
    ),
    (
        FAST,
        3,
        14605,
        "a value that a lost disk had voted for, chosen and written down again, was left out of a promise after a restart",
    ),
    (FAST, 3, 2819, "a recovery that got the batch last waited for ever"),
    (
        EPAXOS,
        3,
        741,
        "a segment that was made and not noted before a crash was used, and then called cut off",
    ),
    (Mix::Mixed, 3, 300, "an own vote refused for want of memory was never asked for again"),
    (Mix::Mixed, 3, 200, "a full log with nothing to give up made its core spin"),
    (
        EPAXOS,
        4,
        1564,
        "what a node had executed of a log that was not durable yet was held against the others",
    ),
];

#[test]
fn seeds_that_once_failed() {
    for (mix, replica_count, seed, _) in ONCE_FAILED {
        sweep_of(*mix, [*seed], *replica_count);
    }
}

#[test]
fn three_replicas_survive_a_swarm_of_faults() {
    let total = sweep(10_000..10_150, 3);
    assert_eq!(total.runs, 150);
    let rare = [
        "pool_waits",
        "torn_tails",
        "unreadable_snapshots",
        "multi.overwritten",
        "refused_logs",
        "multi.transfers",
        "long_absences",
        "gray",
        "measured",
        "partly_noticed",
        "contested",
        "taken_back",
    ];
    let missing: Vec<_> =
        total.missing(MULTI, 3).into_iter().filter(|name| !rare.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "never taken: {missing:?}");
}

#[test]
fn five_replicas_survive_a_swarm_of_faults() {
    assert_eq!(sweep(20_000..20_050, 5).runs, 50);
}

#[test]
fn two_replicas_survive_a_swarm_of_faults() {
    assert_eq!(sweep(30_000..30_020, 2).runs, 20);
}

#[test]
fn basic_paxos_survives_a_swarm_of_faults() {
    assert_eq!(sweep_of(BASIC, 10_000..10_020, 3).runs, 20);
    assert_eq!(sweep_of(BASIC, 20_000..20_008, 5).runs, 8);
}

#[test]
fn fast_paxos_survives_a_swarm_of_faults() {
    let fast = Mix::One(ProtocolKind::Fast);
    assert_eq!(sweep_of(fast, 10_000..10_020, 3).runs, 20);
    assert_eq!(sweep_of(fast, 20_000..20_010, 5).runs, 10);
}

#[test]
fn a_seed_is_a_run() {
    for seed in 40_000..40_005 {
        assert_eq!(sweep([seed], 3), sweep([seed], 3), "seed {seed}");
    }
}
