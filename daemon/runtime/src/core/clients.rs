//! Clients on this core: their bytes come in, wait if there is no room, and their connections end.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use panch_ring::event::Token;
use panch_wire::client::RefusalCode;
use panch_wire::command::CommandError;
use panch_wire::time::{Duration, Instant};

use super::{CoreLoop, RECEIVED_MAX};
use crate::clients::connection::{Connection, ConnectionKey, NativeSpeech, Speech};
use crate::clients::describe::Neighbours;
use crate::clients::{Counter, Stop, native, resp};
use crate::complaints::without_port;
use crate::token::{self, Subject};

/// Bytes of unconsumed requests at which no more is received from a client.
const INPUT_SIZE_MAX: usize = 256 << 10;

/// Memory for requests that an idle connection keeps.
const INPUT_KEPT_MAX: usize = 8 << 10;

/// While memory is short, between two looks for clients that let theirs lie.
const MEMORY_CHECK_EVERY: Duration = Duration::from_millis(100);

/// Says why, and closes. What does not fit into the buffer of a new socket is not said.
fn send_off(stream: OwnedFd, words: &[u8]) {
    let mut stream = TcpStream::from(stream);
    let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(words));
}

impl CoreLoop {
    pub(super) fn on_client_accepted(
        &mut self,
        now: Instant,
        listener: Subject,
        stream: OwnedFd,
        address: Option<SocketAddr>,
    ) {
        let refusal = if self.stopping.is_some() {
            Some((CommandError::Stopping.text(), RefusalCode::NotReady))
        } else if !self.out.clients.make_room() {
            Some(("ERR max number of clients reached", RefusalCode::TooManyConnections))
        } else {
            None
        };
        if let Some((text, code)) = refusal {
            self.counters.connections_refused += 1;
            if code == RefusalCode::TooManyConnections {
                self.complain_of_connections(now);
            }
            let mut words = Vec::new();
            if listener == Subject::ListenResp {
                panch_wire::resp::error(text, &mut words);
            } else {
                native::refuse(code, text, &self.view, &mut words);
            }
            return send_off(stream, &words);
        }
        self.counters.connections_accepted += 1;
        let socket = self.ring.add_socket(stream);
        let speech = if listener == Subject::ListenResp {
            resp::speech(self.view.options.replica.batch.value_size_max)
        } else {
            Speech::Native(NativeSpeech::default())
        };
        let key = self.out.clients.add(now, socket, address, speech);
        self.ring.receive(socket, token::client(key));
    }

    fn complain_of_connections(&mut self, now: Instant) {
        let (node, max) = (u64::from(self.view.node().0) + 1, self.view.options.connections_max);
        let text = format_args!(
            "node {node}: clients are refused, because {max} are connected, which is all that client_connections_max and the limit on open \
             files allow"
        );
        self.complaints.print_rarely(now, "too many clients", None, text);
    }

    pub(super) fn on_client_bytes(&mut self, now: Instant, key: ConnectionKey, bytes: &[u8]) {
        self.received += bytes.len();
        let Some(mut connection) = self.out.clients.take(key) else { return };
        if connection.closing || connection.overrun {
            // Whatever follows a protocol error or QUIT is not looked at.
            return self.out.clients.put_back(connection);
        }
        connection.arrivals.received(now, bytes.len());
        if !connection.sending {
            connection.moved = now;
        }
        if connection.input.is_empty() {
            connection.began = now;
        }
        if connection.input.is_empty() && !connection.stalled {
            let (used, stop) = self.consume(now, &mut connection, bytes);
            connection.input.extend_from_slice(&bytes[used..]);
            self.stop_consuming(now, &mut connection, stop);
        } else {
            connection.input.extend_from_slice(bytes);
            if !connection.stalled {
                self.consume_input(now, &mut connection);
            }
        }
        let share = self.out.clients.share();
        let size = connection.input.len();
        let has_room = connection.lacks_room.is_none() && (size <= share.little() || share.free() > 0);
        if connection.stalled && (size > INPUT_SIZE_MAX || !has_room) && !connection.paused {
            connection.paused = true;
            self.ring.pause_receive(connection.socket);
            // That takes effect with the end of the turn.
            self.received = RECEIVED_MAX;
        }
        // What it has sent before it could hear of that is kept, up to this.
        if connection.lacks_room.is_some() && connection.input.len() > INPUT_SIZE_MAX {
            self.out.clients.give_up_if_exceeded(&mut connection);
        }
        self.out.clients.put_back(connection);
    }

    /// Consumes what the connection has gathered; true if anything was.
    fn consume_input(&mut self, now: Instant, connection: &mut Connection) -> bool {
        let mut input = std::mem::take(&mut connection.input);
        let (used, stop) = self.consume(now, connection, &input);
        input.drain(..used);
        // Not what the rest of a long request is to come into.
        let is_spare = connection.needed <= input.len() && input.len() < input.capacity() / 4;
        if is_spare && input.capacity() > INPUT_KEPT_MAX {
            input.shrink_to_fit();
        }
        connection.input = input;
        self.stop_consuming(now, connection, stop);
        used > 0
    }

