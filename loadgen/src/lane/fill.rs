//! When each connection is given a request.

use std::sync::atomic::AtomicBool;

use panch_ring::clock;
use panch_wire::time::{Duration, Instant};

use super::Lanes;
use crate::connection::Pending;
use crate::engine::EngineError;
use crate::schedule::Load;

/// Requests after which the kernel gets what there is: a large fill must not delay its own first requests.
const FILL_MAX: usize = 256;

impl Lanes<'_> {
    /// Makes every request that is due before `end`.
    pub(super) fn fill(&mut self, now: Instant, end: Instant, stop: &AtomicBool) -> Result<(), EngineError> {
        if self.schedule.is_some() {
            self.fill_open(now, end, stop)
        } else if now < end {
            self.fill_closed()
        } else {
            Ok(())
        }
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
                self.request(lane, now, now, Duration::ZERO);
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

    fn fill_open(&mut self, now: Instant, end: Instant, stop: &AtomicBool) -> Result<(), EngineError> {
        if !self.ready.is_empty() {
            self.own_time.open(self.attended);
        }
        if let Load::Open { drop_after, .. } = self.plan.load {
            self.drop_before((now - drop_after).min(end), now, stop);
        }
        let Some(mut schedule) = self.schedule.take() else { return Ok(()) };
        let mut now = now.min(end);
        let mut made = 0;
        let mut sent_at = now;
        while self.issued < self.quota {
            let Some(&lane) = self.ready.front() else { break };
            if self.lanes[lane as usize].connection.room() == 0 {
                self.unlist_front();
                continue;
            }
            let Some(intended) = schedule.take_due(now) else { break };
            sent_at = clock::now();
            let own = self.own_time.between(intended, sent_at);
            self.request(lane, intended, sent_at, own);
            self.unlist_front();
            self.list_if_room(lane as usize);
            made += 1;
            if made >= FILL_MAX {
                made = 0;
                self.flush();
                self.ring.submit()?;
                now = now.max(clock::now().min(end));
            }
        }
        if self.ready.is_empty() {
            self.own_time.close(sent_at);
        }
        self.schedule = Some(schedule);
        Ok(())
    }

    /// Drops what was due before `limit`.
    pub(super) fn drop_before(&mut self, limit: Instant, now: Instant, stop: &AtomicBool) {
        let Some(schedule) = &mut self.schedule else { return };
        let undrawn = schedule.drop_before(limit, stop, |at| {
            self.recorder.dropped(at, now, self.own_time.between(at, now));
        });
        self.recorder.dropped_undrawn(undrawn, limit, now);
    }

    fn unlist_front(&mut self) {
        if let Some(lane) = self.ready.pop_front() {
            self.lanes[lane as usize].listed = false;
        }
    }

    pub(super) fn list_if_room(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if !lane.listed && lane.connection.room() > 0 {
            lane.listed = true;
            self.ready.push_back(index as u32);
        }
    }

    /// Gives a lane with room a request that was due at `intended`. Of the delay since then, `own` is the generator's.
    fn request(&mut self, index: u32, intended: Instant, now: Instant, own: Duration) {
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
        self.recorder.sent(intended, now, own);
        if intended >= self.recorder.window.start {
            self.issued += 1;
        }
    }
}
