//! Tests of the order of execution.

#[cfg(feature = "mutants")]
mod mutants;
mod reference;
mod scenarios;

use panch_wire::ids::Position;

use super::{Blocker, Graph};
use crate::epaxos::{Dependencies, Footprint};

fn at(row: u8, number: u64) -> Position {
    Position { row, number }
}

fn dependencies(rows: &[u64]) -> Dependencies {
    let mut dependencies = Dependencies::default();
    dependencies.0[..rows.len()].copy_from_slice(rows);
    dependencies
}

/// A footprint that writes these keys.
fn writes(keys: &[u64]) -> Footprint {
    let bytes: Vec<_> = keys.iter().map(|key| key.to_le_bytes()).collect();
    Footprint::of_keys(&bytes.iter().map(|key| (&key[..], true)).collect::<Vec<_>>())
}

/// A footprint that reads these keys.
fn reads(keys: &[u64]) -> Footprint {
    let bytes: Vec<_> = keys.iter().map(|key| key.to_le_bytes()).collect();
    Footprint::of_keys(&bytes.iter().map(|key| (&key[..], false)).collect::<Vec<_>>())
}

fn drain(graph: &mut Graph) -> Vec<Position> {
    std::iter::from_fn(|| graph.next()).collect()
}

fn blockers(graph: &Graph, count_max: usize) -> Vec<Position> {
    let mut out: Vec<Blocker> = Vec::new();
    graph.blockers(count_max, &mut out);
    assert!(out.iter().all(|blocker| blocker.since <= graph.clock()));
    out.into_iter().map(|blocker| blocker.position).collect()
}
