//! What a node says of its groups: their protocols, their roles, and the counters that matter for each.
//!
//! Basic Paxos and EPaxos have no leader: every replica proposes, all alike. Of such a group nothing here names a leader,
//! none is waited for, and where Redis Cluster's clients want one node, it is the group's home.

use panch_consensus::ballot::Ballot;
use panch_consensus::protocol::{Counters, ProtocolKind};
use panch_replica::checkpoint::{Checkpoint, Disagreement, Place};
use panch_replica::divergence::Standing;
use panch_replica::rejoin::Membership;
use panch_replica::status::GroupStatus;
use panch_wal::Durability;
use panch_wire::ids::{GroupId, ReplicaId, ReplicaSet};

use super::describe::durability;
use crate::view::NodeView;

/// Whether a group of that protocol has a leader or coordinator, and serves writes badly or not at all without one.
pub(crate) fn has_leader(kind: ProtocolKind) -> bool {
    matches!(kind, ProtocolKind::Multi | ProtocolKind::Fast)
}

/// Whether this node knows where commands of the group are decided.
pub(crate) fn is_ready(status: &GroupStatus) -> bool {
    let has_leader = !has_leader(status.kind) || status.protocol.leader.is_some();
    has_leader && status.membership == Membership::Member && status.standing == Standing::Sound
}

/// The node that a group's keys should be sent to: its leader as known here, its home otherwise. A wish, no more: every
/// node serves every key.
pub(crate) fn owner(view: &NodeView, groups: &[GroupStatus], group: GroupId) -> ReplicaId {
    let led = groups.iter().find(|status| status.group == group && has_leader(status.kind));
    let home = ReplicaId((group.index() % view.options.members.len()) as u8);
    led.and_then(|status| status.protocol.leader).unwrap_or(home)
}

/// The protocols of all groups, each once, in the order of their numbers: `multi` or `multi,epaxos`.
pub(crate) fn protocols(view: &NodeView) -> String {
    let used = |kind: &&ProtocolKind| view.options.protocols.contains(kind);
    let names: Vec<&str> = ProtocolKind::ALL.iter().filter(used).map(|kind| kind.name()).collect();
    names.join(",")
}

/// What the replica is in its group, in the words of its protocol.
fn role(status: &GroupStatus) -> &'static str {
    match status.membership {
        Membership::Member => {}
        Membership::Unrecognised => return "starting",
        Membership::Asking(_) | Membership::Mute(_) => return "rejoining",
    }
    if status.standing != Standing::Sound {
        return "diverged";
    }
    match (status.kind, status.protocol.leading) {
        (ProtocolKind::Multi, true) => "leader",
        (ProtocolKind::Fast, true) => "coordinator",
        (ProtocolKind::Multi | ProtocolKind::Fast, false) => "follower",
        (ProtocolKind::Basic | ProtocolKind::Epaxos, _) => "replica",
    }
}

/// The counters that tell how well a protocol does.
fn telling(kind: ProtocolKind) -> &'static [&'static str] {
    match kind {
        ProtocolKind::Basic => &["prepares", "duels", "moved"],
        ProtocolKind::Multi => &["elections", "terms"],
        ProtocolKind::Fast => &["fast_chosen", "classic_chosen", "collisions", "recoveries"],
        ProtocolKind::Epaxos => &["fast_commits", "slow_commits", "conflicts", "component_max"],
    }
}

/// `round.node`. Rounds of Basic Paxos hold an attempt in the high 32 bits and the incarnation of the node in the low 32:
/// `attempt.incarnation.node`. In both the larger ballot is the one whose first number that differs is larger.
pub(crate) fn ballot(kind: ProtocolKind, ballot: Ballot) -> String {
    let (round, node) = (ballot.round, u64::from(ballot.owner) + 1);
    match kind {
        ProtocolKind::Basic => format!("{}.{}.{node}", round >> 32, round & u64::from(u32::MAX)),
        ProtocolKind::Multi | ProtocolKind::Fast | ProtocolKind::Epaxos => format!("{round}.{node}"),
    }
}

