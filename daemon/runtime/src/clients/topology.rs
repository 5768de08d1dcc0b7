//! The cluster in Redis Cluster's words: who is asked for which slots.
//!
//! Every node serves every key, and none sends a client elsewhere. So this is advice: a slot's master is the node where its commands are decided
//! soonest, a group's leader or home, and every other node is a replica of it. A node that is the master of nothing is shown as a replica of one that
//! is. One that this node does not reach is shown as failed, and is the master of no slot.

use std::fmt::Write;

use panch_wire::ids::{ReplicaId, ReplicaSet};
use panch_wire::resp::{self, ClusterRequest};
use panch_wire::slots::SLOT_COUNT;

use super::groups;
use super::{Counter, describe};
use crate::view::NodeView;

/// A node's name for cluster clients: 40 hexadecimal digits, the same on every node that is asked.
fn node_name(view: &NodeView, node: ReplicaId) -> String {
    format!("{:016x}{:024x}", view.options.cluster, u64::from(node.0) + 1)
}

/// Who is asked for what.
#[derive(Debug, PartialEq, Eq)]
struct Topology {
    node_count: usize,
    /// Nodes in reach, this one included.
    reached: ReplicaSet,
    /// Runs of slots with the same master: first, last, master. They tell where keys without a prefix live.
    ranges: Vec<(u16, u16, ReplicaId)>,
}

impl Topology {
    fn of(counter: &Counter<'_>) -> Self {
        let (view, statuses) = (counter.view, describe::groups(counter));
        let mut reached = ReplicaSet::first(view.options.members.len());
        view.reports.core(0).counters.peers_down.iter().for_each(|peer| reached.remove(peer));
        let slots = view.options.routing.slot_ranges();
        let owned = slots.map(|(group, first, last)| (first, last, groups::owner(view, &statuses, group)));
        Self::with(view.options.members.len(), reached, owned)
    }

    /// `owned`: runs of slots and the nodes that they should be asked for, whether these are in reach or not.
    fn with(
        node_count: usize,
        reached: ReplicaSet,
        owned: impl Iterator<Item = (u16, u16, ReplicaId)>,
    ) -> Self {
        let mut ranges: Vec<(u16, u16, ReplicaId)> = Vec::new();
        for (first, last, owner) in owned {
            let after = (0..node_count).map(|step| ReplicaId(((owner.index() + step) % node_count) as u8));
            let master = after.into_iter().find(|node| reached.contains(*node)).unwrap_or(owner);
            match ranges.last_mut() {
                Some(run) if run.2 == master => run.1 = last,
                _ => ranges.push((first, last, master)),
            }
        }
        Self { node_count, reached, ranges }
    }

    fn nodes(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        (0..self.node_count as u8).map(ReplicaId)
    }

    fn masters(&self) -> ReplicaSet {
        let mut masters = ReplicaSet::default();
        for (_, _, master) in &self.ranges {
            masters.insert(*master);
        }
        masters
    }

    /// The node that this one is a replica of; `None` of a master.
    fn master_of(&self, node: ReplicaId) -> Option<ReplicaId> {
        let masters = self.masters();
        if masters.contains(node) {
            return None;
        }
        masters.iter().nth(node.index() % masters.count().max(1))
    }

    fn slots_of(&self, node: ReplicaId) -> impl Iterator<Item = (u16, u16)> {
        let own = self.ranges.iter().filter(move |(_, _, master)| *master == node);
        own.map(|(first, last, _)| (*first, *last))
    }
}

/// The answers to CLUSTER.
pub(crate) fn cluster(counter: &Counter<'_>, request: ClusterRequest, resp3: bool, out: &mut Vec<u8>) {
    let view = counter.view;
    match request {
        ClusterRequest::KeySlot(slot) => resp::integer(i64::from(slot), out),
        ClusterRequest::MyId => resp::bulk(node_name(view, view.node()).as_bytes(), out),
        ClusterRequest::Info => resp::verbatim(&info(counter), resp3, out),
        ClusterRequest::Nodes => resp::verbatim(&nodes(view, &Topology::of(counter)), resp3, out),
        ClusterRequest::Slots => slots(view, &Topology::of(counter), resp3, out),
        ClusterRequest::Shards => shards(view, &Topology::of(counter), resp3, out),
    }
}

fn info(counter: &Counter<'_>) -> String {
    let topology = Topology::of(counter);
    let ready = describe::groups(counter).iter().all(groups::is_ready);
    let has_majority = 2 * topology.reached.count() > topology.node_count;
    format!(
        "cluster_enabled:1\r\ncluster_state:{}\r\ncluster_slots_assigned:{SLOT_COUNT}\r\n\
         cluster_slots_ok:{SLOT_COUNT}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\n\
         cluster_known_nodes:{}\r\ncluster_size:{}\r\ncluster_current_epoch:1\r\ncluster_my_epoch:1\r\n",
        if ready && has_majority { "ok" } else { "fail" },
        topology.node_count,
        topology.masters().count(),
    )
}

