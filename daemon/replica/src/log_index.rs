//! Where this replica's records of undecided and recent positions lie in the log: to read them back for a peer, and to know how much of the
//! log a snapshot makes superfluous.

use std::collections::VecDeque;

use panch_consensus::frontier::Frontier;
use panch_wal::{BodyRef, Lsn};
use panch_wire::ids::{Position, REPLICAS_MAX};

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The first commit group that holds a record about this position.
    first: Lsn,
    value: Found,
}

/// What the index knows of the value at a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// It is a no-op.
    Noop,
    /// It has this body.
    Body(BodyRef),
    /// Below the truncation, not on disk, or never written.
    Nowhere,
}

/// The positions of one row after the last truncation.
#[derive(Debug, Default)]
struct Row {
    /// Everything up to here is truncated.
    upto: u64,
    /// The number of the first place.
    first: u64,
    places: VecDeque<Option<Place>>,
}

impl Row {
    fn index(&self, number: u64) -> Option<usize> {
        number.checked_sub(self.first).map(|index| index as usize)
    }

    /// The place of `number`, made if need be; `None` if it is truncated.
    fn reach(&mut self, number: u64) -> Option<&mut Option<Place>> {
        if number <= self.upto {
            return None;
        }
        if self.places.is_empty() {
            self.first = number;
        }
        while number < self.first {
            self.places.push_front(None);
            self.first -= 1;
        }
        let index = (number - self.first) as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, None);
        }
        self.places.get_mut(index)
    }

    fn place(&self, number: u64) -> Option<&Place> {
        self.places.get(self.index(number)?)?.as_ref()
    }

    fn truncate(&mut self, upto: u64) {
        let count = ((upto + 1).saturating_sub(self.first) as usize).min(self.places.len());
        self.places.drain(..count);
        self.first += count as u64;
        self.upto = self.upto.max(upto);
    }

    fn forget(&mut self, number: u64) {
        if let Some(place) = self.index(number).and_then(|index| self.places.get_mut(index)) {
            *place = None;
        }
    }
}

/// Position to log position, for what lies after the last truncation.
#[derive(Debug)]
pub(crate) struct LogIndex {
    rows: [Row; REPLICAS_MAX],
}

impl LogIndex {
    /// An index for what lies beyond `covered`.
    pub(crate) fn new(covered: &Frontier) -> Self {
        let mut index = Self { rows: Default::default() };
        index.truncate(covered);
        index
    }

    /// A record about `position` is part of commit group `lsn`; `value` if the position's value lies beside it.
    pub(crate) fn appended(&mut self, position: Position, lsn: Lsn, value: Option<Found>) {
        let Some(row) = self.rows.get_mut(usize::from(position.row)) else { return };
        let Some(place) = row.reach(position.number) else { return };
        let place = place.get_or_insert(Place { first: lsn, value: Found::Nowhere });
        if let Some(value) = value {
            place.value = value;
        }
    }

    /// Where the latest value of `position` lies.
    pub(crate) fn find(&self, position: Position) -> Found {
        let row = self.rows.get(usize::from(position.row));
        row.and_then(|row| row.place(position.number)).map_or(Found::Nowhere, |place| place.value)
    }

    /// Whether the log has values of the row of `position` behind it, but not its own.
    pub(crate) fn starts_after(&self, position: Position) -> bool {
        let Some(row) = self.rows.get(usize::from(position.row)) else { return false };
        let has_value = |place: &Option<Place>| place.is_some_and(|place| place.value != Found::Nowhere);
        let behind = row.index(position.number).unwrap_or(0);
        row.places.iter().skip(behind).any(has_value)
            && !row.index(position.number).and_then(|index| row.places.get(index)).is_some_and(has_value)
    }

    /// Forgets everything that `covered` covers.
    pub(crate) fn truncate(&mut self, covered: &Frontier) {
        for (number, row) in self.rows.iter_mut().enumerate() {
            row.truncate(covered.upto(number as u8));
            for beyond in covered.beyond(number as u8) {
                row.forget(beyond);
            }
        }
    }

    /// The earliest commit group that a remaining position needs.
    pub(crate) fn earliest(&self) -> Option<Lsn> {
        self.rows.iter().flat_map(|row| &row.places).flatten().map(|place| place.first).min()
    }

    /// The remaining position that needs the earliest commit group.
    pub(crate) fn earliest_position(&self) -> Option<Position> {
        let rows = self.rows.iter().zip(0u8..);
        let places = rows.flat_map(|(row, number)| {
            let places = row.places.iter().zip(row.first..);
            places.filter_map(move |(place, at)| {
                Some((place.as_ref()?.first, Position { row: number, number: at }))
            })
        });
        places.min().map(|(_, position)| position)
    }
}