/// The value of a group's line in INFO.
pub(crate) fn line(status: &GroupStatus, mode: Durability) -> String {
    let protocol = &status.protocol;
    let leader = match protocol.leader {
        _ if !has_leader(status.kind) => "-".to_owned(),
        Some(leader) => (leader.0 + 1).to_string(),
        None => "none".to_owned(),
    };
    let mut line = format!(
        "protocol={},role={},leader={leader},ballot={},committed={},executed={},last={},leading={},lag={},durability={},digest={:016x},keys={}",
        status.kind.name(),
        role(status),
        ballot(status.kind, protocol.ballot),
        protocol.committed.0,
        status.executed.0,
        protocol.last.0,
        u8::from(has_leader(status.kind) && protocol.leading),
        protocol.last.0.saturating_sub(status.executed.0),
        durability(mode),
        status.digest,
        status.keys,
    );
    for (name, count) in status.counters.rows().filter(|(name, _)| telling(status.kind).contains(name)) {
        line.push_str(&format!(",{name}={count}"));
    }
    // What was executed with the digest of the state there, and the latest checkpoints with theirs: at equal places replicas are equal.
    line.push_str(&format!(
        ",diverged={},frontier={:x},checkpoints=",
        u8::from(status.standing != Standing::Sound),
        status.frontier
    ));
    for Checkpoint { at, digest } in status.digests.recent.iter().flatten() {
        line.push_str(&format!("{}.{}:{digest:016x};", at.row, at.number));
    }
    line
}

/// A place, in the words of the group's order.
fn place(kind: ProtocolKind, at: Place) -> String {
    match at {
        Place::Checkpoint(at) | Place::Decision(at) if kind == ProtocolKind::Epaxos => {
            format!("instance {}.{}", at.row + 1, at.number)
        }
        Place::Checkpoint(at) | Place::Decision(at) => format!("slot {}", at.number),
        Place::Frontier(frontier) if kind == ProtocolKind::Epaxos => format!("the instances {frontier:016x}"),
        Place::Frontier(slot) => format!("slot {slot}"),
    }
}

/// What was decided, by its checksum.
fn value(checksum: u64, otherwise: &str) -> String {
    if checksum == 0 { otherwise.to_string() } else { format!("the batch {checksum:016x}") }
}

fn names(nodes: ReplicaSet) -> String {
    let names: Vec<String> = nodes.iter().map(|id| format!("node {}", u64::from(id.0) + 1)).collect();
    names.join(" and ")
}

/// What is wrong with the state of a replica, or with that of others as it sees it, and what to do.
pub(crate) fn divergence(view: &NodeView, status: &GroupStatus) -> Option<String> {
    let node = u64::from(view.node().0) + 1;
    let group = status.group.0;
    let differ = |found: &Disagreement| {
        let Disagreement { at, own, other, others } = found;
        if let Place::Decision(_) = at {
            return format!(
                "the decisions of group {group} differ: in {} node {node} knows {} to be decided, {} says that it is {}: somebody has \
                 forgotten a vote, and what was acknowledged may be lost",
                place(status.kind, *at),
                value(*own, "a no-op"),
                names(*others),
                value(*other, "a no-op or nothing")
            );
        }
        format!(
            "the data of group {group} differ: after {} the digest of node {node} is {own:016x}, that of {} is {other:016x}",
            place(status.kind, *at),
            names(*others)
        )
    };
    Some(match (&status.standing, &status.digests.dissent) {
        (Standing::Outvoted(found), _) => format!(
            "{}, and a majority agrees with the latter. Node {node} has lost or changed something, and serves nothing of this group. Keep a \
             copy of its data directory for an examination, empty it, and start the node once with --rejoin",
            differ(found)
        ),
        (Standing::Undecided(found), _) => format!(
            "{}, and no state has a majority of the nodes. Node {node} serves nothing of this group until one has: start the nodes that are \
             down. If all are up, something is lost that only you can judge: keep copies of all data directories and decide which nodes are \
             right. If one is wrong, empty its data directory and start it once with --rejoin. If several are, they would wait for each other: \
             stop all nodes, run `panchd salvage` on one that is right, and begin a new cluster with its file and no other",
            differ(found)
        ),
        (Standing::Sound, Some(found)) if found.others != ReplicaSet::default() => format!(
            "{}; node {node} agrees with a majority and goes on. Empty the data directory of {} and start it once with --rejoin",
            differ(found),
            names(found.others)
        ),
        _ => return None,
    })
}

