//! Tests of EPaxos: what a batch touches and depends on (`footprint`, `conflicts`), exact effects of single events (`acceptor_rules`, `leader_rules`,
//! `catchup_rules`, `lagging`),
//! named schedules (`scenarios`), random schedules (`random`), and that these notice when a safety rule is removed (`mutants`).

mod acceptor_rules;
mod catchup_rules;
mod conflicts;
mod footprint;
mod gray;
mod lagging;
mod leader_rules;
#[cfg(feature = "mutants")]
mod mutants;
mod random;
mod scenarios;
mod search;
mod stuck;
mod visible;

use panch_wire::record::{FIXED_SIZE_MAX, Fixed};

use panch_wire::ids::{Position, REPLICAS_MAX};

use super::message::Message;
use super::record::Record;
use super::{Dependencies, Epaxos, Footprint};
use crate::ballot::Ballot;
use crate::frontier::Frontier;
use crate::testing::tuning;

type Solo = crate::testing::solo::Solo<Epaxos>;

fn solo(replica_count: usize) -> Solo {
    Solo::open(replica_count, tuning(), &Frontier::default(), &[])
}

fn at(row: u8, number: u64) -> Position {
    Position { row, number }
}

fn ballot(round: u64, owner: u8) -> Ballot {
    Ballot { round, owner }
}

fn deps<const COUNT: usize>(numbers: [u64; COUNT]) -> Dependencies {
    let mut all = [0; REPLICAS_MAX];
    all[..COUNT].copy_from_slice(&numbers);
    Dependencies(all)
}

const _: () = assert!(Message::SIZE <= FIXED_SIZE_MAX && Record::SIZE <= FIXED_SIZE_MAX);

/// A footprint that reads some keys and writes others.
fn touching(read: &[&str], written: &[&str]) -> Footprint {
    let keys = read.iter().map(|key| (key.as_bytes(), false));
    let keys: Vec<_> = keys.chain(written.iter().map(|key| (key.as_bytes(), true))).collect();
    Footprint::of_keys(&keys)
}
