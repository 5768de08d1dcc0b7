//! What a thread's time goes into while the measured window is open.

use crate::thread_time::ThreadTime;

/// Both ends of the window, as far as they have come.
#[derive(Default)]
pub(super) struct WindowTime {
    opened: Option<ThreadTime>,
    closed: Option<ThreadTime>,
}

impl WindowTime {
    /// The window is open; since now, if it was not before.
    pub(super) fn open(&mut self) {
        self.opened.get_or_insert_with(ThreadTime::now);
    }

    /// The window is closed; since now, if it was not before.
    pub(super) fn close(&mut self) {
        self.closed.get_or_insert_with(ThreadTime::now);
    }

    /// What the time in between went into. Nothing, if the window never opened.
    pub(super) fn spent(&self) -> ThreadTime {
        self.closed.zip(self.opened).map(|(closed, opened)| closed.since(opened)).unwrap_or_default()
    }
}
