//! One situation each.

use super::*;
use crate::frontier::Frontier;

fn graph(rows: usize) -> Graph {
    Graph::new(rows, &Frontier::default())
}

#[test]
fn a_dependency_is_executed_first_whenever_it_commits() {
    let mut graph = graph(3);
    graph.on_committed(at(1, 1), 2, &dependencies(&[1]), &writes(&[7]));
    assert_eq!((drain(&mut graph), graph.waiting_count()), (vec![], 1));
    assert_eq!(blockers(&graph, 9), [at(0, 1)]);
    graph.on_known(at(0, 1), &writes(&[7]));
    assert_eq!((drain(&mut graph), blockers(&graph, 9)), (vec![], vec![at(0, 1)]));
    graph.on_committed(at(0, 1), 1, &dependencies(&[]), &writes(&[7]));
    assert_eq!(drain(&mut graph), [at(0, 1), at(1, 1)]);
    assert_eq!((graph.waiting_count(), graph.executed().count().0), (0, 2));
    assert!(blockers(&graph, 9).is_empty());
}

/// T-E10.
#[test]
pub(super) fn everything_up_to_the_number_is_waited_for() {
    let mut graph = graph(3);
    graph.on_known(at(0, 1), &writes(&[1]));
    graph.on_committed(at(0, 2), 1, &dependencies(&[]), &writes(&[2]));
    graph.on_committed(at(1, 1), 2, &dependencies(&[2]), &writes(&[1, 2]));
    assert_eq!(drain(&mut graph), [at(0, 2)]);
    graph.on_committed(at(0, 1), 1, &dependencies(&[]), &writes(&[1]));
    assert_eq!(drain(&mut graph), [at(0, 1), at(1, 1)]);
}

#[test]
fn what_does_not_interfere_is_not_waited_for_once_it_is_known() {
    let mut graph = graph(3);
    graph.on_committed(at(1, 1), 2, &dependencies(&[2]), &writes(&[1]));
    graph.on_known(at(0, 2), &writes(&[2]));
    assert!(drain(&mut graph).is_empty());
    graph.on_known(at(0, 1), &reads(&[3]));
    assert_eq!(drain(&mut graph), [at(1, 1)]);
    assert!(blockers(&graph, 9).is_empty());
}

#[test]
fn reads_of_a_key_are_not_ordered() {
    let mut graph = graph(2);
    graph.on_known(at(0, 1), &reads(&[1]));
    graph.on_committed(at(1, 1), 2, &dependencies(&[1]), &reads(&[1]));
    assert_eq!(drain(&mut graph), [at(1, 1)]);
    graph.on_committed(at(1, 2), 3, &dependencies(&[1, 1]), &writes(&[1]));
    assert!(drain(&mut graph).is_empty());
}

#[test]
fn nothing_waits_for_a_noop() {
    let mut graph = graph(3);
    graph.on_known(at(0, 1), &writes(&[1]));
    graph.on_committed(at(1, 1), 1, &dependencies(&[2]), &writes(&[1]));
    assert!(drain(&mut graph).is_empty());
    graph.on_committed_noop(at(0, 2));
    assert_eq!(drain(&mut graph), [at(0, 2)]);
    graph.on_committed_noop(at(0, 1));
    assert_eq!(drain(&mut graph), [at(0, 1), at(1, 1)]);
    assert_eq!(graph.executed().upto(0), 2);
}

/// T-E11.
#[test]
pub(super) fn equal_stamps_in_a_cycle_have_one_order() {
    let commit = |graph: &mut Graph, row: u8| {
        graph.on_committed(at(row, 1), 5, &dependencies(&[1, 1, 1]), &writes(&[1]));
    };
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut graph = graph(3);
        order.iter().for_each(|row| commit(&mut graph, *row));
        assert_eq!(drain(&mut graph), [at(0, 1), at(1, 1), at(2, 1)], "{order:?}");
        assert_eq!(graph.component_max(), 3);
    }
}

#[test]
fn a_cycle_is_ordered_by_stamp_first() {
    let mut graph = graph(2);
    graph.on_committed(at(0, 1), 9, &dependencies(&[0, 1]), &writes(&[1]));
    graph.on_committed(at(1, 1), 4, &dependencies(&[1, 0]), &writes(&[1]));
    assert_eq!(drain(&mut graph), [at(1, 1), at(0, 1)]);
}

