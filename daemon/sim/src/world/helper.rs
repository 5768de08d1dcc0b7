//! The thread of a node that writes and reads snapshots: one thing after the other, in the order in which they were asked for.
//!
//! What cannot be written ends the file, so that what follows of it cannot be written either. A complete file of that name stays.

use std::collections::VecDeque;

use panch_wire::ids::{GroupId, Slot};

use super::Shared;
use super::node::{Node, State, Tag};
use super::outbox::Deed;
use crate::disk::{FileId, Name, Step};

/// What waits for the thread, and what it has begun.
#[derive(Default)]
pub(crate) struct Helper {
    waiting: VecDeque<Deed>,
    is_busy: bool,
    /// Files that are being written.
    partial: Vec<(GroupId, Slot, FileId)>,
}

impl Helper {
    fn file(&self, group: GroupId, slot: Slot) -> Option<FileId> {
        self.partial.iter().find(|(of, at, _)| (*of, *at) == (group, slot)).map(|(_, _, file)| *file)
    }

    fn give_up(&mut self, group: GroupId, slot: Slot) {
        self.partial.retain(|(of, at, _)| (*of, *at) != (group, slot));
    }
}

impl Node {
    /// Something for the thread.
    pub(super) fn hand_over(&mut self, shared: &mut Shared, deed: Deed) {
        if let State::Up(life) = &mut self.state {
            life.helper.waiting.push_back(deed);
            self.help(shared);
        }
    }

    /// The thread has done something.
    pub(super) fn on_helped(&mut self, shared: &mut Shared) {
        if let State::Up(life) = &mut self.state {
            life.helper.is_busy = false;
            self.help(shared);
        }
    }

    /// A file could not be written.
    pub(super) fn give_up_file(&mut self, group: GroupId, slot: Slot) {
        if let State::Up(life) = &mut self.state {
            life.helper.give_up(group, slot);
        }
    }

    /// The thread goes on with what waits.
    fn help(&mut self, shared: &mut Shared) {
        loop {
            let State::Up(life) = &mut self.state else { return };
            let helper = &mut life.helper;
            if helper.is_busy {
                return;
            }
            let Some(deed) = helper.waiting.pop_front() else { return };
            if let Deed::SnapshotAbandon(group, slot) = deed {
                helper.give_up(group, slot);
                continue;
            }
            helper.is_busy = true;
            match deed {
                Deed::SnapshotRead { group, peer, file, offset, length } => {
                    let from = self.disk.open(Name::Snapshot(group, file.slot));
                    let from = from.filter(|from| offset + length as u64 <= self.disk.size(*from));
                    let tag = Tag::SnapshotRead { group, peer, file, offset, length, from };
                    self.submit(shared, tag, [Step::Read]);
                }
                Deed::SnapshotRemove(group, slot) => {
                    helper.give_up(group, slot);
                    self.submit(shared, Tag::SnapshotRemove, [Step::Unlink(Name::Snapshot(group, slot))]);
                }
                Deed::SnapshotWrite { group, slot, offset, bytes, last } => {
                    self.write_snapshot(shared, (group, slot), offset, &bytes, last);
                }
                _ => unreachable!("nothing else is handed over"),
            }
        }
    }

    fn write_snapshot(
        &mut self,
        shared: &mut Shared,
        (group, slot): (GroupId, Slot),
        offset: u64,
        bytes: &[u8],
        last: bool,
    ) {
        let State::Up(life) = &mut self.state else { return };
        let tag = Tag::SnapshotWrite { group, slot, last };
        if offset == 0 {
            life.helper.give_up(group, slot);
            life.helper.partial.push((group, slot, self.disk.create(0)));
        }
        let Some(file) = life.helper.file(group, slot) else {
            self.fail(shared, tag);
            return;
        };
        let mut steps = vec![Step::Write(self.disk.write(file, offset, [bytes].into_iter()))];
        if last {
            life.helper.give_up(group, slot);
            let name = Name::Snapshot(group, slot);
            steps.extend([Step::Sync(file), Step::Link(file, name), Step::SyncDirectory]);
        }
        self.make(shared, tag, steps);
    }
}
