use super::*;
use crate::command::{CommandKind, list};
use crate::slots::group_of_key;
use crate::transaction::Step;
use proptest::prelude::*;

fn groups(numbers: impl IntoIterator<Item = u16>) -> Vec<GroupId> {
    numbers.into_iter().map(GroupId).collect()
}

fn routing(group_count: u16, general: &[u16], prefixes: &[(&str, &[u16])]) -> Result<Routing, RoutingFault> {
    let prefixes =
        prefixes.iter().map(|(text, own)| (text.as_bytes().into(), groups(own.iter().copied()))).collect();
    Routing::new(group_count, groups(general.iter().copied()), prefixes)
}

/// Part of the data format: a change here loses the keys of every cluster that exists.
#[test]
fn every_key_has_the_group_on_record() {
    let routing =
        routing(8, &[7, 0, 1], &[("user:", &[2, 3]), ("user:vip:", &[4]), ("u", &[5, 6]), ("{a}", &[3])])
            .unwrap();
    let expected: &[(&str, u16)] = &[
        ("", 0),
        ("foo", 7),
        ("bar", 0),
        ("other", 7),
        ("t", 7),
        ("v", 1),
        // The longest prefix decides, and the slot among its groups.
        ("user:foo", 2),
        ("user:2", 2),
        ("user:1", 3),
        ("user:3", 2),
        ("user:vip", 2),
        ("user:vip:", 4),
        ("user:vip:1", 4),
        ("user", 5),
        ("user;", 6),
        ("u1", 5),
        ("uv", 6),
        // A tag chooses among the groups of the prefix, not the prefix.
        ("user:{foo}", 3),
        ("{foo}user:", 7),
        ("{user:1}", 1),
        ("{a}b", 3),
        ("{a", 1),
        ("User:1", 1),
    ];
    let found: Vec<(&str, u16)> =
        expected.iter().map(|(key, _)| (*key, routing.group_of_key(key.as_bytes()).0)).collect();
    assert_eq!(found, expected);
    assert_eq!(routing.to_string(), r#"* 0-1,7; "u" 5-6; "user:" 2-3; "user:vip:" 4; "{a}" 3"#);
}

#[test]
fn the_order_of_the_lists_does_not_count_and_the_line_tells_routings_apart() {
    let one = routing(4, &[0, 1], &[("a", &[2]), ("b", &[3, 2])]).unwrap();
    let other = routing(4, &[1, 0, 1], &[("b", &[2, 3]), ("a", &[2])]).unwrap();
    assert_eq!(one, other);
    assert_eq!(Routing::even(4).to_string(), "* 0-3");
    let quoted = routing(2, &[0], &[("a\" 1; \"b", &[1])]).unwrap();
    assert_eq!(quoted.to_string(), r#"* 0; "a\" 1; \"b" 1"#);
    assert_ne!(quoted.to_string(), routing(2, &[0], &[("a", &[1]), ("b", &[1])]).unwrap().to_string());
}

#[test]
fn a_routing_in_which_a_key_has_no_group_is_refused() {
    assert_eq!(routing(0, &[0], &[]), Err(RoutingFault::GroupCount));
    assert_eq!(routing(SLOT_COUNT + 1, &[0], &[]), Err(RoutingFault::GroupCount));
    assert_eq!(routing(2, &[2], &[]), Err(RoutingFault::UnknownGroup));
    assert_eq!(routing(2, &[0], &[("a", &[2])]), Err(RoutingFault::UnknownGroup));
    assert_eq!(routing(2, &[], &[("a", &[1])]), Err(RoutingFault::NoGroups));
    assert_eq!(routing(2, &[0], &[("a", &[])]), Err(RoutingFault::NoGroups));
    assert_eq!(routing(2, &[0], &[("", &[1])]), Err(RoutingFault::Prefixes));
    assert_eq!(routing(2, &[0], &[("a", &[1]), ("a", &[0])]), Err(RoutingFault::Prefixes));
    let long = "x".repeat(PREFIX_SIZE_MAX + 1);
    assert_eq!(routing(2, &[0], &[(&long, &[1])]), Err(RoutingFault::Prefixes));
    assert!(routing(2, &[0], &[(&long[1..], &[1])]).is_ok());
}

#[test]
fn keys_of_different_groups_are_a_cross_slot_command() {
    let mut value = Vec::new();
    for item in [b"foo".as_slice(), b"1", b"{foo}2", b"bar"] {
        list::push(&mut value, item);
    }
    let command = Command { kind: CommandKind::MSet, flags: 0, session: None, key: b"foo", value: &value };
    assert_eq!(Routing::even(4).group_of_command(&command), Some(group_of_key(b"foo", 4)));
    let command = Command { kind: CommandKind::MGet, ..command };
    assert_eq!(Routing::even(4).group_of_command(&command), None);
    assert_eq!(Routing::even(1).group_of_command(&command), Some(GroupId(0)));
    for (other, fits) in [(b"{foo}2".as_slice(), true), (b"bar", false)] {
        let mut value = Vec::new();
        Step::Absent(b"foo").push(&mut value);
        Step::Set(other, b"1").push(&mut value);
        let command = Command { kind: CommandKind::Transaction, value: &value, ..command };
        assert_eq!(Routing::even(4).group_of_command(&command).is_some(), fits);
    }
    // The same slot, but a prefix takes one of the keys elsewhere; and keys of two slots, but of one group.
    let split = routing(2, &[0], &[("{foo}", &[1])]).unwrap();
    assert_eq!(split.group_of_command(&Command { kind: CommandKind::MSet, ..command }), None);
    let alone = routing(2, &[1], &[("user:", &[0])]).unwrap();
    assert_eq!(alone.group_of_command(&command), Some(GroupId(1)));
}

#[test]
fn slots_tell_where_keys_without_a_prefix_live() {
    let routing = routing(5, &[0, 3, 4], &[("user:", &[1, 2])]).unwrap();
    let ranges: Vec<_> = routing.slot_ranges().collect();
    assert_eq!(ranges.iter().map(|(group, ..)| group.0).collect::<Vec<_>>(), [0, 3, 4]);
    assert_eq!((ranges[0].1, ranges[2].2), (0, SLOT_COUNT - 1));
    assert!(ranges.windows(2).all(|pair| pair[0].2 + 1 == pair[1].1));
    for number in 0..1000 {
        let key = format!("key-{number}");
        let slot = key_slot(key.as_bytes());
        let (group, ..) = ranges.iter().find(|(_, first, last)| (*first..=*last).contains(&slot)).unwrap();
        assert_eq!(routing.group_of_key(key.as_bytes()), *group);
    }
}

proptest! {
    #[test]
    fn without_prefixes_the_slot_alone_decides(key in proptest::collection::vec(any::<u8>(), 0..64), count in 1u16..=SLOT_COUNT) {
        prop_assert_eq!(Routing::even(count).group_of_key(&key), group_of_key(&key, count));
    }

    /// Few letters, so that prefixes of prefixes and near misses are common.
    #[test]
    fn the_longest_prefix_decides(
        texts in proptest::collection::btree_set("[ab]{1,5}", 0..12),
        keys in proptest::collection::vec("[abc]{0,7}", 1..40),
    ) {
        let texts: Vec<String> = texts.into_iter().collect();
        let own = |index: usize| GroupId(index as u16 + 1);
        let prefixes = texts.iter().enumerate().rev();
        let prefixes = prefixes.map(|(index, text)| (text.as_bytes().into(), vec![own(index)])).collect();
        let routing = Routing::new(texts.len() as u16 + 1, vec![GroupId(0)], prefixes).unwrap();
        for key in keys {
            let longest = (0..texts.len()).filter(|index| key.starts_with(&texts[*index])).max_by_key(|index| texts[*index].len());
            prop_assert_eq!(routing.group_of_key(key.as_bytes()), longest.map_or(GroupId(0), own), "{}", key);
        }
    }
}
