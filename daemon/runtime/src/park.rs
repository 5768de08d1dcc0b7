//! How a core waits: it looks again for a while, then sleeps in its ring.
//!
//! It is the only task of its executor, so nothing else waits for the thread. Sleeping through glommio instead (a read of the ring's eventfd)
//! takes a wake-up through several rings and an eventfd, and nodes were seen that slept there for ever with work waiting for them. One ring
//! needs none of that, and fewer system calls.

use panch_ring::clock;
use panch_wire::time::{Duration, Instant};

use crate::core::{CoreFault, CoreLoop};
use crate::options::Idle;

/// Looking again stops to be tried when fewer than one in this many tries found something.
const FUTILE_RATIO: u32 = 4;
/// How often a core that gave up looking again tries it anew.
const RETRY_EVERY: u32 = 64;
/// A core sleeps no longer than this at a time: a wake-up that is lost all the same costs that much, and not the node.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Decides whether looking again pays: on a CPU of its own it nearly always does under load; on a shared one it takes time
/// from the very process that has the work.
struct Patience {
    idle: Idle,
    budget: Duration,
    /// Recent tries and how many of them found something.
    tried: u32,
    found: u32,
    skipped: u32,
}

impl Patience {
    fn wants_spin(&mut self) -> bool {
        match self.idle {
            Idle::Spin => true,
            Idle::Park => false,
            Idle::SpinThenPark => {
                if self.tried < 16 || self.found * FUTILE_RATIO >= self.tried {
                    return true;
                }
                self.skipped += 1;
                self.skipped.is_multiple_of(RETRY_EVERY)
            }
        }
    }

    fn learn(&mut self, found: bool) {
        self.tried += 1;
        self.found += u32::from(found);
        if self.tried >= 64 {
            self.tried /= 2;
            self.found /= 2;
        }
    }
}

/// Runs `core` until it stops.
///
/// # Errors
/// The first fault that the core cannot go on after.
pub(crate) fn run(core: &mut CoreLoop) -> Result<(), CoreFault> {
    let options = core.view.options.clone();
    let mut patience = Patience { idle: options.idle, budget: options.spin, tried: 0, found: 0, skipped: 0 };
    loop {
        if core.turn()? && !core.stopped {
            if options.idle == Idle::Park {
                // The CPU is shared: let the clients and the other nodes go on, so that the next turn finds more to do
                // at once. One turn of twice the work costs less than two.
                std::thread::yield_now();
            }
            continue;
        }
        if core.stopped {
            return Ok(());
        }
        if patience.wants_spin() {
            let until = clock::now() + patience.budget;
            let found = spin(core, until, options.idle == Idle::Spin);
            patience.learn(found);
            if found {
                continue;
            }
        }
        let now = clock::now();
        if core.deadline().is_some_and(|at| at <= now) || core.has_unsent_parcels() {
            continue;
        }
        core.report(now);
        core.parked();
        let CoreLoop { ring, port, out, data, notes_seen, .. } = core;
        let has_no_note = || data.peers.reminder.rounds() == *notes_seen;
        ring.wait_while(Some(SLEEP_MAX), || port.is_empty() && out.storage.is_quiet() && has_no_note())
            .map_err(CoreFault::Ring)?;
    }
}

/// Looks for work until `until`, or for ever; true if there is some.
fn spin(core: &mut CoreLoop, until: Instant, forever: bool) -> bool {
    loop {
        for _ in 0..16 {
            if core.ring.has_completions() || !core.is_idle() {
                return true;
            }
            std::hint::spin_loop();
        }
        let now = clock::now();
        if core.deadline().is_some_and(|at| at <= now) {
            return true;
        }
        if now >= until && !forever {
            return false;
        }
    }
}
