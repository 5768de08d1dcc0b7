//! Small files on a disk that loses and tears whatever is not synced, with errors, kills and power failures at every moment.

use std::io;

use panch_wal::small_file::text_of;
use panch_wal::{SmallDisk, SmallFile, SmallFileFault};
use panch_wire::frame::{PAGE_SIZE, Page};

/// Bytes of text that fit a copy of one page.
const ROOM: usize = 100;

/// The bytes of a file: as processes see them, as they are on stable storage, and the writes that are between the two.
#[derive(Clone, Default)]
struct Bytes {
    seen: Vec<u8>,
    stable: Vec<u8>,
    between: Vec<(usize, Vec<u8>)>,
}

impl Bytes {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.seen, offset, bytes);
        self.between.push((offset, bytes.to_vec()));
    }

    fn sync(&mut self) {
        self.stable.clone_from(&self.seen);
        self.between.clear();
    }

    /// What may be left after a power failure: of every write nothing, a part, or all.
    fn outcomes(&self) -> Vec<Vec<u8>> {
        let mut outcomes = vec![self.stable.clone()];
        for (offset, bytes) in &self.between {
            let before = std::mem::take(&mut outcomes);
            for stable in before {
                for part in [0, 60, bytes.len()] {
                    let mut after = stable.clone();
                    put(&mut after, *offset, &bytes[..part]);
                    outcomes.push(after);
                }
            }
        }
        outcomes
    }
}

fn put(into: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    into.resize(into.len().max(offset + bytes.len()), 0);
    into[offset..][..bytes.len()].copy_from_slice(bytes);
}

/// A disk with one small file. An operation fails after so many others, half done.
#[derive(Clone, Default)]
struct Disk {
    files: Vec<Bytes>,
    /// By name: the file, the new one beside it; and as they are on stable storage.
    names: [Option<usize>; 2],
    stable_names: [Option<usize>; 2],
    left: Option<usize>,
    /// Operations that need room on the disk.
    made: usize,
}

impl Disk {
    /// True if the operation is to be done.
    fn step(&mut self) -> io::Result<bool> {
        match &mut self.left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => Ok(true),
        }
    }

    fn end(done: bool) -> io::Result<()> {
        if done { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
    }

    fn file(&mut self, name: usize) -> io::Result<&mut Bytes> {
        let file = self.names[name].ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.files[file])
    }

    /// What may be left after a power failure.
    fn outcomes(&self) -> Vec<Self> {
        let mut disks = Vec::new();
        let names = [self.names, self.stable_names];
        for names in &names[..if names[0] == names[1] { 1 } else { 2 }] {
            let Some(file) = names[0] else {
                disks.push(Self { names: *names, stable_names: *names, left: None, ..self.clone() });
                continue;
            };
            for bytes in self.files[file].outcomes() {
                let mut disk = Self { names: *names, stable_names: *names, left: None, ..self.clone() };
                disk.files[file] = Bytes { seen: bytes.clone(), stable: bytes, between: Vec::new() };
                disks.push(disk);
            }
        }
        disks
    }
}

impl SmallDisk for Disk {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.names[0].map(|file| self.files[file].seen.clone()))
    }

    fn write(&mut self, offset: u64, pages: &[Page]) -> io::Result<()> {
        let is_done = self.step()?;
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.0).collect();
        let bytes = if is_done { &bytes[..] } else { &bytes[..60] };
        self.file(0)?.write(offset as usize, bytes);
        Self::end(is_done)
    }

    fn sync(&mut self) -> io::Result<()> {
        let is_done = self.step()?;
        if is_done {
            self.file(0)?.sync();
        }
        Self::end(is_done)
    }

    fn make(&mut self, pages: &[Page]) -> io::Result<()> {
        let is_done = self.step()?;
        self.made += 1;
        self.files.push(Bytes::default());
        self.names[1] = Some(self.files.len() - 1);
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.0).collect();
        let bytes = if is_done { &bytes[..] } else { &bytes[..60] };
        self.file(1)?.write(0, bytes);
        Self::end(is_done)
    }

    fn sync_new(&mut self) -> io::Result<()> {
        let is_done = self.step()?;
        if is_done {
            self.file(1)?.sync();
        }
        Self::end(is_done)
    }

    fn rename_new(&mut self) -> io::Result<()> {
        let is_done = self.step()?;
        if is_done {
            self.names = [self.names[1], None];
        }
        Self::end(is_done)
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let is_done = self.step()?;
        if is_done {
            self.stable_names = self.names;
        }
        Self::end(is_done)
    }
}

