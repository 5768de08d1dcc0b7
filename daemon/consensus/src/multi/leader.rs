//! Leading: proposing, counting votes, committing, and knowing when to stop (Multi-Paxos: normal operation).
//!
//! Invariants:
//! * Only acknowledgements of the leader's own ballot count (PM2), its own among them only once durable (D10).
//! * The commit index is what a quorum of members acknowledged, cumulatively; it never passes `term.last`.
//! * A leader that a quorum no longer follows, or whose own log stands still, steps down by itself.

use panch_wire::frame::Frame;
use panch_wire::ids::{REPLICAS_MAX, ReplicaId, ReplicaSet, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::catchup::Peer;
use super::message::{Accepted, Commit, Forward, Heartbeat, TransferLeader};
use super::{Multi, Role, Timer};
use crate::protocol::{Dest, Effects, Value};
use crate::quorum::reached_by_quorum;

/// Election timeouts between two attempts to hand leadership to the home replica.
const TRANSFER_PAUSE: u32 = 8;

/// Handing over to another replica: nothing new is proposed meanwhile.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    /// Who should lead.
    to: ReplicaId,
    /// When this replica goes on leading after all.
    until: Instant,
    /// Whether it was asked: that happens once it has everything.
    asked: bool,
}

/// What a leader keeps; of no meaning in other roles.
#[derive(Clone, Default, Debug)]
pub(super) struct Term {
    /// The no-op that marks the start of the term. Once it is chosen, so is everything any earlier leader decided.
    pub(super) start: Slot,
    /// The last slot proposed in this ballot.
    pub(super) last: Slot,
    /// Counts heartbeats.
    pub(super) round: u64,
    /// By replica; the own place is unused.
    pub(super) peers: [Peer; REPLICAS_MAX],
    /// By replica, the own place included: what it acknowledged durably in this ballot.
    matched: [Slot; REPLICAS_MAX],
    /// Acknowledgements counted.
    vote_count: usize,
    /// When the next heartbeat is to leave.
    heartbeat_due: Instant,
    /// When the own log last caught up or made progress.
    pub(super) own_progress: Instant,
    transfer: Option<Transfer>,
    transfer_after: Instant,
}

impl Term {
    /// The acknowledgements of `peer` count no more: it has lost its disk.
    pub(super) fn forget(&mut self, peer: ReplicaId) {
        self.matched[peer.index()] = Slot(0);
    }
}

impl Multi {
    /// The most slots a leader leaves unchosen. Proposers bound themselves; this bounds what they do wrong.
    pub(super) fn unchosen_max(&self) -> u64 {
        (self.group.replica_count * self.tuning.pipeline_depth * 2) as u64
    }

    /// The promises are in: this replica leads, and knows nothing of its peers but what they promised.
    pub(super) fn begin_term(&mut self) {
        self.role = Role::Leader;
        self.leader = Some(self.me());
        self.counters.terms += 1;
        let transfer_after = self.now + 2 * self.tuning.election_timeout;
        let mut term = Term {
            last: self.commit,
            own_progress: self.now,
            transfer_after: self.term.transfer_after.max(transfer_after),
            ..Term::default()
        };
        for peer in self.peers() {
            // What a peer knows beyond that, it compares with what is proposed.
            let acked = self.candidacy.commit_of(peer).unwrap_or(self.commit).min(self.commit);
            term.peers[peer.index()] = Peer::new(acked, self.now);
        }
        self.term = term;
        self.fitness.begin_term();
        self.lease.begin_term();
    }

    /// The values of earlier ballots are proposed again; now the term's own no-op, and the news to everybody.
    pub(super) fn open_term(&mut self, effects: &mut Effects<Self>) {
        self.term.start = self.term.last.next();
        self.append(self.term.start, Value::Noop, effects);
        self.timers.disarm(Timer::Election);
        self.arm_heartbeat();
        effects.repropose();
        for peer in self.peers() {
            self.pump(peer, effects);
        }
    }

    /// Proposes `value` in the next slot, to the own log first; the peers get it by [`Multi::pump`].
    pub(super) fn append(&mut self, slot: Slot, value: Value, effects: &mut Effects<Self>) {
        assert!(slot == self.term.last.next(), "a leader proposes without gaps");
        if self.term.matched[self.me().index()] == self.term.last {
            self.term.own_progress = self.now;
        }
        self.accept(slot, value, effects);
        self.term.last = slot;
        self.advance_accepted();
    }

