//! A replica of any protocol: one daemon runs groups of different protocols at the same time.
//!
//! An enum, not a trait object: `each!` runs the same generic code on whichever it is, and the compiler sees through it.

use panch_consensus::basic::Basic;
use panch_consensus::epaxos::Epaxos;
use panch_consensus::fast::Fast;
use panch_consensus::multi::Multi;
use panch_consensus::protocol::{Group, Past, Protocol, ProtocolKind, Random};
use panch_wire::ids::{GroupId, Incarnation};

use crate::core::CoreConfig;
use crate::machine::StateMachine;
use crate::rejoin::Rejoin;
use crate::replica::Replica;
use crate::snapshot::Restored;
use crate::transfer::{SnapshotFile, TransferLimits};

/// One replica of one group.
pub(crate) enum AnyReplica {
    Basic(Box<Replica<Basic>>),
    Multi(Box<Replica<Multi>>),
    Fast(Box<Replica<Fast>>),
    Epaxos(Box<Replica<Epaxos>>),
}

/// Runs an expression on the replica inside an [`AnyReplica`].
macro_rules! each {
    ($any:expr, $replica:ident => $work:expr) => {
        match $any {
            AnyReplica::Basic($replica) => $work,
            AnyReplica::Multi($replica) => $work,
            AnyReplica::Fast($replica) => $work,
            AnyReplica::Epaxos($replica) => $work,
        }
    };
}
pub(crate) use each;

impl AnyReplica {
    /// A replica before its log is replayed, with the state of its snapshot if it has one.
    pub(crate) fn open(
        kind: ProtocolKind,
        config: &CoreConfig,
        group: Group,
        incarnation: Incarnation,
        random: Random,
        past: Option<(SnapshotFile, Restored)>,
        transfers: TransferLimits,
    ) -> Self {
        match kind {
            ProtocolKind::Basic => Self::Basic(open(config, group, incarnation, random, past, transfers)),
            ProtocolKind::Multi => Self::Multi(open(config, group, incarnation, random, past, transfers)),
            ProtocolKind::Fast => Self::Fast(open(config, group, incarnation, random, past, transfers)),
            ProtocolKind::Epaxos => Self::Epaxos(open(config, group, incarnation, random, past, transfers)),
        }
    }

    pub(crate) fn group(&self) -> GroupId {
        each!(self, replica => replica.group.id)
    }
}

fn open<P: Protocol>(
    config: &CoreConfig,
    group: Group,
    incarnation: Incarnation,
    random: Random,
    past: Option<(SnapshotFile, Restored)>,
    transfers: TransferLimits,
) -> Box<Replica<P>> {
    let (file, restored) = past.unzip();
    let restored = restored.unwrap_or_else(|| Restored {
        group: group.id,
        covered: Default::default(),
        stamp: 0,
        machine: StateMachine::new(config.replica.hash_seed),
    });
    let (covered, stamp) = (restored.covered.clone(), restored.stamp);
    let past = Past { executed: &covered, stamp, incarnation };
    let protocol = P::open(group, config.tuning, past, random);
    let rejoin = Rejoin::new(config.rejoining);
    let mut replica = Replica::new(group, config.replica, protocol, restored, incarnation, rejoin, transfers);
    if let Some(file) = file {
        replica.snapshots.found(file, &covered);
    }
    Box::new(replica)
}
