//! Clients' own batches: taken in, executed, and, at their home, answered.

use panch_consensus::protocol::{Event, Protocol};
use panch_wire::batch::BatchView;
use panch_wire::client::Commit;
use panch_wire::command::{Command, CommandError, Reply};
use panch_wire::frame::Frame;
use panch_wire::ids::ReplicaId;
use panch_wire::time::Instant;

use super::{Replica, Surroundings};
use crate::batcher::Refusal;
use crate::client_batch::Flight;
use crate::latency::Latencies;
use crate::outbox::{Outbox, ReplyTo};

impl<P: Protocol> Replica<P> {
    /// Takes in a batch that was checked. At its home `connection` is owed an answer for each of its commands; nobody else
    /// answers.
    pub(crate) fn submit_batch(
        &mut self,
        now: Instant,
        arrived: Instant,
        frame: Frame,
        connection: u64,
    ) -> Result<(), Refusal> {
        let command_count = u64::from(frame.command_count());
        let is_home = frame.id().proposer == self.group.me;
        self.flights.add(now, arrived, frame, connection)?;
        if is_home {
            self.probe.commands += command_count;
            self.probe.batches += 1;
        }
        Ok(())
    }

    /// A batch for which there is no room: its client may ask again elsewhere.
    pub(crate) fn decline_batch(&mut self, now: Instant, frame: Frame, connection: u64) {
        self.flights.decline(now, frame, connection);
    }

    /// Whether a batch with that home finds room.
    pub(crate) fn has_room_for_batch(&self, home: ReplicaId, connection: u64) -> bool {
        self.flights.has_room(home, connection)
    }

    /// Gives the protocol what came in during this turn.
    pub(super) fn propose_arrived<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        while let Some(earlier) = self.flights.next_superseded() {
            self.answer_unknown(&earlier, around.out);
        }
        while let Some(frame) = self.flights.next_arrived() {
            self.step(Event::ClientBatch(frame), around);
        }
    }

    /// Nothing that came in is proposed here. What others make of it is not known.
    pub(crate) fn refuse_flights(&mut self, out: &mut impl Outbox) {
        while let Some(earlier) = self.flights.next_superseded() {
            self.answer_unknown(&earlier, out);
        }
        while self.flights.next_arrived().is_some() {}
        self.answer_overdue_flights(Instant(u64::MAX), out);
    }

    /// Executes a decided batch of a client. It may be decided several times, and commands of it in other batches: the session
    /// says of each command whether it was executed, and what it answered.
    pub(super) fn apply_client_batch(
        &mut self,
        now: Instant,
        commit: &Commit,
        frame: &Frame,
        latencies: &mut Latencies,
        out: &mut impl Outbox,
    ) {
        let is_home = frame.id().proposer == self.group.me;
        let flight = if is_home { self.flights.finish(frame) } else { None };
        let connection = flight.as_ref().map(|flight| flight.connection);
        let owed = |command: &Command<'_>| {
            Some(ReplyTo { connection: connection?, request: command.session?.number })
        };
        self.apply_commands(commit, frame, owed, out);
        if let Some(flight) = flight {
            self.probe.direct += 1;
            self.note_executed(now.since(flight.since), frame, latencies);
        }
    }

    /// Proposes again what clients wait for.
    pub(super) fn repropose_flights<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let frames: Vec<Frame> = self.flights.iter().map(|flight| flight.frame.clone()).collect();
        self.probe.reproposed += frames.len() as u64;
        for frame in frames {
            self.step(Event::Propose(frame), around);
        }
    }

    /// Ends what arrived before `limit` and waits still. Its clients ask again, here or elsewhere; what becomes of the batch is theirs.
    pub(super) fn answer_overdue_flights(&mut self, limit: Instant, out: &mut impl Outbox) {
        while let Some(flight) = self.flights.overdue(limit) {
            self.answer_unknown(&flight, out);
        }
    }

    fn answer_unknown(&mut self, flight: &Flight, out: &mut impl Outbox) {
        let view = BatchView::access(&flight.frame).expect("it was checked when it came");
        self.probe.timeouts += view.command_count() as u64;
        for header in view.commands().filter_map(|command| command.session) {
            let to = ReplyTo { connection: flight.connection, request: header.number };
            out.reply(to, Reply::Error(CommandError::Unknown), None);
        }
    }
}
