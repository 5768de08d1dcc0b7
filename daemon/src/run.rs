//! From a configuration to running nodes, and to their orderly end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use panch_runtime::options::Loss;
use panch_runtime::{Node, NodeFault, StopHandle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{DevArgs, RunArgs, announce, complain};
use crate::config::dev::connect_text;
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::host;
use crate::log;
use crate::options::{Surroundings, node_options};

/// A start that is asked to stop ends by itself within this time, or is ended.
const STOP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// `panchd run`.
pub fn run(arguments: &RunArgs) -> Exit {
    let loaded = match arguments.config.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let loss = match loaded.config.node.durability {
        _ if arguments.rejoin => Loss::OfDisk,
        config::Durability::Memory => Loss::OfMemory,
        _ => Loss::None,
    };
    let order = Order {
        loss,
        told_to_found: arguments.found,
        begin_with: arguments.from.clone(),
        config_file: arguments.config.config.clone(),
    };
    serve(&[loaded.config], &order, |config| {
        let node = &config[0].node;
        announce(&format!(
            "panchd: node {} serves Redis clients on {}, native clients on {}, peers on {}; data in {}; durability {}\n",
            node.id,
            node.resp_listen,
            node.native_listen,
            node.peer_listen,
            node.data_dir.display(),
            node.durability,
        ));
    })
}

/// `panchd dev`.
pub fn dev(arguments: &DevArgs) -> Exit {
    let plan = arguments.plan();
    let prepared = plan.claim().and_then(|claim| {
        plan.check_ports()?;
        Ok((plan.prepare(&claim)?, claim))
    });
    let (loaded, _claim) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            complain(&format!("panchd dev: {error}\n"));
            return Exit::from(&error);
        }
    };
    let configs: Vec<Config> = loaded.into_iter().map(|loaded| loaded.config).collect();
    // All nodes of the folder have ended together: none could tell another what it has forgotten.
    serve(&configs, &Order::default(), |configs| announce(&connect_text(configs, Path::new(&plan.folder))))
}

/// What the operator says at the start.
#[derive(Clone, Default)]
pub(crate) struct Order {
    pub(crate) loss: Loss,
    pub(crate) told_to_found: bool,
    pub(crate) begin_with: Vec<PathBuf>,
    /// As the operator names it.
    pub(crate) config_file: PathBuf,
}

impl Order {
    /// Nothing but how the configuration is named.
    pub(crate) fn about(config_file: &Path) -> Self {
        Self { config_file: config_file.to_path_buf(), ..Self::default() }
    }
}

/// Starts a node for each configuration in this process and waits for their end.
fn serve(configs: &[Config], order: &Order, tell: impl FnOnce(&[Config])) -> Exit {
    // Core threads must never be interrupted: they inherit this mask, the signal thread takes its own back.
    host::block_signals();
    let (started, starting) = mpsc::channel::<Vec<StopHandle>>();
    let stop = Arc::new(AtomicBool::new(false));
    let asked_to_stop = Arc::clone(&stop);
    let signals = std::thread::Builder::new()
        .name("panch-signals".into())
        .spawn(move || heed_signals(&asked_to_stop, &starting));
    if let Err(error) = signals {
        complain(&format!("panchd: cannot start the signal thread: {error}\n"));
        return Exit::from(&error);
    }
    if let Err(exit) = host::preflight(configs) {
        return exit;
    }
    let running = match start_all(configs, order, &stop) {
        Ok(running) => running,
        Err(exit) => return exit,
    };
    // The thread may have ended for want of signals.
    let _ = started.send(running.handles.clone());
    tell(configs);
    running.wait(configs)
}

