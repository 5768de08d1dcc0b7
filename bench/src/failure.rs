//! Why an experiment came to no result.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use panch_loadgen::cluster::ClusterError;
use panch_loadgen::engine::EngineError;
use panch_loadgen::output::OutputError;
use panch_loadgen::quantity::Count;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Options that do not fit.
    #[error("{0}")]
    Usage(String),
    /// A program that is needed is not installed.
    #[error("{0}")]
    Missing(String),
    /// The nodes of panch.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The load.
    #[error(transparent)]
    Load(#[from] EngineError),
    /// A file, a process.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
    /// Where the report was to go.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Something happened that makes the numbers worthless.
    #[error("{0}")]
    Spoilt(String),
    /// Stopped on purpose.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// The exit code that tells it, after `sysexits.h`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Missing(_) | Self::Cluster(ClusterError::NoDaemon(_)) => 69,
            Self::Interrupted
            | Self::Cluster(ClusterError::Interrupted)
            | Self::Load(EngineError::Interrupted) => 130,
            Self::Spoilt(_) => 1,
            Self::Cluster(_) | Self::Load(_) | Self::Io { .. } | Self::Output(_) => 74,
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

/// Refuses an option of which nothing would be measured.
pub(crate) fn above_zero(count: Count, option: &str) -> Result<(), Failure> {
    if count.0 == 0 {
        return Err(Failure::Usage(format!("{option} must be above zero: of nothing, nothing is measured")));
    }
    Ok(())
}

/// Ends the experiment here if a stop was asked for.
pub(crate) fn check(stop: &AtomicBool) -> Result<(), Failure> {
    if stop.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
}
