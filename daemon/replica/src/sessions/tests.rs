use std::collections::BTreeMap;

use panch_wire::command::{CommandError, Reply, SessionHeader};
use panch_wire::ids::Slot;
use proptest::prelude::*;

use super::{REPLY_BYTES_MAX, SESSION_GENERATIONS_MAX, SessionAdmission, Sessions, WINDOW};

fn header(session: u64, number: u64, acked_below: u64) -> SessionHeader {
    SessionHeader { session, number, acked_below }
}

/// What came of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Executed,
    Remembered(i64),
    Refused(CommandError),
}

/// Executes a command whose reply is `reply`.
fn run(sessions: &mut Sessions, slot: u64, header: SessionHeader, reply: i64) -> Outcome {
    match sessions.admit(Slot(slot), header) {
        SessionAdmission::Execute(place) => {
            sessions.remember(place, header.number, Reply::Int(reply));
            Outcome::Executed
        }
        SessionAdmission::Executed(place) => match sessions.remembered(place, header.number) {
            Reply::Int(reply) => Outcome::Remembered(reply),
            other => panic!("not what was remembered: {other:?}"),
        },
        SessionAdmission::Refuse(error) => Outcome::Refused(error),
    }
}

fn opened() -> Sessions {
    let mut sessions = Sessions::with_open_count_max(4, 1);
    sessions.open(Slot(1), 7).unwrap();
    sessions
}

#[test]
fn a_repeated_command_gets_the_first_reply() {
    let mut sessions = opened();
    assert_eq!(run(&mut sessions, 2, header(7, 1, 1), 10), Outcome::Executed);
    assert_eq!(run(&mut sessions, 3, header(7, 1, 1), 11), Outcome::Remembered(10));
    assert_eq!(run(&mut sessions, 4, header(7, 3, 1), 12), Outcome::Executed);
    assert_eq!(
        run(&mut sessions, 5, header(7, 2, 1), 13),
        Outcome::Executed,
        "numbers may come in any order"
    );
    assert_eq!(run(&mut sessions, 6, header(7, 3, 1), 14), Outcome::Remembered(12));
}

/// A graph executes commands of one session in an order that need not be that of their stamps.
#[test]
fn a_use_with_a_lower_stamp_makes_no_session_look_older() {
    let mut sessions = opened();
    run(&mut sessions, 9, header(7, 1, 1), 10);
    run(&mut sessions, 4, header(7, 2, 1), 11);
    sessions.open(Slot(3), 7).unwrap();
    assert_eq!(sessions.expire(Slot(9)), 0);
    sessions.close(Slot(2), 7, 1);
    sessions.expire(Slot(9));
    assert_eq!((sessions.known_count(), sessions.expire(Slot(10)), sessions.known_count()), (1, 0, 0));
}

#[test]
fn every_kind_of_reply_is_remembered() {
    let mut sessions = opened();
    let long = [3; 100];
    let replies = [
        Reply::Ok,
        Reply::Nil,
        Reply::Int(-1),
        Reply::Bytes(b""),
        Reply::Bytes(b"short"),
        Reply::Bytes(&long[..22]),
        Reply::Bytes(&long[..23]),
        Reply::Bytes(&long),
        Reply::Status("none"),
        Reply::Array(b"items"),
        Reply::Replies(b"items"),
        Reply::Replies(&[]),
        Reply::Error(CommandError::Overflow),
    ];
    for (number, reply) in (1..).zip(replies) {
        let SessionAdmission::Execute(place) = sessions.admit(Slot(2), header(7, number, 1)) else {
            panic!()
        };
        sessions.remember(place, number, reply);
    }
    for (number, reply) in (1..).zip(replies) {
        let SessionAdmission::Executed(place) = sessions.admit(Slot(2), header(7, number, 1)) else {
            panic!()
        };
        assert_eq!(sessions.remembered(place, number), reply);
    }
}

#[test]
fn an_acknowledged_number_is_stale() {
    let mut sessions = opened();
    run(&mut sessions, 2, header(7, 1, 1), 10);
    assert_eq!(run(&mut sessions, 3, header(7, 2, 2), 11), Outcome::Executed);
    let stale = Outcome::Refused(CommandError::StaleNumber);
    assert_eq!(run(&mut sessions, 4, header(7, 1, 1), 12), stale, "an old copy does not lower the base");
    assert_eq!(run(&mut sessions, 4, header(7, 5, 9), 12), stale, "acknowledged before it was executed");
}

