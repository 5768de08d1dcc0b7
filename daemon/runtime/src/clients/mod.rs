//! Client connections: RESP and native, their requests into the core, and replies back in order.

pub(crate) mod arrivals;
pub(crate) mod connection;
pub(crate) mod describe;
pub(crate) mod groups;
pub(crate) mod latency;
pub(crate) mod memory;
mod multi;
pub(crate) mod native;
pub(crate) mod order;
pub(crate) mod output;
pub(crate) mod resp;
pub(crate) mod seats;
pub(crate) mod table;
pub(crate) mod topology;

use std::collections::VecDeque;

use panch_replica::batcher::Refusal;
use panch_replica::client_batch::{BatchRefusal, Sound, Terms};
use panch_replica::core::Core;
use panch_replica::kv::{SMALL_REPLY_SIZE, reply_size};
use panch_replica::outbox::ReplyTo;
use panch_replica::replica::Level;
use panch_wire::client::{Commit, ReadLevel};
use panch_wire::command::{Command, CommandError, CommandKind, Reply};
use panch_wire::frame::Frame;
use panch_wire::ids::GroupId;
use panch_wire::time::Instant;

use crate::clients::memory::Share;
use crate::counters::CommandCounts;
use crate::remote::{Forwarding, Gathering, Parcel};
use crate::view::NodeView;

/// Requests of one connection that may be outstanding before no more are taken in.
const OUTSTANDING_MAX: usize = 64 << 10;

/// Why the input of a connection is not consumed further now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// More bytes are needed.
    NeedBytes,
    /// There is no room, or a reply must leave first: try again after the next turn.
    Stalled,
    /// The connection ends once its output is sent; `true` if its bytes were at fault.
    Close(bool),
}

/// How a read of that level is served once it cannot be answered on the spot: a stale one of another core's group by a
/// quorum.
pub(crate) fn submitted_level(level: ReadLevel) -> Level {
    match level {
        ReadLevel::Log => Level::Log,
        ReadLevel::Lease => Level::Lease,
        ReadLevel::Quorum | ReadLevel::Stale | ReadLevel::Default => Level::Quorum,
    }
}

impl Past {
    /// The longest value that it may have written once it has sent this command, too.
    pub(crate) fn written_with(&self, command: &Command<'_>) -> usize {
        match command.kind {
            kind if kind.is_read() => self.written,
            CommandKind::Append => self.written + command.value.len(),
            _ => self.written.max(command.value.len()),
        }
    }
}

/// Why there is no memory for what this command adds to full data. A copy of what was executed adds nothing, and is to hear its reply. Of what
/// is proposed and not executed yet nothing is known here: such a copy is refused, and another one may be applied all the same.
pub(crate) fn lack_of_memory(core: &Core, group: GroupId, command: &Command<'_>) -> Option<CommandError> {
    (command.may_grow() && !core.remembers(group, command)).then_some(CommandError::OutOfMemory)
}

/// Why a command was not taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Denial {
    /// There is no room now.
    Busy,
    /// It never will be.
    For(CommandError),
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy => Self::Busy,
            Refusal::TooLarge => Self::For(CommandError::TooLarge),
        }
    }
}

impl From<BatchRefusal> for Denial {
    fn from(refusal: BatchRefusal) -> Self {
        match refusal {
            BatchRefusal::Busy => Self::Busy,
            BatchRefusal::For(error) => Self::For(error),
        }
    }
}

/// Where commands of clients go: a group of this core, or a parcel for another one.
pub(crate) struct Counter<'a> {
    pub(crate) now: Instant,
    /// The node stops and takes nothing in any more.
    pub(crate) is_closed: bool,
    /// See [`NodeView::is_data_full`].
    pub(crate) is_data_full: bool,
    pub(crate) core: &'a mut Core,
    pub(crate) view: &'a NodeView,
    /// Requests for the other cores, gathering during this turn.
    pub(crate) forwarding: &'a mut [Forwarding],
    /// Counts the requests of clients.
    pub(crate) requests: &'a mut u64,
    /// And those of RESP clients by their names.
    pub(crate) commands: &'a mut CommandCounts,
    /// Answers that other cores have a part in.
    pub(crate) gatherings: &'a mut Vec<Gathering>,
    /// What leaves for other cores beside requests.
    pub(crate) parcels: &'a mut VecDeque<(usize, Parcel)>,
    /// What clients make this core hold.
    pub(crate) share: &'a Share,
    /// What may be owed to the connection whose requests are taken in.
    pub(crate) room: usize,
}

