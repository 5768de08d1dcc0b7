use std::collections::{BTreeSet, VecDeque};

use super::*;

const MINE: u64 = 10;

fn new(directory: u64) -> Answer {
    Answer::New { directory, again: true }
}

fn member(directory: u64, of: [Word; 3]) -> Answer {
    let mut all = [Word::default(); REPLICAS_MAX];
    all[..3].copy_from_slice(&of);
    Answer::Member { directory, of: all }
}

fn met(incarnation: u32, directory: u64) -> Word {
    Word::Met(Incarnation(incarnation), directory)
}

fn with(directory: u64) -> Word {
    Word::Founder(Founder::With(directory))
}

/// What node 1 of three decides.
fn decided(told_to_found: bool, two: Answer, three: Answer) -> Decision {
    let who = Newcomer { me: ReplicaId(0), directory: MINE, node_count: 3, told_to_found };
    let mut answers = [Answer::None; REPLICAS_MAX];
    (answers[1], answers[2]) = (two, three);
    decide(&who, &answers)
}

fn begin(two: Founder, three: Founder) -> Decision {
    let mut founders = Founders::default();
    (founders[0], founders[1], founders[2]) = (Founder::With(MINE), two, three);
    Decision::Begin(founders)
}

#[test]
fn what_the_answers_come_to() {
    use Founder::{Absent, Unknown, With};
    let none = Word::default();
    let absent = Word::Founder(Absent);
    let once = Answer::New { directory: 30, again: false };
    for (told, two, three, decision) in [
        // A cluster is founded when all are new, and have said so twice.
        (false, Answer::None, Answer::None, Decision::Wait),
        (false, new(20), Answer::None, Decision::Wait),
        (false, new(20), once, Decision::Wait),
        (false, new(20), new(30), begin(With(20), With(30))),
        // Told to: a majority, of which none has data.
        (true, Answer::None, Answer::None, Decision::Wait),
        (true, once, Answer::None, Decision::Wait),
        (true, new(20), Answer::None, begin(With(20), Absent)),
        (true, new(20), once, begin(With(20), With(30))),
        (true, member(20, [none; 3]), new(30), Decision::Exists(ReplicaId(1))),
        // One that was founded with this directory is enough.
        (false, member(20, [with(MINE), none, with(30)]), Answer::None, begin(With(20), With(30))),
        (true, member(20, [with(MINE), none, absent]), Answer::None, begin(With(20), Absent)),
        (false, member(20, [with(MINE), none, met(4, 30)]), new(31), begin(With(20), With(30))),
        // Another directory, or an earlier life, is never new again; whoever else says what.
        (false, member(20, [with(11), none, none]), new(30), Decision::Replaced(ReplicaId(1))),
        (true, new(20), member(30, [with(11), none, none]), Decision::Replaced(ReplicaId(2))),
        (
            false,
            member(20, [with(MINE), none, none]),
            member(30, [met(1, MINE), none, none]),
            Decision::Remembered(ReplicaId(2), Incarnation(1)),
        ),
        // Founded without this node.
        (false, member(20, [absent, none, with(30)]), Answer::None, Decision::Wait),
        (
            false,
            member(20, [absent, none, with(30)]),
            member(30, [absent, with(20), none]),
            begin(With(20), With(30)),
        ),
        (false, member(20, [absent, none, with(30)]), new(30), begin(With(20), With(30))),
        // The other one should be a member by now: it was lost.
        (false, member(20, [absent, none, with(30)]), new(31), Decision::Wait),
        (false, member(20, [absent, none, met(1, 30)]), new(30), Decision::Wait),
        (false, member(20, [none; 3]), member(30, [none; 3]), begin(With(20), With(30))),
    ] {
        assert_eq!(decided(told, two, three), decision, "told {told}: {two:?}, {three:?}");
    }
    let alone = Newcomer { me: ReplicaId(0), directory: MINE, node_count: 1, told_to_found: false };
    assert_eq!(decide(&alone, &Default::default()), begin(Unknown, Unknown));
}

const NODES: usize = 3;

