//! Rule O4: by table, against every completion of what the answers leave open, and over many rounds.

use proptest::prelude::*;

use super::super::picking::{Pick, pick};
use super::super::round::{Round, ValueName, Vote};
use crate::ballot::Ballot;
use crate::quorum::{classic_quorum, fast_quorum};
use crate::testing::batch;
use panch_wire::frame::FramePool;

/// Three values, `x < y < z`.
fn values() -> [ValueName; 3] {
    let pool = FramePool::new(1 << 20);
    let mut names = [1, 2, 3].map(|counter| ValueName::of(Some(&batch(&pool, 0, 1, counter))));
    names.sort();
    names
}

fn named(letter: &str) -> ValueName {
    values()["xyz".find(letter).expect("x, y or z")]
}

fn vote(word: &str) -> Option<Vote> {
    let (letter, round) = word.split_once(':')?;
    let (number, kind) = round.split_at(round.len() - 1);
    let term = Ballot { round: number.parse().unwrap(), owner: 0 };
    Some(Vote { round: Round { term, classic: kind == "c" }, name: named(letter) })
}

#[test]
pub(super) fn picks_are_those_of_the_table() {
    let table = include_str!("../../../testdata/fast_picking.txt");
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [count, answers, result] = words[..] else { panic!("{line}") };
        let answers: Vec<_> = answers.split(',').map(vote).collect();
        let expected = match result.split_at(1) {
            ("=", letter) => Pick::Forced(named(letter)),
            ("~", letter) => Pick::Free(named(letter)),
            _ => Pick::Empty,
        };
        assert_eq!(pick(count.parse().unwrap(), &answers), expected, "{line}");
    }
}

/// Every assignment of `choices` values to `places` places.
fn assignments(choices: usize, places: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..choices.pow(places as u32)).map(move |mut code| {
        (0..places)
            .map(|_| {
                let choice = code % choices;
                code /= choices;
                choice
            })
            .collect()
    })
}

/// One fast round, all votes of all acceptors, every set of answers: what is chosen is picked.
#[test]
pub(super) fn no_value_with_a_fast_quorum_is_ever_lost() {
    let names = values();
    let mut forced = 0;
    for count in 1..=6 {
        for votes in assignments(3, count) {
            // Choice 0: has not voted.
            let vote = |choice: usize| {
                (choice > 0).then(|| Vote { round: Round::default(), name: names[choice - 1] })
            };
            let chosen = (1..3)
                .find(|choice| votes.iter().filter(|vote| *vote == choice).count() >= fast_quorum(count));
            for members in 0u32..1 << count {
                let is_member = |index: &usize| members & 1 << index != 0;
                let answers: Vec<_> = (0..count).filter(is_member).map(|index| vote(votes[index])).collect();
                if answers.len() < classic_quorum(count) {
                    continue;
                }
                let picked = pick(count, &answers);
                // What the acceptors that did not answer might add.
                let possible: Vec<_> = (1..3)
                    .filter(|choice| {
                        let seen = answers.iter().filter(|answer| **answer == vote(*choice)).count();
                        seen + count - answers.len() >= fast_quorum(count)
                    })
                    .collect();
                assert!(possible.len() <= 1, "n = {count}, {votes:?}, {members:b}");
                match possible.first() {
                    Some(choice) => {
                        assert_eq!(picked, Pick::Forced(names[choice - 1]), "n = {count}, {votes:?}");
                        forced += 1;
                    }
                    None => assert!(!matches!(picked, Pick::Forced(_)), "n = {count}, {votes:?}"),
                }
                if let Some(choice) = chosen {
                    assert_eq!(picked, Pick::Forced(names[choice - 1]));
                }
            }
        }
    }
    assert!(forced > 1000);
}

/// What happens in one round: fast, with the value each acceptor would vote for (3: none), or classic. `answers` is the set
/// that promises, `voters` who of all votes in a classic round.
#[derive(Clone, Debug)]
struct Step {
    classic: bool,
    wishes: Vec<usize>,
    answers: u16,
    voters: u16,
}

fn step() -> impl Strategy<Value = Step> {
    let wishes = prop::collection::vec(0usize..4, 9);
    (any::<bool>(), wishes, any::<u16>(), any::<u16>()).prop_map(|(classic, wishes, answers, voters)| Step {
        classic,
        wishes,
        answers,
        voters,
    })
}

/// Runs the rounds on one slot as acceptors and coordinators do; returns every value that is chosen in some round.
fn chosen_values(count: usize, steps: &[Step]) -> Vec<ValueName> {
    let names = values();
    let mut votes: Vec<Option<Vote>> = vec![None; count];
    let mut promised = vec![0; count];
    let mut chosen = Vec::new();
    for (number, step) in (1..).zip(steps) {
        let round = Round { term: Ballot { round: number, owner: 0 }, classic: step.classic };
        let members: Vec<_> = (0..count).filter(|index| step.answers & 1 << index != 0).collect();
        if members.len() < classic_quorum(count) {
            continue;
        }
        members.iter().for_each(|index| promised[*index] = number);
        let answers: Vec<_> = members.iter().map(|index| votes[*index]).collect();
        let picked = pick(count, &answers);
        let may_vote = |index: &usize| promised[*index] <= number;
        match picked {
            // The Any message is for slots that nobody reports.
            Pick::Empty if !step.classic => {
                for index in (0..count).filter(may_vote) {
                    if let Some(name) = names.get(step.wishes[index]) {
                        votes[index] = Some(Vote { round, name: *name });
                    }
                }
            }
            _ => {
                let name = match picked {
                    Pick::Forced(name) | Pick::Free(name) => name,
                    Pick::Empty => names[step.wishes[0] % 3],
                };
                let round = Round { classic: true, ..round };
                for index in (0..count).filter(|index| step.voters & 1 << index != 0) {
                    votes[index] = Some(Vote { round, name });
                }
            }
        }
        for name in names {
            for classic in [false, true] {
                let round = Round { classic, ..round };
                let vote = Some(Vote { round, name });
                let quorum = if classic { classic_quorum(count) } else { fast_quorum(count) };
                if votes.iter().filter(|other| **other == vote).count() >= quorum && !chosen.contains(&name) {
                    chosen.push(name);
                }
            }
        }
    }
    chosen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn at_most_one_value_is_chosen_over_any_rounds(count in 3usize..=7, steps in prop::collection::vec(step(), 1..9)) {
        prop_assert!(chosen_values(count, &steps).len() <= 1);
    }
}
