use std::collections::BTreeMap;

use panch_wire::command::CommandKind::{self, *};
use panch_wire::command::{Command, CommandError, KEY_SIZE_MAX, Reply, flags, list};
use panch_wire::transaction::{self, Step};
use proptest::prelude::*;

use super::Kv;

/// Ceilings that a test reaches.
const VALUE_SIZE_MAX: usize = 200;
const REPLY_SIZE_MAX: usize = 1000;

fn kv() -> Kv {
    Kv::bounded(3, VALUE_SIZE_MAX, REPLY_SIZE_MAX)
}

/// A reply that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    Ok,
    Nil,
    Int(i64),
    Bytes(Vec<u8>),
    Status(&'static str),
    Array(Vec<Option<Vec<u8>>>),
    Error(CommandError),
}

impl From<Reply<'_>> for Answer {
    fn from(reply: Reply<'_>) -> Self {
        match reply {
            Reply::Ok => Self::Ok,
            Reply::Nil => Self::Nil,
            Reply::Int(number) => Self::Int(number),
            Reply::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
            Reply::Status(text) => Self::Status(text),
            Reply::Array(items) => Self::Array(
                list::items(items)
                    .map(|item| match item.split_first() {
                        Some((1, value)) => Some(value.to_vec()),
                        Some((0, [])) => None,
                        _ => panic!("malformed item"),
                    })
                    .collect(),
            ),
            Reply::Error(error) => Self::Error(error),
        }
    }
}

fn ask_with(kv: &mut Kv, kind: CommandKind, flags: u8, key: &[u8], value: &[u8]) -> Answer {
    let mut scratch = b"left over".to_vec();
    kv.apply(&Command { kind, flags, session: None, key, value }, &mut scratch).into()
}

fn ask(kv: &mut Kv, kind: CommandKind, key: &str, value: &str) -> Answer {
    ask_with(kv, kind, 0, key.as_bytes(), value.as_bytes())
}

fn ask_list(kv: &mut Kv, kind: CommandKind, items: &[&str]) -> Answer {
    let mut value = Vec::new();
    for item in items {
        list::push(&mut value, item.as_bytes());
    }
    ask_with(kv, kind, 0, items[0].as_bytes(), &value)
}

fn increment(kv: &mut Kv, key: &str, by: i64) -> Answer {
    ask_with(kv, IncrBy, 0, key.as_bytes(), &by.to_le_bytes())
}

fn bytes(text: &str) -> Answer {
    Answer::Bytes(text.as_bytes().to_vec())
}

#[test]
fn get_of_a_missing_key_is_nil() {
    let mut kv = kv();
    assert_eq!(ask(&mut kv, Get, "k", ""), Answer::Nil);
    assert_eq!(ask(&mut kv, Set, "k", ""), Answer::Ok);
    assert_eq!(ask(&mut kv, Get, "k", ""), bytes(""));
    assert_eq!(ask(&mut kv, Set, "k", "v"), Answer::Ok);
    assert_eq!(ask(&mut kv, Get, "k", ""), bytes("v"));
    assert_eq!(kv.len(), 1);
}

#[test]
fn set_heeds_its_conditions() {
    let mut kv = kv();
    let mut set = |flags, value: &str| ask_with(&mut kv, Set, flags, b"k", value.as_bytes());
    assert_eq!(set(flags::IF_PRESENT, "a"), Answer::Nil);
    assert_eq!(set(flags::IF_PRESENT | flags::RETURN_OLD, "a"), Answer::Nil);
    assert_eq!(set(flags::IF_ABSENT, "b"), Answer::Ok);
    assert_eq!(set(flags::IF_ABSENT, "c"), Answer::Nil);
    assert_eq!(set(flags::IF_ABSENT | flags::RETURN_OLD, "d"), bytes("b"));
    assert_eq!(set(flags::IF_PRESENT, "e"), Answer::Ok);
    assert_eq!(set(flags::IF_ABSENT | flags::IF_PRESENT, "f"), Answer::Nil);
    assert_eq!(set(flags::RETURN_OLD, "g"), bytes("e"));
    assert_eq!(ask(&mut kv, Get, "k", ""), bytes("g"));
    assert_eq!(ask_with(&mut kv, Set, flags::IF_ABSENT | flags::RETURN_OLD, b"new", b"h"), Answer::Nil);
    assert_eq!(ask(&mut kv, Get, "new", ""), bytes("h"));
}

