//! The gate of each replica, and the network between them.

use panch_wire::frame::Frame;
use panch_wire::record::Fixed;
use panch_wire::rule;
use panch_wire::time::{Duration, Instant};

use super::{Cluster, Happening, Verdict};
use crate::protocol::{Dest, Outgoing, Protocol};

pub(super) struct Packet<P: Protocol> {
    pub(super) from: u8,
    pub(super) to: u8,
    pub(super) message: P::Message,
    pub(super) body: Option<Frame>,
}

impl<P: Protocol> Cluster<P> {
    /// The gate: claims wait until what they claim is durable.
    pub(super) fn admit(&mut self, id: u8, message: Outgoing<P::Message>) {
        let node = &mut self.nodes[usize::from(id)];
        let life = node.life.as_mut().expect("only a live replica sends");
        if let Some((after, rule)) = message.after {
            let needed = life.base + after.0 as usize;
            if needed > node.durable && rule::holds(rule) {
                life.held.push((needed, message));
                return;
            }
        }
        self.send(id, message);
    }

    pub(super) fn release(&mut self, id: u8) {
        let node = &mut self.nodes[usize::from(id)];
        let Some(life) = &mut node.life else { return };
        let ready: Vec<_> = life.held.extract_if(.., |(needed, _)| *needed <= node.durable).collect();
        for (_, message) in ready {
            self.send(id, message);
        }
    }

    fn send(&mut self, from: u8, outgoing: Outgoing<P::Message>) {
        let Outgoing { dest, message, body, .. } = outgoing;
        for to in self.ids() {
            let meant = match dest {
                Dest::One(one) => one.0 == to,
                Dest::Others => to != from,
                Dest::All => true,
            };
            if meant {
                self.send_one(Packet { from, to, message, body: body.clone() });
            }
        }
    }

    /// When a message of so many bytes has entered the link.
    fn leaves_at(&mut self, from: u8, to: u8, size: usize) -> Instant {
        let narrow = self.narrow.iter().find(|it| (it.0, it.1) == (from, to));
        let Some((.., rate)) = narrow else { return self.now };
        let free_at = &mut self.free_at[usize::from(from)][usize::from(to)];
        *free_at = self.now.max(*free_at) + Duration::from_micros(size as u64 * 1000 / rate);
        *free_at
    }

    fn send_one(&mut self, packet: Packet<P>) {
        let Packet { from, to, message, .. } = packet;
        if from == to {
            self.schedule(self.now, Happening::Arrive(packet));
            return;
        }
        self.message_count += 1;
        let mut bytes = Vec::new();
        message.encode_fixed(&mut bytes);
        let decoded = P::Message::decode_fixed(&bytes).expect("what is encoded can be decoded");
        let mut again = Vec::new();
        decoded.encode_fixed(&mut again);
        assert_eq!(again, bytes);
        if self.blocked.contains(&(from, to)) || self.below(100) < self.weather.drop {
            return;
        }
        match self.filter.as_mut().map_or(Verdict::Pass, |filter| filter(from, to, &message)) {
            Verdict::Pass => {}
            Verdict::Drop => return,
            Verdict::Hold => {
                self.held.push(packet);
                return;
            }
        }
        let copies = if self.below(100) < self.weather.duplicate { 2 } else { 1 };
        for _ in 0..copies {
            let slow = self.below(100) < self.weather.slow;
            let time = if slow { self.weather.slow_delay } else { self.weather.delay };
            let late = self.late.iter().filter(|it| (it.0, it.1) == (from, to));
            let late: Duration = late.map(|(.., by)| *by).sum();
            let sent = self.leaves_at(
                from,
                to,
                bytes.len() + packet.body.as_ref().map_or(0, |frame| frame.bytes().len()),
            );
            let mut at = sent + self.random_time(time) + late;
            if self.weather.fifo {
                let link = &mut self.links[usize::from(from)][usize::from(to)];
                *link = at.max(*link);
                at = *link;
            }
            let copy = Packet { from, to, message, body: packet.body.clone() };
            self.schedule(at, Happening::Arrive(copy));
        }
    }
}
