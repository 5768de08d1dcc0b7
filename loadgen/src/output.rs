//! Where a report goes: the table to standard output, and JSON to a file if one is named; or JSON to standard output and the table to
//! standard error.
//!
//! Invariants:
//! * A path that cannot be written costs no measurement: it is opened before.
//! * The table comes first: it is shown even if the rest cannot be written, or nobody reads it yet.
//! * Whoever stops reading, as `head` does, makes nothing fail.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{compare, host, json};

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub struct OutputError {
    what: String,
    error: io::Error,
}

impl OutputError {
    fn new(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self { what, error }
    }
}

/// The places that a report goes to.
pub struct Output(Place);

enum Place {
    Table,
    TableAndFile(PathBuf, File),
    Json,
}

impl Output {
    /// For the path that `--json` names, if it does: `-` is standard output. Call it before anything is measured, and before signals are
    /// handled: a pipe that nobody reads yet is waited for.
    ///
    /// The file stays open, because whoever reads a pipe takes its being closed for the end; and what it holds stays until there is a
    /// report.
    ///
    /// # Errors
    /// If the path cannot be written.
    pub fn new(path: Option<&Path>) -> Result<Self, OutputError> {
        let Some(path) = path else { return Ok(Self(Place::Table)) };
        if path == Path::new("-") {
            return Ok(Self(Place::Json));
        }
        let opened = File::options().create(true).write(true).truncate(false).open(path);
        let what = format!("cannot write {}, named by --json", path.display());
        Ok(Self(Place::TableAndFile(path.to_owned(), opened.map_err(OutputError::new(what))?)))
    }

    /// Writes `report`, of which `table` makes a text of at most so many columns, for a terminal or not.
    ///
    /// # Errors
    /// If something cannot be written; the rest is.
    pub fn write(
        self,
        report: &impl Serialize,
        table: impl FnOnce(usize, bool) -> String,
    ) -> Result<(), OutputError> {
        let (out, error) = (&mut io::stdout().lock(), &mut io::stderr().lock());
        let has_color = |is_terminal: bool| is_terminal && std::env::var_os("NO_COLOR").is_none();
        let shown = if matches!(self.0, Place::Json) {
            print(error, &table(compare::table::WIDE, has_color(error.is_terminal())))
        } else {
            let width = host::terminal_width().unwrap_or(compare::table::WIDE);
            print(out, &table(width, has_color(out.is_terminal())))
        };
        match self.0 {
            Place::Table => shown,
            Place::TableAndFile(path, file) => {
                let written = replace(file, &json::render(report));
                written.map_err(OutputError::new(format!("cannot write {}", path.display()))).and(shown)
            }
            Place::Json => print(out, &json::render(report)).and(shown),
        }
    }
}

/// Writes `text` instead of what `file` holds; of a pipe, or whatever else holds nothing, behind what was written before.
fn replace(mut file: File, text: &str) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(text.as_bytes())
}

/// Writes a text at once.
///
/// # Errors
/// If it cannot be written, for another reason than that nobody reads it.
pub fn print(out: &mut impl Write, text: &str) -> Result<(), OutputError> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(OutputError::new("cannot write the report")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_cannot_be_written_is_named_and_one_that_can_keeps_what_it_holds_until_there_is_a_report() {
        let folder = tempfile::tempdir().unwrap();
        let error = Output::new(Some(folder.path())).err().unwrap().to_string();
        assert!(error.contains(&folder.path().display().to_string()) && error.contains("--json"), "{error}");
        let path = folder.path().join("report.json");
        std::fs::write(&path, "what was there before, and is longer").unwrap();
        let output = Output::new(Some(&path)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().len(), 36);
        output.write(&[1, 2], |_, _| String::new()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[1,2]\n");
    }

    #[test]
    fn nobody_has_to_read_to_the_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        print(&mut writer, "text").unwrap();
    }
}
