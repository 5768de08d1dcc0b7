//! Leases: a leader that a quorum promised not to desert answers reads alone (Multi-Paxos: leader lease).
//!
//! A heartbeat asks for a grant of some length. A follower that obeys it *grants*: until that long after the receipt, on its
//! own clock, it promises no ballot to anybody but the leader, itself included. The leader remembers when it *sent* each
//! round, and holds the lease until a little less than that long after the send time of the latest round that a quorum
//! granted, itself among them.
//!
//! Why it is safe: whoever leads next needs a promise of some granter, and gets it only when that grant is over. Let L be
//! the length and r the bound of the clocks' drift. The grant starts after the send time and lasts at least L/(1+r) of
//! true time; the leader counts L(1-r)/(1+r) on its clock from the send time, at most L/(1+r) of true time.
//!
//! What is assumed: between a send and the end of the lease no clock gains or loses more than r, and none stands still while
//! its machine may wake up again and go on (a clock that counts suspended time is needed, and a hypervisor that lets the
//! clock of a paused guest catch up). A leader's clock that jumps ahead or a follower's that stops for good only cost the
//! lease or a grant that lasts longer; a follower's that jumps ahead or a leader's that stops for longer than L r are
//! outside the bound. `now` must be read after the event it comes with arrived.
//!
//! Invariants:
//! * While a grant runs, the replica promises nothing to others and does not stand for election.
//! * A replica that may have granted before a restart promises nothing for a full grant, of its own length or of the longest
//!   that its log says it granted, whichever is longer. [D7]
//! * A follower grants at most the length it would wait for after a restart, and none that its log does not durably name; a
//!   leader counts only grants of what it asked. A shorter length is written down only once the wait is over.
//! * A leader that hands over stops first. Its request names the rounds it gives up; only grants of those may be ended by
//!   the new ballot, whenever its Prepare arrives, and only later rounds count if the leader goes on.
//! * A replica whose own log stands still neither asks nor grants: a lease must not keep a leader that cannot work.

use panch_wire::ids::{REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::rule::{Rule, holds};
use panch_wire::time::{Duration, Instant};

use super::message::{Accepted, LeaseRecord, Logged, Record, Release};
use super::{Multi, Role};
use crate::ballot::Ballot;
use crate::protocol::{Dest, Effects, Persist, Tuning};
use crate::quorum::reached_by_quorum;

/// Rounds whose send time is remembered. Replies to older ones are late or the reader of many rounds; they do not count.
const ROUND_COUNT_MAX: usize = 64;

/// Taken off a lease for what happens between a clock reading and what it is used for.
const SLACK: Duration = Duration::from_millis(5);

const MILLION: u128 = 1_000_000;

/// What a replica promised a leader.
#[derive(Clone, Copy, Default, Debug)]
struct Grant {
    /// The leader's ballot.
    ballot: Ballot,
    /// The last round granted.
    round: u64,
    /// The end, on this replica's clock.
    until: Instant,
}

/// The longest lease that this replica may have granted, as its log says.
#[derive(Clone, Copy, Default, Debug)]
struct Longest {
    /// Written down, perhaps not durably.
    written: Duration,
    /// Durable.
    durable: Duration,
    /// What must be durable for the one to become the other.
    point: Option<Persist>,
}

/// What a replica granted, and what was granted to it.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// Before this no ballot is promised: an earlier life may have granted.
    boot_until: Instant,
    longest: Longest,
    grant: Grant,
    /// Since when an answer of the own log is awaited.
    probe: Option<Instant>,
    /// Leader: send times by round, modulo the length; round 0 is never sent.
    sent: [(u64, Instant); ROUND_COUNT_MAX],
    /// Leader: by replica, the send time of the last round it granted.
    granted: [Option<Instant>; REPLICAS_MAX],
    /// Leader: rounds up to this one count for nothing.
    given_up: u64,
    /// Leader: the end of the lease.
    until: Instant,
}

impl Lease {
    pub(super) fn new() -> Self {
        Self {
            boot_until: Instant(0),
            longest: Longest::default(),
            grant: Grant::default(),
            probe: None,
            sent: [(0, Instant(0)); ROUND_COUNT_MAX],
            granted: [None; REPLICAS_MAX],
            given_up: 0,
            until: Instant(0),
        }
    }

    /// The replica begins its life; `restarted`: it had one before.
    pub(super) fn start(&mut self, tuning: &Tuning, restarted: bool, now: Instant) {
        if restarted && holds(Rule::LeaseBootDelay) {
            let recorded =
                if holds(Rule::LeaseLongestRecorded) { self.longest.durable } else { Duration::ZERO };
            self.boot_until = now + grown(tuning.lease.max(recorded), tuning.clock_drift_ppm);
        }
    }

