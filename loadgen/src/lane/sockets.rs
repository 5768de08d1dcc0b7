//! The sockets of a thread's connections: opened, read, written, given up.

use std::io;
use std::os::fd::AsRawFd;

use panch_ring::clock;
use panch_ring::event::{Event, Token};
use panch_ring::parts::SendList;
use panch_ring::ring::Ring;
use panch_ring::socket;
use panch_wire::time::{Duration, Instant};

use super::{Helper, Lane, Lanes, State};
use crate::check::Check;
use crate::connection::{Answer, Pending};
use crate::record::Recorder;
use crate::workload::OperationKind;

/// In a token's index: that of a helper.
const HELPER: usize = 1 << 31;
/// How long a lane waits before it connects again.
const RECONNECT_DELAY: Duration = Duration::from_millis(50);
/// How long the ends of receives are waited for at the end; the ring cancels what is left.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

impl Lanes<'_> {
    /// Gives the ring what is to be sent; it leaves with the next submit.
    pub(super) fn flush(&mut self) {
        for index in self.dirty.drain(..) {
            let lane = &mut self.lanes[index as usize];
            if self.plan.direct.is_some() {
                let count = self.plan.targets.len();
                let first = index as usize * count;
                let helpers = &self.helpers[first..first + count];
                send_batches(lane, first, helpers, &mut self.ring, &mut self.list);
            }
            if let State::Up(socket) = lane.state
                && !lane.outgoing.is_empty()
            {
                self.list.push_bytes(std::mem::take(&mut lane.outgoing));
                self.ring.send(socket, &mut self.list, token(index as usize, lane.epoch));
            }
        }
    }

    pub(super) fn on_event(&mut self, event: Event) {
        let token = match &event {
            Event::Received { token, .. }
            | Event::ReceiveEnded { token, .. }
            | Event::Sent { token, .. }
            | Event::Connected { token, .. } => *token,
            _ => return,
        };
        let (index, epoch) = ((token.0 as u32) as usize, (token.0 >> 32) as u32);
        if index & HELPER != 0 {
            self.on_helper_event(index & !HELPER, epoch, event);
            return;
        }
        if self.lanes[index].epoch != epoch {
            return;
        }
        match event {
            Event::Received { bytes, .. } => self.on_bytes(index, &bytes),
            Event::ReceiveEnded { error: None, .. } => {
                self.on_broken(index, "the server closed the connection")
            }
            Event::ReceiveEnded { error: Some(error), .. } | Event::Sent { result: Err(error), .. } => {
                self.on_broken(index, &error.to_string());
            }
            Event::Connected { result: Err(error), .. } => self.on_broken(index, &error.to_string()),
            Event::Connected { result: Ok(()), .. } => self.on_connected(index),
            _ => {}
        }
    }

    /// A helper is of use as soon as it is connected; what it receives is the answer to its hello.
    fn on_helper_event(&mut self, index: usize, epoch: u32, event: Event) {
        let count = self.plan.targets.len();
        let helper = &mut self.helpers[index];
        if helper.epoch != epoch {
            return;
        }
        match (event, helper.state) {
            (Event::Connected { result: Ok(()), .. }, State::Connecting(socket)) => {
                helper.state = State::Up(socket);
                self.ring.receive(socket, token(index | HELPER, epoch));
                let mut hello = self.ring.send_buffers().take();
                self.lanes[index / count].connection.greet(&mut hello);
                self.list.push_bytes(hello);
                self.ring.send(socket, &mut self.list, token(index | HELPER, epoch));
            }
            (
                Event::ReceiveEnded { .. }
                | Event::Sent { result: Err(_), .. }
                | Event::Connected { result: Err(_), .. },
                State::Connecting(socket) | State::Up(socket),
            ) => {
                self.ring.close_socket(socket, Token(0));
                helper.epoch = helper.epoch.wrapping_add(1);
                helper.state = State::Down { until: clock::now() + RECONNECT_DELAY };
                self.lanes_down = true;
            }
            _ => {}
        }
    }

    fn on_bytes(&mut self, index: usize, bytes: &[u8]) {
        let now = clock::now();
        let lane = &mut self.lanes[index];
        let (recorder, check) = (&mut self.recorder, &mut self.check);
        let result = lane
            .connection
            .receive(bytes, |pending, answer| on_answer(recorder, check, &pending, answer, now));
        match result {
            Ok(()) => {
                if lane.connection.take_wants_flush() && lane.outgoing.is_empty() {
                    self.dirty.push(index as u32);
                }
                self.proceed(index, now);
                self.list_if_room(index);
            }
            Err(fault) => self.on_broken(index, &fault.to_string()),
        }
    }

    fn on_connected(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        let State::Connecting(socket) = lane.state else { return };
        lane.state = State::Up(socket);
        self.ring.receive(socket, token(index, lane.epoch));
        lane.outgoing.clear();
        lane.connection.open(&mut lane.outgoing);
        if !lane.outgoing.is_empty() {
            self.dirty.push(index as u32);
        }
        self.list_if_room(index);
    }

    /// Says what a session says before its first request, and repeats what other sockets have left without an answer.
    fn proceed(&mut self, index: usize, now: Instant) {
        if self.plan.repeat_after.is_none() {
            return;
        }
        let lane = &mut self.lanes[index];
        let was_empty = lane.outgoing.is_empty();
        lane.connection.proceed(&mut lane.outgoing);
        while let Some((number, pending)) = lane.connection.next_repeat() {
            let (key, value) = self.generator.bytes(&pending.operation);
            lane.connection.repeat(number, now, key, value, &mut lane.outgoing);
        }
        if was_empty && !lane.outgoing.is_empty() {
            self.dirty.push(index as u32);
        }
    }

    /// Leaves the nodes that have not answered a request of a session for too long.
    pub(super) fn leave_silent(&mut self, now: Instant) {
        let Some(patience) = self.plan.repeat_after else { return };
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            let since = match lane.state {
                State::Down { .. } => None,
                _ if !lane.connection.is_ready() => Some(lane.since),
                _ => lane.connection.waits_since(),
            };
            if since.is_some_and(|since| since + patience <= now) {
                self.on_broken(index, "no answer in time");
            }
        }
    }

    /// The socket is of no use any more: what was outstanding is lost, and the next target is tried after a while.
    fn on_broken(&mut self, index: usize, reason: &str) {
        let lane = &mut self.lanes[index];
        if let State::Connecting(socket) | State::Up(socket) = lane.state {
            self.ring.close_socket(socket, Token(0));
        }
        lane.epoch = lane.epoch.wrapping_add(1);
        lane.state = State::Down { until: clock::now() + RECONNECT_DELAY };
        lane.outgoing.clear();
        self.lanes_down = true;
        let (recorder, check) = (&mut self.recorder, &mut self.check);
        recorder.disconnected(reason);
        let now = clock::now();
        lane.connection.abandon(|pending| {
            recorder.lost(&pending, now);
            if let Some(check) = check {
                check.unknown(&pending.operation);
            }
        });
        self.last_fault = Some((self.plan.targets[lane.target], reason.to_owned()));
        lane.target = (lane.target + 1) % self.plan.targets.len();
    }

    /// Connects what is down for long enough.
    pub(super) fn open_sockets(&mut self, now: Instant) {
        if !self.lanes_down {
            return;
        }
        self.lanes_down = false;
        for index in 0..self.lanes.len() {
            let State::Down { until } = self.lanes[index].state else { continue };
            if until > now {
                self.lanes_down = true;
                continue;
            }
            let address = self.plan.targets[self.lanes[index].target];
            match socket::stream_for(address) {
                Ok(stream) => {
                    let socket = self.ring.add_socket(stream);
                    let lane = &mut self.lanes[index];
                    lane.state = State::Connecting(socket);
                    lane.since = now;
                    self.ring.connect(socket, address, token(index, lane.epoch));
                }
                Err(error) => self.on_broken(index, &descriptor_hint(&error)),
            }
        }
        for (index, helper) in self.helpers.iter_mut().enumerate() {
            let State::Down { until } = helper.state else { continue };
            let address = self.plan.targets[helper.target];
            match socket::stream_for(address) {
                Ok(stream) if until <= now => {
                    let socket = self.ring.add_socket(stream);
                    helper.state = State::Connecting(socket);
                    self.ring.connect(socket, address, token(index | HELPER, helper.epoch));
                }
                _ => self.lanes_down = true,
            }
        }
    }
}