/// What a node of the model has heard in a round of questions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Heard {
    #[default]
    Nothing,
    New(u8),
    /// Its directory, and of every node: how it was met, or was a founder (0 unknown, 1 absent, else 2 + directory).
    Member(u8, [(bool, u8); NODES]),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Model {
    /// How often the disk was emptied: the name of the directory.
    directory: u8,
    /// The node is a member, and what it wrote down then.
    founders: Option<[u8; NODES]>,
    /// It has decided to begin and answers no more, but nothing is on the disk.
    deciding: Option<[u8; NODES]>,
    /// 1 + the directory in which it has met others.
    met: [u8; NODES],
    /// What was chosen with its vote; 0: nothing.
    value: u8,
    before: [Heard; NODES],
    heard: [Heard; NODES],
}

/// Every directory of the model has a name of its own, and none is 0.
fn name(node: usize, directory: u8) -> u64 {
    100 * (node as u64 + 1) + u64::from(directory)
}

fn founder(node: usize, code: u8) -> Founder {
    match code {
        0 => Founder::Unknown,
        1 => Founder::Absent,
        code => Founder::With(name(node, code - 2)),
    }
}

fn code(founder: Founder) -> u8 {
    match founder {
        Founder::Unknown => 0,
        Founder::Absent => 1,
        Founder::With(name) => 2 + (name % 100) as u8,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct State {
    nodes: [Model; NODES],
    /// How many values were chosen.
    chosen: u8,
    /// Who has chosen the last one that was new: each node with its directory.
    by: [(u8, u8); 2],
}

impl State {
    /// Whether a new value may be chosen: none is known, and no member was founded together with one that knew one.
    fn is_blank(&self) -> bool {
        let knows = |model: &Model| {
            let is_of = |(node, directory): &(u8, u8)| {
                model.founders.is_some_and(|founders| founders[usize::from(*node)] == 2 + directory)
            };
            model.value > 0 || self.by.iter().any(is_of)
        };
        self.chosen == 0 || !self.nodes.iter().any(knows)
    }
}

/// What a node's question to another one gives.
fn answer_of(of: &Model) -> Heard {
    match (of.founders, of.deciding) {
        (None, None) => Heard::New(of.directory),
        (None, Some(_)) => Heard::Nothing,
        (Some(founders), _) => {
            let mut words = [(false, 0); NODES];
            for (node, word) in words.iter_mut().enumerate() {
                *word = if of.met[node] > 0 { (true, of.met[node] - 1) } else { (false, founders[node]) };
            }
            Heard::Member(of.directory, words)
        }
    }
}

fn decision(node: usize, state: &State, told_to_found: bool) -> Decision {
    let model = &state.nodes[node];
    let mut answers = [Answer::None; REPLICAS_MAX];
    for other in (0..NODES).filter(|other| *other != node) {
        answers[other] = match model.heard[other] {
            Heard::Nothing => Answer::None,
            Heard::New(directory) => {
                let again = model.before[other] == model.heard[other];
                Answer::New { directory: name(other, directory), again }
            }
            Heard::Member(directory, words) => {
                let mut of = [Word::default(); REPLICAS_MAX];
                for (index, (is_met, code)) in words.into_iter().enumerate() {
                    of[index] = if is_met {
                        Word::Met(Incarnation(1), name(index, code))
                    } else {
                        Word::Founder(founder(index, code))
                    };
                }
                Answer::Member { directory: name(other, directory), of }
            }
        };
    }
    let directory = name(node, model.directory);
    decide(&Newcomer { me: ReplicaId(node as u8), directory, node_count: NODES, told_to_found }, &answers)
}

/// All that may happen next; an error if two values are chosen while the first is on some disk.
fn successors(state: &State, told: bool, wipes_max: u8) -> Result<Vec<State>, String> {
    let mut next = Vec::new();
    let wipes: u8 = state.nodes.iter().map(|model| model.directory).sum();
    for node in 0..NODES {
        let model = &state.nodes[node];
        let mut with = |change: &dyn Fn(&mut State)| {
            let mut after = *state;
            change(&mut after);
            next.push(after);
        };
        if wipes < wipes_max {
            with(&|after| {
                after.nodes[node] = Model { directory: after.nodes[node].directory + 1, ..Model::default() };
            });
        }
        if let Some(founders) = model.deciding {
            with(&|after| {
                let kept = Model { directory: model.directory, ..Model::default() };
                after.nodes[node] = Model { founders: Some(founders), ..kept };
            });
        } else if model.founders.is_none() {
            for other in (0..NODES).filter(|other| *other != node) {
                if model.heard[other] == Heard::Nothing {
                    with(&|after| after.nodes[node].heard[other] = answer_of(&state.nodes[other]));
                }
            }
            // An operator is right to say that who does not answer has no data.
            let is_right = (0..NODES).all(|other| {
                other == node || model.heard[other] != Heard::Nothing || state.nodes[other].founders.is_none()
            });
            let orders = if told && is_right { &[false, true][..] } else { &[false] };
            for order in orders {
                if let Decision::Begin(founders) = decision(node, state, *order) {
                    let mut codes = [0; NODES];
                    codes.iter_mut().zip(&founders).for_each(|(to, founder)| *to = code(*founder));
                    with(&|after| after.nodes[node].deciding = Some(codes));
                }
            }
            if model.heard != [Heard::Nothing; NODES] {
                with(&|after| {
                    after.nodes[node].before = model.heard.map(|heard| match heard {
                        Heard::Member(..) => Heard::Nothing,
                        heard => heard,
                    });
                    after.nodes[node].heard = Default::default();
                });
            }
        }
        // Two members are a majority: they choose what one of them knows, or else something new.
        for other in node + 1..NODES {
            let [one, two] = [node, other].map(|index| &state.nodes[index]);
            let accepts = |who: &Model, whom: usize| {
                let theirs = state.nodes[whom].directory;
                let expected = match (who.met[whom], who.founders) {
                    (0, Some(founders)) if founders[whom] > 1 => founders[whom] - 2,
                    (0, _) => theirs,
                    (met, _) => met - 1,
                };
                expected == theirs
            };
            if one.founders.is_none() || two.founders.is_none() || !accepts(one, other) || !accepts(two, node)
            {
                continue;
            }
            let value = match (one.value, two.value) {
                (0, 0) if !state.is_blank() => {
                    return Err("a new value beside one that was chosen, and nobody was told".into());
                }
                (0, 0) => state.chosen + 1,
                (one, two) if one > 0 && two > 0 && one != two => return Err("two values are chosen".into()),
                (one, two) => one.max(two),
            };
            with(&|after| {
                if value > after.chosen {
                    after.chosen = value;
                    after.by = [node, other].map(|who| (who as u8, state.nodes[who].directory));
                }
                for (who, whom) in [(node, other), (other, node)] {
                    after.nodes[who].value = value;
                    after.nodes[who].met[whom] = 1 + state.nodes[whom].directory;
                }
            });
        }
    }
    Ok(next)
}

/// Looks at everything that can happen to three nodes of which at most so many lose their disks: which ask, begin and vote, in any
/// order. How many states that makes.
fn explore(told: bool, wipes_max: u8) -> usize {
    let mut seen = BTreeSet::new();
    let mut open = VecDeque::from([State::default()]);
    while let Some(state) = open.pop_front() {
        for next in successors(&state, told, wipes_max).unwrap_or_else(|error| panic!("{error}")) {
            if seen.insert(next) {
                open.push_back(next);
            }
        }
        assert!(seen.len() < 400_000, "bound the model, not the search");
    }
    seen.len()
}

/// Ways through the same model, with more lost disks. How often somebody began, and how often a value was chosen.
fn wander(count: u64) -> (u64, u64) {
    let (mut begun, mut chosen) = (0, 0);
    for seed in 0..count {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut state = State::default();
        for _ in 0..80 {
            let told = seed.is_multiple_of(3);
            let next = successors(&state, told, 4).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state = next[((random >> 33) % next.len() as u64) as usize];
        }
        begun += state.nodes.iter().filter(|model| model.founders.is_some()).count() as u64;
        chosen += u64::from(state.chosen);
    }
    (begun, chosen)
}

#[test]
fn no_order_of_starts_founds_a_cluster_beside_another() {
    let states = [explore(false, 0), explore(true, 0)];
    println!("{states:?} states");
}

#[test]
fn no_lost_disk_founds_a_cluster_beside_one_that_is_known() {
    let (begun, chosen) = wander(20_000);
    println!("{begun} nodes began, {chosen} values were chosen");
    assert!(begun > 1000 && chosen > 1000, "{begun} {chosen}");
}

#[cfg(feature = "mutants")]
#[test]
fn every_rule_is_missed() {
    use panch_wire::rule::remove;
    for rule in [Rule::FoundingAsksEverybody, Rule::FoundingAsksTwice, Rule::FoundersAreNamed] {
        remove(Some(rule));
        let noticed = std::panic::catch_unwind(|| wander(200_000)).is_err();
        remove(None);
        assert!(noticed, "{} can be removed unnoticed", rule.name());
    }
}
