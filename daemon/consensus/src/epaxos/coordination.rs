//! What this replica is doing about an instance as its command leader or in a recovery. Volatile: after a restart nothing is resumed,
//! everything is begun again in a higher ballot. [protocols D6]
//!
//! ```text
//!   command leader                                     recovery (ballot > 0)
//!   PreAccept --- fast quorum ---> committed           Recover --- accepted, pre-accepted by the buddy, no-op ---> Accept
//!       |                             ^                   |                                                      ^  ^
//!       '--- else ---> Accept --------'                   '--- n >= 4: fast commit possible ---> Validate -------'  |
//!                       quorum                                                                      '--> Waiting ---'
//! ```

use panch_wire::ids::{Position, ReplicaId, ReplicaSet};
use panch_wire::time::Instant;

use super::message::{Conflict, RecoverOk};
use super::{Dependencies, Epaxos};
use crate::ballot::Ballot;

/// What a recovery quorum said and what follows from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Recovery {
    /// One answer per replica.
    pub(super) reports: Vec<(ReplicaId, RecoverOk)>,
    /// Who answered before the decision.
    pub(super) quorum: ReplicaSet,
    /// Whose votes agree with the command leader.
    pub(super) agreeing: ReplicaSet,
    /// The command leader's stamp and dependencies, as those reported them.
    pub(super) stamp: u64,
    pub(super) deps: Dependencies,
    /// What may rule out the fast commit.
    pub(super) conflicts: Vec<Conflict>,
    /// What somebody of the quorum has executed without the instance.
    pub(super) executed: Dependencies,
    /// There was more than fitted the answers.
    pub(super) more: bool,
}

/// How far this replica has come with an instance.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Votes of ballot 0 arrive.
    PreAccept {
        /// The union of the votes' dependencies.
        union: Dependencies,
        /// Who added nothing.
        equal: ReplicaSet,
        /// What the buddy voted for.
        buddy_deps: Option<Dependencies>,
        /// The fast path took too long.
        slow: bool,
    },
    /// Acceptances of the value in the own instance arrive.
    Accept,
    /// Promises arrive.
    Recover(Box<Recovery>),
    /// Answers to a validation arrive.
    Validate(Box<Recovery>),
    /// Another instance must be decided first.
    Waiting(Box<Recovery>),
}

/// What this replica is doing about one instance.
#[derive(Clone, Debug)]
pub(super) struct Coordination {
    pub(super) ballot: Ballot,
    pub(super) stage: Stage,
    /// Who answered in this stage.
    pub(super) replies: ReplicaSet,
    /// Who was sent the batch.
    pub(super) told: ReplicaSet,
    pub(super) attempts: u32,
    /// When what was lost is sent again.
    pub(super) retry_at: Instant,
}

impl Coordination {
    pub(super) fn new(ballot: Ballot, stage: Stage) -> Self {
        Self {
            ballot,
            stage,
            replies: ReplicaSet::default(),
            told: ReplicaSet::default(),
            attempts: 0,
            retry_at: Instant::default(),
        }
    }

    /// Another instance must be decided first.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    pub(super) fn is_accepting(&self) -> bool {
        matches!(self.stage, Stage::Accept)
    }
}

impl Epaxos {
    /// Begins something about an instance.
    pub(super) fn coordinate(&mut self, position: Position, coordination: Coordination) {
        self.coordinations.insert(position, coordination);
        self.arm_retry(position);
    }

    /// Something is sent again unless the stage is over by then.
    pub(super) fn arm_retry(&mut self, position: Position) {
        let Some(attempts) = self.coordinations.get(&position).map(|own| own.attempts) else { return };
        let at = self.now + self.retry_after(attempts);
        if let Some(own) = self.coordinations.get_mut(&position) {
            own.retry_at = at;
        }
        if self.retry_at.is_none_or(|armed| at < armed) {
            self.retry_at = Some(at);
        }
    }
}
