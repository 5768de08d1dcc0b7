//! The virtual world: nodes with their cores and disks, the network between them, clients, faults, and time.
//!
//! Everything that happens is an event in one queue; the same seed gives the same events. The world takes them one by one
//! and lets the invariants look after every turn of a node.

mod clock;
mod direct;
mod faults;
mod gray;
mod helper;
mod log_watch;
mod node;
mod outbox;
mod rejoin;
mod rest;
mod restore;
mod script;
mod tamper;
mod turn;

use std::fmt;
use std::rc::Rc;

use panch_consensus::protocol::{Order, ProtocolKind};
use panch_consensus::{basic, epaxos, fast, multi};
use panch_replica::core::CoreConfig;
use panch_replica::familiarity::Judgement;
use panch_replica::rejoin::RejoinMessage;
use panch_replica::replica::ReplicaConfig;
use panch_replica::transfer::TransferMessage;
use panch_wire::ids::{GroupId, ReplicaId};

use crate::client::{Clients, Outcome, Proposal, Request, Wish};
use crate::coverage::Coverage;
use crate::disk::{CrashKind, JobId};
use crate::inspect::Said;
use crate::invariant::{Invariants, Violation, order_of};
use crate::network::{Network, Packet};
use crate::queue::{MICROSECOND, MILLISECOND, Queue, Time};
use crate::random::{Concern, Stream};
use crate::settings::Settings;
use faults::{Faults, Undo};
use node::{Input, Node, State};
pub use restore::DiskCopy;
use restore::Greeting;
pub use script::{Call, key_in};

/// A message as a script sees it.
#[derive(Debug)]
pub struct Letter {
    /// The sender.
    pub from: usize,
    /// The receiver.
    pub to: usize,
    /// The group.
    pub group: GroupId,
    /// What the protocol says.
    pub said: Option<Said>,
    /// Or what is said about a snapshot.
    pub transfer: Option<TransferMessage>,
    /// Or about a node on its way back.
    pub rejoin: Option<RejoinMessage>,
}

impl Letter {
    /// What Basic Paxos says.
    pub fn basic(&self) -> Option<&basic::message::Message> {
        self.said.as_ref()?.basic()
    }

    /// What Multi-Paxos says.
    pub fn multi(&self) -> Option<&multi::message::Message> {
        self.said.as_ref()?.multi()
    }

    /// What EPaxos says.
    pub fn epaxos(&self) -> Option<&epaxos::message::Message> {
        self.said.as_ref()?.epaxos()
    }

    /// What Fast Paxos says.
    pub fn fast(&self) -> Option<&fast::message::Message> {
        self.said.as_ref()?.fast()
    }
}

/// What a script wants done with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes its way.
    Pass,
    /// It is lost.
    Drop,
    /// It goes alone, and arrives after this long.
    Delay(Time),
}

/// Decides about every message that is sent.
pub type Filter = Box<dyn FnMut(&Letter) -> Verdict>;

pub(crate) enum Event {
    Turn { node: usize, at: Time },
    Disk { node: usize, job: JobId },
    Packet(Packet),
    Connect { a: usize, b: usize },
    Disconnected { node: usize, peer: usize },
    Request(Request),
    Batch { node: usize, proposal: Rc<Proposal> },
    Outcome { client: usize, attempt: u64, number: u64, outcome: Outcome },
    Timer { client: usize, ticket: u64 },
    Restart { node: usize },
    Restore { node: usize, copy: Box<DiskCopy> },
    Judged { node: usize, life: u64, by: usize, judgement: Judgement },
    Inquire { node: usize },
    Crash { node: usize, kind: CrashKind },
    Fault,
    Undo(Undo),
}

/// What nodes share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) queue: Queue<Event>,
    pub(crate) network: Network,
    pub(crate) invariants: Invariants,
    pub(crate) coverage: Coverage,
    pub(crate) filter: Option<Filter>,
    /// What each node says in its hello, since its last start.
    pub(crate) hellos: Vec<Option<Greeting>>,
    tracing: bool,
}

impl Shared {
    pub(crate) fn is_tracing(&self) -> bool {
        self.tracing
    }

