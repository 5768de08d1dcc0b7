//! How fit the members of a group are to do what is expected of them. For protocols in which somebody relies on others by
//! name: coordinators on the voters of their fast rounds, command leaders on a quorum that they chose.
//!
//! A replica is missed when it does not answer, or when something waits for its vote and it has voted nowhere for much
//! longer than its votes take at their slowest. One whose votes are merely late, because its disk stalls now and then, is
//! not.
//!
//! [`own_log`] is about the own disk, [`answers`] about how quickly turns and answers come, [`condition`] about what replicas tell each
//! other of themselves: whom they reach, and how fast their disks are.
//!
//! Nothing here is relied on for safety.

mod answers;
pub(crate) mod condition;
pub(crate) mod own_log;

pub(crate) use condition::Fitness;

use panch_wire::time::{Duration, Instant};

use crate::protocol::Tuning;

/// A replica that fails again and again is passed over for so long at most.
const AVOIDED_MAX: Duration = Duration::from_secs(60);
/// Whoever has not failed for so many times as long as it was passed over last starts afresh.
const FORGIVEN_AFTER: u32 = 16;
/// An answer counts so much among all of a replica.
const LATENCY_SHARE: u32 = 8;
/// Answers that take so many times those of the quickest replica are too slow.
const SLOWER_MAX: u32 = 3;

/// Votes that come after those of a quorum in more than every so manieth slot are too late.
const LATE_SHARE: u32 = 4;
/// A proposer that leaves more than every so manieth of its own slots open too long is too late.
const LATE_OWN_SHARE: u32 = 2;
/// Judged by so many slots of each proposer, so many times in a row; but one that was late before is known.
const LATE_SLOTS: u32 = 4;
const LATE_TURNS: u32 = 3;
const LATE_AGAIN_TURNS: u32 = 1;

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
    late: Late,
}

/// What fast rounds lately waited for.
#[derive(Clone, Copy, Default, Debug)]
struct Late {
    /// Slots that were decided or given up.
    slot_count: u32,
    /// Slots that had the votes of a quorum, and not its own.
    votes: u32,
    /// Its own slots in which nobody had voted when a quorum had in later ones.
    slots: u32,
    /// The last time that was too often, since when it has been, and how often it was found.
    at: Instant,
    since: Instant,
    turns: u32,
    /// Whether it is relied on for the time being.
    standing: Standing,
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

    /// A fast round had the votes of a quorum, and waits for its own.
    pub(crate) fn owes_vote(&mut self) {
        self.late.votes += 1;
    }

    /// Nobody has voted in a slot of its own, though a quorum has in a later one.
    pub(crate) fn owes_slot(&mut self) {
        self.late.slots += 1;
    }

    /// Once per heartbeat, in which so many slots were decided or given up, of as many proposers as there are replicas: whether they have
    /// waited for it too often for too long.
    pub(crate) fn judge_late(
        &mut self,
        slot_count: u32,
        replica_count: usize,
        now: Instant,
        tuning: &Tuning,
    ) -> bool {
        let (late, proposers) = (&mut self.late, replica_count as u32);
        late.slot_count += slot_count;
        if late.slot_count < LATE_SLOTS * proposers {
            return false;
        }
        let Late { slot_count, votes, slots, .. } = *late;
        (late.slot_count, late.votes, late.slots) = (0, 0, 0);
        let is_late = LATE_SHARE * votes > slot_count || LATE_OWN_SHARE * proposers * slots > slot_count;
        if !is_late {
            late.turns = 0;
            return false;
        }
        // However few commands there are: each of them waits.
        if late.turns == 0 || now.since(late.at) >= AVOIDED_MAX {
            (late.since, late.turns) = (now, 0);
        }
        (late.at, late.turns) = (now, late.turns + 1);
        let is_known = late.standing.has_failed_lately(now);
        let turns = if is_known { LATE_AGAIN_TURNS } else { LATE_TURNS };
        if late.turns < turns || !is_known && now.since(late.since) < tuning.election_timeout {
            return false;
        }
        late.turns = 0;
        true
    }

    /// It is not relied on for a while, longer each time.
    pub(crate) fn pass_over(&mut self, now: Instant, tuning: &Tuning) {
        self.late.standing.fail(now, 2 * tuning.election_timeout);
    }

    /// Whether it is passed over.
    pub(crate) fn is_passed_over(&self, now: Instant) -> bool {
        self.late.standing.is_avoided(now)
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

/// Whether a replica is asked by those that choose among several: not for a while after it was too slow, longer each time. Then one question
/// shows whether it is back.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Standing {
    /// How long its answers take lately; zero: nothing is known.
    latency: Duration,
    avoided_until: Instant,
    /// For how long it was passed over last.
    avoided_for: Duration,
    failed_at: Instant,
}

impl Standing {
    /// How long its answers take lately; `None`: nothing is known.
    pub(crate) fn latency(&self) -> Option<Duration> {
        (self.latency > Duration::ZERO).then_some(self.latency)
    }

