//! Schedules of two batches that interfere, shortest first, up to a bound on states: what lies behind it is not looked at.

use panch_wire::frame::FramePool;
use panch_wire::ids::ReplicaId;

use super::super::Epaxos;
use crate::explore::{Action, Setup, World, explore};
use crate::testing::batch;

fn search(setup: &Setup, start: &World<Epaxos>) {
    let outcome = explore(setup, start, &|_| Ok(()), &mut |_| true);
    println!("{:?}, every schedule: {}", outcome.progress, outcome.is_complete);
    if let Some(violation) = outcome.violation {
        panic!("{violation}");
    }
}

fn two_leaders(replica_count: usize) -> Setup {
    let pool = FramePool::new(1 << 20);
    let proposals = [0, 1].map(|id| (ReplicaId(id), batch(&pool, id, 1, 1)));
    let mut setup = Setup::new(replica_count, proposals.to_vec());
    setup.bounds.states = std::env::var("PANCH_STATES").map_or(3_000, |count| count.parse().unwrap());
    setup
}

#[test]
fn the_first_schedules_of_two_leaders_agree() {
    for replica_count in [3, 5] {
        let setup = two_leaders(replica_count);
        let start = World::new(&setup).expect("starting decides nothing");
        search(&setup, &start);
    }
}

/// Both have proposed; then deadlines fire too: what is slow is asked of the third, and suspected leaders are recovered.
#[test]
fn the_first_schedules_of_retries_and_recoveries_agree() {
    let mut setup = two_leaders(3);
    let mut start = World::new(&setup).expect("starting decides nothing");
    for index in [0, 1] {
        start.perform(&setup, Action::Propose(index)).expect("nothing is wrong yet");
    }
    setup.bounds.deadlines = 3;
    setup.bounds.suspicions = 1;
    start.refill(&setup);
    search(&setup, &start);
}
