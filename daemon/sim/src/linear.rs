//! Linearizability (Herlihy and Wing 1990): is there an order of the operations that is legal for a sequential object and
//! respects real time?
//!
//! The search is that of Wing and Gong with Lowe's memory of (set of linearized operations, state). Linearizability is
//! local, so a history is checked key by key ([`register`]). An operation whose outcome is unknown returns never: it may
//! take effect at any time after its call, or not at all.

pub mod register;

use std::hash::Hash;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

/// A sequential object.
pub trait Model {
    /// One call with what was answered, if anything.
    type Operation;
    /// The object's state.
    type State: Clone + Eq + Hash;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `operation` took effect in `state`; `None` if its answer cannot be given there.
    fn step(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;
}

/// An operation in real time. Any clock will do, as long as all operations of a history use the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timed<O> {
    /// When it was called.
    pub invoked: u64,
    /// When it returned; `None` if it never did, or its outcome is unknown.
    pub returned: Option<u64>,
    /// What it was.
    pub operation: O,
}

/// The result of a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. In the longest legal order found, `linearized` operations took effect, and then the operation at
    /// the index `stuck` of the history had to return but could not have its answer.
    NotLinearizable {
        /// Index of the operation that fits nowhere.
        stuck: usize,
        /// Length of the longest legal order.
        linearized: usize,
    },
    /// Not decided within the allowed number of steps.
    Undecided,
}

const NONE: usize = usize::MAX;

/// Calls and returns in the order of time as a doubly linked list; entry 0 is the head.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The operation of each entry.
    operation: Vec<usize>,
    /// For a call, the entry of its return; [`NONE`] if it has none.
    returns: Vec<usize>,
    is_call: Vec<bool>,
}

impl List {
    fn new<O>(history: &[Timed<O>]) -> Self {
        let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * history.len());
        for (index, timed) in history.iter().enumerate() {
            // Calls sort before returns of the same time: such operations count as concurrent.
            moments.push((timed.invoked, false, index));
            if let Some(returned) = timed.returned {
                moments.push((returned.max(timed.invoked), true, index));
            }
        }
        moments.sort_unstable();
        let count = moments.len() + 1;
        let mut list = Self {
            next: (1..=count).map(|index| if index == count { NONE } else { index }).collect(),
            previous: (0..count).map(|index| index.wrapping_sub(1)).collect(),
            operation: vec![NONE; count],
            returns: vec![NONE; count],
            is_call: vec![false; count],
        };
        let mut calls = vec![NONE; history.len()];
        for (index, (_, is_return, operation)) in moments.into_iter().enumerate() {
            let entry = index + 1;
            list.operation[entry] = operation;
            list.is_call[entry] = !is_return;
            if is_return {
                list.returns[calls[operation]] = entry;
            } else {
                calls[operation] = entry;
            }
        }
        list
    }

    fn unlink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = next;
        if next != NONE {
            self.previous[next] = previous;
        }
    }

    fn relink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = entry;
        if next != NONE {
            self.previous[next] = entry;
        }
    }

    /// Takes a call and its return out.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if self.returns[call] != NONE {
            self.unlink(self.returns[call]);
        }
    }

    /// Puts the call that was lifted last back.
    fn unlift(&mut self, call: usize) {
        if self.returns[call] != NONE {
            self.relink(self.returns[call]);
        }
        self.relink(call);
    }
}

/// Searches for an order of `history`, giving up after `steps_max` steps.
pub fn check<M: Model>(model: &M, history: &[Timed<M::Operation>], steps_max: u64) -> Verdict {
    let mut list = List::new(history);
    let mut unfinished = history.iter().filter(|timed| timed.returned.is_some()).count();
    let mut set = vec![0u64; history.len().div_ceil(64)].into_boxed_slice();
    let mut seen: HashSet<(Box<[u64]>, M::State), FixedState> = HashSet::default();
    let mut stack: Vec<(usize, M::State)> = Vec::new();
    let mut state = model.initial();
    let (mut best, mut stuck, mut steps) = (0, 0, 0);
    let mut entry = list.next[0];
    while unfinished > 0 {
        steps += 1;
        if steps > steps_max {
            return Verdict::Undecided;
        }
        if list.is_call[entry] {
            let operation = list.operation[entry];
            let after = model.step(&state, &history[operation].operation).and_then(|after| {
                set[operation / 64] ^= 1 << (operation % 64);
                if seen.insert((set.clone(), after.clone())) {
                    return Some(after);
                }
                set[operation / 64] ^= 1 << (operation % 64);
                None
            });
            match after {
                Some(after) => {
                    list.lift(entry);
                    unfinished -= usize::from(list.returns[entry] != NONE);
                    stack.push((entry, std::mem::replace(&mut state, after)));
                    entry = list.next[0];
                }
                // Never past the end: the return of an unfinished operation lies further on.
                None => entry = list.next[entry],
            }
            continue;
        }
        if stack.len() >= best {
            (best, stuck) = (stack.len(), list.operation[entry]);
        }
        let Some((call, before)) = stack.pop() else {
            return Verdict::NotLinearizable { stuck, linearized: best };
        };
        state = before;
        let operation = list.operation[call];
        set[operation / 64] ^= 1 << (operation % 64);
        unfinished += usize::from(list.returns[call] != NONE);
        list.unlift(call);
        entry = list.next[call];
    }
    Verdict::Linearizable
}
