//! Dialling the other nodes, and what is said of those that are not reached.

use panch_ring::ring::Ring;
use panch_ring::socket;
use panch_wire::ids::{ReplicaId, ReplicaSet};
use panch_wire::time::Instant;

use super::{Opening, PEER_LIVENESS, Peers, State};
use crate::pace::PAUSE_MIN;
use crate::token;

impl Peers {
    /// Somebody says that this peer has started again: whether it has, the peer itself must say.
    pub(crate) fn dial_soon(&mut self, now: Instant, id: ReplicaId) {
        if let Some(State::Down(at)) = self.outbound.get_mut(id.index()).map(|peer| &mut peer.state) {
            *at = (*at).min(now + PAUSE_MIN);
        }
    }

    pub(super) fn dial(&mut self, now: Instant, id: ReplicaId, ring: &mut Ring) {
        let address = self.addresses.of(id);
        self.outbound[id.index()].address = address;
        let stream = socket::stream_for(address).and_then(|stream| {
            socket::set_liveness(&stream, &PEER_LIVENESS)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                let socket = ring.add_socket(stream);
                ring.connect(socket, address, token::peer_out(id.0));
                let (before, answer) = (Vec::new(), Vec::new());
                let opening =
                    Opening { socket, since: now, is_connected: false, before, answer, is_proven: false };
                self.outbound[id.index()].state = State::Opening(opening);
            }
            Err(error) => {
                self.fail(now, id, ring, Some(("cannot connect", &error.to_string())));
                // This machine may lack the kind of address that this one is of, and the name may have others.
                self.is_not_reached(now, id, None);
            }
        }
    }

    /// Nobody answers where the node should be, or somebody else: its name is looked up again, if it has one. With a `reason` it is said, too:
    /// by one core for all, at once and then once a minute.
    pub(super) fn is_not_reached(&mut self, now: Instant, id: ReplicaId, reason: Option<&str>) {
        let address = self.outbound[id.index()].address;
        self.addresses.is_not(id, address);
        if let Some(reason) = reason.filter(|_| self.hello.core_index == 0) {
            let number = u64::from(id.0) + 1;
            let text = format_args!(
                "node {number} at {address} is not reached: {reason}. It is tried again all the time"
            );
            self.complaints.print_rarely(now, "unreachable", Some(address), text);
        }
    }

    /// Nodes to which there is no stream.
    pub(crate) fn down(&self) -> ReplicaSet {
        let mut down = ReplicaSet::default();
        for id in (0..self.outbound.len() as u8).map(ReplicaId) {
            if id != self.me && !self.is_up(id) {
                down.insert(id);
            }
        }
        down
    }
}
