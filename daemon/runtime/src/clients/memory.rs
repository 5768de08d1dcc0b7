//! What clients make a node hold: requests that are not all there or not taken in yet, replies that nobody has read, and what replies to
//! outstanding requests will take.
//!
//! There is one limit for the node, whichever core a connection is on and however many there are. It is kept at the entrance: before a
//! request is taken in, what its reply will take is reserved; without room it waits, and after its time it is refused. Who holds
//! little always has room for requests whose replies are small, so that clients that read are served while others do not. Memory for
//! which somebody waits is taken back from those whose clients let it lie.
//!
//! Invariants:
//! * Of each connection its core counts what [`Connection::size`] was when it last looked, which is after each thing that it did with it.
//! * What the cores count together exceeds the limit only by what connections may always hold, by one reply that is longer than half of
//!   it, and by replies that became longer than what was reserved for them; when those are too much, their connections are closed.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use panch_replica::ceilings::REPLY_SIZE_MAX;
use panch_wire::time::{Duration, Instant};

use super::connection::Connection;
use crate::options::CLIENT_LITTLE_MIN;

/// The most bytes that a connection may hold whatever the others do, if all connections may hold them together.
const LITTLE_MAX: usize = 64 << 10;
/// A core tells the others what it counts once it differs by so much from what they know, and at the end of each turn.
const STEP: usize = 256 << 10;
/// Who finds no room tries again with every turn; after so long without a try nobody waits any more.
const WANTED_FOR: Duration = Duration::from_millis(500);
/// Whoever holds memory for which somebody waits, and whose client has done nothing for it for so long, gives it back.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same if the client has done something, but has not finished the request that it began so long ago.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);

/// The limit, and what all cores count.
pub(crate) struct Memory {
    size_max: usize,
    /// Bytes that a connection may hold whatever the others do.
    little: usize,
    cores: usize,
    held: AtomicUsize,
    /// When somebody on any core last found no room.
    wanted: AtomicU64,
}

impl Memory {
    /// So many bytes for so many connections on so many cores.
    pub(crate) fn new(size_max: usize, connections_max: usize, cores: usize) -> Self {
        let little = (size_max / 2 / connections_max.max(1)).clamp(CLIENT_LITTLE_MIN, LITTLE_MAX);
        Self { size_max, little, cores, held: AtomicUsize::new(0), wanted: AtomicU64::new(0) }
    }

    /// Bytes held on all cores, as far as they have told.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// One core's count.
pub(crate) struct Share {
    memory: Arc<Memory>,
    held: Cell<usize>,
    /// Granted to the connection whose requests are being taken in, and not counted with it yet.
    claimed: Cell<usize>,
    /// What the other cores know of both.
    told: Cell<usize>,
    /// Bytes of replies for which nothing had been reserved, in this turn.
    unreserved: Cell<usize>,
    /// Half of the limit was held once, since when memory was last given back to the machine.
    was_short: Cell<bool>,
}

impl Share {
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Self {
            memory,
            held: Cell::default(),
            claimed: Cell::default(),
            told: Cell::default(),
            unreserved: Cell::default(),
            was_short: Cell::default(),
        }
    }

    /// Counts what a connection holds now; what was claimed for it is in that.
    pub(crate) fn count(&self, connection: &mut Connection) {
        let size = connection.size();
        self.claimed.set(0);
        self.change(connection.counted, size);
        connection.counted = size;
    }

    /// A connection holds so much now, instead of so much.
    pub(crate) fn change(&self, before: usize, after: usize) {
        let held = self.held.get();
        assert!(before <= held, "what a connection held is in the sum");
        self.held.set(held - before + after);
        if self.counted().abs_diff(self.told.get()) >= STEP {
            self.tell();
        }
    }

    /// What this core counts.
    fn counted(&self) -> usize {
        self.held.get() + self.claimed.get()
    }

    /// Tells the other cores.
    fn tell(&self) {
        let now = self.counted();
        // Wraps as the sum does.
        let change = now.wrapping_sub(self.told.replace(now));
        self.memory.held.fetch_add(change, Ordering::Relaxed);
    }

    /// A turn ends: every connection was counted, and the other cores are told.
    pub(crate) fn end_turn(&self) {
        self.unreserved.set(0);
        if self.counted() != self.told.get() {
            self.tell();
        }
    }

    /// Bytes that all connections of the node hold.
    pub(crate) fn total(&self) -> usize {
        let others = self.memory.held().wrapping_sub(self.told.get());
        others.wrapping_add(self.counted()).wrapping_add(self.unreserved.get())
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> usize {
        self.memory.size_max.saturating_sub(self.total())
    }

    /// Bytes that a connection may hold whatever the others do.
    pub(crate) fn little(&self) -> usize {
        self.memory.little
    }

    /// What may be owed to a connection that takes requests in now, without a claim.
    pub(crate) fn room(&self, connection: &mut Connection) -> usize {
        self.count(connection);
        let owed = connection.owed();
        // The other cores may give as much away at the same time.
        let common = self.free() / self.memory.cores;
        owed + common.max(self.memory.little.saturating_sub(owed + connection.unsent))
    }

    /// Claims so many bytes for the connection whose requests are being taken in; false if there is no room. One claim that is larger than half
    /// of the limit is granted while no more than the other half is held.
    pub(crate) fn claim(&self, now: Instant, size: usize) -> bool {
        let (size_max, half) = (self.memory.size_max, self.memory.size_max / 2);
        self.tell();
        let grant =
            |held: usize| (held + size <= size_max || (size > half && held <= half)).then(|| held + size);
        let is_granted = self.memory.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grant).is_ok();
        if is_granted {
            self.claimed.set(self.claimed.get() + size);
            self.told.set(self.told.get() + size);
        } else {
            self.want(now);
        }
        is_granted
    }

