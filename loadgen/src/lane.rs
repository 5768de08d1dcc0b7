//! The loop of one thread over its connections, its lanes: `fill` gives them requests, `sockets` carries the bytes.
//!
//! Invariants:
//! * A lane is in the queue `ready` whenever it has room; it may be there without room, and is then skipped.
//! * An event of a socket that a lane has given up changes nothing: its token names an earlier epoch.
//! * The clock is read after bytes have come and before requests leave, never in between, so that latencies are not
//!   flattered and the audit's order of events is true.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use panch_ring::clock;
use panch_ring::doorbell::Doorbell;
use panch_ring::parts::SendList;
use panch_ring::ring::{Ring, RingConfig, SocketId};
use panch_wire::time::{Duration, Instant};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::check::Check;
use crate::connection::Connection;
use crate::engine::{EngineError, Plan, ThreadOutcome};
use crate::record::{Interval, Recorder};
use crate::schedule::{Load, Schedule};
use crate::workload::Generator;

mod fill;
mod own_time;
mod sockets;
mod window_time;

use own_time::OwnTime;
use window_time::WindowTime;

/// How often progress is published, and the longest that a stop goes unnoticed.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

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
    /// In an open loop: which part of a delay is the generator's.
    own_time: OwnTime,
    /// Since when the thread looks after its lanes, after it last slept: if it overslept, since it should have been awake.
    attended: Instant,
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
            own_time: OwnTime::new(Instant(0)),
            attended: Instant(0),
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
        let mut time = WindowTime::default();
        let mut busy_at = start;
        self.own_time = OwnTime::new(start);
        let mut back_at = start;
        loop {
            self.attend(back_at)?;
            let mut worked = false;
            while let Some(event) = self.ring.next_event() {
                self.on_event(event);
                worked = true;
            }
            let now = clock::now();
            if now >= measured_from {
                time.open();
            }
            if stop.load(Ordering::Relaxed) {
                end = end.min(now);
                // What is answered later was not answered within the window.
                self.recorder.window.end = end;
            }
            self.open_sockets(now);
            self.fill(now, end, stop)?;
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
            back_at = wake_at.max(now);
            if wake_at <= now || (plan.spin > Duration::ZERO && now.since(busy_at) < plan.spin) {
                self.ring.submit()?;
            } else {
                self.ring.wait(Some(wake_at.since(now)))?;
            }
        }
        let is_counted = self.issued >= self.quota;
        if !is_counted {
            time.close();
        }
        self.drain(end, stop, &mut time)?;
        // With a count, the window ends with the last answer, if that is earlier.
        time.close();
        let end = if is_counted { end.min(clock::now()) } else { end };
        self.recorder.publish(progress);
        let nothing = Recorder::new(Instant(0)..Instant(0));
        Ok(ThreadOutcome {
            recorder: std::mem::replace(&mut self.recorder, nothing),
            check: self.check.take(),
            elapsed: end.since(measured_from),
            time: time.spent(),
        })
    }

    /// Sends what was due before `end` and found no room, waits for the last answers, and gives up those that do not come. A window that
    /// is still open closes at `end`.
    fn drain(&mut self, end: Instant, stop: &AtomicBool, time: &mut WindowTime) -> Result<(), EngineError> {
        let stopped = stop.load(Ordering::Relaxed);
        let deadline = clock::now() + self.plan.drain;
        // Lanes before this one have no outstanding request, as long as none is sent: so they are not all looked at each time.
        let mut idle = 0;
        let mut back_at = clock::now();
        loop {
            self.attend(back_at)?;
            while let Some(event) = self.ring.next_event() {
                self.on_event(event);
            }
            let now = clock::now();
            if now >= end {
                time.close();
            }
            let sends_on = self.schedule.is_some() && !stopped && self.issued < self.quota;
            if sends_on {
                self.fill(now, end, stop)?;
            }
            if self.plan.repeat_after.is_some() {
                self.leave_silent(now);
            }
            if self.plan.repeat_after.is_some() || sends_on {
                self.open_sockets(now);
                self.flush();
            }
            if sends_on {
                idle = 0;
            }
            let is_idle = |lane: &Lane| lane.connection.outstanding() == 0;
            idle += self.lanes[idle..].iter().take_while(|lane| is_idle(lane)).count();
            let is_due =
                sends_on && self.schedule.as_ref().and_then(Schedule::next_at).is_some_and(|at| at < end);
            // A stop during the drain means: now.
            let is_over = idle == self.lanes.len() && !is_due;
            if is_over || now >= deadline || (!stopped && stop.load(Ordering::Relaxed)) {
                break;
            }
            let sleep = deadline.since(now).min(PUBLISH_INTERVAL);
            back_at = now + sleep;
            self.ring.wait(Some(sleep))?;
        }
        let now = clock::now();
        if self.issued < self.quota {
            self.drop_before(end, now, stop);
        }
        for lane in &mut self.lanes {
            self.recorder.counts.repeated += lane.connection.repeated();
            lane.connection.give_up(|pending| {
                self.recorder.unanswered(&pending, now);
                if let Some(check) = &mut self.check {
                    check.unknown(&pending.operation);
                }
            });
        }
        Ok(())
    }

    /// Notes since when the thread looks after its lanes again; it was to be awake at `back_at`.
    fn attend(&mut self, back_at: Instant) -> Result<(), EngineError> {
        let now = clock::now();
        self.attended = now.min(back_at);
        if now > back_at {
            // What came while it overslept is to be seen in the same turn: the next one was not late.
            self.ring.submit()?;
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
