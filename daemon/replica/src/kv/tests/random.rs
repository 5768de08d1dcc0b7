//! Random commands, answered like a plain map.

use std::collections::BTreeMap;

use panch_wire::command::CommandKind::{self, *};
use panch_wire::command::{Command, CommandError, flags, list};
use panch_wire::exec::{self, Condition, hash_of};
use panch_wire::transaction::{self, Step};
use proptest::prelude::*;

use super::super::Kv;
use super::{Answer, REPLY_SIZE_MAX, VALUE_SIZE_MAX, ask_with, kv};

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
        Exec => {
            let is_met = |condition: Condition<'_>| {
                let found = model.get(condition.key);
                found.map(|value| hash_of(value)) == condition.hash
            };
            if !exec::conditions(value).all(is_met) {
                return Answer::Nil;
            }
            let mut answers: Vec<Answer> = Vec::new();
            let mut left = exec::commands(value).count();
            let mut size = 0;
            for Command { kind, flags, key, value, .. } in exec::commands(value) {
                left -= 1;
                let answer = self::model(model, kind, flags, key, value);
                let fits = size + answer.item_size() + left * 6 <= REPLY_SIZE_MAX;
                answers.push(if fits { answer } else { Answer::Error(CommandError::TooLarge) });
                size += answers.last().map_or(0, Answer::item_size);
            }
            Answer::Replies(answers)
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

type Parts = (CommandKind, u8, Vec<u8>, Vec<u8>);

/// Any command, now and then one that holds several.
fn command() -> impl Strategy<Value = Parts> {
    let condition = (key(), prop::option::of(value()));
    let several = (prop::collection::vec(single(), 0..12), prop::collection::vec(condition, 0..2));
    let several = several.prop_map(|(commands, conditions)| {
        let mut held = Vec::new();
        for (key, value) in &conditions {
            let hash = value.as_ref().map(|value| hash_of(value));
            Condition { key, hash }.push(&mut held);
        }
        for (kind, flags, key, value) in &commands {
            let command = Command { kind: *kind, flags: *flags, session: None, key, value };
            exec::push_command(&command, &mut held);
        }
        if held.is_empty() {
            Condition { key: b"k", hash: None }.push(&mut held);
        }
        (Exec, 0, b"k".to_vec(), held)
    });
    prop_oneof![9 => single(), 1 => several]
}

fn single() -> impl Strategy<Value = Parts> {
    let data = CommandKind::ALL.iter().copied().filter(|kind| kind.may_be_held()).collect::<Vec<_>>();
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
