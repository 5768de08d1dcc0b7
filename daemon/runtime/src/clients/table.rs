//! The client connections of one core.

use std::net::SocketAddr;

use panch_replica::core::ReplyTo;
use panch_ring::event::Token;
use panch_ring::parts::SendList;
use panch_ring::ring::{Ring, SocketId};
use panch_wire::command::Reply;
use panch_wire::time::Instant;

use super::connection::{CONNECTIONS_MAX, Connection, ConnectionKey, Speech};
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
    count_max: usize,
    dirty: Vec<ConnectionKey>,
    stalled: Vec<ConnectionKey>,
    list: SendList,
}

impl Clients {
    pub(crate) fn new(core: usize, cores: usize, count_max: usize) -> Self {
        Self {
            core,
            cores,
            places: Vec::new(),
            free: Vec::new(),
            count: 0,
            accepted: 0,
            count_max: count_max.min(CONNECTIONS_MAX),
            dirty: Vec::new(),
            stalled: Vec::new(),
            list: SendList::new(),
        }
    }

    /// Connections open.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether another connection would be one too many.
    pub(crate) fn is_full(&self) -> bool {
        self.count >= self.count_max
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
        place.connection = Some(Box::new(Connection {
            key,
            socket,
            address,
            // Numbers of different cores never meet.
            id: self.accepted * self.cores as u64 + self.core as u64,
            since: now,
            speech,
            input: Vec::new(),
            output: Vec::new(),
            dirty: false,
            sending: false,
            stalled: false,
            paused: false,
            closing: false,
            ended: false,
        }));
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
        Some(connection)
    }

    /// Encodes a reply for one of this core's connections.
    pub(crate) fn reply(&mut self, to: ReplyTo, reply: Reply<'_>) {
        let key = ConnectionKey(to.connection);
        let Some(place) = self.places.get_mut(key.index()) else { return };
        let Some(connection) = place.connection.as_deref_mut().filter(|connection| connection.key == key)
        else {
            return; // the client has gone
        };
        connection.reply(to.request, reply);
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

    /// Connections that wait for room; the list is handed over.
    pub(crate) fn take_stalled(&mut self) -> Vec<ConnectionKey> {
        std::mem::take(&mut self.stalled)
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
