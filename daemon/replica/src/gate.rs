//! The one place that holds a claim back until the record behind it is durable.
//!
//! Invariants:
//! * A held message leaves only when the log is durable up to its [`Persist`] point, in the order in which it was held.
//! * A replica's own vote waits here like everybody's: no path counts it early.
//! * While the gate is mute, claims are dropped as if they were lost.

use std::collections::VecDeque;

use panch_consensus::protocol::{Outgoing, Persist};
use panch_wal::Lsn;
use panch_wire::rule::{self, Rule};

/// Messages waiting for the log.
#[derive(Debug)]
pub(crate) struct Gate<M> {
    held: VecDeque<(Persist, Outgoing<M>)>,
    /// Which point of this replica's log becomes durable with which commit group of the core's log.
    points: VecDeque<(Persist, Lsn)>,
    durable: Persist,
    mute: bool,
}

impl<M> Gate<M> {
    pub(crate) fn new() -> Self {
        Self { held: VecDeque::new(), points: VecDeque::new(), durable: Persist::default(), mute: false }
    }

    /// The record of `point` is part of commit group `lsn`.
    pub(crate) fn appended(&mut self, point: Persist, lsn: Lsn) {
        match self.points.back_mut() {
            Some(last) if last.1 == lsn => last.0 = point,
            _ => self.points.push_back((point, lsn)),
        }
    }

    /// The core's log is durable up to and including `lsn`.
    pub(crate) fn durable_to(&mut self, lsn: Lsn) {
        while let Some(&(point, at)) = self.points.front()
            && at <= lsn
        {
            self.durable = point;
            self.points.pop_front();
        }
    }

    /// Up to where this replica's log is durable.
    pub(crate) fn durable(&self) -> Persist {
        self.durable
    }

    /// While mute, no claim leaves: this replica may have forgotten what would contradict it.
    pub(crate) fn set_mute(&mut self, mute: bool) {
        self.mute = mute;
    }

    /// Gives the message back if it may leave now, otherwise holds it.
    pub(crate) fn admit(&mut self, message: Outgoing<M>) -> Option<Outgoing<M>> {
        match message.after {
            Some(_) if self.mute && rule::holds(Rule::RejoinMute) => None,
            Some((after, rule)) if after > self.durable && rule::holds(rule) => {
                self.held.push_back((after, message));
                None
            }
            _ => Some(message),
        }
    }

    /// The next held message whose point is durable.
    pub(crate) fn release(&mut self) -> Option<Outgoing<M>> {
        if self.held.front()?.0 <= self.durable {
            return self.held.pop_front().map(|(_, message)| message);
        }
        None
    }
}
