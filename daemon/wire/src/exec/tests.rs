use super::*;
use crate::transaction;

fn command<'a>(kind: CommandKind, key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command { kind, flags: 0, session: None, key, value }
}

fn value(steps: &[Step<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for step in steps {
        match step {
            Step::Condition(condition) => condition.push(&mut out),
            Step::Command(command) => push_command(command, &mut out),
        }
    }
    out
}

fn unchanged<'a>(key: &'a [u8], value: &[u8]) -> Step<'a> {
    Step::Condition(Condition { key, hash: Some(hash_of(value)) })
}

fn absent(key: &[u8]) -> Step<'_> {
    Step::Condition(Condition { key, hash: None })
}

fn keys(items: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    items.iter().for_each(|item| list::push(&mut out, item));
    out
}

#[test]
fn what_is_pushed_is_read_back() {
    let set = Command { flags: flags::RETURN_OLD, ..command(CommandKind::Set, b"a", b"value") };
    let all = [
        absent(b""),
        unchanged(b"a", b"1"),
        absent(b"b"),
        Step::Command(set),
        Step::Command(command(CommandKind::Get, b"", b"")),
    ];
    let bytes = value(&all);
    assert!(is_valid(&bytes));
    assert_eq!(steps(&bytes).collect::<Vec<_>>(), all);
    assert_eq!(conditions(&bytes).count(), 3);
    assert_eq!(
        commands(&bytes).map(|command| command.kind).collect::<Vec<_>>(),
        [CommandKind::Set, CommandKind::Get]
    );
    // The session of the whole is no part of what it holds.
    let header = crate::command::SessionHeader { session: 1, number: 2, acked_below: 0 };
    let of_session = Command { session: Some(header), flags: set.flags | flags::SESSION, ..set };
    assert_eq!(value(&[Step::Command(of_session)]), value(&[Step::Command(set)]));
}

#[test]
fn a_condition_holds_for_its_value_and_no_other() {
    let [Step::Condition(value), Step::Condition(none)] = [unchanged(b"k", b"1"), absent(b"k")] else {
        panic!()
    };
    assert!(value.holds(Some(b"1")) && !value.holds(Some(b"2")) && !value.holds(None));
    assert!(none.holds(None) && !none.holds(Some(b"")));
    assert!(Condition { key: b"k", hash: Some(hash_of(b"")) }.holds(Some(b"")));
}

/// Part of the format of the log: nodes of all versions judge conditions alike.
#[test]
fn hashes_never_change() {
    // The first 16 bytes of the test vectors of BLAKE3 for an input of 0 and of 1 byte.
    assert_eq!(
        hash_of(b""),
        [0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc, 0xc9, 0x49]
    );
    assert_eq!(
        hash_of(&[0]),
        [0x2d, 0x3a, 0xde, 0xdf, 0xf1, 0x1b, 0x61, 0xf1, 0x4c, 0x88, 0x6e, 0x35, 0xaf, 0xa0, 0x36, 0x73]
    );
}

#[test]
fn the_keys_are_those_of_all_steps_and_whether_each_is_written() {
    let (many, pairs) = (keys(&[b"b", b"c"]), keys(&[b"d", b"v", b"e", b"w"]));
    let mut writes = Vec::new();
    transaction::Step::Absent(b"f").push(&mut writes);
    transaction::Step::Set(b"g", b"").push(&mut writes);
    let bytes = value(&[
        unchanged(b"a", b"1"),
        absent(b"b"),
        Step::Command(command(CommandKind::Get, b"a", b"")),
        Step::Command(command(CommandKind::MGet, b"b", &many)),
        Step::Command(command(CommandKind::MSet, b"d", &pairs)),
        Step::Command(command(CommandKind::Transaction, b"f", &writes)),
        Step::Command(command(CommandKind::Append, b"a", b"1")),
    ]);
    let exec = command(CommandKind::Exec, b"a", &bytes);
    assert!(exec.is_valid() && !exec.kind.is_read() && exec.kind.has_many_keys() && !exec.reads_many_keys());
    let expected: [(&[u8], bool); 10] = [
        (b"a", false),
        (b"b", false),
        (b"a", false),
        (b"b", false),
        (b"c", false),
        (b"d", true),
        (b"e", true),
        (b"f", false),
        (b"g", true),
        (b"a", true),
    ];
    assert_eq!(exec.keys().collect::<Vec<_>>(), expected);
}

#[test]
fn every_kind_of_data_may_be_held_and_no_other() {
    let (pairs, mut writes) = (keys(&[b"k", b"v"]), Vec::new());
    transaction::Step::Delete(b"k").push(&mut writes);
    let inner = value(&[Step::Command(command(CommandKind::Get, b"k", b""))]);
    let header = crate::command::SessionHeader { session: 1, number: 2, acked_below: 0 };
    for kind in CommandKind::ALL.iter().copied() {
        use CommandKind::*;
        let held = match kind {
            MGet | Del | Exists | MSet | CompareAndSet => command(kind, b"k", &pairs),
            IncrBy | ExpireSessions => command(kind, b"k", &[0; 8]),
            Transaction => command(kind, b"k", &writes),
            Exec => command(kind, b"k", &inner),
            OpenSession | CloseSession => Command { session: Some(header), ..command(kind, b"k", b"") },
            _ => command(kind, b"k", b""),
        };
        assert!(held.is_valid(), "{kind:?} by itself");
        let is_data = !matches!(kind, Exec | OpenSession | CloseSession | ExpireSessions);
        assert_eq!(is_valid(&value(&[Step::Command(held)])), is_data, "{kind:?}");
        assert_eq!(kind.may_be_held(), is_data, "{kind:?}");
    }
}

#[test]
fn what_breaks_the_rules_is_not_valid() {
    let get = Step::Command(command(CommandKind::Get, b"k", b""));
    assert!(is_valid(&value(&[get])) && is_valid(&value(&[absent(b"k")])));
    assert!(!is_valid(b""));
    assert!(!is_valid(&value(&[get, absent(b"k")])), "a condition behind a command");
    assert!(!is_valid(&value(&[absent(b"b"), absent(b"a")])), "conditions out of order");
    assert!(!is_valid(&value(&[absent(b"a"), unchanged(b"a", b"1")])), "two conditions of one key");
    assert!(!is_valid(&value(&[get, Step::Command(command(CommandKind::IncrBy, b"k", b"1"))])), "no number");
    let long = vec![b'k'; KEY_SIZE_MAX + 1];
    assert!(!is_valid(&value(&[absent(&long)])) && is_valid(&value(&[absent(&long[1..])])));
    for item in
        [b"".as_slice(), b"X", b"=too short", b"C", b"C\x01\0\x02\0k", b"C\x01\x80\x01\0k", b"C\xff\0\0\0"]
    {
        assert!(!is_valid(&keys(&[item])), "{}", item.escape_ascii());
    }
    let sound = value(&[absent(b"a"), get]);
    for length in 0..sound.len() {
        let is_first_step = length == value(&[absent(b"a")]).len();
        assert_eq!(is_valid(&sound[..length]), is_first_step, "{length} bytes");
    }
}
