//! The node's log, and all else that goes to standard error: lines for people and for journald.
//!
//! A thread of its own writes them. When it cannot keep up, because whoever reads has stopped, lines are dropped and counted; nobody waits
//! for long, neither who complains of something nor a panic nor the end of the process. Once all that waited is written, it is told how
//! many were dropped. Where that thread is not there, the caller writes as far as that does not block.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::iter::once;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, current, sleep};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::exit::Exit;
use crate::host;
use crate::host::sys::wait_writable;

/// Lines that may wait for the thread.
const LINES_MAX: usize = 4096;
/// For so long whoever must not lose a line waits for whoever reads: at a complaint, a panic and the end of the process.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to find room behind lines that wait.
const PAUSE: Duration = Duration::from_millis(5);
/// A pipe that takes something takes so many bytes at once.
const PIECE: usize = 4096;
/// The name of the thread.
const THREAD: &str = "panch-lines";

/// Where all parts of the program hand their lines to the thread.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Begins to write, and makes panics end the process whether anybody reads what they say or not. Once in a process: what is logged goes
/// where the first one writes.
///
/// # Errors
/// If there is no thread for it.
pub fn start() -> io::Result<Log> {
    let style = Style { for_journald: goes_to_journald() };
    let output = Stream::of(io::stderr())?;
    let words = move |count: u64| {
        let text = format_args!(
            "{count} lines of this log were dropped, because nobody read them or they could not be written"
        );
        style.line(Level::WARN, text)
    };
    // The thread is not the one that signals are for.
    let queue = host::without_signals(|| open(output, words))?;
    let queue = QUEUE.get_or_init(|| queue);
    std::panic::set_hook(Box::new(move |panic| end_in_panic(queue, style, panic)));
    // Only what is said for operators: libraries log for their authors.
    let filter = tracing_subscriber::filter::Targets::new().with_target("panch", Level::INFO);
    let layer = tracing_subscriber::fmt::layer().with_writer(move || queue.clone()).event_format(style);
    let _ = tracing_subscriber::registry().with(layer).with(filter).try_init();
    Ok(Log { queue: queue.clone() })
}

/// Writes a text as it is, behind what is logged. Does not wait for whoever reads it longer than a second, and not at all as long as lines
/// find a place: those that wait are written before the process ends, see [`Log`] and [`exit`].
pub fn write(text: &str) {
    if text.is_empty() {
        return;
    }
    match QUEUE.get() {
        Some(queue) => queue.hand_over(text, Instant::now() + PATIENCE),
        None => announce(io::stderr(), text),
    }
}

/// Writes a text to a stream as far as somebody takes it within a second.
pub fn announce(stream: impl AsFd, text: &str) {
    // What is not written here is lost: there is nowhere to say so.
    let _ = Stream::of(stream).map(|mut stream| stream.write_unblocked(text.as_bytes(), PATIENCE));
}

/// Ends the process. What waits is written first, if somebody reads it within a second.
pub fn exit(exit: Exit) -> ! {
    if let Some(queue) = QUEUE.get() {
        queue.settle(Instant::now() + PATIENCE);
    }
    std::process::exit(i32::from(exit.code()))
}

/// What a panic says, and the end. The profiles of this workspace abort then (tests cannot, where cargo builds their harness), and so does
/// this, which runs before: nothing is left that could wait for whoever reads, and no part of a node goes on without a core that is gone.
fn end_in_panic(queue: &Queue, style: Style, panic: &PanicHookInfo<'_>) {
    let thread = current();
    let name = thread.name().unwrap_or("without a name");
    let text = style.line(Level::ERROR, format_args!("thread {name} {panic}"));
    let mut deadline = Instant::now() + PATIENCE;
    if name == THREAD {
        // It writes nothing any more.
        announce(io::stderr(), &text);
    } else {
        queue.hand_over(&text, deadline);
        // If the environment asks for one, which takes its time.
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            deadline = Instant::now() + PATIENCE;
            queue.hand_over(&format!("{trace}\n"), deadline);
        }
        queue.settle(deadline);
    }
    std::process::abort();
}

