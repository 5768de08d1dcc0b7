//! What nodes need not agree on, nor a node with itself before: what was decided is executed alike.

use panch_consensus::protocol::Tuning;
use panch_replica::replica::ReplicaConfig;
use panch_wire::frame::PAGE_SIZE;
use panch_wire::time::Duration;

use super::{PAGE, Settings, packed_size_max};
use crate::random::{Concern, Stream};

/// A node's own settings from one start to the next.
#[derive(Clone, Debug)]
pub struct Own {
    /// Of its replicas.
    pub replica: ReplicaConfig,
    /// Knobs of the protocol.
    pub tuning: Tuning,
    /// Of its log.
    pub wal: panch_wal::Config,
    /// Bytes of log segments at which a snapshot is asked for.
    pub log_size_max: u64,
}

impl Settings {
    /// What a node has from the start with that incarnation on.
    pub fn own(&self, node: usize, incarnation: u32) -> Own {
        let mut own = Own {
            replica: self.replica,
            tuning: self.tuning,
            wal: self.wal.clone(),
            log_size_max: self.log_size_max,
        };
        let start = (node as u64) << 32 | u64::from(incarnation);
        let stream = |concern| Stream::new(self.seed ^ start.rotate_left(20), concern);
        if self.limits_vary {
            own.vary_limits(&mut stream(Concern::Limits));
        }
        if self.tuning_varies {
            own.vary_tuning(&mut stream(Concern::Tuning));
        }
        own
    }
}

impl Own {
    fn vary_limits(&mut self, random: &mut Stream) {
        let replica = &mut self.replica;
        replica.hash_seed = random.word();
        replica.batch.value_size_max = *random.pick(&[24, 200, 1000, 16 << 10]);
        replica.batch.commands_max = random.range(1, 8) as usize;
        replica.batch.size_max = random.range(1, 4) as usize * PAGE_SIZE;
        replica.batch.queue_max = random.range(1, 8) as usize;
        replica.snapshot_log_size = random.skewed(8, 512) << 10;
    }

    /// Heartbeats and elections are those of all: without that nobody leads for long.
    fn vary_tuning(&mut self, random: &mut Stream) {
        let tuning = &mut self.tuning;
        let depth = random.range(1, 8) as usize;
        tuning.pipeline_depth = depth;
        self.replica.batch.pipeline_depth = depth;
        tuning.tail_size_max = tuning.tail_size_max.min(random.skewed(4, 64) as usize * PAGE_SIZE);
        tuning.catchup_window = random.range(1, 32) as usize;
        tuning.slow_after = Duration::from_micros(random.skewed(500, 60_000));
        let recover_after = random.skewed(20, 400);
        tuning.recover_after = Duration::from_millis(recover_after);
        tuning.recover_always_after = Duration::from_millis(recover_after * random.range(2, 8));
        if !tuning.lease.is_zero() {
            tuning.lease = tuning.election_timeout * random.range(0, 9) as u32 / 10;
        }
        let pages = random.range(12, 64);
        let wal = &mut self.wal;
        wal.segment_size = pages * PAGE;
        wal.group_size_max = random.range(4, pages / 2) as usize * PAGE_SIZE;
        wal.writes_in_flight_max = random.range(1, 4) as usize;
        wal.spares = random.range(1, 2) as usize;
        wal.packed_size_max = packed_size_max(pages);
        wal.reuse_max = (pages % 5) as usize;
        self.log_size_max = wal.segment_size * random.range(2, 8);
    }
}

impl Settings {
    /// The deepest pipeline that any node has.
    pub fn pipeline_depth_max(&self) -> usize {
        if self.tuning_varies { 8 } else { self.tuning.pipeline_depth }
    }
}
