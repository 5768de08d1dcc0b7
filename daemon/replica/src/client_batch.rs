//! Batches that clients seal themselves and send to every replica of a Fast Paxos group: what is checked before one goes
//! anywhere, and whom to answer.
//!
//! A client is not trusted. What keeps its batch harmless: its name says which bytes it has, so that votes for it are for one value;
//! and each command is a write within the client's own session, so that it takes effect once, however often the batch is decided.

use std::collections::VecDeque;

use panch_consensus::protocol::ProtocolKind;
use panch_wire::batch::{BatchView, OVERHEAD};
use panch_wire::command::{Command, CommandError};
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, GroupId, ReplicaId};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::Instant;

use crate::batcher::{BatchLimits, Refusal};
use crate::ceilings::SESSION_WINDOW;

/// The most commands of a batch: more of one session may not be outstanding anyway.
pub const COMMANDS_MAX: usize = SESSION_WINDOW as usize;

/// What a client's batch is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The session of the client's connection, 0 for none.
    pub session: u64,
    /// The group that the client named.
    pub group: GroupId,
    /// That group's protocol; `None` if there is no such group.
    pub protocol: Option<ProtocolKind>,
    /// How many replicas it has.
    pub replica_count: usize,
    /// Bounds of batches.
    pub limits: &'a BatchLimits,
}

/// What a sound batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sound {
    /// The replica that answers.
    pub home: ReplicaId,
    /// Answers that it owes: one for each command.
    pub command_count: usize,
    /// Whether the data may take more memory for one of them.
    pub may_grow: bool,
}

/// Why a batch was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchRefusal {
    /// No room now: read no more from this client and try again after a turn.
    Busy,
    /// It never will be.
    For(CommandError),
}

