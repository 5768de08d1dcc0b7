//! Whatever a crash does to writes that were not durable, recovery returns what was: all of it, in order, and nothing else.

use std::collections::BTreeMap;

use panch_wal::{Config, Durability, Lsn, RecordKind, Write};
use panch_wire::frame::PAGE_SIZE;
use panch_wire::ids::GroupId;
use panch_wire::time::Duration;
use proptest::prelude::*;

use crate::support::{
    GROUP_COUNT, IDENTITY, MemoryDisk, Node, Past, Remembered, STATE, config, packed, read_back,
};

#[derive(Clone, Debug)]
enum Step {
    Append {
        group: u16,
        length: usize,
    },
    AppendBody {
        group: u16,
        size: usize,
    },
    Promise {
        group: u16,
    },
    Submit,
    Complete {
        index: usize,
    },
    Sync,
    Rest,
    /// Nothing of the group is needed but its last `keep` records.
    SetFloor {
        group: u16,
        keep: usize,
    },
    /// Pages of writes in flight arrive or not; with `power`, pages that are not stable stay or not.
    Crash {
        power: bool,
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUP_COUNT;
    prop_oneof![
        6 => (group.clone(), 0usize..=128).prop_map(|(group, length)| Step::Append { group, length }),
        6 => (group.clone(), 1usize..20_000).prop_map(|(group, size)| Step::AppendBody { group, size }),
        3 => group.clone().prop_map(|group| Step::Promise { group }),
        12 => Just(Step::Submit),
        12 => (0usize..4).prop_map(|index| Step::Complete { index }),
        2 => Just(Step::Sync),
        1 => Just(Step::Rest),
        3 => (group, 0usize..6).prop_map(|(group, keep)| Step::SetFloor { group, keep }),
        2 => (any::<bool>(), any::<u64>()).prop_map(|(power, seed)| Step::Crash { power, seed }),
    ]
}

/// A stream of coin flips.
struct Coin(u64);

impl Coin {
    fn flip(&mut self) -> bool {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) & 1 == 0
    }
}

/// The log as it should be.
struct Model {
    node: Node,
    config: Config,
    /// Appended and not known to be cut, oldest first.
    history: Vec<Remembered>,
    floors: BTreeMap<GroupId, Lsn>,
    /// The largest state of each group that was durable at some time.
    promised: BTreeMap<GroupId, u64>,
    state: u64,
}

impl Model {
    fn new(config: Config) -> Self {
        Self {
            node: Node::create(config.clone()),
            config,
            history: Vec::new(),
            floors: BTreeMap::new(),
            promised: BTreeMap::new(),
            state: 0,
        }
    }

    fn floor(&self, group: GroupId) -> Lsn {
        self.floors.get(&group).copied().unwrap_or_default()
    }