#[test]
fn setnx_tells_whether_it_set() {
    let mut kv = kv();
    assert_eq!(ask(&mut kv, SetNx, "k", "a"), Answer::Int(1));
    assert_eq!(ask(&mut kv, SetNx, "k", "b"), Answer::Int(0));
    assert_eq!(ask(&mut kv, Get, "k", ""), bytes("a"));
}

#[test]
fn getset_and_getdel_give_the_old_value() {
    let mut kv = kv();
    assert_eq!(ask(&mut kv, GetSet, "k", "a"), Answer::Nil);
    assert_eq!(ask(&mut kv, GetSet, "k", "b"), bytes("a"));
    assert_eq!(ask(&mut kv, GetDel, "k", ""), bytes("b"));
    assert_eq!(ask(&mut kv, GetDel, "k", ""), Answer::Nil);
    assert!(kv.is_empty());
}

#[test]
fn incrby_starts_at_zero_and_stores_text() {
    let mut kv = kv();
    assert_eq!(increment(&mut kv, "n", -7), Answer::Int(-7));
    assert_eq!(increment(&mut kv, "n", 17), Answer::Int(10));
    assert_eq!(ask(&mut kv, Get, "n", ""), bytes("10"));
}

#[test]
fn incrby_refuses_what_is_not_a_canonical_integer() {
    let mut kv = kv();
    for text in ["", "x", "1x", "+1", " 1", "1 ", "01", "-0", "1.5", "9223372036854775808"] {
        ask(&mut kv, Set, "n", text);
        assert_eq!(increment(&mut kv, "n", 1), Answer::Error(CommandError::NotAnInteger), "{text:?}");
        assert_eq!(ask(&mut kv, Get, "n", ""), bytes(text));
    }
}

#[test]
fn incrby_refuses_to_overflow() {
    let mut kv = kv();
    ask(&mut kv, Set, "n", "9223372036854775807");
    assert_eq!(increment(&mut kv, "n", 1), Answer::Error(CommandError::Overflow));
    assert_eq!(ask(&mut kv, Get, "n", ""), bytes("9223372036854775807"));
    ask(&mut kv, Set, "n", "-9223372036854775808");
    assert_eq!(increment(&mut kv, "n", -1), Answer::Error(CommandError::Overflow));
    assert_eq!(increment(&mut kv, "n", i64::MAX), Answer::Int(-1));
}

#[test]
fn append_creates_and_tells_the_length() {
    let mut kv = kv();
    assert_eq!(ask(&mut kv, Append, "k", "ab"), Answer::Int(2));
    assert_eq!(ask(&mut kv, Append, "k", "c"), Answer::Int(3));
    assert_eq!(ask(&mut kv, StrLen, "k", ""), Answer::Int(3));
    assert_eq!(ask(&mut kv, StrLen, "none", ""), Answer::Int(0));
    assert_eq!(ask(&mut kv, Append, "empty", ""), Answer::Int(0));
    assert_eq!(ask(&mut kv, Type, "empty", ""), Answer::Status("string"));
    assert_eq!(ask(&mut kv, Type, "none", ""), Answer::Status("none"));
}

#[test]
fn no_value_becomes_larger_than_the_limit() {
    let mut kv = kv();
    let too_large = Answer::Error(CommandError::TooLarge);
    let (fits, long) = ("v".repeat(200), "v".repeat(201));
    for kind in [Set, SetNx, GetSet, Append] {
        assert_eq!(ask(&mut kv, kind, "k", &long), too_large);
    }
    assert!(kv.is_empty());
    assert_eq!(ask(&mut kv, Set, "k", &fits), Answer::Ok);
    assert_eq!(ask(&mut kv, Append, "k", "x"), too_large);
    assert_eq!(ask_list(&mut kv, MSet, &["a", "1", "b", &long]), too_large);
    assert_eq!(kv.len(), 1, "a refused MSET sets nothing");
    ask(&mut kv, Set, "k", "v");
    let mut pair = Vec::new();
    list::push(&mut pair, b"v");
    list::push(&mut pair, long.as_bytes());
    assert_eq!(ask_with(&mut kv, CompareAndSet, 0, b"k", &pair), too_large);
    assert_eq!(ask(&mut kv, Get, "k", ""), bytes("v"));
}

