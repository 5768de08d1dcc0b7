//! The order of execution of instances that depend on each other.
//!
//! A vertex is an instance whose batch is known and that is not executed. There is an edge from `v` to every instance `w`
//! that interferes with it and whose number is at most the dependency of `v` in the row of `w`: dependencies are prefixes,
//! because interference of batches is not transitive. Strongly connected components are executed in reverse topological
//! order, inside a component by (stamp, row, number). So any two replicas execute instances that interfere in the same order.
//!
//! Invariants:
//! * An instance is executed only when everything it reaches is committed; a no-op reaches nothing and is reached by nothing.
//! * An instance whose batch is known and does not interfere is not waited for, committed or not; one whose batch is not
//!   known is, because it might interfere.
//! * Waiting instances wait for what is really missing (a commit, or known batches up to a number of a row), never for each
//!   other, so waiting has no cycles. Each is looked at again only when that arrives.
//! * All lists are ascending by number; what is executed leaves them at once. The cost of an instance is bounded by its edges,
//!   its keys, and how often what it waits for changes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use panch_wire::ids::{Position, REPLICAS_MAX};

use crate::epaxos::{Dependencies, Footprint};
use crate::frontier::Frontier;

mod keys;
#[cfg(test)]
mod tests;
mod waiting;
mod walk;

use keys::Keys;
pub use waiting::Blocker;
use waiting::{NOBODY, Obstacle, Waiting};
use walk::Walk;

/// Index of a vertex.
type VertexId = u32;
/// No vertex.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Vertex {
    position: Position,
    stamp: u64,
    dependencies: Dependencies,
    is_committed: bool,
    /// Its places in the lists of the keys it touches. Storage is reused.
    touches: Vec<u32>,
    /// What it waits for, if it was tried and could not be executed. If that is an instance that was committed since, then
    /// what that one waits for.
    obstacle: Option<Obstacle>,
    next_waiting: VertexId,
    /// Who waits until it is committed; then until it is tried, and from then on for what it waits for.
    waiting: Waiting,
    /// Order of discovery in the walk under way; 0: not discovered.
    discovered: u32,
    /// The earliest discovered vertex known to be reachable.
    low: u32,
}

/// The instances of one replica that wait for their execution.
#[derive(Clone)]
pub struct Graph {
    row_count: usize,
    /// What was handed out by [`Graph::next`], or will be next.
    executed: Frontier,
    /// Instances whose batch is known, executed ones included.
    known: Frontier,
    places: BTreeMap<Position, VertexId>,
    vertices: Vec<Vertex>,
    free: Vec<VertexId>,
    keys: Keys,
    /// Who waits until all batches of a row up to a number are known.
    waiting: BTreeMap<(u8, u64), Waiting>,
    /// Committed instances to be tried.
    untried: VecDeque<Position>,
    /// Instances in their order of execution.
    ready: VecDeque<Position>,
    walk: Walk,
    committed_count: usize,
    component_max: u64,
    clock: u64,
}

/// Says the same of two graphs that will answer the same, however they came about.
impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instances = self.places.iter().map(|(position, vertex)| {
            let Vertex { is_committed, stamp, dependencies, .. } = &self.vertices[*vertex as usize];
            (position, is_committed.then_some((stamp, dependencies)))
        });
        let instances: BTreeMap<_, _> = instances.collect();
        f.debug_struct("Graph")
            .field("executed", &self.executed)
            .field("ready", &self.ready)
            .field("instances", &instances)
            .finish()
    }
}

impl Graph {
    /// Nothing but `executed` has happened in a group of so many replicas.
    pub fn new(replica_count: usize, executed: &Frontier) -> Self {
        assert!(replica_count <= REPLICAS_MAX);
        Self {
            row_count: replica_count,
            executed: executed.clone(),
            known: executed.clone(),
            places: BTreeMap::new(),
            vertices: Vec::new(),
            free: Vec::new(),
            keys: Keys::new(replica_count),
            waiting: BTreeMap::new(),
            untried: VecDeque::new(),
            ready: VecDeque::new(),
            walk: Walk::default(),
            committed_count: 0,
            component_max: 0,
            clock: 0,
        }
    }

    /// The batch of an instance is known. From now on instances that do not interfere do not wait for it.
    pub fn on_known(&mut self, position: Position, footprint: &Footprint) {
        if !self.is_new(position) || self.places.contains_key(&position) {
            return;
        }
        let vertex = self.free.pop().unwrap_or_else(|| {
            self.vertices.push(Vertex {
                position,
                stamp: 0,
                dependencies: Dependencies::default(),
                is_committed: false,
                touches: Vec::new(),
                obstacle: None,
                next_waiting: NONE,
                waiting: NOBODY,
                discovered: 0,
                low: 0,
            });
            (self.vertices.len() - 1) as VertexId
        });
        let own = &mut self.vertices[vertex as usize];
        own.position = position;
        self.keys.link(vertex, position, footprint, &mut own.touches);
        self.places.insert(position, vertex);
        self.note_known(position);
    }

