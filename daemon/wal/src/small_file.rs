//! Small files that are replaced as a whole, durably, in the room that they have: a full disk stops none of them.
//!
//! A file holds its text twice, in two copies of the same size, which is set aside when the file is made. A change is written
//! over one copy, synced, written over the other one, and synced; then it counts. So no change needs a block that the file does
//! not have, on a file system that writes in place (ext4, XFS without shared blocks).
//! ```text
//! copy: `copies 1 serial 0x.. size 0x.. sum 0x..` and a line feed | the text | zeros
//! ```
//!
//! Invariants:
//! * Of the two copies at least one is whole and on stable storage at any moment: one that is not whole is written first. So a
//!   torn write leaves the other one.
//! * Once a change counts, both copies hold it, and one that rots is made good by the other.
//! * What was read counts from then on: it is synced before it is returned, since who wrote it may have ended in between.
//! * A text that does not fit, or a file of an earlier version, which holds its text once, is replaced by a new file: written beside, synced,
//!   renamed, and the name synced. Only that needs room on the disk.

use std::io;
use std::ops::Range;

use panch_wire::checksum::checksum;
use panch_wire::frame::{PAGE_SIZE, Page, pages_for};
use panch_wire::rule::{Rule, holds};

/// What a copy begins with; then its layout.
const MAGIC: &str = "copies ";
/// The layout of a copy.
const LAYOUT: u64 = 1;
/// Bytes of a copy before its text.
const HEADER_SIZE: usize = 74;
/// Bytes of the header that the checksum covers: it covers them and the text.
const SUMMED: Range<usize> = 0..50;

/// What a file system does for one small file. None of the calls needs to be atomic, or durable before the next sync.
pub trait SmallDisk {
    /// All bytes of the file; `None` if it is not there.
    ///
    /// # Errors
    /// As read(2).
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;
    /// Writes pages within the file, in place.
    ///
    /// # Errors
    /// As pwrite(2).
    fn write(&mut self, offset: u64, pages: &[Page]) -> io::Result<()>;
    /// What was written in place is on stable storage when it returns.
    ///
    /// # Errors
    /// As fdatasync(2).
    fn sync(&mut self) -> io::Result<()>;
    /// Makes a new file of these pages beside the file, in place of one that an earlier try has left.
    ///
    /// # Errors
    /// As open(2) and write(2).
    fn make(&mut self, pages: &[Page]) -> io::Result<()>;
    /// The new file is on stable storage when it returns, but for its name.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync_new(&mut self) -> io::Result<()>;
    /// The new file takes the name of the file.
    ///
    /// # Errors
    /// As rename(2).
    fn rename_new(&mut self) -> io::Result<()>;
    /// The names of both are on stable storage when it returns.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync_names(&mut self) -> io::Result<()>;
}

/// What is wrong with a small file, or with reading it.
#[derive(Debug)]
pub enum SmallFileFault {
    /// It cannot be read.
    Io(io::Error),
    /// A later version has written it: its layout.
    Later(u64),
}

/// A small file: see the module.
#[derive(Clone, Debug)]
pub struct SmallFile {
    /// `None`: there is no file, or none with two copies, or nobody knows which one has its name. It is made anew by the next change.
    copies: Option<Copies>,
    /// Bytes of text for which a copy has room in a file that is made anew.
    room: usize,
}

/// The two copies in a file.
#[derive(Clone, Debug)]
struct Copies {
    serial: u64,
    pages: usize,
    /// Which of them hold the last text, on stable storage.
    whole: [bool; 2],
}

impl SmallFile {
    /// Reads the file; its text as well, `None` if it is not there. Of a file of an earlier version the text is all that is in it. `room`:
    /// bytes of text for which a copy shall have room, if the file has to be made anew.
    ///
    /// # Errors
    /// See [`SmallFileFault`]. A file in which neither copy is whole is no error: it is returned as it is, and no text of anything.
    pub fn read(disk: &mut impl SmallDisk, room: usize) -> Result<(Self, Option<Vec<u8>>), SmallFileFault> {
        let Some(bytes) = disk.read().map_err(SmallFileFault::Io)? else {
            return Ok((Self { copies: None, room }, None));
        };
        if holds(Rule::SmallFileSyncedWhenRead) {
            disk.sync().and_then(|()| disk.sync_names()).map_err(SmallFileFault::Io)?;
        }
        match Copies::find(&bytes)? {
            Some((copies, text)) => Ok((Self { copies: Some(copies), room }, Some(text))),
            None => Ok((Self { copies: None, room }, Some(bytes))),
        }
    }

    /// Whether the next change of a text of at most the room needs none on the disk.
    pub fn has_room(&self) -> bool {
        self.copies.as_ref().is_some_and(|copies| copies.pages >= pages_for(HEADER_SIZE + self.room))
    }

    /// Replaces the text, for good once this returns. After an error the file holds the text before or this one.
    ///
    /// # Errors
    /// As the calls of `disk`.
    pub fn store(&mut self, disk: &mut impl SmallDisk, text: &[u8]) -> io::Result<()> {
        let wanted = pages_for(HEADER_SIZE + text.len());
        match &mut self.copies {
            Some(copies) if wanted <= copies.pages => copies.store(disk, text),
            _ => self.make(disk, text),
        }
    }

