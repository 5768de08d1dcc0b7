//! A peer says that something is decided otherwise.

use panch_consensus::basic::message::{Learned, Message};
use panch_consensus::protocol::ProtocolKind;
use panch_replica::checkpoint::{Disagreement, Place};
use panch_replica::core::Core;
use panch_replica::divergence::{DigestReport, ReportedCheckpoint, Standing};
use panch_replica::outbox::MessageKind;
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, Incarnation, ReplicaId, Slot};
use panch_wire::record::Fixed;
use panch_wire::time::{Duration, Instant};

use super::rogue::{Asked, GROUP, body, config, core};

const R1: ReplicaId = ReplicaId(1);
const R2: ReplicaId = ReplicaId(2);

/// A core, and the time.
struct Alone {
    core: Core,
    asked: Asked,
    now: Instant,
}

impl Alone {
    fn hear(&mut self, from: ReplicaId, kind: MessageKind, message: &impl Fixed, body: Option<&Frame>) {
        let mut bytes = Vec::new();
        message.encode_fixed(&mut bytes);
        let body = body.cloned();
        let heard = self.core.deliver(self.now, from, GROUP, kind as u8, &bytes, body, &mut self.asked);
        assert_eq!(heard, Ok(()));
        self.pass(Duration::ZERO);
    }

    fn learn(&mut self, from: ReplicaId, slot: u64, value: &Frame) {
        let message = Message::from(Learned { slot: Slot(slot) });
        self.hear(from, MessageKind::Protocol, &message, Some(value));
    }

    /// A peer has the state of this replica, or another one.
    fn report(&mut self, from: ReplicaId, is_same: bool) {
        let status = self.core.status().next().unwrap();
        let digest = status.digest ^ u64::from(!is_same);
        let every = config(ProtocolKind::Basic, 3, false).replica.checkpoint_every;
        let (outvoted, checkpoints) = (false, Default::default());
        let report = DigestReport { every, frontier: status.frontier, digest, outvoted, checkpoints };
        self.hear(from, MessageKind::Digest, &report, None);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.core.end_turn(self.now, &mut self.asked);
        while self.core.next_write(self.now, &mut self.asked).is_some() {}
    }

    fn standing(&self) -> Standing {
        self.core.status().next().unwrap().standing
    }

    /// The slot in which somebody contradicts it.
    fn contradicted_in(&self) -> Option<u64> {
        match self.standing() {
            Standing::Undecided(Disagreement { at: Place::Decision(at), .. }) => Some(at.number),
            _ => None,
        }
    }
}

#[test]
fn it_stops_until_a_majority_has_its_state_with_that_decision_in_it() {
    let pool = FramePool::new(8 << 20);
    let (core, asked) = core(ProtocolKind::Basic, 3, false, &pool);
    let mut alone = Alone { core, asked, now: Instant(1_000_000_000) };
    let batch = |counter| body(&pool, BatchId { proposer: R1, incarnation: Incarnation(1), counter }, 100);
    let (known, other) = (batch(1), batch(2));
    // Slot 1 is missing, so that what is decided in slot 2 is not executed.
    alone.learn(R1, 2, &known);
    alone.learn(R2, 2, &known);
    assert_eq!(alone.standing(), Standing::Sound);
    alone.learn(R2, 2, &other);
    assert_eq!(alone.contradicted_in(), Some(2));
    for _ in 0..3 {
        alone.report(R1, true);
        alone.pass(Duration::from_secs(2));
    }
    assert_eq!(alone.contradicted_in(), Some(2), "equal states before the decision say nothing of it");
    alone.learn(R1, 1, &batch(3));
    for _ in 0..3 {
        alone.report(R1, true);
        alone.report(R2, false);
        alone.pass(Duration::from_secs(2));
    }
    assert_eq!(alone.standing(), Standing::Sound);
    // Who is known to be wrong stops nobody any more; anybody else does.
    alone.learn(R2, 2, &other);
    assert_eq!(alone.standing(), Standing::Sound);
    alone.learn(R1, 2, &other);
    assert_eq!(alone.contradicted_in(), Some(2));
    alone.pass(Duration::from_secs(2));
    assert_eq!(alone.contradicted_in(), Some(2), "what was reported before says nothing of it");
    alone.report(R1, true);
    alone.pass(Duration::from_secs(2));
    assert_eq!(alone.standing(), Standing::Sound);
    // Digests have shown that it was wrong: in this life it stops nobody any more.
    alone.learn(R1, 2, &other);
    assert_eq!(alone.standing(), Standing::Sound);
    assert!(alone.core.admits(R1, Incarnation(7), Incarnation(0)));
    alone.learn(R1, 2, &other);
    assert_eq!(alone.contradicted_in(), Some(2));
    // It may be the one that is right.
    let (salvaged, _) = &alone.core.salvage()[0];
    assert_eq!((salvaged.diverged, salvaged.undecided), (false, true));
}

/// What a peer said of its state before it forgot something makes no majority with another one.
fn outvoted_by_an_earlier_report(contradicts: bool) {
    let pool = FramePool::new(8 << 20);
    let (core, asked) = core(ProtocolKind::Basic, 3, false, &pool);
    let mut alone = Alone { core, asked, now: Instant(1_000_000_000) };
    let batch = |counter| body(&pool, BatchId { proposer: R1, incarnation: Incarnation(1), counter }, 100);
    let every = config(ProtocolKind::Basic, 3, false).replica.checkpoint_every;
    let mut report =
        DigestReport { every, frontier: 1, digest: 1, outvoted: false, checkpoints: Default::default() };
    report.checkpoints[0] = ReportedCheckpoint { row: 0, number: every, digest: 1 };
    assert!(alone.core.admits(R1, Incarnation(3), Incarnation(0)));
    alone.hear(R1, MessageKind::Digest, &report, None);
    alone.learn(R2, 1, &batch(1));
    if contradicts {
        alone.learn(R1, 1, &batch(2));
    } else {
        assert!(alone.core.admits(R1, Incarnation(4), Incarnation(0)));
    }
    alone.hear(R2, MessageKind::Digest, &report, None);
    for slot in 2..=every {
        alone.learn(R2, slot, &batch(slot));
    }
    alone.pass(Duration::from_secs(3));
    assert!(matches!(alone.standing(), Standing::Undecided(_)), "{:?}", alone.standing());
    // It says so again.
    alone.hear(R1, MessageKind::Digest, &report, None);
    alone.pass(Duration::from_secs(1));
    assert!(matches!(alone.standing(), Standing::Outvoted(_)), "{:?}", alone.standing());
    let (salvaged, _) = &alone.core.salvage()[0];
    assert_eq!((salvaged.diverged, salvaged.undecided), (true, false));
}

#[test]
fn what_a_peer_reported_in_an_earlier_life_outvotes_nobody() {
    outvoted_by_an_earlier_report(false);
}

#[test]
fn what_a_peer_reported_before_it_contradicts_outvotes_nobody() {
    outvoted_by_an_earlier_report(true);
}
