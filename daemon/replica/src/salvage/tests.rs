use super::*;

fn group(number: u16, decided: u64, executed: u64) -> Salvaged {
    Salvaged {
        group: GroupId(number),
        decided: Slot(decided),
        round: 0,
        executed: Slot(executed),
        rows: vec![executed],
        covered: executed,
        digest: 1000 + executed,
        keys: 3,
        diverged: false,
        incarnation: Incarnation(4),
        size: 100,
    }
}

fn file(node: u8, groups: Vec<Salvaged>) -> Salvage {
    let protocols = vec![ProtocolKind::Multi; groups.len()];
    let routing = "* 0-1".to_owned();
    Salvage { cluster: 7, founding: 0, node: ReplicaId(node), node_count: 3, protocols, routing, groups }
}

#[test]
fn what_a_file_says_comes_back_and_damage_is_noticed() {
    let mut epaxos = group(1, 5, 5);
    epaxos.rows = vec![1, 0, 4];
    let found = file(2, vec![group(0, 7, 9), epaxos]);
    let text = found.render();
    assert_eq!(Salvage::parse(&text), Some(found));
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let parsed = String::from_utf8(bytes).ok().and_then(|text| Salvage::parse(&text));
        assert_eq!(parsed, None, "flip at {at}");
        assert_eq!(Salvage::parse(&text[..at]), None, "cut at {at}");
    }
}

#[test]
fn of_every_group_what_is_decided_furthest_counts_and_then_what_was_accepted_last() {
    let chosen = |groups: [Salvaged; 3]| {
        let files: Vec<_> = (0..).zip(groups).map(|(node, it)| file(node, vec![it])).collect();
        choose(&files).map(|chosen| chosen[0])
    };
    assert_eq!(choose(&[]), Ok(vec![]));
    assert_eq!(chosen([group(0, 7, 7), group(0, 9, 9), group(0, 8, 8)]), Ok(1));
    // A leader that nobody followed any more has accepted what the others never saw.
    assert_eq!(chosen([group(0, 7, 20), group(0, 9, 9), group(0, 8, 30)]), Ok(1));
    assert_eq!(chosen([group(0, 9, 10), group(0, 9, 12), group(0, 9, 11)]), Ok(1));
    let later = Salvaged { round: 5, ..group(0, 9, 10) };
    let earlier = Salvaged { round: 4, ..group(0, 9, 12) };
    assert_eq!(chosen([later, earlier.clone(), earlier]), Ok(0));
    let files =
        [file(0, vec![group(0, 3, 3), group(1, 5, 5)]), file(1, vec![group(0, 4, 4), group(1, 4, 4)])];
    assert_eq!(choose(&files), Ok(vec![1, 0]));
}

#[test]
fn what_is_known_to_be_wrong_is_left_out_and_what_may_be_is_for_the_operator() {
    let wrong = Salvaged { diverged: true, ..group(0, 9, 9) };
    assert_eq!(choose(&[file(0, vec![wrong.clone()]), file(1, vec![group(0, 3, 3)])]), Ok(vec![1]));
    assert_eq!(choose(&[file(0, vec![wrong])]), Err(Misfit::Diverged { group: GroupId(0) }));
    let other = Salvaged { digest: 5, ..group(0, 9, 9) };
    let nodes = [ReplicaId(0), ReplicaId(2)];
    let files = [file(0, vec![group(0, 9, 9)]), file(2, vec![other.clone()])];
    assert_eq!(choose(&files), Err(Misfit::Differ { group: GroupId(0), nodes }));
    // What is not decided may differ.
    let open = |it: Salvaged| Salvaged { decided: Slot(8), ..it };
    assert!(choose(&[file(0, vec![open(group(0, 9, 9))]), file(2, vec![open(other)])]).is_ok());
    let mixed = Salvage { founding: 3, ..file(1, vec![group(0, 4, 4)]) };
    assert_eq!(choose(&[file(0, vec![group(0, 9, 9)]), mixed]), Err(Misfit::Mixed));
}

#[test]
fn clusters_that_begin_with_different_states_have_different_names() {
    let states = [group(0, 9, 9), group(1, 5, 5)];
    let name = |cluster, before, groups: &[Salvaged]| founding_of(cluster, before, groups.iter());
    let first = name(7, 0, &states);
    assert!(first != 0 && first != u64::MAX);
    assert_eq!(first, name(7, 0, &states.clone()), "whichever node it came from");
    assert_ne!(first, name(8, 0, &states), "another cluster");
    assert_ne!(first, name(7, first, &states), "the one after, though nothing has changed");
    for change in [
        |it: &mut Salvaged| it.digest += 1,
        |it: &mut Salvaged| it.covered += 1,
        |it: &mut Salvaged| it.executed = Slot(99),
    ] {
        let mut other = states.clone();
        change(&mut other[1]);
        assert_ne!(first, name(7, 0, &other));
    }
}

#[test]
fn another_configuration_is_refused() {
    use ProtocolKind::{Fast, Multi};
    let found = file(0, vec![group(0, 9, 9), group(1, 5, 5)]);
    let check = |cluster, nodes, protocols: &[ProtocolKind], routing: &str| {
        found.check(cluster, nodes, protocols, routing).map_err(|misfit| misfit.to_string())
    };
    assert_eq!(check(7, 3, &[Multi, Multi], "* 0-1"), Ok(()));
    for (refused, part) in [
        (check(8, 3, &[Multi, Multi], "* 0-1"), "another cluster"),
        (check(7, 5, &[Multi, Multi], "* 0-1"), "3 nodes, and the configuration has 5"),
        (check(7, 3, &[Multi; 3], "* 0-1"), "2 groups, and the configuration has 3"),
        (check(7, 3, &[Multi, Fast], "* 0-1"), "group 1 is of protocol \"multi\""),
        (check(7, 3, &[Multi, Multi], "* 0"), "in the groups \"* 0-1\""),
    ] {
        let text = refused.unwrap_err();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn no_group_begins_without_its_state() {
    let groups = [GroupId(1), GroupId(3)];
    assert_eq!(lacks_state(&groups, |_| true), None);
    assert_eq!(lacks_state(&groups, |group| group == GroupId(1)), Some(GroupId(3)));
}

#[cfg(feature = "mutants")]
#[test]
fn a_beginning_without_the_state_is_missed() {
    use panch_wire::rule::remove;
    remove(Some(Rule::FoundedWithState));
    let noticed = std::panic::catch_unwind(no_group_begins_without_its_state).is_err();
    remove(None);
    assert!(noticed);
}
