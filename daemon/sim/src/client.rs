//! Clients: closed loops of unique commands on few keys, against any node, with and without sessions; and the history of
//! what they saw.
//!
//! Invariants:
//! * A command without a session is sent at most once to a node that may have taken it: once its outcome is unknown it
//!   stays so, and the client goes on with another.
//! * A command of a session is sent again, with the same number and to any node, until it is answered.
//! * Clients with a session send some batches of commands straight to all nodes (Fast Paxos); what stays without an answer is sent
//!   again under the same numbers, as another batch or command by command.
//! * Every value written is unique within the run.

mod command;
mod direct;
mod many;
mod operation;
mod record;

use std::collections::VecDeque;

use panch_consensus::protocol::{Order, ProtocolKind};
use panch_replica::replica::Level;
use panch_wire::command::{CommandError, CommandKind};
use panch_wire::ids::GroupId;
use panch_wire::slots::group_of_key;

pub use command::{Intent, Outcome, OwnedCommand, outcome_of};
pub use direct::{Proposal, ScriptedBatch};
use record::{Moments, check_session};

use crate::coverage::Coverage;
use crate::invariant::{Invariants, order_of};
use crate::linear::register::{Action, Answer, Bytes};
use crate::linear::store::{History, ManyAction};
use crate::queue::{MILLISECOND, Time};
use crate::random::{Concern, Stream};
use crate::settings::ClientSettings;

/// A command on its way to a node.
#[derive(Clone, Debug)]
pub struct Request {
    /// The client's number.
    pub client: usize,
    /// Names the attempt among the client's.
    pub attempt: u64,
    /// The node it is sent to.
    pub node: usize,
    /// The group of its key.
    pub group: GroupId,
    /// What is asked.
    pub command: OwnedCommand,
    /// How it wants to be served.
    pub level: Level,
    /// Or with whatever the node has executed.
    pub stale: bool,
}

/// What a client asks of the world.
#[derive(Debug)]
pub enum Wish {
    /// Send this.
    Send(Request),
    /// Send this to every node it is for.
    Propose(Proposal),
    /// Call [`Clients::on_timer`] with this client and ticket after a time.
    Timer(Time, usize, u64),
}

#[derive(Clone, Debug)]
struct Part {
    command: OwnedCommand,
    /// `None` for commands that are not about a key.
    intent: Option<Intent>,
    answered: bool,
}

#[derive(Clone, Debug)]
struct Task {
    /// One, or all commands of a batch.
    parts: Vec<Part>,
    level: Level,
    /// A read that is content with what some node has executed.
    stale: bool,
    group: GroupId,
    invoked: Time,
    first_attempt: u64,
    /// Whether the next attempt is a batch, and for which nodes.
    direct: Option<Vec<usize>>,
}

impl Task {
    /// The command with this number in the session; 0: the only one.
    fn part(&mut self, number: u64) -> Option<&mut Part> {
        let is_it = |part: &&mut Part| {
            number == 0 || part.command.session.is_some_and(|header| header.number == number)
        };
        self.parts.iter_mut().find(is_it)
    }

    fn open_parts(&self) -> impl Iterator<Item = &Part> + Clone {
        self.parts.iter().filter(|part| !part.answered)
    }
}

struct Session {
    id: u64,
    number: u64,
    /// Where it is open, and what is added to its numbers there.
    opened: Vec<(GroupId, u64)>,
    /// Groups in which it has expired.
    expired: Vec<GroupId>,
}

impl Session {
    /// What is added to numbers in a group; `None` if the session is not open there.
    fn offset(&self, group: GroupId) -> Option<u64> {
        self.opened.iter().find(|(of, _)| *of == group).map(|(_, offset)| *offset)
    }
}

enum Plan {
    /// So many more random operations.
    Random(u64),
    /// These, one after the other.
    Script(VecDeque<(OwnedCommand, Option<Intent>, Level)>),
}

