//! What a run asks of the machine, and how often the machine stood still meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use panch_loadgen::host;
use serde::Serialize;

/// Bytes in what the kernel calls a sector, whatever the disk has.
const SECTOR: u64 = 512;
/// How long the thread sleeps that does nothing else.
const NAP: Duration = Duration::from_millis(1);
/// Later than this, and the machine stood still.
const LATE: Duration = Duration::from_millis(5);

/// What has been asked of a disk since the machine was started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Asked {
    writes: u64,
    bytes: u64,
    flushes: u64,
}

impl Asked {
    /// Reads the `stat` file of a block device; `None` if it has no count of flushes, as before Linux 5.5.
    fn parse(text: &str) -> Option<Self> {
        let fields = text.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
        let [_, _, _, _, writes, _, sectors, ..] = fields[..] else { return None };
        Some(Self { writes, bytes: sectors * SECTOR, flushes: *fields.get(15)? })
    }
}

/// What a run asked of the machine.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub(crate) struct Strain {
    /// Writes and flushes that the disk was asked for, by whomever.
    pub(crate) disk_operations: f64,
    /// Bytes written to the disk, by whomever.
    pub(crate) disk_bytes: f64,
    /// CPU seconds of the servers.
    pub(crate) cpu_seconds: f64,
    /// How often a thread that only sleeps woke more than 5 ms late.
    pub(crate) gaps: f64,
    /// The most by which it was late, in seconds.
    pub(crate) gap_max: f64,
}

/// Watches the machine during a run.
pub(crate) struct Watch {
    disk: Option<PathBuf>,
    before: Option<Asked>,
    cpu: Box<dyn Fn() -> Duration>,
    cpu_before: Duration,
    stop: Arc<AtomicBool>,
    sleeper: JoinHandle<(u32, Duration)>,
}

impl Watch {
    /// Begins now: the disk that `folder` is on, and CPU time as `cpu` tells it.
    pub(crate) fn begin(folder: &Path, cpu: impl Fn() -> Duration + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let sleeper = std::thread::spawn(move || {
            let (mut gaps, mut longest) = (0, Duration::ZERO);
            while !stops.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(NAP);
                let late = before.elapsed().saturating_sub(NAP);
                gaps += u32::from(late > LATE);
                longest = longest.max(late);
            }
            (gaps, longest)
        });
        let disk = host::disk_folder(folder).map(|folder| folder.join("stat"));
        let before = asked(disk.as_deref());
        let cpu_before = cpu();
        Self { disk, before, cpu: Box::new(cpu), cpu_before, stop, sleeper }
    }

    /// Ends now. Without a disk that can be named its figures are not numbers.
    pub(crate) fn end(self) -> Strain {
        self.stop.store(true, Ordering::Relaxed);
        let (gaps, longest) = self.sleeper.join().expect("a thread that sleeps does not fail");
        let grown = self.before.zip(asked(self.disk.as_deref())).map(|(before, after)| {
            let operations = after.writes - before.writes + after.flushes - before.flushes;
            (operations as f64, (after.bytes - before.bytes) as f64)
        });
        let (disk_operations, disk_bytes) = grown.unwrap_or((f64::NAN, f64::NAN));
        Strain {
            disk_operations,
            disk_bytes,
            cpu_seconds: (self.cpu)().saturating_sub(self.cpu_before).as_secs_f64(),
            gaps: f64::from(gaps),
            gap_max: longest.as_secs_f64(),
        }
    }
}

fn asked(stat: Option<&Path>) -> Option<Asked> {
    Asked::parse(&std::fs::read_to_string(stat?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_tells_writes_bytes_and_flushes() {
        let text = "    1 2 3 4 500 6 7000 8 9 10 11 12 13 14 15 90 17\n";
        assert_eq!(Asked::parse(text), Some(Asked { writes: 500, bytes: 7000 * 512, flushes: 90 }));
        assert_eq!(Asked::parse("1 2 3 4 5 6 7 8 9 10 11\n"), None);
        assert_eq!(Asked::parse(""), None);
    }

    #[test]
    fn what_is_done_meanwhile_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let watch =
            Watch::begin(folder.path(), || host::process_cpu_time(std::process::id()).unwrap_or_default());
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::black_box(0);
        }
        let strain = watch.end();
        assert!(strain.cpu_seconds > 0.0 && strain.gap_max >= 0.0);
    }
}