#[test]
fn the_window_bounds_what_is_outstanding() {
    let mut sessions = opened();
    for number in 1..=WINDOW {
        assert_eq!(run(&mut sessions, 2, header(7, number, 1), number as i64), Outcome::Executed);
    }
    let beyond = WINDOW + 1;
    assert_eq!(run(&mut sessions, 3, header(7, beyond, 1), 0), Outcome::Refused(CommandError::SessionWindow));
    assert_eq!(run(&mut sessions, 4, header(7, beyond, 2), 0), Outcome::Executed);
    for number in 2..=WINDOW {
        assert_eq!(run(&mut sessions, 5, header(7, number, 1), 0), Outcome::Remembered(number as i64));
    }
}

#[test]
fn too_many_bytes_of_replies_must_be_acknowledged_first() {
    let mut sessions = opened();
    let long = vec![0; REPLY_BYTES_MAX / 2 + 1];
    for number in 1..=2 {
        let SessionAdmission::Execute(place) = sessions.admit(Slot(2), header(7, number, 1)) else {
            panic!()
        };
        sessions.remember(place, number, Reply::Bytes(&long));
    }
    assert_eq!(run(&mut sessions, 3, header(7, 3, 1), 0), Outcome::Refused(CommandError::SessionWindow));
    assert_eq!(run(&mut sessions, 3, header(7, 4, 2), 0), Outcome::Executed);
    // A copy of what was refused does not take effect any more.
    let SessionAdmission::Executed(place) = sessions.admit(Slot(4), header(7, 3, 1)) else { panic!() };
    assert_eq!(sessions.remembered(place, 3), Reply::Error(CommandError::SessionWindow));
}

#[test]
fn an_unknown_session_is_never_treated_as_new() {
    let mut sessions = opened();
    let unknown = Outcome::Refused(CommandError::UnknownSession);
    assert_eq!(run(&mut sessions, 2, header(8, 1, 1), 0), unknown);
    sessions.close(Slot(3), 7, 1);
    assert_eq!(run(&mut sessions, 4, header(7, 1, 1), 0), unknown);
    assert_eq!(sessions.open(Slot(5), 0), Err(CommandError::UnknownSession));
}

#[test]
fn a_late_copy_of_open_session_does_not_revive_a_closed_one() {
    let mut sessions = opened();
    run(&mut sessions, 2, header(7, 1, 1), 10);
    sessions.open(Slot(3), 7).unwrap();
    assert_eq!(
        run(&mut sessions, 4, header(7, 1, 1), 11),
        Outcome::Remembered(10),
        "opening again forgets nothing"
    );
    sessions.close(Slot(5), 7, 1);
    assert_eq!(sessions.open(Slot(6), 7), Err(CommandError::UnknownSession));
    assert_eq!(run(&mut sessions, 7, header(7, 1, 1), 12), Outcome::Refused(CommandError::UnknownSession));
    assert_eq!(sessions.expire(Slot(8)), 0);
    assert_eq!((sessions.known_count(), sessions.generation()), (0, 1));
}

#[test]
fn the_table_is_bounded() {
    let mut sessions = Sessions::with_open_count_max(2, 1);
    let full = Err(CommandError::SessionTableFull);
    sessions.open(Slot(1), 1).unwrap();
    sessions.open(Slot(1), 2).unwrap();
    assert_eq!(sessions.open(Slot(1), 3), full);
    assert_eq!(sessions.open(Slot(1), 2), Ok(1), "an open session needs no room");
    sessions.close(Slot(2), 1, 1);
    sessions.close(Slot(2), 2, 1);
    sessions.open(Slot(3), 3).unwrap();
    sessions.open(Slot(3), 4).unwrap();
    sessions.close(Slot(3), 4, 1);
    assert_eq!(sessions.open(Slot(4), 5), full, "closed sessions take room until they expire");
    assert_eq!(sessions.expire(Slot(3)), 0);
    assert_eq!(sessions.open(Slot(4), 5), Ok(1 << 40 | 1));
    assert_eq!(sessions.open_count(), 2);
}

