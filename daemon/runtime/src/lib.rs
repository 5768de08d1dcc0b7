//! Drives replicas on real cores: the only user of glommio.
//!
//! What happens to a client's command: `core` receives its bytes from the ring, `clients` understands them and
//! submits them to the pure core (`panch_replica::core`), whose effects leave through `outputs`: to `peers`, into the log
//! (`log_io`), and back to the client.
//!
//! Rules for glommio 0.9 here:
//! * It gives threads and pinning. Sockets, log writes and sleep are on the core's own ring (`panch-ring`).
//! * One task per executor, none spawned after start, which never waits for another; no shared channels, no foreign wakers: a core sleeps in
//!   its own ring.
//! * No glommio type in a public signature.

mod addresses;
mod answering;
mod changes;
mod clients;
mod complaints;
mod core;
pub mod counters;
mod draw;
mod events;
mod identity;
mod inbound;
mod inquiry;
mod log_io;
pub mod log_size;
pub mod machine;
mod memory;
mod node;
mod notes;
pub mod options;
mod outputs;
mod pace;
mod park;
mod past;
mod peers;
pub mod placement;
mod remote;
pub mod salvage;
mod small_file;
mod starts;
mod storage;
mod token;
mod view;

pub use crate::core::{CoreFault, check_port};
pub use crate::identity::{IdentityFault, hold_data_dir};
pub use crate::node::{Node, NodeFault, StopHandle};
pub use crate::salvage::SalvageFault;
pub use panch_ring::ring::RingError;