/// A node that keeps a text in a small file.
#[derive(Clone)]
struct Node {
    disk: Disk,
    file: SmallFile,
    /// What the file must not go back behind: written, or read. `None`: nothing was.
    text: Option<Vec<u8>>,
    /// A change that failed: it may have happened.
    tried: Vec<Vec<u8>>,
}

/// How often something fails in one history.
const FAULTS: usize = 3;

/// Stores texts one after the other, with faults at every moment. An error says what was lost.
pub(crate) fn live_through_everything() -> Result<(), String> {
    let mut count = 0;
    // A new file, one of an earlier version, and one with two copies.
    for (before, stored) in [(None, false), (Some("format 6\nbefore\n"), false), (None, true)] {
        let mut disk = Disk::default();
        if let Some(text) = before {
            disk.files.push(Bytes { seen: text.into(), stable: text.into(), between: Vec::new() });
            (disk.names[0], disk.stable_names[0]) = (Some(0), Some(0));
        }
        let (mut file, text) = SmallFile::read(&mut disk, ROOM).map_err(|fault| format!("{fault:?}"))?;
        let mut text = text;
        if stored {
            file.store(&mut disk, b"first").map_err(|error| error.to_string())?;
            text = Some(b"first".to_vec());
        }
        let node = Node { disk, file, text, tried: Vec::new() };
        go_on(&node, 0, &mut count)?;
    }
    assert!(count > 1000, "{count} histories only");
    Ok(())
}

/// The next change, with a fault of each kind in each of its operations.
fn go_on(node: &Node, faults: usize, count: &mut usize) -> Result<(), String> {
    *count += 1;
    let change = format!("change {faults}{}", ["", " and more"][faults % 2]);
    for left in 0.. {
        let mut next = node.clone();
        next.disk.left = Some(left);
        let result = next.file.store(&mut next.disk, change.as_bytes());
        next.disk.left = None;
        if result.is_ok() {
            next.text = Some(change.into_bytes());
            next.tried.clear();
            // The power may fail right after.
            return restart_after_power(&next, FAULTS, count);
        }
        next.tried.push(change.clone().into_bytes());
        if faults == FAULTS {
            continue;
        }
        // The process goes on; it is killed; the power fails.
        go_on(&next, faults + 1, count)?;
        restart(&next, next.disk.clone(), faults + 1, count)?;
        restart_after_power(&next, faults + 1, count)?;
    }
    Ok(())
}

fn restart_after_power(node: &Node, faults: usize, count: &mut usize) -> Result<(), String> {
    node.disk.outcomes().into_iter().try_for_each(|disk| restart(node, disk, faults, count))
}

/// A process reads the file; what it finds must be what counted last, or what was tried since.
fn restart(node: &Node, mut disk: Disk, faults: usize, count: &mut usize) -> Result<(), String> {
    *count += 1;
    let found = SmallFile::read(&mut disk, ROOM);
    let (file, text) = found.map_err(|fault| format!("after {:?}: {fault:?}", node.text))?;
    let is_known = text == node.text || text.as_ref().is_some_and(|text| node.tried.contains(text));
    if !is_known {
        let shown = |text: &Vec<u8>| String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
        let (found, known) = (text.as_ref().map(shown), node.text.as_ref().map(shown));
        return Err(format!("found {found:?} where {known:?} had been written or read"));
    }
    let next = Node { disk, file, text, tried: Vec::new() };
    if faults < FAULTS {
        return go_on(&next, faults, count);
    }
    // What was read stays.
    for mut disk in next.disk.outcomes() {
        let (_, text) = SmallFile::read(&mut disk, ROOM).map_err(|fault| format!("{fault:?}"))?;
        if text != next.text {
            return Err("what was read is gone after a power failure".into());
        }
    }
    Ok(())
}

