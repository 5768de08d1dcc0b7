//! Redis, to compare with: a server that syncs every write or none, and `redis-benchmark`, which loads both.
//!
//! Invariants:
//! * A run of `redis-benchmark` in which a server refused a command has no figures: its words are the reason.
//! * Whatever becomes of the server, a run of `redis-benchmark` ends.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use panch_loadgen::control;

use crate::failure::{Failure, check};
use crate::guard::{Folder, Process};
use crate::nodes::on_path;

/// How the server is run that syncs; everything else is as it comes.
pub(crate) const SERVER_SETTINGS: &str = "--appendonly yes --appendfsync always --save \"\"";
/// How often a server is started anew because its port was taken in the meantime.
const TRIES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(10);
/// A run of `redis-benchmark` may take so long,
const BENCHMARK_PATIENCE: Duration = Duration::from_secs(60);
/// and as much more for each time that all its connections have asked for something and waited for the answers.
const ROUND_TRIP_PATIENCE: Duration = Duration::from_millis(100);
/// A key of `redis-benchmark`, which puts twelve digits in: the same as those of the load generator with 16 B.
const KEY: &str = "k000__rand_int__";
/// A value of 16 B.
const VALUE: &str = "xxxxxxxxxxxxxxxx";

/// The programs.
pub(crate) struct Programs {
    server: PathBuf,
    benchmark: PathBuf,
}

impl Programs {
    /// The programs on PATH.
    pub(crate) fn find() -> Result<Self, Failure> {
        let find = |name: &str| {
            on_path(name).ok_or_else(|| {
                Failure::Missing(format!(
                    "{name} is not on PATH. Debian has it in the packages redis-server and redis-tools:\n  apt-get \
                     install -y redis-server redis-tools"
                ))
            })
        };
        Ok(Self { server: find("redis-server")?, benchmark: find("redis-benchmark")? })
    }

    /// The server's version.
    pub(crate) fn version(&self) -> String {
        let output = Command::new(&self.server).arg("--version").output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.split_whitespace()
            .find_map(|word| word.strip_prefix("v="))
            .unwrap_or("of unknown version")
            .to_owned()
    }

    /// Starts a server with its data in a new folder in `parent`.
    pub(crate) fn start_server(
        &self,
        parent: &Path,
        syncs: Syncs,
        stop: &AtomicBool,
    ) -> Result<Server, Failure> {
        for _ in 1..TRIES {
            if let Ok(server) = self.try_start(parent, syncs, stop) {
                return Ok(server);
            }
            check(stop)?;
        }
        self.try_start(parent, syncs, stop)
    }

