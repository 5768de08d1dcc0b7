//! Every schedule of a small group, one after the other: a bounded exhaustive search over the same state machines that
//! the daemon runs.
//!
//! A state is the replicas with their logs and the messages on their way. From each state the search tries everything
//! that can happen next: a proposal, any message, a deadline, a write that becomes durable, a crash that loses any part of
//! what is not durable. States seen before are not searched again. After every step it checks:
//!
//! * No position is decided twice with different values, and nothing is decided that was not proposed.
//! * In a log values are executed in the order of their slots; in a graph a batch is decided once.
//! * What must be ordered is executed in the same order everywhere, over all lives of the replicas.
//! * What was executed before a batch was proposed is executed before it.
//! * What the caller checks, and the protocol's own invariants.
//!
//! Breadth first: the first violation found is among the shortest.

mod fingerprint;
mod history;
mod replica;
#[cfg(test)]
mod tests;
mod world;

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hashbrown::HashSet;
use panch_wire::frame::Frame;
use panch_wire::ids::{ReplicaId, ReplicaSet};

use crate::protocol::{Protocol, Tuning};

pub use world::{Packet, World};

/// How often things may happen in one schedule, and how far the search goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Steps in a schedule.
    pub depth: usize,
    /// States looked at.
    pub states: usize,
    /// Deadlines that fire.
    pub deadlines: u8,
    /// Crashes, each followed by a restart.
    pub crashes: u8,
    /// Messages that arrive once more than they were sent.
    pub duplicates: u8,
    /// Times that a replica suspects another.
    pub suspicions: u8,
}

impl Default for Bounds {
    /// Messages only, in any order, any of them lost.
    fn default() -> Self {
        Self { depth: usize::MAX, states: 1_000_000, deadlines: 0, crashes: 0, duplicates: 0, suspicions: 0 }
    }
}

/// What is searched.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Replicas of the group.
    pub replica_count: usize,
    /// The replica that leads by preference.
    pub home: ReplicaId,
    /// The protocol's knobs.
    pub tuning: Tuning,
    /// Seed of the protocols' random numbers.
    pub seed: u64,
    /// The batches that may be proposed, each at any time but those of one replica in this order; at most 16.
    pub proposals: Vec<(ReplicaId, Frame)>,
    /// Whether a write becomes durable some time after it was asked for, or at once.
    pub syncs: bool,
    /// Whose deadlines may fire.
    pub timing_out: ReplicaSet,
    /// Who may crash.
    pub crashing: ReplicaSet,
    /// From and to whom nothing arrives.
    pub cut: Vec<(ReplicaId, ReplicaId)>,
    /// How far.
    pub bounds: Bounds,
}

impl Setup {
    /// Everything may happen to everybody, within the default bounds.
    pub fn new(replica_count: usize, proposals: Vec<(ReplicaId, Frame)>) -> Self {
        Self {
            replica_count,
            home: ReplicaId(0),
            tuning: Tuning::default(),
            seed: 1,
            proposals,
            syncs: false,
            timing_out: ReplicaSet::first(replica_count),
            crashing: ReplicaSet::first(replica_count),
            cut: Vec::new(),
            bounds: Bounds::default(),
        }
    }
}

/// Something that can happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The proposal of this number is made.
    Propose(usize),
    /// A message arrives.
    Deliver {
        /// Which, in the order of [`World::packets`].
        index: usize,
        /// Whether it stays on its way, to arrive again.
        again: bool,
    },
    /// The replica's clock reaches its deadline.
    Deadline(ReplicaId),
    /// The first replica suspects the second.
    Suspect(ReplicaId, ReplicaId),
    /// Everything that the replica wrote is durable.
    Sync(ReplicaId),
    /// The replica crashes and starts again.
    Crash {
        /// Which.
        replica: ReplicaId,
        /// How many records survive that were not known to be durable.
        kept: usize,
    },
}

/// A check that failed, and the schedule that leads there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// What is wrong.
    pub text: String,
    /// What happened, in order, from the state where the search began.
    pub schedule: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        let mut steps = self.schedule.iter().enumerate();
        steps.try_for_each(|(index, step)| writeln!(f, "{:3}. {step}", index + 1))
    }
}

