//! What a run asks of the machine, and how often the machine stood still meanwhile.
//!
//! Runs differ in their length and in how much they do, so that what is compared is per command or per second.

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
    /// How long it was watched, in seconds.
    pub(crate) seconds: f64,
    /// Commands that were answered meanwhile.
    pub(crate) commands: f64,
}

impl Strain {
    /// A part of what was asked for, such as its bytes, of each command.
    pub(crate) fn per_command(&self, part: f64) -> f64 {
        part / self.commands
    }

    pub(crate) fn gaps_per_second(&self) -> f64 {
        self.gaps / self.seconds
    }
}

/// How often and for how long the machine stood still.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Gaps {
    count: u32,
    longest: Duration,
}

impl Gaps {
    /// A thread that was to sleep for [`NAP`] has slept for so long.
    fn note(&mut self, slept: Duration) {
        let late = slept.saturating_sub(NAP);
        self.count += u32::from(late > LATE);
        self.longest = self.longest.max(late);
    }
}

/// Ends the thread that only sleeps, whatever becomes of the run.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Watches the machine during a run.
pub(crate) struct Watch {
    disk: Option<PathBuf>,
    before: Option<Asked>,
    cpu: Box<dyn Fn() -> Duration>,
    cpu_before: Duration,
    since: Instant,
    stop: Stop,
    sleeper: JoinHandle<Gaps>,
}

impl Watch {
    /// Begins now: the disk that `folder` is on, and CPU time as `cpu` tells it.
    pub(crate) fn begin(folder: &Path, cpu: impl Fn() -> Duration + 'static) -> Self {
        Self::with_sleep(folder, cpu, || std::thread::sleep(NAP))
    }

    fn with_sleep(
        folder: &Path,
        cpu: impl Fn() -> Duration + 'static,
        mut sleep: impl FnMut() + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let sleeper = std::thread::spawn(move || {
            let mut gaps = Gaps::default();
            while !stops.load(Ordering::Relaxed) {
                let before = Instant::now();
                sleep();
                gaps.note(before.elapsed());
            }
            gaps
        });
        let disk = host::disk_folder(folder).map(|folder| folder.join("stat"));
        let before = asked(disk.as_deref());
        let cpu_before = cpu();
        let since = Instant::now();
        Self { disk, before, cpu: Box::new(cpu), cpu_before, since, stop: Stop(stop), sleeper }
    }

    /// Ends now, after so many commands. Without a disk that can be named its figures are not numbers.
    pub(crate) fn end(self, commands: u64) -> Strain {
        let seconds = self.since.elapsed().as_secs_f64();
        drop(self.stop);
        let Gaps { count, longest } = self.sleeper.join().expect("a thread that sleeps does not fail");
        let grown = self.before.zip(asked(self.disk.as_deref())).map(|(before, after)| {
            let operations = after.writes - before.writes + after.flushes - before.flushes;
            (operations as f64, (after.bytes - before.bytes) as f64)
        });
        let (disk_operations, disk_bytes) = grown.unwrap_or((f64::NAN, f64::NAN));
        Strain {
            disk_operations,
            disk_bytes,
            cpu_seconds: (self.cpu)().saturating_sub(self.cpu_before).as_secs_f64(),
            gaps: f64::from(count),
            gap_max: longest.as_secs_f64(),
            seconds,
            commands: commands as f64,
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
        let strain = watch.end(20);
        assert!(strain.cpu_seconds > 0.0 && strain.seconds >= 0.05, "{strain:?}");
        assert_eq!(strain.per_command(strain.cpu_seconds), strain.cpu_seconds / 20.0);
    }

    #[test]
    fn whoever_wakes_late_has_met_a_gap_and_the_longest_is_kept() {
        let mut gaps = Gaps::default();
        for slept in [1, 6, 7, 40, 9] {
            gaps.note(Duration::from_millis(slept));
        }
        assert_eq!(gaps, Gaps { count: 3, longest: Duration::from_millis(39) });
    }

    #[test]
    fn a_machine_that_stands_still_is_noticed_and_longer_runs_are_not_worse_for_their_length() {
        let folder = tempfile::tempdir().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let stall = Duration::from_millis(60);
        let sleep = move || {
            std::thread::sleep(NAP + stall);
            let _ = tell.send(());
        };
        let watch = Watch::with_sleep(folder.path(), Duration::default, sleep);
        for _ in 0..3 {
            told.recv().unwrap();
        }
        let strain = watch.end(0);
        assert!(strain.gaps >= 2.0 && strain.gap_max >= 0.06, "{strain:?}");
        assert_eq!(strain.gaps_per_second(), strain.gaps / strain.seconds);
        let longer = Strain { gaps: 10.0 * strain.gaps, seconds: 10.0 * strain.seconds, ..strain };
        assert!((longer.gaps_per_second() / strain.gaps_per_second() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_watch_that_is_not_ended_leaves_no_thread_behind() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::begin(folder.path(), Duration::default);
        let stops = Arc::clone(&watch.stop.0);
        drop(watch);
        assert!(stops.load(Ordering::Relaxed));
    }
}