fn nodes(view: &NodeView, topology: &Topology) -> String {
    let mut text = String::new();
    for node in topology.nodes() {
        let member = &view.options.members[node.index()];
        let is_reached = topology.reached.contains(node);
        let master = topology.master_of(node);
        let _ = writeln!(
            text,
            "{} {}:{}@{} {}{}{} {} 0 0 1 {}{}",
            node_name(view, node),
            member.resp.ip(),
            member.resp.port(),
            member.peer.port(),
            if node == view.node() { "myself," } else { "" },
            if master.is_some() { "slave" } else { "master" },
            if is_reached { "" } else { ",fail" },
            master.map_or("-".to_owned(), |master| node_name(view, master)),
            if is_reached { "connected" } else { "disconnected" },
            topology.slots_of(node).map(|(first, last)| format!(" {first}-{last}")).collect::<String>(),
        );
    }
    text
}

/// As Redis, without replicas that have failed.
fn slots(view: &NodeView, topology: &Topology, resp3: bool, out: &mut Vec<u8>) {
    resp::array(topology.ranges.len(), out);
    for (first, last, master) in &topology.ranges {
        let is_replica = |node: &ReplicaId| node != master && topology.reached.contains(*node);
        let nodes: Vec<ReplicaId> =
            std::iter::once(*master).chain(topology.nodes().filter(is_replica)).collect();
        resp::array(2 + nodes.len(), out);
        resp::integer(i64::from(*first), out);
        resp::integer(i64::from(*last), out);
        for node in nodes {
            let address = view.options.members[node.index()].resp;
            resp::array(4, out);
            resp::bulk(address.ip().to_string().as_bytes(), out);
            resp::integer(i64::from(address.port()), out);
            resp::bulk(node_name(view, node).as_bytes(), out);
            resp::map(0, resp3, out);
        }
    }
}

fn shards(view: &NodeView, topology: &Topology, resp3: bool, out: &mut Vec<u8>) {
    let masters = topology.masters();
    resp::array(masters.count(), out);
    for master in masters.iter() {
        let own: Vec<(u16, u16)> = topology.slots_of(master).collect();
        let is_replica = |node: &ReplicaId| topology.master_of(*node) == Some(master);
        let nodes: Vec<ReplicaId> =
            std::iter::once(master).chain(topology.nodes().filter(is_replica)).collect();
        resp::map(2, resp3, out);
        resp::bulk(b"slots", out);
        resp::array(2 * own.len(), out);
        for (first, last) in own {
            resp::integer(i64::from(first), out);
            resp::integer(i64::from(last), out);
        }
        resp::bulk(b"nodes", out);
        resp::array(nodes.len(), out);
        for node in nodes {
            let address = view.options.members[node.index()].resp;
            let ip = address.ip().to_string();
            resp::map(7, resp3, out);
            let mut text = |key: &str, value: &str| {
                resp::bulk(key.as_bytes(), out);
                resp::bulk(value.as_bytes(), out);
            };
            text("id", &node_name(view, node));
            text("ip", &ip);
            text("endpoint", &ip);
            text("role", if node == master { "master" } else { "replica" });
            text("health", if topology.reached.contains(node) { "online" } else { "fail" });
            resp::bulk(b"port", out);
            resp::integer(i64::from(address.port()), out);
            resp::bulk(b"replication-offset", out);
            resp::integer(0, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u8]) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        nodes.iter().for_each(|node| assert!(set.insert(ReplicaId(*node))));
        set
    }

    #[test]
    fn every_slot_has_a_master_in_reach_and_every_other_node_is_a_replica_of_one() {
        let owned =
            || [(0, 99, ReplicaId(0)), (100, 199, ReplicaId(1)), (200, 299, ReplicaId(1))].into_iter();
        let all = Topology::with(4, set(&[0, 1, 2, 3]), owned());
        assert_eq!(all.ranges, [(0, 99, ReplicaId(0)), (100, 299, ReplicaId(1))]);
        let masters: Vec<Option<u8>> = all.nodes().map(|node| all.master_of(node).map(|it| it.0)).collect();
        assert_eq!(masters, [None, None, Some(0), Some(1)]);
        // A home that is down is asked for nothing.
        let some = Topology::with(4, set(&[0, 2, 3]), owned());
        assert_eq!(some.ranges, [(0, 99, ReplicaId(0)), (100, 299, ReplicaId(2))]);
        assert_eq!(some.master_of(ReplicaId(1)), Some(ReplicaId(2)));
        let one = Topology::with(3, set(&[2]), [(0, 16383, ReplicaId(0))].into_iter());
        assert_eq!(one.ranges, [(0, 16383, ReplicaId(2))]);
        assert_eq!(one.master_of(ReplicaId(0)), Some(ReplicaId(2)));
    }
}
