//! Which positions are executed: per row everything up to a number, and some beyond.
//!
//! In a log nothing is executed beyond, and the frontier is one slot.

use std::collections::BTreeSet;

use panch_wire::ids::{Position, REPLICAS_MAX, Slot};

/// One row's part.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Row {
    upto: u64,
    beyond: BTreeSet<u64>,
}

/// A set of positions that has everything below most of its members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontier {
    /// [`REPLICAS_MAX`] of them.
    rows: Vec<Row>,
    count: u64,
}

impl Default for Frontier {
    fn default() -> Self {
        Self { rows: vec![Row::default(); REPLICAS_MAX], count: 0 }
    }
}

impl From<Slot> for Frontier {
    fn from(slot: Slot) -> Self {
        let mut frontier = Self::default();
        frontier.extend_to(0, slot.0);
        frontier
    }
}

impl Frontier {
    /// Adds a position; false if it was there. Rows beyond [`REPLICAS_MAX`] do not exist.
    pub fn insert(&mut self, position: Position) -> bool {
        let Some(row) = self.rows.get_mut(usize::from(position.row)) else { return false };
        if position.number == row.upto + 1 {
            row.upto += 1;
            while row.beyond.remove(&(row.upto + 1)) {
                row.upto += 1;
            }
        } else if position.number <= row.upto || !row.beyond.insert(position.number) {
            return false;
        }
        self.count += 1;
        true
    }

    /// Adds everything of a row up to `number`.
    pub fn extend_to(&mut self, row: u8, number: u64) {
        let Some(row) = self.rows.get_mut(usize::from(row)) else { return };
        if number <= row.upto {
            return;
        }
        let later = row.beyond.split_off(&(number + 1));
        let known = std::mem::replace(&mut row.beyond, later).len() as u64;
        self.count += number - row.upto - known;
        row.upto = number;
        while row.beyond.remove(&(row.upto + 1)) {
            row.upto += 1;
        }
    }

    /// Whether a position is a member.
    pub fn contains(&self, position: Position) -> bool {
        let row = self.rows.get(usize::from(position.row));
        row.is_some_and(|row| position.number <= row.upto || row.beyond.contains(&position.number))
    }

    /// Everything of the row up to here is a member.
    pub fn upto(&self, row: u8) -> u64 {
        self.rows.get(usize::from(row)).map_or(0, |row| row.upto)
    }

    /// The highest member of a row; 0 if there is none.
    pub fn highest(&self, row: u8) -> u64 {
        let row = self.rows.get(usize::from(row));
        row.map_or(0, |row| row.beyond.last().copied().unwrap_or(row.upto))
    }

    /// The members of a row above [`Frontier::upto`], ascending.
    pub fn beyond(&self, row: u8) -> impl Iterator<Item = u64> {
        self.rows.get(usize::from(row)).into_iter().flat_map(|row| row.beyond.iter().copied())
    }

    /// In a log: everything up to this slot is a member.
    pub fn slot(&self) -> Slot {
        Slot(self.upto(0))
    }

    /// How many members, as the number of the last one in a log.
    pub fn count(&self) -> Slot {
        Slot(self.count)
    }

    /// Whether every member of `other` is a member.
    pub fn covers(&self, other: &Frontier) -> bool {
        self.rows.iter().zip(&other.rows).all(|(mine, its)| {
            let has = |number: &u64| *number <= mine.upto || mine.beyond.contains(number);
            (its.upto <= mine.upto || (mine.upto + 1..=its.upto).all(|number| has(&number)))
                && its.beyond.iter().all(has)
        })
    }

    /// Equal for equal sets; in a log the slot.
    pub fn digest(&self) -> u64 {
        let mix = |value: u64, salt: u64| {
            // The finalizer of SplitMix64: weaker ones let two rows that swap their numbers cancel out.
            let value = value.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            value ^ (value >> 31)
        };
        let mut sum = self.rows[0].upto;
        for (index, row) in self.rows.iter().enumerate() {
            // A number that everything lies below is not the same as that number beyond a gap.
            let (beyond_salt, upto_salt) = (2 * index as u64 + 1, 2 * index as u64 + 2);
            for number in row.beyond.iter() {
                sum = sum.wrapping_add(mix(*number, beyond_salt));
            }
            if index > 0 && row.upto > 0 {
                sum = sum.wrapping_add(mix(row.upto, upto_salt));
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(row: u8, number: u64) -> Position {
        Position { row, number }
    }

    #[test]
    fn a_gap_keeps_later_members_beyond_until_it_is_filled() {
        let mut frontier = Frontier::default();
        for number in [1, 2, 5, 4] {
            assert!(frontier.insert(at(2, number)));
        }
        assert!(!frontier.insert(at(2, 4)) && !frontier.insert(at(2, 1)));
        assert_eq!((frontier.upto(2), frontier.highest(2), frontier.count()), (2, 5, Slot(4)));
        assert!(frontier.contains(at(2, 5)) && !frontier.contains(at(2, 3)) && !frontier.contains(at(1, 1)));
        frontier.insert(at(2, 3));
        assert_eq!((frontier.upto(2), frontier.count()), (5, Slot(5)));
    }

    #[test]
    fn extending_counts_each_member_once() {
        let mut frontier = Frontier::default();
        for number in [3, 6, 8] {
            frontier.insert(at(1, number));
        }
        frontier.extend_to(1, 5);
        assert_eq!((frontier.upto(1), frontier.count()), (6, Slot(7)));
        assert_eq!(frontier.beyond(1).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn covering_looks_at_every_row_and_beyond() {
        let mut small = Frontier::default();
        let mut large = Frontier::default();
        for number in 1..=4 {
            large.insert(at(0, number));
        }
        large.insert(at(3, 2));
        for position in [at(0, 1), at(0, 3), at(3, 2)] {
            small.insert(position);
        }
        assert!(large.covers(&small) && !small.covers(&large) && small.covers(&small));
        small.insert(at(3, 1));
        assert!(!large.covers(&small));
        assert_ne!(large.digest(), small.digest());
    }

    #[test]
    fn a_number_beyond_a_gap_is_not_everything_up_to_it() {
        let (mut all, mut one) = (Frontier::default(), Frontier::default());
        all.extend_to(1, 5);
        one.insert(at(1, 5));
        assert_ne!(all.digest(), one.digest());
    }

    #[test]
    fn rows_that_swap_their_numbers_have_another_digest() {
        for (low, high) in (1..40).flat_map(|low| (low + 1..40).map(move |high| (low, high))) {
            let (mut first, mut second) = (Frontier::default(), Frontier::default());
            for (frontier, uptos) in [(&mut first, [low, high]), (&mut second, [high, low])] {
                frontier.extend_to(1, uptos[0]);
                frontier.extend_to(2, uptos[1]);
            }
            assert_ne!(first.digest(), second.digest(), "{low} and {high}");
        }
    }

    #[test]
    fn a_log_is_one_slot() {
        let frontier = Frontier::from(Slot(7));
        assert_eq!((frontier.slot(), frontier.count(), frontier.digest()), (Slot(7), Slot(7), 7));
    }
}
