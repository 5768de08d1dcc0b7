//! Records of a snapshot: a tag, the length of the body (`u32`, little-endian), the body.

use panch_consensus::frontier::Frontier;
use panch_wire::batch::BatchView;
use panch_wire::command::{KEY_SIZE_MAX, Reply};
use panch_wire::frame::{FRAME_SIZE_MAX, Frame, FramePool};
use panch_wire::ids::{Incarnation, Position, REPLICAS_MAX, ReplicaId, Slot};
use panch_wire::reply;

use crate::ceilings::{REPLIES_SIZE_MAX, VALUE_SIZE_MAX};
use crate::machine::Progress;
use crate::sessions::SessionRecord;

/// The longest body: of the largest entry, of a batch that is held, or of the longest reply that is remembered.
pub(super) const BODY_SIZE_MAX: usize = FRAME_SIZE_MAX;
const _: () =
    assert!(VALUE_SIZE_MAX + KEY_SIZE_MAX + 64 <= BODY_SIZE_MAX && REPLIES_SIZE_MAX + 64 <= BODY_SIZE_MAX);
/// Bytes before the body.
pub(super) const PREFIX_SIZE: usize = 5;

const ENTRY: u8 = 1;
const SESSION: u8 = 2;
const REPLY: u8 = 3;
const PROPOSER: u8 = 4;
const END: u8 = 5;
const COVERED: u8 = 6;
const HELD: u8 = 7;
const GENERATION: u8 = 8;

/// Numbers of positions and stamps are below this, so that counting on from them never overflows.
const NUMBER_MAX: u64 = 1 << 56;

/// What the last record says about the others.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Totals {
    pub(crate) entry_count: u64,
    pub(crate) session_count: u64,
    pub(crate) digest: u64,
}

/// One decoded record.
#[derive(Debug)]
pub(super) enum Record<'a> {
    Entry { key: &'a [u8], value: &'a [u8] },
    Session(SessionRecord),
    Reply { session: u64, number: u64, reply: Reply<'a> },
    Proposer(ReplicaId, Progress),
    Covered { covered: Frontier, stamp: u64 },
    Held(Frame),
    Generation(u64),
    End(Totals),
}

/// Writes a record whose body is `size` bytes long.
fn begin(out: &mut Vec<u8>, tag: u8, size: usize) {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(size).expect("a record is far smaller than 4 GiB").to_le_bytes());
}

fn push_word(out: &mut Vec<u8>, word: u64) {
    out.extend_from_slice(&word.to_le_bytes());
}

/// Appends a key with its value.
pub(crate) fn push_entry(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    begin(out, ENTRY, 2 + key.len() + value.len());
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// Appends a session, without its replies.
pub(crate) fn push_session(out: &mut Vec<u8>, session: &SessionRecord) {
    begin(out, SESSION, 25);
    push_word(out, session.id);
    push_word(out, session.base);
    push_word(out, session.last_slot.0);
    out.push(u8::from(session.closed));
}

/// Appends a remembered reply of a session that was appended before.
pub(crate) fn push_reply(out: &mut Vec<u8>, session: u64, number: u64, reply: Reply<'_>) {
    begin(out, REPLY, 16 + reply::size(&reply));
    push_word(out, session);
    push_word(out, number);
    reply::push(&reply, out);
}

/// Appends the progress of one proposer.
pub(crate) fn push_proposer(out: &mut Vec<u8>, id: ReplicaId, progress: Progress) {
    begin(out, PROPOSER, 13);
    out.push(id.0);
    out.extend_from_slice(&progress.incarnation.0.to_le_bytes());
    push_word(out, progress.next);
}

/// Appends what the state covers: the highest stamp, then per row the number up to which it holds everything, how many
/// numbers it holds beyond, and those.
pub(crate) fn push_covered(out: &mut Vec<u8>, covered: &Frontier, stamp: u64) {
    let rows = || 0..REPLICAS_MAX as u8;
    let beyond: usize = rows().map(|row| covered.beyond(row).count()).sum();
    begin(out, COVERED, 8 * (1 + 2 * REPLICAS_MAX + beyond));
    push_word(out, stamp);
    for row in rows() {
        push_word(out, covered.upto(row));
        push_word(out, covered.beyond(row).count() as u64);
        covered.beyond(row).for_each(|number| push_word(out, number));
    }
}

/// Appends a batch that is held.
pub(crate) fn push_held(out: &mut Vec<u8>, batch: &Frame) {
    begin(out, HELD, batch.bytes().len());
    out.extend_from_slice(batch.bytes());
}

/// Appends the generation of sessions, before all of them.
pub(crate) fn push_generation(out: &mut Vec<u8>, generation: u64) {
    begin(out, GENERATION, 8);
    push_word(out, generation);
}

/// Appends the last record.
pub(super) fn push_end(out: &mut Vec<u8>, totals: &Totals) {
    begin(out, END, 24);
    push_word(out, totals.entry_count);
    push_word(out, totals.session_count);
    push_word(out, totals.digest);
}

/// Tag and length of the body of the record at the front of `bytes`, once they are there.
pub(super) fn prefix(bytes: &[u8]) -> Option<(u8, usize)> {
    let (tag, rest) = bytes.split_first()?;
    let length = u32::from_le_bytes(*rest.first_chunk()?);
    Some((*tag, length as usize))
}

fn word(bytes: &mut &[u8]) -> Option<u64> {
    let (word, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*word))
}

