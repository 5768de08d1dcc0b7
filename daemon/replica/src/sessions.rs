//! Client sessions: a command of a session takes effect once, however often it is decided.
//!
//! Invariants (protocols §7.2):
//! - Of every open session the replies to all executed numbers in `base..base + WINDOW` are remembered, and `base` never
//!   falls, so a number is executed at most once as long as the session is known.
//! - Every opening of a session is another session, although the client chooses the name and may use it again: the group says at
//!   which number the session begins, and that lies in the group's present generation. A generation ends whenever sessions are
//!   forgotten, so a session that is opened again under its old name begins above everything that the former one can have
//!   executed, and a late copy of a command of the former one is refused, for ever.
//! - A session that is not known is never treated as new: only [`Sessions::open`] adds one. A closed session stays known
//!   as closed until it expires, so that a late copy of its `OpenSession` and of its commands changes nothing.
//! - The table changes only by what is in the log, in log order: sessions are opened, closed and expired by commands.
//!   A protocol that executes in a partial order must order those three kinds with each other, and `ExpireSessions`
//!   with every command of a session.

mod reply;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use hashbrown::HashTable;
use panch_wire::command::{CommandError, Reply, SessionHeader};
use panch_wire::ids::Slot;
use panch_wire::rule::{Rule, holds};

use crate::ceilings::{
    SESSION_COUNT_MAX, SESSION_GENERATIONS_MAX, SESSION_NUMBER_BITS,
    SESSION_REPLY_BYTES_MAX as REPLY_BYTES_MAX, SESSION_WINDOW as WINDOW,
};
use crate::kv::digest;
use crate::snapshot::record;
use crate::snapshot::scan::Scan;
use reply::RememberedReply;

const DIGEST_SESSION: u64 = 2;
const DIGEST_REPLY: u64 = 3;
const DIGEST_GENERATION: u64 = 7;
/// Replies remembered by a session that has executed one command; doubles up to [`WINDOW`].
const RING_COUNT_MIN: usize = 8;

/// What a snapshot says of a session besides its replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SessionRecord {
    /// The client's number; 0 marks an unused place.
    pub(crate) id: u64,
    /// Numbers below were acknowledged by the client. Its generation is that of the session; a closed one has none.
    pub(crate) base: u64,
    /// The highest stamp of its uses. In a graph what is executed later may have a lower one.
    pub(crate) last_slot: Slot,
    /// Whether the client closed it.
    pub(crate) closed: bool,
}

/// The generation that a number of a command lies in.
fn generation_of(number: u64) -> u64 {
    if holds(Rule::SessionGeneration) { number >> SESSION_NUMBER_BITS } else { 0 }
}

/// The first number of a generation.
fn beginning(generation: u64) -> u64 {
    if holds(Rule::SessionGeneration) { generation << SESSION_NUMBER_BITS | 1 } else { 1 }
}

/// The last number of a generation.
fn last_of(generation: u64) -> u64 {
    if holds(Rule::SessionGeneration) { ((generation + 1) << SESSION_NUMBER_BITS) - 1 } else { u64::MAX }
}

impl SessionRecord {
    fn digest(&self) -> u64 {
        digest::of_words(DIGEST_SESSION, [self.id, self.base, self.last_slot.0, u64::from(self.closed)])
    }
}

struct Session {
    record: SessionRecord,
    /// The reply to `number` is at `number % len`; the length is a power of two of at most [`WINDOW`], or 0.
    replies: Vec<RememberedReply>,
    /// Bytes that the replies hold outside the ring.
    reply_bytes: usize,
}

/// What to do with a command of a session. The place is valid until the next change of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionAdmission {
    /// Execute it, then [`Sessions::remember`] its reply.
    Execute(SessionPlace),
    /// It was executed before: answer [`Sessions::remembered`].
    Executed(SessionPlace),
    /// Answer this, execute nothing.
    Refuse(CommandError),
}

/// Where a session lies in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionPlace(u32);

/// The session table.
pub struct Sessions {
    index: HashTable<u32>,
    places: Vec<Session>,
    free: Vec<u32>,
    open_count: usize,
    open_count_max: usize,
    /// How often sessions were forgotten.
    generation: u64,
    seed: u64,
    digest: u64,
    scan: Option<Scan>,
}

impl Session {
    fn position(&self, number: u64) -> usize {
        number as usize & (self.replies.len() - 1)
    }