    fn consume(&mut self, now: Instant, connection: &mut Connection, input: &[u8]) -> (usize, Stop) {
        let share = Rc::clone(self.out.clients.share());
        let is_resp = matches!(connection.speech, Speech::Resp(_));
        if is_resp {
            // INFO shows this core as of now; a handful of copies per received chunk.
            self.count();
        }
        let counters = self.counters;
        let mut counter = Counter {
            now,
            is_closed: self.stopping.is_some(),
            is_data_full: self.view.is_data_full(),
            core: &mut self.core,
            view: &self.view,
            forwarding: &mut self.forwarding,
            requests: &mut self.counters.requests,
            commands: &mut self.commands,
            gatherings: &mut self.gatherings,
            parcels: &mut self.unsent,
            room: share.room(connection),
            share: &share,
        };
        let (used, stop) = if is_resp {
            let neighbours = Neighbours { clients: &self.out.clients, counters: &counters, ring: &self.ring };
            resp::consume(connection, input, &mut counter, &neighbours, &mut self.scratch)
        } else {
            native::consume(connection, input, &mut counter)
        };
        connection.arrivals.consumed(used);
        if used > 0 {
            connection.began = now;
        }
        (used, stop)
    }

    fn stop_consuming(&mut self, now: Instant, connection: &mut Connection, stop: Stop) {
        if stop != Stop::NeedBytes {
            connection.lacks_room = None;
        }
        match stop {
            Stop::NeedBytes => self.make_room_for_input(now, connection),
            Stop::Stalled => self.out.clients.stall(connection),
            Stop::Close(fault) => {
                self.counters.client_faults += u64::from(fault);
                connection.input = Vec::new();
                self.begin_close(connection);
            }
        }
    }

    /// A request is not all there. For one that needs more than a little memory is made; it waits for that as long as any request waits.
    fn make_room_for_input(&mut self, now: Instant, connection: &mut Connection) {
        if self.out.clients.make_room_for_input(now, connection) {
            connection.lacks_room = None;
            return;
        }
        let since = *connection.lacks_room.get_or_insert(now);
        let deadline = since + self.view.options.replica.request_timeout;
        if now < deadline {
            connection.waits_until = Some(deadline);
            return self.out.clients.stall(connection);
        }
        connection.refuse_unfinished(CommandError::NoRoom);
        connection.input = Vec::new();
        self.begin_close(connection);
    }

    fn begin_close(&mut self, connection: &mut Connection) {
        if !connection.closing {
            connection.closing = true;
            self.closing.push(connection.key);
        }
    }

    pub(super) fn on_client_ended(&mut self, key: ConnectionKey) {
        let Some(mut connection) = self.out.clients.take(key) else { return };
        connection.ended = true;
        if !connection.stalled {
            self.begin_close(&mut connection);
        }
        self.out.clients.put_back(connection);
    }

    pub(super) fn on_client_sent(&mut self, now: Instant, key: ConnectionKey, result: io::Result<()>) {
        if result.is_err() {
            self.close_client(key);
        } else {
            self.out.clients.sent(now, key);
        }
    }

    fn close_client(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.out.clients.remove(key) {
            self.ring.close_socket(connection.socket, Token(token::IGNORED));
        }
    }

    /// Whether requests, of this core's clients or another's, wait for room.
    pub(super) fn has_waiting_requests(&self) -> bool {
        self.out.clients.has_stalled() || !self.backlog.is_empty()
    }

    /// Tries requests that waited for room again; true if any got further.
    pub(super) fn retry_stalled(&mut self, now: Instant) -> bool {
        let mut progressed = self.drain_backlog(now);
        let stalled = self.out.clients.take_stalled();
        let mut served = 0;
        for key in &stalled {
            let Some(mut connection) = self.out.clients.take(*key) else { continue };
            connection.stalled = false;
            if !connection.closing && !connection.overrun && self.consume_input(now, &mut connection) {
                progressed = true;
                served += usize::from(connection.stalled);
            }
            if !connection.stalled {
                if connection.ended {
                    self.begin_close(&mut connection);
                } else if connection.paused {
                    connection.paused = false;
                    self.ring.receive(connection.socket, token::client(connection.key));
                }
            }
            self.out.clients.put_back(connection);
        }
        self.out.clients.recycle_stalled(stalled);
        // Whoever got room goes to the end of the line, so that one client with endless requests does not take it all.
        self.out.clients.rotate_stalled(served);
        progressed
    }

    /// When to look next for clients that let memory lie, if it is short.
    pub(super) fn memory_deadline(&self) -> Option<Instant> {
        let is_short = self.out.clients.share().is_short(self.memory_checked);
        is_short.then(|| self.memory_checked + MEMORY_CHECK_EVERY)
    }

    /// Closes clients that hold memory for which others may be waiting, and have let it lie.
    fn take_memory_back(&mut self, now: Instant) {
        if self.memory_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        self.memory_checked = now;
        for key in self.out.clients.find_idle(now, &self.ring) {
            self.evict(now, key);
        }
    }

    fn evict(&mut self, now: Instant, key: ConnectionKey) {
        let Some(connection) = self.out.clients.find(key) else { return };
        let (address, size) = (connection.address, connection.counted);
        self.counters.clients_evicted += 1;
        let node = u64::from(self.view.node().0) + 1;
        let shown = address.map_or_else(|| "?".to_string(), |address| address.to_string());
        let text = format_args!(
            "node {node}: the client at {shown} is closed to keep to client_memory_max: {size} bytes are held for it (replies that it does \
             not read, or that became longer than was to be expected, or a request that it does not finish)"
        );
        self.complaints.print(now, "evicted client", without_port(address), text);
        self.close_client(key);
    }

    /// Closes connections that asked for it and are owed nothing more, and those that hold what others need.
    pub(super) fn close_finished(&mut self, now: Instant) {
        while let Some(key) = self.out.clients.take_overrun() {
            self.evict(now, key);
        }
        self.take_memory_back(now);
        let mut closing = std::mem::take(&mut self.closing);
        closing.retain(|key| {
            let Some(connection) = self.out.clients.find(*key) else { return false };
            let owed = connection.is_owed();
            if !owed {
                self.close_client(*key);
            }
            owed
        });
        self.closing.append(&mut closing);
    }
}
