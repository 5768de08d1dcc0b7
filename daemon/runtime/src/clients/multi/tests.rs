use std::cell::Cell;

use panch_wire::command::CommandError;

use super::*;

const GROUP: Option<GroupId> = Some(GroupId(1));

fn limits() -> BatchLimits {
    BatchLimits { command_size_max: 500, value_size_max: 400, ..BatchLimits::default() }
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command { kind: CommandKind::Set, flags: 0, session: None, key, value }
}

fn keys(keys: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    keys.iter().for_each(|key| list::push(&mut out, key));
    out
}

/// The value of the command that EXEC proposes, or why it does not.
fn execution(multi: &Multi, changes: u64) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
    match multi.execution(|_, _| changes, &mut Vec::new()) {
        Execution::Refused(text) => Err(text),
        Execution::Changed => Err("changed"),
        Execution::Empty => Err("empty"),
        Execution::Proposed(command) => {
            assert!(command.is_valid());
            Ok((command.key.to_vec(), command.value.to_vec()))
        }
    }
}

/// Watches keys, each of which has changed seven times, and is answered with these values.
fn watch(multi: &mut Multi, number: u64, wanted: &[&[u8]], values: &[Option<&[u8]>]) -> Vec<u8> {
    let watching = multi.watch(&keys(wanted), GROUP, &limits(), |_, _| 7).expect("they fit");
    let read = watching.read().expect("some are new").value.to_vec();
    multi.asked(number, watching);
    let mut items = Vec::new();
    for value in values {
        let item = value.map_or(b"\0".to_vec(), |value| [b"\x01", value].concat());
        list::push(&mut items, &item);
    }
    assert!(multi.is_watching() && multi.must_wait());
    assert_eq!(multi.on_reply(number + 1, &Reply::Nil), Told::Reply);
    assert_eq!(multi.on_reply(number, &Reply::Array(&items)), Told::Watched);
    assert!(!multi.is_watching() && multi.must_wait());
    read
}

#[test]
fn commands_gather_until_exec() {
    let mut multi = Multi::default();
    assert_eq!(execution(&multi, 0), Err(EXEC_WITHOUT_MULTI));
    assert!(multi.open() && !multi.open() && multi.is_open());
    assert_eq!(execution(&multi, 0), Err("empty"));
    let mut expected = Vec::new();
    for command in [set(b"b", b"1"), set(b"a", b"2")] {
        assert_eq!(multi.push(&command, GROUP, &limits()), Ok(()));
        exec::push_command(&command, &mut expected);
    }
    assert!(!multi.must_wait());
    assert_eq!(execution(&multi, 0), Ok((b"b".to_vec(), expected)));
    multi.proposed(3);
    assert!(!multi.is_open());
    assert_eq!(multi.on_reply(3, &Reply::Nil), Told::Reply, "it had no conditions");
}

#[test]
fn what_does_not_fit_spoils_the_whole() {
    let long = [b'v'; 401];
    for (command, group, unfit) in [
        (set(b"a", b"1"), None, Unfit::OtherGroup),
        (set(b"a", b"1"), Some(GroupId(2)), Unfit::OtherGroup),
        (set(b"a", &long), GROUP, Unfit::TooLarge(500)),
        (set(b"a", &long[..390]), GROUP, Unfit::TooLarge(500)),
    ] {
        let mut multi = Multi::default();
        multi.open();
        assert_eq!(multi.push(&set(b"a", &long[..100]), GROUP, &limits()), Ok(()));
        assert_eq!(multi.push(&command, group, &limits()), Err(unfit));
        assert_eq!(multi.push(&set(b"a", b"1"), GROUP, &limits()), Ok(()));
        assert_eq!(execution(&multi, 0), Err(ABORTED));
        multi.clear();
        multi.open();
        assert_eq!(execution(&multi, 0), Err("empty"));
    }
    // So does what is refused elsewhere; without MULTI there is nothing to be spoiled.
    let mut multi = Multi::default();
    multi.spoil();
    multi.open();
    assert_eq!(execution(&multi, 0), Err("empty"));
    multi.spoil();
    assert_eq!(execution(&multi, 0), Err(ABORTED));
}

