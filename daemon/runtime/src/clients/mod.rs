//! Client connections: RESP and native, their requests into the core, and replies back in order.

pub(crate) mod connection;
pub(crate) mod describe;
pub(crate) mod native;
pub(crate) mod order;
pub(crate) mod resp;
pub(crate) mod table;

use panch_consensus::multi::Multi;
use panch_replica::batcher::Refusal;
use panch_replica::core::{Core, ReplyTo};
use panch_replica::replica::Level;
use panch_wire::command::{Command, Reply};
use panch_wire::ids::GroupId;
use panch_wire::time::Instant;

use crate::remote;
use crate::view::NodeView;

/// Bytes of commands for one other core that may gather before its clients have to wait.
const PARCEL_SIZE_MAX: usize = 1 << 20;

/// Why the input of a connection is not consumed further now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// More bytes are needed.
    NeedBytes,
    /// There is no room, or a reply must leave first: try again after the next turn.
    Stalled,
    /// The connection ends once its output is sent; `true` if its bytes were at fault.
    Close(bool),
}

/// Where commands of clients go: a group of this core, or a parcel for another one.
pub(crate) struct Counter<'a> {
    pub(crate) now: Instant,
    pub(crate) core: &'a mut Core<Multi>,
    pub(crate) view: &'a NodeView,
    /// Requests for the other cores, gathering during this turn.
    pub(crate) parcels: &'a mut [Vec<u8>],
    /// Counts what is submitted.
    pub(crate) requests: &'a mut u64,
}

impl Counter<'_> {
    pub(crate) fn submit(
        &mut self,
        group: GroupId,
        command: &Command<'_>,
        level: Level,
        token: ReplyTo,
    ) -> Result<(), Refusal> {
        *self.requests += 1;
        let core = self.view.core_of(group);
        if core == self.view.core {
            return self.core.submit(self.now, group, command, level, token);
        }
        let parcel = &mut self.parcels[core];
        if parcel.len() > PARCEL_SIZE_MAX {
            return Err(Refusal::Busy);
        }
        remote::push_request(parcel, group, command, level, token);
        Ok(())
    }

    /// Answers a read from what this core has executed; `None` if another core would have to.
    pub(crate) fn read_stale<R>(
        &mut self,
        group: GroupId,
        command: &Command<'_>,
        answer: impl FnOnce(Reply<'_>) -> R,
    ) -> Option<R> {
        self.core.read_stale(group, command, answer)
    }
}
