//! Which unexecuted instances touch a key: per key and row one list of those that read it and one of those that write it.
//!
//! Invariants:
//! * Each list is ascending by number.
//! * Place 0 stands for everything: each batch counts as its reader, each barrier as its writer.
//! * An unlinked touch keeps the way to what followed it until it is released, so that a walk may stand on it.

use hashbrown::HashTable;
use panch_wire::ids::Position;

use super::{NONE, VertexId};
use crate::epaxos::Footprint;

/// A vertex in the list of one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    pub(super) number: u64,
    pub(super) vertex: VertexId,
    pub(super) next: u32,
    previous: u32,
    /// Place of the key.
    key: u32,
    lane: u8,
    pub(super) is_linked: bool,
}

/// One list: its first and last touch.
#[derive(Clone, Copy, Debug)]
struct Lane {
    first: u32,
    last: u32,
}

const EMPTY: Lane = Lane { first: NONE, last: NONE };

#[derive(Clone, Copy, Debug)]
struct Key {
    hash: u64,
    /// Linked touches.
    count: u32,
}

/// The place of everything, which is never given up.
const EVERYTHING: u32 = 0;

/// All lists, in storage that is reused.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    row_count: usize,
    index: HashTable<u32>,
    keys: Vec<Key>,
    /// Of each key first the lists of readers by row, then those of writers.
    lanes: Vec<Lane>,
    free_keys: Vec<u32>,
    touches: Vec<Touch>,
    free_touches: Vec<u32>,
}

impl Keys {
    pub(super) fn new(row_count: usize) -> Self {
        Self {
            row_count,
            index: HashTable::new(),
            keys: vec![Key { hash: 0, count: 0 }],
            lanes: vec![EMPTY; 2 * row_count],
            free_keys: Vec::new(),
            touches: Vec::new(),
            free_touches: Vec::new(),
        }
    }

    pub(super) fn touch(&self, touch: u32) -> &Touch {
        &self.touches[touch as usize]
    }

    /// The lists in which something may interfere with the touch: a read conflicts with writes, a write with all. None if
    /// nobody else touches the key.
    pub(super) fn lanes(&self, touch: u32) -> std::ops::Range<usize> {
        let touch = self.touch(touch);
        let end = 2 * self.row_count;
        match self.keys[touch.key as usize].count {
            1 => end..end,
            _ if usize::from(touch.lane) < self.row_count => self.row_count..end,
            _ => 0..end,
        }
    }

    /// The first touch of a list of the key of `touch`, and the list's row.
    pub(super) fn lane(&self, touch: u32, lane: usize) -> (u32, u8) {
        let key = self.touch(touch).key as usize;
        (self.lanes[key * 2 * self.row_count + lane].first, (lane % self.row_count) as u8)
    }

    fn key(&mut self, hash: u64) -> u32 {
        let Self { index, keys, lanes, free_keys, row_count, .. } = self;
        if let Some(key) = index.find(hash, |key| keys[*key as usize].hash == hash) {
            return *key;
        }
        let key = free_keys.pop().unwrap_or_else(|| {
            keys.push(Key { hash, count: 0 });
            lanes.resize(lanes.len() + 2 * *row_count, EMPTY);
            (keys.len() - 1) as u32
        });
        keys[key as usize] = Key { hash, count: 0 };
        index.insert_unique(hash, key, |key| keys[*key as usize].hash);
        key
    }

    /// Enters the vertex into the lists of all it touches, and its touches into `touches`.
    pub(super) fn link(
        &mut self,
        vertex: VertexId,
        position: Position,
        footprint: &Footprint,
        touches: &mut Vec<u32>,
    ) {
        touches.clear();
        touches.push(self.link_one(vertex, position, EVERYTHING, footprint.is_barrier()));
        for (hash, is_written) in footprint.touched() {
            let key = self.key(hash);
            touches.push(self.link_one(vertex, position, key, is_written));
        }
    }

    fn link_one(&mut self, vertex: VertexId, position: Position, key: u32, is_written: bool) -> u32 {
        let lane = usize::from(position.row) + if is_written { self.row_count } else { 0 };
        let number = position.number;
        let list = &mut self.lanes[key as usize * 2 * self.row_count + lane];
        // Batches of a row become known nearly in order.
        let (mut previous, mut next) = (list.last, NONE);
        if list.first != NONE && self.touches[list.first as usize].number > number {
            (previous, next) = (NONE, list.first);
        }
        while previous != NONE && self.touches[previous as usize].number > number {
            next = previous;
            previous = self.touches[previous as usize].previous;
        }
        let touch = Touch { number, vertex, next, previous, key, lane: lane as u8, is_linked: true };
        let place = match self.free_touches.pop() {
            Some(place) => {
                self.touches[place as usize] = touch;
                place
            }
            None => {
                self.touches.push(touch);
                (self.touches.len() - 1) as u32
            }
        };
        match previous {
            NONE => list.first = place,
            previous => self.touches[previous as usize].next = place,
        }
        match next {
            NONE => list.last = place,
            next => self.touches[next as usize].previous = place,
        }
        self.keys[key as usize].count += 1;
        place
    }

    /// Takes the touches out of their lists; they stay readable until [`Keys::release`].
    pub(super) fn unlink(&mut self, touches: &[u32]) {
        for touch in touches {
            let Touch { next, previous, key, lane, .. } = self.touches[*touch as usize];
            self.touches[*touch as usize].is_linked = false;
            let list = &mut self.lanes[key as usize * 2 * self.row_count + usize::from(lane)];
            match previous {
                NONE => list.first = next,
                previous => self.touches[previous as usize].next = next,
            }
            match next {
                NONE => list.last = previous,
                next => self.touches[next as usize].previous = previous,
            }
            self.keys[key as usize].count -= 1;
        }
    }

    /// The storage of unlinked touches, and of keys that nobody touches, may be used again.
    pub(super) fn release(&mut self, touches: &mut Vec<u32>) {
        for touch in touches.drain(..) {
            self.free_touches.push(touch);
            let place = self.touches[touch as usize].key;
            let Key { hash, count } = self.keys[place as usize];
            // A key that two released touches share is found, and given up, once.
            if count == 0
                && place != EVERYTHING
                && let Ok(entry) = self.index.find_entry(hash, |key| *key == place)
            {
                entry.remove();
                self.free_keys.push(place);
            }
        }
    }
}
