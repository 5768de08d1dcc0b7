//! Timers: one optional deadline per kind, in an array.
//!
//! Arming replaces, disarming forgets; the next deadline is the least. No heap, no cancellation tokens.

use std::marker::PhantomData;

use panch_wire::time::Instant;

/// What a timer is for: an enum whose variants number themselves.
pub trait TimerKind: Copy {
    /// Position in the array, below the `COUNT` of [`Timers`].
    fn index(self) -> usize;
}

/// `COUNT` timers, each armed for one time or not at all.
#[derive(Clone, Debug)]
pub struct Timers<Kind, const COUNT: usize> {
    at: [Option<Instant>; COUNT],
    kind: PhantomData<Kind>,
}

impl<Kind: TimerKind, const COUNT: usize> Default for Timers<Kind, COUNT> {
    fn default() -> Self {
        Self { at: [None; COUNT], kind: PhantomData }
    }
}

impl<Kind: TimerKind, const COUNT: usize> Timers<Kind, COUNT> {
    /// The timer will fire at `at`, and no longer at the time it was armed for before.
    pub fn arm(&mut self, kind: Kind, at: Instant) {
        self.at[kind.index()] = Some(at);
    }

    /// The timer will not fire.
    pub fn disarm(&mut self, kind: Kind) {
        self.at[kind.index()] = None;
    }

    /// Whether the timer is armed, due or not.
    pub fn is_armed(&self, kind: Kind) -> bool {
        self.at[kind.index()].is_some()
    }

    /// Whether the timer is due at `now`; if so it is disarmed.
    pub fn fires(&mut self, kind: Kind, now: Instant) -> bool {
        self.at[kind.index()].take_if(|at| *at <= now).is_some()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.at.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Kind {
        First,
        Second,
    }

    impl TimerKind for Kind {
        fn index(self) -> usize {
            self as usize
        }
    }

    #[test]
    fn the_next_deadline_is_the_least_and_fires_once() {
        let mut timers = Timers::<Kind, 2>::default();
        assert_eq!(timers.next(), None);
        timers.arm(Kind::First, Instant(30));
        timers.arm(Kind::Second, Instant(20));
        assert_eq!(timers.next(), Some(Instant(20)));
        assert!(!timers.fires(Kind::First, Instant(29)));
        assert!(timers.fires(Kind::Second, Instant(29)));
        assert!(!timers.fires(Kind::Second, Instant(99)));
        assert_eq!(timers.next(), Some(Instant(30)));
        timers.arm(Kind::First, Instant(50));
        assert!(timers.is_armed(Kind::First) && !timers.is_armed(Kind::Second));
        assert!(!timers.fires(Kind::First, Instant(40)));
        timers.disarm(Kind::First);
        assert_eq!(timers.next(), None);
    }
}
