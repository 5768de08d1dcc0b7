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

use panch_replica::familiarity::{STARTS_MAX, Start, Starts};
use panch_wal::Lsn;
use panch_wire::ids::Incarnation;
use panch_wire::peer::LifeKey;

use crate::identity::IdentityFault;
use crate::memory::with_checksum;
use crate::small_file::{SmallFile, is_later};

const FORMAT: &str = "format 1\n";
/// The number in it.
const FORMAT_NUMBER: u64 = 1;
/// The longest text, in bytes.
const SIZE_MAX: usize = 64 + STARTS_MAX * 80;

/// The file of the node, or of one of its cores.
pub(crate) fn file_of(core: Option<usize>) -> String {
    core.map_or_else(|| "starts".to_owned(), |core| format!("core-{core}.starts"))
}

/// The file, and what is noted in it.
pub(crate) fn open(directory: &Path, core: Option<usize>) -> Result<(SmallFile, Starts), IdentityFault> {
    let path = directory.join(file_of(core));
    let (file, text) = SmallFile::open(path.clone(), SIZE_MAX)?;
    let starts = match text {
        Some(text) if is_later(&text, FORMAT_NUMBER) => return Err(IdentityFault::Later(path)),
        Some(text) => parse(&text).map_err(|line| IdentityFault::Damaged { path, line })?,
        None => Starts::default(),
    };
    Ok((file, starts))
}

/// Writes what is to be noted, durably.
pub(crate) fn save(file: &mut SmallFile, starts: &Starts) -> Result<(), IdentityFault> {
    file.store(&render(starts))
}

/// Notes what `core` found at a start, durably; all that is noted. `was_named`: whether others can have heard of a life.
pub(crate) fn note(
    directory: &Path,
    core: usize,
    start: Start,
    was_named: impl Fn(Incarnation) -> bool,
) -> Result<Starts, IdentityFault> {
    let (mut file, mut starts) = open(directory, Some(core))?;
    starts.add(start, was_named);
    save(&mut file, &starts)?;
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
        let key = LifeKey([incarnation as u8 | 0xf0; 16]);
        Start { incarnation: Incarnation(incarnation), key, log_end: Lsn(u64::from(incarnation) << 32) }
    }

    #[test]
    fn every_start_is_noted_and_damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..4 {
            let starts = note(dir.path(), 1, start(number), |_| true).unwrap();
            assert_eq!(starts, Starts::new((1..=number).map(start).collect()));
        }
        // As an earlier version has it: once.
        let file = dir.path().join("core-1.starts");
        let text = render(&Starts::new((1..4).map(start).collect()));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            fs::write(&file, bytes).unwrap();
            let noted = note(dir.path(), 1, start(4), |_| true);
            let is_refused = matches!(noted, Err(IdentityFault::Damaged { .. } | IdentityFault::Later(_)));
            assert!(is_refused, "flip at {at}");
        }
        fs::write(&file, &text).unwrap();
        assert_eq!(note(dir.path(), 1, start(4), |_| true).unwrap().iter().count(), 4);
        assert!(open(dir.path(), Some(1)).unwrap().0.has_room());
    }

    #[test]
    fn the_longest_text_fits_its_room() {
        let all =
            (0..STARTS_MAX as u32).map(|number| Start { log_end: Lsn(u64::MAX), ..start(u32::MAX - number) });
        assert!(render(&Starts::new(all.collect())).len() <= SIZE_MAX);
    }
}
