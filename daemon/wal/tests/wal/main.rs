//! The log against a disk in memory that loses, tears and reorders what is not yet stable.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "mutants")]
mod mutants;
mod recovery;
mod segments;
mod small_file;
mod support;
mod tear;
mod writing;
