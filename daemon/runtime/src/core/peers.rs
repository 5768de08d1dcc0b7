//! Other nodes: streams that they dialled, from the hello to the messages, and what becomes of this node's own streams.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use panch_replica::familiarity::Word;
use panch_replica::outbox::MessageKind;
use panch_ring::event::Token;
use panch_ring::parts::SendList;
use panch_ring::ring::SocketId;
use panch_ring::socket;
use panch_wire::ids::{Incarnation, ReplicaSet};
use panch_wire::peer::{Hello, Next, PacketReader, RefusalCode};
use panch_wire::record::Fixed;
use panch_wire::time::Instant;

use super::{CoreFault, CoreLoop};
use crate::complaints::without_port;
use crate::inbound::{BODY_PATIENCE, Greeting, Host, Inbound, InboundState, LogNews, Recollection};
use crate::peers::PeerEvent;
use crate::remote::{Parcel, PeerMessage};
use crate::token;

impl CoreLoop {
    pub(super) fn on_peer_event(&mut self, now: Instant, event: Option<PeerEvent>) -> Result<(), CoreFault> {
        match event {
            Some(PeerEvent::Disowned(id)) => return Err(CoreFault::Disowned { by: u64::from(id.0) + 1 }),
            Some(PeerEvent::Down(id)) => {
                self.core.suspect(now, id, &mut self.out);
                self.data.peers.reminder.soon();
            }
            None => {}
        }
        Ok(())
    }

    pub(super) fn on_peer_accepted(&mut self, now: Instant, stream: OwnedFd, address: Option<SocketAddr>) {
        if let Some(oldest) = self.inbound.excess_stranger() {
            self.counters.connections_refused += 1;
            self.close_inbound(oldest);
        }
        let socket = self.ring.add_socket(stream);
        let place = self.inbound.add(Inbound::new(now, socket, address));
        self.ring.receive(socket, token::peer_in(place));
    }

    /// Closes streams whose other end has not said who it is, or was refused, for too long.
    pub(super) fn give_up_strangers(&mut self, now: Instant) {
        while let Some(place) = self.inbound.overdue_stranger(now) {
            self.close_inbound(place);
        }
        while let Some(place) = self.inbound.late_greeting(now) {
            self.greet(now, place);
        }
    }

    /// Something was written down: whoever waited for it goes on.
    pub(super) fn retry_greetings(&mut self, now: Instant) {
        for place in 0..self.inbound.len() {
            let state = self.inbound.get_mut(place).map(|inbound| &inbound.state);
            if matches!(state, Some(InboundState::Greeting(opening)) if opening.may_go_on()) {
                self.greet(now, place);
            }
        }
    }

    pub(super) fn on_peer_bytes(&mut self, now: Instant, place: usize, bytes: &[u8]) {
        let Some(inbound) = self.inbound.get_mut(place) else { return };
        match &mut inbound.state {
            InboundState::Greeting(opening) => {
                opening.push(bytes);
                self.greet(now, place);
            }
            InboundState::Refused | InboundState::HandedOver { .. } => {}
            InboundState::Up { .. } if !inbound.held.is_empty() => inbound.held.extend_from_slice(bytes),
            InboundState::Up { .. } => {
                let used = self.deliver(now, place, bytes);
                if used < bytes.len()
                    && let Some(inbound) = self.inbound.get_mut(place)
                {
                    inbound.held.extend_from_slice(&bytes[used..]);
                    self.ring.pause_receive(inbound.socket);
                }
            }
        }
    }

