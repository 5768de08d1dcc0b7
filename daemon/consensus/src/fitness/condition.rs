//! What replicas tell each other of themselves: whom they hear and reach, and how fast their disks are. Who leads learns from
//! it that somebody else would do better.
//!
//! A link is *two-way* if each end hears the other. A replica that the leader has no such link with is not served while it
//! leads, however healthy it is; so the lead goes to whoever has the most. A leader whose disk hangs, or is much slower than
//! another's, holds up nothing as long as a majority has other disks, but it could not win the next ballot, and what its own
//! clients send goes through its log: the lead goes to a better disk. It goes on, too, if the leader's process gets little time and
//! another does not, and a leader counts no link over which answers come only after half an election.
//!
//! Invariants:
//! * What is told is a hint, and is believed for one election timeout.
//! * Nobody is outdone by one condition: links and averages must be worse for half an election timeout. Only a log that hangs
//!   is not waited for: it has been waited for.
//! * Whoever gave the lead up to somebody quicker and is soon asked in turn keeps it against those that are quicker, longer each time.
//! * Nobody hands over to a replica with fewer links, except that a log that hangs leaves no choice: then to one that
//!   reaches a quorum.

use panch_wire::ids::{REPLICAS_MAX, ReplicaId, ReplicaSet};
use panch_wire::time::{Duration, Instant};
use rkyv::{Archive, Deserialize, Serialize};

use super::answers::{Answers, Turns, is_still_later};
use super::own_log::{OwnLog, SLOW_MIN, hung_after};
use crate::protocol::{Claim, Dest, Effects, Hint, Protocol, Tuning};
use crate::quorum::classic_quorum;

/// A disk is much slower than another if it takes so many times as long.
const SLOWER: u32 = 8;

/// What a replica tells everybody of itself, about once in a heartbeat interval.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Condition {
    /// Whom it heard lately, itself included: bit `i` for replica `i`.
    pub hears: u16,
    /// With whom it has a link both ways, as far as it knows, itself included.
    pub linked: u16,
    /// How long its log takes to make a record durable, in nanoseconds.
    pub log_time: u64,
}

impl Condition {
    fn reaches(self) -> usize {
        self.linked.count_ones() as usize
    }

    fn log_time(self) -> Duration {
        Duration::from_nanos(self.log_time)
    }
}

/// A replica tells itself that its log is durable up to a point of its present life.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Logged {
    /// See [`Persist`](crate::protocol::Persist).
    pub point: u64,
}

/// Whether a disk that takes `time` is much slower than one that takes `other`; zero: nothing is known of that one.
fn is_much_slower(time: Duration, other: Duration) -> bool {
    !other.is_zero() && time >= SLOW_MIN && time >= SLOWER * other
}

/// Whether a disk that takes `time` is still too slow for whoever lost the lead for that: to get it back it must be clearly better.
fn is_still_slower(time: Duration, other: Duration) -> bool {
    !other.is_zero() && time >= SLOW_MIN / 4 && 2 * time >= SLOWER * other
}

fn bit(id: ReplicaId) -> u16 {
    1u16.checked_shl(u32::from(id.0)).unwrap_or(0)
}

/// What a replica knows of its own fitness and of others'.
#[derive(Clone, Debug)]
pub(crate) struct Fitness {
    me: ReplicaId,
    replica_count: usize,
    pub(crate) log: OwnLog,
    /// When each was last heard. All count as heard at the start.
    heard: [Instant; REPLICAS_MAX],
    /// What each last told, and when.
    told: [Option<(Condition, Instant)>; REPLICAS_MAX],
    /// When this replica last told its own condition.
    told_own: Instant,
    /// How each answers this replica while it leads, and how late its own turns come then.
    answers: [Answers; REPLICAS_MAX],
    turns: Turns,
    /// When this replica last looked at answers, as whoever leads does.
    watched: Option<Instant>,
    /// Since when somebody else would lead better.
    outdone_since: Option<Instant>,
    /// Who was last asked to lead instead, and when.
    asked: Option<(ReplicaId, Instant)>,
    /// This replica is not to lead, whatever it reaches.
    disqualified: bool,
    /// Whether all who are here have links with each other, and since when it looks otherwise.
    meshed: bool,
    meshed_since: Option<Instant>,
}

impl Fitness {
    pub(crate) fn new(me: ReplicaId, replica_count: usize) -> Self {
        Self {
            me,
            replica_count,
            log: OwnLog::default(),
            heard: [Instant::default(); REPLICAS_MAX],
            told: [None; REPLICAS_MAX],
            told_own: Instant::default(),
            answers: [Answers::default(); REPLICAS_MAX],
            turns: Turns::default(),
            watched: None,
            outdone_since: None,
            asked: None,
            disqualified: false,
            meshed: true,
            meshed_since: None,
        }
    }

    /// Life begins.
    pub(crate) fn start(&mut self, now: Instant) {
        self.heard = [now; REPLICAS_MAX];
        self.told_own = now;
    }

    /// From now on this replica tells that it reaches nobody: nobody hands over to it.
    pub(crate) fn disqualify(&mut self) {
        self.disqualified = true;
    }

