//! What a node and its cores note of its starts: see [`panch_replica::familiarity`].
//!
//! ```text
//! DATA_DIR/starts            the keys of its lives
//! DATA_DIR/core-N.starts     what each found of its log; beside the core's directory: what that loses, the notes do not
//! ```
//! The node notes its start before it names this life to any other node, so that no life is known to others of which it has no
//! key, and starts that come to nothing take no place. A core notes what it found before it writes to its log, in the place of
//! starts that nobody has heard of. One that did not come so far has written nothing, and found what the next start finds.
//!
//! The files are there from the first start on: a node that lacks one has lost it.

use std::path::Path;

use panch_replica::familiarity::{Start, Starts};
use panch_wal::Lsn;
use panch_wire::ids::Incarnation;
use panch_wire::peer::LifeKey;

use crate::identity::IdentityFault;
use crate::memory::with_checksum;
use crate::small_file::{read, replace};

const FORMAT: &str = "format 1\n";

/// The file of the node, or of one of its cores.
pub(crate) fn file_of(core: Option<usize>) -> String {
    core.map_or_else(|| "starts".to_owned(), |core| format!("core-{core}.starts"))
}

/// What is noted.
pub(crate) fn load(directory: &Path, core: Option<usize>) -> Result<Starts, IdentityFault> {
    let path = directory.join(file_of(core));
    match read(&path)? {
        Some(text) => parse(&text).map_err(|line| IdentityFault::Damaged { path, line }),
        None => Ok(Starts::default()),
    }
}

/// Writes what is to be noted, durably.
pub(crate) fn save(directory: &Path, core: Option<usize>, starts: &Starts) -> Result<(), IdentityFault> {
    let name = file_of(core);
    let path = directory.join(&name);
    replace(directory, &name, &render(starts)).map_err(|error| IdentityFault::Io { path, error })
}

/// Notes what `core` found at a start, durably; all that is noted. `was_named`: whether others can have heard of a life.
pub(crate) fn note(
    directory: &Path,
    core: usize,
    start: Start,
    was_named: impl Fn(Incarnation) -> bool,
) -> Result<Starts, IdentityFault> {
    let mut starts = load(directory, Some(core))?;
    starts.add(start, was_named);
    save(directory, Some(core), &starts)?;
    Ok(starts)
}

fn render(starts: &Starts) -> String {
    let mut body = FORMAT.to_owned();
    for Start { incarnation, key, log_end } in starts.iter() {
        let key: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        body += &format!("start {} key {key} end {:#018x}\n", incarnation.0, log_end.0);
    }
    with_checksum(body)
}

/// Parses the file; the number of the first bad line as the error.
fn parse(text: &str) -> Result<Starts, usize> {
    let mut starts = Vec::new();
    for line in text.lines().skip(1).take_while(|line| !line.starts_with("checksum ")) {
        starts.push(parse_start(line).ok_or(starts.len() + 2)?);
    }
    let count = starts.len();
    let starts = Starts::new(starts);
    if render(&starts) == text { Ok(starts) } else { Err(count + 2) }
}

fn parse_start(line: &str) -> Option<Start> {
    let ["start", incarnation, "key", key, "end", end] = line.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    if key.len() != 32 {
        return None;
    }
    let key = u128::from_str_radix(key, 16).ok()?.to_be_bytes();
    let log_end = Lsn(u64::from_str_radix(end.strip_prefix("0x")?, 16).ok()?);
    Some(Start { incarnation: Incarnation(incarnation.parse().ok()?), key: LifeKey(key), log_end })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn start(incarnation: u32) -> Start {
        let key = LifeKey([incarnation as u8 + 0xf0; 16]);
        Start { incarnation: Incarnation(incarnation), key, log_end: Lsn(u64::from(incarnation) << 33) }
    }

    #[test]
    fn every_start_is_noted_and_damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..4 {
            let starts = note(dir.path(), 1, start(number), |_| true).unwrap();
            assert_eq!(starts, Starts::new((1..=number).map(start).collect()));
        }
        let file = dir.path().join("core-1.starts");
        let text = fs::read_to_string(&file).unwrap();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            fs::write(&file, bytes).unwrap();
            let noted = note(dir.path(), 1, start(4), |_| true);
            assert!(matches!(noted, Err(IdentityFault::Damaged { .. })), "flip at {at}");
        }
    }
}
