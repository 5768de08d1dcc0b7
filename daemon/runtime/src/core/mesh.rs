//! The other cores: commands and replies, streams and messages that belong to another core's groups.

use panch_replica::batcher::Refusal;
use panch_replica::client_batch::{self, BatchRefusal};
use panch_replica::outbox::{Outbox, ReplyTo};
use panch_ring::clock;
use panch_wire::command::{CommandError, Reply};
use panch_wire::time::Instant;

use super::CoreLoop;
use super::stop::Stopping;
use crate::clients::{describe, lack_of_memory, receive_batch};
use crate::outputs::Outputs;
use crate::remote::{self, Parcel, PeerMessage, RemoteRequest, RemoteWork};
use crate::view::NodeView;

/// Nothing is done about a client's batch here. If this node is its home, who waits for it hears that the outcome is unknown: it is up to
/// the others, too.
fn decline_batch(view: &NodeView, bytes: &[u8], connection: u64, out: &mut Outputs) {
    let Some((home, numbers)) = client_batch::home_and_numbers(bytes) else { return };
    if home == view.node() {
        for request in numbers {
            out.reply(ReplyTo { connection, request }, Reply::Error(CommandError::Unknown), None);
        }
    }
}

impl CoreLoop {
    /// Takes in what other cores have sent; true if they have sent anything.
    pub(super) fn drain_mesh(&mut self) -> bool {
        let mut parcels = std::mem::take(&mut self.parcels);
        self.port.drain(|from, parcel| parcels.push((from, parcel)));
        // Read after everything taken in here was sent: leases depend on it.
        let now = clock::now();
        let busy = !parcels.is_empty();
        for (from, parcel) in parcels.drain(..) {
            match parcel {
                Parcel::Requests(requests) => self.backlog.push(from, requests),
                Parcel::Taken(size) => self.forwarding[from].taken(size),
                Parcel::Replies(bytes) => {
                    let mut at = 0;
                    while let Some((reply, next)) = remote::reply_at(&bytes, at) {
                        self.out.clients.reply(reply.to, reply.reply, reply.commit.as_ref());
                        at = next;
                    }
                }
                Parcel::PeerStream { stream, hello, answer } => self.adopt(now, stream, hello, answer),
                Parcel::PeerMessage(message) => self.on_forwarded(now, *message),
                Parcel::ListClients(to) => {
                    let text = describe::client_lines(&self.out.clients, &self.ring, now);
                    self.unsent.push_back((from, Parcel::Clients(to, text)));
                }
                Parcel::Clients(to, text) => self.gather(to, &text),
                Parcel::Stop => self.begin_stop(now),
                Parcel::Drained => self.cores_drained += 1,
            }
        }
        self.parcels = parcels;
        if !self.backlog.is_empty() {
            self.drain_backlog(now);
        }
        busy
    }

    /// Another core has said its part of an answer.
    fn gather(&mut self, to: ReplyTo, text: &str) {
        let Some(place) = self.gatherings.iter().position(|gathering| gathering.to == to) else { return };
        let gathering = &mut self.gatherings[place];
        gathering.text.push_str(text);
        gathering.missing -= 1;
        if gathering.missing == 0 {
            let gathering = self.gatherings.swap_remove(place);
            self.out.clients.reply(to, Reply::Bytes(gathering.text.as_bytes()), None);
        }
    }

    /// Submits commands of other cores until there is no room, and refuses those whose time is over; true if there was any of them.
    pub(super) fn drain_backlog(&mut self, now: Instant) -> bool {
        let has_given_up = self.stopping.as_ref().is_some_and(Stopping::has_given_up);
        let (limit, error) = if has_given_up {
            (Instant(u64::MAX), CommandError::Stopping)
        } else {
            let error = if self.core.is_live() { CommandError::NoRoom } else { CommandError::NotMember };
            (now - self.view.options.replica.request_timeout, error)
        };
        let (core, out, view) = (&mut self.core, &mut self.out, &self.view);
        self.backlog.drain(limit, |RemoteRequest { arrived, group, token, work }, is_late| match work {
            RemoteWork::Command(_, _) if is_late => {
                out.reply(token, Reply::Error(error), None);
                Ok(())
            }
            RemoteWork::Command(command, level) => {
                let lack = command.session.filter(|_| view.is_data_full());
                if let Some(error) = lack.and_then(|_| lack_of_memory(core, group, &command)) {
                    out.reply(token, Reply::Error(error), None);
                    return Ok(());
                }
                match core.submit(now, arrived, group, &command, level, token) {
                    Err(Refusal::TooLarge) => {
                        out.reply(token, Reply::Error(CommandError::TooLarge), None);
                        Ok(())
                    }
                    result => result,
                }
            }
            RemoteWork::Batch(bytes, _) if is_late => {
                decline_batch(view, bytes, token.connection, out);
                Ok(())
            }
            RemoteWork::Batch(bytes, session) => {
                // The core that it came to found it sound. It does not wait for room of its own: requests of others are behind it.
                match receive_batch(core, view, group, bytes, session) {
                    Ok((frame, _)) => core.submit_batch(now, arrived, group, frame, token.connection, false),
                    Err(BatchRefusal::Busy) => Err(Refusal::Busy),
                    Err(BatchRefusal::For(_)) => Ok(()),
                }
            }
        })
    }

    /// Takes in a message that arrived at another core.
    fn on_forwarded(&mut self, now: Instant, message: PeerMessage) {
        if !self.core.admits(message.from, message.sender, message.receiver) {
            return;
        }
        let body = match message.body {
            None => None,
            Some(bytes) => {
                let Some(mut memory) = self.pool.take(bytes.len()) else {
                    self.out.peers.dropped += 1;
                    return;
                };
                memory[..bytes.len()].copy_from_slice(&bytes);
                match memory.receive(bytes.len()) {
                    Ok(frame) => Some(frame),
                    Err(_) => return,
                }
            }
        };
        let PeerMessage { from, group, kind, message, .. } = message;
        if self.core.deliver(now, from, group, kind, &message, body, &mut self.out).is_err() {
            self.counters.peer_faults += 1;
        }
    }

    /// Hands over what has gathered. What finds a full queue stays here, where more gathers; the clients behind it wait.
    pub(super) fn send_parcels(&mut self) {
        for core in 0..self.view.cores() {
            if core == self.view.core {
                continue;
            }
            let taken = self.backlog.taken_of(core);
            if *taken > 0 && self.port.send(core, Parcel::Taken(*taken)).is_ok() {
                *taken = 0;
            }
            let requests = &mut self.forwarding[core].requests;
            if !requests.is_empty()
                && let Err(Parcel::Requests(unsent)) =
                    self.port.send(core, Parcel::Requests(std::mem::take(requests)))
            {
                *requests = unsent;
            }
            let port = &mut self.port;
            self.out.replies[core].send(|replies| match port.send(core, Parcel::Replies(replies)) {
                Err(Parcel::Replies(unsent)) => Err(unsent),
                _ => Ok(()),
            });
        }
        for _ in 0..self.unsent.len() {
            let Some((core, parcel)) = self.unsent.pop_front() else { break };
            if let Err(parcel) = self.port.send(core, parcel) {
                self.unsent.push_back((core, parcel));
            }
        }
    }

    /// Whether parcels wait for room in the mesh.
    pub(crate) fn has_unsent_parcels(&self) -> bool {
        self.forwarding.iter().any(|forwarding| !forwarding.requests.is_empty())
            || self.out.replies.iter().any(|replies| !replies.is_empty())
            || self.backlog.has_taken()
            || !self.unsent.is_empty()
    }
}