/// Stops the nodes when asked to, at once when asked twice. No other signal that somebody may send from habit ends the process.
fn heed_signals(asked_to_stop: &AtomicBool, starting: &mpsc::Receiver<Vec<StopHandle>>) {
    let signals = Signals::new(host::SIGNALS);
    // Not before they are handled: one may be waiting already, and would end the process as it is.
    host::unblock_signals();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("panchd: cannot listen for signals: {error}\n"));
            return;
        }
    };
    let mut is_asked = false;
    for signal in signals.forever() {
        match signal {
            SIGTERM | SIGINT => {}
            SIGHUP => {
                // Not as the other lines here: whoever reads standard error may stand still, and this thread has to hear of a stop.
                tracing::warn!(
                    target: "panch",
                    "SIGHUP changes nothing: no configuration is read again while a node runs, and standard error goes where it went. To \
                     apply another configuration, restart the node"
                );
                continue;
            }
            _ => continue,
        }
        if std::mem::replace(&mut is_asked, true) {
            // Asked twice: do not wait for anything but a moment for whoever reads why.
            log::exit(Exit::Temporary);
        }
        asked_to_stop.store(true, Ordering::Relaxed);
        let Ok(handles) = starting.recv_timeout(STOP_PATIENCE) else {
            // A node that waits for others before it starts has nothing to lose yet.
            log::exit(Exit::Done);
        };
        for handle in &handles {
            handle.stop();
        }
    }
}

/// What becomes of a node.
enum News {
    /// It serves.
    Started(StopHandle),
    /// It could not start, or has ended.
    Ended(Result<(), NodeFault>),
}

/// Nodes that have started.
struct Running {
    handles: Vec<StopHandle>,
    /// With the place of each among the configurations.
    news: mpsc::Receiver<(usize, News)>,
    /// How to end because of those that have ended already.
    exit: Exit,
}

impl Running {
    /// A node that had started has ended. What is wrong is told at once: the others may go on for long.
    fn note_end(&mut self, config: &Config, ended: Result<(), NodeFault>) {
        if let Err(fault) = ended {
            tracing::error!(target: "panch", "node {} stopped: {fault}", config.node.id);
            self.exit = self.exit.or_worse(Exit::from(&fault));
        }
    }

    /// Waits until all have ended.
    fn wait(mut self, configs: &[Config]) -> Exit {
        while let Ok((index, news)) = self.news.recv() {
            if let News::Ended(ended) = news {
                self.note_end(&configs[index], ended);
            }
        }
        self.exit
    }
}

/// Starts the nodes at the same time: at their first start they wait for each other. How to end if one cannot start, for the first.
fn start_all(configs: &[Config], order: &Order, stop: &Arc<AtomicBool>) -> Result<Running, Exit> {
    let connections_possible = host::connections_possible(configs);
    let (sender, news) = mpsc::channel();
    for (index, config) in configs.iter().enumerate() {
        let surroundings = Surroundings::find(config, configs.len()).map_err(|fault| {
            complain(&format!("panchd: node {} cannot start: {fault}\n", config.node.id));
            Exit::from(&fault)
        })?;
        let mut options = node_options(config, order, Arc::clone(stop), surroundings);
        options.connections_max = options.connections_max.min(connections_possible);
        let sender = sender.clone();
        let run = move || {
            let ended = Node::start(options).and_then(|node| {
                let _ = sender.send((index, News::Started(node.stop_handle())));
                node.wait()
            });
            // Nobody listens any more once another node could not start: the process ends then.
            let _ = sender.send((index, News::Ended(ended)));
        };
        let thread = std::thread::Builder::new().name(format!("panch-node-{}", config.node.id)).spawn(run);
        thread.map_err(|error| {
            complain(&format!("panchd: cannot start a thread: {error}\n"));
            Exit::from(&error)
        })?;
    }
    let mut running = Running { handles: Vec::new(), news, exit: Exit::Done };
    let mut has_started = vec![false; configs.len()];
    while has_started.contains(&false) {
        // Each node sends something before its thread ends.
        let Ok((index, news)) = running.news.recv() else { break };
        match news {
            News::Started(handle) => {
                running.handles.push(handle);
                has_started[index] = true;
            }
            News::Ended(ended) if has_started[index] => running.note_end(&configs[index], ended),
            News::Ended(Err(fault)) => {
                if !matches!(fault, NodeFault::Stopped) {
                    complain(&format!("panchd: node {} cannot start: {fault}\n", configs[index].node.id));
                }
                return Err(Exit::from(&fault));
            }
            News::Ended(Ok(())) => unreachable!("a node that has not started ends with a fault"),
        }
    }
    Ok(running)
}
