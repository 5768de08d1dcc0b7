//! The client connections of one core.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use panch_replica::outbox::ReplyTo;
use panch_ring::buffers::SendBuffers;
use panch_ring::event::Token;
use panch_ring::parts::SendList;
use panch_ring::ring::{Ring, SocketId};
use panch_wire::client::Commit;
use panch_wire::command::Reply;
use panch_wire::time::Instant;

use super::connection::{CONNECTIONS_MAX, Connection, ConnectionKey, Speech};
use super::memory::Share;
use super::output::Output;
use super::seats::Seats;
use crate::token;

/// By fewer bytes than these no reply is too long: texts of errors are.
const SURPLUS_MIN: usize = 256;

#[derive(Default)]
struct Place {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// The connections of one core, by key.
pub(crate) struct Clients {
    core: usize,
    cores: usize,
    places: Vec<Place>,
    free: Vec<usize>,
    count: usize,
    accepted: u64,
    /// Of the whole node.
    seats: Arc<Seats>,
    /// What they hold.
    share: Rc<Share>,
    dirty: Vec<ConnectionKey>,
    stalled: Vec<ConnectionKey>,
    overrun: Vec<ConnectionKey>,
    list: SendList,
    buffers: SendBuffers,
}

impl Clients {
    /// No connections yet, on one of so many cores. `buffers` are those of the core's ring.
    pub(crate) fn new(
        core: usize,
        cores: usize,
        seats: Arc<Seats>,
        share: Rc<Share>,
        buffers: SendBuffers,
    ) -> Self {
        Self {
            core,
            cores,
            places: Vec::new(),
            free: Vec::new(),
            count: 0,
            accepted: 0,
            seats,
            share,
            dirty: Vec::new(),
            stalled: Vec::new(),
            overrun: Vec::new(),
            list: SendList::new(),
            buffers,
        }
    }

    /// Connections open.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Finds room for another connection, for which [`Clients::add`] follows; false if it would be one too many.
    pub(crate) fn make_room(&self) -> bool {
        self.count < CONNECTIONS_MAX && self.seats.take()
    }

    /// Connections whose next request waits for room.
    pub(crate) fn waiting_count(&self) -> usize {
        self.stalled.len()
    }