    /// Whether others are asked instead.
    pub(crate) fn is_avoided(&self, now: Instant) -> bool {
        now < self.avoided_until
    }

    /// When it was last too slow: what was asked before that does not count again.
    pub(crate) fn failed_at(&self) -> Instant {
        self.failed_at
    }

    /// It is asked now. If that is to show whether it is back, nothing more is asked of it for `patience`.
    pub(crate) fn ask(&mut self, now: Instant, patience: Duration) {
        if self.avoided_for > Duration::ZERO && self.latency == Duration::ZERO {
            self.avoided_until = self.avoided_until.max(now + patience);
        }
    }

    /// It answered in time, after `took`.
    pub(crate) fn on_answer(&mut self, now: Instant, took: Duration) {
        let took = took.max(Duration::from_nanos(1));
        let before = if self.latency == Duration::ZERO { took } else { self.latency };
        self.latency = (before * (LATENCY_SHARE - 1) + took) / LATENCY_SHARE;
        self.avoided_until = self.avoided_until.min(now);
    }

    /// Whether it is much slower than one whose answers take `best`; differences below `least` do not count.
    pub(crate) fn is_slower(&self, best: Duration, least: Duration) -> bool {
        self.latency > SLOWER_MAX * best + least
    }

    /// It was too slow: it is passed over for `least`, or twice as long as the last time.
    pub(crate) fn fail(&mut self, now: Instant, least: Duration) {
        self.fail_for(now, least, AVOIDED_MAX);
    }

    /// The same, for `most` at most.
    pub(crate) fn fail_for(&mut self, now: Instant, least: Duration, most: Duration) {
        let is_forgiven = !self.has_failed_lately(now);
        self.avoided_for =
            if is_forgiven { least } else { (2 * self.avoided_for).clamp(least, most.max(least)) };
        (self.failed_at, self.avoided_until) = (now, now + self.avoided_for);
        self.latency = Duration::ZERO;
    }

    /// Whether the next time it is too slow will be more than the first.
    pub(crate) fn has_failed_lately(&self, now: Instant) -> bool {
        self.avoided_for > Duration::ZERO && now.since(self.failed_at) <= FORGIVEN_AFTER * self.avoided_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_fails_is_passed_over_longer_each_time_and_asked_once_in_between() {
        let (second, instant) = (Duration::from_secs(1), |seconds: u64| Instant(seconds * 1_000_000_000));
        let mut standing = Standing::default();
        let mut at = instant(1000);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(!standing.is_avoided(at));
            standing.ask(at, second);
            standing.fail(at, second);
            assert!(standing.is_avoided(at + second * expected - Duration::from_millis(1)), "{expected} s");
            at = at + second * expected;
        }
        standing.ask(at, second);
        assert!(standing.is_avoided(at), "one question has to be answered first");
        standing.on_answer(at, Duration::from_millis(1));
        assert!(!standing.is_avoided(at));
        standing.fail(at + second * 3600, second);
        assert!(!standing.is_avoided(at + second * 3601), "what was long ago does not count");
    }

    /// Every command waits, a second after the other: how many until the voter is passed over.
    fn late_commands(voter: &mut Voter, now: &mut Instant, every: Duration) -> u32 {
        let tuning = Tuning::default();
        for count in 1..1_000 {
            *now = *now + every;
            voter.owes_vote();
            if voter.judge_late(1, 3, *now, &tuning) {
                voter.pass_over(*now, &tuning);
                return count;
            }
        }
        u32::MAX
    }

    #[test]
    fn a_voter_that_few_commands_wait_for_is_passed_over_too_and_sooner_the_next_time() {
        let second = Duration::from_secs(1);
        let mut voter = Voter::new(Instant(1), None);
        let mut now = Instant(1) + second;
        assert_eq!(late_commands(&mut voter, &mut now, second), 3 * 12);
        assert!(voter.is_passed_over(now + 999 * second / 1000) && !voter.is_passed_over(now + second));
        assert_eq!(late_commands(&mut voter, &mut now, second), 12);
        assert!(voter.is_passed_over(now + 2 * second - Duration::from_millis(1)));
        assert!(!voter.is_passed_over(now + 2 * second), "it is tried again, after twice the time");
        now = now + 3600 * second;
        assert_eq!(late_commands(&mut voter, &mut now, second), 3 * 12, "what was long ago does not count");
    }

    #[test]
    fn whoever_answers_much_later_than_the_quickest_is_slow() {
        let millisecond = Duration::from_millis(1);
        let mut standing = Standing::default();
        assert!(standing.latency().is_none() && !standing.is_slower(millisecond, millisecond));
        standing.on_answer(Instant(1), 4 * millisecond);
        assert!(!standing.is_slower(millisecond, millisecond));
        for _ in 0..30 {
            standing.on_answer(Instant(1), 20 * millisecond);
        }
        assert!(standing.is_slower(millisecond, millisecond));
    }
}