    fn greet(&mut self, now: Instant, place: usize) {
        let Some(inbound) = self.inbound.get_mut(place) else { return };
        let InboundState::Greeting(opening) = &mut inbound.state else { return };
        let (socket, address) = (inbound.socket, inbound.address);
        // The key of this life is durable before anybody hears of it. It goes on once that is written.
        if !self.data.is_named() {
            return;
        }
        let mut answer = self.ring.send_buffers().take();
        let options = &self.view.options;
        let host = Host {
            hello: &self.hello,
            node_count: options.members.len() as u8,
            secret: options.secret.as_ref(),
            recollection: Recollection::Of(&self.data.peers),
            is_late: opening.is_late(now),
        };
        match host.greet(opening, &mut answer) {
            Greeting::Incomplete => self.ring.send_buffers().give(answer),
            Greeting::Waiting => {
                opening.wait(now);
                self.ring.send_buffers().give(answer);
            }
            Greeting::Challenged => self.answer(socket, answer, place),
            Greeting::Accepted(hello) => {
                let owner = usize::from(hello.core_index) % self.view.cores();
                let elsewhere = owner != self.view.core && usize::from(hello.core_count) == self.view.cores();
                if !elsewhere || !self.hand_over(place, hello, &answer) {
                    self.begin_stream(place, hello, answer);
                } else {
                    self.ring.send_buffers().give(answer);
                }
            }
            Greeting::Answered => {
                // As one that was refused: it reads the answer and closes.
                inbound.state = InboundState::Refused;
                self.answer(socket, answer, place);
                self.ring.finish_sending(socket);
            }
            Greeting::Refused(node, code) => {
                inbound.state = InboundState::Refused;
                self.answer(socket, answer, place);
                self.ring.finish_sending(socket);
                match code {
                    // Part of every start.
                    RefusalCode::Descent => return,
                    RefusalCode::Unconfirmed => return self.out.peers.dial_soon(now, node),
                    RefusalCode::Unmet if !self.out.peers.is_unmet_for_long(now, node) => return,
                    _ => self.counters.peer_faults += 1,
                }
                let shown = address.map_or_else(|| "?".to_string(), |address| address.ip().to_string());
                let text = format_args!("node {} at {shown} refused: {}", u64::from(node.0) + 1, code.text());
                self.complaints.print(now, code.text(), without_port(address), text);
            }
            Greeting::Fault => {
                self.counters.peer_faults += 1;
                self.close_inbound(place);
            }
        }
    }

    /// Packets of `hello.node` flow on this stream from now on.
    fn begin_stream(&mut self, place: usize, hello: Hello, answer: Vec<u8>) {
        if let Some(older) = self.inbound.stream_of(hello.node, hello.core_index) {
            self.close_inbound(older);
        }
        let Some(inbound) = self.inbound.get_mut(place) else { return };
        let (from, core_index) = (hello.node, hello.core_index);
        let log = LogNews::new(hello.incarnation);
        inbound.state = InboundState::Up { from, core_index, reader: PacketReader::new(), log };
        let socket = inbound.socket;
        self.core.admits(hello.node, hello.incarnation, Incarnation(0));
        self.answer(socket, answer, place);
    }

    /// Begins to give a stream to the core that runs its groups: first this core's ring must let go of it, or it could
    /// still take bytes that are meant for the other. False if there is no descriptor left to do so.
    fn hand_over(&mut self, place: usize, hello: Hello, answer: &[u8]) -> bool {
        let Some(inbound) = self.inbound.get_mut(place) else { return false };
        let stream = self.ring.socket_fd(inbound.socket).and_then(|fd| fd.try_clone_to_owned().ok());
        let Some(stream) = stream else { return false };
        inbound.state = InboundState::HandedOver { stream, hello, answer: answer.to_vec() };
        self.ring.release_socket(inbound.socket, token::handed_over(place));
        true
    }

    /// The ring has let go of a stream: the other core goes on.
    pub(super) fn on_released(&mut self, place: usize) {
        let Some(inbound) = self.inbound.take(place) else { return };
        if let InboundState::HandedOver { stream, hello, answer } = inbound.state {
            let owner = usize::from(hello.core_index) % self.view.cores();
            self.unsent.push_back((owner, Parcel::PeerStream { stream, hello, answer }));
        }
    }

    /// Takes over a stream that another core accepted; `answer` says so.
    pub(super) fn adopt(&mut self, now: Instant, stream: OwnedFd, hello: Hello, answer: Vec<u8>) {
        let address = socket::peer_address(&stream).ok();
        let socket = self.ring.add_socket(stream);
        let place = self.inbound.add(Inbound::new(now, socket, address));
        self.begin_stream(place, hello, answer);
        self.ring.receive(socket, token::peer_in(place));
    }

    fn answer(&mut self, socket: SocketId, bytes: Vec<u8>, place: usize) {
        let mut list = SendList::new();
        list.push_bytes(bytes);
        self.ring.send(socket, &mut list, token::peer_in(place));
    }

