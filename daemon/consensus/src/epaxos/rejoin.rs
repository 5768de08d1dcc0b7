//! Coming back without a disk.
//!
//! Why it is safe, given (H1) to (H3) of [`crate::rejoin`]. The horizon is per row: the highest number that anybody has heard named,
//! in dependencies too. It includes all numbers that a peer has used in its own row: those it has reserved beyond are
//! used in later instances only, so they need not be in it.
//!
//! Instances beyond it: no vote, acceptance or promise of the earlier life has reached anybody, none was part of a quorum
//! or of a fast pair, whose command leader knows the numbers of its row. So this replica says what it says there for the
//! first time. Instances at or below it: nothing is voted for, accepted, promised or validated there, ever, before it is
//! known to be committed. The others decide them: a fast pair whose buddy has forgotten its vote is recovered with
//! its command leader, which has a durable record if it has committed (P-E1); a fast quorum of four and more is found by the rest of it.
//! If the command leader has lost its disk, its buddy has its vote.
//!
//! Dependencies: of two instances that interfere, with quorums that meet in this replica, the later one must name
//! the earlier one, which may be forgotten. That one lies at or below the horizon, so everything that this replica votes for or
//! proposes names all numbers up to the horizon in all rows, as it does with its own row after a restart, and with
//! what a snapshot covers. When it is no longer mute it knows all of them: a vote given before is repeated as it was given, so the
//! floor must have been in it. It survives a restart, because the log has all of them, or a snapshot.
//!
//! Own row: numbers above the horizon are new to everybody. What others have dropped because all replicas had executed
//! it, this one too, is in everything proposed since as a dependency, and comes as a snapshot.
//!
//! Whoever was heard to have executed nothing any more holds back what the others collect, until it says more.

use panch_wire::frame::Frame;
use panch_wire::ids::{Position, REPLICAS_MAX, ReplicaId};
use panch_wire::rule::{Rule, holds};

use super::Epaxos;
use super::message::{Progress, Reserved};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects};
use crate::rejoin::Horizon;

impl Epaxos {
    /// The highest numbers that anybody was heard to know.
    pub(super) fn own_horizon(&self) -> Horizon {
        let mut horizon = Horizon { ballot: Ballot::default(), numbers: self.announced };
        for (row, number) in horizon.numbers.iter_mut().enumerate().take(REPLICAS_MAX) {
            *number = (*number).max(self.graph.executed().highest(row as u8));
        }
        let own = &mut horizon.numbers[self.group.me.index()];
        *own = (*own).max(self.next - 1);
        horizon
    }

    /// `peer` has nothing of what it said to have executed.
    pub(super) fn forget_peer(&mut self, peer: ReplicaId) {
        if let Some(member) = self.members.get_mut(peer.index()) {
            member.forget();
        }
    }

    pub(super) fn rejoin_at(&mut self, horizon: &Horizon) {
        self.mute = true;
        let own = horizon.numbers[self.group.me.index()];
        self.reserved = self.reserved.max(own);
        for row in 0..self.group.replica_count {
            let number = horizon.numbers[row];
            self.floor[row] = number;
            self.announced[row] = self.announced[row].max(number);
            self.voted[row] = self.voted[row].max(number);
            self.decided[row] = self.decided[row].max(number);
            if holds(Rule::EpaxosRejoinFloor) {
                self.conflicts.set_floor(row as u8, number);
            }
        }
    }

    /// Claims leave from now on: those to itself and to those that wait for its word are made again.
    pub(super) fn speak(&mut self, effects: &mut Effects<Self>) {
        self.mute = false;
        let point = effects.persist(self.restate_record(), None);
        effects.send_after(point, Dest::One(self.group.me), Reserved { upto: self.reserved }, None);
        let progress = Progress { executed: self.frontier_numbers(), known: self.announced };
        effects.send_after(point, Dest::All, progress, None);
    }

    /// A batch comes by that may not be voted for here: its commit will need it.
    pub(super) fn learn_below_floor(&mut self, position: Position, stamp: u64, body: Option<&Frame>) {
        self.announce(position);
        if let Some(frame) = body {
            self.learn(position, stamp, frame);
        }
    }

    /// Whether an earlier life of this replica may have said something about an instance that is not decided here.
    pub(super) fn is_below_floor(&self, position: Position) -> bool {
        self.floor.get(usize::from(position.row)).is_some_and(|floor| position.number <= *floor)
    }
}