/// Starts the thread that writes to `output`. It tells how many lines were dropped in the words of `tell_dropped`.
fn open(output: impl Output, tell_dropped: impl Fn(u64) -> String + Send + 'static) -> io::Result<Queue> {
    let (sender, messages) = sync_channel(LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = Queue { sender, dropped: Arc::clone(&dropped) };
    let pen = Pen { output, tell_dropped, dropped, lost: 0, is_writing: true, is_amid_line: false };
    Builder::new().name(THREAD.into()).spawn(move || pen.write_all(&messages))?;
    Ok(queue)
}

enum Message {
    Line(Vec<u8>),
    /// Is dropped once all before it is written.
    Mark(Sender<()>),
}

/// Where lines wait for the thread. Each is written with one call, if the system takes it so.
#[derive(Clone)]
struct Queue {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Waits for a place until `deadline`. Whether there was one.
    fn send(&self, mut message: Message, deadline: Instant) -> bool {
        loop {
            message = match self.sender.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Full(message)) if Instant::now() < deadline => message,
                Err(_) => return false,
            };
            sleep(PAUSE);
        }
    }

    /// For what is worth to be waited for.
    fn hand_over(&self, text: &str, deadline: Instant) {
        if !self.send(Message::Line(text.as_bytes().to_vec()), deadline) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that waits now is written, until `deadline` at most. Whether it is.
    fn settle(&self, deadline: Instant) -> bool {
        let (mark, reached) = channel::<()>();
        if !self.send(Message::Mark(mark), deadline) {
            return false;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        reached.recv_timeout(left) == Err(RecvTimeoutError::Disconnected)
    }
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

/// What the thread writes to.
trait Output: Send + 'static {
    /// Writes some of it, and blocks if need be.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// It would not block: waits until it takes something, for so long at most.
    fn wait(&mut self, patience: Duration);
}

/// One of the standard streams. Written to without the lock that the standard library has for it, which somebody may hold who is blocked.
struct Stream(File);

impl Stream {
    fn of(stream: impl AsFd) -> io::Result<Self> {
        stream.as_fd().try_clone_to_owned().map(|owned| Self(owned.into()))
    }

    /// Writes as much as is taken within `patience`, in pieces that do not block.
    fn write_unblocked(&mut self, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if wait_writable(self.0.as_fd(), left) {
                match self.0.write(&bytes[..bytes.len().min(PIECE)]) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(error) => return Err(error),
                }
            }
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

impl Output for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn wait(&mut self, patience: Duration) {
        wait_writable(self.0.as_fd(), patience);
    }
}

/// What the thread has.
struct Pen<W, T> {
    output: W,
    tell_dropped: T,
    /// Lines that found no place in the queue.
    dropped: Arc<AtomicU64>,
    /// Lines that were dropped and are not told of, as far as they are not in `dropped`.
    lost: u64,
    /// The last line could be written.
    is_writing: bool,
    /// The last byte that was written is not the last of a line.
    is_amid_line: bool,
}

impl<W: Output, T: Fn(u64) -> String> Pen<W, T> {
    /// Until nobody has the queue any more.
    fn write_all(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            for message in once(message).chain(messages.try_iter()) {
                match message {
                    Message::Line(line) => {
                        self.is_writing = self.write_line(&line);
                        self.lost += u64::from(!self.is_writing);
                    }
                    Message::Mark(mark) => {
                        self.tell_of_dropped();
                        drop(mark);
                    }
                }
            }
            self.tell_of_dropped();
        }
    }

    /// Tells how many lines were dropped, if lines can be written.
    fn tell_of_dropped(&mut self) {
        self.lost += self.dropped.swap(0, Ordering::Relaxed);
        if self.lost > 0 && self.is_writing {
            let line = (self.tell_dropped)(self.lost);
            self.is_writing = self.write_line(line.as_bytes());
            if self.is_writing {
                self.lost = 0;
            }
        }
    }

    /// Writes a line, and before it the end of one that could not be written in whole. Whether that has succeeded.
    fn write_line(&mut self, line: &[u8]) -> bool {
        let behind_another;
        let bytes = if self.is_amid_line {
            behind_another = [b"\n".as_slice(), line].concat();
            &behind_another[..]
        } else {
            line
        };
        let deadline = Instant::now() + PATIENCE;
        let mut count = 0;
        while count < bytes.len() {
            match self.output.write(&bytes[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    self.output.wait(deadline.saturating_duration_since(Instant::now()));
                }
                Err(_) => break,
            }
        }
        if let Some(last) = bytes[..count].last() {
            self.is_amid_line = *last != b'\n';
        }
        count == bytes.len()
    }
}

/// Until this is dropped, the program's lines are written. What waits then is written first, if somebody reads it within a second.
#[must_use]
pub struct Log {
    queue: Queue,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.settle(Instant::now() + PATIENCE);
    }
}

/// Whether standard error is what the service manager says that journald reads: the variable is inherited by programs with another one.
fn goes_to_journald() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|it| stream == format!("{}:{}", it.dev(), it.ino()))
}

/// How a line looks.
#[derive(Clone, Copy)]
struct Style {
    /// It notes the time itself, and the level from a number in front (sd-daemon(3)).
    for_journald: bool,
}

impl Style {
    /// What is in front of the words.
    fn begin(self, level: Level, writer: &mut Writer<'_>) -> fmt::Result {
        if self.for_journald {
            let number = match level {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                _ => 7,
            };
            write!(writer, "<{number}>")?;
        } else {
            SystemTime.format_time(writer)?;
            write!(writer, " {level:>5} ")?;
        }
        write!(writer, "panchd: ")
    }

