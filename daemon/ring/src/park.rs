//! The protocol between a core that wants to sleep and those who give it work, apart from how it sleeps.
//!
//! ```text
//!   receiver                         sender
//!   parked = true                    push the work
//!   fence                            fence
//!   look for work again              if parked { parked = false; wake }
//!   sleep, if there was none
//!   parked = false
//! ```
//! The two fences make sure that of "parked = true, look" and "push, is it parked?" at least one sees the other: either
//! the receiver finds the work, or the sender finds it parked. Without either fence, or without looking again, a wake-up
//! can be lost; the loom models below show both.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether a core sleeps or is about to.
#[derive(Debug)]
pub(crate) struct ParkFlag(AtomicBool);

/// What a model leaves out, to show that it is needed.
#[cfg(loom)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Without {
    Nothing,
    SenderFence,
    ReceiverFence,
    SecondLook,
}

impl ParkFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Receiver: announces the sleep. Look for work again after this, and only then sleep.
    pub(crate) fn announce(&self) {
        // Swaps, not stores: so every change of the flag reads the one before, and the order of changes is plain to loom
        // too, which does not know that a swap immediately follows what it read. On x86 both are the same instruction.
        self.0.swap(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Receiver: is awake.
    pub(crate) fn withdraw(&self) {
        self.0.swap(false, Ordering::SeqCst);
    }

    /// Sender, after the work is pushed: calls `wake` if the receiver has to be woken and nobody else does it already.
    pub(crate) fn wake_if_parked(&self, wake: impl FnOnce()) {
        fence(Ordering::SeqCst);
        // The load alone is enough for the common case, a receiver that is awake, and leaves its cache line shared.
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::SeqCst) {
            wake();
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;
    use loom::sync::atomic::AtomicUsize;
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// A double of the queue: only what the protocol relies on, a push that releases and an acquiring look at the length.
    /// A mutex would hide the missing fence, because taking it orders everything.
    struct Queue(AtomicUsize);

    /// A double of an eventfd that was made without EFD_NONBLOCK: a read waits for a non-zero count and takes it.
    struct EventCount {
        count: Mutex<u64>,
        changed: Condvar,
    }

    impl EventCount {
        fn write(&self) {
            *self.count.lock().unwrap() += 1;
            self.changed.notify_one();
        }

        fn read(&self) {
            let mut count = self.count.lock().unwrap();
            while *count == 0 {
                count = self.changed.wait(count).unwrap();
            }
            *count = 0;
        }
    }

    struct Core {
        parked: ParkFlag,
        queue: Queue,
        bell: EventCount,
    }

    impl Core {
        fn new() -> Self {
            Self {
                parked: ParkFlag::new(),
                queue: Queue(AtomicUsize::new(0)),
                bell: EventCount { count: Mutex::new(0), changed: Condvar::new() },
            }
        }

        fn send(&self, without: Without) {
            self.queue.0.fetch_add(1, Ordering::Release);
            if without == Without::SenderFence {
                if self.parked.0.load(Ordering::Relaxed) && self.parked.0.swap(false, Ordering::SeqCst) {
                    self.bell.write();
                }
            } else {
                self.parked.wake_if_parked(|| self.bell.write());
            }
        }

        /// The receiver up to the point where it would sleep. True if it would.
        fn prepare(&self, expected: usize, without: Without) -> bool {
            if without == Without::ReceiverFence {
                self.parked.0.swap(true, Ordering::SeqCst);
            } else {
                self.parked.announce();
            }
            without == Without::SecondLook || self.queue.0.load(Ordering::Acquire) < expected
        }
    }

    /// One sender, one receiver that has seen nothing so far: when both are done, a sleeper has been rung for.
    fn explore_one_sleep(without: Without) {
        loom::model(move || {
            let core = Arc::new(Core::new());
            let sender = {
                let core = Arc::clone(&core);
                thread::spawn(move || core.send(without))
            };
            let seen = core.queue.0.load(Ordering::Acquire) == 1;
            let sleeps = !seen && core.prepare(1, without);
            sender.join().unwrap();
            let rung = *core.bell.count.lock().unwrap() > 0;
            assert!(!sleeps || rung, "a wake-up is lost");
        });
    }

    #[test]
    fn loom_no_wake_up_is_lost() {
        explore_one_sleep(Without::Nothing);
    }

    #[test]
    #[should_panic(expected = "a wake-up is lost")]
    fn loom_without_the_senders_fence_a_wake_up_is_lost() {
        explore_one_sleep(Without::SenderFence);
    }

    #[test]
    #[should_panic(expected = "a wake-up is lost")]
    fn loom_without_the_receivers_fence_a_wake_up_is_lost() {
        explore_one_sleep(Without::ReceiverFence);
    }

    #[test]
    #[should_panic(expected = "a wake-up is lost")]
    fn loom_without_the_second_look_a_wake_up_is_lost() {
        explore_one_sleep(Without::SecondLook);
    }

    /// Two senders, and a receiver that sleeps and wakes until it has both parcels. A lost wake-up would be a deadlock, which
    /// loom reports.
    #[test]
    fn loom_a_core_that_sleeps_repeatedly_gets_every_parcel() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let core = Arc::new(Core::new());
            let senders: Vec<_> = (0..2)
                .map(|_| {
                    let core = Arc::clone(&core);
                    thread::spawn(move || core.send(Without::Nothing))
                })
                .collect();
            loop {
                let seen = core.queue.0.load(Ordering::Acquire);
                if seen == 2 {
                    break;
                }
                if core.prepare(seen + 1, Without::Nothing) {
                    core.bell.read();
                }
                core.parked.withdraw();
            }
            for sender in senders {
                sender.join().unwrap();
            }
        });
    }
}
