//! The panch daemon: the command line, the configuration and the checks of the machine; the work is done by the layers
//! below it (`panch-runtime` and what that builds on).

pub mod cli;
pub mod config;
pub mod exit;
pub mod host;
pub mod log;
pub mod memory;
mod options;
pub mod run;
pub mod salvage;
pub mod secret;
pub mod status;
