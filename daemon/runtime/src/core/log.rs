//! The log on this core, and the files of snapshots: what the replicas want written and read, and what became of it.

use std::io;

use panch_ring::parts::ReadBuffer;
use panch_wal::is_out_of_room;
use panch_wire::time::Instant;

use super::CoreLoop;
use crate::storage::{Done, Job, SnapshotUnwritten};

impl CoreLoop {
    pub(super) fn write_log(&mut self, now: Instant) {
        while let Some(write) = self.core.next_write(now, &mut self.out) {
            self.log.write(&mut self.ring, write);
        }
        self.start_syncs(now);
        let Some(wal) = self.core.wal() else { return };
        self.out.storage.note_use(wal.used_permille());
        let shortages = self.view.reports.shortages();
        if std::mem::replace(&mut self.shortages, shortages) != shortages {
            wal.give_back();
        }
        while let Some(preparation) = wal.wants_segment(now) {
            if let Some(recycled) = preparation.recycle {
                self.log.close(recycled, &mut self.ring);
            }
            self.out.storage.submit(Job::Prepare(preparation));
        }
        while let Some(sequence) = wal.take_surplus() {
            self.log.close(sequence, &mut self.ring);
            self.out.storage.submit(Job::Delete(sequence));
        }
    }

    /// Starts the syncs that are due.
    pub(super) fn start_syncs(&mut self, now: Instant) {
        let Some(wal) = self.core.wal() else { return };
        while let Some(sync) = wal.next_sync(now) {
            self.log.sync(&mut self.ring, sync);
        }
    }

    pub(super) fn on_done(&mut self, now: Instant, done: Done) {
        match done {
            Done::Prepared { sequence, result } => {
                let Some(wal) = self.core.wal() else { return };
                match result {
                    Ok(file) => {
                        wal.segment_ready(sequence);
                        let file = self.ring.add_file(file);
                        self.log.open(sequence, file);
                    }
                    Err(error) => {
                        wal.segment_failed(sequence);
                        if is_out_of_room(&error) {
                            self.view.reports.note_shortage();
                        }
                        self.events.note_segment_failure(&error);
                        let text = format_args!(
                            "cannot prepare log segment {sequence}: {error}; writes are refused once the current one is full"
                        );
                        self.complaints.print_rarely(now, "segment", None, text);
                    }
                }
            }
            Done::SnapshotWritten { group, slot, result } => {
                // Of what follows a piece that was not written there is nothing more to say.
                if let Err(SnapshotUnwritten::Disk(error)) = &result {
                    if is_out_of_room(error) {
                        self.view.reports.note_shortage();
                    }
                    let text = format_args!(
                        "cannot write the snapshot of group {} at slot {}: {error}; the one before stays, and another try follows",
                        group.0, slot.0
                    );
                    self.complaints.print_rarely(now, "snapshot", None, text);
                }
                let written = result.map_err(drop);
                self.core.snapshot_written(now, group, slot, written, &mut self.out);
            }
            Done::SnapshotRead { group, peer, file, offset, bytes } => {
                let bytes = bytes.as_deref().ok();
                self.core.snapshot_read(now, group, peer, file, offset, bytes, &mut self.out);
            }
        }
    }

    pub(super) fn start_loads(&mut self, now: Instant) {
        while let Some((group, position, location)) = self.out.loads.pop_front() {
            let Some(file) = self.log.file(location.segment) else {
                self.core.loaded(now, group, position, location, None, &mut self.out);
                continue;
            };
            let size = location.read_size();
            let Some(memory) = self.pool.take(size) else {
                // Frame memory comes back when peers have acknowledged; until then they wait.
                self.out.loads.push_front((group, position, location));
                return;
            };
            let token = self.log.begin_load(group, position, location);
            self.ring.read_log(file, location.read_offset(), size, ReadBuffer::Frame(memory), token);
        }
    }

    pub(super) fn on_loaded(
        &mut self,
        now: Instant,
        place: usize,
        result: io::Result<usize>,
        buffer: ReadBuffer,
    ) {
        let (group, position, location) = self.log.loaded(place);
        let ReadBuffer::Frame(memory) = buffer else { return };
        let frame = result.ok().and_then(|count| location.unpack(memory, count));
        self.core.loaded(now, group, position, location, frame, &mut self.out);
    }
}
