//! Clients' own batches on their way to the nodes: every copy for itself, and some of them lost, late or twice.

use std::rc::Rc;

use panch_replica::client_batch::{BatchRefusal, Terms};
use panch_replica::outbox::ReplyTo;
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
        let routing = Routing::even(shared.settings.group_count());
        let terms = Terms {
            session: proposal.session,
            group: proposal.group,
            protocol: shared.kind(proposal.group),
            replica_count: shared.settings.replica_count,
            limits: &self.limits,
        };
        let received =
            self.core.receive_batch(&proposal.bytes, &terms, |command| routing.group_of_command(command));
        let frame = match received {
            Ok((frame, _)) => frame,
            Err(BatchRefusal::For(error)) => return Some((whole, Outcome::Refused(error))),
            Err(BatchRefusal::Busy) => return busy(shared),
        };
        match self.core.submit_batch(now, now, proposal.group, frame, whole.connection, true) {
            Ok(()) => None,
            Err(_) => busy(shared),
        }
    }
}
