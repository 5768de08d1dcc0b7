//! What is shown while protocols are measured: a line for each phase, and the throughput of the present one on a terminal.
//! Also the place where the nodes' counters are read when the measured window opens and closes.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::progress::Watch;
use crate::quantity::{Period, short};
use crate::record::Interval;
use crate::stderr;
use crate::truth::{Snapshot, Source, scrape};

/// The nodes' counters around the measured window; empty if it never opened.
#[derive(Default)]
pub(super) struct Scrapes {
    pub(super) opened: Vec<Option<Snapshot>>,
    pub(super) closed: Vec<Option<Snapshot>>,
}

/// Shows the phases of one protocol.
pub(super) struct Phases {
    label: String,
    /// Present if standard error is a terminal.
    live: Option<ProgressBar>,
    /// The phase that was begun, its line.
    phase: String,
    /// What was last seen of it.
    seen: String,
    sources: Vec<Source>,
    duration: Duration,
    scrapes: Scrapes,
}

impl Phases {
    pub(super) fn new(label: &str) -> Self {
        let live = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{wide_msg}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        Self {
            label: label.to_owned(),
            live,
            phase: String::new(),
            seen: String::new(),
            sources: Vec::new(),
            duration: Duration::ZERO,
            scrapes: Scrapes::default(),
        }
    }

    /// A phase begins.
    pub(super) fn begin(&mut self, phase: &str) {
        phase.clone_into(&mut self.phase);
        self.seen.clear();
        self.live("...");
    }

    /// The present phase has ended, with this result.
    pub(super) fn end(&mut self, result: &str) {
        let separator = if result.is_empty() { "" } else { ": " };
        let line = format!("{} {}{separator}{result}", self.label, self.phase);
        match &self.live {
            Some(bar) => bar.suspend(|| stderr::line(line)),
            None => stderr::line(line),
        }
    }

    /// The present phase has failed; why is told elsewhere.
    pub(super) fn failed(&mut self) {
        self.end("FAILED");
    }

    /// The next run has a measured window of `duration`: the counters of `sources` are read at both its ends.
    pub(super) fn measure(&mut self, sources: &[Source], duration: Duration) {
        self.sources = sources.to_vec();
        self.duration = duration;
        self.scrapes = Scrapes::default();
    }

    pub(super) fn take_scrapes(&mut self) -> Scrapes {
        self.sources.clear();
        std::mem::take(&mut self.scrapes)
    }

    fn live(&self, text: &str) {
        if let Some(bar) = &self.live {
            bar.set_message(format!("{} {}: {text}", self.label, self.phase));
            bar.tick();
        }
    }
}

impl Watch for Phases {
    fn show(&mut self, elapsed: Duration, _: bool, span: Duration, interval: &Interval) {
        let rate = interval.completed as f64 / span.as_secs_f64().max(1e-3);
        self.seen = format!("{} commands/s", short(rate));
        self.live(&format!("{} s, {}", elapsed.as_secs(), self.seen));
    }

    fn window_opened(&mut self) {
        if self.sources.is_empty() {
            return;
        }
        self.scrapes.opened = scrape(&self.sources);
        let seen = std::mem::take(&mut self.seen);
        self.end(&seen);
        self.begin(&format!("measure: {}", Period(self.duration)));
    }

    fn window_closed(&mut self) {
        if !self.sources.is_empty() {
            self.scrapes.closed = scrape(&self.sources);
        }
    }
}

impl Drop for Phases {
    fn drop(&mut self) {
        if let Some(bar) = &self.live {
            bar.finish_and_clear();
        }
    }
}
