//! The data folder: may it be written, does it take direct writes, how long does a durable one take, is there room?

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use panch_wire::frame::{PAGE_SIZE, Page};

use super::{Finding, log_size, rounded, sys};
use crate::config::units::Size;
use crate::config::{Durability, NodeConfig};
use crate::exit::Exit;

const WHAT: &str = "data folder";
const WRITE_COUNT: usize = 50;
/// Above this a disk is too slow for what people expect of a commit.
const WRITE_SLOW: Duration = Duration::from_millis(20);
/// Segments that a core has at the least: the current one, a spare, and one that is being released.
const SEGMENTS_MIN: u64 = 3;

pub(super) fn examine(node: &NodeConfig, cores: u64) -> Vec<Finding> {
    let folder = match existing(&node.data_dir) {
        Some(folder) if folder.is_dir() => folder,
        other => {
            let text = match other {
                Some(file) => format!("{} is not a folder", file.display()),
                None => format!("{} has no existing parent folder", node.data_dir.display()),
            };
            return vec![Finding::failure(WHAT, text, "change node.data_dir")];
        }
    };
    let mut findings = Vec::new();
    let file = match unnamed_file(&folder, 0) {
        Ok(file) => file,
        Err(error) => {
            let text = format!("cannot write to {}: {error}", folder.display());
            let remedy = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "give the folder to the user that runs panchd (chown; systemd: StateDirectory=), or change node.data_dir"
                }
                io::ErrorKind::ReadOnlyFilesystem => {
                    "mount the file system for writing, or change node.data_dir"
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space, or change node.data_dir"
                }
                _ => "change node.data_dir",
            };
            let may_pass = Exit::from(&error) == Exit::Temporary;
            return vec![Finding::failure(WHAT, text, remedy).passing_if(may_pass)];
        }
    };
    let verb = if folder == node.data_dir { "can be written" } else { "can be created" };
    findings.push(Finding::fine(WHAT, format!("{} {verb}", node.data_dir.display())));
    if node.durability != Durability::Memory {
        findings.push(writes(&folder));
    }
    findings.push(match sys::free_bytes(&file) {
        Ok(free) => space(free, node, cores),
        Err(error) => {
            let remedy = "check by hand that the log and the snapshots fit";
            Finding::warning("disk space", format!("cannot be read: {error}"), remedy)
        }
    });
    findings
}

/// TMPFS_MAGIC, RAMFS_MAGIC and OVERLAYFS_SUPER_MAGIC of `linux/magic.h`.
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;
const OVERLAYFS: u32 = 0x794c_7630;

/// A file system that keeps for less long than is expected of the durability; `None` if there is nothing to say.
pub(super) fn file_system(node: &NodeConfig) -> Option<Finding> {
    let magic = sys::file_system(&existing(&node.data_dir)?).ok()?;
    if node.durability == Durability::Memory { None } else { brief(&node.data_dir, magic) }
}

fn brief(folder: &Path, magic: u32) -> Option<Finding> {
    let what = "file system";
    // A volume is not mounted at a path that depends on where a command is given.
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let shown = folder.display();
    match magic {
        TMPFS | RAMFS => {
            let text = format!(
                "{shown} is in memory (tmpfs): whatever node.durability says, it is lost when the machine, or the container, stops"
            );
            Some(Finding::warning(what, text, "put node.data_dir on a local ext4 or XFS file system"))
        }
        OVERLAYFS => {
            let text = format!(
                "{shown} is on an overlayfs, as the inside of a container is: it is lost with the container"
            );
            Some(Finding::warning(
                what,
                text,
                format!("mount a volume there: `docker run -v panch-data:{shown}`"),
            ))
        }
        _ => None,
    }
}

/// The folder, or the nearest parent that exists, whatever it is.
fn existing(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find(|parent| fs::symlink_metadata(parent).is_ok()).map(Path::to_owned)
}

/// A new file whose name is gone before anything is written to it.
fn unnamed_file(folder: &Path, flags: i32) -> io::Result<File> {
    let path = folder.join(format!(".panch-check-{}", std::process::id()));
    let opened = OpenOptions::new().read(true).write(true).create_new(true).custom_flags(flags).open(&path);
    // A file system that knows no direct writes refuses to open, but has made the file by then.
    let may_exist = !matches!(&opened, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
    if may_exist {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound && opened.is_ok() => return Err(error),
            _ => {}
        }
    }
    opened
}

/// Writes pages as the log does: direct, durable, over preallocated zeros.
fn writes(folder: &Path) -> Finding {
    let what = "disk writes";
    let file = match unnamed_file(folder, libc::O_DIRECT | libc::O_DSYNC) {
        Ok(file) => file,
        Err(error) => {
            return Finding::failure(
                what,
                format!("{} takes no direct writes (O_DIRECT): {error}", folder.display()),
                "put node.data_dir on a local ext4 or XFS file system",
            );
        }
    };
    match measure(&file) {
        Ok(mut times) => {
            times.sort_unstable();
            let (median, slow) = (times[times.len() / 2], times[(times.len() * 99).div_ceil(100) - 1]);
            let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
            let text = format!(
                "a durable write of 4 KiB takes {} (median), {} (99th percentile of {WRITE_COUNT})",
                ms(median),
                ms(slow)
            );
            if slow > WRITE_SLOW {
                let remedy = "every commit waits for such a write: use a disk with power-loss protection, or accept loss \
                              with node.durability = \"periodic\"";
                Finding::warning(what, text, remedy)
            } else {
                Finding::fine(what, text)
            }
        }
        Err(error) => Finding::failure(
            what,
            format!("a direct, durable write failed: {error}"),
            "put node.data_dir on a local ext4 or XFS file system",
        ),
    }
}