#[test]
fn expiry_spares_what_was_used_since() {
    let mut sessions = Sessions::with_open_count_max(4, 1);
    for id in 1..=3 {
        sessions.open(Slot(id), id).unwrap();
    }
    run(&mut sessions, 9, header(1, 1, 1), 5);
    assert_eq!(sessions.expire(Slot(3)), 1);
    assert_eq!(run(&mut sessions, 10, header(2, 1, 1), 0), Outcome::Refused(CommandError::UnknownSession));
    assert_eq!(run(&mut sessions, 10, header(1, 1, 1), 0), Outcome::Remembered(5));
    assert_eq!(run(&mut sessions, 10, header(3, 1, 1), 0), Outcome::Executed);
}

#[test]
fn numbers_at_the_end_of_the_range_do_no_harm() {
    let mut sessions = opened();
    let last = (1 << 40) - 1;
    for acked_below in [last - 20, last - 3, last, last + 1, u64::MAX] {
        for number in [1, last - 20, last - 13, last - 1, last, last + 1, u64::MAX - 1, u64::MAX] {
            run(&mut sessions, 2, header(7, number, acked_below), 1);
        }
    }
    let window = Outcome::Refused(CommandError::SessionWindow);
    assert_eq!(
        run(&mut sessions, 2, header(7, last + 1, 1), 1),
        window,
        "a session never leaves its generation"
    );
    let mut out = Vec::new();
    sessions.begin_scan();
    assert!(sessions.scan(&mut out, usize::MAX, &mut 100));
    sessions.close(Slot(3), 7, 1);
    sessions.expire(Slot(4));
    assert_eq!((sessions.known_count(), sessions.digest), (0, 0));
}

/// What a session that is opened again begins with, after so many expiries.
fn beginning(generation: u64) -> u64 {
    generation << 40 | 1
}

#[test]
fn a_session_that_is_opened_again_refuses_copies_of_what_it_executed_before_it_expired() {
    let mut sessions = opened();
    let copy = header(7, 5, 3);
    assert_eq!(run(&mut sessions, 2, copy, 10), Outcome::Executed);
    assert_eq!(sessions.expire(Slot(10)), 1);
    let unknown = Outcome::Refused(CommandError::UnknownSession);
    assert_eq!(run(&mut sessions, 11, copy, 11), unknown);
    // Twice, with an expiry of others between: the second name is not the first one's either.
    for (generation, slot) in [(1, 12), (2, 30)] {
        let first = beginning(generation);
        assert_eq!(sessions.open(Slot(slot), 7), Ok(first));
        assert_eq!(sessions.open(Slot(slot), 7), Ok(first), "it is open");
        assert_eq!(run(&mut sessions, slot + 1, copy, 11), unknown);
        // Nor does a copy of what ended the former session end this one.
        sessions.close(Slot(slot + 1), 7, copy.number);
        assert_eq!(run(&mut sessions, slot + 2, header(7, first, first), 12), Outcome::Executed);
        assert_eq!(sessions.expire(Slot(slot + 10)), 1);
    }
    assert_eq!(sessions.expire(Slot(100)), 0);
    assert_eq!(sessions.generation(), 3, "an expiry that forgets nothing begins no generation");
}

#[test]
fn a_group_whose_generations_are_used_up_opens_no_session() {
    let mut sessions = Sessions::new(1);
    assert!(sessions.restore_generation(SESSION_GENERATIONS_MAX - 1));
    assert_eq!(sessions.open(Slot(1), 7), Ok(beginning(SESSION_GENERATIONS_MAX - 1)));
    assert!(i64::try_from(beginning(SESSION_GENERATIONS_MAX - 1)).is_ok(), "a reply can say it");
    sessions.expire(Slot(2));
    assert_eq!(sessions.open(Slot(3), 7), Err(CommandError::SessionTableFull));
}

#[derive(Clone, Debug)]
enum Step {
    Open(u64),
    Close(u64),
    Expire(u64),
    Run { session: u64, ahead: u64, acked: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u64..6).prop_map(Step::Open),
        1 => (1u64..6).prop_map(Step::Close),
        1 => (0u64..40).prop_map(Step::Expire),
        20 => (1u64..6, 0u64..140, 0u64..20).prop_map(|(session, ahead, acked)| Step::Run { session, ahead, acked }),
    ]
}

/// The plainest statement of section 7.2.
#[derive(Default)]
struct ModelSession {
    base: u64,
    last_slot: u64,
    closed: bool,
    replies: BTreeMap<u64, i64>,
}