#[test]
fn a_reply_of_many_values_is_bounded() {
    let mut kv = kv();
    ask(&mut kv, Set, "k", &"v".repeat(200));
    assert!(matches!(ask_list(&mut kv, MGet, &["k"; 4]), Answer::Array(_)));
    assert_eq!(ask_list(&mut kv, MGet, &["k"; 5]), Answer::Error(CommandError::TooLarge));
}

#[test]
fn mset_sets_in_order_and_mget_tells_absence() {
    let mut kv = kv();
    assert_eq!(ask_list(&mut kv, MSet, &["a", "1", "b", "2", "a", "3"]), Answer::Ok);
    let values = vec![Some(b"3".to_vec()), None, Some(b"2".to_vec()), Some(b"3".to_vec())];
    assert_eq!(ask_list(&mut kv, MGet, &["a", "none", "b", "a"]), Answer::Array(values));
}

#[test]
fn msetnx_sets_all_or_nothing() {
    let mut kv = kv();
    let mut set = |items: &[&str]| {
        let mut pairs = Vec::new();
        items.iter().for_each(|item| list::push(&mut pairs, item.as_bytes()));
        (ask_with(&mut kv, MSet, flags::IF_ABSENT, b"a", &pairs), kv.len())
    };
    assert_eq!(set(&["a", "1", "b", "2", "a", "3"]), (Answer::Int(1), 2));
    assert_eq!(set(&["c", "1", "b", "2"]), (Answer::Int(0), 2));
    assert_eq!(ask(&mut kv, Get, "a", ""), bytes("3"));
}

#[test]
fn a_transaction_writes_all_or_nothing() {
    let mut kv = kv();
    let mut transact = |steps: &[Step<'_>]| {
        let mut value = Vec::new();
        steps.iter().for_each(|step| step.push(&mut value));
        ask_with(&mut kv, Transaction, 0, b"a", &value)
    };
    let (done, failed) = (Answer::Int(1), Answer::Int(0));
    assert_eq!(transact(&[Step::Absent(b"a"), Step::Set(b"a", b"1"), Step::Set(b"b", b"2")]), done);
    assert_eq!(transact(&[Step::Absent(b"a"), Step::Set(b"c", b"3")]), failed);
    let swap =
        [Step::Equals(b"a", b"1"), Step::Equals(b"b", b"2"), Step::Set(b"a", b"2"), Step::Set(b"b", b"1")];
    assert_eq!(transact(&swap), done);
    assert_eq!(transact(&swap), failed, "one condition is enough to fail");
    assert_eq!(transact(&[Step::Equals(b"c", b"")]), failed, "absent is not empty");
    assert_eq!(transact(&[Step::Equals(b"a", b"2"), Step::Absent(b"c")]), done, "conditions alone");
    let long = [b'v'; 201];
    let too_large = Answer::Error(CommandError::TooLarge);
    assert_eq!(transact(&[Step::Delete(b"a"), Step::Set(b"c", &long)]), too_large);
    let malformed = Answer::Error(CommandError::Malformed);
    assert_eq!(transact(&[Step::Delete(b"a"), Step::Absent(b"c")]), malformed);
    assert_eq!(transact(&[]), malformed);
    assert_eq!(transact(&[Step::Set(b"a", b"x"), Step::Delete(b"a"), Step::Delete(b"none")]), done);
    assert_eq!((ask(&mut kv, Get, "a", ""), ask(&mut kv, Get, "b", "")), (Answer::Nil, bytes("1")));
    assert_eq!(kv.len(), 1);
}

#[test]
fn del_counts_once_and_exists_counts_repeats() {
    let mut kv = kv();
    ask_list(&mut kv, MSet, &["a", "1", "b", "2"]);
    assert_eq!(ask_list(&mut kv, Exists, &["a", "a", "none", "b"]), Answer::Int(3));
    assert_eq!(ask_list(&mut kv, Del, &["a", "a", "none"]), Answer::Int(1));
    assert_eq!(ask_list(&mut kv, Exists, &["a", "b"]), Answer::Int(1));
}

