//! The receiving side of a snapshot's transfer.

use panch_consensus::protocol::Protocol;
use panch_wire::batch::BatchView;
use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, Slot};
use panch_wire::time::Duration;

use crate::core::Misbehaviour;
use crate::outbox::Outbox;
use crate::replica::{Replica, Surroundings};
use crate::snapshot::SnapshotReader;
use crate::snapshots::Snapshots;
use crate::transfer::{
    Ack, CHUNK_SIZE, Chunk, LEFT_MAX, Reason, Receiving, Refuse, SnapshotFile, TransferMessage,
};

impl<P: Protocol> Replica<P> {
    fn acknowledge(&mut self, to: ReplicaId, slot: Slot, offset: u64, out: &mut impl Outbox) {
        self.send_transfer(to, TransferMessage::Ack(Ack { slot: slot.0, offset }), None, out);
    }

    /// Takes in a chunk of a peer's snapshot.
    ///
    /// # Errors
    /// If the peer sends a chunk that no snapshot has, or announces one that this node cannot hold, which it is told.
    pub(super) fn on_chunk<O: Outbox>(
        &mut self,
        from: ReplicaId,
        chunk: Chunk,
        body: Option<Frame>,
        around: &mut Surroundings<'_, O>,
    ) -> Result<(), Misbehaviour> {
        let Chunk { slot, offset, size } = chunk;
        let slot = Slot(slot);
        if slot <= self.executed() {
            // In a log, what the snapshot holds is executed here already; in a graph, its sender is behind too.
            if let Some(overtaken) = self.snapshots.receiving.take_if(|it| it.slot <= slot) {
                self.discard(overtaken.slot, around.out);
            }
            self.acknowledge(from, slot, size, around.out);
            return Ok(());
        }
        if size > self.snapshots.size_max {
            self.send_refuse(from, slot, Reason::NoRoom, around.out);
            return Err(Misbehaviour::SnapshotTooLarge { size, size_max: self.snapshots.size_max });
        }
        let received = self.snapshots.received.as_ref().map(|(from, file, _)| (*from, file.slot));
        let naming = self.snapshots.naming.iter();
        let naming = naming.filter_map(|it| it.received.as_ref().map(|(from, _)| (*from, it.file.slot)));
        if let Some(waiting) = received.into_iter().chain(naming).next() {
            if waiting == (from, slot) {
                // All of it has arrived, but is not durable: the disk takes its time.
                self.acknowledge(from, slot, offset, around.out);
            }
            return Ok(());
        }
        let view = body.as_ref().and_then(|frame| BatchView::access(frame).ok());
        let Some(bytes) = view.and_then(|view| view.commands().next()).map(|command| command.value) else {
            return Ok(());
        };
        let end = offset.checked_add(bytes.len() as u64);
        if bytes.is_empty() || bytes.len() > CHUNK_SIZE || end.is_none_or(|end| end > size) {
            return Err(Misbehaviour::Undecodable);
        }
        // Of one slot, too, the sender may have made another snapshot since: what has arrived is of no use for that.
        let is_it = |it: &&Receiving| it.from == from && it.slot == slot && it.size == size;
        let current = self.snapshots.receiving.as_ref().filter(is_it);
        if offset == 0 && current.is_none() && !self.begin_receiving(from, slot, size, around) {
            self.send_refuse(from, slot, Reason::Busy, around.out);
            return Ok(());
        }
        let Some(receiving) = &mut self.snapshots.receiving else {
            // A transfer that began before this replica restarted.
            self.send_refuse(from, slot, Reason::Unknown, around.out);
            return Ok(());
        };
        if receiving.from != from || receiving.slot != slot || self.snapshots.writes.is_full() {
            return Ok(()); // another transfer goes first, or the disk does
        }
        if receiving.size != size {
            // The beginning of the other one was lost.
            self.refuse(Reason::Unknown, around.out);
            return Ok(());
        }
        let keeps_up = self.snapshots.writes.keeps_up();
        if offset != receiving.offset {
            // A chunk was lost, or the sender began again: the acknowledgement says where to go on.
            let offset = receiving.offset;
            if keeps_up {
                self.acknowledge(from, slot, offset, around.out);
            }
            return Ok(());
        }
        let usable = receiving.reader.feed(bytes).is_ok();
        receiving.offset += bytes.len() as u64;
        receiving.grown = around.now;
        self.protocol.snapshot_grown(around.now);
        let (end, complete) = (receiving.offset, receiving.offset == receiving.size);
        // Nothing follows the end of the state that it describes.
        if !usable || receiving.reader.is_complete() != complete {
            self.refuse(Reason::Damaged, around.out);
            return Ok(());
        }
        if complete {
            self.take_received(bytes, around);
            return Ok(());
        }
        self.snapshots.writes.begin(slot);
        receiving.owes_ack = !self.snapshots.writes.keeps_up();
        let owes_ack = receiving.owes_ack;
        around.out.snapshot_write(self.group.id, slot, offset, bytes, false);
        if !owes_ack {
            self.acknowledge(from, slot, end, around.out);
        }
        Ok(())
    }

