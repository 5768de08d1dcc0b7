use panch_consensus::ballot::Ballot;
use panch_consensus::remnant::Standing;

use super::*;

fn group(number: u16, executed: u64) -> Salvaged {
    Salvaged {
        group: GroupId(number),
        executed: Slot(executed),
        rows: vec![executed],
        covered: executed,
        digest: 1000 + executed,
        keys: 3,
        diverged: false,
        undecided: false,
        incarnation: Incarnation(4),
        size: 100,
        remnants: 2,
        remnants_size: 700,
        remnants_sum: 77,
    }
}

fn file(node: u8, groups: Vec<Salvaged>) -> Salvage {
    let protocols = vec![ProtocolKind::Multi; groups.len()];
    let routing = "* 0-1".to_owned();
    let (node, name) = (ReplicaId(node), 70 + u64::from(node));
    Salvage { cluster: 7, founding: 0, name, node, node_count: 3, protocols, routing, groups }
}

/// Chooses among files without remnants.
fn chosen(files: &[Salvage]) -> Result<Vec<usize>, Misfit> {
    let none: Vec<Vec<Vec<Remnant>>> = files.iter().map(|file| vec![Vec::new(); file.groups.len()]).collect();
    choose(files, &none)
}

#[test]
fn what_a_file_says_comes_back_and_damage_is_noticed() {
    let mut epaxos = group(1, 5);
    epaxos.rows = vec![1, 0, 4];
    let found = file(2, vec![group(0, 7), epaxos]);
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
fn of_every_group_the_state_counts_in_which_most_is_decided() {
    assert_eq!(chosen(&[]), Ok(vec![]));
    let one =
        |groups: [Salvaged; 3]| (0..).zip(groups).map(|(node, it)| file(node, vec![it])).collect::<Vec<_>>();
    assert_eq!(chosen(&one([group(0, 7), group(0, 9), group(0, 8)])), Ok(vec![1]));
    let files = [file(0, vec![group(0, 3), group(1, 5)]), file(1, vec![group(0, 4), group(1, 4)])];
    assert_eq!(chosen(&files), Ok(vec![1, 0]));
}

/// Two states of a graph may each have what the other lacks: that counts which the values beside the other complete.
#[test]
fn in_a_graph_the_state_counts_that_the_others_have_most_for() {
    let state = |rows: [u64; 3]| Salvaged { rows: rows.to_vec(), ..group(0, rows.iter().sum()) };
    let files = [file(0, vec![state([10, 5, 0])]), file(1, vec![state([8, 6, 0])])];
    let at = |row, number| Remnant { position: Position { row, number }, ..remnant(1, Standing::Chosen, 1) };
    // Of row 1 the second has executed one more, and its value has left its log; what the first has beyond the second is there.
    let remnants = [vec![vec![at(0, 9), at(0, 10)]], vec![vec![]]];
    assert_eq!(choose(&files, &remnants), Ok(vec![1]));
    assert_eq!([0, 1].map(|base| lost_with(&files, &remnants, 0, &files[base])), [1, 0]);
    let remnants = [vec![vec![]], vec![vec![at(1, 6)]]];
    assert_eq!(choose(&files, &remnants), Ok(vec![0]));
    assert_eq!([0, 1].map(|base| lost_with(&files, &remnants, 0, &files[base])), [0, 2]);
}

#[test]
fn what_is_known_to_be_wrong_is_left_out_and_what_may_be_is_for_the_operator() {
    let wrong = Salvaged { diverged: true, ..group(0, 9) };
    assert_eq!(chosen(&[file(0, vec![wrong.clone()]), file(1, vec![group(0, 3)])]), Ok(vec![1]));
    assert_eq!(chosen(&[file(0, vec![wrong])]), Err(Misfit::Diverged { group: GroupId(0) }));
    let other = Salvaged { digest: 5, ..group(0, 9) };
    let nodes = [ReplicaId(0), ReplicaId(2)];
    let files = [file(0, vec![group(0, 9)]), file(2, vec![other])];
    assert_eq!(chosen(&files), Err(Misfit::Differ { group: GroupId(0), nodes }));
    let mixed = Salvage { founding: 3, ..file(1, vec![group(0, 4)]) };
    assert_eq!(chosen(&[file(0, vec![group(0, 9)]), mixed]), Err(Misfit::Mixed));
    let twice = Salvage { name: 5, ..file(1, vec![group(0, 4)]) };
    assert_eq!(chosen(&[file(1, vec![group(0, 4)]), twice]), Err(Misfit::Twice(ReplicaId(1))));
}

/// It is the one that remembers: what it is contradicted by was decided without a vote that somebody forgot.
#[test]
fn what_was_contradicted_counts_alone_or_not_at_all() {
    let doubtful = Salvaged { undecided: true, ..group(0, 9) };
    assert_eq!(chosen(&[file(0, vec![doubtful.clone()])]), Ok(vec![0]));
    let fault = Misfit::Undecided { group: GroupId(0), node: ReplicaId(1) };
    assert!(fault.to_string().contains("leave out the file of node"), "{fault}");
    let beside = |other: Salvaged| chosen(&[file(0, vec![other]), file(1, vec![doubtful.clone()])]);
    for executed in [3, 12] {
        assert_eq!(beside(group(0, executed)), Err(fault.clone()), "nobody can tell what is in it");
    }
    assert_eq!(beside(Salvaged { digest: 5, ..group(0, 9) }), Err(fault.clone()));
    assert_eq!(beside(group(0, 9)), Ok(vec![0]), "they are the same");
    let outvoted = Salvaged { diverged: true, ..group(0, 12) };
    assert_eq!(beside(outvoted), Ok(vec![1]), "it does not count");
    // In a group that nobody doubts as well: each file is for all of them.
    let files = [file(0, vec![group(0, 3), group(1, 5)]), file(1, vec![group(0, 4), doubtful.clone()])];
    assert!(matches!(chosen(&files), Err(Misfit::Undecided { .. })));
    // Equal states, and values beside them that are not.
    let files = [file(0, vec![group(0, 9)]), file(1, vec![doubtful])];
    let remnants = |one, other| [one, other].map(|sum| vec![vec![remnant(10, classic(1), sum)]]);
    assert_eq!(choose(&files, &remnants(1, 1)), Ok(vec![0]));
    assert_eq!(choose(&files, &remnants(1, 2)), Err(fault));
}

#[test]
fn a_file_of_an_earlier_version_is_told_from_a_damaged_one() {
    let text = file(2, vec![group(0, 7)]).render();
    assert!(!is_earlier(&text) && !is_earlier("") && !is_earlier("format 99\n"));
    let earlier = text.replace("format 3\n", "format 2\n");
    assert!(!is_earlier(&earlier), "it is damaged");
    let (body, _) = earlier.split_once("checksum ").unwrap();
    let earlier = format!("{body}checksum {:#018x}\n", checksum(body.as_bytes()));
    assert!(is_earlier(&earlier) && Salvage::parse(&earlier).is_none());
}

#[test]
fn clusters_that_begin_with_different_files_have_different_names() {
    let name = |cluster, before, files: &[u64]| founding_of(cluster, before, files.iter().copied());
    let first = name(7, 0, &[5, 6]);
    assert!(first != 0 && first != u64::MAX);
    assert_eq!(first, name(7, 0, &[6, 5]), "in whatever order they are named");
    assert_ne!(first, name(8, 0, &[5, 6]), "another cluster");
    assert_ne!(first, name(7, first, &[5, 6]), "the one after");
    assert_ne!(first, name(7, 0, &[5]), "fewer files");
    assert_ne!(first, name(7, 0, &[5, 7]), "one of them salvaged anew");
}

fn remnant(slot: u64, standing: Standing, checksum: u64) -> Remnant {
    Remnant { position: Slot(slot).into(), standing, stamp: slot, deps: Default::default(), checksum }
}

fn classic(round: u64) -> Standing {
    Standing::Accepted { ballot: Ballot { round, owner: 0 }, is_classic: true }
}

fn fast(round: u64) -> Standing {
    Standing::Accepted { ballot: Ballot { round, owner: 0 }, is_classic: false }
}

/// What counts in a log that is decided up to a slot: the slots and the values.
fn merged(decided: u64, files: &[&[Remnant]]) -> Vec<(u64, u64)> {
    let in_order: Vec<_> = (0..).map(ReplicaId).zip(files.iter().copied()).collect();
    let picks = |files: &[(ReplicaId, &[Remnant])]| {
        let picks = merge(GroupId(0), Order::Log, files, |position| position.number <= decided).unwrap();
        picks.iter().map(|it| (it.remnant.position.number, it.remnant.checksum)).collect::<Vec<_>>()
    };
    let reversed: Vec<_> = in_order.iter().rev().copied().collect();
    assert_eq!(picks(&in_order), picks(&reversed), "the order of the files is of no account");
    picks(&in_order)
}

/// Three of five disks are lost. The last that was acknowledged is in one of the files, and nobody knows it to be decided; where most is decided it
/// is not.
#[test]
fn what_one_file_has_accepted_beyond_what_another_has_decided_is_kept() {
    // Multi-Paxos and Basic Paxos: the one that knows slots up to 10 to be decided has accepted less than the other.
    let [behind, ahead] = [
        [remnant(9, classic(3), 109), remnant(10, classic(3), 110)],
        [remnant(11, classic(3), 111), remnant(12, classic(3), 112)],
    ];
    let behind = [behind, ahead].concat();
    assert_eq!(merged(10, &[&[], &behind]), [(11, 111), (12, 112)]);
    // Also where an earlier leader left it, and the later one has not come by yet.
    let later = [remnant(11, classic(5), 211), remnant(12, classic(3), 112)];
    assert_eq!(merged(10, &[&[remnant(11, classic(3), 111)], &later]), [(11, 211), (12, 112)]);
    // Basic Paxos and Fast Paxos: behind a slot of which nothing is left.
    assert_eq!(merged(10, &[&[], &[remnant(13, classic(1), 113)]]), [(13, 113)]);
}

#[test]
fn what_a_higher_ballot_contradicts_is_not_kept() {
    let (lower, higher) = ([remnant(11, classic(3), 111)], [remnant(11, classic(4), 211)]);
    assert_eq!(merged(10, &[&lower, &higher]), [(11, 211)]);
    assert_eq!(merged(10, &[&lower, &lower, &higher]), [(11, 211)], "however many have the lower one");
    // The classic round of a term is above its fast round.
    assert_eq!(merged(10, &[&[remnant(11, fast(4), 111)], &[remnant(11, classic(4), 211)]]), [(11, 211)]);
    assert_eq!(merged(10, &[&[remnant(11, fast(5), 111)], &[remnant(11, classic(4), 211)]]), [(11, 111)]);
    // Chosen is above all.
    assert_eq!(merged(10, &[&higher, &[remnant(11, Standing::Chosen, 111)]]), [(11, 111)]);
    assert_eq!(merged(10, &[&higher, &[remnant(11, classic(9), 0)]]), [(11, 0)], "a no-op is a value");
}

/// Of different votes in one fast round each may have been chosen, with those that are lost; or the batch was, in a later slot.
#[test]
fn what_collided_in_a_fast_round_is_all_kept() {
    let vote = |slot, checksum| remnant(slot, fast(2), checksum);
    let files: [&[Remnant]; 3] =
        [&[vote(11, 7), vote(12, 9)], &[vote(11, 8), vote(12, 9)], &[vote(11, 8), vote(12, 0)]];
    assert_eq!(merged(10, &files), [(11, 8), (12, 9), (13, 7)]);
    assert_eq!(merged(10, &files[..2]), [(11, 7), (12, 9), (13, 8)]);
}

#[test]
fn different_values_that_are_known_to_be_chosen_are_for_the_operator() {
    let one = |checksum| [remnant(11, Standing::Chosen, checksum)];
    let (left, right) = (one(1), one(2));
    let files: [(ReplicaId, &[Remnant]); 2] = [(ReplicaId(2), &left), (ReplicaId(0), &right)];
    let fault = merge(GroupId(3), Order::Log, &files, |_| false).unwrap_err();
    let nodes = [ReplicaId(0), ReplicaId(2)];
    assert_eq!(fault, Misfit::Contradict { group: GroupId(3), position: Slot(11).into(), nodes });
}

/// EPaxos: an instance has one batch; what is not known for sure is what it depends on.
#[test]
fn an_instance_takes_the_dependencies_that_bind_or_all_that_were_voted_for() {
    let at = |standing, deps: [u64; 3]| {
        let mut it = remnant(4, standing, 9);
        it.deps.0[..3].copy_from_slice(&deps);
        it
    };
    let deps = |files: [Remnant; 2]| {
        let files = [(ReplicaId(0), &files[..1]), (ReplicaId(1), &files[1..])];
        let picks = merge(GroupId(0), Order::Graph, &files, |_| false).unwrap();
        [0, 1, 2].map(|row| picks[0].remnant.deps.row(row))
    };
    let vote = fast(0);
    assert_eq!(deps([at(vote, [1, 0, 3]), at(vote, [1, 2, 0])]), [1, 2, 3]);
    assert_eq!(deps([at(vote, [1, 9, 9]), at(classic(0), [1, 2, 0])]), [1, 2, 0]);
    assert_eq!(deps([at(classic(1), [1, 9, 9]), at(classic(4), [1, 2, 0])]), [1, 2, 0]);
    assert_eq!(deps([at(Standing::Chosen, [1, 2, 0]), at(classic(4), [7, 7, 7])]), [1, 2, 0]);
    assert_eq!(deps([at(Standing::Known, [7, 7, 7]), at(vote, [1, 0, 0])]), [1, 0, 0]);
}

#[test]
fn a_batch_that_was_repeated_after_a_no_op_is_salvaged_once() {
    let at = |row, number, standing, checksum| Remnant {
        position: Position { row, number },
        ..remnant(number, standing, checksum)
    };
    let picked = |files: &[(ReplicaId, &[Remnant])], executed: &[u64]| {
        let picks = merge(GroupId(0), Order::Graph, files, |it| executed.contains(&it.number)).unwrap();
        picks.iter().map(|it| (it.remnant.position.row, it.remnant.position.number)).collect::<Vec<_>>()
    };
    let low = [at(0, 5, fast(0), 8)];
    let both = [at(0, 5, fast(0), 8), at(0, 9, fast(0), 8)];
    let high = [at(0, 9, Standing::Chosen, 8)];
    // One file has both, or the one and the other.
    assert_eq!(picked(&[(ReplicaId(0), &both)], &[]), [(0, 9)]);
    assert_eq!(picked(&[(ReplicaId(0), &low), (ReplicaId(1), &high)], &[]), [(0, 9)]);
    // The state that counts has executed the higher one and has a gap below it.
    assert_eq!(picked(&[(ReplicaId(0), &low), (ReplicaId(1), &high)], &[9]), []);
    // The higher one has lost to a no-op.
    let noop = [at(0, 9, classic(3), 0)];
    assert_eq!(picked(&[(ReplicaId(0), &both), (ReplicaId(1), &noop)], &[]), [(0, 5), (0, 9)]);
    // What is known to be chosen counts wherever it is, other rows and no-ops are other values.
    let chosen = [at(0, 5, Standing::Chosen, 8), at(0, 9, fast(0), 8)];
    assert_eq!(picked(&[(ReplicaId(0), &chosen)], &[]), [(0, 5)]);
    let others = [at(0, 4, fast(0), 0), at(0, 5, fast(0), 0), at(0, 6, fast(0), 8), at(1, 7, fast(0), 8)];
    assert_eq!(picked(&[(ReplicaId(0), &others)], &[]), [(0, 4), (0, 5), (0, 6), (1, 7)]);
}

#[test]
fn remnants_come_back_from_their_bytes() {
    for standing in [Standing::Known, fast(7), classic(u64::MAX), Standing::Chosen] {
        let mut it = remnant(5, standing, 99);
        it.position.row = 3;
        it.deps.raise(8, 77);
        let mut bytes = Vec::new();
        bytes::push(&mut bytes, &it, None);
        let header = bytes[..].try_into().unwrap();
        assert_eq!(bytes::parse(header), Some((it, 0)));
        let mut wrong = *header;
        wrong[16] = 9;
        assert_eq!(bytes::parse(&wrong), None);
        let mut wrong = *header;
        wrong[0] = 99;
        assert_eq!(bytes::parse(&wrong), None);
    }
}

#[test]
fn another_configuration_is_refused() {
    use ProtocolKind::{Fast, Multi};
    let found = file(0, vec![group(0, 9), group(1, 5)]);
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

/// Whether the test fails without the rule.
#[cfg(feature = "mutants")]
fn is_missed(rule: Rule, test: fn()) -> bool {
    panch_wire::rule::remove(Some(rule));
    let has_failed = std::panic::catch_unwind(test).is_err();
    panch_wire::rule::remove(None);
    has_failed
}

#[cfg(feature = "mutants")]
#[test]
fn a_beginning_without_the_state_is_missed() {
    assert!(is_missed(Rule::FoundedWithState, no_group_begins_without_its_state));
}

#[cfg(feature = "mutants")]
#[test]
fn a_lower_ballot_that_counts_is_missed() {
    assert!(is_missed(Rule::HighestBallotSalvaged, what_a_higher_ballot_contradicts_is_not_kept));
}

#[cfg(feature = "mutants")]
#[test]
fn a_contradicted_state_beside_another_is_missed() {
    assert!(is_missed(Rule::UndecidedSalvagedAlone, what_was_contradicted_counts_alone_or_not_at_all));
}

#[cfg(feature = "mutants")]
#[test]
fn a_batch_salvaged_twice_is_missed() {
    assert!(is_missed(Rule::BatchSalvagedOnce, a_batch_that_was_repeated_after_a_no_op_is_salvaged_once));
}