    /// Takes a new connection in.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        socket: SocketId,
        address: Option<SocketAddr>,
        speech: Speech,
    ) -> ConnectionKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        let place = &mut self.places[index];
        place.generation = place.generation.wrapping_add(1);
        let key = ConnectionKey::new(self.core, place.generation, index);
        self.count += 1;
        self.accepted += 1;
        // Numbers of different cores never meet.
        let id = self.accepted * self.cores as u64 + self.core as u64;
        place.connection = Some(Box::new(Connection::new(key, socket, address, id, now, speech)));
        key
    }

    pub(crate) fn find(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        let connection = self.places.get_mut(key.index())?.connection.as_deref_mut()?;
        (connection.key == key).then_some(connection)
    }

    /// Takes a connection out, to work on it beside everything else; [`Clients::put_back`] follows.
    pub(crate) fn take(&mut self, key: ConnectionKey) -> Option<Box<Connection>> {
        let place = &mut self.places.get_mut(key.index())?.connection;
        if place.as_ref().is_some_and(|connection| connection.key == key) { place.take() } else { None }
    }

    pub(crate) fn put_back(&mut self, mut connection: Box<Connection>) {
        self.share.count(&mut connection);
        if !connection.output.is_empty() && !connection.dirty {
            connection.dirty = true;
            self.dirty.push(connection.key);
        }
        let index = connection.key.index();
        self.places[index].connection = Some(connection);
    }

    /// Forgets a connection; its late replies are dropped.
    pub(crate) fn remove(&mut self, key: ConnectionKey) -> Option<Box<Connection>> {
        let connection = self.take(key)?;
        self.free.push(key.index());
        self.count -= 1;
        self.seats.give_back();
        self.share.change(connection.counted, 0);
        Some(connection)
    }

    /// Encodes a reply for one of this core's connections; with `commit` if the request asked for it.
    pub(crate) fn reply(&mut self, to: ReplyTo, reply: Reply<'_>, commit: Option<&Commit>) {
        let (key, _) = ConnectionKey::addressed(to);
        let Some(place) = self.places.get_mut(key.index()) else { return };
        let Some(connection) = place.connection.as_deref_mut().filter(|connection| connection.key == key)
        else {
            return; // the client has gone
        };
        if connection.overrun {
            return;
        }
        connection.output.reuse(&self.buffers);
        // Requests reserve what their replies take. This is for values that became long while they were asked for.
        let surplus = connection.reply(to.request, reply, commit);
        if connection.output.is_empty() {
            connection.output.give_back(&self.buffers);
        }
        if surplus > SURPLUS_MIN {
            self.share.exceed(surplus);
            if self.share.is_exceeded() {
                self.share.count(connection);
                connection.overrun = true;
                connection.output = Output::default();
                self.overrun.push(key);
            }
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(key);
        }
    }

    /// A connection keeps bytes for which there was no memory: if that is too much, it is to be closed.
    pub(crate) fn give_up_if_exceeded(&mut self, connection: &mut Connection) {
        self.share.count(connection);
        if self.share.has_none_left() && !connection.overrun {
            connection.overrun = true;
            self.overrun.push(connection.key);
        }
    }

    /// Notes that a connection waits for room.
    pub(crate) fn stall(&mut self, connection: &mut Connection) {
        if !connection.stalled {
            connection.stalled = true;
            self.stalled.push(connection.key);
        }
    }

    /// The next connection to be closed because it is owed too much.
    pub(crate) fn take_overrun(&mut self) -> Option<ConnectionKey> {
        self.overrun.pop()
    }

    /// Connections that wait for room; the list is handed over.
    pub(crate) fn take_stalled(&mut self) -> Vec<ConnectionKey> {
        std::mem::take(&mut self.stalled)
    }

    /// The first `count` of those that wait for room go to the end of the line.
    pub(crate) fn rotate_stalled(&mut self, count: usize) {
        let count = count.min(self.stalled.len());
        self.stalled.rotate_left(count);
    }

    pub(crate) fn recycle_stalled(&mut self, mut list: Vec<ConnectionKey>) {
        list.clear();
        if self.stalled.is_empty() {
            self.stalled = list;
        }
    }

    pub(crate) fn has_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// When the next of those that wait for room is to be refused.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let connection = |key: &ConnectionKey| self.places.get(key.index())?.connection.as_deref();
        self.stalled.iter().filter_map(|key| connection(key)?.waits_until).min()
    }

    /// Gives this turn's replies to the ring: one send per connection.
    pub(crate) fn flush(&mut self, now: Instant, ring: &mut Ring) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            let Some(place) = self.places.get_mut(key.index()) else { continue };
            let Some(connection) = place.connection.as_deref_mut().filter(|it| it.key == key) else {
                continue;
            };
            connection.dirty = false;
            // What comes while others are on their way goes with the next send.
            if !connection.sending && !connection.output.is_empty() {
                connection.output.drain_into(&mut self.list);
                connection.sending = true;
                connection.unsent = self.list.size();
                connection.moved = now;
                ring.send(connection.socket, &mut self.list, token::client(key));
            }
            self.share.count(connection);
        }
        self.dirty = dirty;
        self.share.end_turn();
    }

    /// A send of `key` has ended: what gathered meanwhile may go.
    pub(crate) fn sent(&mut self, now: Instant, key: ConnectionKey) {
        let Some(place) = self.places.get_mut(key.index()) else { return };
        let Some(connection) = place.connection.as_deref_mut().filter(|connection| connection.key == key)
        else {
            return;
        };
        connection.sending = false;
        connection.unsent = 0;
        connection.moved = now;
        self.share.count(connection);
        if !connection.output.is_empty() && !connection.dirty {
            connection.dirty = true;
            self.dirty.push(key);
        }
    }

    /// What the connections of this core hold.
    pub(crate) fn share(&self) -> &Rc<Share> {
        &self.share
    }

    /// Makes memory for the rest of the request at the front of a connection's input, once that is more than a little; false if there is none.
    pub(crate) fn make_room_for_input(&mut self, now: Instant, connection: &mut Connection) -> bool {
        let Connection { input, needed, .. } = &mut *connection;
        let missing = needed.saturating_sub(input.capacity());
        if input.len() <= self.share.little() || missing == 0 {
            return true;
        }
        if !self.share.grants_input(now, missing) {
            return false;
        }
        // Growing step by step would take the memory of a long value several times over; one step for each of many short ones would take time.
        if *needed > 2 * input.len() {
            input.reserve_exact(*needed - input.len());
        } else {
            input.reserve(*needed - input.len());
        }
        self.share.count(connection);
        true
    }

    /// Memory is short: finds whose clients have let it lie for long, those that hold most first, as many as it takes.
    pub(crate) fn find_idle(&mut self, now: Instant, ring: &Ring) -> Vec<ConnectionKey> {
        let mut idle: Vec<(usize, ConnectionKey)> = Vec::new();
        for connection in self.places.iter_mut().filter_map(|place| place.connection.as_deref_mut()) {
            if connection.lying() <= self.share.little() {
                continue;
            }
            let progress = ring.progress(connection.socket).unwrap_or_default();
            let before = std::mem::replace(&mut connection.progress, progress);
            // What its client sends while it does not read changes nothing.
            if progress.0 != before.0 || (progress.1 != before.1 && !connection.sending) {
                connection.moved = now;
            }
            if self.share.is_idle(connection, now) {
                idle.push((connection.counted, connection.key));
            }
        }
        idle.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size));
        let mut excess = self.share.excess();
        idle.retain(|(size, _)| {
            let is_needed = excess > 0;
            excess = excess.saturating_sub(*size);
            is_needed
        });
        idle.into_iter().map(|(_, key)| key).collect()
    }

    /// Every connection of this core.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.places.iter().filter_map(|place| place.connection.as_deref())
    }

    /// Closes every connection, for an orderly stop.
    pub(crate) fn close_all(&mut self, ring: &mut Ring) {
        for connection in self.places.iter().filter_map(|place| place.connection.as_deref()) {
            ring.close_socket(connection.socket, Token(token::IGNORED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use panch_ring::doorbell::Doorbell;
    use panch_ring::ring::RingConfig;

    use crate::clients::connection::NativeSpeech;
    use crate::clients::memory::Memory;

    const MAX: usize = 4 << 20;

    /// What nothing beyond is kept of that was not reserved.
    const LIMIT: usize = MAX / 2 + panch_replica::ceilings::REPLY_SIZE_MAX;

    fn clients(ring: &Ring) -> Clients {
        let share = Share::new(Memory::new(MAX, 10, 1).into());
        Clients::new(0, 1, Seats::new(10).into(), share.into(), ring.send_buffers().clone())
    }

    fn open(clients: &mut Clients, ring: &mut Ring) -> (ConnectionKey, std::os::unix::net::UnixStream) {
        let (socket, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let speech = Speech::Native(NativeSpeech::default());
        assert!(clients.make_room());
        (clients.add(Instant(0), ring.add_socket(socket), None, speech), other)
    }

    #[test]
    fn replies_that_nothing_was_reserved_for_are_given_up_before_they_take_all() {
        let mut ring = Ring::new(&RingConfig::default(), Doorbell::new().unwrap()).unwrap();
        let mut clients = clients(&ring);
        let (one, other) = (open(&mut clients, &mut ring), open(&mut clients, &mut ring));
        // Long ones and, in a turn of their own, short ones.
        for size in [100 << 10, 10 << 10] {
            let value = vec![b'x'; size];
            for request in 0..2 * LIMIT / size {
                let to = ReplyTo { connection: one.0.0, request: request as u64 };
                clients.reply(to, Reply::Bytes(&value), None);
                let held = clients.find(one.0).unwrap().held();
                assert!(held <= LIMIT / 10 * 13 + value.len(), "{held}");
            }
            assert_eq!((clients.take_overrun(), clients.take_overrun()), (Some(one.0), None));
            clients.find(one.0).unwrap().overrun = false;
            clients.flush(Instant(1), &mut ring);
            assert!(clients.share.total() < MAX / 100, "{}", clients.share.total());
        }
        // As many bytes as were reserved are no reason.
        let Speech::Native(speech) = &mut clients.find(other.0).unwrap().speech else {
            unreachable!("see open")
        };
        speech.begin(7, 2 * MAX);
        let value = vec![b'x'; 2 * MAX];
        clients.reply(ReplyTo { connection: other.0.0, request: 7 }, Reply::Bytes(&value), None);
        assert!(clients.take_overrun().is_none() && clients.find(other.0).unwrap().held() > value.len());
        clients.flush(Instant(1), &mut ring);
        assert!(clients.share.total() > 2 * MAX);
        clients.remove(one.0);
        clients.remove(other.0);
        assert_eq!(clients.share.total(), 0);
    }

    #[test]
    fn whose_client_lets_memory_lie_gives_it_back_when_it_is_short_and_nobody_else_does() {
        let mut ring = Ring::new(&RingConfig::default(), Doorbell::new().unwrap()).unwrap();
        let mut clients = clients(&ring);
        let sizes = [MAX / 3, 1000, MAX / 2, MAX / 5];
        let open: Vec<_> = sizes.map(|_| open(&mut clients, &mut ring)).into();
        for ((key, _), size) in open.iter().zip(sizes) {
            clients.reply(ReplyTo { connection: key.0, request: 0 }, Reply::Bytes(&vec![b'x'; size]), None);
        }
        let at = |milliseconds| Instant(1) + panch_wire::time::Duration::from_millis(milliseconds);
        clients.flush(at(0), &mut ring);
        assert_eq!(clients.find_idle(at(1900), &ring), [], "they have two seconds");
        // The last one's client reads.
        clients.find(open[3].0).unwrap().moved = at(500);
        let idle = clients.find_idle(at(2000), &ring);
        assert_eq!(idle, [open[2].0, open[0].0], "the largest, as many as it takes");
        // These wait for the node: they have not been answered, or wait for room.
        for (key, is_stalled) in [(open[2].0, false), (open[0].0, true)] {
            let connection = clients.find(key).unwrap();
            (connection.sending, connection.stalled) = (false, is_stalled);
            connection.input = vec![0; 100 << 10];
            if let Speech::Native(speech) = &mut connection.speech
                && !is_stalled
            {
                speech.begin(1, MAX);
            }
        }
        assert_eq!(clients.find_idle(at(60_000), &ring), [open[3].0]);
        // This one began a request and does not finish it, though it sends something now and then.
        let connection = clients.find(open[2].0).unwrap();
        connection.speech = Speech::Native(NativeSpeech::default());
        connection.moved = at(60_000);
        assert!(clients.find_idle(at(60_000), &ring).contains(&open[2].0));
    }

    #[test]
    fn who_holds_little_has_room_for_short_replies_however_little_is_free() {
        let mut ring = Ring::new(&RingConfig::default(), Doorbell::new().unwrap()).unwrap();
        let mut clients = clients(&ring);
        let open = [open(&mut clients, &mut ring), open(&mut clients, &mut ring)];
        let value = vec![b'x'; 100 << 10];
        clients.reply(ReplyTo { connection: open[0].0.0, request: 0 }, Reply::Bytes(&value), None);
        clients.share.change(0, MAX);
        let [large, small] = open.map(|(key, _)| {
            let mut connection = clients.take(key).unwrap();
            let room = clients.share.room(&mut connection);
            connection.is_full(room)
        });
        assert!(large && !small);
    }
}