#[test]
fn compare_and_set_needs_the_expected_value() {
    let mut kv = kv();
    let mut swap = |expected: &str, new: &str| {
        let mut pair = Vec::new();
        list::push(&mut pair, expected.as_bytes());
        list::push(&mut pair, new.as_bytes());
        ask_with(&mut kv, CompareAndSet, 0, b"k", &pair)
    };
    assert_eq!(swap("", "a"), Answer::Int(0), "an absent key is not an empty value");
    ask(&mut kv, Set, "k", "a");
    let mut swap = |expected: &str, new: &str| {
        let mut pair = Vec::new();
        list::push(&mut pair, expected.as_bytes());
        list::push(&mut pair, new.as_bytes());
        ask_with(&mut kv, CompareAndSet, 0, b"k", &pair)
    };
    assert_eq!(swap("b", "c"), Answer::Int(0));
    assert_eq!(swap("a", "c"), Answer::Int(1));
    assert_eq!(ask(&mut kv, Get, "k", ""), bytes("c"));
}

#[test]
fn commands_with_wrong_parts_change_nothing() {
    let mut kv = kv();
    ask(&mut kv, Set, "k", "1");
    let digest = kv.digest();
    let malformed = Answer::Error(CommandError::Malformed);
    let long_key = vec![b'k'; KEY_SIZE_MAX + 1];
    assert_eq!(ask(&mut kv, IncrBy, "k", "1"), malformed);
    assert_eq!(ask(&mut kv, CompareAndSet, "k", ""), malformed);
    assert_eq!(ask(&mut kv, OpenSession, "", ""), malformed);
    assert_eq!(ask_with(&mut kv, Set, 0, &long_key, b""), malformed);
    let mut pair = Vec::new();
    list::push(&mut pair, &long_key);
    list::push(&mut pair, b"");
    assert_eq!(ask_with(&mut kv, MSet, 0, b"", &pair), malformed);
    assert_eq!(kv.digest(), digest);
    assert_eq!(ask_with(&mut kv, Set, 0, &long_key[1..], b"v"), Answer::Ok);
    assert_eq!(kv.value(&long_key[1..]), Some(&b"v"[..]));
}