    /// A message of `from` arrived.
    pub(crate) fn hear(&mut self, from: ReplicaId, now: Instant) {
        self.heard[from.index()] = now;
    }

    /// This replica begins to lead.
    pub(crate) fn begin_term(&mut self) {
        self.answers.iter_mut().for_each(Answers::begin);
        self.turns.begin();
    }

    /// Who leads asks this replica to lead instead, and it will try.
    pub(crate) fn on_asked(&mut self, now: Instant, tuning: &Tuning) {
        self.turns.on_asked(now, tuning);
    }

    /// While this replica leads: heartbeat `number` leaves for `to`.
    pub(crate) fn ask(&mut self, to: ReplicaId, number: u64, now: Instant) {
        self.answers[to.index()].ask(number, now);
    }

    /// While this replica leads: `from` answered heartbeat `number`.
    pub(crate) fn on_answer(&mut self, from: ReplicaId, number: u64, now: Instant) {
        self.answers[from.index()].on_answer(number, now);
    }

    /// While this replica leads: a turn came that was to come at `due`.
    pub(crate) fn on_turn(&mut self, due: Instant, now: Instant) {
        self.turns.on_turn(due, now);
    }

    /// While this replica leads, once per heartbeat: looks for links that are no good. A slow disk keeps nobody from answering, and a peer
    /// that catches up is sent no more at once than it can take in.
    pub(crate) fn watch_answers(&mut self, now: Instant, tuning: &Tuning) {
        self.watched = Some(now);
        for peer in self.peers() {
            if self.is_two_way(peer, now, tuning) {
                self.answers[peer.index()].watch(now, tuning);
            } else {
                // It does not answer at all, which is known.
                self.answers[peer.index()].begin();
            }
        }
    }

    /// Whether each hears the other, however late.
    fn is_two_way(&self, peer: ReplicaId, now: Instant, tuning: &Tuning) -> bool {
        now.since(self.heard[peer.index()]) < tuning.election_timeout
            && self.condition(peer, now, tuning).is_some_and(|told| told.hears & bit(self.me) != 0)
    }

    /// Whether the link to `peer` is no good although each hears the other: this replica has found that while it led, not long ago, or whoever
    /// leads now finds the same, and everybody else who has led.
    fn is_left_out(&self, peer: ReplicaId, now: Instant, tuning: &Tuning) -> bool {
        let standing = &self.answers[peer.index()].standing;
        if standing.is_avoided(now) {
            return true;
        }
        let is_leading = self.watched.is_some_and(|at| now.since(at) < 2 * tuning.heartbeat_interval);
        if is_leading || standing.failed_at() == Instant::default() {
            return false;
        }
        let others = self.peers().filter(|other| *other != peer);
        let mut told = others.filter_map(|other| self.condition(other, now, tuning)).peekable();
        told.peek().is_some() && told.all(|told| told.hears & !told.linked & bit(peer) != 0)
    }

    /// `from` told its condition.
    pub(crate) fn on_condition(&mut self, from: ReplicaId, condition: Condition, now: Instant) {
        self.told[from.index()] = Some((condition, now));
    }

    /// At the end of a turn: sees now and then how long the own log takes.
    pub(crate) fn ask_own_log<P: Protocol>(&mut self, now: Instant, tuning: &Tuning, effects: &mut Effects<P>)
    where
        Logged: Claim<P>,
    {
        let written = effects.last_persist();
        if self.replica_count > 1 && self.log.asks(written, now, tuning) {
            effects.send_after(written, Dest::One(self.me), Logged { point: written.0 }, None);
        }
    }

    /// Tells the others now and then whom this replica reaches and how fast its disk is.
    pub(crate) fn tell_condition<P: Protocol>(
        &mut self,
        now: Instant,
        tuning: &Tuning,
        effects: &mut Effects<P>,
    ) where
        Condition: Hint<P>,
    {
        if let Some(condition) = self.tell(now, tuning) {
            effects.send(Dest::Others, condition, None);
        }
    }

    /// The own condition, if it is time to tell it.
    pub(crate) fn tell(&mut self, now: Instant, tuning: &Tuning) -> Option<Condition> {
        let is_due = now.since(self.told_own) >= tuning.heartbeat_interval / 2;
        is_due.then(|| {
            self.told_own = now;
            let own = self.own(now, tuning);
            Condition { linked: if self.disqualified { 0 } else { own.linked }, ..own }
        })
    }

    fn peers(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.me;
        ReplicaSet::first(self.replica_count).iter().filter(move |peer| *peer != me)
    }

    /// What `id` told lately.
    fn condition(&self, id: ReplicaId, now: Instant, tuning: &Tuning) -> Option<Condition> {
        let lately = |(_, at): &(Condition, Instant)| now.since(*at) < tuning.election_timeout;
        self.told[id.index()].filter(lately).map(|(condition, _)| condition)
    }

