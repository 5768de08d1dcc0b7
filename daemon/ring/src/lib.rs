//! Every `unsafe` line of the data plane: one io_uring per core, its buffers and sockets, log-file I/O, and the
//! cross-core mesh with its doorbell. Safe to callers, and free of any executor.
//!
//! Map:
//! * [`ring`]: the [`Ring`](ring::Ring) itself: set-up, submission, parking, and operations on sockets and log files.
//! * [`event`]: what a ring reports ([`Event`](event::Event)).
//! * [`buffers`]: receive buffers shared with the kernel, and the pool of send buffers.
//! * [`parts`]: scatter lists for sends and log writes.
//! * [`socket`], [`file`](mod@file): blocking helpers that make the descriptors a ring works on.
//! * [`mesh`], [`doorbell`]: parcels between cores, and waking a core that sleeps.
//! * [`clock`]: the monotonic clock that deadlines are counted on.
//!
//! A core's turn:
//! ```no_run
//! # use panch_ring::{event::Event, mesh, ring::{Ring, RingConfig}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let port = mesh::connect::<u64>(1, 1024)?.remove(0);
//! let mut ring = Ring::new(&RingConfig::default(), port.doorbell().clone())?;
//! loop {
//!     while let Some(event) = ring.next_event() {
//!         if let Event::Received { bytes, .. } = event { /* parse `bytes`; dropping it returns the buffer */ }
//!     }
//!     port.drain(|_from, _parcel| {});
//!     ring.submit()?;
//!     ring.wait_while(None, || port.is_empty())?;
//! # break Ok(());
//! }
//! # }
//! ```
//!
//! The lost-wake-up proof: `RUSTFLAGS="--cfg loom" cargo test -p panch-ring --release loom`.
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod buffers;
pub mod clock;
pub mod doorbell;
pub mod event;
pub mod file;
mod mapping;
pub mod mesh;
mod op;
mod park;
pub mod parts;
pub mod ring;
mod slab;
pub mod socket;
