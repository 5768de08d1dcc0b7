//! Bounded exhaustive checks: every schedule of small groups, from the start or from a moment where picking and recovery have to
//! decide. The search is [`panch_consensus::explore`]; here is what it is applied to.
//!
//! A configuration is a script that leads to an interesting moment, and bounds on what may happen from there on. A search that does
//! not end within its number of states says so: it has then tried all schedules up to some length only.

use std::fmt;

use panch_consensus::explore::{Action, Bounds, Outcome, Packet, Progress, Setup, Violation, World, explore};
use panch_consensus::protocol::Protocol;
use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind};
use panch_wire::frame::{Frame, FramePool, PAGE_SIZE};
use panch_wire::ids::{BatchId, Incarnation, ReplicaId, ReplicaSet};

mod epaxos;
mod fast;
#[cfg(all(test, feature = "mutants"))]
mod mutants;
#[cfg(test)]
mod tests;

/// Called now and then during a search, which ends when the answer is false.
pub type Report<'a> = &'a mut dyn FnMut(&Progress) -> bool;

/// One thing to be checked.
pub struct Configuration {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is searched, and within what bounds.
    pub text: &'static str,
    /// The states that are looked at unless told otherwise: all of them, or what takes a few seconds.
    pub states_max: usize,
    /// Searches at most so many states.
    pub run: fn(usize, Report<'_>) -> Outcome,
}

/// Every configuration.
pub fn all() -> impl Iterator<Item = &'static Configuration> {
    fast::ALL.iter().chain(epaxos::ALL)
}

/// Checks what a state must fulfil besides what every search requires.
type Check<P> = fn(&World<P>, usize) -> Result<(), String>;

/// A group that is led to the moment where a search begins.
struct Script<P: Protocol> {
    setup: Setup,
    world: World<P>,
}

/// What a script says, and what a check found on the way.
type Scripted<P> = Result<Script<P>, String>;

impl<P: Protocol + Clone + fmt::Debug> Script<P> {
    fn new(setup: Setup) -> Scripted<P> {
        let world = World::new(&setup)?;
        Ok(Self { setup, world })
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        self.world.perform(&self.setup, action)
    }

    fn deadline(&mut self, id: u8) -> Result<(), String> {
        self.act(Action::Deadline(ReplicaId(id)))
    }

    fn propose(&mut self, index: usize) -> Result<(), String> {
        self.act(Action::Propose(index))
    }

    /// Delivers everything wanted, and what follows from it.
    fn deliver(&mut self, wanted: impl FnMut(&Packet<P>) -> bool) -> Result<(), String> {
        self.world.deliver_all(&self.setup, wanted)
    }

    /// Delivers what the first is sent by the second, and what follows from it between the two.
    fn deliver_between(&mut self, one: u8, two: u8) -> Result<(), String> {
        let pair = [ReplicaId(one), ReplicaId(two)];
        self.deliver(|packet| pair.contains(&packet.from) && pair.contains(&packet.to))
    }

    /// Nothing passes between these any more.
    fn cut(&mut self, pairs: &[(u8, u8)]) {
        for (one, two) in pairs {
            let (one, two) = (ReplicaId(*one), ReplicaId(*two));
            self.setup.cut.extend([(one, two), (two, one)]);
        }
    }

    /// Everything on its way to `id` or from it is lost, now and later.
    fn isolate(&mut self, id: u8) {
        let others = (0..self.setup.replica_count as u8).filter(|other| *other != id);
        let pairs: Vec<_> = others.map(|other| (id, other)).collect();
        self.cut(&pairs);
    }
}

/// Tries everything from the end of the script.
fn search<P: Protocol + Clone + fmt::Debug>(
    script: Scripted<P>,
    check: Check<P>,
    states_max: usize,
    report: Report<'_>,
) -> Outcome {
    let mut script = match script {
        Ok(script) => script,
        Err(text) => {
            let schedule = vec!["the script that leads to the beginning of the search".to_owned()];
            let violation = Some(Violation { text, schedule });
            return Outcome { progress: Progress::default(), is_complete: false, violation };
        }
    };
    script.setup.bounds.states = states_max;
    script.world.refill(&script.setup);
    let count = script.setup.replica_count;
    explore(&script.setup, &script.world, &|world| check(world, count), report)
}

/// Proposals by these replicas, in this order; all of them write the same key.
fn setup(replica_count: usize, from: &[u8], bounds: Bounds) -> Setup {
    let proposal = |(index, from): (usize, &u8)| (ReplicaId(*from), batch(*from, index as u64 + 1));
    let mut setup = Setup::new(replica_count, from.iter().enumerate().map(proposal).collect());
    setup.bounds = bounds;
    setup
}

fn batch(proposer: u8, counter: u64) -> Frame {
    let pool = FramePool::new(1 << 20);
    let id = BatchId { proposer: ReplicaId(proposer), incarnation: Incarnation(1), counter };
    let mut writer = BatchWriter::new(pool.take(PAGE_SIZE).expect("the pool has room"), Vec::new());
    let value = [b'0' + counter as u8];
    let command = Command { kind: CommandKind::Set, flags: 0, session: None, key: b"key", value: &value };
    assert!(writer.push(&command), "an empty page has room for a small command");
    writer.seal(id).0
}

fn set(ids: &[u8]) -> ReplicaSet {
    let mut set = ReplicaSet::default();
    ids.iter().for_each(|id| {
        set.insert(ReplicaId(*id));
    });
    set
}