    fn own(&self, now: Instant, tuning: &Tuning) -> Condition {
        let mut own = Condition { hears: bit(self.me), linked: bit(self.me), ..Condition::default() };
        for peer in self.peers() {
            if now.since(self.heard[peer.index()]) >= tuning.election_timeout {
                continue;
            }
            own.hears |= bit(peer);
            if self.is_two_way(peer, now, tuning) && !self.is_left_out(peer, now, tuning) {
                own.linked |= bit(peer);
            }
        }
        own.log_time = self.log.time(now).as_nanos() as u64;
        own
    }

    /// Who should lead instead of this replica, out of those who `can`. Asked at every heartbeat; after an answer the next
    /// one takes a while.
    pub(crate) fn successor(
        &mut self,
        now: Instant,
        tuning: &Tuning,
        can: impl Fn(ReplicaId) -> bool,
    ) -> Option<ReplicaId> {
        let own = self.own(now, tuning);
        let is_hung = self.log.is_hung(now, tuning);
        let quorum = classic_quorum(self.replica_count);
        let asked = self.asked.map(|(id, _)| id);
        let rank = |id: ReplicaId| {
            let other = self.condition(id, now, tuning).filter(|_| can(id))?;
            let is_better = if is_hung {
                other.reaches() >= quorum
            } else {
                let is_quicker = self.turns.may_give_up(now) && self.is_quicker(id, other, own);
                other.reaches() > own.reaches() || other.reaches() == own.reaches() && is_quicker
            };
            let stands_still = other.log_time() >= hung_after(tuning);
            let rank = (asked != Some(id), other.reaches(), std::cmp::Reverse(other.log_time), id);
            (is_better && !stands_still).then_some(rank)
        };
        let Some((_, reaches, _, best)) = self.peers().filter_map(rank).max() else {
            self.outdone_since = None;
            return None;
        };
        let since = *self.outdone_since.get_or_insert(now);
        let is_certain = is_hung || now.since(since) >= tuning.election_timeout / 2;
        let was_asked = self.asked.is_some_and(|(_, at)| now.since(at) < tuning.election_timeout);
        if !is_certain || was_asked {
            return None;
        }
        self.asked = Some((best, now));
        if !is_hung && reaches == own.reaches() {
            self.turns.give_up(now);
        }
        Some(best)
    }

    /// Whether `id`, that told `other`, has a much better disk than this replica, or much more time. The two are not told apart: a process
    /// that gets little time sees late what its disk has done, too.
    fn is_quicker(&self, id: ReplicaId, other: Condition, own: Condition) -> bool {
        is_much_slower(own.log_time(), other.log_time())
            || self.turns.are_later(self.answers[id.index()].lateness())
    }

    /// Whether `id` would lead as well as this replica does.
    pub(crate) fn is_as_fit(&self, id: ReplicaId, now: Instant, tuning: &Tuning) -> bool {
        let own = self.own(now, tuning);
        // A network that is late now and then is so for all of them.
        let others = self.peers().filter(|other| *other != id);
        let usual = others.map(|other| self.answers[other.index()].lateness()).max();
        let usual = usual.unwrap_or_default().max(self.turns.lateness());
        self.condition(id, now, tuning).is_some_and(|other| {
            other.reaches() >= own.reaches()
                && other.log_time() < hung_after(tuning)
                && !is_still_slower(other.log_time(), own.log_time())
                && !is_still_later(self.answers[id.index()].lateness(), usual)
        })
    }

    /// Whether the disk of `id` is much slower than those of a majority, by more than `spare`.
    pub(crate) fn is_slow(&self, id: ReplicaId, spare: Duration, now: Instant, tuning: &Tuning) -> bool {
        let mut times = [None; REPLICAS_MAX];
        for replica in ReplicaSet::first(self.replica_count).iter() {
            let told = self.condition(replica, now, tuning).map(Condition::log_time);
            times[replica.index()] = if replica == self.me { Some(self.log.time(now)) } else { told };
        }
        let Some(time) = times[id.index()] else { return false };
        let mut known: [_; REPLICAS_MAX] = times.map(|time| time.unwrap_or(Duration::MAX));
        known[..self.replica_count].sort_unstable();
        let majority = known[classic_quorum(self.replica_count) - 1];
        majority < time && is_much_slower(time, majority) && time - majority >= spare
    }

    /// Looks whether all who are here have links with each other. What it looks like must last, before it counts as changed: for an
    /// election timeout for the worse, for `settling` for the better.
    pub(crate) fn watch_links(&mut self, settling: Duration, now: Instant, tuning: &Tuning) {
        let here = self.own(now, tuning).hears;
        let has_all = |id: ReplicaId| {
            // Who has told nothing yet is not suspected.
            self.condition(id, now, tuning).is_none_or(|told| told.linked & here == here)
        };
        let all = self.peers().filter(|peer| here & bit(*peer) != 0).all(has_all);
        if all == self.meshed {
            self.meshed_since = None;
            return;
        }
        let since = *self.meshed_since.get_or_insert(now);
        let wait = if self.meshed { tuning.election_timeout } else { settling };
        if now.since(since) >= wait {
            self.meshed = all;
            self.meshed_since = None;
        }
    }

    /// Whether all who are here have links with each other, as far as [`Fitness::watch_links`] saw.
    pub(crate) fn is_meshed(&self) -> bool {
        self.meshed
    }
}