    fn reply(&self, number: u64) -> Option<Reply<'_>> {
        if number.wrapping_sub(self.record.base) >= self.replies.len() as u64 {
            return None;
        }
        self.replies[self.position(number)].reply()
    }

    fn reply_digest(&self, number: u64) -> u64 {
        self.reply(number).map_or(0, |reply| reply::digest(DIGEST_REPLY, self.record.id, number, reply))
    }

    /// Makes room for `number`, which lies in the window.
    fn grow(&mut self, number: u64) {
        let outstanding = (number - self.record.base + 1) as usize;
        if outstanding <= self.replies.len() {
            return;
        }
        let length = outstanding.next_power_of_two().max(RING_COUNT_MIN);
        let mut grown = Vec::new();
        grown.resize_with(length, RememberedReply::default);
        for offset in 0..self.replies.len() as u64 {
            let number = self.record.base.wrapping_add(offset);
            let position = self.position(number);
            grown[number as usize & (length - 1)] = std::mem::take(&mut self.replies[position]);
        }
        self.replies = grown;
    }

    /// Stores the reply to `number`, which lies in the window; returns what it adds to the digest.
    fn store(&mut self, number: u64, reply: Reply<'_>) -> u64 {
        self.grow(number);
        let old_digest = self.reply_digest(number);
        let position = self.position(number);
        let place = &mut self.replies[position];
        self.reply_bytes -= place.heap_size();
        *place = RememberedReply::of(reply);
        self.reply_bytes += place.heap_size();
        self.reply_digest(number).wrapping_sub(old_digest)
    }

    /// Forgets the replies below `base`; returns what that takes from the digest.
    fn forget_below(&mut self, base: u64) -> u64 {
        let mut forgotten = 0u64;
        let count = base.saturating_sub(self.record.base).min(self.replies.len() as u64);
        for number in self.record.base..self.record.base + count {
            forgotten = forgotten.wrapping_add(self.reply_digest(number));
            let position = self.position(number);
            self.reply_bytes -= std::mem::take(&mut self.replies[position]).heap_size();
        }
        forgotten
    }

    fn push_to(&self, out: &mut Vec<u8>) {
        record::push_session(out, &self.record);
        for number in self.record.base..self.record.base.saturating_add(self.replies.len() as u64) {
            if let Some(reply) = self.reply(number) {
                record::push_reply(out, self.record.id, number, reply);
            }
        }
    }
}

fn find(index: &HashTable<u32>, places: &[Session], hash: u64, id: u64) -> Option<u32> {
    index.find(hash, |place| places[*place as usize].record.id == id).copied()
}

impl Sessions {
    /// An empty table. `seed` need not be the same on every replica.
    pub fn new(seed: u64) -> Self {
        Self::with_open_count_max(SESSION_COUNT_MAX, seed)
    }

    /// An empty table for at most `open_count_max` open sessions (and as many closed ones that have not expired).
    fn with_open_count_max(open_count_max: usize, seed: u64) -> Self {
        Self {
            index: HashTable::new(),
            places: Vec::new(),
            free: Vec::new(),
            open_count: 0,
            open_count_max,
            generation: 0,
            seed,
            digest: 0,
            scan: None,
        }
    }

