//! Calls and returns in the order of time, in two doubly linked lists: of the operations that returned, and of those that never did.

use super::Timed;

/// No entry.
pub(super) const NONE: usize = usize::MAX;
/// The head of the list of calls that returned, and of their returns.
pub(super) const HEAD: usize = 0;
/// The head of the list of calls that never returned.
pub(super) const UNKNOWN: usize = 1;
const FIRST: usize = 2;

/// Both lists. Entries are numbered in the order of time.
pub(super) struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The operation of each entry.
    operation: Vec<usize>,
    /// For a call, the entry of its return; [`NONE`] if it has none.
    returns: Vec<usize>,
    is_call: Vec<bool>,
    /// For an operation that never returned, the last one before it that is the same.
    twins: Vec<Option<usize>>,
}

impl List {
    pub(super) fn new<O: PartialEq>(history: &[Timed<O>]) -> Self {
        let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * history.len());
        for (index, timed) in history.iter().enumerate() {
            // Calls sort before returns of the same time: such operations count as concurrent.
            moments.push((timed.invoked, false, index));
            if let Some(returned) = timed.returned {
                moments.push((returned.max(timed.invoked), true, index));
            }
        }
        moments.sort_unstable();
        let count = moments.len() + FIRST;
        let mut list = Self {
            next: vec![NONE; count],
            previous: vec![NONE; count],
            operation: vec![NONE; count],
            returns: vec![NONE; count],
            is_call: vec![false; count],
            twins: vec![None; history.len()],
        };
        let mut calls = vec![NONE; history.len()];
        let mut unknown: Vec<usize> = Vec::new();
        let mut lasts = [HEAD, UNKNOWN];
        for (entry, (_, is_return, operation)) in (FIRST..).zip(moments) {
            list.operation[entry] = operation;
            list.is_call[entry] = !is_return;
            if is_return {
                list.returns[calls[operation]] = entry;
            } else {
                calls[operation] = entry;
            }
            let is_unknown = history[operation].returned.is_none();
            if is_unknown {
                let same = |other: &&usize| history[**other].operation == history[operation].operation;
                list.twins[operation] = unknown.iter().rev().find(same).copied();
                unknown.push(operation);
            }
            let last = &mut lasts[if is_unknown { UNKNOWN } else { HEAD }];
            list.next[*last] = entry;
            list.previous[entry] = std::mem::replace(last, entry);
        }
        list
    }

    pub(super) fn next(&self, entry: usize) -> usize {
        self.next[entry]
    }

    pub(super) fn operation(&self, entry: usize) -> usize {
        self.operation[entry]
    }

    pub(super) fn is_call(&self, entry: usize) -> bool {
        self.is_call[entry]
    }

    /// Whether a call never returned.
    pub(super) fn is_unknown(&self, call: usize) -> bool {
        self.returns[call] == NONE
    }

    pub(super) fn twin(&self, operation: usize) -> Option<usize> {
        self.twins[operation]
    }

    /// The first return in the list, [`NONE`] if there is none.
    pub(super) fn first_return(&self) -> usize {
        let mut entry = self.next[HEAD];
        while entry != NONE && self.is_call[entry] {
            entry = self.next[entry];
        }
        entry
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
    pub(super) fn lift(&mut self, call: usize) {
        self.unlink(call);
        if self.returns[call] != NONE {
            self.unlink(self.returns[call]);
        }
    }

    /// Puts the call that was lifted last back.
    pub(super) fn unlift(&mut self, call: usize) {
        if self.returns[call] != NONE {
            self.relink(self.returns[call]);
        }
        self.relink(call);
    }
}
