//! What the replicas of a cluster must agree on, checked at every execution.
//!
//! * A position holds one value, at all replicas and for ever.
//! * In a log, values are executed in the order of their slots.
//! * In a graph, a batch is decided at one position at most; the writes of a key are executed in one order everywhere,
//!   and every read of the key lies between the same two of them.
//! * One life of a replica executes a position once.

use std::collections::{BTreeMap, BTreeSet};

use panch_wire::batch::BatchView;
use panch_wire::command::{CommandKind, list};
use panch_wire::frame::Frame;
use panch_wire::ids::{BatchId, Position, REPLICAS_MAX};

use crate::frontier::Frontier;
use crate::protocol::{Chosen, Order};

/// Keys, and sessions beside them.
type Key = Vec<u8>;

/// What a batch touches.
#[derive(Default)]
struct Access {
    writes: BTreeSet<Key>,
    reads: BTreeSet<Key>,
}

impl Access {
    fn of(frame: &Frame) -> Self {
        let mut access = Self::default();
        for command in BatchView::access(frame).expect("a test proposes valid batches").commands() {
            let keys: Vec<Key> = match command.kind {
                CommandKind::MGet | CommandKind::Del | CommandKind::Exists => {
                    list::items(command.value).map(<[u8]>::to_vec).collect()
                }
                CommandKind::MSet => list::items(command.value).step_by(2).map(<[u8]>::to_vec).collect(),
                CommandKind::OpenSession | CommandKind::CloseSession | CommandKind::ExpireSessions => {
                    Vec::new()
                }
                _ => vec![command.key.to_vec()],
            };
            let set = if command.kind.is_read() { &mut access.reads } else { &mut access.writes };
            set.extend(keys);
            if let Some(header) = command.session.filter(|_| !command.kind.is_read()) {
                set.insert([b"session ".as_slice(), &header.session.to_le_bytes()].concat());
            }
        }
        access
    }
}

/// What one replica holds: which positions are executed, their highest stamp and, per key, how many writes.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) executed: Frontier,
    pub(crate) stamp: u64,
    writes: BTreeMap<Key, usize>,
}

/// What all replicas together have shown so far.
#[derive(Default)]
pub(crate) struct Agreement {
    /// What each position was decided to hold; `None`: a no-op.
    pub(crate) decided: BTreeMap<Position, Option<BatchId>>,
    /// Where each batch was decided, in a graph.
    places: BTreeMap<BatchId, Position>,
    /// The writes of each key in their order.
    writes: BTreeMap<Key, Vec<Position>>,
    /// How many writes of the key each read of it has seen.
    reads: BTreeMap<(Key, Position), usize>,
}

impl Agreement {
    /// Replica `id`, which holds `state`, executes `chosen`.
    pub(crate) fn execute(&mut self, id: u8, order: Order, state: &mut State, chosen: &Chosen) {
        let position = chosen.position;
        if order == Order::Log {
            assert_eq!(position, state.executed.slot().next().into(), "values are chosen in slot order");
        }
        assert!(state.executed.insert(position), "replica {id} executes {position:?} twice");
        state.stamp = state.stamp.max(chosen.stamp);
        let batch = chosen.value.body().map(Frame::id);
        let decided = *self.decided.entry(position).or_insert(batch);
        assert_eq!(batch, decided, "agreement: replica {id} disagrees about {position:?}");
        if order == Order::Graph
            && let Some(frame) = chosen.value.body()
        {
            let place = *self.places.entry(frame.id()).or_insert(position);
            assert_eq!(place, position, "exactly once: {:?} is decided twice", frame.id());
            self.order(id, state, position, Access::of(frame));
        }
    }

    fn order(&mut self, id: u8, state: &mut State, position: Position, access: Access) {
        for key in access.reads.difference(&access.writes) {
            let seen = state.writes.get(key).copied().unwrap_or(0);
            let first = *self.reads.entry((key.clone(), position)).or_insert(seen);
            assert_eq!(seen, first, "order: replica {id} reads {key:?} at {position:?} in another state");
        }
        for key in access.writes {
            let all = self.writes.entry(key.clone()).or_default();
            let count = state.writes.entry(key.clone()).or_default();
            if *count == all.len() {
                all.push(position);
            }
            assert_eq!(all[*count], position, "order: replica {id} writes {key:?} in another order");
            *count += 1;
        }
    }