    fn make(&mut self, disk: &mut impl SmallDisk, text: &[u8]) -> io::Result<()> {
        // Until the names are durable nobody knows which file has the name: no change may go into either.
        self.copies = None;
        let pages = pages_for(HEADER_SIZE + text.len().max(self.room));
        let mut copy = encode(1, text);
        copy.resize(pages, Page([0; PAGE_SIZE]));
        disk.make(&copy.repeat(2))?;
        if holds(Rule::SmallFileSyncedBeforeRenamed) {
            disk.sync_new()?;
        }
        disk.rename_new()?;
        if holds(Rule::SmallFileNameSynced) {
            disk.sync_names()?;
        }
        self.copies = Some(Copies { serial: 1, pages, whole: [true; 2] });
        Ok(())
    }
}

impl Copies {
    /// The copies in a file, and the newer text of them; `None` if there are none.
    fn find(file: &[u8]) -> Result<Option<(Self, Vec<u8>)>, SmallFileFault> {
        let size = file.len() / 2;
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) || file.len() != 2 * size {
            return Ok(None);
        }
        let (mut newest, mut later): (Option<(Self, &[u8])>, _) = (None, None);
        for (place, copy) in file.chunks(size).enumerate() {
            let (serial, text) = match decode(copy) {
                Copy::Whole(serial, text) => (serial, text),
                Copy::Later(layout) => {
                    later = Some(layout);
                    continue;
                }
                Copy::Damaged => continue,
            };
            match &mut newest {
                Some((copies, _)) if copies.serial > serial => {}
                // The same text: nothing but a copy of another serial number can differ.
                Some((copies, _)) if copies.serial == serial => copies.whole[place] = true,
                _ => {
                    let mut copies = Self { serial, pages: size / PAGE_SIZE, whole: [false; 2] };
                    copies.whole[place] = true;
                    newest = Some((copies, text));
                }
            }
        }
        match (newest, later) {
            (None, Some(layout)) => Err(SmallFileFault::Later(layout)),
            (newest, _) => Ok(newest.map(|(copies, text)| (copies, text.to_vec()))),
        }
    }

    fn store(&mut self, disk: &mut impl SmallDisk, text: &[u8]) -> io::Result<()> {
        // One that a failed change has left is not told from one of this change by its number.
        self.serial += 1;
        let pages = encode(self.serial, text);
        let first = usize::from(self.whole[0] && holds(Rule::SmallFileWholeCopyStays));
        for place in [first, 1 - first] {
            self.whole[place] = false;
            disk.write((place * self.pages * PAGE_SIZE) as u64, &pages)?;
            if holds(Rule::SmallFileCopiesInTurn) {
                disk.sync()?;
            }
            self.whole[place] = true;
        }
        Ok(())
    }
}

/// The pages of a copy that its text takes up.
fn encode(serial: u64, text: &[u8]) -> Vec<Page> {
    let header = format!("{MAGIC}{LAYOUT} serial {serial:#018x} size {:#010x}", text.len());
    debug_assert_eq!(header.len(), SUMMED.end);
    let sum = checksum(&[header.as_bytes(), text].concat());
    let bytes = [format!("{header} sum {sum:#018x}\n").as_bytes(), text].concat();
    let mut pages = vec![Page([0; PAGE_SIZE]); pages_for(bytes.len())];
    for (page, part) in pages.iter_mut().zip(bytes.chunks(PAGE_SIZE)) {
        page.0[..part.len()].copy_from_slice(part);
    }
    pages
}

/// What a copy turns out to be.
enum Copy<'a> {
    /// Its serial number and its text.
    Whole(u64, &'a [u8]),
    /// Of a later layout, as far as it can be told without a checksum.
    Later(u64),
    Damaged,
}

fn decode(copy: &[u8]) -> Copy<'_> {
    let Some((header, rest)) = copy.split_at_checked(HEADER_SIZE) else { return Copy::Damaged };
    let Some((layout, fields)) = layout_of(copy) else { return Copy::Damaged };
    if layout != LAYOUT {
        return if layout > LAYOUT { Copy::Later(layout) } else { Copy::Damaged };
    }
    let read = || {
        let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let ["serial", serial, "size", size, "sum", sum] = fields.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let text = rest.get(..usize::try_from(hex(size)?).ok()?)?;
        let is_whole = hex(sum)? == checksum(&[&header[SUMMED], text].concat());
        is_whole.then_some((hex(serial)?, text))
    };
    read().map_or(Copy::Damaged, |(serial, text)| Copy::Whole(serial, text))
}

/// The layout in the first line of a copy, and what comes after it.
fn layout_of(copy: &[u8]) -> Option<(u64, &str)> {
    let line = copy.split(|byte| *byte == b'\n').next()?;
    let (layout, fields) = std::str::from_utf8(line).ok()?.strip_prefix(MAGIC)?.split_once(' ')?;
    Some((layout.parse().ok()?, fields))
}

/// The text in the bytes of a small file, whichever version has written it, for tools that only look: `None` if no copy is whole.
pub fn text_of(file: &[u8]) -> Option<Vec<u8>> {
    match Copies::find(file) {
        Ok(Some((_, text))) => Some(text),
        Ok(None) if !file.starts_with(MAGIC.as_bytes()) && !file.starts_with(&[0]) => Some(file.to_vec()),
        _ => None,
    }
}