    /// How many sessions are open.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// How many sessions are known, open or closed.
    pub fn known_count(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Equal tables have equal digests, however they came about.
    pub fn digest(&self) -> u64 {
        let generation = digest::of_words(DIGEST_GENERATION, [self.generation]);
        if self.generation == 0 { self.digest } else { self.digest.wrapping_add(generation) }
    }

    /// The generation in which a session opened now would begin.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of memory allocated, in about: walks the table.
    pub fn size_bytes(&self) -> usize {
        let session = |session: &Session| {
            session.replies.capacity() * size_of::<RememberedReply>() + session.reply_bytes
        };
        self.index.allocation_size()
            + self.places.capacity() * size_of::<Session>()
            + self.free.capacity() * size_of::<u32>()
            + self.places.iter().map(session).sum::<usize>()
    }

    fn hash(&self, id: u64) -> u64 {
        digest::of_words(self.seed, [id])
    }

    fn place(&self, id: u64) -> Option<SessionPlace> {
        find(&self.index, &self.places, self.hash(id), id).map(SessionPlace)
    }

    fn insert(&mut self, record: SessionRecord) {
        let place = self.free.pop().unwrap_or(self.places.len() as u32);
        let session = Session { record, replies: Vec::new(), reply_bytes: 0 };
        self.digest = self.digest.wrapping_add(record.digest());
        self.open_count += usize::from(!record.closed);
        match self.places.get_mut(place as usize) {
            None => self.places.push(session),
            Some(unused) => {
                if let Some(scan) = &mut self.scan {
                    let _ = scan.on_change(place);
                }
                *unused = session;
            }
        }
        let (seed, places) = (self.seed, &self.places);
        let rehash = |place: &u32| digest::of_words(seed, [places[*place as usize].record.id]);
        self.index.insert_unique(digest::of_words(seed, [record.id]), place, rehash);
    }

    /// The session at `place`, about to be changed: the running scan sees it first.
    fn change(&mut self, place: SessionPlace) -> &mut Session {
        let session = &mut self.places[place.0 as usize];
        if let Some(scan) = &mut self.scan
            && let Some(out) = scan.on_change(place.0)
        {
            session.push_to(out);
        }
        session
    }

    /// Changes the session's record and forgets the replies that it no longer needs.
    fn update(&mut self, place: SessionPlace, update: impl FnOnce(&mut SessionRecord)) {
        let session = self.change(place);
        let old = session.record.digest();
        let mut record = session.record;
        update(&mut record);
        let forgotten = session.forget_below(record.base);
        session.record = record;
        self.digest = self.digest.wrapping_sub(old).wrapping_sub(forgotten).wrapping_add(record.digest());
    }

    /// Opens a session; the number of its first command. Opening an open one again changes nothing but its last use, and says the
    /// same number.
    ///
    /// # Errors
    /// [`CommandError::SessionTableFull`]; [`CommandError::UnknownSession`] if it was closed, or never is to be (0).
    pub fn open(&mut self, slot: Slot, id: u64) -> Result<u64, CommandError> {
        if let Some(place) = self.place(id) {
            let SessionRecord { base, closed, .. } = self.places[place.0 as usize].record;
            if closed {
                return Err(CommandError::UnknownSession);
            }
            self.update(place, |record| record.last_slot = record.last_slot.max(slot));
            return Ok(beginning(generation_of(base)));
        }
        if id == 0 {
            return Err(CommandError::UnknownSession);
        }
        let has_room = self.open_count < self.open_count_max && self.known_count() < 2 * self.open_count_max;
        if !has_room || self.generation >= SESSION_GENERATIONS_MAX {
            return Err(CommandError::SessionTableFull);
        }
        let base = beginning(self.generation);
        self.insert(SessionRecord { id, base, last_slot: slot, closed: false });
        Ok(base)
    }

    /// Closes the session that has this number: its replies are forgotten, its name is not. Closing one that is not open, or with
    /// a number of a former one of that name, changes nothing.
    pub fn close(&mut self, slot: Slot, id: u64, number: u64) {
        let Some(place) = self.place(id) else { return };
        let SessionRecord { base, closed, .. } = self.places[place.0 as usize].record;
        if closed || generation_of(number) != generation_of(base) {
            return;
        }
        self.update(place, |record| {
            let last_slot = record.last_slot.max(slot);
            *record = SessionRecord { base: u64::MAX, last_slot, closed: true, ..*record }
        });
        self.places[place.0 as usize].replies = Vec::new();
        self.open_count -= 1;
    }

    /// Forgets every session, open or closed, last used before `before`. Returns how many of them were open.
    pub fn expire(&mut self, before: Slot) -> usize {
        let known_count = self.known_count();
        let mut expired_count = 0;
        for place in 0..self.places.len() as u32 {
            let SessionRecord { id, last_slot, closed, .. } = self.places[place as usize].record;
            if id == 0 || last_slot >= before {
                continue;
            }
            // With the window at its end nothing is remembered; what is left is the record itself.
            self.update(SessionPlace(place), |record| record.base = u64::MAX);
            let hash = self.hash(id);
            let places = &self.places;
            let found = self.index.find_entry(hash, |place| places[*place as usize].record.id == id);
            let _ = found.expect("every known session is in the index").remove();
            let session = &mut self.places[place as usize];
            self.digest = self.digest.wrapping_sub(session.record.digest());
            session.record = UNUSED;
            session.replies = Vec::new();
            self.free.push(place);
            self.open_count -= usize::from(!closed);
            expired_count += usize::from(!closed);
        }
        self.generation += u64::from(self.known_count() < known_count);
        expired_count
    }

    /// Decides about the command `header` at `slot`. Notes the use of the session and what its client acknowledges.
    pub fn admit(&mut self, slot: Slot, header: SessionHeader) -> SessionAdmission {
        let SessionHeader { session: id, number, acked_below } = header;
        let Some(place) = self.place(id).filter(|place| !self.places[place.0 as usize].record.closed) else {
            return SessionAdmission::Refuse(CommandError::UnknownSession);
        };
        let generation = generation_of(self.places[place.0 as usize].record.base);
        match generation_of(number).cmp(&generation) {
            // A late copy of a command of a former session of that name: no use of this one.
            Ordering::Less => return SessionAdmission::Refuse(CommandError::UnknownSession),
            Ordering::Greater => return SessionAdmission::Refuse(CommandError::SessionWindow),
            Ordering::Equal => {}
        }
        // Whatever the client says that it has, the session never leaves its generation.
        let acked_below = acked_below.min(last_of(generation));
        self.update(place, |record| {
            record.base = record.base.max(acked_below);
            record.last_slot = record.last_slot.max(slot);
        });
        let session = &self.places[place.0 as usize];
        let base = session.record.base;
        if number >= base.saturating_add(WINDOW) {
            return SessionAdmission::Refuse(CommandError::SessionWindow);
        }
        if !holds(Rule::SessionDedupe) {
            return SessionAdmission::Execute(place);
        }
        if number < base {
            return SessionAdmission::Refuse(CommandError::StaleNumber);
        }
        if session.reply(number).is_some() {
            return SessionAdmission::Executed(place);
        }
        if session.reply_bytes > REPLY_BYTES_MAX {
            // For good: a copy that is decided once there is room again must not take effect when its client was told otherwise.
            let refusal = CommandError::SessionWindow;
            self.remember(place, number, Reply::Error(refusal));
            return SessionAdmission::Refuse(refusal);
        }
        SessionAdmission::Execute(place)
    }

    /// Whether the command of `header` was executed and its reply is known: another copy of it would change nothing.
    pub fn remembers(&self, header: SessionHeader) -> bool {
        let session = self.place(header.session).map(|place| &self.places[place.0 as usize]);
        session.is_some_and(|session| session.reply(header.number).is_some())
    }

    /// Remembers the reply of a command that [`admit`](Self::admit) let execute just before.
    pub fn remember(&mut self, place: SessionPlace, number: u64, reply: Reply<'_>) {
        // `admit` has shown the session to the scan.
        let session = &mut self.places[place.0 as usize];
        if number >= session.record.base {
            self.digest = self.digest.wrapping_add(session.store(number, reply));
        }
    }

    /// The reply of a command that [`admit`](Self::admit) found executed.
    pub fn remembered(&self, place: SessionPlace, number: u64) -> Reply<'_> {
        self.places[place.0 as usize].reply(number).unwrap_or(Reply::Error(CommandError::StaleNumber))
    }

