//! Where this replica's accepted entries lie in the log: to read them back for a peer, and to know how much of the
//! log a snapshot makes superfluous.

use std::collections::VecDeque;

use panch_wal::{BodyRef, Lsn};
use panch_wire::ids::Slot;

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The first commit group that holds an entry of this slot.
    first: Lsn,
    /// The latest entry's body; `None` for a no-op, or if the log is not on disk.
    body: Option<BodyRef>,
    noop: bool,
}

/// What the index knows of a slot's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// The entry is a no-op.
    Noop,
    /// The entry has this body.
    Body(BodyRef),
    /// Below the truncation, or not on disk.
    Nowhere,
}

/// Slot to log position, for the slots after the last truncation.
#[derive(Debug)]
pub(crate) struct LogIndex {
    base: Slot,
    places: VecDeque<Option<Place>>,
}

impl LogIndex {
    /// An index for the slots after `executed`.
    pub(crate) fn new(executed: Slot) -> Self {
        Self { base: executed.next(), places: VecDeque::new() }
    }

    /// The entry of `slot` is part of commit group `lsn`.
    pub(crate) fn appended(&mut self, slot: Slot, lsn: Lsn, body: Option<BodyRef>, noop: bool) {
        let Some(index) = slot.0.checked_sub(self.base.0) else { return };
        let index = index as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, None);
        }
        let first = self.places[index].map_or(lsn, |place| place.first);
        self.places[index] = Some(Place { first, body, noop });
    }

    /// Where the latest entry of `slot` lies.
    pub(crate) fn find(&self, slot: Slot) -> Found {
        let place =
            slot.0.checked_sub(self.base.0).and_then(|index| self.places.get(index as usize)?.as_ref());
        match place {
            Some(Place { noop: true, .. }) => Found::Noop,
            Some(Place { body: Some(body), .. }) => Found::Body(*body),
            _ => Found::Nowhere,
        }
    }

    /// Whether the log has entries, but not the one of `slot`.
    pub(crate) fn starts_after(&self, slot: Slot) -> bool {
        let index = slot.0.saturating_sub(self.base.0) as usize;
        self.places.iter().skip(index).any(Option::is_some)
            && self.places.get(index).is_none_or(Option::is_none)
    }

    /// Forgets everything up to and including `slot`.
    pub(crate) fn truncate(&mut self, slot: Slot) {
        let count = (slot.next().0.saturating_sub(self.base.0) as usize).min(self.places.len());
        self.places.drain(..count);
        self.base = self.base.max(slot.next());
    }

    /// The earliest commit group that a remaining slot needs.
    pub(crate) fn earliest(&self) -> Option<Lsn> {
        self.places.iter().flatten().map(|place| place.first).min()
    }
}
