//! The walk that finds strongly connected components: Tarjan's, without recursion, because chains of dependencies grow as
//! long as there are instances.
//!
//! Why everything on the stack waits when the walk meets an obstacle: whatever is on Tarjan's stack reaches a vertex of the
//! path from the root, and the path leads to the obstacle.

use panch_wire::ids::Position;
use panch_wire::rule::{Rule, holds};

use super::waiting::{NOBODY, Obstacle};
use super::{Graph, NONE, Vertex, VertexId};

/// Nothing of the list was looked at.
const START: u32 = NONE - 1;

/// A vertex whose edges are being followed, and how far.
#[derive(Clone, Copy, Debug)]
struct Visit {
    vertex: VertexId,
    /// Which of its touches.
    touch: usize,
    /// Which list of that key.
    lane: usize,
    /// The last touch looked at in that list.
    at: u32,
}

/// Storage of the walk, reused.
#[derive(Clone, Default, Debug)]
pub(super) struct Walk {
    path: Vec<Visit>,
    stack: Vec<VertexId>,
    discovered_count: u32,
    component: Vec<(u64, Position)>,
    /// Vertices that left the graph and whose storage is not free yet.
    pub(super) removed: Vec<VertexId>,
}

impl Graph {
    /// Executes what `root` reaches and then `root`, or makes it wait for what is missing.
    pub(super) fn explore(&mut self, root: VertexId) {
        self.walk.discovered_count = 0;
        let mut obstacle = self.enter(root);
        while obstacle.is_none() {
            let Some(mut visit) = self.walk.path.pop() else { break };
            let Some(other) = self.next_edge(&mut visit) else {
                self.leave(visit.vertex);
                continue;
            };
            self.walk.path.push(visit);
            let Vertex { is_committed, discovered, .. } = self.vertices[other as usize];
            if !is_committed {
                obstacle = Some(Obstacle::Uncommitted(other));
            } else if discovered == 0 {
                obstacle = self.obstacle(other).or_else(|| self.enter(other));
            } else {
                // Discovered and still in the graph: on the stack.
                let own = &mut self.vertices[visit.vertex as usize];
                own.low = own.low.min(discovered);
            }
        }
        if let Some(obstacle) = obstacle {
            self.walk.path.clear();
            while let Some(vertex) = self.walk.stack.pop() {
                self.vertices[vertex as usize].discovered = 0;
                self.wait(vertex, obstacle);
            }
        }
        self.recycle();
    }

    /// Discovers a committed vertex; says what it waits for if batches it might depend on are not known.
    fn enter(&mut self, vertex: VertexId) -> Option<Obstacle> {
        self.walk.discovered_count += 1;
        let own = &mut self.vertices[vertex as usize];
        own.discovered = self.walk.discovered_count;
        own.low = own.discovered;
        self.walk.stack.push(vertex);
        for row in 0..self.row_count as u8 {
            let upto = own.dependencies.row(row);
            let is_known = if holds(Rule::EpaxosPrefixDependencies) {
                upto <= self.known.upto(row)
            } else {
                upto == 0 || self.known.contains(Position { row, number: upto })
            };
            if !is_known {
                return Some(Obstacle::Unknown { row, upto });
            }
        }
        self.walk.path.push(Visit { vertex, touch: 0, lane: 0, at: START });
        None
    }

    /// The next vertex that `visit.vertex` depends on and that is not executed.
    fn next_edge(&self, visit: &mut Visit) -> Option<VertexId> {
        let own = &self.vertices[visit.vertex as usize];
        while let Some(touch) = own.touches.get(visit.touch).copied() {
            let lanes = self.keys.lanes(touch);
            visit.lane = visit.lane.max(lanes.start);
            while visit.lane < lanes.end {
                let (first, row) = self.keys.lane(touch, visit.lane);
                let upto = own.dependencies.row(row);
                let mut at = if visit.at == START { first } else { self.keys.touch(visit.at).next };
                while at != NONE {
                    let other = self.keys.touch(at);
                    // Everything that interferes up to the number counts, not only what is at the number. [T-E10]
                    if other.number > upto {
                        break;
                    }
                    let counts = other.number == upto || holds(Rule::EpaxosPrefixDependencies);
                    if other.is_linked && other.vertex != visit.vertex && counts {
                        visit.at = at;
                        return Some(other.vertex);
                    }
                    at = other.next;
                }
                visit.lane += 1;
                visit.at = START;
            }
            visit.touch += 1;
            (visit.lane, visit.at) = (0, START);
        }
        None
    }

    /// All edges of `vertex` were followed: if it is the first of its component, the component is complete.
    fn leave(&mut self, vertex: VertexId) {
        let low = self.vertices[vertex as usize].low;
        if let Some(parent) = self.walk.path.last() {
            let parent = &mut self.vertices[parent.vertex as usize];
            parent.low = parent.low.min(low);
        }
        if low < self.vertices[vertex as usize].discovered {
            return;
        }
        let mut component = std::mem::take(&mut self.walk.component);
        while let Some(member) = self.walk.stack.pop() {
            let own = &mut self.vertices[member as usize];
            component.push((own.stamp, own.position));
            self.executed.insert(own.position);
            let waiting = std::mem::replace(&mut own.waiting, NOBODY);
            self.remove(member);
            self.wake(waiting);
            if member == vertex {
                break;
            }
        }
        self.component_max = self.component_max.max(component.len() as u64);
        if holds(Rule::EpaxosComponentOrder) {
            component.sort_unstable();
        } else {
            component.sort_by_key(|(stamp, _)| *stamp);
        }
        self.ready.extend(component.drain(..).map(|(_, position)| position));
        self.walk.component = component;
    }
}
