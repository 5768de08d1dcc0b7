//! The node's log: lines on standard error, for people and for journald.
//!
//! A thread of its own writes them. When it cannot keep up, because whoever reads has stopped, lines are dropped and counted; nobody waits,
//! and the end of the process does not wait for long. Once all that waited is written, it is told how many were dropped.

use std::fmt;
use std::io::{self, Write};
use std::iter::once;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for the thread.
const LINES_MAX: usize = 4096;
/// For so long the end of the process waits for whoever reads the last lines.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to find room for the end behind lines that wait.
const PAUSE: Duration = Duration::from_millis(5);

/// Begins to write. Once in a process: what is logged goes where the first one writes.
///
/// # Errors
/// If there is no thread for it.
pub fn start() -> io::Result<Log> {
    let (queue, log) = open(io::stderr(), |count| {
        tracing::warn!(target: "panch", "{count} lines of this log were dropped, because nobody read them");
    })?;
    // Only what is said for operators: libraries log for their authors.
    let filter = tracing_subscriber::filter::Targets::new().with_target("panch", Level::INFO);
    let style = Style { for_journald: goes_to_journald() };
    let layer = tracing_subscriber::fmt::layer().with_writer(move || queue.clone()).event_format(style);
    let _ = tracing_subscriber::registry().with(layer).with(filter).try_init();
    Ok(log)
}

/// Starts the thread that writes to `output`. It calls `tell_dropped`, which logs that, with the number of lines that were dropped.
fn open(
    output: impl Write + Send + 'static,
    tell_dropped: impl Fn(u64) + Send + 'static,
) -> io::Result<(Queue, Log)> {
    let (sender, messages) = sync_channel(LINES_MAX);
    let (end, ended) = channel();
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = Queue { sender: sender.clone(), dropped: Arc::clone(&dropped) };
    let pen = Pen { messages, dropped, output, _end: end };
    Builder::new().name("panch-lines".into()).spawn(move || pen.write(tell_dropped))?;
    Ok((queue, Log { sender, ended }))
}

enum Message {
    Line(Vec<u8>),
    /// The process ends: the thread does so, too, once the queue is empty.
    End,
}

/// Where lines wait for the thread. Each is written with one call.
#[derive(Clone)]
struct Queue {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the thread has.
struct Pen<W> {
    messages: Receiver<Message>,
    dropped: Arc<AtomicU64>,
    output: W,
    /// Closed when the thread ends.
    _end: Sender<()>,
}

impl<W: Write> Pen<W> {
    fn write(mut self, tell_dropped: impl Fn(u64)) {
        let mut is_ending = false;
        while let Ok(message) = self.messages.recv() {
            for message in once(message).chain(self.messages.try_iter()) {
                match message {
                    Message::Line(line) => {
                        // If it fails there is nowhere else to say it.
                        let _ = self.output.write_all(&line);
                    }
                    Message::End => is_ending = true,
                }
            }
            let count = self.dropped.swap(0, Ordering::Relaxed);
            if count > 0 {
                // That is a line in the queue.
                tell_dropped(count);
            } else if is_ending {
                return;
            }
        }
    }
}

/// Until this is dropped, the program's lines are written. What waits then is written first, if somebody reads it within a second.
#[must_use]
pub struct Log {
    sender: SyncSender<Message>,
    ended: Receiver<()>,
}

impl Drop for Log {
    fn drop(&mut self) {
        let deadline = Instant::now() + END_PATIENCE;
        while let Err(TrySendError::Full(_)) = self.sender.try_send(Message::End) {
            if Instant::now() >= deadline {
                return;
            }
            sleep(PAUSE);
        }
        // Nothing is ever sent: it is closed, or the time is over.
        let _ = self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes only while somebody lets it, and keeps what it has written.
    struct Gate {
        open: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.open.lock().unwrap());
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(queue: &Queue, text: &str) {
        queue.clone().write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    #[test]
    fn what_waits_at_the_end_is_written() {
        let (open, written) = (Arc::default(), Arc::default());
        let (queue, log) = self::open(Gate { open, written: Arc::clone(&written) }, |_| ()).unwrap();
        (0..100).for_each(|_| line(&queue, "last"));
        drop(log);
        assert_eq!(*written.lock().unwrap(), b"last\n".repeat(100));
    }

    #[test]
    fn nobody_waits_for_a_reader_who_has_stopped_and_the_lines_that_are_lost_are_told() {
        let (open, written) = (Arc::new(Mutex::new(())), Arc::default());
        let (told, telling) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None::<Queue>)));
        let gate = Gate { open: Arc::clone(&open), written: Arc::clone(&written) };
        let (sum, own) = (Arc::clone(&told), Arc::clone(&telling));
        let (queue, log) = self::open(gate, move |count| {
            sum.fetch_add(count, Ordering::Relaxed);
            // It logs, as the program does.
            line(own.lock().unwrap().as_ref().unwrap(), "dropped");
        })
        .unwrap();
        *telling.lock().unwrap() = Some(queue.clone());
        let closed = open.lock().unwrap();
        const MORE: usize = 10;
        (0..LINES_MAX + MORE).for_each(|_| line(&queue, "x"));
        let dropped = queue.dropped.load(Ordering::Relaxed);
        // One may be with the thread.
        assert!((MORE as u64 - 1..=MORE as u64).contains(&dropped), "{dropped}");
        drop(closed);
        let begun = Instant::now();
        while told.load(Ordering::Relaxed) == 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "it is told once all is written");
            sleep(PAUSE);
        }
        assert_eq!(told.load(Ordering::Relaxed), dropped);
        let closed = open.lock().unwrap();
        (0..2 * LINES_MAX).for_each(|_| line(&queue, "x"));
        let begun = Instant::now();
        drop(log);
        assert!(begun.elapsed() >= END_PATIENCE, "it may still go on");
        drop(closed);
        let begun = Instant::now();
        while String::from_utf8_lossy(&written.lock().unwrap()).matches("dropped").count() < 2 {
            assert!(begun.elapsed() < Duration::from_secs(30), "and so are those after");
            sleep(PAUSE);
        }
    }
}
