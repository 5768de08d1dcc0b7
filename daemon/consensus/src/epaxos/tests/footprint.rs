//! What a batch touches.

use panch_wire::batch::BatchWriter;
use panch_wire::command::{Command, CommandKind, SessionHeader, list};
use panch_wire::exec;
use panch_wire::frame::{Frame, FramePool};
use panch_wire::ids::{BatchId, Incarnation, ReplicaId};
use proptest::prelude::*;

use super::super::Footprint;
use super::touching;

fn frame(commands: &[Command<'_>]) -> Frame {
    let pool = FramePool::new(1 << 20);
    let mut writer = BatchWriter::new(pool.take(1 << 14).expect("the pool is empty"), Vec::new());
    assert!(commands.iter().all(|command| command.is_valid() && writer.push(command)));
    writer.seal(BatchId { proposer: ReplicaId(0), incarnation: Incarnation(1), counter: 1 }).0
}

fn footprint(commands: &[Command<'_>]) -> Footprint {
    let mut footprint = touching(&["left over"], &["also left over"]);
    footprint.fill(&frame(commands));
    footprint
}

fn command<'a>(kind: CommandKind, key: &'a str, value: &'a [u8]) -> Command<'a> {
    Command { kind, flags: 0, session: None, key: key.as_bytes(), value }
}

fn of_session(session: u64, command: Command<'_>) -> Command<'_> {
    Command { session: Some(SessionHeader { session, number: 1, acked_below: 0 }), ..command }
}

fn keys(keys: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    keys.iter().for_each(|key| list::push(&mut out, key.as_bytes()));
    out
}

#[test]
fn a_key_that_is_read_and_written_counts_as_written() {
    let both = touching(&["x", "y"], &["x"]);
    assert_eq!(both, touching(&["y"], &["x"]));
    assert!(both.interferes(&touching(&["x"], &[])) && !both.interferes(&touching(&["y"], &[])));
}

#[test]
fn every_kind_of_command_touches_its_keys_and_no_others() {
    let (many, pairs, swap) = (keys(&["b", "c"]), keys(&["b", "v", "c", "w"]), keys(&["v", "w"]));
    for kind in CommandKind::ALL.iter().copied() {
        let (command, touched): (_, &[&str]) = match kind {
            CommandKind::MGet | CommandKind::Del | CommandKind::Exists => {
                (command(kind, "b", &many), &["b", "c"])
            }
            CommandKind::MSet => (command(kind, "b", &pairs), &["b", "c"]),
            CommandKind::CompareAndSet => (command(kind, "b", &swap), &["b"]),
            CommandKind::IncrBy => (command(kind, "b", &[0; 8]), &["b"]),
            // Its keys are those of `Command::keys`, which has tests of its own.
            CommandKind::Transaction | CommandKind::Exec => continue,
            CommandKind::OpenSession | CommandKind::CloseSession | CommandKind::ExpireSessions => continue,
            _ => (command(kind, "b", &[]), &["b"]),
        };
        let expected = if kind.is_read() { touching(touched, &[]) } else { touching(&[], touched) };
        assert_eq!(footprint(&[command]), expected, "{kind:?}");
    }
}

#[test]
pub(super) fn writes_of_one_session_interfere() {
    let first = footprint(&[of_session(7, command(CommandKind::Set, "x", b"1"))]);
    let second = footprint(&[of_session(7, command(CommandKind::Set, "y", b"1"))]);
    let other = footprint(&[of_session(8, command(CommandKind::Set, "z", b"1"))]);
    let read = footprint(&[of_session(7, command(CommandKind::Get, "z", b""))]);
    assert!(first.interferes(&second) && !first.interferes(&other) && !first.interferes(&read));
}

#[test]
fn opening_closing_and_expiring_sessions_interfere() {
    let open = footprint(&[of_session(7, command(CommandKind::OpenSession, "", b""))]);
    let close = footprint(&[of_session(8, command(CommandKind::CloseSession, "", b""))]);
    let expire = footprint(&[command(CommandKind::ExpireSessions, "", &[0; 8])]);
    let write = footprint(&[of_session(7, command(CommandKind::Set, "x", b"1"))]);
    assert!(open.interferes(&close) && open.interferes(&write) && !close.interferes(&write));
    assert!(expire.is_barrier() && expire.interferes(&write) && write.interferes(&expire));
}

#[test]
fn a_barrier_that_is_refilled_is_none() {
    let mut footprint = Footprint::barrier();
    footprint.fill(&frame(&[command(CommandKind::Get, "x", b"")]));
    assert_eq!(footprint, touching(&["x"], &[]));
}

#[test]
fn hashes_never_change() {
    // Replicas of different versions and machines must agree; a changed value here is a new format.
    let hashes: Vec<_> = touching(&["a"], &["seventeen bytes!!"]).touched().collect();
    assert_eq!(hashes, [(3_429_000_394_543_670_667, false), (12_231_576_235_609_234_581, true)]);
}

proptest! {
    /// Commands that hold several: each key read, written or named in a condition.
    #[test]
    fn commands_that_hold_several_interfere_if_one_writes_a_key_that_is_in_the_other(
        left in prop::collection::vec((0u8..30, 0u8..3), 1..12),
        right in prop::collection::vec((0u8..30, 0u8..3), 1..12),
        session in prop::option::of(1u64..3),
    ) {
        let make = |steps: &[(u8, u8)], session| {
            let name = |key: u8| format!("k{key:02}");
            let mut conditions: Vec<_> = steps.iter().filter(|(_, what)| *what == 2).map(|(key, _)| name(*key)).collect();
            conditions.sort();
            conditions.dedup();
            let mut value = Vec::new();
            for key in &conditions {
                exec::Condition { key: key.as_bytes(), hash: None }.push(&mut value);
            }
            for (key, what) in steps.iter().filter(|(_, what)| *what < 2) {
                let kind = if *what == 1 { CommandKind::Append } else { CommandKind::StrLen };
                exec::push_command(&command(kind, &name(*key), b""), &mut value);
            }
            let exec = command(CommandKind::Exec, "unused", &value);
            footprint(&[if let Some(session) = session { of_session(session, exec) } else { exec }])
        };
        let expected = left.iter().any(|(key, what)| {
            right.iter().any(|(other, of_other)| key == other && (*what == 1 || *of_other == 1))
        });
        prop_assert_eq!(make(&left, None).interferes(&make(&right, session)), expected);
        prop_assert_eq!(make(&right, session).interferes(&make(&left, None)), expected);
        if session.is_some() {
            prop_assert!(make(&left, session).interferes(&make(&right, session)), "one session");
        }
    }

    #[test]
    fn interference_is_a_shared_key_that_one_writes(
        left in prop::collection::vec((0u8..30, any::<bool>()), 0..20),
        right in prop::collection::vec((0u8..30, any::<bool>()), 0..20),
    ) {
        let make = |keys: &[(u8, bool)]| {
            let bytes: Vec<_> = keys.iter().map(|(key, is_written)| ([*key], *is_written)).collect();
            let keys: Vec<_> = bytes.iter().map(|(key, is_written)| (&key[..], *is_written)).collect();
            Footprint::of_keys(&keys)
        };
        let expected = left.iter().any(|(key, is_written)| {
            right.iter().any(|(other, is_other_written)| key == other && (*is_written || *is_other_written))
        });
        prop_assert_eq!(make(&left).interferes(&make(&right)), expected);
        prop_assert_eq!(make(&right).interferes(&make(&left)), expected);
    }
}
