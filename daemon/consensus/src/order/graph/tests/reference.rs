//! Random graphs, committed in random orders on several replicas, against the definition.

use proptest::prelude::*;
use rand_xoshiro::rand_core::Rng;

use super::*;
use crate::frontier::Frontier;
use crate::protocol::{Random, random};

struct Instance {
    position: Position,
    stamp: u64,
    dependencies: Dependencies,
    /// `None`: a no-op.
    footprint: Option<Footprint>,
    /// What it was announced with before it was committed.
    announced: Footprint,
}

fn below(random: &mut Random, bound: u64) -> u64 {
    random.next_u64() % bound
}

/// Instances such that of two that interfere at least one depends on the other, as the protocol guarantees.
fn instances(random: &mut Random) -> (usize, Vec<Instance>) {
    let row_count = 2 + below(random, 3);
    let key_count = 1 + below(random, 8);
    let mut row_sizes = [0; 4];
    row_sizes[..row_count as usize].fill_with(|| 1 + below(random, 8));
    let mut all: Vec<Instance> = Vec::new();
    for row in 0..row_count as usize {
        for number in 1..=row_sizes[row] {
            let mut dependencies = Dependencies::default();
            for (other, size) in row_sizes.iter().enumerate() {
                let upto = if other == row { number - 1 } else { below(random, size + 1) };
                dependencies.raise(other as u8, if below(random, 2) == 0 { upto } else { 0 });
            }
            let keys: Vec<_> = (0..1 + below(random, 3)).map(|_| below(random, key_count)).collect();
            let announced = match below(random, 12) {
                0 => Footprint::barrier(),
                1..4 => reads(&keys),
                _ => writes(&keys),
            };
            let footprint = (below(random, 8) > 0).then(|| announced.clone());
            let position = at(row as u8, number);
            all.push(Instance { position, stamp: below(random, 4), dependencies, footprint, announced });
        }
    }
    for first in 0..all.len() {
        for second in 0..first {
            let interferes = all[first].announced.interferes(&all[second].announced);
            let (one, two) = (all[first].position, all[second].position);
            if !interferes || all[first].dependencies.contains(two) || all[second].dependencies.contains(one)
            {
                continue;
            }
            // In a row the later one depends on the earlier one; `first` is the later one.
            if one.row == two.row || below(random, 2) == 0 {
                all[first].dependencies.raise(two.row, two.number);
            } else {
                all[second].dependencies.raise(one.row, one.number);
            }
        }
    }
    (row_count as usize, all)
}

/// `reaches[a][b]`: there is a path of dependencies from a to b.
fn reachability(all: &[Instance]) -> Vec<Vec<bool>> {
    let edge = |from: &Instance, to: &Instance| match (&from.footprint, &to.footprint) {
        (Some(one), Some(two)) => one.interferes(two) && from.dependencies.contains(to.position),
        _ => false,
    };
    let mut reaches: Vec<Vec<_>> =
        all.iter().map(|from| all.iter().map(|to| edge(from, to)).collect()).collect();
    for middle in 0..all.len() {
        for from in 0..all.len() {
            for to in 0..all.len() {
                reaches[from][to] |= reaches[from][middle] && reaches[middle][to];
            }
        }
    }
    reaches
}

fn shuffled(random: &mut Random, count: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    for index in (1..count).rev() {
        order.swap(index, below(random, index as u64 + 1) as usize);
    }
    order
}

pub(super) fn run(seed: u64) {
    let mut random = random(seed);
    let (row_count, all) = instances(&mut random);
    let reaches = reachability(&all);
    for _ in 0..4 {
        let mut graph = Graph::new(row_count, &Frontier::default());
        let mut executed = Vec::new();
        // Each instance is announced and committed, at any time, in any order.
        for event in shuffled(&mut random, 2 * all.len()) {
            let Instance { position, stamp, dependencies, footprint, announced } = &all[event / 2];
            match footprint {
                _ if event % 2 == 0 => graph.on_known(*position, announced),
                Some(footprint) => graph.on_committed(*position, *stamp, dependencies, footprint),
                None => graph.on_committed_noop(*position),
            }
            if below(&mut random, 3) > 0 {
                executed.extend(drain(&mut graph));
            }
        }
        executed.extend(drain(&mut graph));
        assert_eq!(executed.len(), all.len(), "everything is executed once");
        assert_eq!(graph.waiting_count(), 0);
        assert!(blockers(&graph, 9).is_empty());
        let turn = |index: usize| executed.iter().position(|position| *position == all[index].position);
        for one in 0..all.len() {
            for two in (0..all.len()).filter(|two| *two != one) {
                let (a, b) = (&all[one], &all[two]);
                let is_first = match (reaches[one][two], reaches[two][one]) {
                    (true, true) => (a.stamp, a.position) < (b.stamp, b.position),
                    (one_reaches, two_reaches) => !one_reaches && two_reaches,
                };
                if is_first {
                    assert!(turn(one) < turn(two), "seed {seed}: {:?} before {:?}", a.position, b.position);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn replicas_execute_what_interferes_in_the_same_order(seed: u64) {
        run(seed);
    }
}
