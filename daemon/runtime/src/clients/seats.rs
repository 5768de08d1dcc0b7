//! How many clients a node serves, on whichever of its cores.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The connections of clients that a node may have.
pub(crate) struct Seats {
    count_max: usize,
    taken: AtomicUsize,
}

impl Seats {
    /// So many.
    pub(crate) fn new(count_max: usize) -> Self {
        Self { count_max, taken: AtomicUsize::new(0) }
    }

    /// Takes one; false if there is none.
    pub(crate) fn take(&self) -> bool {
        let next = |taken: usize| (taken < self.count_max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// One that was taken is free again.
    pub(crate) fn give_back(&self) {
        let before = self.taken.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "only what was taken is given back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_share_them() {
        let seats = Seats::new(1000);
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..600).filter(|_| seats.take()).count();
            let threads = [scope.spawn(take), scope.spawn(take)];
            threads.into_iter().map(|thread| thread.join().expect("it counts")).sum()
        });
        assert_eq!((taken, seats.take()), (1000, false));
        seats.give_back();
        assert!(seats.take() && !seats.take());
    }
}