/// T-E21: a barrier orders batches that share nothing.
#[test]
fn a_barrier_inside_a_cycle_orders_everything_around_it() {
    let mut graph = graph(3);
    graph.on_committed(at(0, 1), 1, &dependencies(&[0, 1, 0]), &writes(&[1]));
    graph.on_committed(at(1, 1), 2, &dependencies(&[1, 0, 1]), &Footprint::barrier());
    assert!(drain(&mut graph).is_empty());
    graph.on_committed(at(2, 1), 3, &dependencies(&[0, 1, 0]), &reads(&[2]));
    assert_eq!(drain(&mut graph), [at(0, 1), at(1, 1), at(2, 1)]);
    assert_eq!(graph.component_max(), 3);
}

/// T-E14.
#[test]
fn what_is_told_again_is_not_executed_again() {
    let mut graph = graph(2);
    for _ in 0..2 {
        graph.on_committed(at(0, 1), 1, &dependencies(&[]), &writes(&[1]));
        graph.on_known(at(0, 1), &writes(&[1]));
    }
    assert_eq!(drain(&mut graph), [at(0, 1)]);
    graph.on_committed(at(0, 1), 1, &dependencies(&[]), &writes(&[1]));
    graph.on_committed_noop(at(0, 1));
    graph.on_known(at(0, 1), &writes(&[1]));
    assert_eq!((drain(&mut graph), graph.waiting_count()), (vec![], 0));
}

#[test]
fn nonsense_from_outside_only_waits() {
    let mut graph = graph(2);
    graph.on_committed(at(7, 1), 1, &dependencies(&[]), &writes(&[1]));
    graph.on_committed(at(0, 0), 1, &dependencies(&[]), &writes(&[1]));
    graph.on_committed(at(0, 1), u64::MAX, &dependencies(&[u64::MAX, u64::MAX, 5]), &writes(&[1]));
    assert!(drain(&mut graph).is_empty());
    assert_eq!(blockers(&graph, 4), [at(0, 2), at(0, 3), at(0, 4), at(0, 5)]);
}

#[test]
fn holes_of_a_row_block_from_when_the_first_waiter_came() {
    let mut graph = graph(2);
    graph.on_committed(at(1, 1), 1, &dependencies(&[3]), &writes(&[1]));
    assert!(drain(&mut graph).is_empty());
    let early = graph.clock();
    graph.on_known(at(0, 2), &writes(&[5]));
    graph.on_committed(at(1, 2), 2, &dependencies(&[5]), &writes(&[2]));
    assert!(drain(&mut graph).is_empty());
    let mut out = Vec::new();
    graph.blockers(9, &mut out);
    let old: Vec<_> = out.iter().map(|blocker| (blocker.position, blocker.since <= early)).collect();
    assert_eq!(old, [(at(0, 1), true), (at(0, 3), true), (at(0, 4), false), (at(0, 5), false)]);
}

#[test]
fn a_snapshot_takes_what_it_covers_out_of_the_way() {
    let mut graph = graph(2);
    graph.on_known(at(0, 1), &writes(&[1]));
    graph.on_committed(at(0, 2), 2, &dependencies(&[1]), &writes(&[1]));
    graph.on_committed(at(0, 3), 3, &dependencies(&[2]), &writes(&[1]));
    graph.on_committed(at(1, 4), 3, &dependencies(&[2, 3]), &writes(&[1]));
    assert!(drain(&mut graph).is_empty());
    let mut covered = Frontier::default();
    covered.extend_to(0, 2);
    covered.extend_to(1, 2);
    graph.install(&covered);
    assert_eq!((drain(&mut graph), graph.waiting_count()), (vec![at(0, 3)], 1));
    assert_eq!(blockers(&graph, 9), [at(1, 3)]);
    graph.on_committed(at(0, 1), 1, &dependencies(&[]), &writes(&[1]));
    graph.on_committed_noop(at(1, 3));
    assert_eq!(drain(&mut graph), [at(1, 3), at(1, 4)]);
    assert_eq!((graph.executed().upto(0), graph.executed().upto(1)), (3, 4));
}