#[test]
fn a_table_grows_and_shrinks_without_losing_a_key() {
    let mut kv = kv();
    for number in 0..50_000u32 {
        ask_with(&mut kv, Set, 0, &number.to_le_bytes(), &number.to_be_bytes());
    }
    let size = kv.size_bytes();
    for round in 0..3 {
        for number in (0..50_000u32).filter(|number| number % 3 == round) {
            assert_eq!(
                ask_with(&mut kv, GetDel, 0, &number.to_le_bytes(), b""),
                Answer::Bytes(number.to_be_bytes().to_vec())
            );
        }
    }
    assert_eq!((kv.len(), kv.digest()), (0, 0));
    for number in 0..50_000u32 {
        ask_with(&mut kv, Set, 0, &number.to_be_bytes(), b"again");
    }
    assert!(kv.size_bytes() <= size + size / 4, "freed places are used again");
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// The plainest statement of what each command means.
fn model(model: &mut Model, kind: CommandKind, flags: u8, key: &[u8], value: &[u8]) -> Answer {
    let items: Vec<&[u8]> = list::items(value).collect();
    let old = model.get(key).cloned();
    let answer = |value: Option<Vec<u8>>| value.map_or(Answer::Nil, Answer::Bytes);
    let too_large = |size: usize| size > VALUE_SIZE_MAX;
    match kind {
        Get => answer(old),
        StrLen => Answer::Int(old.map_or(0, |old| old.len()) as i64),
        Type => Answer::Status(if old.is_some() { "string" } else { "none" }),
        Set | SetNx | GetSet if too_large(value.len()) => Answer::Error(CommandError::TooLarge),
        Set => {
            let fits = (flags & flags::IF_ABSENT == 0 || old.is_none())
                && (flags & flags::IF_PRESENT == 0 || old.is_some());
            if fits {
                model.insert(key.to_vec(), value.to_vec());
            }
            match (flags & flags::RETURN_OLD != 0, fits) {
                (true, _) => answer(old),
                (false, true) => Answer::Ok,
                (false, false) => Answer::Nil,
            }
        }
        SetNx => {
            model.entry(key.to_vec()).or_insert_with(|| value.to_vec());
            Answer::Int(i64::from(old.is_none()))
        }
        GetSet => answer(model.insert(key.to_vec(), value.to_vec())),
        GetDel => answer(model.remove(key)),
        IncrBy => {
            let by = i64::from_le_bytes(value.try_into().unwrap());
            let text = old.unwrap_or_else(|| b"0".to_vec());
            let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<i64>().ok());
            let Some(number) = number.filter(|number| number.to_string().as_bytes() == text) else {
                return Answer::Error(CommandError::NotAnInteger);
            };
            let Some(sum) = number.checked_add(by) else { return Answer::Error(CommandError::Overflow) };
            model.insert(key.to_vec(), sum.to_string().into_bytes());
            Answer::Int(sum)
        }
        Append => {
            let sum = [old.unwrap_or_default(), value.to_vec()].concat();
            if too_large(sum.len()) {
                return Answer::Error(CommandError::TooLarge);
            }
            model.insert(key.to_vec(), sum.clone());
            Answer::Int(sum.len() as i64)
        }
        MGet => Answer::Array(items.iter().map(|key| model.get(*key).cloned()).collect()),
        MSet => {
            if items.chunks(2).any(|pair| too_large(pair[1].len())) {
                return Answer::Error(CommandError::TooLarge);
            }
            let if_absent = flags & flags::IF_ABSENT != 0;
            if if_absent && items.chunks(2).any(|pair| model.contains_key(pair[0])) {
                return Answer::Int(0);
            }
            model.extend(items.chunks(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec())));
            if if_absent { Answer::Int(1) } else { Answer::Ok }
        }
        Transaction => {
            let steps: Vec<Step<'_>> = transaction::steps(value).collect();
            if steps.iter().any(|step| matches!(step, Step::Set(_, value) if too_large(value.len()))) {
                return Answer::Error(CommandError::TooLarge);
            }
            let fails = |step: &Step<'_>| match *step {
                Step::Equals(key, expected) => model.get(key).is_none_or(|value| value != expected),
                Step::Absent(key) => model.contains_key(key),
                Step::Set(..) | Step::Delete(_) => false,
            };
            if steps.iter().any(fails) {
                return Answer::Int(0);
            }
            for step in steps.into_iter().filter(|step| step.is_write()) {
                match step {
                    Step::Set(key, value) => drop(model.insert(key.to_vec(), value.to_vec())),
                    _ => drop(model.remove(step.key())),
                }
            }
            Answer::Int(1)
        }
        Del => Answer::Int(items.iter().filter(|key| model.remove(**key).is_some()).count() as i64),
        Exists => Answer::Int(items.iter().filter(|key| model.contains_key(**key)).count() as i64),
        CompareAndSet => {
            if too_large(items[1].len()) {
                return Answer::Error(CommandError::TooLarge);
            }
            let equal = old.as_deref() == Some(items[0]);
            if equal {
                model.insert(key.to_vec(), items[1].to_vec());
            }
            Answer::Int(i64::from(equal))
        }
        OpenSession | CloseSession | ExpireSessions => Answer::Error(CommandError::Malformed),
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => (0u8..12).prop_map(|key| vec![b'k', key]),
        1 => (50usize..80).prop_map(|length| vec![b'l'; length]),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => (-3i64..4).prop_map(|number| number.to_string().into_bytes()),
        3 => prop::collection::vec(any::<u8>(), 0..70),
        1 => (0usize..220).prop_map(|length| vec![b'v'; length]),
        1 => Just(i64::MAX.to_string().into_bytes()),
    ]
}