fn decode_covered(mut body: &[u8]) -> Option<Record<'static>> {
    let mut number = || word(&mut body).filter(|number| *number < NUMBER_MAX);
    let stamp = number()?;
    let mut covered = Frontier::default();
    for row in 0..REPLICAS_MAX as u8 {
        covered.extend_to(row, number()?);
        for _ in 0..number()? {
            covered.insert(Position { row, number: number()? });
        }
    }
    body.is_empty().then_some(Record::Covered { covered, stamp })
}

/// The frame gets memory of its own: it is held for a moment, and who reads a snapshot need not have a pool.
fn decode_held(body: &[u8]) -> Option<Record<'static>> {
    if body.len() > FRAME_SIZE_MAX {
        return None;
    }
    let mut memory = FramePool::new(2 * FRAME_SIZE_MAX).take(body.len())?;
    memory[..body.len()].copy_from_slice(body);
    let frame = memory.receive(body.len()).ok()?;
    BatchView::validate(&frame).ok()?;
    Some(Record::Held(frame))
}

/// The record with this tag and body; `None` if it means nothing.
pub(super) fn decode(tag: u8, mut body: &[u8]) -> Option<Record<'_>> {
    match tag {
        ENTRY => {
            let (key_len, rest) = body.split_first_chunk()?;
            let (key, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*key_len)))?;
            (value.len() <= VALUE_SIZE_MAX).then_some(Record::Entry { key, value })
        }
        SESSION => {
            let (id, base, last_slot) = (word(&mut body)?, word(&mut body)?, Slot(word(&mut body)?));
            let [closed @ (0 | 1)] = *body else { return None };
            Some(Record::Session(SessionRecord { id, base, last_slot, closed: closed == 1 }))
        }
        REPLY => {
            let (session, number) = (word(&mut body)?, word(&mut body)?);
            Some(Record::Reply { session, number, reply: reply::decode(body)? })
        }
        PROPOSER => {
            let (id, rest) = body.split_first()?;
            let (incarnation, mut rest) = rest.split_first_chunk()?;
            let incarnation = Incarnation(u32::from_le_bytes(*incarnation));
            let next = word(&mut rest)?;
            rest.is_empty().then_some(Record::Proposer(ReplicaId(*id), Progress { incarnation, next }))
        }
        COVERED => decode_covered(body),
        HELD => decode_held(body),
        GENERATION => {
            let generation = word(&mut body)?;
            body.is_empty().then_some(Record::Generation(generation))
        }
        END => {
            let (entry_count, session_count, digest) = (word(&mut body)?, word(&mut body)?, word(&mut body)?);
            body.is_empty().then_some(Record::End(Totals { entry_count, session_count, digest }))
        }
        _ => None,
    }
}