/// Every counter of the protocols over all groups: added up, except those that are the largest of something.
pub(crate) fn counters(groups: &[GroupStatus]) -> impl Iterator<Item = (&'static str, u64)> {
    let mut rows: Vec<(&'static str, u64)> = Counters::default().rows().collect();
    for status in groups {
        for ((name, total), (_, count)) in rows.iter_mut().zip(status.counters.rows()) {
            *total = if name.ends_with("_max") { (*total).max(count) } else { *total + count };
        }
    }
    rows.into_iter()
}

#[cfg(test)]
mod tests {
    use panch_consensus::protocol::Status;
    use panch_replica::divergence::DigestStatus;
    use panch_replica::probe::Probe;
    use panch_wire::ids::Slot;

    use super::*;

    fn status(group: u16, kind: ProtocolKind, leader: Option<u8>, counters: Counters) -> GroupStatus {
        let protocol = Status {
            leader: leader.map(ReplicaId),
            leading: true,
            ballot: Ballot { round: 3, owner: 1 },
            committed: Slot(8),
            last: Slot(9),
        };
        GroupStatus {
            group: GroupId(group),
            kind,
            protocol,
            executed: Slot(7),
            frontier: 0,
            digest: 5,
            keys: 2,
            membership: Membership::Member,
            standing: Standing::Sound,
            sending: Default::default(),
            digests: DigestStatus::default(),
            probe: Probe::default(),
            counters,
        }
    }

    #[test]
    fn a_line_says_what_a_replica_is_in_the_words_of_its_protocol() {
        let counters =
            Counters { terms: 1, duels: 4, fast_chosen: 6, fast_commits: 5, ..Counters::default() };
        let line = |kind| line(&status(0, kind, Some(1), counters), Durability::Sync);
        let rest = "committed=8,executed=7,last=9";
        let middle = format!("ballot=3.2,{rest}");
        let end = "lag=2,durability=sync,digest=0000000000000005,keys=2";
        let tail = ",diverged=0,frontier=0,checkpoints=";
        let expected = [
            format!(
                "protocol=basic,role=replica,leader=-,ballot=0.3.2,{rest},leading=0,{end},prepares=0,duels=4,moved=0{tail}"
            ),
            format!("protocol=multi,role=leader,leader=2,{middle},leading=1,{end},elections=0,terms=1{tail}"),
            format!(
                "protocol=fast,role=coordinator,leader=2,{middle},leading=1,{end},fast_chosen=6,classic_chosen=0,collisions=0,recoveries=0{tail}"
            ),
            format!(
                "protocol=epaxos,role=replica,leader=-,{middle},leading=0,{end},fast_commits=5,slow_commits=0,conflicts=0,component_max=0{tail}"
            ),
        ];
        for (kind, expected) in ProtocolKind::ALL.iter().zip(expected) {
            assert_eq!(line(*kind), expected);
        }
    }

    #[test]
    fn a_ballot_of_basic_paxos_is_an_attempt_of_an_incarnation() {
        let packed = Ballot { round: 5 << 32 | 17, owner: 0 };
        assert_eq!(ballot(ProtocolKind::Basic, packed), "5.17.1");
        assert_eq!(
            ballot(ProtocolKind::Basic, Ballot { round: u64::MAX, owner: 4 }),
            "4294967295.4294967295.5"
        );
        assert_eq!(ballot(ProtocolKind::Multi, Ballot { round: 1 << 32, owner: 4 }), "4294967296.5");
    }

    #[test]
    fn every_telling_counter_exists() {
        let rows: Vec<&str> = Counters::default().rows().map(|(name, _)| name).collect();
        for kind in ProtocolKind::ALL {
            assert!(telling(*kind).iter().all(|name| rows.contains(name)), "{}", kind.name());
        }
    }

    #[test]
    fn a_group_without_leaders_is_ready_without_one() {
        let ready = |kind, leader| is_ready(&status(0, kind, leader, Counters::default()));
        assert!(ready(ProtocolKind::Basic, None) && ready(ProtocolKind::Epaxos, None));
        assert!(!ready(ProtocolKind::Multi, None) && !ready(ProtocolKind::Fast, None));
        assert!(ready(ProtocolKind::Multi, Some(0)) && ready(ProtocolKind::Fast, Some(0)));
    }

    #[test]
    fn counters_are_added_up_and_the_largest_component_is_the_largest() {
        let of =
            |fast_commits, component_max| Counters { fast_commits, component_max, ..Counters::default() };
        let groups = [
            status(0, ProtocolKind::Epaxos, None, of(3, 7)),
            status(1, ProtocolKind::Epaxos, None, of(4, 2)),
        ];
        let found: Vec<_> = counters(&groups).filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, [("fast_commits", 7), ("component_max", 7)]);
    }
}
