//! The part of the log that is in memory: accepted entries by slot, in a ring.
//!
//! Invariants:
//! * Entries above the chosen index always stay: phase 1 must be able to report them.
//! * Of the chosen entries the latest stay while they take at most the given number of bytes, for peers that lag.
//! * `first..=last` is what the ring spans; a slot in it may be empty, one outside is never present.
//! * The ring doubles when it must and never shrinks, so a warm window allocates nothing.

use panch_wire::ids::Slot;

use crate::ballot::Ballot;
use crate::protocol::Value;

/// The most slots a window ever spans: a bound against nonsense from outside, far above what any leader leaves open.
pub const SPAN_MAX: u64 = 1 << 20;

/// What an entry without a frame counts for, in bytes.
const NOOP_FOOTPRINT: usize = 64;
const CAPACITY_MIN: usize = 64;

/// What this replica accepted in a slot.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The ballot it was accepted in.
    pub ballot: Ballot,
    /// The value.
    pub value: Value,
}

fn footprint(entry: &Entry) -> usize {
    entry.value.body().map_or(NOOP_FOOTPRINT, |frame| frame.footprint())
}

/// The accepted entries that are in memory.
#[derive(Clone, Debug)]
pub struct Window {
    /// The entry of slot `s` lies at `s % ring.len()`; the length is a power of two.
    ring: Vec<Option<Entry>>,
    /// The first slot that may be present.
    first: Slot,
    /// The last slot that was ever set, or the one before `first`.
    last: Slot,
    /// Everything up to here is chosen.
    chosen: Slot,
    /// Footprint of all entries in the ring, in bytes.
    size: usize,
    /// Of that, of the chosen ones.
    chosen_size: usize,
    /// How many bytes of chosen entries may stay.
    tail_size_max: usize,
}

impl Window {
    /// An empty window behind `chosen`.
    pub fn new(chosen: Slot, tail_size_max: usize) -> Self {
        let mut ring = Vec::new();
        ring.resize_with(CAPACITY_MIN, || None);
        Self { ring, first: chosen.next(), last: chosen, chosen, size: 0, chosen_size: 0, tail_size_max }
    }

    /// The first slot that may be present: everything below has left memory.
    pub fn first(&self) -> Slot {
        self.first
    }

    /// The last slot that is present, or the one before [`Window::first`] if none is.
    pub fn last(&self) -> Slot {
        self.last
    }

    /// Footprint of the entries that are not known to be chosen, in bytes.
    pub fn unchosen_size(&self) -> usize {
        self.size - self.chosen_size
    }

    /// Footprint of the slots in memory, in bytes, and how many they are.
    pub fn extent(&self) -> (usize, usize) {
        (self.size, (self.last.0 + 1 - self.first.0) as usize)
    }

    /// From now on chosen entries may take this many bytes.
    pub fn keep_tail(&mut self, tail_size_max: usize) {
        self.tail_size_max = tail_size_max;
    }

    fn place(&self, slot: Slot) -> usize {
        slot.0 as usize & (self.ring.len() - 1)
    }

    /// The entry at `slot`, if it is in memory.
    pub fn get(&self, slot: Slot) -> Option<&Entry> {
        if slot < self.first || slot > self.last {
            return None;
        }
        self.ring[self.place(slot)].as_ref()
    }

    /// Whether [`Window::set`] may be called for `slot`.
    pub fn admits(&self, slot: Slot) -> bool {
        slot > self.chosen && slot.0 - self.first.0 < SPAN_MAX
    }

    /// Puts an entry at `slot`, which must not be chosen yet and within [`SPAN_MAX`] of the first.
    pub fn set(&mut self, slot: Slot, entry: Entry) {
        assert!(self.admits(slot), "slot {slot:?} is chosen or out of range, chosen {:?}", self.chosen);
        let span = (slot.0 - self.first.0 + 1) as usize;
        if span > self.ring.len() {
            self.grow(span.next_power_of_two());
        }
        let place = self.place(slot);
        self.size += footprint(&entry);
        if let Some(old) = self.ring[place].replace(entry) {
            self.size -= footprint(&old);
        }
        self.last = self.last.max(slot);
    }

    fn grow(&mut self, capacity: usize) {
        let mut ring = Vec::new();
        ring.resize_with(capacity, || None);
        for slot in (self.first.0..=self.last.0).map(Slot) {
            let place = self.place(slot);
            ring[slot.0 as usize & (capacity - 1)] = self.ring[place].take();
        }
        self.ring = ring;
    }

    /// Everything up to `slot` is chosen. Entries that no longer fit the tail leave, oldest first.
    pub fn advance_chosen(&mut self, slot: Slot) {
        while self.chosen < slot {
            self.chosen = self.chosen.next();
            self.chosen_size += self.get(self.chosen).map_or(0, footprint);
        }
        while self.chosen_size > self.tail_size_max && self.first <= self.chosen {
            self.pop_first();
        }
    }