#[test]
fn what_is_proposed_is_never_larger_than_one_command_may_be() {
    let value = [b'v'; 7];
    for watched in 0..8u8 {
        let names: Vec<Vec<u8>> =
            (0..watched).map(|number| vec![b'k'; 1 + usize::from(number) * 3]).collect();
        let mut multi = Multi::default();
        if watched > 0 {
            let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
            watch(&mut multi, 1, &names, &vec![Some(b"v".as_slice()); names.len()]);
        }
        multi.open();
        while multi.push(&set(b"key", &value), GROUP, &limits()).is_ok() {}
        multi.queue.as_mut().unwrap().is_spoiled = false;
        let (key, value) = execution(&multi, 7).unwrap();
        let size = size_of_command(&set(&key, &value));
        assert!((440..=500).contains(&size), "{size} bytes with {watched} keys");
    }
}

#[test]
fn watched_values_become_conditions() {
    let mut multi = Multi::default();
    let read = watch(&mut multi, 1, &[b"b", b"a", b"b"], &[Some(b"1"), None]);
    assert_eq!(read, keys(&[b"a", b"b"]), "each once");
    // Those that are watched already are not asked for again.
    let read = watch(&mut multi, 5, &[b"b", b"aa", b"a"], &[Some(b"2")]);
    assert_eq!(read, keys(&[b"aa"]));
    assert!(multi.watch(&keys(&[b"a"]), GROUP, &limits(), |_, _| 9).unwrap().read().is_none());
    multi.open();
    multi.push(&set(b"z", b"1"), GROUP, &limits()).unwrap();
    let mut expected = Vec::new();
    for (key, value) in [(b"a".as_slice(), Some(b"1")), (b"aa", Some(b"2")), (b"b", None)] {
        Condition { key, hash: value.map(|value| hash_of(value)) }.push(&mut expected);
    }
    exec::push_command(&set(b"z", b"1"), &mut expected);
    assert_eq!(execution(&multi, 7), Ok((b"a".to_vec(), expected)));
    assert_eq!(execution(&multi, 8), Err("changed"));
    multi.proposed(9);
    assert!(!multi.must_wait(), "nothing is watched any more");
    assert_eq!(multi.on_reply(8, &Reply::Nil), Told::Reply);
    assert_eq!(multi.on_reply(9, &Reply::Nil), Told::Changed);
    assert_eq!(multi.on_reply(9, &Reply::Nil), Told::Reply);
}

#[test]
fn changes_are_counted_before_the_value_is_asked_for() {
    let (multi, count) = (Multi::default(), Cell::new(0));
    let counted = |_, _: &[u8]| {
        count.set(count.get() + 1);
        count.get()
    };
    let watching = multi.watch(&keys(&[b"a", b"b"]), GROUP, &limits(), counted).unwrap();
    assert_eq!(watching.keys.iter().map(|watched| watched.changes).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn keys_of_another_group_and_too_many_are_not_watched() {
    let mut multi = Multi::default();
    let refused =
        |multi: &Multi, wanted: &[&[u8]], group| multi.watch(&keys(wanted), group, &limits(), |_, _| 0).err();
    assert_eq!(refused(&multi, &[b"a"], None), Some(Unfit::OtherGroup));
    watch(&mut multi, 1, &[b"a"], &[None]);
    assert_eq!(refused(&multi, &[b"b"], Some(GroupId(2))), Some(Unfit::OtherGroup));
    assert_eq!(refused(&multi, &[&[b'k'; 300]], GROUP), Some(Unfit::TooLarge(500)));
    multi.open();
    assert_eq!(multi.push(&set(b"a", b"1"), Some(GroupId(2)), &limits()), Err(Unfit::OtherGroup));
}

#[test]
fn what_could_not_be_watched_guards_nothing_so_nothing_is_executed() {
    let mut multi = Multi::default();
    let watching = multi.watch(&keys(&[b"a"]), GROUP, &limits(), |_, _| 0).unwrap();
    multi.asked(1, watching);
    multi.open();
    multi.push(&set(b"a", b"1"), GROUP, &limits()).unwrap();
    assert_eq!(multi.on_reply(1, &Reply::Error(CommandError::Unavailable)), Told::Reply);
    assert_eq!(execution(&multi, 0), Err(ABORTED));
    multi.unwatch();
    assert!(execution(&multi, 0).is_ok());
    multi.fail();
    assert_eq!(execution(&multi, 0), Err(ABORTED));
}
