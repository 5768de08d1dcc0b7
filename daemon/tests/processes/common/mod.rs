//! What the tests of whole processes share: a cluster of `panchd run` on loopback with data on disk, clients that record
//! what they saw, and the checks of it.
//!
//! * Nothing outlives a test: nodes are killed when the cluster is dropped, and by the kernel when the test's thread dies.
//!   So nodes are started on the test's own thread only.
//! * When a test fails, the tail of every node's standard error is part of its output.

#![allow(unreachable_pub, reason = "all of it is for the files beside it")]

pub mod cluster;
pub mod confined;
pub mod dev;
pub mod direct;
pub mod disk;
pub mod hosts;
pub mod info;
pub mod links;
pub mod load;
pub mod machine;
pub mod peer;
pub mod ports;
pub mod raw;
pub mod session;

pub use cluster::{Cluster, Settings};
pub use confined::Confined;
pub use hosts::Hosts;
pub use info::Info;
pub use load::{Load, LoadOptions};
pub use raw::Raw;

use std::time::{Duration, Instant};

/// Asks until there is an answer.
///
/// # Panics
/// With `what` if there is none within `patience`.
pub fn eventually<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Numbers that look random and are the same in every run.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
