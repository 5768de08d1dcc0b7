//! Clients on this core: their bytes come in, wait if there is no room, and their connections end.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use panch_ring::event::Token;
use panch_wire::client::RefusalCode;
use panch_wire::command::CommandError;
use panch_wire::time::Instant;

use super::CoreLoop;
use crate::clients::connection::{Connection, ConnectionKey, NativeSpeech, Speech};
use crate::clients::describe::Neighbours;
use crate::clients::{Counter, Room, Stop, native, resp};
use crate::token::{self, Subject};

/// Bytes of unconsumed requests at which no more is received from a client.
const INPUT_SIZE_MAX: usize = 256 << 10;

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
            Speech::Native(NativeSpeech { terms: None, outstanding: 0 })
        };
        let key = self.out.clients.add(now, socket, address, speech);
        self.ring.receive(socket, token::client(key));
    }

    pub(super) fn on_client_bytes(&mut self, now: Instant, key: ConnectionKey, bytes: &[u8]) {
        let Some(mut connection) = self.out.clients.take(key) else { return };
        if connection.closing {
            // Whatever follows a protocol error or QUIT is not looked at.
            return self.out.clients.put_back(connection);
        }
        connection.arrivals.received(now, bytes.len());
        if connection.input.is_empty() && !connection.stalled {
            let (used, stop) = self.consume(now, &mut connection, bytes);
            connection.input.extend_from_slice(&bytes[used..]);
            self.stop_consuming(&mut connection, stop);
        } else {
            connection.input.extend_from_slice(bytes);
            if !connection.stalled {
                self.consume_input(now, &mut connection);
            }
        }
        if connection.stalled && connection.input.len() > INPUT_SIZE_MAX && !connection.paused {
            connection.paused = true;
            self.ring.pause_receive(connection.socket);
        }
        self.out.clients.put_back(connection);
    }

    /// Consumes what the connection has gathered; true if anything was.
    fn consume_input(&mut self, now: Instant, connection: &mut Connection) -> bool {
        let mut input = std::mem::take(&mut connection.input);
        let (used, stop) = self.consume(now, connection, &input);
        input.drain(..used);
        if input.is_empty() && input.capacity() > INPUT_SIZE_MAX {
            input = Vec::new();
        }
        connection.input = input;
        self.stop_consuming(connection, stop);
        used > 0
    }

    fn consume(&mut self, now: Instant, connection: &mut Connection, input: &[u8]) -> (usize, Stop) {
        let room = Room::new(&self.view.options, self.ring.unsent_size(connection.socket));
        let is_resp = matches!(connection.speech, Speech::Resp(_));
        if is_resp {
            // INFO shows this core as of now; a handful of copies per received chunk.
            self.count();
        }
        let counters = self.counters;
        let mut counter = Counter {
            now,
            is_closed: self.stopping.is_some(),
            core: &mut self.core,
            view: &self.view,
            forwarding: &mut self.forwarding,
            requests: &mut self.counters.requests,
        };
        let (used, stop) = if is_resp {
            let neighbours = Neighbours { clients: &self.out.clients, counters: &counters };
            resp::consume(connection, input, &room, &mut counter, &neighbours, &mut self.scratch)
        } else {
            native::consume(connection, input, &room, &mut counter)
        };
        connection.arrivals.consumed(used);
        (used, stop)
    }

    fn stop_consuming(&mut self, connection: &mut Connection, stop: Stop) {
        match stop {
            Stop::NeedBytes => {}
            Stop::Stalled => self.out.clients.stall(connection),
            Stop::Close(fault) => {
                self.counters.client_faults += u64::from(fault);
                connection.input = Vec::new();
                self.begin_close(connection);
            }
        }
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

    pub(super) fn on_client_sent(&mut self, key: ConnectionKey, result: io::Result<()>) {
        if result.is_err() {
            self.close_client(key);
        } else {
            self.out.clients.sent(key);
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
            if !connection.closing && self.consume_input(now, &mut connection) {
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

    /// Closes connections that asked for it and are owed nothing more, and those that are owed too much.
    pub(super) fn close_finished(&mut self) {
        while let Some(key) = self.out.clients.take_overrun() {
            self.counters.output_overruns += 1;
            self.close_client(key);
        }
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
