//! How quickly things happen at whoever leads, and at those that answer it.
//!
//! [`Answers`]: how long a peer takes to answer heartbeats, as the leader sees it. A link that is too narrow for what has to go through it
//! lets messages through later and later. A process that gets little time answers now at once and now late.
//!
//! [`Turns`]: how late a leader's own turns come. One whose process gets little time is woken later than it wanted.

use panch_wire::time::{Duration, Instant};

use super::Standing;
use crate::protocol::Tuning;

/// The part of one answer, or of one turn, in the average.
const WEIGHT: u32 = 8;
/// The shortest time is forgotten by this part at each answer.
const BEST_FADES: u32 = 64;
/// One turn counts as no more late than so many times the average, or than [`TURN_MIN`].
const OUTLIER: u32 = 4;
const TURN_MIN: Duration = Duration::from_millis(4);
/// Turns that are later than this may be too late: less happens on any machine that has other things to do.
const LATE_MIN: Duration = Duration::from_millis(10);
/// They are, if they are so many times as late as those of others.
const LATER: u32 = 4;
/// Whoever is left out is for so many election timeouts, and longer each time, up to so long.
const LEFT_OUT: u32 = 64;
const LEFT_OUT_MAX: Duration = Duration::from_secs(600);

/// Whether a replica that is late by `time` is still too slow to be given the lead back by one that is late by `other`: for that it must be
/// clearly better than what it lost the lead for.
pub(super) fn is_still_later(time: Duration, other: Duration) -> bool {
    time >= LATE_MIN / 4 && time >= LATER * other
}

/// What a leader knows of one peer's answers.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Answers {
    /// The question that is being timed.
    asked: Option<(u64, Instant)>,
    /// What the last answer took.
    last: Duration,
    /// What they lately took on average, and at least. Zero: not known.
    average: Duration,
    best: Duration,
    /// Since when answers take as long as an election.
    late_since: Option<Instant>,
    /// Whether the link is said to be no good.
    pub(super) standing: Standing,
}

impl Answers {
    /// The leader begins to lead: nothing is known but who was left out.
    pub(super) fn begin(&mut self) {
        *self = Self { standing: self.standing, ..Self::default() };
    }

    /// Question `number` leaves.
    pub(super) fn ask(&mut self, number: u64, now: Instant) {
        self.asked.get_or_insert((number, now));
    }

    /// Question `number` was answered.
    pub(super) fn on_answer(&mut self, number: u64, now: Instant) {
        let Some((_, since)) = self.asked.take_if(|(asked, _)| *asked <= number) else { return };
        let took = now.since(since).max(Duration::from_nanos(1));
        let is_first = self.average.is_zero();
        self.last = took;
        self.average = if is_first { took } else { (self.average * (WEIGHT - 1) + took) / WEIGHT };
        self.best =
            if is_first || took < self.best { took } else { self.best + (took - self.best) / BEST_FADES };
    }

    /// How much longer than at its quickest the peer takes on average.
    pub(super) fn lateness(&self) -> Duration {
        self.average.saturating_sub(self.best)
    }

    /// Looks whether the peer answers, but so late that who waits for it is as good as cut off.
    pub(super) fn watch(&mut self, now: Instant, tuning: &Tuning) {
        let age = self.asked.map_or(Duration::ZERO, |(_, since)| now.since(since));
        if age.max(self.last) < tuning.election_timeout / 2 {
            self.late_since = None;
            return;
        }
        let since = *self.late_since.get_or_insert(now);
        if now.since(since) >= tuning.election_timeout && !self.standing.is_avoided(now) {
            self.standing.fail_for(now, LEFT_OUT * tuning.election_timeout, LEFT_OUT_MAX);
        }
    }
}

/// How late the own turns come, and whether it has helped that others led instead.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Turns {
    average: Duration,
    /// When this replica last asked another to lead because that one is quicker.
    gave_up: Option<Instant>,
    /// Whether that helps, as far as is known: not if this replica is asked in turn soon.
    helps: Standing,
}

impl Turns {
    /// The replica begins to lead.
    pub(super) fn begin(&mut self) {
        self.average = Duration::ZERO;
    }

