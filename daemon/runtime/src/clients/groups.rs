//! What a node says of its groups: their protocols, their roles, and the counters that matter for each.
//!
//! Basic Paxos and EPaxos have no leader: every replica proposes, all alike. Of such a group nothing here names a leader,
//! none is waited for, and where Redis Cluster's clients want one node, it is the group's home.

use panch_consensus::ballot::Ballot;
use panch_consensus::protocol::{Counters, ProtocolKind};
use panch_replica::rejoin::Membership;
use panch_replica::status::GroupStatus;
use panch_wal::Durability;
use panch_wire::ids::{GroupId, ReplicaId};

use super::describe::durability;
use crate::view::NodeView;

/// Whether a group of that protocol has a leader or coordinator, and serves writes badly or not at all without one.
pub(crate) fn has_leader(kind: ProtocolKind) -> bool {
    matches!(kind, ProtocolKind::Multi | ProtocolKind::Fast)
}

/// Whether this node knows where commands of the group are decided.
pub(crate) fn is_ready(status: &GroupStatus) -> bool {
    let has_leader = !has_leader(status.kind) || status.protocol.leader.is_some();
    has_leader && status.membership == Membership::Member
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
    if status.membership != Membership::Member {
        return "rejoining";
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
fn ballot(kind: ProtocolKind, ballot: Ballot) -> String {
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
    line
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
        let expected = [
            format!(
                "protocol=basic,role=replica,leader=-,ballot=0.3.2,{rest},leading=0,{end},prepares=0,duels=4,moved=0"
            ),
            format!("protocol=multi,role=leader,leader=2,{middle},leading=1,{end},elections=0,terms=1"),
            format!(
                "protocol=fast,role=coordinator,leader=2,{middle},leading=1,{end},fast_chosen=6,classic_chosen=0,collisions=0,recoveries=0"
            ),
            format!(
                "protocol=epaxos,role=replica,leader=-,{middle},leading=0,{end},fast_commits=5,slow_commits=0,conflicts=0,component_max=0"
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
