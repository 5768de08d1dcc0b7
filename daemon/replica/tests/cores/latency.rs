//! Commit and execution latency under each protocol.

use panch_consensus::protocol::ProtocolKind;
use panch_wire::time::Duration;

use crate::world::{NODE_COUNT, World};

const ROUNDS: usize = 20;
const COMMANDS: u64 = 7;

/// Whole delays between the seal of a batch and its commit, node by node, when nobody else proposes.
fn delays_to_commit(kind: ProtocolKind) -> [u64; NODE_COUNT as usize] {
    match kind {
        // Prepare, promise, accept, accepted.
        ProtocolKind::Basic => [4; 3],
        // Accept, accepted; elsewhere the way to the leader before, and the news of the commit after.
        ProtocolKind::Multi => [2, 4, 4],
        // The proposal, the votes.
        ProtocolKind::Fast => [2; 3],
        // The proposal, the vote.
        ProtocolKind::Epaxos => [2; 3],
    }
}

#[test]
fn every_command_counts_once_with_the_time_from_its_seal() {
    for kind in ProtocolKind::ALL {
        let mut world = World::new(*kind, Duration::from_secs(3600));
        world.run_for(Duration::from_secs(3));
        for _ in 0..ROUNDS {
            for node in 0..world.cores.len() {
                (0..COMMANDS).for_each(|_| world.submit(node));
                world.run_for(Duration::from_millis(40));
            }
        }
        world.run_for(Duration::from_secs(1));
        let all = ROUNDS as u64 * COMMANDS;
        assert_eq!(world.replies, all * u64::from(NODE_COUNT), "{kind:?}");
        for (core, delays) in world.cores.iter().zip(delays_to_commit(*kind)) {
            let latencies = core.latencies();
            assert_eq!((latencies.commit.len(), latencies.execution.len()), (all, all), "{kind:?}");
            let median = latencies.commit.value_at_quantile(0.5);
            let range = delays * 1000..=delays * 1000 + 800;
            assert!(range.contains(&median), "{kind:?}: the median is {median} us, not in {range:?}");
            for quantile in [0.01, 0.5, 0.99] {
                let of = |histogram: &hdrhistogram::Histogram<u64>| histogram.value_at_quantile(quantile);
                assert!(
                    of(&latencies.commit) <= of(&latencies.execution),
                    "{kind:?}: executed before chosen"
                );
            }
        }
    }
}