    /// A line that does not go through `tracing`.
    fn line(self, level: Level, words: fmt::Arguments<'_>) -> String {
        let mut text = String::new();
        // A text takes everything, and the time has a form.
        let _ = self.begin(level, &mut Writer::new(&mut text));
        let _ = writeln!(text, "{words}");
        text
    }
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
        self.begin(*event.metadata().level(), &mut writer)?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Writes only while somebody lets it, and keeps what it has written.
    #[derive(Clone, Default)]
    struct Gate {
        open: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
        /// What writes come to before they succeed, the last first: so many bytes, or this error.
        fates: Arc<Mutex<Vec<Result<usize, ErrorKind>>>>,
    }

    impl Output for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.open.lock().unwrap());
            let count = self.fates.lock().unwrap().pop().unwrap_or(Ok(bytes.len()))?;
            self.written.lock().unwrap().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn wait(&mut self, _: Duration) {}
    }

    impl Gate {
        fn text(&self) -> String {
            String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
        }

        fn open(&self) -> Queue {
            open(self.clone(), |count| format!("{count} dropped\n")).unwrap()
        }
    }

    fn line(queue: &Queue, text: &str) {
        queue.clone().write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    fn wait_for(what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < LONG, "{what}");
            sleep(PAUSE);
        }
    }

    #[test]
    fn what_waits_at_the_end_is_written() {
        let gate = Gate::default();
        let log = Log { queue: gate.open() };
        (0..100).for_each(|_| line(&log.queue, "last"));
        log.queue.hand_over("two\nlines\n", Instant::now());
        drop(log);
        assert_eq!(gate.text(), "last\n".repeat(100) + "two\nlines\n");
    }

    #[test]
    fn nobody_waits_for_a_reader_who_has_stopped_and_the_lines_that_are_lost_are_told() {
        let gate = Gate::default();
        let queue = gate.open();
        let closed = gate.open.lock().unwrap();
        const MORE: usize = 10;
        (0..LINES_MAX + MORE).for_each(|_| line(&queue, "x"));
        let dropped = queue.dropped.load(Ordering::Relaxed);
        // One may be with the thread.
        assert!((MORE as u64 - 1..=MORE as u64).contains(&dropped), "{dropped}");
        drop(closed);
        let told = format!("\n{dropped} dropped\n");
        wait_for("it is told once all is written", || gate.text().ends_with(&told));
        let closed = gate.open.lock().unwrap();
        (0..2 * LINES_MAX).for_each(|_| line(&queue, "x"));
        let begun = Instant::now();
        // As a complaint and a panic do.
        queue.hand_over("in vain\n", begun + PATIENCE / 2);
        assert!(!queue.settle(begun + PATIENCE / 2));
        assert!((PATIENCE / 2..LONG).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        let begun = Instant::now();
        drop(Log { queue });
        assert!((PATIENCE..LONG).contains(&begun.elapsed()), "it may still go on: {:?}", begun.elapsed());
        drop(closed);
        wait_for("and so are those after", || gate.text().matches("dropped").count() == 2);
    }

    #[test]
    fn lines_that_cannot_be_written_are_told_of_once_one_can() {
        let gate = Gate::default();
        let queue = gate.open();
        let full = || Err(ErrorKind::StorageFull);
        // Lost are the first line, the second in part, the third, and what is told after the fourth.
        let fourth = Ok("\nfourth\n".len());
        let fates = [full(), Ok(3), full(), full(), fourth, full()];
        *gate.fates.lock().unwrap() = fates.into_iter().rev().collect();
        for text in ["first", "second", "third", "fourth", "fifth"] {
            line(&queue, text);
            assert!(queue.settle(Instant::now() + LONG));
        }
        assert_eq!(gate.text(), "sec\nfourth\nfifth\n3 dropped\n");
    }

    #[test]
    fn a_stream_that_would_block_is_waited_for() {
        let gate = Gate::default();
        let queue = gate.open();
        let later = || Err(ErrorKind::WouldBlock);
        let fates = [later(), Ok(2), later(), Err(ErrorKind::Interrupted)];
        *gate.fates.lock().unwrap() = fates.into_iter().rev().collect();
        line(&queue, "line");
        assert!(queue.settle(Instant::now() + LONG));
        assert_eq!(gate.text(), "line\n");
    }

    #[test]
    fn what_is_announced_to_a_pipe_that_nobody_reads_is_given_up() {
        let (mut reader, writer) = io::pipe().unwrap();
        announce(&writer, "hello\n");
        let mut text = [0; 6];
        io::Read::read_exact(&mut reader, &mut text).unwrap();
        assert_eq!(&text, b"hello\n");
        let begun = Instant::now();
        // More than it takes.
        announce(&writer, &"x".repeat(2 << 20));
        assert!((PATIENCE..LONG).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        drop(reader);
        announce(&writer, "nobody");
    }

    #[test]
    fn a_line_looks_alike_whoever_writes_it() {
        let of = |for_journald| Style { for_journald }.line(Level::ERROR, format_args!("words"));
        assert_eq!(of(true), "<3>panchd: words\n");
        assert!(of(false).ends_with("Z ERROR panchd: words\n"), "{}", of(false));
    }
}