/// What is known of a connection that tells how long replies to it will be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Past {
    /// The longest value that it may have written, and has had no answer to.
    pub(crate) written: usize,
    /// How long values were that it asked for lately.
    pub(crate) likely: usize,
    /// Requests without a reply.
    pub(crate) outstanding: usize,
}

impl Counter<'_> {
    /// When a request that arrived then is to be answered at the latest.
    pub(crate) fn deadline(&self, arrived: Instant) -> Instant {
        arrived + self.view.options.replica.request_timeout
    }

    /// Why a request that arrived then is not looked at any more, if it is not.
    pub(crate) fn refusal(&self, arrived: Instant) -> Option<CommandError> {
        if self.is_closed {
            return Some(CommandError::Stopping);
        }
        let is_late = self.deadline(arrived) <= self.now;
        is_late.then(|| if self.core.is_live() { CommandError::NoRoom } else { CommandError::NotMember })
    }

    /// Why this command of that group is not looked at any more, if it is not; it arrived then.
    pub(crate) fn refusal_of(
        &self,
        arrived: Instant,
        group: GroupId,
        command: &Command<'_>,
    ) -> Option<CommandError> {
        let lack = || if self.is_data_full { self.lack_of_memory(group, command) } else { None };
        self.refusal(arrived).or_else(lack)
    }

    /// Why there is no memory for what this command adds. Of a session the core of its group judges, which knows its replies.
    fn lack_of_memory(&self, group: GroupId, command: &Command<'_>) -> Option<CommandError> {
        let is_elsewhere = self.view.core_of(group) != self.view.core;
        if is_elsewhere && command.session.is_some() {
            None
        } else {
            lack_of_memory(self.core, group, command)
        }
    }

    /// Takes in a command that arrived then.
    pub(crate) fn submit(
        &mut self,
        arrived: Instant,
        group: GroupId,
        command: &Command<'_>,
        level: Level,
        token: ReplyTo,
    ) -> Result<(), Denial> {
        let core = self.view.core_of(group);
        if core == self.view.core {
            self.core.submit(self.now, arrived, group, command, level, token)?;
        } else {
            self.forwarding[core].push(arrived, group, command, level, token)?;
        }
        Ok(())
    }

    /// Takes in a batch that a client proposes itself.
    pub(crate) fn submit_batch(
        &mut self,
        arrived: Instant,
        group: GroupId,
        bytes: &[u8],
        session: u64,
        connection: u64,
    ) -> Result<Sound, Denial> {
        if !self.core.has_room_for_batch(group, bytes, connection) {
            return Err(Denial::Busy);
        }
        let (frame, sound) = receive_batch(self.core, self.view, group, bytes, session)?;
        // Every node drops it, and only its home answers: it does not know what the others do. Copies of what was executed are not told from
        // others here, for that takes the group's core: until there is room, a batch that is sent again hears that its outcome is unknown.
        if self.is_data_full && sound.may_grow {
            let is_home = sound.home == self.view.node();
            return if is_home { Err(Denial::For(CommandError::Unknown)) } else { Ok(sound) };
        }
        let core = self.view.core_of(group);
        if core == self.view.core {
            self.core.submit_batch(self.now, arrived, group, frame, connection, true)?;
        } else {
            self.forwarding[core].push_batch(arrived, group, bytes, session, connection)?;
        }
        Ok(sound)
    }

    /// Reserves what the reply to a command of that group will take beside what every reply does, as far as that can be foreseen. `owed` is what
    /// the connection is owed now. `None` if there is no room for it.
    pub(crate) fn reserve(
        &mut self,
        group: GroupId,
        command: &Command<'_>,
        past: Past,
        owed: usize,
    ) -> Option<usize> {
        // What the values have now is certain; what they may have once its own writes are executed is a guess.
        let size = match self.core.reply_size(group, command, 0) {
            Some(size) if past.written > SMALL_REPLY_SIZE => {
                let written = self.core.reply_size(group, command, past.written).unwrap_or(size);
                written.min(self.share.unknown_size_max()).max(size)
            }
            Some(size) => size,
            None => self.unknown_size(group, command, past)?,
        };
        let reserved = size.saturating_sub(SMALL_REPLY_SIZE);
        self.grant(reserved, owed).then_some(reserved)
    }

    /// Whether a connection that is owed so much may be owed so much more, beside what every reply takes.
    pub(crate) fn grant(&mut self, size: usize, owed: usize) -> bool {
        if size == 0 || owed + size + SMALL_REPLY_SIZE <= self.room {
            return true;
        }
        let is_granted = self.share.claim(self.now, size);
        if is_granted {
            self.room += size;
        }
        is_granted
    }

    /// Of a group of another core only the longest value is known. It will return what it returned lately; few enough are outstanding for
    /// that to be wrong.
    fn unknown_size(&self, group: GroupId, command: &Command<'_>, past: Past) -> Option<usize> {
        let bound = self.view.reports.value_size_bound(group).max(past.written);
        let likely = past.likely.max(past.written);
        // Values as long as the longest are rare: no guess takes a large part of everybody's memory.
        let guess = |length: usize| reply_size(command, &mut |_| length).min(self.share.unknown_size_max());
        if guess(bound) <= SMALL_REPLY_SIZE || likely >= bound {
            return Some(guess(bound));
        }
        let may_be_unknown = past.outstanding < self.share.unknown_max(bound);
        may_be_unknown.then(|| guess(likely))
    }

    /// Begins an answer that starts with `text` and to which every other core adds who is connected to it.
    pub(crate) fn list_clients(&mut self, to: ReplyTo, text: String) {
        let others = (0..self.view.cores()).filter(|core| *core != self.view.core);
        let before = self.parcels.len();
        self.parcels.extend(others.map(|core| (core, Parcel::ListClients(to))));
        let missing = self.parcels.len() - before;
        self.gatherings.push(Gathering { to, text, missing });
    }

    /// Answers a read from what this core has executed; `None` if another core would have to.
    pub(crate) fn read_stale<R>(
        &mut self,
        group: GroupId,
        command: &Command<'_>,
        answer: impl FnOnce(Reply<'_>, Option<&Commit>) -> R,
    ) -> Option<R> {
        self.core.read_stale(group, command, answer)
    }
}