impl Drop for Lanes<'_> {
    /// Ends all connections before the ring goes. A ring that is dropped with receives under way has the kernel look for those of each
    /// socket among those of all, which takes seconds for some thousand connections. A socket that is shut down ends them by itself.
    fn drop(&mut self) {
        let lanes = self.lanes.iter().map(|lane| lane.state);
        let sockets =
            lanes.chain(self.helpers.iter().map(|helper| helper.state)).filter_map(|state| match state {
                State::Down { .. } => None,
                State::Connecting(socket) | State::Up(socket) => Some(socket),
            });
        let mut open = 0;
        for socket in sockets {
            let Some(fd) = self.ring.socket_fd(socket) else { continue };
            // SAFETY: the descriptor is borrowed from the ring, and open; touches no memory. Failing leaves it to the ring.
            let result = unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
            open += usize::from(result == 0);
        }
        let deadline = clock::now() + CLOSE_PATIENCE;
        while open > 0 && clock::now() < deadline {
            while let Some(event) = self.ring.next_event() {
                if let Event::ReceiveEnded { .. } | Event::Connected { .. } = event {
                    open = open.saturating_sub(1);
                }
            }
            if open > 0 && self.ring.wait(Some(Duration::from_millis(10))).is_err() {
                return;
            }
        }
    }
}

/// Sends what a lane proposes: its node gets it with the lane's other requests, all others a copy. `helpers` are the lane's own.
fn send_batches(lane: &mut Lane, first: usize, helpers: &[Helper], ring: &mut Ring, list: &mut SendList) {
    let before = lane.outgoing.len();
    lane.connection.write_batches(&mut lane.outgoing);
    if lane.outgoing.len() == before {
        return;
    }
    for (index, helper) in (first..).zip(helpers) {
        if let State::Up(socket) = helper.state
            && helper.target != lane.target
        {
            let mut copy = ring.send_buffers().take();
            copy.extend_from_slice(&lane.outgoing[before..]);
            list.push_bytes(copy);
            ring.send(socket, list, token(index | HELPER, helper.epoch));
        }
    }
}

fn on_answer(
    recorder: &mut Recorder,
    check: &mut Option<Check>,
    pending: &Pending,
    answer: Answer<'_>,
    now: Instant,
) {
    let kind = pending.operation.kind;
    match answer {
        Answer::Error { text, maybe_applied } => {
            recorder.refused(pending, text, now);
            if let (true, Some(check)) = (maybe_applied, check) {
                check.unknown(&pending.operation);
            }
            return;
        }
        Answer::Nil if kind == OperationKind::Get => recorder.missed(),
        _ => {}
    }
    recorder.answered(pending, now);
    if let Some(check) = check {
        check.acknowledged(&pending.operation, pending.sent, now);
    }
}

fn descriptor_hint(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => format!("{error}: raise the limit with `ulimit -n`"),
        _ => error.to_string(),
    }
}

fn token(index: usize, epoch: u32) -> Token {
    Token(u64::from(epoch) << 32 | index as u64)
}
