mod random;

use panch_wire::command::CommandKind::{self, *};
use panch_wire::command::{Command, CommandError, KEY_SIZE_MAX, Reply, flags, list};
use panch_wire::reply;
use panch_wire::transaction::Step;

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
    Replies(Vec<Answer>),
}

impl Answer {
    /// Bytes of it among the replies to several commands.
    fn item_size(&self) -> usize {
        let content = match self {
            Self::Ok | Self::Nil => 0,
            Self::Int(_) => 8,
            Self::Bytes(bytes) => bytes.len(),
            Self::Status(text) => text.len(),
            Self::Array(values) => values.iter().map(|value| 5 + value.as_ref().map_or(0, Vec::len)).sum(),
            Self::Error(_) => 1,
            Self::Replies(_) => panic!("no command holds one that holds others"),
        };
        5 + content
    }
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
            Reply::Replies(items) => Self::Replies(reply::items(items).map(Answer::from).collect()),
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

#[test]
fn the_size_of_a_reply_is_foreseen_by_the_values_that_are_there() {
    let mut kv = Kv::new(1);
    let get = |key| Command { kind: Get, flags: 0, session: None, key, value: b"" };
    let mut scratch = Vec::new();
    let mut set = |kv: &mut Kv, key, length: usize| {
        let value = vec![b'x'; length];
        kv.apply(&Command { kind: Set, flags: 0, session: None, key, value: &value }, &mut scratch);
    };
    set(&mut kv, b"a", 100);
    assert!((100..300).contains(&kv.reply_size(&get(b"a"), 0)) && kv.reply_size(&get(b"a"), 5000) >= 5000);
    set(&mut kv, b"b", 100_000);
    assert!((100_000..100_300).contains(&kv.reply_size(&get(b"b"), 0)));
    assert!((100..300).contains(&kv.reply_size(&get(b"a"), 0)), "one long value makes others no longer");
    assert!((100_000..200_000).contains(&kv.value_size_bound()));
    set(&mut kv, b"b", 10);
    assert!((100..200).contains(&kv.value_size_bound()), "{}", kv.value_size_bound());
    kv.apply(&Command { kind: GetDel, ..get(b"a") }, &mut scratch);
    assert!((10..20).contains(&kv.value_size_bound()));
}
