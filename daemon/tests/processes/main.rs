//! Whole processes on real sockets and disks: what operators and clients do with a cluster, and what must come of it.
//!
//! One program, so that tests wait side by side, and all that they share is built once. `cargo test -p panchd --test processes kill`
//! runs those of one file.

mod acts;
mod answers;
mod bad_input;
mod bad_start;
mod catch_up;
mod client_memory;
mod commit;
mod common;
mod confined;
mod data_memory;
mod deadlines;
mod dev;
mod differential;
mod direct;
mod divergence;
mod events;
mod exactly_once;
mod first_start;
mod gray;
mod kill;
mod limits;
mod names;
mod protocols;
mod redis_clients;
mod rejoin;
mod restored;
mod salvage;
mod signals;
mod small_files;
mod status;
mod stop;
mod transactions;
mod unread;
