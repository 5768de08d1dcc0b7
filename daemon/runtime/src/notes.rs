//! The thread that writes the small files of a node that runs, so that no core waits for the disk: see [`crate::memory`] and
//! [`crate::identity`].
//!
//! Who needs something written down says so to whatever has to be written, calls [`Reminder::now`], and looks again when
//! [`Reminder::rounds`] has changed, of which its doorbell tells. What is asked for is a state and not a queue: however many ask, it is
//! written once. A disk that hangs holds up this thread only, and one that fails is tried again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use panch_ring::doorbell::Doorbell;

use crate::identity::{DataDir, IdentityFault};

/// At most one write in this time, while nothing happens to other nodes and nobody asks.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// At most one in this time for what was heard, whatever happens, and after one that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// A write that takes longer is worth a word.
const SLOW: Duration = Duration::from_secs(2);
/// How often the operator hears of a disk that hangs or fails.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What the thread is wanted for.
#[derive(Default, Debug)]
struct Wish {
    /// A node was lost: it may come back with less.
    soon: bool,
    /// Somebody waits.
    now: bool,
    /// The last write, and the end.
    end: bool,
}

/// How the thread fares.
#[derive(Default, Debug)]
struct State {
    /// It writes, and has done so since.
    busy: Option<Instant>,
    /// Why the last round failed, and since when all have.
    fault: Option<(Instant, String)>,
    said: Option<Instant>,
}

#[derive(Default, Debug)]
struct Shared {
    wish: Mutex<Wish>,
    changed: Condvar,
    state: Mutex<State>,
    rounds: AtomicU64,
}

/// What cores and the thread know of each other.
#[derive(Clone, Default, Debug)]
pub(crate) struct Reminder(Arc<Shared>);

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reminder {
    /// A node was lost: what was heard of it is written down soon.
    pub(crate) fn soon(&self) {
        self.set(|wish| wish.soon = true);
    }

    /// Somebody waits for what has to be written.
    pub(crate) fn now(&self) {
        self.set(|wish| wish.now = true);
    }

    /// Grows whenever the thread has written, or failed to.
    pub(crate) fn rounds(&self) -> u64 {
        self.0.rounds.load(Ordering::Acquire)
    }

    /// For how long the thread has waited for the disk, or tried in vain; zero if all is well.
    pub(crate) fn trouble(&self) -> Duration {
        let State { busy, fault, .. } = &*hold(&self.0.state);
        let busy = busy.map(|since| since.elapsed()).filter(|time| *time >= SLOW);
        let failed = fault.as_ref().map(|(since, _)| since.elapsed());
        busy.max(failed).unwrap_or_default()
    }

    /// What the operator has to hear, if it is time to say it (again).
    pub(crate) fn complaint(&self) -> Option<String> {
        let mut state = hold(&self.0.state);
        let text = match (&state.busy, &state.fault) {
            (Some(since), _) if since.elapsed() >= SLOW => format!(
                "the disk has not finished a small write for {} s: nodes that start again meanwhile are not taken in until it has. What needs no disk goes on",
                since.elapsed().as_secs()
            ),
            (_, Some((since, text))) => format!(
                "{text}: tried in vain for {} s, and tried again every second. Nodes that start again meanwhile are not taken in until then",
                since.elapsed().as_secs()
            ),
            _ => return None,
        };
        if state.said.is_some_and(|said| said.elapsed() < SAY_EVERY) {
            return None;
        }
        state.said = Some(Instant::now());
        Some(text)
    }

    fn set(&self, change: impl FnOnce(&mut Wish)) {
        change(&mut hold(&self.0.wish));
        self.0.changed.notify_one();
    }

    /// Waits until it is time to write; true if for the last time. `failed`: the last round did.
    fn wait(&self, last: Instant, failed: bool) -> bool {
        let mut wish = hold(&self.0.wish);
        loop {
            let pause = match &*wish {
                Wish { now: true, .. } if !failed => Duration::ZERO,
                Wish { soon: true, .. } | Wish { now: true, .. } => PAUSE,
                _ => WRITE_EVERY,
            };
            let left = (last + pause).saturating_duration_since(Instant::now());
            if wish.end || left.is_zero() {
                (wish.soon, wish.now) = (false, false);
                return wish.end;
            }
            wish = self.0.changed.wait_timeout(wish, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Does a round.
    fn round(&self, write: impl FnOnce() -> Result<(), IdentityFault>) -> bool {
        hold(&self.0.state).busy = Some(Instant::now());
        let result = write();
        let mut state = hold(&self.0.state);
        state.busy = None;
        let since = state.fault.take().map_or_else(Instant::now, |(since, _)| since);
        state.fault = result.err().map(|fault| (since, fault.to_string()));
        let failed = state.fault.is_some();
        drop(state);
        if failed {
            // Who waits still does.
            hold(&self.0.wish).now = true;
        }
        self.0.rounds.fetch_add(1, Ordering::Release);
        failed
    }
}

/// The thread, which writes once more when this is dropped, and ends.
pub(crate) struct Notes {
    reminder: Reminder,
    thread: Option<JoinHandle<()>>,
}

impl Notes {
    /// Starts the thread. It rings the bells whenever it has written.
    pub(crate) fn start(data: Arc<DataDir>, bells: Vec<Doorbell>) -> std::io::Result<Self> {
        let reminder = data.peers.reminder.clone();
        let shared = reminder.clone();
        let thread = std::thread::Builder::new().name("panch-notes".into()).spawn(move || {
            let mut failed = false;
            loop {
                let is_last = shared.wait(Instant::now(), failed);
                failed = shared.round(|| data.write_down());
                bells.iter().for_each(Doorbell::ring);
                if is_last {
                    return;
                }
            }
        })?;
        Ok(Self { reminder, thread: Some(thread) })
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.reminder.set(|wish| wish.end = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_written_down_at_once_and_after_a_failure_in_a_while() {
        let reminder = Reminder::default();
        let begun = Instant::now();
        reminder.now();
        assert!(!reminder.wait(Instant::now(), false));
        assert!(begun.elapsed() < PAUSE / 2);
        let fault = || Err(IdentityFault::Earlier("x".into()));
        assert!(reminder.round(fault) && reminder.rounds() == 1);
        // Nobody has to ask again.
        let begun = Instant::now();
        assert!(!reminder.wait(Instant::now(), true));
        assert!(begun.elapsed() >= PAUSE && begun.elapsed() < WRITE_EVERY);
        assert!(reminder.trouble() >= PAUSE);
        assert!(reminder.complaint().is_some_and(|text| text.contains("in vain")));
        assert_eq!(reminder.complaint(), None, "not twice in a row");
        assert!(!reminder.round(|| Ok(())) && reminder.trouble().is_zero());
        reminder.set(|wish| wish.end = true);
        assert!(reminder.wait(Instant::now(), true));
    }

    #[test]
    fn a_write_that_hangs_is_seen_by_others() {
        let reminder = Reminder::default();
        reminder.round(|| {
            assert!(reminder.trouble().is_zero(), "not at once");
            std::thread::sleep(SLOW);
            assert!(reminder.trouble() >= SLOW);
            assert!(reminder.complaint().is_some_and(|text| text.contains("has not finished")));
            Ok(())
        });
        assert!(reminder.trouble().is_zero() && reminder.complaint().is_none());
    }
}
