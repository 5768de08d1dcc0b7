//! Clients' own batches on their way to the nodes: every copy for itself, and some of them lost, late or twice.

use std::rc::Rc;

use panch_consensus::protocol::ProtocolKind;
use panch_replica::batcher::Refusal;
use panch_replica::client_batch::{Terms, check};
use panch_replica::core::ReplyTo;
use panch_wire::frame::Frame;
use panch_wire::routing::Routing;
use panch_wire::time::Instant;

use super::node::{Input, Life, Node};
use super::turn::address;
use super::{Event, Shared, World};
use crate::client::{Outcome, Proposal};
use crate::queue::{MICROSECOND, MILLISECOND};

impl World {
    pub(super) fn send_batch(&mut self, proposal: Proposal) {
        let faults = self.shared.settings.clients.direct_faults;
        self.shared.trace(|| {
            let Proposal { client, attempt, home, to, bytes, .. } = &proposal;
            format!(
                "client {client} attempt {attempt}: a batch of {} bytes to {to:?}, home {home}",
                bytes.len()
            )
        });
        let proposal = Rc::new(proposal);
        for node in proposal.to.iter().copied() {
            let random = &mut self.nodes[node].random;
            let mut delay = random.range(20, 150) * MICROSECOND;
            let (mut copies, mut late) = (1, false);
            if faults > 0 {
                copies = u64::from(!random.chance(faults)) + u64::from(random.chance(faults));
                late = random.chance(faults);
            }
            for _ in 0..copies {
                if late {
                    delay += random.skewed(0, 100) * MILLISECOND;
                }
                let proposal = Rc::clone(&proposal);
                self.shared.queue.push_in(delay, Event::Batch { node, proposal });
                delay += random.range(0, 100) * MICROSECOND;
            }
        }
    }
}

impl Node {
    /// A copy of a batch arrives. The client waits for the home: it sees when that is not there.
    pub(super) fn take_in_batch(&mut self, shared: &mut Shared, proposal: Rc<Proposal>) {
        let (client, attempt) = (proposal.client, proposal.attempt);
        let is_home = proposal.home == self.index;
        if self.is_up() {
            if is_home {
                self.asking.insert((client, attempt));
            }
            self.take_in(shared, Input::Batch(proposal));
        } else if is_home {
            // Others may have it.
            let event = Event::Outcome { client, attempt, number: 0, outcome: Outcome::Lost };
            shared.queue.push_in(50 * MICROSECOND, event);
        }
    }
}

impl Life {
    /// As a node takes in what comes on a client's connection. What is to be answered at once.
    pub(super) fn take_batch(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        node: usize,
        proposal: &Proposal,
    ) -> Option<(ReplyTo, Outcome)> {
        let whole = address(proposal.client, proposal.attempt, 0);
        let busy = |shared: &mut Shared| {
            shared.coverage.busy += 1;
            (proposal.home == node).then_some((whole, Outcome::Lost))
        };
        let Some(frame) = self.receive_batch(&proposal.bytes) else { return busy(shared) };
        let routing = Routing::even(shared.settings.group_count());
        let terms = Terms {
            session: proposal.session,
            group: proposal.group,
            protocol: shared.kind(proposal.group),
            replica_count: shared.settings.replica_count,
            limits: &shared.settings.replica.batch,
        };
        if let Err(error) = check(&frame, &terms, |command| routing.group_of_command(command)) {
            return Some((whole, Outcome::Refused(error)));
        }
        debug_assert_eq!(terms.protocol, Some(ProtocolKind::Fast));
        let connection = whole.connection;
        match self.core.submit_batch(now, proposal.group, frame, connection, &mut self.deeds) {
            Ok(()) => None,
            Err(Refusal::Busy | Refusal::TooLarge) => busy(shared),
        }
    }

    fn receive_batch(&self, bytes: &[u8]) -> Option<Frame> {
        let mut memory = self.pool.take(bytes.len())?;
        memory[..bytes.len()].copy_from_slice(bytes);
        Some(memory.receive(bytes.len()).expect("a client of the simulator seals sound frames"))
    }
}