/// How far a search has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Different states found.
    pub state_count: usize,
    /// Steps tried.
    pub step_count: usize,
    /// Steps from the beginning to the states looked at now.
    pub depth: usize,
    /// States found and not looked at yet.
    pub open_count: usize,
}

/// What a search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How far it came.
    pub progress: Progress,
    /// Whether every schedule within the bounds on what happens was tried: neither depth nor states ran out.
    pub is_complete: bool,
    /// The first violation.
    pub violation: Option<Violation>,
}

/// Performs an action and all checks. A panic of the protocol is a failed check of its own.
fn perform<P: Protocol + Clone + fmt::Debug>(
    setup: &Setup,
    world: &mut World<P>,
    action: Action,
    check: &dyn Fn(&World<P>) -> Result<(), String>,
) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(|| world.perform(setup, action).and_then(|()| check(world)))) {
        Ok(outcome) => outcome,
        Err(cause) => {
            let text = cause.downcast_ref::<String>().cloned();
            Err(text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned())))
        }
        .map_err(|text| text.unwrap_or_else(|| "the protocol panicked".to_owned())),
    }
}

/// Searches from `start`, usually [`World::new`] or what a few scripted actions made of it. `check` is asked after every
/// step. `report` is called now and then; the search ends when it answers false.
pub fn explore<P: Protocol + Clone + fmt::Debug>(
    setup: &Setup,
    start: &World<P>,
    check: &dyn Fn(&World<P>) -> Result<(), String>,
    report: &mut dyn FnMut(&Progress) -> bool,
) -> Outcome {
    /// Steps between two reports.
    const REPORT_STEPS: usize = 1 << 16;
    let mut seen = HashSet::with_hasher(FirstWord);
    seen.insert(start.fingerprint());
    // How each state was found: from which state, by which action.
    let mut found: Vec<(usize, Action)> = vec![(0, Action::Sync(ReplicaId(0)))];
    let mut open = VecDeque::from([(0, 0, start.clone())]);
    let mut progress = Progress { state_count: 1, ..Progress::default() };
    let mut is_complete = true;
    let mut actions = Vec::new();
    while let Some((origin, depth, world)) = open.pop_front() {
        progress.depth = depth;
        if depth >= setup.bounds.depth {
            is_complete = false;
            break;
        }
        actions.clear();
        world.actions(setup, &mut actions);
        for action in actions.iter().copied() {
            let mut next = world.clone();
            progress.step_count += 1;
            if let Err(text) = perform(setup, &mut next, action, check) {
                let schedule = schedule(setup, start, &found, origin, action);
                let violation = Some(Violation { text, schedule });
                return Outcome { progress, is_complete: false, violation };
            }
            if seen.insert(next.fingerprint()) {
                found.push((origin, action));
                open.push_back((found.len() - 1, depth + 1, next));
            }
            if progress.step_count.is_multiple_of(REPORT_STEPS) {
                (progress.state_count, progress.open_count) = (found.len(), open.len());
                if !report(&progress) {
                    return Outcome { progress, is_complete: false, violation: None };
                }
            }
        }
        (progress.state_count, progress.open_count) = (found.len(), open.len());
        if found.len() >= setup.bounds.states && !open.is_empty() {
            is_complete = false;
            break;
        }
    }
    Outcome { progress, is_complete, violation: None }
}

/// What happened on the way to the state `origin` and then by `last`.
fn schedule<P: Protocol + Clone + fmt::Debug>(
    setup: &Setup,
    start: &World<P>,
    found: &[(usize, Action)],
    origin: usize,
    last: Action,
) -> Vec<String> {
    let mut actions = vec![last];
    let mut at = origin;
    while at != 0 {
        let (origin, action) = found[at];
        actions.push(action);
        at = origin;
    }
    let mut world = start.clone();
    let mut texts = Vec::new();
    for action in actions.into_iter().rev() {
        texts.push(world.describe(action));
        // The last one fails, as it did before.
        let _ = perform(setup, &mut world, action, &|_| Ok(()));
    }
    texts
}

/// Fingerprints are spread already.
#[derive(Clone, Copy, Default)]
struct FirstWord;

impl std::hash::BuildHasher for FirstWord {
    type Hasher = Word;
    fn build_hasher(&self) -> Word {
        Word(0)
    }
}

struct Word(u64);

impl std::hash::Hasher for Word {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u128(&mut self, word: u128) {
        self.0 = word as u64;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