    pub(super) fn on_propose(&mut self, frame: Frame, effects: &mut Effects<Self>) {
        match self.leader {
            Some(leader) if leader == self.me() => self.propose(frame, effects),
            Some(leader) => effects.send(Dest::One(leader), Forward, Some(&frame)),
            // Asked for again as soon as there is a leader.
            None => {}
        }
    }

    pub(super) fn on_forward(&mut self, body: Option<Frame>, effects: &mut Effects<Self>) {
        if self.role == Role::Leader
            && let Some(frame) = body
        {
            self.propose(frame, effects);
        }
    }

    /// Beyond the bound and during a transfer the batch is dropped; its proposer proposes it again.
    fn propose(&mut self, frame: Frame, effects: &mut Effects<Self>) {
        let unchosen = self.term.last.0 - self.commit.0;
        // Memory for what is not chosen must not take what peers' acknowledgements need to arrive in.
        let too_large =
            unchosen > 0 && self.window.unchosen_size() + frame.footprint() > self.tuning.unchosen_size_max;
        if self.term.transfer.is_some() || unchosen >= self.unchosen_max() || too_large {
            return;
        }
        self.append(self.term.last.next(), Value::Batch(frame), effects);
        for peer in self.peers() {
            self.pump(peer, effects);
        }
    }

    pub(super) fn on_accepted(&mut self, from: ReplicaId, message: Accepted, effects: &mut Effects<Self>) {
        if self.role != Role::Leader {
            return;
        }
        // An old acknowledgement may be of an old value in the same slot. [Multi-Paxos, PM2]
        if message.ballot != self.promised && holds(Rule::AckOwnBallot) {
            return;
        }
        let upto = message.upto.min(self.term.last);
        self.term.vote_count += 1;
        let voter = if holds(Rule::VotePerMember) {
            from.index()
        } else {
            self.term.vote_count % self.group.replica_count
        };
        self.term.matched[voter] = self.term.matched[voter].max(upto);
        if from == self.me() {
            self.term.own_progress = self.now;
        } else {
            self.on_contact(from, effects);
            self.term.peers[from.index()].on_ack(upto);
        }
        self.advance_commit(effects);
        if from != self.me() {
            self.pump(from, effects);
        }
        self.ask_successor(effects);
    }

    fn advance_commit(&mut self, effects: &mut Effects<Self>) {
        let reached = reached_by_quorum(&self.term.matched[..self.group.replica_count]);
        if reached > self.commit {
            self.commit_to(reached, effects);
            self.due.commit = true;
            self.consider_read_round(effects);
        }
    }

    /// Tells what is chosen to the peers that no Accept told; peers that lag learn it with what they lack.
    pub(super) fn send_commits(&mut self, effects: &mut Effects<Self>) {
        let message = Commit { ballot: self.promised, commit: self.commit };
        for id in self.peers() {
            let peer = &mut self.term.peers[id.index()];
            if peer.commit_sent < self.commit && peer.next > self.commit && !peer.paused {
                peer.commit_sent = self.commit;
                effects.send(Dest::One(id), message, None);
            }
        }
    }

    /// Starts a heartbeat round, which confirms the reads that wait now.
    pub(super) fn send_heartbeats(&mut self, effects: &mut Effects<Self>) {
        self.due.round = false;
        self.term.round += 1;
        let lease = self.ask_lease(effects);
        for id in self.peers() {
            let peer = &mut self.term.peers[id.index()];
            peer.commit_sent = self.commit;
            let message = Heartbeat {
                ballot: self.promised,
                round: self.term.round,
                commit: self.commit,
                sent: peer.next.prev(),
                acked: self.term.matched[id.index()],
                lease,
            };
            effects.send(Dest::One(id), message, None);
            self.fitness.ask(id, self.term.round, self.now);
        }
        self.attach_reads(effects);
    }