fn command() -> impl Strategy<Value = (CommandKind, u8, Vec<u8>, Vec<u8>)> {
    let data = CommandKind::ALL.iter().copied().filter(|kind| (*kind as u8) < 32).collect::<Vec<_>>();
    let parts = (prop::sample::select(data), 0u8..8, key(), value());
    let lists = (prop::collection::vec((key(), value()), 1..4), -2i64..3);
    (parts, lists).prop_map(|((kind, flags, key, value), (pairs, by))| {
        let mut items = Vec::new();
        match kind {
            MGet | Del | Exists => pairs.iter().for_each(|(key, _)| list::push(&mut items, key)),
            MSet => pairs.iter().for_each(|(key, value)| {
                list::push(&mut items, key);
                list::push(&mut items, value);
            }),
            CompareAndSet => {
                list::push(&mut items, &value);
                list::push(&mut items, &pairs[0].1);
            }
            Transaction => {
                // One condition at most, so that it often holds.
                match by {
                    0 => Step::Absent(&key).push(&mut items),
                    1 => Step::Equals(&key, &value).push(&mut items),
                    _ => {}
                }
                for (index, (key, value)) in pairs.iter().enumerate() {
                    let delete = index == 1 && by < 0;
                    if delete {
                        Step::Delete(key).push(&mut items)
                    } else {
                        Step::Set(key, value).push(&mut items)
                    };
                }
            }
            IncrBy => items.extend_from_slice(&by.to_le_bytes()),
            _ => items = value,
        }
        (kind, flags, key, items)
    })
}

#[test]
fn foreseeing_takes_so_many_commands_and_no_more_whether_their_keys_are_there_or_not() {
    let mut kv = kv();
    for key in [b"present", b"removed"] {
        ask_with(&mut kv, Set, 0, key, b"v");
    }
    ask_with(&mut kv, GetDel, 0, b"removed", b"");
    let digest = kv.digest();
    let keys = [b"present".as_slice(), b"removed", b"absent", b""].into_iter().cycle();
    let command = |key| Command { kind: Set, flags: 0, session: None, key, value: b"w" };
    let mut ahead = keys.map(command).take(Kv::FORESEEN_MAX + 3);
    kv.foresee(&mut ahead);
    assert_eq!(ahead.count(), 3, "the next window begins here");
    kv.foresee(std::iter::empty());
    assert_eq!(kv.digest(), digest);
}

proptest! {
    #[test]
    fn every_answer_is_that_of_a_plain_map(commands in prop::collection::vec(command(), 1..120)) {
        let (mut kv, mut map) = (kv(), Model::new());
        for (kind, flags, key, value) in commands {
            let expected = model(&mut map, kind, flags, &key, &value);
            prop_assert_eq!(ask_with(&mut kv, kind, flags, &key, &value), expected, "{:?}", kind);
            prop_assert_eq!(kv.len(), map.len());
        }
        for (key, value) in &map {
            prop_assert_eq!(kv.value(key), Some(&value[..]));
        }
        // Another history, another seed, the same table.
        let mut other = Kv::bounded(99, VALUE_SIZE_MAX, REPLY_SIZE_MAX);
        for key in map.keys() {
            ask_with(&mut other, Append, 0, key, b"to be replaced by something else");
        }
        for (key, value) in map.iter().rev() {
            ask_with(&mut other, Set, 0, key, value);
        }
        prop_assert_eq!(kv.digest(), other.digest());
        if let Some(key) = map.keys().next() {
            ask_with(&mut other, GetDel, 0, key, b"");
            prop_assert_ne!(kv.digest(), other.digest());
        }
    }

    #[test]
    fn reads_change_nothing(commands in prop::collection::vec(command(), 1..60)) {
        let mut kv = kv();
        for (kind, flags, key, value) in commands {
            let digest = kv.digest();
            ask_with(&mut kv, kind, flags, &key, &value);
            let mut scratch = Vec::new();
            let command = Command { kind, flags, session: None, key: &key, value: &value };
            let read = Answer::from(kv.read(&command, &mut scratch));
            if kind.is_read() {
                prop_assert_eq!(kv.digest(), digest);
                prop_assert_eq!(read, ask_with(&mut kv, kind, flags, &key, &value));
            } else {
                prop_assert_eq!(read, Answer::Error(CommandError::Malformed));
            }
        }
    }
}
