//! The thread that writes down what was heard of other nodes: see [`crate::memory`].

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::complaints::say;
use crate::identity::DataDir;

/// At most one write in this time, while nothing happens to other nodes.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// At most one in this time, whatever happens.
const PAUSE: Duration = Duration::from_secs(1);

/// What the thread is wanted for.
#[derive(Default, Debug)]
struct Wish {
    /// A node was lost: it may come back with less.
    soon: bool,
    /// The last write, and the end.
    end: bool,
}

/// Lets the thread know what it is wanted for.
#[derive(Clone, Default, Debug)]
pub(crate) struct Reminder(Arc<(Mutex<Wish>, Condvar)>);

impl Reminder {
    /// A node was lost: what was heard of it is written down soon.
    pub(crate) fn soon(&self) {
        self.set(|wish| wish.soon = true);
    }

    fn set(&self, change: impl FnOnce(&mut Wish)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_one();
    }

    /// Waits until it is time to write; true if for the last time.
    fn wait(&self, last: Instant) -> bool {
        let (wish, changed) = &*self.0;
        let mut wish = wish.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let due = last + if wish.soon { PAUSE } else { WRITE_EVERY };
            let left = due.saturating_duration_since(Instant::now());
            if wish.end || left.is_zero() {
                wish.soon = false;
                return wish.end;
            }
            wish = changed.wait_timeout(wish, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The thread, which writes once more when this is dropped, and ends.
pub(crate) struct Notes {
    reminder: Reminder,
    thread: Option<JoinHandle<()>>,
}

impl Notes {
    /// Starts the thread.
    pub(crate) fn start(data: Arc<DataDir>) -> std::io::Result<Self> {
        let reminder = data.peers.reminder.clone();
        let shared = reminder.clone();
        let thread = std::thread::Builder::new().name("panch-notes".into()).spawn(move || {
            let mut is_said = false;
            loop {
                let is_last = shared.wait(Instant::now());
                match data.peers.write_down() {
                    Ok(_) => is_said = false,
                    // What is lost with it is noticed by other nodes, as long as these remember it. It is tried again.
                    Err(error) if !is_said => {
                        is_said = true;
                        say(format_args!("cannot write down what was heard of other nodes: {error}"));
                    }
                    Err(_) => {}
                }
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
