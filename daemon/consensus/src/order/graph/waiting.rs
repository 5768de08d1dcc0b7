//! Who waits for what.
//!
//! Invariants:
//! * An instance is in one list of those that wait, or in none; its obstacle says in which.
//! * When what a list waits for is committed and turns out to wait itself, the list moves on as a whole: nobody in it is
//!   looked at.

use panch_wire::ids::Position;
use panch_wire::rule::{Rule, holds};

use super::{Graph, NONE, VertexId};

/// What keeps an instance from being executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Obstacle {
    /// An instance whose batch is known and interferes is not committed.
    Uncommitted(VertexId),
    /// Some batches of the row up to the number are not known.
    Unknown { row: u8, upto: u64 },
}

/// Vertices that wait for the same thing, linked through [`Vertex::next_waiting`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) first: VertexId,
    last: VertexId,
    /// When the first of them began to wait.
    since: u64,
}

/// Nobody waits.
pub(super) const NOBODY: Waiting = Waiting { first: NONE, last: NONE, since: 0 };

/// An instance that keeps committed instances from being executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocker {
    /// The instance: it is not committed, or its batch is not known.
    pub position: Position,
    /// When it began to block, as [`Graph::clock`] counts.
    pub since: u64,
}

impl Graph {
    /// Appends the instances that keep committed ones from being executed, at most `count_max`, to `out`. Instances that
    /// are not committed come first, then those nobody has announced, row by row.
    pub fn blockers(&self, count_max: usize, out: &mut Vec<Blocker>) {
        let end = out.len().saturating_add(count_max);
        let uncommitted = self.places.values().map(|vertex| &self.vertices[*vertex as usize]);
        for vertex in uncommitted.filter(|vertex| !vertex.is_committed && vertex.waiting.first != NONE) {
            if out.len() >= end {
                return;
            }
            out.push(Blocker { position: vertex.position, since: vertex.waiting.since });
        }
        let mut from: Option<Position> = None;
        for (&(row, upto), waiting) in &self.waiting {
            let start = match from {
                Some(from) if from.row == row => from.number,
                _ => self.known.upto(row) + 1,
            };
            for number in start..=upto {
                if out.len() >= end {
                    return;
                }
                let position = Position { row, number };
                if !self.known.contains(position) {
                    // Whoever waits for a higher number of the row waits for this one too.
                    let all = self.waiting.range((row, number)..=(row, u64::MAX));
                    let since = all.map(|(_, waiting)| waiting.since).min().unwrap_or(waiting.since);
                    out.push(Blocker { position, since });
                }
            }
            from = Some(Position { row, number: upto.saturating_add(1) });
        }
    }

    /// The batch is known, or will never be asked for: whoever waited for that is tried again.
    pub(super) fn note_known(&mut self, position: Position) {
        self.known.insert(position);
        let row = position.row;
        if !holds(Rule::EpaxosPrefixDependencies) {
            if let Some(waiting) = self.waiting.remove(&(row, position.number)) {
                self.wake(waiting);
            }
            return;
        }
        while let Some((key, waiting)) = self.waiting.range((row, 0)..=(row, self.known.upto(row))).next() {
            let (key, waiting) = (*key, *waiting);
            self.waiting.remove(&key);
            self.wake(waiting);
        }
    }

    /// They are tried again.
    pub(super) fn wake(&mut self, waiting: Waiting) {
        let mut next = waiting.first;
        while next != NONE {
            let own = &mut self.vertices[next as usize];
            own.obstacle = None;
            self.untried.push_back(own.position);
            next = std::mem::replace(&mut own.next_waiting, NONE);
        }
    }

    /// The vertex, and whoever waits for it, waits for the obstacle.
    pub(super) fn wait(&mut self, vertex: VertexId, obstacle: Obstacle) {
        let own = &mut self.vertices[vertex as usize];
        let others = std::mem::replace(&mut own.waiting, NOBODY);
        // One that already waits for a vertex that was committed and not tried yet is tried again after that one.
        let is_free = own.obstacle.is_none();
        if is_free {
            own.obstacle = Some(obstacle);
            self.append(Waiting { first: vertex, last: vertex, since: 0 }, obstacle);
        }
        if others.first != NONE {
            self.append(others, obstacle);
        }
    }

    fn append(&mut self, added: Waiting, obstacle: Obstacle) {
        self.clock += 1;
        let fresh = Waiting { since: self.clock, ..NOBODY };
        let waiting = match obstacle {
            Obstacle::Uncommitted(other) => &mut self.vertices[other as usize].waiting,
            Obstacle::Unknown { row, upto } => self.waiting.entry((row, upto)).or_insert(fresh),
        };
        if waiting.first == NONE {
            *waiting = Waiting { since: self.clock, ..added };
            return;
        }
        let last = std::mem::replace(&mut waiting.last, added.last);
        self.vertices[last as usize].next_waiting = added.first;
    }

    /// If the instance waits for batches that are not known, the last of these.
    pub fn unknown_for(&self, position: Position) -> Option<Position> {
        let mut at = *self.places.get(&position)?;
        loop {
            match self.vertices[at as usize].obstacle? {
                Obstacle::Unknown { row, upto } => return Some(Position { row, number: upto }),
                Obstacle::Uncommitted(other) if self.vertices[other as usize].is_committed => at = other,
                Obstacle::Uncommitted(_) => return None,
            }
        }
    }

    /// If the instance is committed and waits, what for: an instance that is not committed, or the last of those that are not known.
    pub fn missing_for(&mut self, position: Position) -> Option<Position> {
        let vertex = *self.places.get(&position)?;
        match self.obstacle(vertex)? {
            Obstacle::Unknown { row, upto } => Some(Position { row, number: upto }),
            Obstacle::Uncommitted(other) => Some(self.vertices[other as usize].position),
        }
    }

    /// What keeps the vertex from being executed, as far as is known; `None` if it is to be tried.
    pub(super) fn obstacle(&mut self, vertex: VertexId) -> Option<Obstacle> {
        let mut at = vertex;
        let found = loop {
            match self.vertices[at as usize].obstacle {
                Some(Obstacle::Uncommitted(other)) if self.vertices[other as usize].is_committed => {
                    at = other
                }
                found => break found?,
            }
        };
        // Whoever asks next finds it at once.
        let mut at = vertex;
        while let Some(Obstacle::Uncommitted(other)) = self.vertices[at as usize].obstacle.replace(found)
            && self.vertices[other as usize].is_committed
        {
            at = other;
        }
        Some(found)
    }
}