struct Client {
    random: Stream,
    plan: Plan,
    session: Option<Session>,
    /// Whether what did not succeed is tried again.
    persistent: bool,
    /// How often it gave up on the command of its script; it waits twice as long each time, or it would be all the load there is.
    given_up: u32,
    pinned: bool,
    node: usize,
    attempt: u64,
    ticket: u64,
    task: Option<Task>,
    /// Answered commands of the session with their last attempts, for late copies of their answers.
    answered: VecDeque<(Task, u64)>,
    seen: Bytes,
    /// What it saw last of the keys of a family.
    family: Vec<(Bytes, Option<Bytes>)>,
    counter: u64,
    last: Option<Outcome>,
    wants_nothing: bool,
    /// The timer that runs is for sending the task again.
    resend: bool,
}

/// All clients and their history.
pub struct Clients {
    settings: ClientSettings,
    node_count: usize,
    protocols: Vec<ProtocolKind>,
    seed: u64,
    list: Vec<Client>,
    /// What they saw.
    pub history: History,
    stopped: bool,
}

/// A client's patience doubles at most so often.
const DOUBLINGS_MAX: u32 = 5;

/// Answered commands that a client remembers.
const ANSWERED_MAX: usize = 4;

impl Clients {
    /// The clients of a run.
    pub fn new(seed: u64, settings: ClientSettings, node_count: usize, protocols: Vec<ProtocolKind>) -> Self {
        let mut clients = Self {
            settings,
            node_count,
            protocols,
            seed,
            list: Vec::new(),
            history: History::default(),
            stopped: false,
        };
        for _ in 0..settings.count {
            let mut client = clients.client(Plan::Random(settings.operations), true);
            if client.random.chance(settings.sessions) {
                let id = client.random.word() | 1;
                client.session = Some(Session { id, number: 0, opened: Vec::new(), expired: Vec::new() });
            }
            clients.list.push(client);
        }
        clients
    }

    fn client(&self, plan: Plan, persistent: bool) -> Client {
        let index = self.list.len();
        let mut random = Stream::new(self.seed, Concern::Client(index));
        Client {
            node: random.below(self.node_count as u64) as usize,
            random,
            plan,
            session: None,
            persistent,
            given_up: 0,
            pinned: false,
            attempt: 0,
            ticket: 0,
            task: None,
            answered: VecDeque::new(),
            seen: Bytes::from(&b""[..]),
            family: Vec::new(),
            counter: 0,
            last: None,
            wants_nothing: false,
            resend: false,
        }
    }

    /// When the clients begin.
    pub fn start(&mut self) -> Vec<Wish> {
        (0..self.list.len()).map(|index| self.pause(index)).collect()
    }

    /// A client of its own for one command, sent to one node; the wishes that start it and its number. With `persistent`
    /// it is sent again, as a new operation, until it succeeds.
    pub fn call(
        &mut self,
        now: Time,
        node: usize,
        command: OwnedCommand,
        intent: Option<Intent>,
        level: Level,
        persistent: bool,
    ) -> (usize, Vec<Wish>) {
        let mut client = self.client(Plan::Script([(command, intent, level)].into()), persistent);
        (client.node, client.pinned) = (node, true);
        let index = self.list.len();
        self.list.push(client);
        (index, self.next_task(now, index))
    }

    /// What came of a [`Clients::call`], as soon as it is known.
    pub fn result(&self, client: usize) -> Option<&Outcome> {
        self.list[client].last.as_ref()
    }

    /// No new random operations.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether no client waits for anything.
    pub fn are_idle(&self) -> bool {
        self.list.iter().all(|client| client.task.is_none() && (self.stopped || client.wants_nothing))
    }

    /// What a client waits for, as text.
    pub fn waiting(&self) -> Vec<String> {
        let waiting = self.list.iter().enumerate().filter_map(|(index, client)| {
            let task = client.task.as_ref()?;
            let commands: Vec<_> = task.open_parts().map(|part| &part.command).collect();
            Some(format!("client {index} on node {}: {commands:?}", client.node))
        });
        waiting.collect()
    }

