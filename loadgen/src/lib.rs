//! A load generator that people believe: open loop, latency from when a request was due, and one table.
//!
//! Map:
//! * what is asked, and when: [`workload`], [`keys`], [`schedule`]
//! * asking it: [`engine`] (one io_uring loop per thread), [`connection`], `session` (exactly once), [`resp`], [`preload`]
//! * what came of it: [`record`], [`check`], `audit` (who is asked for it), [`truth`] (the servers' own counters), [`progress`], [`report`],
//!   [`circumstances`], [`spread`] (of several runs), [`json`], [`output`] (where it goes), [`stderr`] (what is said meanwhile)
//! * where: [`cluster`] (a local cluster of processes), [`control`] (single blocking requests), [`host`], [`thread_time`]
//! * the command line: [`cli`], [`quantity`], and the commands, [`local`], [`mod@compare`], [`drive`] (`run`) and [`diff`]

#![deny(clippy::print_stderr, reason = "it ends the program if nobody reads that; stderr::line does not")]

mod audit;
pub mod check;
pub mod circumstances;
pub mod cli;
pub mod cluster;
pub mod compare;
pub mod connection;
pub mod control;
pub mod diff;
mod direct;
pub mod drive;
pub mod engine;
pub mod host;
pub mod json;
pub mod keys;
mod lane;
pub mod local;
pub mod output;
pub mod preload;
pub mod progress;
pub mod quantity;
pub mod record;
pub mod report;
pub mod resp;
pub mod schedule;
mod session;
pub mod spread;
pub mod stderr;
pub mod thread_time;
pub mod truth;
pub mod workload;