    /// Sets the generation from a snapshot, before its sessions; false if it cannot be one, as the first, which no snapshot says.
    pub(crate) fn restore_generation(&mut self, generation: u64) -> bool {
        let fits = self.generation == 0
            && self.known_count() == 0
            && (1..=SESSION_GENERATIONS_MAX).contains(&generation);
        self.generation = generation;
        fits
    }

    /// Adds a session of a snapshot; false if it cannot be one.
    pub(crate) fn restore(&mut self, record: SessionRecord) -> bool {
        let is_new = record.id != 0 && record.base != 0 && self.place(record.id).is_none();
        let fits = is_new && (record.closed || generation_of(record.base) <= self.generation);
        if fits {
            self.insert(record);
        }
        fits
    }

    /// Adds a remembered reply of a snapshot; false if it cannot be one.
    pub(crate) fn restore_reply(&mut self, id: u64, number: u64, reply: Reply<'_>) -> bool {
        let Some(place) = self.place(id) else { return false };
        let session = &mut self.places[place.0 as usize];
        let SessionRecord { base, closed, .. } = session.record;
        let fits = !closed && number >= base && number - base < WINDOW && session.reply(number).is_none();
        if fits {
            self.digest = self.digest.wrapping_add(session.store(number, reply));
        }
        fits
    }

    pub(crate) fn begin_scan(&mut self) {
        self.scan = Some(Scan::new(self.places.len() as u32));
    }

    /// Appends records to `out` until it is `size` long or `visit_count` places were looked at. True when all is out.
    pub(crate) fn scan(&mut self, out: &mut Vec<u8>, size: usize, visit_count: &mut usize) -> bool {
        let Some(scan) = &mut self.scan else { return true };
        scan.drain_saved(out);
        while out.len() < size && *visit_count > 0 && !scan.is_done() {
            *visit_count -= 1;
            if let Some(index) = scan.advance() {
                let session = &self.places[index as usize];
                if session.record.id != 0 {
                    session.push_to(out);
                }
            }
        }
        let done = scan.is_done();
        if done {
            self.scan = None;
        }
        done
    }

    pub(crate) fn abort_scan(&mut self) {
        self.scan = None;
    }
}

const UNUSED: SessionRecord = SessionRecord { id: 0, base: 0, last_slot: Slot(0), closed: true };