    /// The batches that `state` holds.
    pub(crate) fn batches<'a>(&'a self, state: &'a State) -> impl Iterator<Item = BatchId> + 'a {
        let held = self.decided.iter().filter(|(position, _)| state.executed.contains(**position));
        held.filter_map(|(_, batch)| *batch)
    }
}

/// Adds every member of `more` to `set`.
pub(crate) fn unite(set: &mut Frontier, more: &Frontier) {
    for row in 0..REPLICAS_MAX as u8 {
        set.extend_to(row, more.upto(row));
        for number in more.beyond(row) {
            set.insert(Position { row, number });
        }
    }
}

/// `set` without the last `count` numbers of each row and everything that has a gap below it; all of it if `count` is 0.
pub(crate) fn without_last(set: &Frontier, count: u64) -> Frontier {
    if count == 0 {
        return set.clone();
    }
    let mut less = Frontier::default();
    for row in 0..REPLICAS_MAX as u8 {
        less.extend_to(row, set.upto(row).saturating_sub(count));
    }
    less
}

#[cfg(test)]
mod tests {
    use panch_wire::frame::FramePool;

    use super::super::{batch_of, get, set};
    use super::*;
    use crate::protocol::Value;

    struct Replicas {
        pool: FramePool,
        agreement: Agreement,
        states: [State; 2],
    }

    impl Replicas {
        fn new() -> Self {
            Self {
                pool: FramePool::new(1 << 20),
                agreement: Agreement::default(),
                states: Default::default(),
            }
        }

        /// The batch of that counter, which writes `writes` and reads `reads`, is executed at `(row, number)`.
        fn graph(
            &mut self,
            id: usize,
            (row, number): (u8, u64),
            counter: u64,
            writes: &[&[u8]],
            reads: &[&[u8]],
        ) {
            let commands: Vec<_> =
                writes.iter().map(|key| set(key)).chain(reads.iter().map(|key| get(key))).collect();
            let frame = batch_of(&self.pool, 0, 1, counter, &commands);
            let position = Position { row, number };
            let chosen = Chosen { position, stamp: 1, value: Value::Batch(frame) };
            self.agreement.execute(id as u8, Order::Graph, &mut self.states[id], &chosen);
        }
    }

    #[test]
    fn batches_that_do_not_interfere_may_be_executed_in_any_order() {
        let mut replicas = Replicas::new();
        for (id, order) in [(0, [0, 1, 2]), (1, [2, 0, 1])] {
            for at in order {
                match at {
                    0 => replicas.graph(id, (0, 1), 1, &[b"a", b"b"], &[b"d"]),
                    1 => replicas.graph(id, (1, 1), 2, &[b"a"], &[b"d"]),
                    _ => replicas.graph(id, (2, 1), 3, &[b"c"], &[b"d"]),
                }
            }
        }
        assert!(replicas.states[0].executed == replicas.states[1].executed);
    }

    #[test]
    #[should_panic(expected = "in another order")]
    fn writes_of_one_key_in_two_orders_are_noticed() {
        let mut replicas = Replicas::new();
        replicas.graph(0, (0, 1), 1, &[b"a", b"b"], &[]);
        replicas.graph(0, (1, 1), 2, &[b"b"], &[]);
        replicas.graph(1, (1, 1), 2, &[b"b"], &[]);
    }

    #[test]
    #[should_panic(expected = "in another state")]
    fn a_read_on_two_sides_of_a_write_is_noticed() {
        let mut replicas = Replicas::new();
        replicas.graph(0, (0, 1), 1, &[b"a"], &[]);
        replicas.graph(0, (1, 1), 2, &[], &[b"a"]);
        replicas.graph(1, (1, 1), 2, &[], &[b"a"]);
    }

    #[test]
    #[should_panic(expected = "is decided twice")]
    fn a_batch_at_two_positions_of_a_graph_is_noticed() {
        let mut replicas = Replicas::new();
        replicas.graph(0, (0, 1), 1, &[b"a"], &[]);
        replicas.graph(0, (1, 1), 1, &[b"a"], &[]);
    }

    #[test]
    #[should_panic(expected = "disagrees")]
    fn two_values_at_one_position_are_noticed() {
        let mut replicas = Replicas::new();
        replicas.graph(0, (0, 1), 1, &[b"a"], &[]);
        replicas.graph(1, (0, 1), 2, &[b"a"], &[]);
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_position_executed_twice_is_noticed() {
        let mut replicas = Replicas::new();
        replicas.graph(0, (0, 1), 1, &[b"a"], &[]);
        replicas.graph(0, (0, 1), 1, &[b"a"], &[]);
    }
}
