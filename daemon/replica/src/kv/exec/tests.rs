use panch_wire::command::CommandKind::{self, *};
use panch_wire::command::{Command, CommandError, flags, list};
use panch_wire::exec::{Condition, hash_of};

use super::super::Kv;
use super::*;

const VALUE_SIZE_MAX: usize = 200;
const REPLY_SIZE_MAX: usize = 500;

fn kv() -> Kv {
    Kv::bounded(3, VALUE_SIZE_MAX, REPLY_SIZE_MAX)
}

fn command<'a>(kind: CommandKind, key: &'a str, value: &'a [u8]) -> Command<'a> {
    Command { kind, flags: 0, session: None, key: key.as_bytes(), value }
}

/// A condition: the key, and its value if there is to be one.
type Expected<'a> = (&'a str, Option<&'a str>);

/// Replies as text, `nil` alone if a condition did not hold.
fn run(kv: &mut Kv, conditions: &[Expected<'_>], commands: &[Command<'_>]) -> Vec<String> {
    let mut value = Vec::new();
    for (key, expected) in conditions {
        let hash = expected.map(|value| hash_of(value.as_bytes()));
        Condition { key: key.as_bytes(), hash }.push(&mut value);
    }
    commands.iter().for_each(|command| exec::push_command(command, &mut value));
    let mut scratch = b"left over".to_vec();
    match kv.apply(&command(Exec, "k", &value), &mut scratch) {
        Reply::Replies(replies) => {
            assert!(replies.len() <= REPLY_SIZE_MAX);
            reply::items(replies).map(|reply| format!("{reply:?}")).collect()
        }
        Reply::Nil => vec!["nil".to_string()],
        other => panic!("{other:?}"),
    }
}

fn text(reply: Reply<'_>) -> String {
    format!("{reply:?}")
}

#[test]
fn commands_see_what_those_before_them_did() {
    let mut kv = kv();
    let one = 1i64.to_le_bytes();
    let mut keys = Vec::new();
    ["n", "none"].iter().for_each(|key| list::push(&mut keys, key.as_bytes()));
    let replies = run(
        &mut kv,
        &[],
        &[
            command(Get, "n", b""),
            command(IncrBy, "n", &one),
            command(IncrBy, "n", &one),
            command(Get, "n", b""),
            Command { flags: flags::RETURN_OLD, ..command(Set, "n", b"x") },
            command(MGet, "n", &keys),
            command(GetDel, "n", b""),
            command(Type, "n", b""),
        ],
    );
    let mut values = Vec::new();
    list::push(&mut values, b"\x01x");
    list::push(&mut values, b"\0");
    let expected = [
        Reply::Nil,
        Reply::Int(1),
        Reply::Int(2),
        Reply::Bytes(b"2"),
        Reply::Bytes(b"2"),
        Reply::Array(&values),
        Reply::Bytes(b"x"),
        Reply::Status("none"),
    ];
    assert_eq!(replies, expected.map(text));
    assert!(kv.is_empty());
}

#[test]
fn an_error_undoes_nothing() {
    let mut kv = kv();
    let one = 1i64.to_le_bytes();
    let replies = run(
        &mut kv,
        &[],
        &[
            command(Set, "a", b"x"),
            command(IncrBy, "a", &one),
            command(Set, "b", &[b'v'; VALUE_SIZE_MAX + 1]),
            command(Set, "c", b"y"),
        ],
    );
    let errors = [CommandError::NotAnInteger, CommandError::TooLarge].map(Reply::Error);
    assert_eq!(replies, [Reply::Ok, errors[0], errors[1], Reply::Ok].map(text));
    assert_eq!((kv.value(b"a"), kv.value(b"b"), kv.value(b"c")), (Some(&b"x"[..]), None, Some(&b"y"[..])));
}

#[test]
fn nothing_takes_effect_unless_every_condition_holds() {
    let mut kv = kv();
    let write = [command(Set, "b", b"2"), command(Append, "a", b"!")];
    let done = [Reply::Ok, Reply::Int(1)].map(text);
    assert_eq!(run(&mut kv, &[("a", None), ("b", None)], &write), done);
    for conditions in [
        &[("a", None)][..],
        &[("a", Some("?"))],
        &[("a", Some("!")), ("b", Some("3"))],
        &[("a", Some("!")), ("c", Some(""))],
    ] {
        let digest = kv.digest();
        assert_eq!(run(&mut kv, conditions, &write), ["nil"], "{conditions:?}");
        assert_eq!(kv.digest(), digest);
    }
    // They are judged by what was there before the first command.
    let done = [Reply::Ok, Reply::Int(2)].map(text);
    assert_eq!(run(&mut kv, &[("a", Some("!")), ("b", Some("2")), ("c", None)], &write), done);
    assert_eq!(run(&mut kv, &[("a", Some("!!"))], &[]), Vec::<String>::new(), "conditions alone");
}

