//! What is decided takes effect: batches are applied in the protocol's order and answered, reads are served behind them.

use panch_consensus::protocol::{Chosen, Event, Order, Protocol, Value};
use panch_wire::batch::BatchView;
use panch_wire::client::Commit;
use panch_wire::command::{Command, CommandError, Reply};
use panch_wire::frame::Frame;
use panch_wire::ids::Position;
use panch_wire::time::{Duration, Instant};

use super::{Replica, Surroundings};
use crate::checkpoint;
use crate::kv::Kv;
use crate::latency::Latencies;
use crate::machine::Admission;
use crate::outbox::{Outbox, ReplyTo};
use crate::snapshot::Restored;

/// A batch that has not been executed for this long after a later one was decided is proposed again: somebody had no room for it.
const OVERTAKEN_AFTER: Duration = Duration::from_millis(20);

impl<P: Protocol> Replica<P> {
    pub(crate) fn execute_chosen(&mut self, now: Instant, latencies: &mut Latencies, out: &mut impl Outbox) {
        let mut chosen = std::mem::take(&mut self.effects.chosen);
        for Chosen { position, stamp, value } in chosen.drain(..) {
            if !self.executed.insert(position) {
                continue; // replayed below the snapshot
            }
            if P::ORDER == Order::Log {
                assert_eq!(position.slot(), self.executed(), "slots are chosen in order");
            }
            self.stamp = self.stamp.max(stamp);
            let before = if P::ORDER == Order::Graph { self.machine.contents_digest() } else { 0 };
            if let Value::Batch(frame) = &value {
                self.execute_batch(now, &Commit { position, stamp }, frame, latencies, out);
            }
            self.note_digest(position, stamp, &value, before);
            self.probe.slots += 1;
            out.executed(self.group.id, position, &value);
        }
        self.effects.chosen = chosen;
        self.serve_reads(out);
    }

    /// What the state became goes into the checkpoints. `before` is the digest of the table and the sessions before it.
    #[inline]
    fn note_digest(&mut self, position: Position, stamp: u64, value: &Value, before: u64) {
        match (P::ORDER, value) {
            (Order::Log, _) => self.checkpoints.executed_slot(position.number, || self.machine.digest()),
            (Order::Graph, value) => {
                let changed = self.machine.contents_digest().wrapping_sub(before);
                // A no-op has no stamp of its own.
                let (stamp, checksum) = value.body().map_or((0, 0), |frame| (stamp, frame.checksum()));
                let contribution = checkpoint::contribution(position, stamp, checksum, changed);
                self.checkpoints.executed_instance(position, contribution, &self.executed);
            }
        }
    }

    /// Executes a decided batch, and in a log those of the same proposer that waited for it.
    fn execute_batch(
        &mut self,
        now: Instant,
        commit: &Commit,
        frame: &Frame,
        latencies: &mut Latencies,
        out: &mut impl Outbox,
    ) {
        if frame.id().is_of_client() {
            self.apply_client_batch(now, commit, frame, latencies, out);
            return;
        }
        if P::ORDER == Order::Graph {
            // The protocol decides a batch at one position only.
            self.apply_batch(now, commit, frame, latencies, out);
            return;
        }
        match self.machine.admit(frame) {
            Admission::Apply => self.apply_batch(now, commit, frame, latencies, out),
            Admission::Hold => {
                self.probe.held += 1;
                if self.is_mine(frame) {
                    let (at, below) = self.overtaken.unwrap_or((now + OVERTAKEN_AFTER, 0));
                    self.overtaken = Some((at, below.max(frame.id().counter)));
                }
            }
            Admission::Duplicate => self.probe.duplicates += 1,
            Admission::Gap => {
                self.probe.voided += 1;
                if self.is_mine(frame) {
                    self.doubt(now);
                }
            }
        }
        while let Some(frame) = self.machine.next_held(frame.id().proposer) {
            self.apply_batch(now, commit, &frame, latencies, out);
        }
    }

