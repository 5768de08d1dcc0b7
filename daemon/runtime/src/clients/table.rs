//! The client connections of one core.

use std::net::SocketAddr;
use std::sync::Arc;

use panch_replica::outbox::ReplyTo;
use panch_ring::event::Token;
use panch_ring::parts::SendList;
use panch_ring::ring::{Ring, SocketId};
use panch_wire::client::Commit;
use panch_wire::command::Reply;
use panch_wire::time::Instant;

use super::connection::{CONNECTIONS_MAX, Connection, ConnectionKey, Speech};
use super::seats::Seats;
use crate::token;

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
    /// Bytes of replies held for a connection at which it is closed.
    overrun_size: usize,
    dirty: Vec<ConnectionKey>,
    stalled: Vec<ConnectionKey>,
    overrun: Vec<ConnectionKey>,
    list: SendList,
}

impl Clients {
    pub(crate) fn new(core: usize, cores: usize, seats: Arc<Seats>, overrun_size: usize) -> Self {
        Self {
            core,
            cores,
            places: Vec::new(),
            free: Vec::new(),
            count: 0,
            accepted: 0,
            seats,
            overrun_size,
            dirty: Vec::new(),
            stalled: Vec::new(),
            overrun: Vec::new(),
            list: SendList::new(),
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
        connection.reply(to.request, reply, commit);
        if connection.held() > self.overrun_size {
            connection.overrun = true;
            connection.output = Vec::new();
            self.overrun.push(key);
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(key);
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
    pub(crate) fn flush(&mut self, ring: &mut Ring) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            let Some(place) = self.places.get_mut(key.index()) else { continue };
            let Some(connection) = place.connection.as_deref_mut().filter(|it| it.key == key) else {
                continue;
            };
            connection.dirty = false;
            if connection.sending || connection.output.is_empty() {
                continue; // what comes meanwhile goes with the next send
            }
            let bytes = std::mem::replace(&mut connection.output, ring.send_buffers().take());
            self.list.push_bytes(bytes);
            connection.sending = true;
            ring.send(connection.socket, &mut self.list, token::client(key));
        }
        self.dirty = dirty;
    }

    /// A send of `key` has ended: what gathered meanwhile may go.
    pub(crate) fn sent(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        let place = self.places.get_mut(key.index())?;
        let connection = place.connection.as_deref_mut().filter(|connection| connection.key == key)?;
        connection.sending = false;
        if !connection.output.is_empty() && !connection.dirty {
            connection.dirty = true;
            self.dirty.push(key);
        }
        Some(connection)
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

    #[test]
    fn a_connection_that_is_owed_too_much_is_given_up_and_holds_nothing_more() {
        let mut ring = Ring::new(&RingConfig::default(), Doorbell::new().unwrap()).unwrap();
        let mut clients = Clients::new(0, 1, Seats::new(10).into(), 1000);
        let keys = [(); 2].map(|()| {
            let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
            let speech = Speech::Native(NativeSpeech { terms: None, outstanding: 100 });
            clients.add(Instant(0), ring.add_socket(socket), None, speech)
        });
        let value = [b'x'; 300];
        for request in 0..100 {
            clients.reply(ReplyTo { connection: keys[0].0, request }, Reply::Bytes(&value), None);
            let held = clients.find(keys[0]).unwrap().held();
            assert!(held <= 1000, "{held}");
        }
        clients.reply(ReplyTo { connection: keys[1].0, request: 0 }, Reply::Bytes(&value), None);
        assert_eq!((clients.take_overrun(), clients.take_overrun()), (Some(keys[0]), None));
        assert!(clients.find(keys[1]).unwrap().held() > 300, "others keep theirs");
    }
}