    fn remember(&mut self, lsn: Lsn, group: u16, kind: RecordKind, bytes: Vec<u8>, body: Option<u64>) {
        self.history.push(Remembered { lsn, group: GroupId(group), kind, bytes, body });
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Append { group, length } => {
                let bytes = vec![self.history.len() as u8; length];
                let lsn = self.node.append(group, &bytes).lsn;
                self.remember(lsn, group, RecordKind(1), bytes, None);
            }
            Step::AppendBody { group, size } => {
                let (appended, frame) = self.node.append_body(group, b"batch", size);
                let body = Some(frame.id().counter);
                self.remember(appended.lsn, group, RecordKind(2), b"batch".to_vec(), body);
            }
            Step::Promise { group } => {
                self.state += 1;
                let lsn = self.node.promise(group, self.state).lsn;
                self.remember(lsn, group, STATE, self.state.to_le_bytes().to_vec(), None);
            }
            Step::Submit => {
                self.node.submit();
            }
            Step::Complete { index } if index < self.node.in_flight.len() => self.node.complete(index),
            Step::Complete { .. } => {}
            Step::Sync => {
                self.node.now = self.node.now + Duration::from_millis(20);
                self.node.sync();
            }
            Step::Rest => {
                while !self.node.in_flight.is_empty() {
                    self.node.complete(0);
                }
                self.node.rest();
            }
            Step::SetFloor { group, keep } => {
                let group = GroupId(group);
                let durable = self.node.wal.synced();
                let of_group =
                    self.history.iter().filter(|record| record.group == group && record.lsn <= durable);
                if let Some(record) = of_group.rev().nth(keep) {
                    let floor = record.lsn.next().max(self.floor(group));
                    self.floors.insert(group, floor);
                    self.node.wal.set_floor(group, floor);
                    self.node.prepare();
                }
            }
            Step::Crash { power, seed } => self.crash(power, seed)?,
        }
        self.note_promises(self.node.wal.durable());
        Ok(())
    }

    fn note_promises(&mut self, durable: Lsn) {
        if self.config.durability != Durability::Sync {
            return;
        }
        for record in self.history.iter().filter(|record| record.kind == STATE && record.lsn <= durable) {
            let state = u64::from_le_bytes(record.bytes[..].try_into().unwrap());
            let promised = self.promised.entry(record.group).or_default();
            *promised = state.max(*promised);
        }
    }

    fn crash(&mut self, power: bool, seed: u64) -> Result<(), TestCaseError> {
        let durable = if power { self.node.wal.synced() } else { self.node.wal.durable() };
        let mut coin = Coin(seed);
        let writes: Vec<Write> = self.node.in_flight.drain(..).collect();
        for write in &writes {
            Node::store(&mut self.node.disk, write, false, &mut || coin.flip());
        }
        if power {
            self.node.disk.lose_power(&mut |_| coin.flip(), true);
        }
        let (recovered, past) = self
            .node
            .restart(self.config.clone())
            .map_err(|error| TestCaseError::fail(format!("an undamaged log is refused: {error}")))?;
        self.check(&past, durable)?;
        prop_assert!(recovered.last >= durable);
        for (group, floor) in &self.floors {
            self.node.wal.set_floor(*group, *floor);
        }
        self.node.prepare();
        // As a replica must: nothing is done before what was read is stable.
        self.node.sync();
        prop_assert!(self.node.wal.durable() >= recovered.last);
        Ok(())
    }

    fn check(&mut self, past: &Past, durable: Lsn) -> Result<(), TestCaseError> {
        let start = match past.appended.first() {
            Some(first) => self.history.iter().position(|record| record == first),
            None => self.history.iter().position(|record| record.lsn > durable).or(Some(self.history.len())),
        };
        let start = start.ok_or_else(|| TestCaseError::fail("a record that was never appended came back"))?;
        let end = start + past.appended.len();
        prop_assert!(end <= self.history.len(), "more came back than was appended");
        prop_assert_eq!(&past.appended[..], &self.history[start..end]);
        for record in &self.history[..start] {
            prop_assert!(record.lsn < self.floor(record.group), "lost though needed: {:?}", record);
        }
        for record in &self.history[end..] {
            prop_assert!(record.lsn > durable, "lost though durable: {:?}", record);
        }
        for (group, promised) in &self.promised {
            prop_assert!(past.states.get(group) >= Some(promised), "group {} forgot its promise", group.0);
        }
        // What lies before `start` stays: it may come back, as long as its file is there.
        self.history.truncate(end);
        Ok(())
    }
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![
        3 => Just(Durability::Sync),
        1 => Just(Durability::Periodic { interval: Duration::from_millis(10) }),
    ]
}

fn config_of(is_packed: bool) -> Config {
    if is_packed { packed() } else { config() }
}

/// What checksums cover, as `(segment, start, end)`.
fn covered(write: &Write) -> Vec<(u64, usize, usize)> {
    let mut at = write.offset() as usize;
    let mut ranges = Vec::new();
    for (index, part) in write.parts().enumerate() {
        let length = if index == 0 {
            part.len()
        } else {
            u32::from_le_bytes(part[16..20].try_into().unwrap()) as usize
        };
        ranges.push((write.segment().0, at, at + length));
        at += part.len();
    }
    ranges
}