    /// Prints a line if this run is traced.
    pub(crate) fn trace(&self, text: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:11.6} {}", self.queue.now() as f64 / 1e9, text());
        }
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.settings.group_count()).map(GroupId)
    }

    /// Groups that have no log.
    pub(crate) fn graphs(&self) -> Vec<GroupId> {
        let is_graph = |group: &GroupId| self.kind(*group).is_some_and(|kind| order_of(kind) == Order::Graph);
        self.groups().filter(is_graph).collect()
    }

    pub(crate) fn kind(&self, group: GroupId) -> Option<ProtocolKind> {
        self.settings.protocols.get(group.index()).copied()
    }

    pub(crate) fn core_config(&self, me: ReplicaId, replica: ReplicaConfig, rejoining: bool) -> CoreConfig {
        CoreConfig {
            me,
            replica_count: self.settings.replica_count,
            groups: self.groups().zip(self.settings.protocols.iter().copied()).collect(),
            replica,
            tuning: self.settings.tuning,
            rejoining,
            log_size_max: self.settings.log_size_max,
            snapshot_size_max: 1 << 30,
        }
    }

    /// Breaks a connection; both ends notice.
    pub(crate) fn reset(&mut self, a: usize, b: usize) {
        if self.network.reset(a, b) {
            self.coverage.resets += 1;
            self.queue.push_in(50 * MICROSECOND, Event::Disconnected { node: a, peer: b });
            self.queue.push_in(50 * MICROSECOND, Event::Disconnected { node: b, peer: a });
        }
    }
}

/// A cluster and everything around it.
pub struct World {
    pub(crate) shared: Shared,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Clients,
    faults: Faults,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.shared.queue.now()).finish_non_exhaustive()
    }
}

/// More events than this in one run mean that it does not come to rest.
const EVENTS_MAX: u64 = 4_000_000;

impl World {
    /// A world in which every node is about to start.
    pub fn new(settings: Settings, tracing: bool) -> Self {
        let seed = settings.seed;
        let count = settings.replica_count;
        let shared = Shared {
            queue: Queue::default(),
            network: Network::new(settings.network, Stream::new(seed, Concern::Network), count),
            invariants: Invariants::new(count),
            coverage: Coverage { runs: 1, ..Coverage::default() },
            filter: None,
            hellos: vec![None; count],
            tracing,
            settings,
        };
        shared.trace(|| format!("{:#?}", shared.settings));
        let settings = &shared.settings;
        let mut world = Self {
            nodes: (0..count).map(|index| Node::new(index, settings)).collect(),
            clients: Clients::new(seed, settings.clients, count, settings.protocols.clone()),
            faults: Faults::new(settings),
            shared,
        };
        for node in 0..count {
            world.shared.queue.push(0, Event::Restart { node });
        }
        let wishes = world.clients.start();
        world.grant(wishes);
        world
    }

    /// Virtual time.
    pub fn now(&self) -> Time {
        self.shared.queue.now()
    }

    /// What was counted so far, the present lives of the nodes not included.
    pub fn coverage(&self) -> &Coverage {
        &self.shared.coverage
    }

    /// Whether there is a violation.
    pub fn violation(&self) -> Option<&Violation> {
        self.shared.invariants.violation()
    }