/// Makes a frame of what a client proposes and checks it.
pub(crate) fn receive_batch(
    core: &Core,
    view: &NodeView,
    group: GroupId,
    bytes: &[u8],
    session: u64,
) -> Result<(Frame, Sound), BatchRefusal> {
    let options = &view.options;
    let terms = Terms {
        session,
        group,
        protocol: options.protocols.get(group.index()).copied(),
        replica_count: options.members.len(),
        limits: &options.replica.batch,
    };
    core.receive_batch(bytes, &terms, |command| options.routing.group_of_command(command))
}

#[cfg(test)]
mod tests {
    use super::connection::{Connection, ConnectionKey, NativeSpeech, Speech};
    use super::memory::Memory;
    use super::*;
    use panch_consensus::protocol::{ProtocolKind, Tuning, random};
    use panch_replica::batcher::BatchLimits;
    use panch_replica::core::CoreConfig;
    use panch_replica::replica::ReplicaConfig;
    use panch_ring::buffers::SendBuffers;
    use panch_ring::doorbell::Doorbell;
    use panch_ring::ring::{Ring, RingConfig};
    use panch_wire::frame::FramePool;
    use panch_wire::ids::{Incarnation, ReplicaId};
    use panch_wire::routing::Routing;
    use panch_wire::time::Duration;

    use crate::changes::Changes;
    use crate::counters::{CoreCounters, Reports};
    use crate::options::{Idle, Member, NodeOptions};

    fn connections() -> [Connection; 2] {
        let mut ring = Ring::new(&RingConfig::default(), Doorbell::new().unwrap()).unwrap();
        [resp::speech(1 << 20), Speech::Native(NativeSpeech::default())].map(|speech| {
            let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
            Connection::new(ConnectionKey(1), ring.add_socket(socket), None, 1, Instant(0), speech)
        })
    }

    fn begin(connection: &mut Connection) -> u64 {
        match &mut connection.speech {
            Speech::Resp(speech) => speech.order.begin(order::Class::Read),
            Speech::Native(speech) => {
                speech.begin(0, 0);
                0
            }
        }
    }