    /// Who leads asks this replica to. If it was too slow for that itself not long ago, then whoever led in its place was no quicker, most
    /// likely because it is leading that takes the time: the lead would go round and round.
    pub(super) fn on_asked(&mut self, now: Instant, tuning: &Tuning) {
        let least = LEFT_OUT * tuning.election_timeout;
        if self.gave_up.take().is_some_and(|at| now.since(at) < least) {
            self.helps.fail_for(now, least, LEFT_OUT_MAX);
        }
    }

    /// Somebody else is asked to lead, because it is quicker.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.gave_up = Some(now);
    }

    /// Whether that may help.
    pub(super) fn may_give_up(&self, now: Instant) -> bool {
        !self.helps.is_avoided(now)
    }

    /// Whether somebody else who is late by `other` would have much more time to lead.
    pub(super) fn are_later(&self, other: Duration) -> bool {
        self.average >= LATE_MIN && self.average >= LATER * other
    }

    /// A turn that was to come at `due` came.
    pub(super) fn on_turn(&mut self, due: Instant, now: Instant) {
        let late = now.since(due).min(TURN_MIN.max(OUTLIER * self.average));
        self.average = (self.average * (WEIGHT - 1) + late) / WEIGHT;
    }

    /// How late they are on average.
    pub(super) fn lateness(&self) -> Duration {
        self.average
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn answers_that_take_as_long_as_an_election_count_only_if_that_lasts() {
        let tuning = Tuning::default();
        let mut answers = Answers::default();
        let mut now = Instant(1);
        for round in 1..=30 {
            answers.ask(round, now);
            let took = if round == 10 { ms(400) } else { ms(5) };
            now = now + took;
            answers.on_answer(round, now);
            answers.watch(now, &tuning);
            now = now + ms(100);
        }
        assert!(!answers.standing.is_avoided(now), "one late answer");
        for round in 31..=40 {
            answers.ask(round, now);
            now = now + ms(300);
            answers.watch(now, &tuning);
            answers.on_answer(round, now);
        }
        assert!(answers.standing.is_avoided(now));
    }

    #[test]
    fn a_process_that_gets_little_time_is_told_from_a_long_way() {
        let (mut far, mut slow) = (Answers::default(), Answers::default());
        let mut now = Instant(1);
        for round in 1..=50 {
            far.ask(round, now);
            slow.ask(round, now);
            far.on_answer(round, now + ms(100));
            slow.on_answer(round, now + ms(1 + 9 * (round % 6)));
            now = now + ms(100);
        }
        assert!(far.lateness() < ms(1) && slow.lateness() >= LATE_MIN, "{far:?} {slow:?}");
    }

    #[test]
    fn turns_that_come_late_show_after_some_and_one_does_not() {
        let mut turns = Turns::default();
        turns.on_turn(Instant(1), Instant(1) + ms(2_000));
        assert!(turns.lateness() < LATE_MIN);
        let now = Instant(1) + ms(22);
        for _ in 0..20 {
            turns.on_turn(Instant(1), now);
        }
        assert!(turns.are_later(ms(1)), "{turns:?}");
        assert!(!turns.are_later(ms(10)), "others are as late");
    }

    #[test]
    fn whoever_is_asked_again_soon_keeps_the_lead_longer_each_time_however_late_its_turns_are() {
        let tuning = Tuning::default();
        let mut turns = Turns::default();
        let mut now = Instant(1_000_000_000_000);
        for kept in [0, 32, 64, 128, 256, 512, 600, 600] {
            turns.on_asked(now, &tuning);
            turns.begin();
            let since = now;
            while !turns.are_later(ms(1)) || !turns.may_give_up(now) {
                turns.on_turn(now, now + ms(22));
                now = now + ms(100);
            }
            let time = now.since(since);
            assert!(
                time >= ms(kept * 1000) && time < ms(kept * 1000 + 5_000),
                "{time:?} instead of {kept} s"
            );
            turns.give_up(now);
            now = now + ms(5_000);
        }
    }

    #[test]
    fn who_is_elected_after_a_failure_may_give_the_lead_up_again() {
        let mut turns = Turns::default();
        let now = Instant(1_000_000_000_000);
        turns.give_up(now);
        turns.begin();
        assert!(turns.may_give_up(now + ms(1_000)));
    }
}
