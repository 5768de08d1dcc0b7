//! The loop of one thread: its connections, and when each is given a request.
//!
//! Invariants:
//! * A lane is in the queue `ready` whenever it has room; it may be there without room, and is then skipped.
//! * An event of a socket that a lane has given up changes nothing: its token names an earlier epoch.
//! * The clock is read after bytes have come and before requests leave, never in between, so that latencies are not
//!   flattered and the audit's order of events is true.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use panch_ring::clock;
use panch_ring::doorbell::Doorbell;
use panch_ring::event::{Event, Token};
use panch_ring::parts::SendList;
use panch_ring::ring::{Ring, RingConfig, SocketId};
use panch_ring::socket;
use panch_wire::time::{Duration, Instant};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::check::Check;
use crate::connection::{Answer, Connection, Pending};
use crate::engine::{EngineError, Plan, ThreadOutcome};
use crate::host;
use crate::record::{Interval, Recorder};
use crate::schedule::{Load, Schedule};
use crate::workload::{Generator, OperationKind};

/// In a token's index: that of a helper.
const HELPER: usize = 1 << 31;
/// How long a lane waits before it connects again.
const RECONNECT_DELAY: Duration = Duration::from_millis(50);
/// How often progress is published, and the longest that a stop goes unnoticed.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// Requests after which the kernel gets what there is: a large fill must not delay its own first requests.
const FILL_MAX: usize = 256;

/// A socket on which a lane sends another node copies of its proposals; that node answers none of them.
struct Helper {
    target: usize,
    state: State,
    epoch: u32,
}

/// A connection with its socket.
struct Lane {
    connection: Connection,
    /// Which of the plan's targets.
    target: usize,
    state: State,
    /// When the present socket was opened.
    since: Instant,
    /// Requests that the next flush sends.
    outgoing: Vec<u8>,
    /// How many sockets came before the present one.
    epoch: u32,
    /// Whether the lane is in the queue.
    listed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Connects at this time.
    Down {
        until: Instant,
    },
    Connecting(SocketId),
    Up(SocketId),
}

/// The connections of one thread, and all that it needs to load them.
pub(crate) struct Lanes<'a> {
    plan: &'a Plan,
    thread: usize,
    ring: Ring,
    lanes: Vec<Lane>,
    /// For lanes that propose themselves: each lane's, one after the other, one for each target.
    helpers: Vec<Helper>,
    /// Lanes with room, longest first.
    ready: VecDeque<u32>,
    /// Lanes with outgoing bytes.
    dirty: Vec<u32>,
    list: SendList,
    generator: Generator,
    recorder: Recorder,
    check: Option<Check>,
    /// The arrivals of an open loop; absent in a closed one.
    schedule: Option<Schedule>,
    /// Requests made in the window.
    issued: u64,
    /// Requests that may be made in the window.
    quota: u64,
    /// Set while requests are due and no lane has room.
    blocked: bool,
    /// When that last ended.
    unblocked_at: Instant,
    /// Some lane is down.
    lanes_down: bool,
    last_fault: Option<(SocketAddr, String)>,
}

