//! Batches that a client of Fast Paxos seals itself: what gathers for the next one, group by group, and the request that
//! proposes it.

use std::collections::VecDeque;

use panch_wire::batch::{BatchView, BatchWriter, Entry};
use panch_wire::client::{self, Operation, ReadLevel, RequestView};
use panch_wire::command::{Command, CommandKind, SessionHeader};
use panch_wire::frame::{Frame, FramePool, PAGE_SIZE, pages_for};
use panch_wire::ids::{GroupId, ReplicaId};
use panch_wire::slots::group_of_key;

use crate::session::WINDOW;

/// Numbers of proposals are from here on: those of commands, and of what opens sessions, are others.
pub(crate) const PROPOSALS: u64 = 1 << 63;

/// Batches of one connection in flight: more would be in each other's way.
const FLYING_MAX: usize = 4;

/// Numbers of a session that may be outstanding are fewer.
const PLACES: usize = 2 * WINDOW;

/// Memory that a batch is given for several commands; one that is larger is given to a command that needs it.
const BATCH_SIZE: usize = 64 << 10;

/// The batches of one connection that are being filled.
pub(crate) struct Batches {
    /// Commands at which a batch is complete.
    commands_max: usize,
    /// The node that answers, and how many groups there are; as the node said.
    home: ReplicaId,
    group_count: u16,
    /// Batches so far.
    number: u64,
    pool: FramePool,
    open: Vec<(GroupId, BatchWriter)>,
    /// Sealed, and not sent while too many are in flight.
    complete: VecDeque<(GroupId, Frame)>,
    /// Batches in flight: their numbers, and how many commands have no answer.
    flying: Vec<(u64, usize)>,
    /// The batch of each command, by the command's number.
    batch_of: Box<[u64; PLACES]>,
    spare: Vec<Vec<Entry>>,
}

impl Batches {
    /// Batches of so many commands at most, whose keys and values have so many bytes together at most.
    pub(crate) fn new(commands_max: usize, request_size: usize) -> Self {
        let session = Some(SessionHeader { session: 0, number: 0, acked_below: 0 });
        // The value of an increment is not counted among those of requests.
        let increment = Command { kind: CommandKind::IncrBy, flags: 0, session, key: &[], value: &[0; 8] };
        let frame_size = BATCH_SIZE.max(size_of_one(&increment) + request_size);
        Self {
            commands_max,
            home: ReplicaId(0),
            group_count: 1,
            number: 0,
            // Every command that waits may have a batch of its own, and memory comes in powers of two. It is taken as it is needed.
            pool: FramePool::new(WINDOW * pages_for(frame_size).next_power_of_two() * PAGE_SIZE),
            open: Vec::new(),
            complete: VecDeque::new(),
            flying: Vec::new(),
            batch_of: Box::new([0; PLACES]),
            spare: Vec::new(),
        }
    }

    /// The node that answers from now on. What has gathered for another is asked in another way.
    pub(crate) fn start(&mut self, home: ReplicaId, group_count: u16) {
        (self.home, self.group_count) = (home, group_count.max(1));
        self.open.clear();
        self.complete.clear();
        self.flying.clear();
    }

    /// A command was answered; true if that made room for another batch that waits.
    pub(crate) fn answered(&mut self, number: u64) -> bool {
        let batch = self.batch_of[number as usize % PLACES];
        let Some(index) = self.flying.iter().position(|(of, _)| *of == batch) else { return false };
        self.flying[index].1 = self.flying[index].1.saturating_sub(1);
        if self.flying[index].1 == 0 {
            self.flying.swap_remove(index);
        }
        self.flying.len() < FLYING_MAX && !self.complete.is_empty()
    }

    /// Adds a command of the session.
    pub(crate) fn push(&mut self, command: &Command<'_>) {
        let group = group_of_key(command.key, self.group_count);
        let index = self.open.iter().position(|(of, _)| *of == group);
        if let Some(index) = index {
            let writer = &mut self.open[index].1;
            if writer.push(command) {
                if writer.command_count() >= self.commands_max {
                    self.complete(index);
                }
                return;
            }
            self.complete(index);
        }
        let needed = size_of_one(command);
        let likely = needed.saturating_mul(self.commands_max).clamp(PAGE_SIZE, needed.max(BATCH_SIZE));
        let memory = self.pool.take(likely).expect("the pool has a batch for each number of the session");
        let mut writer = BatchWriter::new(memory, self.spare.pop().unwrap_or_default());
        assert!(writer.push(command), "the memory was taken for it");
        self.open.push((group, writer));
        if self.commands_max <= 1 {
            self.complete(self.open.len() - 1);
        }
    }