    /// The log says so.
    pub(super) fn replay(&mut self, record: LeaseRecord) {
        let longest = Duration::from_nanos(record.longest);
        self.longest = Longest { written: longest, durable: longest, point: None };
    }

    /// The record that says so again in a new log segment, if there is anything to say.
    pub(super) fn restated(&self, ballot: Ballot, commit: Slot) -> Option<Record> {
        let longest = self.longest.written.as_nanos() as u64;
        (longest > 0).then_some(Record::Lease(LeaseRecord { ballot, commit, longest }))
    }

    /// The own log is durable up to `point`.
    pub(super) fn on_durable(&mut self, point: Persist) {
        if self.longest.point.take_if(|needed| *needed <= point).is_some() {
            self.longest.durable = self.longest.written;
        }
    }

    /// A term begins: nothing was granted to it.
    pub(super) fn begin_term(&mut self) {
        self.sent = [(0, Instant(0)); ROUND_COUNT_MAX];
        self.granted = [None; REPLICAS_MAX];
        self.given_up = 0;
        self.until = Instant(0);
    }

    /// The own log has answered.
    pub(super) fn on_log_progress(&mut self) {
        self.probe = None;
    }

    fn sent_at(&self, round: u64) -> Option<Instant> {
        let (of_round, at) = self.sent[round as usize % ROUND_COUNT_MAX];
        (of_round == round && round > self.given_up).then_some(at)
    }
}

/// What `length` may take at most on a clock that runs too fast by the drift.
fn grown(length: Duration, drift_ppm: u64) -> Duration {
    let nanos = length.as_nanos() * (MILLION + u128::from(drift_ppm)) / MILLION;
    Duration::from_nanos(nanos.min(u128::from(u64::MAX)) as u64)
}

/// How long after the send time a leader may count on a grant of `length`.
pub(super) fn usable(length: Duration, drift_ppm: u64) -> Duration {
    if !holds(Rule::LeaseDrift) {
        return length;
    }
    let drift = u128::from(drift_ppm).min(MILLION);
    let nanos = length.as_nanos() * (MILLION - drift) / (MILLION + drift);
    Duration::from_nanos(nanos as u64).saturating_sub(SLACK)
}

impl Multi {
    // Granting.

    /// How long this replica may promise nothing to `candidate`; zero: it may.
    pub(super) fn lease_wait(&self, candidate: ReplicaId, released: Release) -> Duration {
        let boot = self.lease.boot_until.since(self.now);
        let grant = self.lease.grant;
        // The leader that stands again has given up what it led by the granted ballot.
        if grant.ballot.owner() == candidate || !holds(Rule::LeaseRefusesOthers) {
            return boot;
        }
        let named = grant.round <= released.round || !holds(Rule::LeaseReleaseNamesRounds);
        if grant.ballot == released.ballot && named {
            return boot;
        }
        boot.max(grant.until.since(self.now))
    }

    /// How long this replica may not stand for election of its own accord.
    pub(super) fn own_lease_wait(&self) -> Duration {
        if holds(Rule::LeaseBindsGranter) {
            self.lease_wait(self.me(), Release::default())
        } else {
            Duration::ZERO
        }
    }

    /// The leader of the promised ballot asks for a grant of `length`; whether it is given.
    pub(super) fn grant_lease(&mut self, round: u64, length: u64, effects: &mut Effects<Self>) -> bool {
        let length = Duration::from_nanos(length);
        // A longer one could not be waited for after a restart. [D7]
        if length.is_zero() || length > self.tuning.lease && holds(Rule::LeaseWithinBootDelay) {
            return false;
        }
        if !self.names_lease(effects) {
            return false;
        }
        let moves = self.own_log_answers(effects);
        if moves || !holds(Rule::LeaseNeedsLog) {
            self.extend_grant(round, length);
        }
        moves || !holds(Rule::LeaseNeedsLog)
    }