impl<'a> Lanes<'a> {
    pub(crate) fn new(plan: &'a Plan, thread: usize) -> Result<Self, EngineError> {
        let request_size = plan.workload.key_size + plan.workload.value_size;
        let count = share(plan.connections as u64, thread, plan.threads) as usize;
        let config = RingConfig {
            send_buffers_idle_max: count.max(64),
            send_buffer_capacity_max: (256 << 10).max(4 * request_size),
            ..RingConfig::default()
        };
        let ring = Ring::new(&config, Doorbell::new()?)?;
        let lane = |number: usize| Lane {
            connection: {
                let (pipeline, level) = (plan.pipeline, plan.workload.read_level);
                let id = session_id(plan.run, (number * plan.threads + thread) as u64);
                match (plan.repeat_after, plan.direct) {
                    (None, _) => Connection::new(plan.protocol, pipeline, level, request_size),
                    (_, None) => Connection::with_session(id, pipeline, level, request_size),
                    (_, Some(commands)) => Connection::direct(id, commands, pipeline, level, request_size),
                }
            },
            since: Instant(0),
            target: (number * plan.threads + thread) % plan.targets.len(),
            state: State::Down { until: Instant(0) },
            outgoing: Vec::new(),
            epoch: 0,
            listed: false,
        };
        Ok(Self {
            plan,
            thread,
            ring,
            lanes: (0..count).map(lane).collect(),
            helpers: (0..if plan.direct.is_some() { count } else { 0 })
                .flat_map(|_| 0..plan.targets.len())
                .map(|target| Helper { target, state: State::Down { until: Instant(0) }, epoch: 0 })
                .collect(),
            ready: VecDeque::with_capacity(count),
            dirty: Vec::with_capacity(count),
            list: SendList::new(),
            generator: Generator::new(&plan.workload, plan.run, thread, plan.threads),
            recorder: Recorder::new(Instant(0)..Instant(0)),
            check: plan.check.then(|| Check::new(&plan.workload, plan.run)),
            schedule: None,
            issued: 0,
            quota: plan.count.map_or(u64::MAX, |count| share(count, thread, plan.threads)),
            blocked: false,
            unblocked_at: Instant(0),
            lanes_down: true,
            last_fault: None,
        })
    }

    /// Opens every connection.
    pub(crate) fn connect(&mut self, stop: &AtomicBool) -> Result<(), EngineError> {
        let deadline = clock::now() + self.plan.connect_timeout;
        loop {
            while let Some(event) = self.ring.next_event() {
                self.on_event(event);
            }
            let are_helped = self.helpers.iter().all(|helper| matches!(helper.state, State::Up(_)));
            if are_helped && self.lanes.iter().all(|lane| lane.connection.is_ready()) {
                return Ok(());
            }
            let now = clock::now();
            if stop.load(Ordering::Relaxed) {
                return Err(EngineError::Interrupted);
            }
            if now >= deadline {
                let waiting = self.lanes.iter().find(|lane| !lane.connection.is_ready());
                let address = self.plan.targets[waiting.map_or(0, |lane| lane.target)];
                let (address, reason) =
                    self.last_fault.take().unwrap_or_else(|| (address, "no answer".to_owned()));
                return Err(EngineError::Connect { address, reason });
            }
            self.open_sockets(now);
            self.flush();
            self.ring.wait(Some(Duration::from_millis(10)))?;
        }
    }