    /// A timer that was wished for.
    pub fn on_timer(&mut self, now: Time, index: usize, ticket: u64, coverage: &mut Coverage) -> Vec<Wish> {
        let client = &mut self.list[index];
        if client.ticket != ticket {
            return Vec::new();
        }
        if client.task.is_none() {
            return self.next_task(now, index);
        }
        if std::mem::take(&mut client.resend) {
            coverage.retries += 1;
            return self.attempt(index);
        }
        self.on_doubt(now, index, coverage)
    }

    /// An attempt was answered, or it is known to be lost. `number` is that of the command in the session; 0: all of it.
    pub fn on_outcome(
        &mut self,
        now: Time,
        index: usize,
        attempt: u64,
        number: u64,
        outcome: Outcome,
        coverage: &mut Coverage,
        invariants: &mut Invariants,
    ) -> Vec<Wish> {
        let client = &mut self.list[index];
        let current = client.task.as_ref().is_some_and(|task| attempt >= task.first_attempt);
        if !current {
            let mut answered = client.answered.iter_mut();
            let late = answered.find(|(task, last)| (task.first_attempt..=*last).contains(&attempt));
            let part = late.and_then(|(task, _)| task.part(number));
            if let (Some(part), Outcome::Answer(answer)) = (part, &outcome) {
                check_session(&part.command, answer, invariants);
            }
            return Vec::new();
        }
        match outcome {
            Outcome::Answer(answer) => {
                let task = client.task.as_mut().expect("the attempt is of the current task");
                let kind = self.protocols.get(task.group.index());
                let is_graph = kind.is_some_and(|kind| order_of(*kind) == Order::Graph);
                // What a stale read shows was there at any moment before.
                let invoked = if task.stale { 0 } else { task.invoked };
                let moments = Moments { invoked, returned: now, is_one: !(task.stale && is_graph) };
                let Some(part) = task.part(number) else { return Vec::new() };
                check_session(&part.command, &answer, invariants);
                if std::mem::replace(&mut part.answered, true) {
                    return Vec::new();
                }
                let part = part.clone();
                let group = task.group;
                let is_done = task.open_parts().next().is_none();
                coverage.acked += 1;
                if let Some(Intent::Many(action)) = &part.intent {
                    coverage.many += 1;
                    let is_transaction = matches!(action, ManyAction::Transaction { .. });
                    coverage.transactions += u64::from(is_transaction && answer == Answer::Number(1));
                    if let ManyAction::Exec { .. } = action {
                        let is_done = matches!(answer, Answer::Replies(_));
                        *(if is_done { &mut coverage.execs } else { &mut coverage.failed_execs }) += 1;
                    }
                }
                self.record(index, moments, &part, answer.clone(), invariants);
                let client = &mut self.list[index];
                client.on_opened(group, &part.command, &answer, coverage);
                if !is_done {
                    return Vec::new();
                }
                let task = client.task.take().expect("it was there");
                client.resend = false;
                if part.command.session.is_some() {
                    client.answered.push_back((task, client.attempt));
                    if client.answered.len() > ANSWERED_MAX {
                        client.answered.pop_front();
                    }
                }
                client.last = Some(Outcome::Answer(answer));
                vec![self.pause(index)]
            }
            // A later attempt is under way.
            Outcome::Refused(error) if error.is_passing() && attempt != client.attempt => Vec::new(),
            Outcome::Refused(CommandError::UnknownSession) if client.persistent => {
                if self.settings.sessions_last {
                    let text = format!("client {index}: its session was forgotten");
                    invariants.note("exactly_once", Err(text));
                    return Vec::new();
                }
                coverage.expired_sessions += 1;
                client.on_expired();
                self.give_up(index, attempt, coverage)
            }
            // What one node admits says nothing of the others that have the batch: the home, or another attempt, will answer.
            Outcome::Refused(CommandError::TooLarge) if client.persistent && client.is_direct() => {
                coverage.too_large += 1;
                Vec::new()
            }
            Outcome::Refused(CommandError::TooLarge) if client.persistent => {
                coverage.too_large += 1;
                self.give_up(index, attempt, coverage)
            }
            Outcome::Refused(error) if client.is_direct() && client.persistent => {
                invariants.note("direct", Err(format!("client {index}: its batch was refused: {error:?}")));
                Vec::new()
            }
            Outcome::Refused(error) => {
                if error.is_passing() && client.persistent {
                    let is_full = error == CommandError::LogFull;
                    coverage.busy += u64::from(is_full);
                    coverage.not_applied += u64::from(!is_full);
                    return self.retry_later(index);
                }
                client.task = None;
                client.last = Some(Outcome::Refused(error));
                vec![self.pause(index)]
            }
            Outcome::Lost if attempt == client.attempt => self.on_doubt(now, index, coverage),
            Outcome::Lost => Vec::new(),
        }
    }