    /// An instance is committed with a batch. May be told again.
    pub fn on_committed(
        &mut self,
        position: Position,
        stamp: u64,
        dependencies: &Dependencies,
        footprint: &Footprint,
    ) {
        self.on_known(position, footprint);
        let Some(vertex) = self.places.get(&position).copied() else { return };
        let own = &mut self.vertices[vertex as usize];
        if own.is_committed {
            return;
        }
        own.is_committed = true;
        own.stamp = stamp;
        own.dependencies = *dependencies;
        self.committed_count += 1;
        self.untried.push_back(position);
    }

    /// An instance is committed as a no-op: it is executed in any order. May be told again.
    pub fn on_committed_noop(&mut self, position: Position) {
        if !self.is_new(position) {
            return;
        }
        if let Some(vertex) = self.places.get(&position).copied() {
            if self.vertices[vertex as usize].is_committed {
                return;
            }
            let waiting = std::mem::replace(&mut self.vertices[vertex as usize].waiting, NOBODY);
            self.remove(vertex);
            self.recycle();
            self.wake(waiting);
        }
        self.executed.insert(position);
        self.ready.push_back(position);
        self.note_known(position);
    }

    /// The next instance to execute. The caller executes it before it asks again.
    #[expect(clippy::should_implement_trait, reason = "more may come after None")]
    pub fn next(&mut self) -> Option<Position> {
        loop {
            if let Some(position) = self.ready.pop_front() {
                return Some(position);
            }
            let position = self.untried.pop_front()?;
            if let Some(vertex) = self.places.get(&position).copied()
                && self.vertices[vertex as usize].obstacle.is_none()
            {
                self.explore(vertex);
            }
        }
    }

    /// What is executed, once [`Graph::next`] has answered `None`.
    pub fn executed(&self) -> &Frontier {
        &self.executed
    }

    /// Whether [`Graph::executed`] says more than [`Graph::next`] has handed out.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Committed instances that are not executed.
    pub fn waiting_count(&self) -> usize {
        self.committed_count
    }

    /// Instances in the largest strongly connected component so far.
    pub fn component_max(&self) -> u64 {
        self.component_max
    }

    /// Counts the times that instances had to wait. What blocked at an earlier reading, and began before it, has blocked
    /// since.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// A snapshot replaced the state: exactly `executed` is executed. What was committed since [`Graph::next`] last answered
    /// `None` is kept.
    pub fn install(&mut self, executed: &Frontier) {
        self.waiting.clear();
        self.untried.clear();
        self.executed = executed.clone();
        self.known = executed.clone();
        // No-ops are ready as soon as they are committed, and leave no vertex.
        self.ready.retain(|position| self.executed.insert(*position));
        self.ready.iter().for_each(|position| {
            self.known.insert(*position);
        });
        let places: Vec<_> = self.places.iter().map(|(position, vertex)| (*position, *vertex)).collect();
        for (position, vertex) in places {
            if executed.contains(position) {
                self.remove(vertex);
                continue;
            }
            self.known.insert(position);
            let own = &mut self.vertices[vertex as usize];
            (own.obstacle, own.next_waiting, own.waiting) = (None, NONE, NOBODY);
            if own.is_committed {
                self.untried.push_back(position);
            }
        }
        self.recycle();
    }

    /// Whether the position exists and is not executed.
    fn is_new(&self, position: Position) -> bool {
        usize::from(position.row) < self.row_count && position.number > 0 && !self.executed.contains(position)
    }

    /// Takes a vertex out of the graph. Its storage may be used again only after [`Graph::recycle`]: a walk under way may
    /// still stand on it.
    fn remove(&mut self, vertex: VertexId) {
        let own = &mut self.vertices[vertex as usize];
        self.places.remove(&own.position);
        self.keys.unlink(&own.touches);
        self.committed_count -= usize::from(own.is_committed);
        self.walk.removed.push(vertex);
    }

    /// The storage of removed vertices may be used again.
    fn recycle(&mut self) {
        for vertex in self.walk.removed.drain(..) {
            let own = &mut self.vertices[vertex as usize];
            self.keys.release(&mut own.touches);
            own.is_committed = false;
            (own.obstacle, own.next_waiting, own.waiting) = (None, NONE, NOBODY);
            (own.discovered, own.low) = (0, 0);
            self.free.push(vertex);
        }
    }
}