    pub(super) fn on_heartbeat_time(&mut self, effects: &mut Effects<Self>) {
        self.fitness.on_turn(self.term.heartbeat_due, self.now);
        if !self.has_quorum_contact() {
            self.counters.step_downs += 1;
            self.become_follower(effects);
            return;
        }
        let patience = 2 * self.tuning.election_timeout;
        if self.own_log_lags()
            && self.now.since(self.term.own_progress) >= patience
            && self.group.replica_count > 1
        {
            self.counters.step_downs += 1;
            self.stalled = true;
            self.become_follower(effects);
            return;
        }
        self.send_heartbeats(effects);
        self.fitness.watch_answers(self.now, &self.tuning);
        self.fitness.tell_condition(self.now, &self.tuning, effects);
        self.consider_transfer(effects);
        self.note_commit(effects);
        self.arm_heartbeat();
    }

    fn arm_heartbeat(&mut self) {
        self.term.heartbeat_due = self.now + self.tuning.heartbeat_interval;
        self.timers.arm(Timer::Heartbeat, self.term.heartbeat_due);
    }

    /// Whether something the leader proposed is not durable in its own log.
    pub(super) fn own_log_lags(&self) -> bool {
        self.term.matched[self.me().index()] < self.term.last
    }

    /// Whether another replica is about to be asked to take over, or was.
    pub(super) fn is_transferring(&self) -> bool {
        self.term.transfer.is_some()
    }

    pub(super) fn has_quorum_contact(&self) -> bool {
        let mut contacts = [self.now; REPLICAS_MAX];
        for peer in self.peers() {
            contacts[peer.index()] = self.term.peers[peer.index()].contact;
        }
        let reached = reached_by_quorum(&contacts[..self.group.replica_count]);
        self.now.since(reached) < self.tuning.election_timeout
    }

    /// Hands over to whoever reaches more replicas or has a better disk, or to the home replica: by their homes, leaders of
    /// different groups are spread over the nodes, and return there after a failover.
    fn consider_transfer(&mut self, effects: &mut Effects<Self>) {
        let timeout = self.tuning.election_timeout;
        if let Some(transfer) = self.term.transfer {
            if self.now >= transfer.until {
                self.term.transfer = None;
                effects.repropose();
            }
            return;
        }
        if self.term.start > self.commit {
            return;
        }
        if let Some(to) = self.fitter_replica().or_else(|| self.waiting_home()) {
            self.counters.transfers += 1;
            self.term.transfer = Some(Transfer { to, until: self.now + timeout, asked: false });
            self.term.transfer_after = self.now + TRANSFER_PAUSE * timeout;
            self.ask_successor(effects);
        }
    }

    /// Who should lead instead of this replica.
    fn fitter_replica(&mut self) -> Option<ReplicaId> {
        if !holds(Rule::FittestLeads) {
            return None;
        }
        let mut could_lead = ReplicaSet::default();
        for peer in self.peers().filter(|peer| self.could_lead(*peer)) {
            could_lead.insert(peer);
        }
        self.fitness.successor(self.now, &self.tuning, |id| could_lead.contains(id))
    }

    /// The home replica, if it has been back for a while and leads as well as this one.
    fn waiting_home(&self) -> Option<ReplicaId> {
        let home = self.group.home;
        let peer = &self.term.peers[home.index()];
        let is_back = home != self.me()
            && self.now >= self.term.transfer_after
            && self.now.since(peer.contact_since) >= 2 * self.tuning.election_timeout
            && self.could_lead(home);
        let is_fit = self.fitness.is_as_fit(home, self.now, &self.tuning) || !holds(Rule::FittestLeads);
        (is_back && is_fit).then_some(home)
    }

    /// Whether the replica is here and has everything that is chosen.
    fn could_lead(&self, id: ReplicaId) -> bool {
        let peer = &self.term.peers[id.index()];
        let fresh: Duration = 2 * self.tuning.heartbeat_interval;
        self.now.since(peer.contact) <= fresh
            && self.term.matched[id.index()] >= self.commit
            && !peer.snapshotting
    }

    fn ask_successor(&mut self, effects: &mut Effects<Self>) {
        if let Some(transfer) = &mut self.term.transfer
            && !transfer.asked
            && self.term.matched[transfer.to.index()] == self.term.last
        {
            transfer.asked = true;
            let to = transfer.to;
            // First the lease ends, then the request leaves: the new ballot need not wait for what was granted.
            let released = self.release_lease();
            effects.send(Dest::One(to), TransferLeader { released }, None);
        }
    }
}