    /// The attempt had no effect, and the client tries no further. If it was the only one nothing has come of the task; otherwise
    /// another one may have had an effect, or will.
    fn give_up(&mut self, index: usize, attempt: u64, coverage: &mut Coverage) -> Vec<Wish> {
        let client = &mut self.list[index];
        let task = client.task.take().expect("only a task is given up");
        client.resend = false;
        let is_only_attempt = client.attempt == task.first_attempt && attempt == client.attempt;
        // A session that one node does not know says nothing of the others that have the batch.
        if !is_only_attempt || task.direct.is_some() {
            coverage.unknown += 1;
            self.record_unknown(&task);
        }
        vec![self.pause(index)]
    }

    /// The latest attempt may or may not have succeeded.
    fn on_doubt(&mut self, now: Time, index: usize, coverage: &mut Coverage) -> Vec<Wish> {
        let client = &mut self.list[index];
        let task = client.task.as_ref().expect("only a task is in doubt");
        let is_harmless =
            |part: &Part| part.command.session.is_some() || part.intent.as_ref().is_none_or(Intent::is_read);
        if client.persistent && task.parts.iter().all(is_harmless) {
            client.move_on(self.node_count);
            self.reconsider_direct(index, coverage);
            coverage.retries += 1;
            return self.attempt(index);
        }
        let task = client.task.take().expect("only a task is in doubt");
        client.last = Some(Outcome::Lost);
        coverage.unknown += 1;
        client.move_on(self.node_count);
        let repeated = client.persistent && matches!(client.plan, Plan::Script(_));
        self.record_unknown(&task);
        if repeated {
            let client = &mut self.list[index];
            client.task = Some(Task { invoked: now, first_attempt: client.attempt + 1, ..task });
            client.last = None;
            client.given_up += 1;
            return self.attempt(index);
        }
        vec![self.pause(index)]
    }

    /// The attempt surely had no effect: the same again, a little later.
    fn retry_later(&mut self, index: usize) -> Vec<Wish> {
        let client = &mut self.list[index];
        client.move_on(self.node_count);
        client.resend = true;
        client.ticket += 1;
        let wait = client.random.range(1, 10) * MILLISECOND;
        vec![Wish::Timer(wait, index, client.ticket)]
    }

    fn pause(&mut self, index: usize) -> Wish {
        let client = &mut self.list[index];
        client.ticket += 1;
        Wish::Timer(client.random.below(self.settings.think + 1), index, client.ticket)
    }

    fn next_task(&mut self, now: Time, index: usize) -> Vec<Wish> {
        let client = &mut self.list[index];
        let next = match &mut client.plan {
            Plan::Random(0) => None,
            Plan::Random(_) if self.stopped => None,
            Plan::Random(left) => {
                *left -= 1;
                Some(client.random_operation(index, &self.settings))
            }
            Plan::Script(calls) => calls.pop_front(),
        };
        let Some((mut command, intent, level)) = next else {
            client.wants_nothing = true;
            return Vec::new();
        };
        let group_count = self.protocols.len() as u16;
        let group = group_of_key(&command.key, group_count);
        if !client.pinned && client.random.chance(100_000) {
            client.node = client.random.below(self.node_count as u64) as usize;
        }
        let kind = self.protocols.get(group.index());
        let mut direct = None;
        if let Some(session) = &mut client.session {
            let Some(offset) = session.offset(group) else {
                // The operation that was drawn is dropped: first the session is opened in its group.
                let part =
                    Part { command: OwnedCommand::open_session(session.id), intent: None, answered: false };
                return self.begin(now, index, vec![part], Level::Log, group, None);
            };
            if !command.kind.is_read() {
                session.number += 1;
                command = command.in_session(session.id, offset + session.number);
                let is_fast = kind == Some(&ProtocolKind::Fast);
                if is_fast && self.settings.direct > 0 && client.random.chance(self.settings.direct) {
                    direct = Some((0..self.node_count).collect());
                }
            }
        }
        let mut parts = vec![Part { command, intent, answered: false }];
        if direct.is_some() {
            parts.extend(client.more_of_batch(index, group, group_count, &self.settings));
        }
        self.begin(now, index, parts, level, group, direct)
    }

