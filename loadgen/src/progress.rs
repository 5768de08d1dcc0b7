//! What is shown while a run is under way: a bar if stderr is a terminal, else one line per second that can be grepped.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::quantity::{latency, short};
use crate::record::Interval;
use crate::stderr;

/// Told about a run while it is under way, on the thread that started it.
pub trait Watch {
    /// What happened in the last `span`, `elapsed` after the start.
    fn show(&mut self, elapsed: Duration, warming_up: bool, span: Duration, interval: &Interval);
    /// The measured window has begun.
    fn window_opened(&mut self) {}
    /// The measured window has ended; the last answers may still be under way.
    fn window_closed(&mut self) {}
}

/// Shows one run.
pub struct Progress {
    label: String,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Progress {
    /// A display for a run that takes about `total`, called `label`.
    pub fn new(label: &str, total: Duration) -> Self {
        let display = if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{prefix:>14} [{bar:28}] {elapsed:>4}/{len}s {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> ");
            let bar = ProgressBar::new(total.as_secs().max(1)).with_style(style);
            bar.set_prefix(label.to_owned());
            bar.tick();
            Display::Bar(bar)
        } else {
            Display::Lines
        };
        Self { label: label.to_owned(), display }
    }

    /// A display that shows nothing.
    pub fn silent() -> Self {
        Self { label: String::new(), display: Display::Silent }
    }
}

impl Watch for Progress {
    fn show(&mut self, elapsed: Duration, warming_up: bool, span: Duration, interval: &Interval) {
        match &self.display {
            Display::Bar(bar) => {
                bar.set_position(elapsed.as_secs());
                bar.set_message(line(warming_up, span, interval));
            }
            Display::Lines => {
                let label = &self.label;
                let line = line(warming_up, span, interval);
                stderr::line(format_args!("progress run={label} t={}s {line}", elapsed.as_secs()));
            }
            Display::Silent => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

fn line(warming_up: bool, span: Duration, interval: &Interval) -> String {
    let quantile = |quantile| latency(interval.latency.value_at_quantile(quantile)).replace(' ', "");
    let rate = interval.completed as f64 / span.as_secs_f64().max(1e-3);
    format!(
        "{}rate={}/s p50={} p99={} p99.9={} errors={} lag={}",
        if warming_up { "warm-up " } else { "" },
        short(rate).replace(' ', ""),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        interval.errors,
        latency(interval.lag_max).replace(' ', ""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_value_per_name() {
        let mut interval = Interval::new();
        interval.completed = 20_000;
        interval.errors = 3;
        interval.lag_max = 1_500;
        for value in [100_000, 100_000, 2_000_000] {
            interval.latency.saturating_record(value);
        }
        let text = line(true, Duration::from_secs(2), &interval);
        assert!(text.starts_with("warm-up rate=10.0k/s p50=100us p99=2.0"), "{text}");
        assert!(text.ends_with("errors=3 lag=1.50us"), "{text}");
        assert_eq!(text.split(' ').count(), 7);
    }
}