/// A chain between two rows, each link over a key of its own: link `index` depends on the one before only.
fn chain_link(index: u64) -> (Position, Dependencies, Footprint) {
    let position = at((index % 2) as u8, index / 2 + 1);
    let mut before = Dependencies::default();
    if index > 0 {
        before.raise(((index - 1) % 2) as u8, (index - 1) / 2 + 1);
    }
    (position, before, writes(&[index, index + 1]))
}

#[test]
fn long_chains_are_walked_without_recursion() {
    const LENGTH: u64 = 100_000;
    let expected: Vec<_> = (0..LENGTH).map(|index| chain_link(index).0).collect();
    // All links are known; then they are committed from the end, from the start, and from the start but for the first.
    let orders: [Vec<u64>; 3] =
        [(0..LENGTH).rev().collect(), (0..LENGTH).collect(), (1..LENGTH).chain([0]).collect()];
    for order in orders {
        let mut graph = graph(2);
        for index in 0..LENGTH {
            let (position, _, footprint) = chain_link(index);
            graph.on_known(position, &footprint);
        }
        let mut executed = Vec::new();
        for index in order {
            let (position, before, footprint) = chain_link(index);
            graph.on_committed(position, index, &before, &footprint);
            executed.extend(drain(&mut graph));
        }
        assert_eq!(executed, expected);
        assert_eq!(graph.component_max(), 1);
    }
}

#[test]
fn a_long_chain_found_from_its_end_is_walked_at_once() {
    const LENGTH: u64 = 100_000;
    let mut graph = graph(2);
    for index in (0..LENGTH).rev() {
        let (position, before, footprint) = chain_link(index);
        graph.on_committed(position, index, &before, &footprint);
    }
    assert_eq!(drain(&mut graph).len() as u64, LENGTH);
}

#[test]
fn one_hot_key_waits_for_its_first_writer() {
    const LENGTH: u64 = 50_000;
    let mut graph = graph(2);
    graph.on_known(at(0, 1), &writes(&[1]));
    for number in 1..=LENGTH {
        graph.on_committed(at(1, number), number + 1, &dependencies(&[1, number - 1]), &writes(&[1]));
        assert!(graph.next().is_none());
    }
    assert_eq!(blockers(&graph, 9), [at(0, 1)]);
    graph.on_committed(at(0, 1), 1, &dependencies(&[]), &writes(&[1]));
    let executed = drain(&mut graph);
    assert_eq!(executed[0], at(0, 1));
    assert!(executed[1..].iter().map(|position| position.number).eq(1..=LENGTH));
}

#[test]
fn a_large_component_is_executed_by_stamp() {
    const ROW: u64 = 500;
    let mut graph = graph(2);
    for number in 1..=ROW {
        for row in 0..2 {
            // Everything depends on everything before it in its own row and on all of the other.
            let mut before = dependencies(&[ROW, ROW]);
            before.0[usize::from(row)] = number - 1;
            graph.on_committed(at(row, number), number / 2, &before, &writes(&[1]));
        }
    }
    let executed = drain(&mut graph);
    assert_eq!((executed.len() as u64, graph.component_max()), (2 * ROW, 2 * ROW));
    let mut expected = executed.clone();
    expected.sort_by_key(|position| (position.number / 2, *position));
    assert_eq!(executed, expected);
}

#[test]
fn a_noop_that_is_committed_while_a_snapshot_is_written_down_stays_executed() {
    let mut graph = graph(3);
    graph.on_committed(at(1, 1), 1, &dependencies(&[2]), &writes(&[1]));
    graph.on_known(at(0, 1), &writes(&[1]));
    assert!(drain(&mut graph).is_empty());
    // Nothing is taken out meanwhile.
    graph.on_committed_noop(at(0, 1));
    graph.on_committed_noop(at(0, 2));
    graph.on_committed_noop(at(2, 1));
    let mut covered = Frontier::default();
    covered.insert(at(2, 1));
    graph.install(&covered);
    assert_eq!(drain(&mut graph), [at(0, 1), at(0, 2), at(1, 1)]);
    assert!(blockers(&graph, 9).is_empty());
}