proptest! {
    #[test]
    fn every_outcome_is_that_of_a_plain_table(steps in prop::collection::vec(step(), 1..200)) {
        const OPEN_MAX: usize = 3;
        let mut sessions = Sessions::with_open_count_max(OPEN_MAX, 5);
        let mut model: BTreeMap<u64, ModelSession> = BTreeMap::new();
        let mut generation = 0;
        for (slot, step) in (1u64..).zip(steps) {
            match step {
                Step::Open(id) => {
                    let open_count = model.values().filter(|session| !session.closed).count();
                    let known_count = model.len();
                    let expected = match model.get_mut(&id) {
                        Some(session) if session.closed => Err(CommandError::UnknownSession),
                        Some(session) => {
                            session.last_slot = slot;
                            Ok(session.base >> 40 << 40 | 1)
                        }
                        None if open_count == OPEN_MAX || known_count == 2 * OPEN_MAX => {
                            Err(CommandError::SessionTableFull)
                        }
                        None => {
                            let base = beginning(generation);
                            model.insert(id, ModelSession { base, last_slot: slot, ..Default::default() });
                            Ok(base)
                        }
                    };
                    prop_assert_eq!(sessions.open(Slot(slot), id), expected);
                }
                Step::Close(id) => {
                    sessions.close(Slot(slot), id, model.get(&id).map_or(1, |session| session.base));
                    if let Some(session) = model.get_mut(&id).filter(|session| !session.closed) {
                        *session = ModelSession { last_slot: slot, closed: true, ..Default::default() };
                    }
                }
                Step::Expire(age) => {
                    let before = slot.saturating_sub(age);
                    let gone: Vec<u64> =
                        model.iter().filter(|(_, it)| it.last_slot < before).map(|(id, _)| *id).collect();
                    let open = gone.iter().filter(|id| !model[id].closed).count();
                    gone.iter().for_each(|id| drop(model.remove(id)));
                    generation += u64::from(!gone.is_empty());
                    prop_assert_eq!(sessions.expire(Slot(before)), open);
                }
                Step::Run { session: id, ahead, acked } => {
                    let base = model.get(&id).map_or(1, |session| session.base);
                    let (number, acked_below) = ((base + ahead).saturating_sub(5).max(base >> 40 << 40 | 1), (base + acked).saturating_sub(10));
                    let expected = match model.get_mut(&id) {
                        Some(session) if !session.closed => {
                            session.base = session.base.max(acked_below);
                            session.last_slot = slot;
                            if number < session.base {
                                Outcome::Refused(CommandError::StaleNumber)
                            } else if number >= session.base + WINDOW {
                                Outcome::Refused(CommandError::SessionWindow)
                            } else if let Some(reply) = session.replies.get(&number) {
                                Outcome::Remembered(*reply)
                            } else {
                                session.replies.insert(number, slot as i64);
                                Outcome::Executed
                            }
                        }
                        _ => Outcome::Refused(CommandError::UnknownSession),
                    };
                    let outcome = run(&mut sessions, slot, header(id, number, acked_below), slot as i64);
                    prop_assert_eq!(outcome, expected);
                }
            }
            prop_assert_eq!(sessions.known_count(), model.len());
            prop_assert_eq!(sessions.open_count(), model.values().filter(|session| !session.closed).count());
        }
        // Built anew from the model, in another order: the same digest.
        let mut other = Sessions::with_open_count_max(10, 6);
        prop_assert!(generation == 0 || other.restore_generation(generation));
        for (id, session) in model.iter().rev() {
            let base = if session.closed { u64::MAX } else { session.base };
            let (last_slot, closed) = (Slot(session.last_slot), session.closed);
            let fits = other.restore(super::SessionRecord { id: *id, base, last_slot, closed });
            prop_assert!(fits);
            for (number, reply) in session.replies.range(session.base..) {
                prop_assert!(other.restore_reply(*id, *number, Reply::Int(*reply)));
            }
        }
        prop_assert_eq!(other.digest(), sessions.digest());
        if let Some(id) = model.keys().next() {
            other.expire(Slot(u64::MAX));
            other.open(Slot(1), *id).unwrap();
            prop_assert_ne!(other.digest(), 0);
        }
    }
}
