//! How fit the members of a group are to do what is expected of them. For protocols in which somebody relies on others by
//! name: coordinators on the voters of their fast rounds, command leaders on a quorum that they chose.
//!
//! A replica is missed when it does not answer, or when something waits for its vote and it has voted nowhere for much
//! longer than its votes take at their slowest. One whose votes are merely late, because its disk stalls now and then, is
//! not.
//!
//! [`own_log`] is about the own disk, [`condition`] about what replicas tell each other of themselves: whom they reach, and
//! how fast their disks are.
//!
//! Nothing here is relied on for safety.

pub(crate) mod condition;
pub(crate) mod own_log;

pub(crate) use condition::Fitness;

use panch_wire::time::{Duration, Instant};

use crate::protocol::Tuning;

/// A replica may be silent for so many times as long as it was lately.
const STALLS_MAX: u32 = 3;

/// What is known of one replica that votes for somebody.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Voter {
    /// When it last answered whoever relies on it.
    contact: Option<Instant>,
    /// Since when it does what is expected of it.
    steady_since: Instant,
    /// When a vote of the kind that is waited for last arrived.
    voted: Instant,
    /// When anything last arrived that it had written down before.
    claimed: Instant,
    /// Set while something had to go on for want of its vote and nothing came from it since.
    missed: Option<Miss>,
    /// How long its votes that came after all were lately missed at most; fades.
    stall: Duration,
    /// How long it lately took to answer at once, on average; zero: not known.
    round_trip: Duration,
    /// Since when its disk seems slow.
    slow_since: Option<Instant>,
}

/// Silence of a replica that is waited for.
#[derive(Clone, Copy, Debug)]
struct Miss {
    /// Since when.
    since: Instant,
    /// When it was noticed.
    noticed: Instant,
    /// Perhaps nobody asked it to vote: anything that it writes down shows that it is fit.
    excusable: bool,
}

impl Voter {
    /// A replica that is relied on from now on. `contact`: when it last answered, if it did.
    pub(crate) fn new(now: Instant, contact: Option<Instant>) -> Self {
        Self { contact, steady_since: now, voted: now, ..Self::default() }
    }

    /// Nothing that it owes is waited for yet.
    pub(crate) fn owes_nothing(&mut self, now: Instant) {
        self.voted = now;
        self.missed = None;
    }

    /// It answered. After a silence of `timeout` it has to prove itself again.
    pub(crate) fn on_contact(&mut self, now: Instant, timeout: Duration) {
        if self.contact.is_none_or(|contact| now.since(contact) >= timeout) {
            self.steady_since = now;
        }
        self.contact = Some(now);
    }

    /// It answered after so long what needs no disk.
    pub(crate) fn on_round_trip(&mut self, time: Duration) {
        self.round_trip = if self.round_trip.is_zero() { time } else { (self.round_trip * 7 + time) / 8 };
    }

    /// How long it lately took to answer what needs no disk; zero: not known.
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Its disk seems slow, or not; whether it has seemed so for `wait`.
    pub(crate) fn on_disk(&mut self, is_slow: bool, wait: Duration, now: Instant) -> bool {
        let since = self.slow_since.filter(|_| is_slow).unwrap_or(now);
        self.slow_since = is_slow.then_some(since);
        is_slow && now.since(since) >= wait
    }

    /// It says something that it has written down: its disk works.
    pub(crate) fn on_claim(&mut self, now: Instant) {
        self.claimed = now;
        self.missed.take_if(|missed| missed.excusable);
    }

    /// A vote of the kind that is waited for arrived, late or not.
    pub(crate) fn on_vote(&mut self, now: Instant) {
        self.voted = now;
        if let Some(missed) = self.missed.take() {
            self.stall = self.stall.max(now.since(missed.since));
        }
    }

    /// Something waited for its vote since `since`, and goes on without it. `excusable`: perhaps nobody asked it to vote.
    pub(crate) fn miss(&mut self, now: Instant, since: Instant, excusable: bool) {
        if self.missed.is_none() {
            let since = since.max(if excusable { self.claimed } else { self.voted });
            self.missed = Some(Miss { since, noticed: now, excusable });
        }
    }

    /// It does not do what is expected of it.
    pub(crate) fn fail(&mut self, now: Instant) {
        self.steady_since = now;
    }

    /// How long ago it last answered.
    pub(crate) fn contact_age(&self, now: Instant) -> Duration {
        self.contact.map_or(Duration::MAX, |contact| now.since(contact))
    }

    /// For how long it has done what is expected of it.
    pub(crate) fn steady_time(&self, now: Instant) -> Duration {
        now.since(self.steady_since)
    }

    /// Whether it is missed for longer than its votes take at their slowest. Never in the turn in which it is noticed: if
    /// whoever waits was held up itself, votes wait to be read.
    pub(crate) fn is_silent(&self, now: Instant, tuning: &Tuning) -> bool {
        let silence_max = (STALLS_MAX * self.stall).min(tuning.election_timeout).max(2 * tuning.slow_after);
        self.missed.is_some_and(|missed| missed.noticed < now && now.since(missed.since) >= silence_max)
    }

    /// It is relied on again.
    pub(crate) fn forgive(&mut self) {
        self.missed = None;
    }

    /// Called now and then: what its votes once took counts less and less.
    pub(crate) fn fade(&mut self) {
        self.stall = self.stall * 15 / 16;
    }
}