    /// Somebody finds no room now.
    pub(crate) fn want(&self, now: Instant) {
        self.memory.wanted.fetch_max(now.0, Ordering::Relaxed);
    }

    /// Requests with long replies of unknown length that one connection may have outstanding, if none is longer than so much.
    pub(crate) fn unknown_max(&self, bound: usize) -> usize {
        (self.memory.size_max / 2 / bound.max(1)).max(16)
    }

    /// Whether a request that is not all there may take so much more memory.
    pub(crate) fn grants_input(&self, now: Instant, size: usize) -> bool {
        // More may come than what was asked for, before the kernel hears that it was enough.
        let is_granted = self.free() >= size + self.headroom();
        if !is_granted {
            self.want(now);
        }
        is_granted
    }

    /// Bytes that are kept free of requests that are not all there.
    fn headroom(&self) -> usize {
        self.memory.size_max / 8 * 3
    }

    /// A reply is longer than what was reserved for it, by so much.
    pub(crate) fn exceed(&self, size: usize) {
        self.unreserved.set(self.unreserved.get() + size);
    }

    /// So much more is held than the limit that nothing is to be kept for which nothing was reserved. One reply that is larger than half of
    /// the limit is no reason.
    pub(crate) fn is_exceeded(&self) -> bool {
        let with_one = self.memory.size_max / 2 + REPLY_SIZE_MAX;
        self.total() > self.memory.size_max.max(with_one) + self.memory.size_max / 4
    }

    /// So much more is held than the limit that nobody may go on sending who was told to stop.
    pub(crate) fn has_none_left(&self) -> bool {
        self.total() > self.memory.size_max + self.memory.size_max / 4
    }

    /// Somebody, on whichever core, waited for memory then.
    pub(crate) fn is_short(&self, then: Instant) -> bool {
        let wanted = self.memory.wanted.load(Ordering::Relaxed);
        wanted > 0 && Instant(wanted) + WANTED_FOR > then
    }

    /// So many bytes are reserved at most where the length of values is not known.
    pub(crate) fn unknown_size_max(&self) -> usize {
        self.memory.size_max / 8
    }

    /// So many bytes have to come back so that whoever waits has room: a quarter of all beside what is kept free of unfinished requests.
    pub(crate) fn excess(&self) -> usize {
        self.total().saturating_sub(self.memory.size_max / 8 * 3)
    }

    /// Whether memory is to be given back to the machine: much was held, and little is now. To be asked from time to time.
    pub(crate) fn has_come_back(&self) -> bool {
        self.was_short.set(self.was_short.get() || self.free() < self.memory.size_max / 2);
        let is_free = self.total() < self.memory.size_max / 8;
        is_free && self.was_short.take()
    }

    /// Whether a connection has to give back what it holds, since its client lets it lie.
    pub(crate) fn is_idle(&self, connection: &Connection, now: Instant) -> bool {
        let is_slow = !connection.sending && now.since(connection.began) >= REQUEST_PATIENCE;
        connection.lying() > self.memory.little && (is_slow || now.since(connection.moved) >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_share_one_limit() {
        let memory = Arc::new(Memory::new(1000, 1, 2));
        let (one, two) = (Share::new(Arc::clone(&memory)), Share::new(Arc::clone(&memory)));
        one.change(0, 700);
        assert_eq!((one.free(), two.free()), (300, 1000), "the other has not heard yet");
        one.end_turn();
        assert_eq!((one.free(), two.free()), (300, 300));
        two.change(0, 260);
        assert_eq!(two.free(), 40);
        let at = |milliseconds| Instant(1) + Duration::from_millis(milliseconds);
        assert!(!one.is_short(at(0)));
        assert!(
            !two.claim(at(0), 41) && two.is_short(at(400)) && one.is_short(at(400)),
            "all cores hear of it"
        );
        assert_eq!((two.excess(), two.is_short(at(600))), (585, false));
        two.change(260, 200);
        two.end_turn();
        assert_eq!((one.free(), two.free(), memory.held()), (100, 100, 900));
        one.change(700, 50);
        one.end_turn();
        two.change(200, 0);
        two.end_turn();
        assert_eq!((one.total(), two.total(), memory.held()), (50, 50, 50));
        one.change(50, 1251);
        assert_eq!(one.free(), 0);
        assert!(!one.has_come_back(), "all is held");
        one.change(1251, 60);
        assert!(one.has_come_back() && !one.has_come_back(), "once");
        one.exceed(REPLY_SIZE_MAX);
        assert!(!one.is_exceeded(), "there may be one such");
        one.exceed(1000);
        assert!(one.is_exceeded());
        one.end_turn();
        assert!(!one.is_exceeded(), "they are counted with their connections");
    }

    #[test]
    fn claims_of_several_cores_never_exceed_the_limit() {
        const MAX: usize = 1000;
        let memory = Arc::new(Memory::new(MAX, 1, 4));
        let granted: usize = std::thread::scope(|scope| {
            let claim = || {
                let share = Share::new(Arc::clone(&memory));
                (0..100).filter(|_| share.claim(Instant(1), 7)).count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it counts")).sum()
        });
        assert!((MAX / 7 - 4..=MAX / 7).contains(&granted), "{granted}");
        assert_eq!(memory.held(), granted * 7);
    }

    #[test]
    fn what_is_larger_than_half_of_all_is_granted_while_the_other_half_is_free() {
        let share = Share::new(Arc::new(Memory::new(1000, 1, 1)));
        share.change(0, 501);
        let claim = |size| share.claim(Instant(1), size);
        assert!(!claim(5000) && share.is_short(Instant(1)), "somebody waits");
        share.change(501, 500);
        assert!(claim(5000) && !claim(5000) && !claim(1));
    }
}