fn measure(file: &File) -> io::Result<Vec<Duration>> {
    let page = Box::new(Page([0; PAGE_SIZE]));
    let offset = |index: usize| (index * PAGE_SIZE) as u64;
    for index in 0..WRITE_COUNT {
        file.write_all_at(&page.0, offset(index))?;
    }
    let timed = |index: usize| {
        let start = Instant::now();
        file.write_all_at(&page.0, offset(index)).map(|()| start.elapsed())
    };
    (0..WRITE_COUNT).map(timed).collect()
}

fn space(free: u64, node: &NodeConfig, cores: u64) -> Finding {
    let what = "disk space";
    let text = format!("{} free", rounded(free));
    let Some(log) = log_size(node) else {
        return Finding::fine(
            what,
            format!("{text}; the log is in memory, and snapshots of the data come here"),
        );
    };
    let segments = cores.saturating_mul(SEGMENTS_MIN).saturating_mul(node.log_segment_size);
    let need = cores.saturating_mul(log.disk_max());
    // How much that is nobody knows before the data are there.
    let on_top =
        "snapshots of the data come on top, and as much log once more while another node catches up with one";
    let remedy = "free some space, or lower node.log_segment_size or node.snapshot_log_size";
    if free < segments {
        let text = format!("{text}; the first segments alone take {}", Size(segments));
        Finding::failure(what, text, remedy).passing_if(true)
    } else if free < need {
        Finding::warning(what, format!("{text}; the log may take {}, and {on_top}", Size(need)), remedy)
    } else {
        Finding::fine(what, format!("{text}; the log may take {} of it, and {on_top}", Size(need)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::host::Level;

    fn node(folder: &Path) -> NodeConfig {
        let text = include_str!("../../../configs/cluster-3/1.toml");
        let mut node = parse(Path::new("1.toml"), text, &[]).unwrap().config.node;
        node.data_dir = folder.to_owned();
        node
    }

    #[test]
    fn room_is_counted_per_core() {
        let node = node(Path::new("/"));
        let (segment, snapshot) = (node.log_segment_size, node.snapshot_log_size);
        let level = |free, cores| space(free, &node, cores).level;
        assert_eq!(level(3 * segment - 1, 1), Level::Failure);
        assert_eq!(level(3 * segment, 1), Level::Warning);
        // What it grows to while another node catches up, and what is beside the log.
        let need = 4 * snapshot + 2 * segment + 4 * segment;
        assert_eq!(level(need - 1, 1), Level::Warning);
        assert_eq!(level(need, 1), Level::Fine);
        assert_eq!(level(need, 2), Level::Warning);
        assert_eq!(level(need, need / segment), Level::Failure);
        assert_eq!(level(u64::MAX, u64::MAX), Level::Fine);
        assert!(space(need, &node, 1).text.contains("snapshots of the data come on top"));
        let in_memory = NodeConfig { durability: Durability::Memory, ..node };
        assert_eq!(space(0, &in_memory, 1).level, Level::Fine, "it has no segments");
    }

    #[test]
    fn a_folder_that_does_not_exist_is_judged_by_its_parent_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        let findings = examine(&node(&inner), 1);
        assert!(findings[0].text.ends_with("a/b can be created"), "{findings:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn file_systems_that_forget_are_told_from_disks() {
        let warned = |magic| brief(Path::new("/data"), magic).map(|finding| finding.text).unwrap_or_default();
        assert!(warned(TMPFS).contains("in memory") && warned(RAMFS).contains("in memory"));
        assert!(warned(OVERLAYFS).contains("container"));
        let relative = brief(Path::new("data"), OVERLAYFS).map(|finding| finding.remedy).unwrap_or_default();
        assert!(relative.contains("panch-data:/") && relative.contains("/data`"), "{relative}");
        // EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC.
        assert_eq!((warned(0xef53), warned(0x5846_5342)), (String::new(), String::new()));
        let shared = Path::new("/dev/shm");
        if shared.is_dir() {
            let mut node = node(shared);
            assert!(file_system(&node).is_some_and(|finding| finding.level == Level::Warning));
            node.durability = Durability::Memory;
            assert_eq!(file_system(&node), None);
        }
    }

    #[test]
    fn a_parent_that_is_a_file_fails() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let findings = examine(&node(&file.join("data")), 1);
        assert_eq!(findings[0].level, Level::Failure, "{findings:?}");
        assert!(findings[0].text.ends_with("file is not a folder"), "{findings:?}");
    }
}