    fn try_start(&self, parent: &Path, syncs: Syncs, stop: &AtomicBool) -> Result<Server, Failure> {
        let folder = Folder::create(parent).map_err(Failure::io("cannot make a folder"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = port.map_err(Failure::io("cannot find a free port"))?;
        let path = AsRef::<Path>::as_ref(&folder).join("redis.log");
        let log = File::create(&path).map_err(Failure::io("cannot make a log file"))?;
        let mut command = Command::new(&self.server);
        command.arg("--port").arg(address.port().to_string()).args(["--bind", "127.0.0.1"]);
        match syncs {
            Syncs::Always => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
            Syncs::Never => command.args(["--appendonly", "no"]),
        };
        command.args(["--save", ""]);
        command.arg("--dir").arg(&folder).stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        let process = Process::start(&mut command).map_err(Failure::io("cannot start redis-server"))?;
        let mut server = Server { process, address, log: path, _folder: folder };
        let deadline = Instant::now() + PATIENCE;
        loop {
            check(stop)?;
            if control::info(address, "server", Duration::from_secs(1)).is_ok() {
                return Ok(server);
            }
            server.check_alive()?;
            if Instant::now() > deadline {
                let last = server.last_words();
                return Err(Failure::Spoilt(format!("redis-server does not serve; its last words: {last}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Loads `address` with commands on values of 16 B.
    pub(crate) fn benchmark(
        &self,
        address: SocketAddr,
        load: Load,
        stop: &AtomicBool,
    ) -> Result<Figures, Failure> {
        let mut command = Command::new(&self.benchmark);
        command.arg("-h").arg(address.ip().to_string()).arg("-p").arg(address.port().to_string());
        command.args(load.arguments());
        let said = run_to_end(&mut command, load.patience(), stop);
        said.and_then(|said| said.figures()).map_err(|failure| match failure {
            Failure::Spoilt(reason) => {
                Failure::Spoilt(format!("redis-benchmark against {address}: {reason}"))
            }
            other => other,
        })
    }
}

/// Runs a program to its end, or kills it after `patience`.
fn run_to_end(command: &mut Command, patience: Duration, stop: &AtomicBool) -> Result<Said, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start(command).map_err(Failure::io("cannot start redis-benchmark"))?;
    let deadline = Instant::now() + patience;
    // What it says fits into the pipes: it can end before it is read.
    let status = loop {
        check(stop)?;
        match process.child().try_wait().map_err(Failure::io("redis-benchmark"))? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                let seconds = patience.as_secs_f64();
                return Err(Failure::Spoilt(format!("it did not end within {seconds} s, and was killed")));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let (mut out, mut errors) = (String::new(), String::new());
    let child = process.child();
    let said = child.stdout.as_mut().expect("its output is piped").read_to_string(&mut out);
    said.map_err(Failure::io("redis-benchmark"))?;
    let said = child.stderr.as_mut().expect("its errors are piped").read_to_string(&mut errors);
    said.map_err(Failure::io("redis-benchmark"))?;
    Ok(Said { status, out, errors })
}

/// What `redis-benchmark` said, and how it ended.
struct Said {
    status: ExitStatus,
    out: String,
    errors: String,
}

impl Said {
    /// The figures, if no server has refused anything. Newer versions end with the first refusal; older ones go on, count it as an answer,
    /// and say so now and then.
    fn figures(&self) -> Result<Figures, Failure> {
        let lines = || self.errors.lines().chain(self.out.lines());
        if let Some(error) = lines().find(|line| line.starts_with("Error")) {
            return Err(Failure::Spoilt(error.to_owned()));
        }
        Figures::parse(&self.out).filter(|_| self.status.success()).ok_or_else(|| {
            let words: Vec<&str> = lines().filter(|line| !line.starts_with("WARNING")).collect();
            Failure::Spoilt(format!("no figures ({}): {}", self.status, words.join("; ")))
        })
    }
}

/// When a server syncs its writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syncs {
    /// Before it answers, with [`SERVER_SETTINGS`].
    Always,
    /// It writes nothing.
    Never,
}

/// The commands of a load.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Set,
    Get,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Set => "SET",
            Self::Get => "GET",
        })
    }
}

/// What `redis-benchmark` is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) operation: Operation,
    pub(crate) connections: usize,
    pub(crate) depth: usize,
    pub(crate) requests: u64,
    /// 0: one key.
    pub(crate) keys: u64,
}

impl Load {
    /// As `redis-benchmark` is told it.
    fn arguments(&self) -> Vec<String> {
        let Self { operation, connections, depth, requests, keys } = *self;
        // Without -e, older versions do not say that a server refuses everything; newer ones say so anyhow, and warn that it has no effect.
        let mut arguments = vec!["--csv".to_owned(), "-e".to_owned()];
        for (name, number) in [("-c", connections as u64), ("-P", depth as u64), ("-n", requests)] {
            arguments.extend([name.to_owned(), number.to_string()]);
        }
        if keys == 0 {
            arguments.extend(["-d", "16", "-t"].map(str::to_owned));
            arguments.push(operation.to_string());
        } else {
            arguments.extend(["-r".to_owned(), keys.to_string(), operation.to_string(), KEY.to_owned()]);
            if operation == Operation::Set {
                arguments.push(VALUE.to_owned());
            }
        }
        arguments
    }

    /// How long it may take.
    fn patience(&self) -> Duration {
        let at_once = (self.connections as u64).saturating_mul(self.depth as u64).max(1);
        let round_trips = u32::try_from(self.requests.div_ceil(at_once)).unwrap_or(u32::MAX);
        BENCHMARK_PATIENCE.saturating_add(ROUND_TRIP_PATIENCE.saturating_mul(round_trips))
    }
}

/// A running server; dropping it ends it and removes its data.
pub(crate) struct Server {
    process: Process,
    address: SocketAddr,
    log: PathBuf,
    _folder: Folder,
}

impl Server {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If it does not, with its last words.
    pub(crate) fn check_alive(&mut self) -> Result<(), Failure> {
        let Some(status) = self.process.child().try_wait().map_err(Failure::io("redis-server"))? else {
            return Ok(());
        };
        let last = self.last_words();
        Err(Failure::Spoilt(format!("redis-server ended by itself ({status}); its last words: {last}")))
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or("(no words)").to_owned()
    }
}

/// What one run of a load came to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Figures {
    pub(crate) requests_per_second: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    /// Milliseconds.
    pub(crate) p99: f64,
}

impl Figures {
    /// Reads the two lines of `redis-benchmark --csv`, by the names of their columns.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip_while(|line| !line.starts_with("\"test\""));
        let (names, values) = (lines.next()?, lines.next()?);
        let field = |name: &str| {
            let at = names.split(',').position(|given| given.trim_matches('"') == name)?;
            values.split(',').nth(at)?.trim_matches('"').parse::<f64>().ok()
        };
        Some(Self {
            requests_per_second: field("rps")?,
            p50: field("p50_latency_ms")?,
            p99: field("p99_latency_ms")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_loadgen::keys::KeyText;
    use panch_loadgen::workload::OperationKind;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn figures_are_found_by_the_names_of_their_columns() {
        let text = "WARNING: something\n\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\"SET\",\"188679.25\",\"3.859\",\"1.352\",\"2.271\",\"11.871\",\"14.615\",\"17.4\"\n";
        let figures = Figures::parse(text).unwrap();
        assert_eq!(figures, Figures { requests_per_second: 188_679.25, p50: 2.271, p99: 14.615 });
        assert_eq!(Figures::parse("Error from server: ERR\n"), None);
        assert_eq!(Figures::parse("\"test\",\"rps\"\n\"SET\",\"1\"\n"), None);
    }

    const TABLE: &str =
        "\"test\",\"rps\",\"p50_latency_ms\",\"p99_latency_ms\"\n\"SET k\",\"5.00\",\"1.0\",\"2.0\"\n";

    fn said(out: &str, errors: &str, code: i32) -> Result<Figures, String> {
        let status = ExitStatus::from_raw(code << 8);
        let said = Said { status, out: out.to_owned(), errors: errors.to_owned() };
        said.figures().map_err(|failure| failure.to_string())
    }

    #[test]
    fn whoever_is_refused_has_no_figures_but_the_words_of_the_server() {
        let warning =
            "WARNING: -e option has no effect. We now immediately exit on error to avoid false results.\n";
        let figures = Figures { requests_per_second: 5.0, p50: 1.0, p99: 2.0 };
        assert_eq!(said(TABLE, warning, 0), Ok(figures));
        let refusal = "Error from server: ERR no quorum";
        // Of newer versions on standard error, at the end; of older ones between the figures, with success.
        assert_eq!(said("", &format!("{warning}{refusal}\n"), 1), Err(refusal.to_owned()));
        assert_eq!(said(&format!("{refusal}\n{TABLE}"), "", 0), Err(refusal.to_owned()));
        assert!(said("", "Could not connect to Redis\n", 1).unwrap_err().contains("Could not connect"));
        assert!(said(TABLE, "", 1).unwrap_err().starts_with("no figures"));
    }

    #[test]
    fn whoever_never_ends_is_killed_and_that_is_said() {
        let begin = Instant::now();
        let patience = Duration::from_millis(100);
        let endless = run_to_end(Command::new("sleep").arg("1000"), patience, &AtomicBool::new(false));
        let text = endless.err().unwrap().to_string();
        assert!(text.contains("did not end within 0.1 s, and was killed"), "{text}");
        assert!((patience..Duration::from_secs(60)).contains(&begin.elapsed()));
        let brief = run_to_end(
            Command::new("sh").args(["-c", "echo out; echo error >&2"]),
            Duration::from_secs(60),
            &AtomicBool::new(false),
        );
        let brief = brief.unwrap();
        assert_eq!((brief.out.as_str(), brief.errors.as_str()), ("out\n", "error\n"));
    }

    #[test]
    fn slow_servers_have_the_time_that_they_need() {
        let load = |connections, depth, requests| Load {
            operation: Operation::Set,
            connections,
            depth,
            requests,
            keys: 0,
        };
        assert_eq!(load(1, 1, 5_000).patience(), Duration::from_secs(60 + 500));
        assert_eq!(load(50, 16, 8_001).patience(), Duration::from_millis(60_000 + 1_100));
    }

    #[test]
    fn keys_are_those_of_the_load_generator_which_gives_them_values_before_they_are_read() {
        let load = Load { operation: Operation::Get, connections: 3, depth: 2, requests: 9, keys: 100 };
        let words = |load: Load| load.arguments().join(" ");
        assert_eq!(words(load), "--csv -e -c 3 -P 2 -n 9 -r 100 GET k000__rand_int__");
        let set = Load { operation: Operation::Set, ..load };
        assert_eq!(words(set), "--csv -e -c 3 -P 2 -n 9 -r 100 SET k000__rand_int__ xxxxxxxxxxxxxxxx");
        assert_eq!(words(Load { keys: 0, ..set }), "--csv -e -c 3 -P 2 -n 9 -d 16 -t SET");
        let mut text = KeyText::new(16);
        let own = text.spell(OperationKind::Set.key_prefix(), 42);
        assert_eq!(KEY.replace("__rand_int__", &format!("{:012}", 42)).as_bytes(), own);
        assert_eq!(VALUE.len(), 16);
    }

    #[test]
    fn a_server_that_has_ended_is_missed() {
        let server = |command: &mut Command| {
            let folder = Folder::create(&std::env::temp_dir()).unwrap();
            let log = AsRef::<Path>::as_ref(&folder).join("redis.log");
            std::fs::write(&log, "first\nout of memory\n").unwrap();
            let process = Process::start(command).unwrap();
            Server { process, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), log, _folder: folder }
        };
        server(Command::new("sleep").arg("1000")).check_alive().unwrap();
        let mut ended = server(&mut Command::new("true"));
        ended.process.child().wait().unwrap();
        let text = ended.check_alive().unwrap_err().to_string();
        assert!(text.contains("ended by itself") && text.ends_with("out of memory"), "{text}");
    }
}