/// Makes a frame of the bytes of a client and checks it. `group_of` says where a command belongs.
///
/// # Errors
/// Why it is refused.
pub fn receive(
    bytes: &[u8],
    pool: &FramePool,
    terms: &Terms<'_>,
    group_of: impl Fn(&Command<'_>) -> Option<GroupId>,
) -> Result<(Frame, Sound), BatchRefusal> {
    if bytes.len() > size_max(terms.limits) {
        return Err(BatchRefusal::For(CommandError::TooLarge));
    }
    // As with commands, the last quarter of the memory is for what peers send.
    if pool.used() > pool.size_max() / 4 * 3 {
        return Err(BatchRefusal::Busy);
    }
    let mut memory = pool.take(bytes.len()).ok_or(BatchRefusal::Busy)?;
    memory[..bytes.len()].copy_from_slice(bytes);
    let frame = memory.receive(bytes.len()).map_err(|_| BatchRefusal::For(CommandError::Malformed))?;
    let sound = check(&frame, terms, group_of).map_err(BatchRefusal::For)?;
    Ok((frame, sound))
}

/// The home of a sound batch, and the numbers of its commands in their session. It takes memory of its own, for a moment: it is for when
/// a core's frame memory is full.
pub fn home_and_numbers(bytes: &[u8]) -> Option<(ReplicaId, Vec<u64>)> {
    let mut memory = FramePool::new(usize::MAX).take(bytes.len())?;
    memory[..bytes.len()].copy_from_slice(bytes);
    let frame = memory.receive(bytes.len()).ok()?;
    let view = BatchView::validate(&frame).ok()?;
    let numbers = view.commands().filter_map(|command| Some(command.session?.number)).collect();
    Some((frame.id().proposer, numbers))
}

/// The largest frame: that of a full batch, or of one large command.
fn size_max(limits: &BatchLimits) -> usize {
    OVERHEAD + limits.size_max.max(limits.command_size_max)
}

fn check(
    frame: &Frame,
    terms: &Terms<'_>,
    group_of: impl Fn(&Command<'_>) -> Option<GroupId>,
) -> Result<Sound, CommandError> {
    if terms.protocol != Some(ProtocolKind::Fast) {
        return Err(CommandError::NoDirectProposals);
    }
    let id = frame.id();
    if !id.is_of_client() || id.counter == 0 || id.proposer.index() >= terms.replica_count {
        return Err(CommandError::Malformed);
    }
    let view = BatchView::validate(frame).map_err(|_| CommandError::Malformed)?;
    if !(1..=COMMANDS_MAX).contains(&view.command_count()) {
        return Err(CommandError::Malformed);
    }
    if holds(Rule::FastClientNamesChecked) && !frame.is_named_after_content() {
        return Err(CommandError::Malformed);
    }
    let mut may_grow = false;
    for command in view.commands() {
        may_grow |= command.may_grow();
        let is_mine = match command.session {
            Some(header) => header.session == terms.session,
            None => !holds(Rule::FastDirectNeedsSession),
        };
        if command.kind.is_read() || command.kind.is_about_sessions() || !is_mine {
            return Err(CommandError::Malformed);
        }
        if !terms.limits.admits(&command) {
            return Err(CommandError::TooLarge);
        }
        if group_of(&command) != Some(terms.group) {
            return Err(CommandError::CrossSlot);
        }
    }
    Ok(Sound { home: id.proposer, command_count: view.command_count(), may_grow })
}

/// A batch whose home is here, until it is executed.
pub(crate) struct Flight {
    pub(crate) frame: Frame,
    /// The connection that waits for the answers: [`ReplyTo::connection`](crate::outbox::ReplyTo).
    pub(crate) connection: u64,
    /// When it was taken in.
    pub(crate) since: Instant,
    /// When it arrived at the node.
    arrived: Instant,
    /// It is known to be chosen.
    committed: bool,
}

/// The batches whose home is here, oldest first, and those of any home that came in this turn. Bounded: what finds no room is
/// not taken in.
pub(crate) struct Flights {
    me: ReplicaId,
    list: VecDeque<Flight>,
    /// To be given to the protocol when the turn ends.
    arrived: Vec<Frame>,
    /// Ended because the same batch came again, or declined.
    superseded: Vec<Flight>,
    count_max: usize,
}

impl Flights {
    pub(crate) fn new(limits: &BatchLimits, me: ReplicaId) -> Self {
        Self {
            me,
            list: VecDeque::new(),
            arrived: Vec::new(),
            superseded: Vec::new(),
            count_max: limits.queue_max.max(1),
        }
    }

    /// Takes a batch in, which `arrived` at the node now or earlier.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        arrived: Instant,
        frame: Frame,
        connection: u64,
    ) -> Result<(), Refusal> {
        if self.arrived.len() >= self.count_max {
            return Err(Refusal::Busy);
        }
        if frame.id().proposer == self.me {
            self.expect(now, arrived, &frame, connection)?;
        }
        self.arrived.push(frame);
        Ok(())
    }

    /// Notes who waits for a batch. Whoever waited for the same one does so no longer.
    fn expect(
        &mut self,
        now: Instant,
        arrived: Instant,
        frame: &Frame,
        connection: u64,
    ) -> Result<(), Refusal> {
        let earlier = self.finish(frame);
        if earlier.is_none() && !self.has_room(self.me, connection) {
            return Err(Refusal::Busy);
        }
        self.superseded.extend(earlier);
        let frame = frame.clone();
        self.list.push_back(Flight { frame, connection, since: now, arrived, committed: false });
        Ok(())
    }

    /// Whether a batch with that home finds room. No connection takes more than a quarter of it, or a batch more.
    pub(crate) fn has_room(&self, home: ReplicaId, connection: u64) -> bool {
        let of_connection = || self.list.iter().filter(|flight| flight.connection == connection).count();
        let has_place = || self.list.len() < self.count_max && of_connection() <= self.count_max / 4;
        self.arrived.len() < self.count_max && (home != self.me || has_place())
    }

    /// Nothing is done about a batch here, and who waits for it hears so when the turn ends.
    pub(crate) fn decline(&mut self, now: Instant, frame: Frame, connection: u64) {
        if frame.id().proposer == self.me {
            self.superseded.push(Flight { frame, connection, since: now, arrived: now, committed: false });
        }
    }

    /// What came in since the last time, in that order.
    pub(crate) fn next_arrived(&mut self) -> Option<Frame> {
        (!self.arrived.is_empty()).then(|| self.arrived.remove(0))
    }

    /// A flight that ended without an outcome that is known here.
    pub(crate) fn next_superseded(&mut self) -> Option<Flight> {
        self.superseded.pop()
    }

    /// As of [`Batcher`](crate::batcher)'s batches: since when the batch is in flight and how many commands it has, the first time
    /// that it is known to be chosen.
    pub(crate) fn commit(&mut self, id: BatchId) -> Option<(Instant, u32)> {
        let flight = self.list.iter_mut().find(|flight| flight.frame.id() == id && !flight.committed)?;
        flight.committed = true;
        Some((flight.since, flight.frame.command_count()))
    }

    /// Ends the flight of exactly that batch.
    pub(crate) fn finish(&mut self, frame: &Frame) -> Option<Flight> {
        let name = |frame: &Frame| (frame.digest(), frame.id());
        let index = self.list.iter().position(|flight| name(&flight.frame) == name(frame))?;
        self.list.remove(index)
    }

    /// Ends the next flight that arrived before `limit`.
    pub(crate) fn overdue(&mut self, limit: Instant) -> Option<Flight> {
        let index = self.list.iter().position(|flight| flight.arrived < limit)?;
        self.list.remove(index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.list.iter()
    }

    /// Since when the oldest is in flight.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.list.front().map(|flight| flight.since)
    }

    /// When the one that has the least time left arrived.
    pub(crate) fn first_arrived(&self) -> Option<Instant> {
        self.list.iter().map(|flight| flight.arrived).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_wire::batch::BatchWriter;
    use panch_wire::command::{CommandKind, SessionHeader};
    use panch_wire::frame::FramePool;
    use panch_wire::routing::Routing;

    const SESSION: u64 = 9;

    fn set(key: &[u8]) -> Command<'_> {
        let session = Some(SessionHeader { session: SESSION, number: 1, acked_below: 1 });
        Command { kind: CommandKind::Set, flags: 0, session, key, value: b"value" }
    }

    fn seal_for(home: u8, number: u64, commands: &[Command<'_>]) -> Frame {
        let pool = FramePool::new(1 << 22);
        let mut writer = BatchWriter::new(pool.take(1 << 21).unwrap(), Vec::new());
        assert!(commands.iter().all(|command| writer.push(command)));
        writer.seal_for_client(ReplicaId(home), number).0
    }

    fn seal(number: u64, commands: &[Command<'_>]) -> Frame {
        seal_for(1, number, commands)
    }

    /// The frame with other bytes in it and the checksum for them.
    fn changed(frame: &Frame, change: impl FnOnce(&mut [u8])) -> Frame {
        let length = frame.bytes().len();
        let mut copy = FramePool::new(1 << 22).take(length).unwrap();
        copy[..length].copy_from_slice(frame.bytes());
        change(&mut copy[..length]);
        let sum = panch_wire::checksum::checksum(&copy[8..length]);
        copy[..8].copy_from_slice(&sum.to_le_bytes());
        copy.receive(length).unwrap()
    }

    fn check_with(frame: &Frame, change: impl FnOnce(&mut Terms<'_>)) -> Result<Sound, CommandError> {
        let limits = BatchLimits { size_max: 4096, command_size_max: 2048, ..BatchLimits::default() };
        let mut terms = Terms {
            session: SESSION,
            group: Routing::even(4).group_of_command(&set(b"key")).unwrap(),
            protocol: Some(ProtocolKind::Fast),
            replica_count: 3,
            limits: &limits,
        };
        change(&mut terms);
        check(frame, &terms, |command| Routing::even(4).group_of_command(command))
    }

    #[test]
    fn writes_of_the_session_of_the_connection_in_the_named_group_are_sound() {
        let frame = seal(1, &[set(b"key"), set(b"{key}2")]);
        let sound = Sound { home: ReplicaId(1), command_count: 2, may_grow: true };
        assert_eq!(check_with(&frame, |_| ()), Ok(sound));
    }

    #[test]
    fn everything_else_is_refused() {
        use CommandError::{CrossSlot, Malformed, NoDirectProposals, TooLarge};
        let sound = seal(1, &[set(b"key")]);
        assert_eq!(check_with(&sound, |terms| terms.session = 0), Err(Malformed), "a foreign session");
        assert_eq!(check_with(&sound, |terms| terms.group = GroupId(77)), Err(CrossSlot));
        for protocol in [None, Some(ProtocolKind::Multi), Some(ProtocolKind::Epaxos)] {
            assert_eq!(check_with(&sound, |terms| terms.protocol = protocol), Err(NoDirectProposals));
        }
        assert_eq!(check_with(&sound, |terms| terms.replica_count = 1), Err(Malformed), "its home is nobody");
        for (what, at) in
            [("a node's name", 24), ("not its name", 32), ("nor this", 40), ("another number", 48)]
        {
            assert_eq!(
                check_with(&changed(&sound, |bytes| bytes[at] ^= 1), |_| ()),
                Err(Malformed),
                "{what}"
            );
        }
        let with = |commands: &[Command<'_>]| check_with(&seal(1, commands), |_| ());
        assert_eq!(with(&[]), Err(Malformed));
        assert_eq!(with(&vec![set(b"key"); COMMANDS_MAX + 1]), Err(Malformed));
        assert_eq!(with(&[set(b"key"), Command { session: None, ..set(b"key") }]), Err(Malformed));
        for kind in [CommandKind::Get, CommandKind::OpenSession, CommandKind::CloseSession] {
            assert_eq!(with(&[Command { kind, ..set(b"key") }]), Err(Malformed), "{kind:?}");
        }
        let expire = Command { kind: CommandKind::ExpireSessions, value: &[0; 8], ..set(b"key") };
        assert_eq!(with(&[expire]), Err(Malformed));
        let long = Command { value: &[0; 2048], ..set(b"key") };
        assert_eq!(with(&[long]), Err(TooLarge), "a command");
        let narrow = BatchLimits { value_size_max: 4, ..BatchLimits::default() };
        let of_narrow =
            |terms: &Terms<'_>| check(&sound, &Terms { limits: &narrow, ..*terms }, |_| Some(terms.group));
        let terms = Terms {
            session: SESSION,
            group: GroupId(0),
            protocol: Some(ProtocolKind::Fast),
            replica_count: 3,
            limits: &narrow,
        };
        assert_eq!(of_narrow(&terms), Err(TooLarge), "a value");
    }

    #[test]
    fn bytes_become_a_frame_only_if_they_are_whole_and_there_is_room() {
        let limits = BatchLimits { size_max: 4096, command_size_max: 2048, ..BatchLimits::default() };
        let terms = Terms {
            session: SESSION,
            group: GroupId(0),
            protocol: Some(ProtocolKind::Fast),
            replica_count: 3,
            limits: &limits,
        };
        let pool = FramePool::new(1 << 16);
        let group = |_: &Command<'_>| Some(GroupId(0));
        let frame = seal(1, &[set(b"key")]);
        let received = receive(frame.bytes(), &pool, &terms, group).map(|(frame, _)| frame);
        assert_eq!(received, Ok(frame.clone()));
        for length in 0..frame.bytes().len() {
            let cut = receive(&frame.bytes()[..length], &pool, &terms, group);
            assert_eq!(cut, Err(BatchRefusal::For(CommandError::Malformed)), "{length}");
        }
        let mut bytes = frame.bytes().to_vec();
        for at in 0..bytes.len() {
            bytes[at] ^= 4;
            let damaged = receive(&bytes, &pool, &terms, group);
            assert_eq!(damaged, Err(BatchRefusal::For(CommandError::Malformed)), "flip at {at}");
            bytes[at] ^= 4;
        }
        let long = receive(&[0; 8192], &pool, &terms, group);
        assert_eq!(long, Err(BatchRefusal::For(CommandError::TooLarge)));
        let _held: Vec<_> = (0..13).map(|_| pool.take(1).unwrap()).collect();
        assert_eq!(receive(frame.bytes(), &pool, &terms, group), Err(BatchRefusal::Busy));
    }

    #[test]
    fn the_table_is_bounded_and_no_connection_takes_it_all() {
        let limits = BatchLimits { queue_max: 8, ..BatchLimits::default() };
        let mut flights = Flights::new(&limits, ReplicaId(1));
        let frame = |number| seal(number, &[set(b"key")]);
        let mut add = |number, connection| {
            let added = flights.add(Instant(number), Instant(number), frame(number), connection).is_ok();
            assert_eq!(flights.next_arrived(), added.then(|| frame(number)));
            added
        };
        let taken = (0..8).filter(|number| add(*number, 1)).count();
        assert_eq!(taken, 3);
        let others = (10..30).filter(|number| add(*number, *number)).count();
        assert_eq!(others, 5);
        // The same batch again: whoever asked before waits no more.
        flights.add(Instant(50), Instant(50), frame(10), 99).unwrap();
        assert_eq!(flights.next_superseded().map(|flight| flight.connection), Some(10));
        // Who cannot wait for room is told so, if an answer is owed here.
        assert!(!flights.has_room(ReplicaId(1), 77) && flights.has_room(ReplicaId(0), 77));
        for home in [0, 1] {
            flights.decline(Instant(50), seal_for(home, 60, &[set(b"key")]), 77);
        }
        assert_eq!(flights.next_superseded().map(|flight| flight.connection), Some(77));
        assert!(flights.next_superseded().is_none());
        // What has its home elsewhere takes no room but that of the turn.
        let foreign = |number| seal_for(0, number, &[set(b"key")]);
        let mut add = |number| flights.add(Instant(50), Instant(50), foreign(number), 1);
        let taken = (0..20).filter(|number| add(*number).is_ok()).count();
        assert_eq!(taken, 7);
        assert_eq!(flights.commit(frame(10).id()), Some((Instant(50), 1)));
        assert_eq!(flights.commit(frame(10).id()), None);
        assert!(flights.finish(&frame(10)).is_some() && flights.finish(&frame(10)).is_none());
        assert!(flights.overdue(Instant(0)).is_none());
        assert_eq!(flights.overdue(Instant(1)).map(|flight| flight.since), Some(Instant(0)));
    }
}
