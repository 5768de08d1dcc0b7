//! One replica of a searched state, with its disk and its clock.

use std::fmt;

use panch_wire::frame::Frame;
use panch_wire::ids::{GroupId, Incarnation, Position, ReplicaId};
use panch_wire::time::Instant;

use super::Setup;
use super::fingerprint::Fingerprint;
use super::history::Executed;
use crate::frontier::Frontier;
use crate::protocol::{Effects, Group, Outgoing, Past, Protocol, Value, random};

/// One replica with its disk.
pub(super) struct Replica<P: Protocol> {
    pub(super) protocol: P,
    pub(super) id: ReplicaId,
    pub(super) now: Instant,
    pub(super) incarnation: u32,
    pub(super) log: Vec<(P::Record, Option<Frame>)>,
    /// Length of the log when this life began.
    pub(super) base: usize,
    /// How many records are durable.
    pub(super) durable: usize,
    /// Claims that wait for so many records.
    pub(super) held: Vec<(usize, Outgoing<P::Message>)>,
    pub(super) executed: Executed,
    pub(super) fingerprint: u128,
}

impl<P: Protocol + Clone> Clone for Replica<P> {
    fn clone(&self) -> Self {
        Self {
            protocol: self.protocol.clone(),
            log: self.log.clone(),
            held: self.held.clone(),
            executed: self.executed.clone(),
            ..*self
        }
    }
}

impl<P: Protocol + fmt::Debug> Replica<P> {
    /// A replica that finds `log` on its disk, and what it wants done.
    pub(super) fn open(
        setup: &Setup,
        id: ReplicaId,
        incarnation: u32,
        now: Instant,
        log: Vec<(P::Record, Option<Frame>)>,
    ) -> (Self, Effects<P>) {
        let replica_count = setup.replica_count;
        let group = Group { id: GroupId(0), me: id, replica_count, home: setup.home };
        let past = Past { executed: &Frontier::default(), stamp: 0, incarnation: Incarnation(incarnation) };
        let seed = setup.seed ^ u64::from(id.0) << 32 ^ u64::from(incarnation);
        let mut protocol = P::open(group, setup.tuning, past, random(seed));
        let mut effects = Effects::default();
        for (record, body) in &log {
            protocol.replay(*record, body.clone(), &mut effects);
        }
        protocol.start(now, &mut effects);
        let length = log.len();
        let replica = Self {
            protocol,
            id,
            now,
            incarnation,
            log,
            base: length,
            durable: length,
            held: Vec::new(),
            executed: Executed::default(),
            fingerprint: 0,
        };
        (replica, effects)
    }

    /// Empty effects whose persist points go on from the last one of this life.
    pub(super) fn effects(&self) -> Effects<P> {
        let mut effects = Effects::default();
        for (record, _) in &self.log[self.base..] {
            let _ = effects.persist(*record, None);
        }
        effects.records.clear();
        effects
    }

    /// The value that the log holds for a position.
    pub(super) fn loaded(&self, position: Position) -> Option<Value> {
        let holds_value = |record: &P::Record| {
            P::record_place(record).is_some_and(|place| place.position == position && place.has_value)
        };
        let found = self.log.iter().rev().find(|(record, _)| holds_value(record));
        found.map(|(_, body)| Value::from(body.clone()))
    }

    /// To be called after every change; `with_log`: what is on the disk matters, because it may crash.
    pub(super) fn set_fingerprint(&mut self, with_log: bool) {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add_text(&self.protocol);
        if !self.held.is_empty() {
            fingerprint.add_text(&self.held);
        }
        self.executed.add_to(&mut fingerprint);
        fingerprint.add(u64::from(self.incarnation) << 32 | (self.log.len() - self.durable) as u64);
        if with_log {
            fingerprint.add_text(&self.log);
        }
        self.fingerprint = fingerprint.finish();
    }
}