    fn view() -> NodeView {
        let member = |port| ([127, 0, 0, 1], port).into();
        let options = NodeOptions {
            node: ReplicaId(0),
            cluster: 1,
            fingerprint: 2,
            secret: None,
            members: vec![Member { peer: member(1), peer_name: None, resp: member(2), native: member(3) }],
            protocols: vec![ProtocolKind::Multi],
            routing: Routing::even(1),
            cpus: vec![None],
            data_dir: "unused".into(),
            loss: Default::default(),
            begin_with: Vec::new(),
            config_file: Default::default(),
            told_to_found: false,
            boot: 1,
            stop: Default::default(),
            peer_listen: member(1),
            resp_listen: member(2),
            native_listen: member(3),
            log: panch_wal::Config::default(),
            replica: ReplicaConfig {
                batch: BatchLimits::default(),
                hash_seed: 0,
                request_timeout: Duration::from_secs(1),
                snapshot_log_size: 1 << 20,
                session_idle_max: Duration::from_secs(1),
                checkpoint_every: 512,
            },
            tuning: Tuning::default(),
            default_read_level: ReadLevel::Quorum,
            idle: Idle::Park,
            spin: Duration::ZERO,
            frame_pool_size: 1 << 20,
            connections_max: 1,
            client_memory_max: 1 << 20,
            data_memory_max: u64::MAX,
            release_memory: || (),
        };
        NodeView {
            options: options.into(),
            core: 0,
            incarnation: Incarnation(1),
            rejoining: false,
            started: Instant(0),
            reports: Reports::new(1, 1).into(),
            seats: seats::Seats::new(1).into(),
            memory: Memory::new(1 << 20, 1, 1).into(),
            changes: Changes::new(1).into(),
        }
    }

    /// What a RESP connection makes of `input`, on a core that is not live: data commands would have to wait.
    fn consume(connection: &mut Connection, input: &[u8]) -> (usize, Stop) {
        let view = view();
        let config = CoreConfig {
            me: view.node(),
            replica_count: 1,
            groups: view.groups(),
            replica: view.options.replica,
            tuning: view.options.tuning,
            rejoining: false,
            log_size_max: 1 << 20,
            snapshot_size_max: u64::MAX,
        };
        let pool = FramePool::new(view.options.frame_pool_size);
        let mut core = Core::open(&config, view.incarnation, pool, |_| random(1), |_| None);
        let clients = table::Clients::new(
            0,
            1,
            seats::Seats::new(1).into(),
            Share::new(Memory::new(1 << 20, 1, 1).into()).into(),
            SendBuffers::new(0, 0),
        );
        let ring = Ring::new(&RingConfig::default(), Doorbell::new().unwrap()).unwrap();
        let neighbours =
            describe::Neighbours { clients: &clients, counters: &CoreCounters::default(), ring: &ring };
        let (mut forwarding, mut requests) = (vec![Forwarding::default()], 0);
        let mut counter = Counter {
            now: Instant(0),
            is_closed: false,
            is_data_full: false,
            core: &mut core,
            view: &view,
            forwarding: &mut forwarding,
            requests: &mut requests,
            commands: &mut CommandCounts::default(),
            gatherings: &mut Vec::new(),
            parcels: &mut VecDeque::new(),
            share: clients.share(),
            room: connection.owed() + (1 << 20),
        };
        resp::consume(connection, input, &mut counter, &neighbours, &mut Vec::new())
    }

    #[test]
    fn the_form_of_replies_changes_only_behind_all_that_are_still_to_come() {
        for (command, answer) in
            [(&b"HELLO 3\r\n"[..], &b"%7\r\n"[..]), (&b"RESET\r\n"[..], &b"+RESET\r\n"[..])]
        {
            let [mut connection, _] = connections();
            let first = begin(&mut connection);
            assert_eq!(consume(&mut connection, command), (0, Stop::Stalled));
            connection.reply(first, Reply::Nil, None);
            assert_eq!(connection.output.bytes(), b"$-1\r\n", "asked for in RESP2");
            assert_eq!(consume(&mut connection, command), (command.len(), Stop::NeedBytes));
            let output = connection.output.bytes();
            assert!(output[5..].starts_with(answer), "{}", output.escape_ascii());
        }
        // One that changes nothing waits for nothing.
        let [mut connection, _] = connections();
        begin(&mut connection);
        assert_eq!(consume(&mut connection, b"HELLO 2\r\n"), (9, Stop::NeedBytes));
    }

    #[test]
    fn a_refused_hello_changes_neither_form_nor_name() {
        let [mut connection, _] = connections();
        let stream = b"HELLO 3 AUTH nobody x SETNAME thief\r\nCLIENT GETNAME\r\n";
        assert_eq!(consume(&mut connection, stream), (stream.len(), Stop::NeedBytes));
        let text = format!("-{}\r\n$-1\r\n", panch_wire::resp::WRONG_PASSWORD);
        assert_eq!(String::from_utf8_lossy(&connection.output.bytes()), text);
    }

