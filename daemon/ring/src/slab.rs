//! A slab whose keys are never reused: a key is `generation << 32 | index`, and a slot's generation changes each time
//! it is vacated. So a completion that arrives late, or an identifier kept too long, finds nothing instead of a stranger.

/// Names an entry of one slab for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Key(pub(crate) u64);

impl Key {
    fn new(generation: u32, index: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(index))
    }

    fn index(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Entries with stable keys; vacant slots are reused, newest first.
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    vacant: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), vacant: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds an entry. At most 2^32 - 1 at a time, so the key `u64::MAX` is never handed out.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 entries");
                assert!(index < u32::MAX);
                self.slots.push(Slot { generation: 0, value: None });
                index
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        Key::new(slot.generation, index)
    }

    /// The entry, unless it has been removed.
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        self.slots.get(key.index()).filter(|slot| slot.generation == key.generation())?.value.as_ref()
    }

    /// The entry, unless it has been removed.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.index()).filter(|slot| slot.generation == key.generation())?.value.as_mut()
    }

    /// Takes the entry out; its key will never name anything again (until 2^32 reuses of one slot).
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index()).filter(|slot| slot.generation == key.generation())?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.vacant.push(key.index() as u32);
        Some(value)
    }

    /// The keys of all entries.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        let occupied = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        occupied.map(|(index, slot)| Key::new(slot.generation, index as u32))
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// How many slots have ever been needed at the same time.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(crate) fn slot_count(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_names_a_later_entry() {
        let mut slab = Slab::default();
        let mut past = Vec::new();
        for value in 0..10_000u32 {
            let key = slab.insert(value);
            assert_eq!(slab.get(key), Some(&value));
            assert_eq!(slab.remove(key), Some(value));
            past.push(key);
        }
        assert_eq!((slab.slot_count(), slab.len()), (1, 0));
        let live = slab.insert(1);
        for key in past {
            assert_eq!(slab.get(key), None);
            assert_eq!(slab.get_mut(key), None);
            assert_eq!(slab.remove(key), None);
        }
        assert_eq!(slab.get(live), Some(&1));
    }
}
