//! Whether a node with an empty data directory may begin as a new member of the cluster.
//!
//! A node that has voted and then lost its directory looks like one that has never run. If it begins as new, what was chosen
//! with its earlier votes can be chosen again, with another value. So it asks the others before it begins:
//!
//! * (F1) It *founds* the cluster if every other node has answered twice in a row that it is new too, with the same directory.
//!   Then there was a moment, between the two rounds of questions, at which every node of the cluster was new: whatever any of
//!   them voted for before is lost on all disks alike, and each directory that was named is a beginning without a vote. The
//!   names are written down before the node begins, and told to whoever asks.
//! * (F2) It *joins* if a member says that the cluster was founded with this very directory: it is one of those beginnings,
//!   and was not used since. If the cluster was founded with another directory of this node, or a member has met the node,
//!   then this directory is not where its votes are: it must come back by way of [`crate::rejoin`].
//! * (F3) An operator may found it without the nodes that do not answer, if a majority is new. Those that are absent join later,
//!   when *all* others answer and none has met them: a vote counts only together with one of the founders, who knows
//!   whom it has met.
//!
//! A node that answers that it is new must not begin before it has stopped to answer so.

use panch_consensus::quorum::classic_quorum;
use panch_wire::ids::{Incarnation, REPLICAS_MAX, ReplicaId};
use panch_wire::rule::{Rule, holds};

/// What a node was when the cluster was founded, as far as a member knows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Founder {
    /// The member was not there: it came back from the loss of its disk.
    #[default]
    Unknown,
    /// The operator founded the cluster without it.
    Absent,
    /// It was new, with this data directory.
    With(u64),
}

/// What all nodes were when the cluster was founded, by number.
pub type Founders = [Founder; REPLICAS_MAX];

/// What a member says of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// The highest incarnation in which it has met the node, and the data directory of the node then.
    Met(Incarnation, u64),
    /// It has not met the node; what it knows from the founding.
    Founder(Founder),
}

impl Default for Word {
    fn default() -> Self {
        Self::Founder(Founder::Unknown)
    }
}

/// What another node has answered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per node, while a node starts for the first time"
)]
pub enum Answer {
    /// Nothing, or nothing that helps.
    #[default]
    None,
    /// It is new, too.
    New {
        /// The name of its data directory.
        directory: u64,
        /// It has answered the same in the round before.
        again: bool,
    },
    /// It is a member.
    Member {
        /// The name of its data directory.
        directory: u64,
        /// What it says of every node, by number.
        of: [Word; REPLICAS_MAX],
    },
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    /// Its number.
    pub me: ReplicaId,
    /// The name of its data directory.
    pub directory: u64,
    /// How many nodes the cluster has.
    pub node_count: usize,
    /// The operator said that it shall found the cluster without those who do not answer.
    pub told_to_found: bool,
}

/// What the answers come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// More must answer, or answer again.
    Wait,
    /// The node begins, once this is written down.
    Begin(Founders),
    /// A member has met this node: its incarnation then.
    Remembered(ReplicaId, Incarnation),
    /// The cluster was founded with another data directory of this node, says this member.
    Replaced(ReplicaId),
    /// The operator wants to found a cluster that exists: this node is a member of it.
    Exists(ReplicaId),
}

/// What a node with an empty data directory does, given what the others have answered, by number; its own is not looked at.
pub fn decide(who: &Newcomer, answers: &[Answer; REPLICAS_MAX]) -> Decision {
    let others = || {
        let all = (0..).map(ReplicaId).zip(answers).take(who.node_count);
        all.filter(|(id, _)| *id != who.me)
    };
    let members = || {
        others().filter_map(|(id, answer)| match answer {
            Answer::Member { of, .. } => Some((id, of)),
            _ => None,
        })
    };
    for (id, of) in members() {
        match of[who.me.index()] {
            Word::Met(incarnation, _) => return Decision::Remembered(id, incarnation),
            Word::Founder(Founder::With(directory))
                if directory != who.directory && holds(Rule::FoundersAreNamed) =>
            {
                return Decision::Replaced(id);
            }
            Word::Founder(_) => {}
        }
    }
    let is_known =
        |of: &[Word; REPLICAS_MAX]| of[who.me.index()] == Word::Founder(Founder::With(who.directory));
    if let Some((_, of)) = members().find(|(_, of)| is_known(of)) {
        return Decision::Begin(founders_of(who, answers, of));
    }
    if who.told_to_found
        && let Some((id, _)) = members().next()
    {
        return Decision::Exists(id);
    }
    let is_new_again = |answer: &Answer| matches!(answer, Answer::New { again, .. } if *again || !holds(Rule::FoundingAsksTwice));
    let new_count = 1 + others().filter(|(_, answer)| is_new_again(answer)).count();
    let enough = if who.told_to_found || !holds(Rule::FoundingAsksEverybody) {
        classic_quorum(who.node_count)
    } else {
        who.node_count
    };
    if members().next().is_none() {
        return if new_count >= enough {
            Decision::Begin(founders_of(who, answers, &Default::default()))
        } else {
            Decision::Wait
        };
    }
    // Founded without this node: by a majority that has not met it.
    let is_in_order = |(id, answer): (ReplicaId, &Answer)| match answer {
        Answer::None => false,
        Answer::Member { .. } => true,
        Answer::New { directory, .. } => members().all(|(_, of)| match of[id.index()] {
            Word::Met(..) => false,
            Word::Founder(Founder::With(founder)) => founder == *directory,
            Word::Founder(_) => true,
        }),
    };
    if others().all(is_in_order) {
        let of = members().next().map(|(_, of)| *of).unwrap_or_default();
        return Decision::Begin(founders_of(who, answers, &of));
    }
    Decision::Wait
}

/// What the node writes down: what a member says, and beyond that what the nodes themselves have answered.
fn founders_of(who: &Newcomer, answers: &[Answer; REPLICAS_MAX], of: &[Word; REPLICAS_MAX]) -> Founders {
    let mut founders = Founders::default();
    for (index, founder) in founders.iter_mut().enumerate().take(who.node_count) {
        *founder = match (of[index], answers[index]) {
            _ if index == who.me.index() => Founder::With(who.directory),
            (_, Answer::Member { directory, .. }) => Founder::With(directory),
            (Word::Met(_, directory), _) | (Word::Founder(Founder::With(directory)), _) => {
                Founder::With(directory)
            }
            (Word::Founder(_), Answer::New { directory, .. }) => Founder::With(directory),
            (Word::Founder(_), Answer::None) => Founder::Absent,
        };
    }
    founders
}

#[cfg(test)]
mod tests;