    fn grant(&mut self, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::Timer(delay, client, ticket) => {
                    self.shared.queue.push_in(delay, Event::Timer { client, ticket });
                }
                Wish::Send(request) => {
                    self.shared.trace(|| {
                        let Request { client, attempt, node, command, level, .. } = &request;
                        format!("client {client} attempt {attempt} to node {node}: {command:?} {level:?}")
                    });
                    let delay = self.nodes[request.node].random.range(20, 150) * MICROSECOND;
                    self.shared.queue.push_in(delay, Event::Request(request));
                }
                Wish::Propose(proposal) => self.send_batch(proposal),
            }
        }
    }

    /// Takes the next event if it is not after `end`; false if there is none or the run is over.
    fn step(&mut self, end: Time) -> bool {
        if self.violation().is_some() || self.shared.queue.next_time().is_none_or(|at| at > end) {
            return false;
        }
        self.shared.coverage.events += 1;
        if self.shared.coverage.events > EVENTS_MAX {
            let text = format!("{EVENTS_MAX} events and no end: {}", self.describe());
            self.shared.invariants.note("progress", Err(text));
        }
        let event = self.shared.queue.pop().expect("an event was seen");
        self.on_event(event);
        true
    }

    fn on_event(&mut self, event: Event) {
        let now = self.shared.queue.now();
        let shared = &mut self.shared;
        match event {
            Event::Turn { node, at } => {
                if self.nodes[node].next_turn == Some(at) {
                    if at < self.nodes[node].busy_until {
                        self.nodes[node].next_turn = None;
                        self.nodes[node].wake(shared, at);
                    } else {
                        self.nodes[node].turn(shared);
                    }
                }
            }
            Event::Disk { node, job } => self.nodes[node].on_disk(shared, job),
            Event::Packet(packet) => {
                if shared.network.is_due(&packet) {
                    self.nodes[packet.to].take_in(shared, Input::Packet(packet));
                }
            }
            Event::Connect { a, b } => self.connect(a, b),
            Event::Disconnected { node, peer } => {
                self.nodes[node].take_in(shared, Input::Disconnected(peer));
                shared.queue.push_in(5 * MILLISECOND, Event::Connect { a: node, b: peer });
            }
            Event::Request(request) => {
                let node = &mut self.nodes[request.node];
                if node.is_up() {
                    node.asking.insert((request.client, request.attempt));
                    node.take_in(shared, Input::Request(request));
                } else {
                    // The connection is refused: nothing was done.
                    let error = panch_wire::command::CommandError::Unavailable;
                    let (client, attempt) = (request.client, request.attempt);
                    let number = request.command.session.map_or(0, |header| header.number);
                    let event = Event::Outcome { client, attempt, number, outcome: Outcome::Refused(error) };
                    shared.queue.push_in(50 * MICROSECOND, event);
                }
            }
            Event::Batch { node, proposal } => self.nodes[node].take_in_batch(shared, proposal),
            Event::Outcome { client, attempt, number, outcome } => {
                let Shared { coverage, invariants, .. } = shared;
                let wishes =
                    self.clients.on_outcome(now, client, attempt, number, outcome, coverage, invariants);
                self.grant(wishes);
            }
            Event::Timer { client, ticket } => {
                let wishes = self.clients.on_timer(now, client, ticket, &mut shared.coverage);
                self.grant(wishes);
            }
            Event::Restart { node } => self.restart_node(node),
            Event::Restore { node, copy } => self.consider_restoring(node, &copy),
            Event::Judged { node, life, by, judgement } => self.on_judged(node, life, by, judgement),
            Event::Inquire { node } => self.inquire(node),
            Event::Crash { node, kind } => self.strike_down(node, kind),
            Event::Fault => self.strike(),
            Event::Undo(undo) => self.undo(undo),
        }
    }

    /// Two nodes try to connect; they try again for as long as both are up.
    fn connect(&mut self, a: usize, b: usize) {
        let shared = &mut self.shared;
        if !self.nodes[a].is_up() || !self.nodes[b].is_up() {
            return;
        }
        if shared.settings.network.streams {
            if shared.network.is_connected(a, b) {
                return;
            }
            if !shared.network.connect(a, b) {
                shared.queue.push_in(20 * MILLISECOND, Event::Connect { a, b });
                return;
            }
        } else if !self.faults.is_over() {
            // Without streams nobody says hello: who the others are shows in what they send. Once all is well everybody knows,
            // because one that has lost its disk may have to ask somebody who has nothing to say.
            return;
        }
        for (node, peer) in [(a, b), (b, a)] {
            let life = self.nodes[peer].life().map_or(0, |life| life.name);
            self.nodes[node].take_in(shared, Input::Connected(peer, life));
        }
    }

    // Runs.

    /// Lets time pass.
    pub fn run_for(&mut self, time: Time) {
        let end = self.now() + time;
        while self.step(end) {}
        if self.violation().is_none() {
            self.shared.queue.push(end, Event::Undo(Undo::Nothing));
            while self.step(end) {}
        }
    }

    /// Lets time pass until `condition` holds, for at most `time`; whether it holds.
    pub fn run_until(&mut self, time: Time, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now() + time;
        loop {
            if condition(self) {
                return true;
            }
            if !self.step(end) {
                return false;
            }
        }
    }

    /// The whole cluster in a few lines.
    pub fn describe(&self) -> String {
        let mut text = format!("at {:.3} s", self.now() as f64 / 1e9);
        for node in &self.nodes {
            let state = match &node.state {
                State::Down => "down".to_string(),
                State::Inquiring { answered, .. } => {
                    format!("asks for its incarnation, {answered:?} answered")
                }
                State::Booting => "booting".to_string(),
                State::Refused => "refused to start".to_string(),
                State::Disowned => "disowned".to_string(),
                State::Up(life) => {
                    let pool = format!("{} of {} bytes of frames", life.pool.used(), life.pool.size_max());
                    let groups: Vec<_> = life
                        .core
                        .status()
                        .map(|status| {
                            let protocol = status.protocol;
                            format!(
                                "group {}: {:?} {:?} executed {} committed {} last {} {:?} leader {:?}{}",
                                status.group.0,
                                status.membership,
                                status.standing,
                                status.executed.0,
                                protocol.committed.0,
                                protocol.last.0,
                                protocol.ballot,
                                protocol.leader,
                                if protocol.leading { " leading" } else { "" }
                            )
                        })
                        .collect();
                    let live = if life.core.is_live() { "up" } else { "not yet live" };
                    format!(
                        "{live}, incarnation {}, {pool}; {}",
                        life.core.incarnation().0,
                        groups.join("; ")
                    )
                }
            };
            text.push_str(&format!("\n  node {}: {state}", node.index));
        }
        for waiting in self.clients.waiting() {
            text.push_str(&format!("\n  {waiting}"));
        }
        text
    }
}