    /// Loads the connections from `start` until the plan is fulfilled.
    pub(crate) fn run(
        mut self,
        start: Instant,
        progress: &Mutex<Interval>,
        stop: &AtomicBool,
    ) -> Result<ThreadOutcome, EngineError> {
        let plan = self.plan;
        let measured_from = start + plan.warm_up;
        let mut end = measured_from + plan.duration;
        self.recorder = Recorder::new(measured_from..end);
        if let Load::Open { rate, arrivals, .. } = plan.load {
            let share = rate / plan.threads as f64;
            let phase = self.thread as f64 / plan.threads as f64;
            let seed = plan.workload.seed ^ (self.thread as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
            self.schedule = Some(Schedule::new(arrivals, share, phase, start, end, seed));
        }
        let mut publish_at = start + PUBLISH_INTERVAL;
        let mut cpu_from = None;
        let mut busy_at = start;
        loop {
            let mut worked = false;
            while let Some(event) = self.ring.next_event() {
                self.on_event(event);
                worked = true;
            }
            let now = clock::now();
            if cpu_from.is_none() && now >= measured_from {
                cpu_from = Some(host::thread_cpu_time());
            }
            if stop.load(Ordering::Relaxed) {
                end = now;
            }
            self.open_sockets(now);
            if now < end || self.schedule.is_some() {
                self.fill(now.min(end))?;
            }
            self.flush();
            if now >= publish_at {
                self.recorder.publish(progress);
                self.leave_silent(now);
                publish_at = now + PUBLISH_INTERVAL;
            }
            if now >= end || self.issued >= self.quota {
                break;
            }
            if worked {
                busy_at = now;
            }
            let wake_at = self.wake_at(publish_at.min(end));
            if wake_at <= now || (plan.spin > Duration::ZERO && now.since(busy_at) < plan.spin) {
                self.ring.submit()?;
            } else {
                self.ring.wait(Some(wake_at.since(now)))?;
            }
        }
        // Requests that were due and could not be sent before the end.
        if let Some(schedule) = &mut self.schedule
            && self.issued < self.quota
            && !stop.load(Ordering::Relaxed)
        {
            schedule.drop_before(Instant(u64::MAX));
        }
        let early = clock::now();
        let cpu_to = host::thread_cpu_time();
        self.drain(stop)?;
        // With a count, the window ends with the last answer.
        let end = if self.issued >= self.quota { clock::now() } else { end.min(early) };
        self.recorder.counts.dropped = self.schedule.as_ref().map_or(0, Schedule::dropped);
        self.recorder.publish(progress);
        Ok(ThreadOutcome {
            recorder: self.recorder,
            check: self.check,
            elapsed: end.since(measured_from),
            cpu: cpu_to.saturating_sub(cpu_from.unwrap_or(cpu_to)),
        })
    }

    /// Waits for the last answers, and gives up those that do not come.
    fn drain(&mut self, stop: &AtomicBool) -> Result<(), EngineError> {
        let stopped = stop.load(Ordering::Relaxed);
        let deadline = clock::now() + self.plan.drain;
        loop {
            while let Some(event) = self.ring.next_event() {
                self.on_event(event);
            }
            let outstanding: usize = self.lanes.iter().map(|lane| lane.connection.outstanding()).sum();
            let now = clock::now();
            if self.plan.repeat_after.is_some() {
                self.leave_silent(now);
                self.open_sockets(now);
                self.flush();
            }
            // A stop during the drain means: now.
            if outstanding == 0 || now >= deadline || (!stopped && stop.load(Ordering::Relaxed)) {
                break;
            }
            self.ring.wait(Some(deadline.since(now).min(PUBLISH_INTERVAL)))?;
        }
        for lane in &mut self.lanes {
            self.recorder.counts.repeated += lane.connection.repeated();
            lane.connection.give_up(|pending| {
                self.recorder.counts.unanswered += 1;
                if let Some(check) = &mut self.check {
                    check.unknown(&pending.operation);
                }
            });
        }
        Ok(())
    }

    /// When there is something to do without any event.
    fn wake_at(&self, latest: Instant) -> Instant {
        let mut at = latest;
        if let Some(schedule) = &self.schedule
            && !self.ready.is_empty()
            && let Some(next) = schedule.next_at()
        {
            at = at.min(next);
        }
        if self.lanes_down {
            for lane in &self.lanes {
                if let State::Down { until } = lane.state {
                    at = at.min(until);
                }
            }
        }
        at
    }

    /// Makes every request that is due.
    fn fill(&mut self, now: Instant) -> Result<(), EngineError> {
        if self.schedule.is_some() { self.fill_open(now) } else { self.fill_closed() }
    }

    fn fill_closed(&mut self) -> Result<(), EngineError> {
        let mut made = 0;
        while let Some(lane) = self.ready.pop_front() {
            self.lanes[lane as usize].listed = false;
            let now = clock::now();
            for _ in 0..self.lanes[lane as usize].connection.room() {
                if self.issued >= self.quota {
                    return Ok(());
                }
                self.request(lane, now, now, false);
                made += 1;
            }
            if made >= FILL_MAX {
                made = 0;
                self.flush();
                self.ring.submit()?;
            }
        }
        Ok(())
    }

    fn fill_open(&mut self, mut now: Instant) -> Result<(), EngineError> {
        let Some(mut schedule) = self.schedule.take() else { return Ok(()) };
        if let Load::Open { drop_after, .. } = self.plan.load {
            schedule.drop_before(now - drop_after);
        }
        let mut made = 0;
        while self.issued < self.quota {
            let Some(&lane) = self.ready.front() else {
                self.blocked |= schedule.next_at().is_some_and(|at| at <= now);
                break;
            };
            if self.lanes[lane as usize].connection.room() == 0 {
                self.unlist_front();
                continue;
            }
            if std::mem::take(&mut self.blocked) {
                self.unblocked_at = now;
            }
            let Some(intended) = schedule.take_due(now) else { break };
            self.request(lane, intended, clock::now(), intended < self.unblocked_at);
            self.unlist_front();
            self.list_if_room(lane as usize);
            made += 1;
            if made >= FILL_MAX {
                made = 0;
                self.flush();
                self.ring.submit()?;
                now = now.max(clock::now().min(self.recorder.window.end));
            }
        }
        self.schedule = Some(schedule);
        Ok(())
    }

    fn unlist_front(&mut self) {
        if let Some(lane) = self.ready.pop_front() {
            self.lanes[lane as usize].listed = false;
        }
    }

    fn list_if_room(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if !lane.listed && lane.connection.room() > 0 {
            lane.listed = true;
            self.ready.push_back(index as u32);
        }
    }

    fn request(&mut self, index: u32, intended: Instant, now: Instant, queued: bool) {
        let operation = self.generator.draw();
        let (key, value) = self.generator.bytes(&operation);
        let lane = &mut self.lanes[index as usize];
        if lane.outgoing.is_empty() {
            if lane.outgoing.capacity() == 0 {
                lane.outgoing = self.ring.send_buffers().take();
            }
            self.dirty.push(index);
        }
        lane.connection.request(Pending { operation, intended, sent: now }, key, value, &mut lane.outgoing);
        self.recorder.sent(intended, now, queued);
        if intended >= self.recorder.window.start {
            self.issued += 1;
        }
    }

    /// Gives the ring what is to be sent; it leaves with the next submit.
    fn flush(&mut self) {
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

    fn on_event(&mut self, event: Event) {
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
    fn leave_silent(&mut self, now: Instant) {
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
        lane.connection.abandon(|pending| {
            recorder.lost();
            if let Some(check) = check {
                check.unknown(&pending.operation);
            }
        });
        self.last_fault = Some((self.plan.targets[lane.target], reason.to_owned()));
        lane.target = (lane.target + 1) % self.plan.targets.len();
    }

    /// Connects what is down for long enough.
    fn open_sockets(&mut self, now: Instant) {
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
            recorder.refused(text);
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

/// A session's name: not 0, and that of no other connection, of this run or another.
fn session_id(run: u64, connection: u64) -> u64 {
    Xoshiro256PlusPlus::seed_from_u64(run ^ connection.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next_u64() | 1
}

/// The part of `total` that thread `thread` of `threads` has.
fn share(total: u64, thread: usize, threads: usize) -> u64 {
    let (thread, threads) = (thread as u64, threads as u64);
    total / threads + u64::from(thread < total % threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_connections_and_runs_differ() {
        let ids: std::collections::BTreeSet<u64> =
            (0..10).flat_map(|run| (0..100).map(move |connection| session_id(run, connection))).collect();
        assert_eq!((ids.len(), ids.contains(&0)), (1000, false));
    }

    #[test]
    fn shares_add_up() {
        for (total, threads) in [(0, 1), (1, 2), (7, 3), (50, 4)] {
            let shares: Vec<u64> = (0..threads).map(|thread| share(total, thread, threads)).collect();
            assert_eq!(shares.iter().sum::<u64>(), total);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