    /// Begins a task.
    fn begin(
        &mut self,
        now: Time,
        index: usize,
        parts: Vec<Part>,
        level: Level,
        group: GroupId,
        direct: Option<Vec<usize>>,
    ) -> Vec<Wish> {
        let client = &mut self.list[index];
        let first_attempt = client.attempt + 1;
        let is_shown = |part: &Part| {
            matches!(part.intent, Some(Intent::One(Action::Get) | Intent::Many(ManyAction::Read(_))))
        };
        let stale = matches!(client.plan, Plan::Random(_))
            && self.settings.stale_reads > 0
            && parts.iter().all(is_shown)
            && client.random.chance(self.settings.stale_reads);
        client.task = Some(Task { parts, level, stale, group, invoked: now, first_attempt, direct });
        client.last = None;
        let twice = client.session.is_some() && client.random.chance(50_000);
        let mut wishes = self.attempt(index);
        if twice {
            // Both copies may be decided.
            let client = &mut self.list[index];
            let node = client.node;
            client.move_on(self.node_count);
            wishes.extend(self.attempt(index));
            self.list[index].node = node;
        }
        wishes
    }

    fn attempt(&mut self, index: usize) -> Vec<Wish> {
        let client = &mut self.list[index];
        client.attempt += 1;
        client.ticket += 1;
        client.resend = false;
        let task = client.task.as_ref().expect("an attempt is at a task");
        let (attempt, node, group) = (client.attempt, client.node, task.group);
        let (level, stale) = (task.level, task.stale);
        let mut wishes: Vec<Wish> = match &task.direct {
            Some(to) => vec![Wish::Propose(Proposal::of(task, index, attempt, node, to.clone()))],
            None => task
                .open_parts()
                .map(|part| {
                    let command = part.command.clone();
                    Wish::Send(Request { client: index, attempt, node, group, command, level, stale })
                })
                .collect(),
        };
        let patience = self.settings.patience << client.given_up.min(DOUBLINGS_MAX);
        wishes.push(Wish::Timer(patience, index, client.ticket));
        wishes
    }
}

impl Client {
    /// A command was answered; if it opened the session, numbers in its group begin there.
    fn on_opened(
        &mut self,
        group: GroupId,
        command: &OwnedCommand,
        answer: &Answer,
        coverage: &mut Coverage,
    ) {
        if let (Some(session), CommandKind::OpenSession, Answer::Number(first)) =
            (&mut self.session, command.kind, answer)
        {
            session.opened.retain(|(of, _)| *of != group);
            session.opened.push((group, *first as u64 - 1));
            let expired_count = session.expired.len();
            session.expired.retain(|of| *of != group);
            coverage.reopened_sessions += (expired_count - session.expired.len()) as u64;
        }
    }

    /// The session of the task has expired in its group: it is opened again, under the same name, before the next command.
    fn on_expired(&mut self) {
        if let (Some(session), Some(task)) = (&mut self.session, &self.task) {
            session.opened.retain(|(of, _)| *of != task.group);
            session.expired.push(task.group);
        }
    }

    fn move_on(&mut self, node_count: usize) {
        if !self.pinned && node_count > 1 {
            self.node = (self.node + 1 + self.random.below(node_count as u64 - 1) as usize) % node_count;
        }
    }
}