    /// Nothing else will ever be decided: batches that wait for one that nobody has are executed all the same. They may have been elsewhere.
    pub(crate) fn execute_held(&mut self, latencies: &mut Latencies, out: &mut impl Outbox) {
        let commit = Commit { position: self.executed().into(), stamp: self.stamp };
        while let Some(frame) = self.machine.release_held() {
            self.apply_batch(Instant::default(), &commit, &frame, latencies, out);
        }
    }

    pub(super) fn is_mine(&self, frame: &Frame) -> bool {
        frame.id().is_of(self.group.me, self.incarnation)
    }

    fn apply_batch(
        &mut self,
        now: Instant,
        commit: &Commit,
        frame: &Frame,
        latencies: &mut Latencies,
        out: &mut impl Outbox,
    ) {
        let batch = if self.is_mine(frame) { self.batcher.finish(frame.id()) } else { None };
        let mut tokens = batch.iter().flat_map(|batch| &batch.tokens).copied();
        self.apply_commands(commit, frame, |_| tokens.next(), out);
        if let Some(batch) = batch {
            self.note_executed(now.since(batch.since), frame, latencies);
            self.batcher.recycle(batch.tokens);
        }
    }

    /// Applies the commands of a batch and answers each to whom `owed` says.
    pub(super) fn apply_commands(
        &mut self,
        commit: &Commit,
        frame: &Frame,
        mut owed: impl FnMut(&Command<'_>) -> Option<ReplyTo>,
        out: &mut impl Outbox,
    ) {
        let view = BatchView::access(frame).expect("frames are validated where they arrive");
        let serves = self.watch.serves();
        let mut ahead = view.commands();
        for (index, command) in view.commands().enumerate() {
            if index % Kv::FORESEEN_MAX == 0 {
                self.machine.kv().foresee(&mut ahead);
            }
            let reply = self.machine.apply(commit.stamp, &command, &mut self.reply);
            if !command.kind.is_read() {
                out.wrote(self.group.id, &command, &reply);
            }
            if let Some(to) = owed(&command) {
                // Applied, but to a state that others do not have.
                let reply = if serves { reply } else { Reply::Error(CommandError::Unknown) };
                out.reply(to, reply, Some(commit));
            }
        }
        self.probe.applied += view.command_count() as u64;
    }

    /// A batch that somebody waited for here is executed.
    pub(super) fn note_executed(&mut self, latency: Duration, frame: &Frame, latencies: &mut Latencies) {
        self.probe.execution_us += latency.as_micros() as u64;
        latencies.executed(latency, frame.command_count());
    }

    pub(super) fn serve_reads(&mut self, out: &mut impl Outbox) {
        let seen = self.seen();
        for reads in &mut self.reads {
            while let Some(round) = reads.next_servable(self.executed.count()) {
                let mut ahead = round.commands().map(|(command, _)| command);
                for (index, (command, token)) in round.commands().enumerate() {
                    if index % Kv::FORESEEN_MAX == 0 {
                        self.machine.kv().foresee(&mut ahead);
                    }
                    let reply = self.machine.read(&command, &mut self.reply);
                    out.reply(token, reply, seen.as_ref());
                }
                drop(ahead);
                reads.recycle(round);
            }
        }
    }

    /// The state was replaced by that of a snapshot.
    pub(crate) fn installed<O: Outbox>(&mut self, restored: Restored, around: &mut Surroundings<'_, O>) {
        let Restored { covered, stamp, machine, .. } = restored;
        self.machine = machine;
        self.stamp = stamp;
        self.executed = covered.clone();
        self.checkpoints.restored(&covered);
        around.out.installed(self.group.id, &covered);
        if P::ORDER == Order::Log {
            let next = self.machine.next_counter(self.group.me, self.incarnation);
            while let Some(batch) = self.batcher.finish_below(next) {
                // Applied, but by others: the replies are not known here.
                self.answer(batch.tokens, CommandError::Unknown, around.out);
            }
        }
        self.step(Event::Installed { covered, stamp }, around);
        self.serve_reads(around.out);
        self.doubt(around.now);
    }
}
