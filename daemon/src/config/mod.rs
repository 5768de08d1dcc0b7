//! The configuration: one TOML file and `--set` flags in, typed and validated values out.
//!
//! * `source` knows where each value stands, and draws the report.
//! * `reader` takes values out of the tree; `validate`, `members` and `placement` hold every key, range, default and rule.
//! * `schema` is the result; `render` writes it back as TOML; `units` are sizes and periods; `dev` makes the files of a
//!   cluster on one machine.
//!
//! Every problem is reported at once, each with its place, the key, the reason and what would work.

pub mod dev;
mod members;
mod placement;
mod reader;
pub mod render;
pub mod schema;
mod source;
pub mod units;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

pub use schema::{
    Address, ClusterConfig, Config, Cores, Durability, Idle, Member, NodeConfig, NodeId, Placement,
    ProtocolKind, ReadLevel,
};
pub use source::Report;

/// A valid config and what is worth saying about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Warnings; often empty.
    pub warnings: Report,
    /// Full names (`cluster.linger`) of the keys that took their defaults.
    pub defaulted: BTreeSet<String>,
}

impl Loaded {
    /// The effective config as TOML, defaults marked, with the cluster's id and fingerprint on top.
    pub fn print(&self) -> String {
        let cluster = &self.config.cluster;
        let text = render::config(&self.config, &self.defaulted);
        let (id, fingerprint) = (cluster.cluster_id(), cluster.fingerprint());
        format!(
            "# The same on every node: cluster id {id:016x}, fingerprint of [cluster] {fingerprint:016x}\n{text}"
        )
    }
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read the config file {path}: {error}")]
    Unreadable {
        /// As it was named.
        path: PathBuf,
        /// From the system.
        error: io::Error,
    },
    /// Errors, and the warnings beside them.
    #[error("{0}")]
    Invalid(Report),
}

impl LoadError {
    /// The text for standard error, ending with a newline.
    pub fn render(&self, is_terminal: bool) -> String {
        match self {
            LoadError::Invalid(report) => {
                let count = report.error_count();
                let noun = if count == 1 { "error" } else { "errors" };
                format!("{}The configuration has {count} {noun}.\n", report.render(is_terminal))
            }
            LoadError::Unreadable { .. } => format!("{self}\n"),
        }
    }
}

/// Reads the file at `path` and applies `overrides`, each `table.key=value` in TOML; a bare word is taken as a text.
///
/// # Errors
/// If the file cannot be read, or with every problem that the file and the overrides have.
pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded, LoadError> {
    let read = std::fs::read(path).and_then(|bytes| {
        String::from_utf8(bytes).map_err(|error| {
            let text = format!("it is not UTF-8 text (byte {})", error.utf8_error().valid_up_to());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    });
    match read {
        Ok(text) => parse(path, &text, overrides).map_err(LoadError::Invalid),
        Err(error) => Err(LoadError::Unreadable { path: path.to_owned(), error }),
    }
}

/// [`load`] for a text that is at hand. `path` names it in messages and says where relative paths start.
///
/// # Errors
/// With every problem that the text and the overrides have.
pub fn parse(path: &Path, text: &str, overrides: &[String]) -> Result<Loaded, Report> {
    let sources = source::Sources::new(path, text, overrides);
    let tree = match sources.parse() {
        Ok(tree) => tree,
        Err(faults) => return Err(Report::new(sources, faults)),
    };
    let notes = reader::Notes::default();
    let folder = path.parent().unwrap_or(Path::new(""));
    let config = validate::config(&tree, folder, &notes);
    let (diagnostics, defaulted) = notes.into_parts();
    let report = Report::new(sources, diagnostics);
    match config {
        Some(config) if report.error_count() == 0 => Ok(Loaded { config, warnings: report, defaulted }),
        _ => Err(report),
    }
}
