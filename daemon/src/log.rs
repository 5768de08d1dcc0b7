//! The node's log: lines on standard error, for people and for journald.
//!
//! A thread of its own writes them. When it cannot keep up, because whoever reads has stopped, lines are dropped and counted; nobody waits.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for the thread.
const LINES_MAX: usize = 4096;

/// Until this is dropped, the program's lines are written; what waits then is written first.
#[must_use]
pub struct Log(#[expect(dead_code, reason = "its end flushes")] Option<WorkerGuard>);

/// Begins to write. Once in a process: whoever comes second writes where the first one does.
pub fn start() -> Log {
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX);
    let (writer, guard) = builder.finish(std::io::stderr());
    // Only what is said for operators: libraries log for their authors.
    let filter = tracing_subscriber::filter::Targets::new().with_target("panch", Level::INFO);
    let style = Style { for_journald: goes_to_journald() };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).event_format(style);
    let is_first = tracing_subscriber::registry().with(layer).with(filter).try_init().is_ok();
    Log(is_first.then_some(guard))
}

/// Whether standard error is what the service manager says that journald reads: the variable is inherited by programs with another one.
fn goes_to_journald() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|it| stream == format!("{}:{}", it.dev(), it.ino()))
}

/// How a line looks.
struct Style {
    /// It notes the time itself, and the level from a number in front (sd-daemon(3)).
    for_journald: bool,
}

impl<S, N> FormatEvent<S, N> for Style
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.for_journald {
            let number = match level {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                _ => 7,
            };
            write!(writer, "<{number}>")?;
        } else {
            SystemTime.format_time(&mut writer)?;
            write!(writer, " {level:>5} ")?;
        }
        write!(writer, "panchd: ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