    fn complete(&mut self, index: usize) {
        let (group, writer) = self.open.swap_remove(index);
        self.number += 1;
        let (frame, entries) = writer.seal_for_client(self.home, self.number);
        self.spare.push(entries);
        let view = BatchView::access(&frame).expect("it was sealed here");
        for header in view.commands().filter_map(|command| command.session) {
            self.batch_of[header.number as usize % PLACES] = self.number;
        }
        self.complete.push_back((group, frame));
    }

    /// Appends requests that propose what has gathered, as far as there is room: the same bytes for every node.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) {
        while !self.open.is_empty() {
            self.complete(0);
        }
        while self.flying.len() < FLYING_MAX
            && let Some((group, frame)) = self.complete.pop_front()
        {
            self.flying.push((frame.client_number(), frame.command_count() as usize));
            let request = RequestView {
                number: PROPOSALS | frame.client_number(),
                acked_below: 0,
                level: ReadLevel::Log,
                ask_stages: false,
                ask_commit: false,
                operation: Operation::Propose { group, frame: frame.bytes() },
            };
            client::write_request(&request, out);
        }
    }
}

/// The most bytes of a batch that holds only this command.
fn size_of_one(command: &Command<'_>) -> usize {
    panch_wire::batch::OVERHEAD + panch_wire::batch::size_of_command(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_wire::batch::BatchView;
    use panch_wire::client::{Terms, parse_request};

    fn command<'a>(number: u64, key: &'a [u8], value: &'a [u8]) -> Command<'a> {
        let session = Some(SessionHeader { session: 7, number, acked_below: 1 });
        Command { kind: CommandKind::Set, flags: 0, session, key, value }
    }

    #[test]
    fn there_is_memory_for_as_many_large_values_as_a_session_can_have_outstanding() {
        // A little more than a power of two: as much again is lost.
        let value = vec![1; 513 << 10];
        let mut batches = Batches::new(100, 3 + value.len());
        for number in 1..=WINDOW as u64 {
            batches.push(&command(number, b"key", &value));
        }
        assert_eq!(batches.complete.len() + batches.open.len(), WINDOW);
    }

    #[test]
    fn commands_gather_by_group_and_leave_in_batches_that_are_no_larger_than_asked() {
        let mut batches = Batches::new(3, 3100);
        batches.start(ReplicaId(2), 4);
        for number in 1..=20 {
            let key = format!("key{number}");
            batches.push(&command(number, key.as_bytes(), &[1; 3000]));
        }
        let mut out = Vec::new();
        batches.write(&mut out);
        let (mut at, mut numbers) = (0, Vec::new());
        let terms = Terms { session: 7, request_size_max: 1 << 20 };
        while let Some((request, size)) = parse_request(&out[at..], &terms).unwrap() {
            let Operation::Propose { group, frame: bytes } = request.operation else { panic!("{request:?}") };
            let mut memory = FramePool::new(1 << 20).take(bytes.len()).unwrap();
            memory[..bytes.len()].copy_from_slice(bytes);
            let frame = memory.receive(bytes.len()).unwrap();
            assert_eq!((frame.id().proposer, frame.id().is_of_client()), (ReplicaId(2), true));
            let view = BatchView::validate(&frame).unwrap();
            assert!((1..=3).contains(&view.command_count()));
            assert!(batches.flying.len() <= FLYING_MAX);
            let mut has_room = false;
            for command in view.commands() {
                assert_eq!(group_of_key(command.key, 4), group);
                let number = command.session.unwrap().number;
                has_room |= batches.answered(number);
                numbers.push(number);
            }
            at += size;
            if has_room {
                batches.write(&mut out);
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
        let length = out.len();
        batches.write(&mut out);
        assert_eq!(out.len(), length, "everything has left");
    }
}
