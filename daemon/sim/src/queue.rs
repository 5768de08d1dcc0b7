//! Virtual time: events ordered by (time, order of scheduling).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Nanoseconds since the start of the run, on no node's clock.
pub type Time = u64;

/// One microsecond.
pub const MICROSECOND: Time = 1_000;
/// One millisecond.
pub const MILLISECOND: Time = 1_000_000;
/// One second.
pub const SECOND: Time = 1_000_000_000;

/// What will happen.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<(Time, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    sequence: u64,
    now: Time,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), sequence: 0, now: 0 }
    }
}

impl<E> Queue<E> {
    /// The time of the event that was taken last.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Schedules `event` at `at`, or now if that has passed.
    pub fn push(&mut self, at: Time, event: E) {
        let index = match self.free.pop() {
            Some(index) => {
                self.events[index] = Some(event);
                index
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.sequence += 1;
        self.heap.push(Reverse((at.max(self.now), self.sequence, index)));
    }

    /// Schedules `event` after `delay`.
    pub fn push_in(&mut self, delay: Time, event: E) {
        self.push(self.now + delay, event);
    }

    /// The time of the next event.
    pub fn next_time(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Takes the next event and moves the time to it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse((at, _, index)) = self.heap.pop()?;
        debug_assert!(at >= self.now, "time does not go back");
        self.now = at;
        self.free.push(index);
        self.events[index].take()
    }

    /// How many events were scheduled so far.
    pub fn scheduled(&self) -> u64 {
        self.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_then_of_scheduling() {
        let mut queue = Queue::default();
        queue.push(20, 'c');
        queue.push(10, 'a');
        queue.push(10, 'b');
        assert_eq!(queue.pop(), Some('a'));
        queue.push(5, 'x'); // in the past: at once, after what was scheduled for now
        assert_eq!(queue.pop(), Some('b'));
        assert_eq!(queue.pop(), Some('x'));
        assert_eq!(queue.now(), 10);
        assert_eq!(queue.pop(), Some('c'));
        assert_eq!((queue.now(), queue.pop()), (20, None));
    }
}
