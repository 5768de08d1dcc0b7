//! How a measurement came to be: which program, when, with which arguments. Both kinds of report have it.
//!
//! Invariant: what is not known, because an older version wrote the report, is absent.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::host;

/// What a report says of how it came to be.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Circumstances {
    /// The version of panch-loadgen.
    pub loadgen_version: Option<String>,
    /// The commit that it was built from, as far as that can be known: see [`host::commit`].
    pub commit: Option<String>,
    /// When it was started, in UTC and whole seconds, after RFC 3339: `2026-01-31T23:59:59Z`.
    pub started_at: Option<String>,
    /// The same, in nanoseconds since 1970 began.
    pub started_unix_ns: Option<u64>,
    /// The arguments on its command line, its own name left out.
    pub arguments: Vec<String>,
}

impl Circumstances {
    /// Of this process, started now with these arguments.
    pub fn now(arguments: impl IntoIterator<Item = String>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            loadgen_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            commit: host::commit(),
            started_at: host::utc(since.as_secs()),
            started_unix_ns: u64::try_from(since.as_nanos()).ok(),
            arguments: arguments.into_iter().collect(),
        }
    }

    /// Lines of name and value for people; `servers` are the versions that the servers name.
    pub fn facts(&self, servers: &[String]) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        let mut versions: Vec<String> =
            self.loadgen_version.iter().map(|version| format!("panch-loadgen {version}")).collect();
        if !servers.is_empty() {
            versions.push(format!("servers {}", servers.join(", ")));
        }
        if !versions.is_empty() {
            facts.push(("versions".to_owned(), versions.join("; ")));
        }
        facts.extend(self.started_at.iter().map(|at| ("started".to_owned(), at.clone())));
        facts
    }
}

/// How the program ended, with the numbers that a report has.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// The exit code.
    #[serde(rename = "exit_code")]
    pub code: u8,
    /// What it means, in a sentence.
    #[serde(rename = "exit_meaning")]
    pub meaning: String,
}

impl Exit {
    /// Of a measurement: whether it was stopped, whether nothing went wrong, and whether the generator may have been the limit. The first
    /// of these decides.
    pub fn of(is_interrupted: bool, is_clean: bool, is_limited: bool) -> Self {
        use crate::cli::{EXIT_INTERRUPTED, EXIT_NO_VERDICT, EXIT_UNCLEAN};
        let (code, meaning) = match (is_interrupted, is_clean, is_limited) {
            (true, _, _) => (EXIT_INTERRUPTED, "interrupted: stopped before its end"),
            (false, false, _) => {
                (EXIT_UNCLEAN, "unclean: something failed, was not sent, or was not audited")
            }
            (false, true, true) => {
                (EXIT_NO_VERDICT, "no verdict: clean, but the load generator may have been the limit")
            }
            (false, true, false) => (0, "clean: everything that was due was sent and succeeded"),
        };
        Self { code, meaning: meaning.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circumstances_name_the_version_the_time_and_the_arguments() {
        let circumstances = Circumstances::now(["run".to_owned()]);
        let seconds = circumstances.started_unix_ns.unwrap() / 1_000_000_000;
        assert_eq!(circumstances.started_at, host::utc(seconds));
        assert_eq!(circumstances.arguments, ["run"]);
        let facts = circumstances.facts(&["panch 0.1.0".to_owned()]);
        assert_eq!(facts[0].1, format!("panch-loadgen {}; servers panch 0.1.0", env!("CARGO_PKG_VERSION")));
        assert_eq!(Circumstances::default().facts(&[]), []);
    }

    #[test]
    fn what_is_worst_decides_how_it_ended() {
        let code = |interrupted, clean, limited| Exit::of(interrupted, clean, limited).code;
        assert_eq!((code(false, true, false), code(false, true, true), code(false, false, true)), (0, 3, 1));
        assert_eq!(code(true, false, true), 130);
    }
}
