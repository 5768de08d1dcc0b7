//! Linearizability (Herlihy and Wing 1990): is there an order of the operations that is legal for a sequential object and
//! respects real time?
//!
//! The search is that of Wing and Gong with Lowe's memory of (set of linearized operations, state). Linearizability is
//! local, so a history is checked part by part: every key for itself ([`register`]), and keys that operations on several keys
//! tie together as one object ([`store`]). An operation whose outcome is unknown returns never: it may take effect at any time
//! after its call, or not at all.
//!
//! What is unknown makes a search long: each such operation may stand at any later place. So they are tried last, only a few in a
//! row at first, and never where the order would be as good without them: whoever has come to the same state with the same known
//! operations and with fewer unknown ones can do everything that is possible with more.

mod list;
mod plain;
pub mod register;
pub mod store;
mod zones;

use std::hash::Hash;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use list::{HEAD, List, NONE, UNKNOWN};

/// A sequential object.
pub trait Model {
    /// One call with what was answered, if anything.
    type Operation: PartialEq;
    /// The object's state.
    type State: Clone + Eq + Hash;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `operation` took effect in `state`; `None` if its answer cannot be given there.
    fn step(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;

    /// Whether `operation` changes nothing in whatever state its answer can be given. One that changed nothing where it was tried may
    /// still be what has to change something at a later place.
    fn never_changes(&self, operation: &Self::Operation) -> bool;
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

/// So many operations of unknown outcome may take effect in a row, in each search but the last, which allows any number.
const RUNS: [usize; 2] = [1, 3];

/// Searches for an order of `history`, giving up after `steps_max` steps.
pub fn check<M: Model>(model: &M, history: &[Timed<M::Operation>], steps_max: u64) -> Verdict {
    let unknown = history.iter().filter(|timed| timed.returned.is_none()).count();
    let mut left = steps_max;
    for run_max in RUNS.into_iter().filter(|run_max| *run_max < unknown) {
        let mut search = Search::new(model, history, run_max, steps_max / 4);
        if search.run() == Verdict::Linearizable {
            return Verdict::Linearizable;
        }
        left -= search.steps.min(left);
    }
    Search::new(model, history, usize::MAX, left).run()
}

/// An operation of the order that is being tried.
struct Placed<S> {
    call: usize,
    /// The state before it.
    before: S,
    /// How many operations of unknown outcome took effect in a row right before it.
    run: usize,
    /// It changes nothing, here or anywhere else, so no order without it here is better.
    is_settled: bool,
}

/// What an order has come to, as far as it matters for what may follow.
#[derive(PartialEq, Eq, Hash)]
struct Reached<S> {
    /// The operations in it that have returned.
    known: Box<[u64]>,
    state: S,
}

/// A way to come there.
struct Visit {
    /// The operations of unknown outcome on it.
    unknown: Box<[u64]>,
    /// How many of them were the last in a row.
    run: usize,
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Timed<M::Operation>],
    list: List,
    /// Calls with a return that are not in the order yet.
    unfinished: usize,
    /// Operations in the order that have returned, and those that have not.
    sets: [Box<[u64]>; 2],
    seen: HashMap<Reached<M::State>, Vec<Visit>, FixedState>,
    order: Vec<Placed<M::State>>,
    state: M::State,
    run: usize,
    run_max: usize,
    steps: u64,
    steps_max: u64,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Timed<M::Operation>], run_max: usize, steps_max: u64) -> Self {
        Self {
            model,
            history,
            list: List::new(history),
            unfinished: history.iter().filter(|timed| timed.returned.is_some()).count(),
            sets: std::array::from_fn(|_| vec![0u64; history.len().div_ceil(64)].into_boxed_slice()),
            seen: HashMap::default(),
            order: Vec::new(),
            state: model.initial(),
            run: 0,
            run_max,
            steps: 0,
            steps_max,
        }
    }

    fn run(&mut self) -> Verdict {
        let (mut best, mut stuck) = (0, 0);
        let mut entry = self.list.next(HEAD);
        // The first return of what is not in the order yet: what is called later cannot come next.
        let mut limit = NONE;
        while self.unfinished > 0 {
            self.steps += 1;
            if self.steps > self.steps_max {
                return Verdict::Undecided;
            }
            if entry < limit && self.list.is_call(entry) {
                let placed = self.place(entry);
                (entry, limit) =
                    if placed { (self.list.next(HEAD), NONE) } else { (self.list.next(entry), limit) };
                continue;
            }
            if limit == NONE {
                if self.order.len() >= best {
                    (best, stuck) = (self.order.len(), self.list.operation(entry));
                }
                (entry, limit) = (self.list.next(UNKNOWN), entry);
                continue;
            }
            let Some(call) = self.take_back() else {
                return Verdict::NotLinearizable { stuck, linearized: best };
            };
            limit = if self.list.is_unknown(call) { self.list.first_return() } else { NONE };
            entry = self.list.next(call);
        }
        Verdict::Linearizable
    }

    /// Lets the operation of `call` take effect next, if that is legal and not known to lead nowhere.
    fn place(&mut self, call: usize) -> bool {
        let operation = self.list.operation(call);
        let asked = &self.history[operation].operation;
        let is_unknown = self.list.is_unknown(call);
        if is_unknown {
            // Of several alike the first goes first.
            let twin = self.list.twin(operation);
            if self.run >= self.run_max || twin.is_some_and(|twin| !self.has(twin)) {
                return false;
            }
        }
        let Some(after) = self.model.step(&self.state, asked) else { return false };
        let changes_nothing = after == self.state;
        if is_unknown {
            let hides_the_last = || {
                let last = self.order.last().filter(|_| self.run > 0);
                last.is_some_and(|last| self.model.step(&last.before, asked).as_ref() == Some(&after))
            };
            if changes_nothing || hides_the_last() {
                return false;
            }
        }
        let run = if is_unknown { self.run + 1 } else { 0 };
        self.toggle(operation, is_unknown);
        if !self.is_better(&after, run) {
            self.toggle(operation, is_unknown);
            return false;
        }
        self.list.lift(call);
        self.unfinished -= usize::from(!is_unknown);
        let before = std::mem::replace(&mut self.state, after);
        let run = std::mem::replace(&mut self.run, run);
        let is_settled = !is_unknown && self.model.never_changes(asked);
        self.order.push(Placed { call, before, run, is_settled });
        true
    }

    /// Takes back the last operation of which there is an alternative; its call, or `None` if there is none.
    fn take_back(&mut self) -> Option<usize> {
        loop {
            let Placed { call, before, run, is_settled } = self.order.pop()?;
            (self.state, self.run) = (before, run);
            let operation = self.list.operation(call);
            let is_unknown = self.list.is_unknown(call);
            self.toggle(operation, is_unknown);
            self.unfinished += usize::from(!is_unknown);
            self.list.unlift(call);
            if !is_settled {
                return Some(call);
            }
        }
    }

    /// Whether `state` was not come to with the same known operations and no unknown one that is not in the order now, too.
    fn is_better(&mut self, state: &M::State, run: usize) -> bool {
        let run = if self.run_max == usize::MAX { 0 } else { run };
        let [known, unknown] = &self.sets;
        let reached = Reached { known: known.clone(), state: state.clone() };
        let seen = self.seen.entry(reached).or_default();
        let is_within = |less: &[u64]| less.iter().zip(unknown).all(|(less, more)| less & !more == 0);
        if seen.iter().any(|visit| visit.run <= run && is_within(&visit.unknown)) {
            return false;
        }
        seen.push(Visit { unknown: unknown.clone(), run });
        true
    }

    fn toggle(&mut self, operation: usize, is_unknown: bool) {
        self.sets[usize::from(is_unknown)][operation / 64] ^= 1 << (operation % 64);
    }

    /// Whether an operation of unknown outcome is in the order.
    fn has(&self, operation: usize) -> bool {
        self.sets[1][operation / 64] & 1 << (operation % 64) != 0
    }
}