proptest! {
    #[test]
    fn recovery_returns_what_was_durable_under_any_tear(
        steps in prop::collection::vec(step(), 1..150), durability in durability(), depth in 1usize..=4, packed: bool,
        seed: u64
    ) {
        let mut model = Model::new(Config { durability, writes_in_flight_max: depth, ..config_of(packed) });
        for step in &steps {
            model.take(step)?;
        }
        model.crash(true, seed)?;
        model.take(&Step::Append { group: 0, length: 9 })?;
        model.take(&Step::Rest)?;
        model.crash(false, seed)?;
    }

    #[test]
    fn any_flip_in_what_was_acknowledged_is_refused(
        sizes in prop::collection::vec((0..GROUP_COUNT, 0usize..9000), 1..30), at in any::<prop::sample::Index>(),
        bit in 0u32..8, packed: bool, anywhere: bool
    ) {
        let mut node = Node::create(config_of(packed));
        let mut ranges = Vec::new();
        let write_all = |node: &mut Node, ranges: &mut Vec<(u64, usize, usize)>| {
            while node.submit() > 0 {
                while !node.in_flight.is_empty() {
                    ranges.extend(covered(&node.in_flight[0]));
                    node.complete(0);
                }
            }
        };
        for (group, size) in &sizes {
            if *size > 500 {
                node.append_body(*group, b"batch", *size);
            } else {
                node.promise(*group, *size as u64);
            }
            write_all(&mut node, &mut ranges);
        }
        node.rest();
        let (_, before) = read_back(&mut node.disk, IDENTITY).unwrap();
        if anywhere {
            let total: usize = node.disk.files.values().map(Vec::len).sum();
            let mut at = at.index(total);
            let mut segment = 1;
            while at >= node.disk.files[&segment].len() {
                at -= node.disk.files[&segment].len();
                segment += 1;
            }
            node.disk.flip(segment, at, 1 << bit);
            if let Ok((_, after)) = read_back(&mut node.disk, IDENTITY) {
                prop_assert_eq!(before.appended, after.appended);
                prop_assert_eq!(before.restated, after.restated);
            }
        } else {
            let (segment, start, end) = ranges[at.index(ranges.len())];
            node.disk.flip(segment, start + at.index(end - start), 1 << bit);
            prop_assert!(read_back(&mut node.disk, IDENTITY).is_err());
        }
    }

    #[test]
    fn garbage_never_panics(
        pages in prop::collection::vec((1u64..6, 0usize..16, any::<u64>(), 0usize..6), 0..40),
        edits in prop::collection::vec((0usize..16, 8usize..400, any::<u8>()), 0..12), log: bool, packed: bool
    ) {
        let mut node = Node::create(config_of(packed));
        if log {
            for size in [1, 5000, 9000, 1, 100] {
                node.append(0, b"record");
                node.append_body(1, b"batch", size);
                node.settle();
            }
        }
        let valid = node.disk.files[&1].clone();
        let mut disk = MemoryDisk::default();
        for (segment, page, seed, kind) in pages {
            let file = disk.files.entry(segment).or_insert_with(|| valid.clone());
            let place = &mut file[page * PAGE_SIZE..][..PAGE_SIZE];
            match kind {
                0 => place.fill(0),
                1 => place.copy_from_slice(&valid[(seed % 16) as usize * PAGE_SIZE..][..PAGE_SIZE]),
                2 => file.extend((0..seed % 9000).map(|byte| byte as u8)),
                _ => {
                    let mut coin = Coin(seed);
                    place.fill_with(|| (0..8).fold(0, |byte, _| byte << 1 | u8::from(coin.flip())));
                }
            }
        }
        // Damage that the checksum does not show.
        for (page, at, byte) in edits {
            for file in disk.files.values_mut() {
                let header = &mut file[page * PAGE_SIZE..][..PAGE_SIZE];
                if header[8..12] == *b"PWAL" {
                    header[at] = byte;
                    let sum = panch_wire::checksum::checksum(&header[8..]);
                    header[..8].copy_from_slice(&sum.to_le_bytes());
                }
            }
        }
        if let Ok((_, past)) = read_back(&mut disk, IDENTITY) {
            prop_assert!(past.appended.len() + past.restated.len() < 10_000);
            // What was accepted can be continued.
            node.disk = disk;
            if node.restart(config()).is_ok() {
                node.append(0, b"next");
                node.sync();
                node.submit();
            }
        }
    }
}