#[test]
fn a_small_file_is_the_one_before_or_the_new_one_whatever_fails_and_does_not_go_back() {
    live_through_everything().unwrap();
}

fn stored(texts: &[&str]) -> (Disk, SmallFile) {
    let mut disk = Disk::default();
    let (mut file, _) = SmallFile::read(&mut disk, ROOM).unwrap();
    for text in texts {
        file.store(&mut disk, text.as_bytes()).unwrap();
    }
    (disk, file)
}

#[test]
fn only_a_file_that_is_new_or_outgrows_its_room_needs_room_on_the_disk() {
    let (mut disk, mut file) = stored(&["one", "two", &"x".repeat(PAGE_SIZE - 74)]);
    assert_eq!((disk.made, file.has_room()), (1, true));
    let long = "y".repeat(PAGE_SIZE - 73);
    file.store(&mut disk, long.as_bytes()).unwrap();
    assert_eq!(disk.made, 2);
    for text in ["short", &long] {
        file.store(&mut disk, text.as_bytes()).unwrap();
        let (again, found) = SmallFile::read(&mut disk, ROOM).unwrap();
        assert_eq!((found.as_deref(), disk.made), (Some(text.as_bytes()), 2));
        assert!(again.has_room());
    }
    assert!(!SmallFile::read(&mut disk, 3 * PAGE_SIZE).unwrap().0.has_room(), "a later version wants more");
}

#[test]
fn a_copy_that_rots_is_made_good_by_the_other_and_if_both_do_nothing_is_made_up() {
    let (mut disk, _) = stored(&["one", "two"]);
    let sound = disk.files[0].seen.clone();
    for at in 0..sound.len() {
        disk.files[0].seen[at] ^= 1;
        let (_, text) = SmallFile::read(&mut disk, ROOM).unwrap();
        assert_eq!(text.as_deref(), Some(&b"two"[..]), "a flip at {at}");
        disk.files[0].seen.clone_from(&sound);
    }
    let size = sound.len() / 2;
    // Of the layout, a later one is said.
    for at in 0..74 + 3 {
        disk.files[0].seen.clone_from(&sound);
        disk.files[0].seen[at] ^= 1;
        disk.files[0].seen[size + at] ^= 1;
        if let Ok((file, text)) = SmallFile::read(&mut disk, ROOM) {
            assert_eq!(
                text.as_ref(),
                Some(&disk.files[0].seen),
                "a flip at {at}: as it is, for whoever knows what it should be"
            );
            assert!(!file.has_room() && text_of(&disk.files[0].seen).is_none_or(|_| at < 7));
        }
    }
}

#[test]
fn a_file_of_a_later_layout_says_so() {
    let (mut disk, _) = stored(&["one"]);
    let size = disk.files[0].seen.len() / 2;
    for copy in 0..2 {
        disk.files[0].seen[copy * size + 7] = b'2';
    }
    assert!(matches!(SmallFile::read(&mut disk, ROOM), Err(SmallFileFault::Later(2))));
}

#[test]
fn the_text_of_any_version_can_be_looked_at() {
    let (disk, _) = stored(&["one", "two"]);
    assert_eq!(text_of(&disk.files[0].seen).unwrap(), b"two");
    assert_eq!(text_of(b"format 6\n").unwrap(), b"format 6\n");
    assert_eq!(text_of(&[0; 2 * PAGE_SIZE]), None);
}
