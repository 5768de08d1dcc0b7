//! The experiments of panch: what it costs, how it compares, and that it keeps its promises.
//!
//! * programs, run by `panch-bench`: [`ordinary`] and [`side_by_side`] (panch and Redis under the same load, below saturation and at it),
//!   [`cost`] (log writes, packets and system calls per turn), [`memory`] (resident memory against its bars), [`catchup`] (a node that
//!   stood still becomes level again while the load goes on)
//! * [`loopback`]: a cluster in one thread, for the micro-benchmarks (`cargo bench -p panch-bench`) and for the test that
//!   counts allocations

#![deny(
    clippy::print_stderr,
    reason = "it ends the program if nobody reads that; stderr::line of panch-loadgen does not"
)]

pub mod catchup;
pub mod cost;
pub mod failure;
pub mod guard;
pub mod loopback;
pub mod memory;
pub mod nodes;
pub mod ordinary;
mod redis;
mod sample;
pub mod side_by_side;
mod strain;