    /// Takes in packets; returns how many bytes were used: fewer than given if frame memory ran out.
    fn deliver(&mut self, now: Instant, place: usize, bytes: &[u8]) -> usize {
        let Some(inbound) = self.inbound.get_mut(place) else { return bytes.len() };
        let (address, waiting) = (inbound.address, &mut inbound.waiting);
        let InboundState::Up { from, reader, .. } = &mut inbound.state else { return bytes.len() };
        let from = *from;
        let mut rest = bytes;
        let fault = loop {
            let message = match reader.next(&mut rest, &self.pool) {
                Ok(Next::Message(message)) => message,
                Ok(Next::NeedBytes) => return bytes.len(),
                Ok(Next::PoolExhausted) => {
                    if now.since(*waiting.get_or_insert(now)) < BODY_PATIENCE {
                        return bytes.len() - rest.len();
                    }
                    // What is behind may be the very message that frees memory. Protocols repair the loss.
                    reader.skip_body();
                    self.out.peers.dropped += 1;
                    continue;
                }
                Err(fault) => break fault.to_string(),
            };
            if message.body.is_some() {
                *waiting = None;
            }
            let (sender, receiver) = (message.incarnations.sender, message.incarnations.receiver);
            if !self.core.admits(from, sender, receiver) {
                continue;
            }
            if message.kind == MessageKind::Word as u8 {
                let Some(word) = Word::decode_fixed(message.message) else {
                    break "a word about another node that cannot be read".to_string();
                };
                self.data.peers.hear_word(from, &word);
                continue;
            }
            let group = message.group;
            if group.0 >= self.view.options.group_count() {
                break "a message for a group that does not exist".to_string();
            }
            let core = self.view.core_of(group);
            if core != self.view.core {
                let parcel = Parcel::PeerMessage(Box::new(PeerMessage {
                    from,
                    sender,
                    receiver,
                    group,
                    kind: message.kind,
                    message: message.message.to_vec(),
                    body: message.body.map(|frame| frame.bytes().to_vec()),
                }));
                // A full mesh drops it, like a network would.
                self.out.peers.dropped += u64::from(self.port.send(core, parcel).is_err());
                continue;
            }
            let (kind, body) = (message.kind, message.body);
            let delivered = self.core.deliver(now, from, group, kind, message.message, body, &mut self.out);
            match delivered {
                Ok(()) => {}
                Err(fault) if fault.ends_stream() => break fault.to_string(),
                Err(fault) => {
                    self.counters.peer_faults += 1;
                    let text = format_args!("refused what node {} sends: {fault}", u64::from(from.0) + 1);
                    self.complaints.print(now, "refused", without_port(address), text);
                }
            }
        };
        self.counters.peer_faults += 1;
        let text = format_args!("closing the stream of node {}: {fault}", u64::from(from.0) + 1);
        self.complaints.print(now, "stream", without_port(address), text);
        self.close_inbound(place);
        bytes.len()
    }

    /// Goes on with streams that waited for frame memory; true if any got further.
    pub(super) fn retry_inbound(&mut self, now: Instant) -> bool {
        let mut progressed = false;
        for place in 0..self.inbound.len() {
            let Some(inbound) = self.inbound.get_mut(place).filter(|it| !it.held.is_empty()) else {
                continue;
            };
            let mut held = std::mem::take(&mut inbound.held);
            let used = self.deliver(now, place, &held);
            progressed |= used > 0;
            held.drain(..used);
            let Some(inbound) = self.inbound.get_mut(place) else { continue };
            if held.is_empty() {
                self.ring.receive(inbound.socket, token::peer_in(place));
            }
            inbound.held = held;
        }
        progressed
    }

    /// Closes streams of lives of nodes that others know a later one of: whoever still speaks there has to say hello again.
    pub(super) fn close_outdated(&mut self) {
        let outdatings = self.data.peers.outdatings();
        if std::mem::replace(&mut self.outdatings, outdatings) == outdatings {
            return;
        }
        let nodes = ReplicaSet::first(self.view.options.members.len());
        for node in nodes.iter() {
            let is_outdated = self.data.peers.is_outdated(node);
            while is_outdated && let Some(place) = self.inbound.stream_of_node(node) {
                self.close_inbound(place);
            }
        }
    }

    pub(super) fn close_inbound(&mut self, place: usize) {
        if let Some(mut inbound) = self.inbound.take(place) {
            inbound.tell(&self.data.peers);
            self.ring.close_socket(inbound.socket, Token(token::IGNORED));
        }
    }
}