    /// A peer begins to send a snapshot; whether it is taken. One that another peer sends goes on while it grows as it should: if each new
    /// one ended it, none would ever arrive. And the disk must have kept up with what came before.
    fn begin_receiving<O: Outbox>(
        &mut self,
        from: ReplicaId,
        slot: Slot,
        size: u64,
        around: &mut Surroundings<'_, O>,
    ) -> bool {
        let Snapshots { receiving, writes, left_max, .. } = &mut self.snapshots;
        let goes_on = |it: &Receiving| it.from != from && !it.yields(around.now, *left_max);
        if self.checkpoints.is_wrong(from) || receiving.as_ref().is_some_and(goes_on) || !writes.keeps_up() {
            return false;
        }
        if let Some(stale) = receiving.take() {
            // One that stands still says nothing about the next.
            if !stale.yields(around.now, Duration::MAX) && stale.from != from {
                *left_max = left_max.saturating_mul(2);
            }
            self.discard(stale.slot, around.out);
        }
        let reader = SnapshotReader::new(self.machine.hash_seed());
        self.snapshots.receiving = Some(Receiving {
            from,
            slot,
            size,
            offset: 0,
            reader,
            owes_ack: false,
            began: around.now,
            grown: around.now,
        });
        true
    }

    /// The last chunk is here.
    fn take_received<O: Outbox>(&mut self, bytes: &[u8], around: &mut Surroundings<'_, O>) {
        let Some(receiving) = self.snapshots.receiving.take() else { return };
        let Receiving { from, slot, size, reader, .. } = receiving;
        let restored = reader.finish().ok();
        let restored = restored.filter(|it| it.group == self.group.id && it.covered.count() == slot);
        // Decided before the file gets its name: at the next start the newest file counts, and everything that the log has
        // lost since the one before must be in it. So it is taken only if it has more, and nothing of the own is lost.
        let is_sound = restored.is_some();
        let restored =
            restored.filter(|it| slot > self.executed() && self.protocol.prepare_install(&it.covered));
        match restored {
            Some(restored) => {
                let start = size - bytes.len() as u64;
                self.snapshots.writes.begin(slot);
                self.snapshots.left_max = LEFT_MAX;
                around.out.snapshot_write(self.group.id, slot, start, bytes, true);
                self.snapshots.received = Some((from, SnapshotFile { slot, size }, restored));
                self.abandon_making();
                self.end_failed_making(around);
            }
            None => {
                self.discard(slot, around.out);
                let reason = if is_sound { Reason::Behind } else { Reason::Damaged };
                self.send_refuse(from, slot, reason, around.out);
            }
        }
    }

    /// The driver has written a chunk of some snapshot: what has arrived of the one on its way here may be acknowledged.
    pub(super) fn acknowledge_owed(&mut self, out: &mut impl Outbox) {
        if let Some(receiving) = &mut self.snapshots.receiving
            && self.snapshots.writes.keeps_up()
            && std::mem::take(&mut receiving.owes_ack)
        {
            let (from, slot, offset) = (receiving.from, receiving.slot, receiving.offset);
            self.acknowledge(from, slot, offset, out);
        }
    }

    /// What arrives is not needed any more, because the log has brought all of it, or its sender is gone: it leaves memory.
    pub(super) fn drop_stale_receiving<O: Outbox>(&mut self, around: &mut Surroundings<'_, O>) {
        let executed = self.executed();
        let is_stale = |it: &mut Receiving| it.slot <= executed || it.is_abandoned(around.now);
        if let Some(stale) = self.snapshots.receiving.take_if(is_stale) {
            self.discard(stale.slot, around.out);
        }
    }

    /// What arrives is of no use.
    pub(super) fn refuse(&mut self, reason: Reason, out: &mut impl Outbox) {
        if let Some(receiving) = self.snapshots.receiving.take() {
            self.discard(receiving.slot, out);
            self.send_refuse(receiving.from, receiving.slot, reason, out);
        }
    }

    pub(super) fn send_refuse(&mut self, to: ReplicaId, slot: Slot, reason: Reason, out: &mut impl Outbox) {
        self.send_transfer(to, TransferMessage::Refuse(Refuse { slot: slot.0, reason }), None, out);
    }
}
