//! Redis, to compare with: a durable server, and `redis-benchmark`, which loads both.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
        let mut server = Server { process, address, _folder: folder };
        let deadline = Instant::now() + PATIENCE;
        loop {
            check(stop)?;
            if control::info(address, "server", Duration::from_secs(1)).is_ok() {
                return Ok(server);
            }
            let ended = !matches!(server.process.child().try_wait(), Ok(None));
            if ended || Instant::now() > deadline {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let last = log.lines().last().unwrap_or("(no words)").to_owned();
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
        command.args(["-d", "16", "--csv", "-t"]).arg(load.operation.to_string());
        command.arg("-c").arg(load.connections.to_string());
        command.arg("-P").arg(load.depth.to_string()).arg("-n").arg(load.requests.to_string());
        if load.keys > 0 {
            command.arg("-r").arg(load.keys.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process =
            Process::start(&mut command).map_err(Failure::io("cannot start redis-benchmark"))?;
        // What it says fits into the pipe: it can end before it is read.
        let status = loop {
            check(stop)?;
            match process.child().try_wait().map_err(Failure::io("redis-benchmark"))? {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut text = String::new();
        let output = process.child().stdout.as_mut().expect("its output is piped");
        output.read_to_string(&mut text).map_err(Failure::io("redis-benchmark"))?;
        Figures::parse(&text).filter(|_| status.success()).ok_or_else(|| {
            Failure::Spoilt(format!("redis-benchmark against {address} gave no figures ({status}): {text}"))
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

/// A running server; dropping it ends it and removes its data.
pub(crate) struct Server {
    process: Process,
    address: SocketAddr,
    _folder: Folder,
}

impl Server {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn process(&self) -> u32 {
        self.process.id()
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

    #[test]
    fn figures_are_found_by_the_names_of_their_columns() {
        let text = "WARNING: something\n\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\"SET\",\"188679.25\",\"3.859\",\"1.352\",\"2.271\",\"11.871\",\"14.615\",\"17.4\"\n";
        let figures = Figures::parse(text).unwrap();
        assert_eq!(figures, Figures { requests_per_second: 188_679.25, p50: 2.271, p99: 14.615 });
        assert_eq!(Figures::parse("Error from server: ERR\n"), None);
        assert_eq!(Figures::parse("\"test\",\"rps\"\n\"SET\",\"1\"\n"), None);
    }
}
