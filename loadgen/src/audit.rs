//! Which servers an audit reads from, and what becomes of servers that do not answer.
//!
//! Invariant: whatever cannot be read leaves the audit incomplete, and takes nothing along that was found.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use panch_wire::client::ReadLevel;

use crate::check::{Check, Verdict};
use crate::control::Control;
use crate::drive::{DriveError, PATIENCE};
use crate::engine::{EngineError, Plan};
use crate::keys::KeyText;
use crate::workload::{OperationKind, Workload};

/// Reads the keys of a plan's workload from one server, at a level at which what was acknowledged must be seen.
struct Reader<'a> {
    plan: &'a Plan,
    address: SocketAddr,
    text: KeyText,
    /// Absent after a failure: the answer may still come, so the next read is made over another connection.
    control: Option<Control>,
}

impl<'a> Reader<'a> {
    fn connect(plan: &'a Plan, address: SocketAddr) -> Result<Self, DriveError> {
        let text = KeyText::new(plan.workload.key_size);
        let mut reader = Self { plan, address, text, control: None };
        reader.control = Some(reader.open()?);
        Ok(reader)
    }

    fn open(&self) -> Result<Control, DriveError> {
        let level = level(&self.plan.workload);
        Control::connect(self.address, self.plan.protocol, level, PATIENCE).map_err(self.failed())
    }

    fn failed(&self) -> impl Fn(io::Error) -> DriveError + use<> {
        let address = self.address;
        move |error| DriveError::Audit { address, error }
    }

    fn read(&mut self, kind: OperationKind, key: u64) -> Result<Option<Vec<u8>>, DriveError> {
        let mut control = match self.control.take() {
            Some(control) => control,
            None => self.open()?,
        };
        let value = control.read(&mut self.text, kind, key).map_err(self.failed())?;
        self.control = Some(control);
        Ok(value)
    }
}

/// At which level an audit reads.
fn level(workload: &Workload) -> ReadLevel {
    match workload.read_level {
        ReadLevel::Stale => ReadLevel::Quorum,
        level => level,
    }
}

/// Notes what the counters hold before the plan is run, as the first of the targets says that answers.
///
/// # Errors
/// If none of them answers, or a stop comes before.
pub(crate) fn note_counters(plan: &Plan, check: &mut Check, stop: &AtomicBool) -> Result<(), DriveError> {
    let mut failure = None;
    for address in &plan.targets {
        let noted = Reader::connect(plan, *address).and_then(|mut reader| {
            check.note_counters(|kind, key| {
                if stop.load(Ordering::Relaxed) {
                    return Err(EngineError::Interrupted.into());
                }
                reader.read(kind, key)
            })
        });
        match noted {
            Err(error) if !error.is_interruption() => failure = Some(error),
            done => return done,
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Reads the sampled keys back from every target.
pub(crate) fn at_every_target(plan: &Plan, check: &Check, stop: &AtomicBool) -> Verdict {
    let mut verdict = Verdict::default();
    for address in &plan.targets {
        match Reader::connect(plan, *address) {
            Ok(mut reader) => verdict.merge(check.audit(|kind, key| reader.read(kind, key), stop)),
            // A server that is down does not take the measurement along.
            Err(error) => verdict.unread.push(error.to_string()),
        }
    }
    // Of a stop, every server has the same to say.
    verdict.unread.dedup();
    verdict
}

/// Reads the sampled keys back, each from another target in turn: enough where all are known in another way to hold the same.
pub(crate) fn at_targets_in_turn(plan: &Plan, check: &Check, stop: &AtomicBool) -> Verdict {
    let mut verdict = Verdict::default();
    let mut readers = Vec::new();
    for address in &plan.targets {
        match Reader::connect(plan, *address) {
            Ok(reader) => readers.push(reader),
            Err(error) => verdict.unread.push(error.to_string()),
        }
    }
    let mut turn = 0;
    if !readers.is_empty() {
        let in_turn = |kind, key| {
            turn = (turn + 1) % readers.len();
            let value = readers[turn].read(kind, key);
            // Nobody waits again and again for a server that does not answer, as long as there is another one.
            if value.is_err() && readers.len() > 1 {
                readers.swap_remove(turn);
            }
            value
        };
        verdict.merge(check.audit(in_turn, stop));
    }
    verdict
}