#[test]
fn an_answer_beyond_the_ceiling_becomes_an_error_and_its_command_takes_effect() {
    let mut kv = kv();
    let long = [b'v'; VALUE_SIZE_MAX];
    let mut keys = Vec::new();
    ["a", "a"].iter().for_each(|key| list::push(&mut keys, key.as_bytes()));
    run(&mut kv, &[], &[command(Set, "a", &long)]);
    let replies = run(
        &mut kv,
        &[],
        &[
            command(Get, "a", b""),
            command(MGet, "a", &keys),
            command(GetSet, "a", &long),
            command(GetSet, "a", b"short"),
            command(Get, "a", b""),
        ],
    );
    let too_large = text(Reply::Error(CommandError::TooLarge));
    let value = text(Reply::Bytes(&long));
    assert_eq!(
        replies,
        [&value, &too_large, &value, &too_large, &text(Reply::Bytes(b"short"))].map(String::clone)
    );
    // Errors find room, whatever came before.
    let many = vec![command(Get, "a", b""); REPLY_SIZE_MAX / ERROR_ITEM_SIZE];
    let replies = run(&mut kv, &[], &many);
    assert_eq!(replies.len(), many.len());
    assert_eq!(replies[0], too_large);
}

#[test]
fn what_is_not_valid_changes_nothing() {
    let mut kv = kv();
    let mut inner = Vec::new();
    exec::push_command(&command(Set, "a", b"1"), &mut inner);
    let mut value = inner.clone();
    exec::push_command(&command(Exec, "a", &inner), &mut value);
    for value in [&value[..], &inner[..inner.len() - 1], b""] {
        let reply = text(kv.apply(&command(Exec, "a", value), &mut Vec::new()));
        assert_eq!(reply, text(Reply::Error(CommandError::Malformed)));
    }
    assert!(kv.is_empty());
}

#[cfg(feature = "mutants")]
#[test]
fn without_conditions_commands_take_effect_whatever_there_is() {
    panch_wire::rule::remove(Some(Rule::ExecConditions));
    let mut kv = kv();
    let replies = run(&mut kv, &[("a", Some("1"))], &[command(Set, "a", b"2")]);
    panch_wire::rule::remove(None);
    assert_eq!(replies, [text(Reply::Ok)]);
}

#[test]
fn short_commands_on_long_values_are_bounded_work() {
    let mut kv = kv();
    let long = [b'x'; VALUE_SIZE_MAX - 10];
    for key in ["a", "b", "c", "d", "e"] {
        run(&mut kv, &[], &[command(Set, key, &long)]);
    }
    // Four values of the largest size may be looked at, and no more.
    let appends = vec![command(Append, "a", b""); 6];
    let replies = run(&mut kv, &[], &appends);
    let length = text(Reply::Int(long.len() as i64));
    let refused = text(Reply::Error(CommandError::TooLarge));
    assert_eq!(replies, [vec![length; 4], vec![refused; 2]].concat());
    let long = str::from_utf8(&long).unwrap();
    let conditions: Vec<Expected<'_>> = ["a", "b", "c", "d", "e"].map(|key| (key, Some(long))).into();
    assert_eq!(run(&mut kv, &conditions[..4], &[command(Get, "none", b"")]), [text(Reply::Nil)]);
    let mut value = Vec::new();
    for (key, _) in &conditions {
        Condition { key: key.as_bytes(), hash: Some(hash_of(long.as_bytes())) }.push(&mut value);
    }
    exec::push_command(&command(Set, "a", b"new"), &mut value);
    let mut scratch = Vec::new();
    assert_eq!(kv.apply(&command(Exec, "a", &value), &mut scratch), Reply::Error(CommandError::TooLarge));
    assert_eq!(kv.value(b"a"), Some(long.as_bytes()), "nothing has taken effect");
}
