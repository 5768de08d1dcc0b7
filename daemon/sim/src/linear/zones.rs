//! Histories of reads and writes of one key in which no value is written twice: decided without a search [Gibbons and Korach, Testing
//! Shared Memories, SIAM J. Comput. 1997].
//!
//! A write and the reads of its value stand together in every order. So one such cluster comes before another if one of its operations
//! has returned before one of the other's was called, and there is an order unless two clusters come before each other: longer
//! circles have such a pair in them.

use std::collections::BTreeMap;

use super::register::{Action, Answer, Bytes, KeyOperation};
use super::{Timed, Verdict};

/// A write and the reads of its value.
struct Cluster {
    /// When the write was called, one later than in the history; 0: it is the beginning.
    written: u64,
    /// The first return.
    returned: u64,
    /// The last call, and whose it is.
    invoked: u64,
    last: usize,
}

/// Decides a history; `None` if it is none of reads and writes with values of their own.
pub(super) fn check(operations: &[Timed<KeyOperation>]) -> Option<Verdict> {
    let mut clusters: BTreeMap<Option<&Bytes>, Cluster> = BTreeMap::new();
    clusters.insert(None, Cluster { written: 0, returned: 0, invoked: 0, last: 0 });
    for (index, timed) in operations.iter().enumerate() {
        match &timed.operation.action {
            Action::Get => {}
            Action::Set(value) => {
                // Times are one later here: the beginning is before everything.
                let invoked = timed.invoked + 1;
                let returned = timed.returned.map_or(u64::MAX, |at| at + 1);
                let cluster = Cluster { written: invoked, returned, invoked, last: index };
                if clusters.insert(Some(value), cluster).is_some() {
                    return None;
                }
            }
            _ => return None,
        }
    }
    let mut read = vec![None];
    for (index, timed) in operations.iter().enumerate() {
        let KeyOperation { action: Action::Get, answer: Some(answer) } = &timed.operation else { continue };
        let Answer::Value(value) = answer else { return None };
        let (invoked, returned) = (timed.invoked + 1, timed.returned.map_or(u64::MAX, |at| at + 1));
        let stuck = Verdict::NotLinearizable { stuck: index, linearized: 0 };
        let Some(cluster) = clusters.get_mut(&value.as_ref()) else { return Some(stuck) };
        if returned < cluster.written {
            return Some(stuck);
        }
        cluster.returned = cluster.returned.min(returned);
        if invoked > cluster.invoked {
            (cluster.invoked, cluster.last) = (invoked, index);
        }
        read.push(value.as_ref());
    }
    // Writes that never returned and that nobody saw may be left out.
    clusters.retain(|value, cluster| cluster.returned < u64::MAX || read.contains(value));
    let clusters: Vec<&Cluster> = clusters.values().collect();
    for (number, one) in clusters.iter().enumerate() {
        for other in &clusters[..number] {
            if one.returned < other.invoked && other.returned < one.invoked {
                let stuck = if one.invoked > other.invoked { one.last } else { other.last };
                return Some(Verdict::NotLinearizable { stuck, linearized: 0 });
            }
        }
    }
    Some(Verdict::Linearizable)
}