    /// Whether the own log durably names the longest lease that this replica grants; if not, that is written down. A restart,
    /// perhaps with a shorter lease configured, waits for what is named. [D7]
    fn names_lease(&mut self, effects: &mut Effects<Self>) -> bool {
        if !holds(Rule::LeaseLongestRecorded) {
            return true;
        }
        let length = self.tuning.lease;
        let written = self.lease.longest.written;
        // What an earlier life granted is over once the wait for it is.
        let may_shrink = self.now >= self.lease.boot_until && self.lease.longest.point.is_none();
        if length > written || length < written && may_shrink {
            let (ballot, commit, longest) = (self.promised, self.commit, length.as_nanos() as u64);
            let point = effects.persist(Record::Lease(LeaseRecord { ballot, commit, longest }), None);
            self.recorded = ballot;
            let longest = &mut self.lease.longest;
            longest.written = length;
            if length > written {
                longest.point = Some(point);
                effects.send_after(point, Dest::One(self.me()), Logged { point: point.0 }, None);
            } else {
                longest.durable = length;
            }
        }
        length <= self.lease.longest.durable
    }

    /// A lease that is longer than what the own log names will be asked for: it is better named now than then.
    pub(super) fn name_lease(&mut self, effects: &mut Effects<Self>) {
        if !self.tuning.lease.is_zero() {
            self.names_lease(effects);
        }
    }

    fn extend_grant(&mut self, round: u64, length: Duration) {
        let grant = &mut self.lease.grant;
        if grant.ballot != self.promised {
            *grant = Grant { ballot: self.promised, ..Grant::default() };
        }
        grant.round = grant.round.max(round);
        grant.until = grant.until.max(self.now + length);
    }

    /// Whether the own log answered lately. Asks it again: what this replica tells itself through the gate comes back once
    /// everything written so far is durable.
    fn own_log_answers(&mut self, effects: &mut Effects<Self>) -> bool {
        let Some(since) = self.lease.probe else {
            self.lease.probe = Some(self.now);
            let accepted = Accepted { ballot: self.promised, upto: self.acknowledged() };
            effects.send_after(effects.last_persist(), Dest::One(self.me()), accepted, None);
            return true;
        };
        self.now.since(since) < self.tuning.lease
    }

    // Holding.

    /// A heartbeat round is sent now: what it asks for, in nanoseconds; 0: nothing. The leader grants it to itself, too.
    pub(super) fn ask_lease(&mut self, effects: &mut Effects<Self>) -> u64 {
        let length = self.tuning.lease;
        let round = self.term.round;
        let log_moves = !self.own_log_lags() || self.now.since(self.term.own_progress) < length;
        if length.is_zero() || self.is_transferring() || !log_moves && holds(Rule::LeaseNeedsLog) {
            return 0;
        }
        if !self.names_lease(effects) {
            return 0;
        }
        self.lease.sent[round as usize % ROUND_COUNT_MAX] = (round, self.now);
        self.extend_grant(round, length);
        length.as_nanos() as u64
    }

    /// `from` granted what round `round` of this term asked for.
    pub(super) fn on_lease_granted(&mut self, from: ReplicaId, round: u64) {
        let Some(mut sent) = self.lease.sent_at(round) else { return };
        if !holds(Rule::LeaseSendTime) {
            sent = self.now;
        }
        let granted = &mut self.lease.granted;
        granted[from.index()] = granted[from.index()].max(Some(sent));
        // Its own grant is as young as any round: it counts, but never decides.
        granted[self.group.me.index()] = Some(self.now);
        if let Some(sent) = reached_by_quorum(&granted[..self.group.replica_count]) {
            self.lease.until = sent + usable(self.tuning.lease, self.tuning.clock_drift_ppm);
        }
    }

    /// Whether no other leader can have decided anything yet, at `now`.
    pub(super) fn holds_lease(&self) -> bool {
        let term_started = self.term.start <= self.commit || !holds(Rule::LeaseAfterTermStart);
        let handing_over = self.is_transferring() && holds(Rule::LeaseEndsAtTransfer);
        // Compared at each read: a check now and then is no lease. [T-M6]
        let valid =
            self.now < self.lease.until || !holds(Rule::LeaseComparedAtRead) && self.lease.until.0 > 0;
        self.role == Role::Leader && term_started && !handing_over && valid
    }

    /// What a leader that hands over gives up: all rounds so far, for good.
    pub(super) fn release_lease(&mut self) -> Release {
        let round = self.term.round;
        if holds(Rule::LeaseEndsAtTransfer) {
            self.lease.given_up = round;
            self.lease.granted = [None; REPLICAS_MAX];
            self.lease.until = Instant(0);
        }
        Release { ballot: self.promised, round }
    }

    /// This replica leads no more: what it granted to itself binds it no longer.
    pub(super) fn drop_own_grant(&mut self) {
        if self.lease.grant.ballot.owner() == self.me() {
            self.lease.grant = Grant::default();
        }
    }
}
