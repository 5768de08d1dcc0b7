//! A log that has no room: what of it may go, and who is to do without it.

use panch_consensus::frontier::Frontier;
use panch_consensus::protocol::{Order, Protocol};
use panch_wire::ids::Slot;
use panch_wire::time::Duration;

use crate::outbox::Outbox;
use crate::replica::{Replica, Surroundings};
use crate::transfer::SnapshotFile;

/// How often a graph's log that has no room is looked through.
const LOOKED_EVERY: Duration = Duration::from_millis(100);

impl<P: Protocol> Replica<P> {
    /// This group needs the oldest segment of a log that is too large. It makes a snapshot, or it keeps the log for peers: then it
    /// gives that up if `excess`, the bytes beyond what the log may have in any case, is more than the latest snapshot has.
    pub(crate) fn need_room<O: Outbox>(&mut self, excess: u64, around: &mut Surroundings<'_, O>) {
        if P::ORDER == Order::Graph {
            self.need_room_of_graph(excess, around);
            return;
        }
        if !self.snapshots.keeps_log {
            self.snapshots.request();
        }
        let latest = self.snapshots.latest.unwrap_or(SnapshotFile { slot: Slot(0), size: 0 });
        if excess <= latest.size {
            return;
        }
        while self.snapshots.sending.give_up_log(latest.slot).is_some() {
            self.probe.log_cuts += 1;
        }
        if self.snapshots.keeps_log {
            self.truncate_log(around.wal);
        }
    }

    /// The same in a graph, whose protocol knows what the log keeps for others. A snapshot is made only if the oldest part of the log could go
    /// with it: else another would be made again and again while a replica lags.
    fn need_room_of_graph<O: Outbox>(&mut self, excess: u64, around: &mut Surroundings<'_, O>) {
        if around.now < self.snapshots.look_at {
            return;
        }
        self.snapshots.look_at = around.now + LOOKED_EVERY;
        let Some(latest) = self.snapshots.latest else {
            self.snapshots.request();
            return;
        };
        let Some(oldest) = self.log.earliest_position() else {
            self.truncate_log(around.wal);
            return;
        };
        let may_go = |protocol: &P, executed: &Frontier| protocol.forgettable(executed).contains(oldest);
        if excess > latest.size && !may_go(&self.protocol, &self.executed) {
            self.probe.log_cuts += self.protocol.give_up(oldest);
        }
        if !may_go(&self.protocol, &self.executed) {
            return;
        }
        if self.snapshots.latest_covers.contains(oldest) {
            self.truncate_log(around.wal);
        } else {
            self.snapshots.request();
        }
    }
}