    fn pop_first(&mut self) {
        let place = self.place(self.first);
        if let Some(entry) = self.ring[place].take() {
            self.size -= footprint(&entry);
            if self.first <= self.chosen {
                self.chosen_size -= footprint(&entry);
            }
        }
        self.first = self.first.next();
        self.last = self.last.max(self.first.prev());
    }

    /// Everything up to `slot` is chosen and covered by a snapshot: it leaves memory, what lies beyond stays.
    pub fn drop_through(&mut self, slot: Slot) {
        while self.first <= slot && self.first <= self.last {
            self.pop_first();
        }
        self.first = self.first.max(slot.next());
        self.last = self.last.max(slot);
        self.chosen = self.chosen.max(slot);
    }

    /// Forgets everything above `slot`.
    pub fn drop_above(&mut self, slot: Slot) {
        while self.last > slot && self.last >= self.first {
            let place = self.place(self.last);
            if let Some(entry) = self.ring[place].take() {
                self.size -= footprint(&entry);
            }
            self.last = self.last.prev();
        }
    }

    /// The entries from `slot` on, in slot order.
    pub fn entries_from(&self, slot: Slot) -> impl Iterator<Item = (Slot, &Entry)> {
        (slot.max(self.first).0..=self.last.0).map(Slot).filter_map(|slot| Some((slot, self.get(slot)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(round: u64) -> Entry {
        Entry { ballot: Ballot { round, owner: 0 }, value: Value::Noop }
    }

    #[test]
    fn entries_are_found_by_slot_however_far_the_ring_has_turned() {
        let mut window = Window::new(Slot(5), 10 * NOOP_FOOTPRINT);
        assert_eq!((window.first(), window.last()), (Slot(6), Slot(5)));
        for number in 6..=500 {
            window.set(Slot(number), entry(number));
            assert_eq!(window.get(Slot(number)), Some(&entry(number)));
            assert_eq!(window.last(), Slot(number));
            window.advance_chosen(Slot(number.saturating_sub(20)));
        }
        assert_eq!(window.get(Slot(501)), None);
        assert_eq!(window.entries_from(Slot(0)).count(), 30);
        assert_eq!(window.ring.len(), CAPACITY_MIN);
    }

    #[test]
    fn entries_above_the_chosen_index_always_stay_and_a_tail_below_it() {
        let mut window = Window::new(Slot(0), 3 * NOOP_FOOTPRINT);
        for number in 1..=1000 {
            window.set(Slot(number), entry(number));
        }
        assert_eq!(window.first(), Slot(1));
        window.advance_chosen(Slot(900));
        assert_eq!(window.first(), Slot(898));
        let present: Vec<_> =
            window.entries_from(Slot(899)).map(|(slot, entry)| (slot.0, entry.ballot.round)).collect();
        assert_eq!(present, (899..=1000).map(|number| (number, number)).collect::<Vec<_>>());
    }

    #[test]
    fn holes_are_empty() {
        let mut window = Window::new(Slot(0), 1 << 20);
        window.set(Slot(1), entry(1));
        window.set(Slot(200), entry(2));
        assert_eq!(window.get(Slot(100)), None);
        assert_eq!(window.entries_from(Slot(1)).map(|(slot, _)| slot.0).collect::<Vec<_>>(), [1, 200]);
    }

    #[test]
    fn a_snapshot_drops_what_it_covers_and_keeps_the_rest() {
        let mut window = Window::new(Slot(0), 1 << 20);
        for number in 1..=9 {
            window.set(Slot(number), entry(number));
        }
        window.advance_chosen(Slot(2));
        window.drop_through(Slot(5));
        assert_eq!((window.first(), window.last()), (Slot(6), Slot(9)));
        assert_eq!(window.get(Slot(6)), Some(&entry(6)));
        window.drop_through(Slot(20));
        assert_eq!((window.first(), window.last()), (Slot(21), Slot(20)));
        assert_eq!(window.chosen_size, 0);
        window.set(Slot(21), entry(21));
        assert_eq!(window.get(Slot(21)), Some(&entry(21)));
    }

    #[test]
    fn what_is_dropped_above_is_gone() {
        let mut window = Window::new(Slot(0), 1 << 20);
        for number in 1..=9 {
            window.set(Slot(number), entry(number));
        }
        window.drop_above(Slot(4));
        assert_eq!(window.last(), Slot(4));
        window.set(Slot(6), entry(6));
        assert_eq!(window.get(Slot(5)), None);
    }

    #[test]
    #[should_panic(expected = "is chosen")]
    fn a_chosen_slot_is_never_set_again() {
        let mut window = Window::new(Slot(0), 1 << 20);
        window.set(Slot(1), entry(1));
        window.advance_chosen(Slot(1));
        window.set(Slot(1), entry(2));
    }
}