    #[test]
    fn what_tells_of_writes_waits_for_them() {
        for (command, answer) in
            [(&b"DBSIZE\r\n"[..], &b"+OK\r\n:0\r\n"[..]), (b"WAIT 0 0\r\n", b"+OK\r\n:0\r\n")]
        {
            let [mut connection, _] = connections();
            let Speech::Resp(speech) = &mut connection.speech else { unreachable!("the first is one") };
            let write = speech.order.begin(order::Class::Logged);
            assert_eq!(consume(&mut connection, command), (0, Stop::Stalled));
            connection.reply(write, Reply::Ok, None);
            assert_eq!(consume(&mut connection, command), (command.len(), Stop::NeedBytes));
            assert_eq!(connection.output.bytes(), answer);
        }
    }

    #[test]
    fn commands_are_queued_between_multi_and_exec_and_what_is_refused_spoils_them() {
        let [mut connection, _] = connections();
        let aborted = "-EXECABORT Transaction discarded because of previous errors.";
        let with_arguments =
            "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";
        let inside = "-ERR Command not allowed inside a transaction";
        let mut expected = String::new();
        for (line, answer) in [
            ("EXEC", "-ERR EXEC without MULTI"),
            ("DISCARD", "-ERR DISCARD without MULTI"),
            ("UNWATCH", "+OK"),
            ("MULTI", "+OK"),
            ("MULTI", "-ERR MULTI calls can not be nested"),
            ("WATCH a", "-ERR WATCH inside MULTI is not allowed"),
            ("EXEC", "*0"),
            ("MULTI", "+OK"),
            ("SET a 1", "+QUEUED"),
            ("DISCARD", "+OK"),
            ("MULTI", "+OK"),
            ("SET a 1", "+QUEUED"),
            ("PING", inside),
            ("EXEC", aborted),
            ("MULTI", "+OK"),
            ("GET", "-ERR wrong number of arguments for 'get' command"),
            ("EXEC", aborted),
            ("MULTI", "+OK"),
            ("EXEC now", with_arguments),
            ("EXEC now", with_arguments),
            ("EXEC", "-ERR EXEC without MULTI"),
            ("MULTI", "+OK"),
            ("UNWATCH", inside),
            ("RESET", "+RESET"),
            ("EXEC", "-ERR EXEC without MULTI"),
        ] {
            let line = format!("{line}\r\n");
            assert_eq!(consume(&mut connection, line.as_bytes()), (line.len(), Stop::NeedBytes), "{line}");
            expected.push_str(&format!("{answer}\r\n"));
            assert_eq!(String::from_utf8_lossy(&connection.output.bytes()), expected);
        }
        // The core is not live: EXEC waits for it, and what is queued stays.
        let queued = b"MULTI\r\nSET a 1\r\n";
        assert_eq!(consume(&mut connection, queued), (queued.len(), Stop::NeedBytes));
        for _ in 0..2 {
            assert_eq!(consume(&mut connection, b"EXEC\r\n"), (0, Stop::Stalled));
        }
        // WATCH waits until everything before it is answered.
        let [mut connection, _] = connections();
        begin(&mut connection);
        assert_eq!(consume(&mut connection, b"WATCH a\r\n"), (0, Stop::Stalled));
    }

    #[test]
    fn requests_wait_when_the_replies_reserved_would_not_fit() {
        let room = 16 * SMALL_REPLY_SIZE + 1000;
        for mut connection in connections() {
            while !connection.is_full(room) {
                begin(&mut connection);
            }
            let taken = connection.outstanding();
            assert!((16..32).contains(&taken), "{taken}");
            let number = if matches!(connection.speech, Speech::Resp(_)) { taken as u64 - 1 } else { 0 };
            connection.reply(number, Reply::Nil, None);
            assert!(!connection.is_full(room), "a short one gives its room back");
            begin(&mut connection);
            connection.reply(number, Reply::Bytes(&[b'x'; 5000]), None);
            assert!(connection.is_full(room), "a long one takes what it takes");
        }
    }

    #[test]
    fn long_replies_have_buffers_of_their_own_and_leave_in_order() {
        for mut connection in connections() {
            let mut expected = 0;
            for size in [10, 100_000, 10, 20, 200_000, 5, 60_000, 10_000, 1] {
                let number = begin(&mut connection);
                connection.reply(number, Reply::Bytes(&vec![b'x'; size]), None);
                expected += size;
            }
            let (held, size) = (connection.held(), connection.size());
            assert!((expected..expected + 9 * 64).contains(&held), "{held}");
            assert!(connection.output.buffer_count() >= 3 && size < expected + (80 << 10), "{size}");
        }
    }
}
