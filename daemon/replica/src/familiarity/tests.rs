use panch_wire::peer::LifeKey;

use super::*;

const NODE: ReplicaId = ReplicaId(2);

/// A data directory that can be copied.
#[derive(Clone, Default)]
struct Directory {
    name: u64,
    starts: Starts,
    log: Lsn,
}

impl Directory {
    fn new(name: u64) -> Self {
        Self { name, ..Self::default() }
    }

    fn incarnation(&self) -> Incarnation {
        self.starts.iter().last().map_or(Incarnation(0), |start| start.incarnation)
    }

    fn key(&self) -> LifeKey {
        self.starts.iter().last().expect("it has started").key
    }

    /// Starts with a key that is `draw`, and writes so many commit groups.
    fn start(&mut self, draw: u8, writes: u64) {
        let incarnation = Incarnation(self.incarnation().0 + 1);
        self.starts.add(Start { incarnation, key: LifeKey([draw; 16]), log_end: self.log }, |_| true);
        self.log = Lsn((u64::from(incarnation.0) << 32) + writes);
    }

    fn life(&self) -> Life {
        Life { incarnation: self.incarnation(), directory: self.name, name: self.key().life() }
    }

    fn past(&self) -> Past<'_> {
        let (lives, logs, incarnation) = (&self.starts, &self.starts, self.incarnation());
        Past { lives, logs, incarnation, log_end: self.log }
    }

    fn newcomer(&self, known: &Known, core: u16) -> Newcomer {
        let asked = Asked { earlier: known.life.incarnation, since: known.end(core).since };
        let past = self.past();
        Newcomer {
            node: NODE,
            core,
            life: self.life(),
            returning: false,
            is_authentic: false,
            asked: known.end(core),
            claim: past.show(asked).claim(),
            asked_told: LogEnd::default(),
            told: Claim::default(),
        }
    }

    /// Says hello as often as it takes to know what is asked for.
    fn greet(&self, by: &mut Familiarity) -> Judgement {
        self.greet_from(0, by)
    }

    fn greet_from(&self, core: u16, by: &mut Familiarity) -> Judgement {
        let newcomer = Newcomer { ..self.newcomer(&by.of(NODE), core) };
        let (last, asked_told) = by.told_of(NODE, core);
        let asked = Asked { earlier: last.incarnation, since: asked_told.since };
        let told = self.past().show(asked).claim();
        by.judge(&Newcomer { asked_told, told, ..newcomer })
    }
}

fn acquainted(directory: &Directory) -> Familiarity {
    let mut peer = Familiarity::default();
    assert_eq!(directory.greet(&mut peer), Judgement::Unconfirmed);
    peer.confirm(NODE, directory.life());
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
    peer.set_recognised(NODE);
    peer
}

#[test]
fn a_node_that_starts_again_is_familiar_also_to_those_that_missed_starts() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut peer = acquainted(&directory);
    peer.hear(NODE, Incarnation(1), 0, directory.log);
    directory.start(2, 10);
    let mut away = peer.clone();
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
    directory.start(3, 10);
    directory.start(4, 10);
    for peer in [&mut peer, &mut away] {
        let before = peer.revision();
        assert_eq!(directory.greet(peer), Judgement::Familiar);
        assert!(peer.revision() > before, "it must be written down");
        assert_eq!(peer.of(NODE).life, directory.life());
        let before = peer.revision();
        assert_eq!(directory.greet(peer), Judgement::Familiar);
        assert_eq!(peer.revision(), before, "once");
    }
}

#[test]
fn a_copy_from_before_the_last_start_is_forgetful_however_often_it_starts() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut peer = acquainted(&directory);
    let mut copy = directory.clone();
    directory.start(2, 0);
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
    for draw in 3..9 {
        copy.start(draw, 100);
        assert_eq!(copy.greet(&mut peer), Judgement::Forgetful, "{draw}");
    }
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
}

#[test]
fn a_copy_from_the_last_run_is_forgetful_once_its_log_was_longer_however_often_it_starts() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut peer = acquainted(&directory);
    let mut copy = directory.clone();
    directory.log = Lsn(directory.log.0 + 1);
    peer.hear(NODE, Incarnation(1), 0, directory.log);
    peer.hear(NODE, Incarnation(1), 0, copy.log);
    for draw in 3..9 {
        // What it writes meanwhile is above everything that was told.
        copy.start(draw, 100);
        assert_eq!(copy.greet(&mut peer), Judgement::Forgetful, "{draw}");
    }
    directory.start(2, 0);
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
}

#[test]
fn every_core_shows_the_log_of_its_own() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut peer = acquainted(&directory);
    let end = directory.log;
    peer.hear(NODE, Incarnation(1), 0, end);
    peer.hear(NODE, Incarnation(1), 1, Lsn(end.0 + 1));
    directory.start(2, 10);
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
    assert_eq!(peer.judge(&directory.newcomer(&peer.of(NODE), 1)), Judgement::Forgetful);
    assert_eq!(peer.judge(&directory.newcomer(&peer.of(NODE), 2)), Judgement::Familiar);
}

#[test]
fn an_emptied_directory_is_forgetful_until_it_says_that_it_comes_back_and_its_address_confirms_it() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut peer = acquainted(&directory);
    peer.hear(NODE, Incarnation(1), 0, directory.log);
    let mut emptied = Directory::new(8);
    emptied.start(2, 0);
    for draw in 3..6 {
        assert_eq!(emptied.greet(&mut peer), Judgement::Forgetful);
        peer.confirm(NODE, emptied.life());
        assert_eq!(emptied.greet(&mut peer), Judgement::Forgetful);
        emptied.start(draw, 0);
    }
    let known = peer.of(NODE);
    let returning = Newcomer { returning: true, ..emptied.newcomer(&known, 0) };
    assert_eq!(peer.judge(&returning), Judgement::Unconfirmed);
    assert_eq!(peer.of(NODE), known);
    let mut same = peer.clone();
    assert_eq!(same.judge(&Newcomer { is_authentic: true, ..returning }), Judgement::Familiar);
    peer.confirm(NODE, emptied.life());
    assert_eq!(peer.judge(&returning), Judgement::Familiar);
    assert_eq!(peer.of(NODE).ends, []);
    emptied.start(9, 0);
    assert_eq!(emptied.greet(&mut peer), Judgement::Familiar);
    directory.start(10, 0);
    assert_eq!(directory.greet(&mut peer), Judgement::Forgetful);
}

#[test]
fn a_node_that_was_not_met_comes_with_the_directory_that_it_was_founded_with() {
    let mut founders = Founders::default();
    founders[NODE.index()] = Founder::With(7);
    for (directory, returning, judgement) in
        [(7, false, Judgement::Familiar), (8, false, Judgement::Doubtful), (8, true, Judgement::Familiar)]
    {
        let mut directory = Directory::new(directory);
        directory.start(1, 0);
        let mut peer = Familiarity::default();
        peer.set_founders(founders);
        peer.confirm(NODE, directory.life());
        // Of the founding alone nobody concludes that a node has to stop.
        peer.set_recognised(NODE);
        let newcomer = Newcomer { returning, ..directory.newcomer(&peer.of(NODE), 0) };
        assert_eq!(peer.judge(&newcomer), judgement);
    }
}

#[test]
fn a_node_that_was_absent_at_the_founding_takes_in_the_founders_first() {
    let mut directory = Directory::new(7);
    directory.start(1, 0);
    let mut peer = Familiarity::default();
    let mut founders = Founders::default();
    founders[NODE.index()] = Founder::Absent;
    peer.set_founders(founders);
    peer.confirm(NODE, directory.life());
    assert_eq!(directory.greet(&mut peer), Judgement::Unmet);
    assert_eq!(peer.of(NODE), Known::default());
    peer.set_recognised(NODE);
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
    let mut later = Familiarity::new(peer.known().clone());
    later.set_founders(founders);
    assert_eq!(directory.greet(&mut later), Judgement::Familiar, "it was met");
}

#[test]
fn who_has_not_been_taken_in_by_the_other_one_only_doubts() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let met = acquainted(&directory);
    let mut peer = Familiarity::new(met.known().clone());
    let mut emptied = Directory::new(8);
    emptied.start(2, 0);
    emptied.start(2, 0);
    assert_eq!(emptied.greet(&mut peer), Judgement::Doubtful, "this node may be the copy");
    peer.set_recognised(NODE);
    assert_eq!(emptied.greet(&mut peer), Judgement::Forgetful);
}

#[test]
fn a_machine_that_was_put_back_within_a_life_is_forgetful_and_what_was_said_meanwhile_elsewhere_is_not_asked_for()
 {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut peer = acquainted(&directory);
    let known = peer.of(NODE);
    peer.hear(NODE, Incarnation(1), 0, Lsn(directory.log.0 + 1));
    assert_eq!(directory.greet(&mut peer), Judgement::Forgetful);
    let early = Newcomer { asked: known.end(0), ..directory.newcomer(&peer.of(NODE), 0) };
    assert_eq!(peer.judge(&early), Judgement::Familiar, "another node was faster to tell");
    directory.log = Lsn(directory.log.0 + 1);
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
    // One on its way back has an end of its own, too.
    peer.hear(NODE, Incarnation(1), 0, Lsn(directory.log.0 + 1));
    let returning = Newcomer { returning: true, ..directory.newcomer(&peer.of(NODE), 0) };
    assert_eq!(peer.judge(&returning), Judgement::Forgetful);
}

#[test]
fn a_stranger_changes_nothing() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut peer = acquainted(&directory);
    let before = peer.clone();
    let known = peer.of(NODE);
    for (incarnation, returning) in [(u32::MAX, false), (u32::MAX, true), (2, false), (2, true)] {
        let life = Life { incarnation: Incarnation(incarnation), directory: 7, name: 99 };
        let forged = Newcomer { life, returning, ..directory.newcomer(&known, 0) };
        let mut guessed = forged;
        guessed.claim.earlier_name = 1;
        assert_ne!(peer.judge(&guessed), Judgement::Familiar);
        guessed.claim.earlier = Incarnation(0);
        assert_ne!(peer.judge(&guessed), Judgement::Familiar);
    }
    assert_eq!(peer, before);
    directory.start(2, 0);
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
}

#[test]
fn a_life_without_a_name_is_known_by_its_directory_and_gets_one() {
    let unnamed = Life { incarnation: Incarnation(1), directory: 7, name: 0 };
    let mut known: [Known; REPLICAS_MAX] = Default::default();
    known[NODE.index()].life = unnamed;
    let mut peer = Familiarity::new(known);
    let mut directory = Directory::new(7);
    directory.start(1, 0);
    directory.start(2, 0);
    assert_eq!(directory.greet(&mut peer), Judgement::Unconfirmed);
    peer.confirm(NODE, directory.life());
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
    assert_eq!(peer.of(NODE).life, directory.life());
}

#[test]
fn a_stranger_with_the_number_of_a_life_without_a_name_gives_it_none() {
    let mut known: [Known; REPLICAS_MAX] = Default::default();
    known[NODE.index()].life = Life { incarnation: Incarnation(1), directory: 7, name: 0 };
    let mut peer = Familiarity::new(known);
    let before = peer.clone();
    let mut directory = Directory::new(7);
    directory.start(1, 0);
    assert_eq!(directory.greet(&mut peer), Judgement::Unconfirmed);
    assert_eq!(peer, before);
}

#[test]
fn what_others_remember_is_learned_where_it_is_more_and_not_of_oneself() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut teller = acquainted(&directory);
    teller.hear(NODE, Incarnation(1), 0, Lsn(5));
    let (mut longer, me) = (teller.clone(), ReplicaId(0));
    longer.hear(NODE, Incarnation(1), 0, Lsn(9));
    longer.hear(NODE, Incarnation(1), 2, Lsn(3));
    directory.start(2, 10);
    assert_eq!(directory.greet(&mut teller), Judgement::Familiar);
    for order in [[&teller, &longer], [&longer, &teller]] {
        let mut learner = Familiarity::default();
        for told in order {
            learner.learn(me, NODE, &told.of(NODE));
            learner.learn(NODE, NODE, &told.of(NODE));
        }
        let known = learner.of(NODE);
        assert_eq!(known.life, directory.life());
        assert_eq!((known.end(0).lsn, known.end(2).lsn), (Lsn(9), Lsn(3)));
        let revision = learner.revision();
        learner.learn(me, NODE, &teller.of(NODE));
        assert_eq!(learner.revision(), revision);
    }
    let mut learner = Familiarity::default();
    learner.learn(NODE, NODE, &teller.of(NODE));
    assert_eq!(learner, Familiarity::default());
}

fn start(incarnation: u32, end: u64) -> Start {
    Start { incarnation: Incarnation(incarnation), key: LifeKey([1; 16]), log_end: Lsn(end) }
}

#[test]
fn a_core_that_was_killed_before_it_noted_a_start_has_found_what_the_next_one_finds() {
    let starts = Starts::new(vec![start(1, 0), start(2, 7), start(4, 9)]);
    for (since, end) in [(0, 0), (1, 7), (2, 9), (3, 9)] {
        assert_eq!(starts.log_end_after(Incarnation(since)), Some(Lsn(end)), "since {since}");
    }
    assert_eq!(starts.log_end_after(Incarnation(4)), None);
}

#[test]
fn a_start_that_nobody_heard_of_takes_no_place_and_what_it_found_counts() {
    let mut starts = Starts::default();
    starts.add(start(1, 0), |_| true);
    for incarnation in 2..1000 {
        // Each of them writes.
        starts.add(start(incarnation, 7 + u64::from(incarnation)), |of| of == Incarnation(1));
    }
    assert_eq!(starts, Starts::new(vec![start(1, 0), start(999, 9)]));
}

/// The folder of one core was put back to an older copy, after a start that failed: its notes lie beside it.
#[test]
fn what_a_start_that_nobody_heard_of_found_and_the_next_one_does_not_is_gone() {
    let mut starts = Starts::default();
    starts.add(start(1, 0), |_| true);
    for (incarnation, end) in [(2, 1000), (3, 500), (4, 2000)] {
        starts.add(start(incarnation, end), |of| of == Incarnation(1));
    }
    assert_eq!(starts.log_end_after(Incarnation(1)), Some(Lsn(500)));
}

/// Nothing was lost: the node has only started too often for its notes.
#[test]
fn the_starts_remembered_are_bounded_and_what_lies_before_them_is_not_shown_and_no_contradiction() {
    let mut directory = Directory::new(7);
    directory.start(1, 1);
    let mut peer = acquainted(&directory);
    peer.hear(NODE, Incarnation(1), 0, directory.log);
    for _ in 1..STARTS_MAX + 5 {
        directory.start(1, 1);
    }
    assert_eq!(directory.starts.iter().count(), STARTS_MAX);
    assert_eq!(directory.starts.key(Incarnation(5)), None);
    assert_eq!(directory.starts.log_end_after(Incarnation(4)), None);
    assert!(directory.starts.log_end_after(Incarnation(5)) > Some(Lsn(0)));
    assert_eq!(directory.starts.previous(), Incarnation(STARTS_MAX as u32 + 4));
    assert_eq!(directory.greet(&mut peer), Judgement::Unproven);
    let mut all: [Known; REPLICAS_MAX] = Default::default();
    let mut recent = peer.of(NODE);
    recent.life.incarnation = Incarnation(9);
    recent.life.name = directory.starts.key(Incarnation(9)).map_or(0, |key| key.life());
    all[NODE.index()] = recent;
    let mut peer = Familiarity::new(all);
    peer.set_recognised(NODE);
    assert_eq!(directory.greet(&mut peer), Judgement::Unproven, "nor is a log end from before them");
}

#[test]
fn a_life_that_others_remember_and_its_directory_does_not_although_it_has_notes_of_that_time_is_a_contradiction()
 {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut peer = acquainted(&directory);
    let mut copy = directory.clone();
    directory.start(2, 0);
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
    // A start of the copy with the same number, of which nobody heard.
    copy.start(3, 0);
    let named = |of| of != Incarnation(2);
    copy.starts.add(start(3, 0), named);
    assert_eq!(copy.starts.key(Incarnation(2)), None);
    assert_eq!(copy.greet(&mut peer), Judgement::Forgetful);
}

const ME: ReplicaId = ReplicaId(0);
const THIRD: ReplicaId = ReplicaId(1);

/// The third tells what it remembers; whether anything has to be closed.
fn tell(third: &Familiarity, to: &mut Familiarity) -> bool {
    let words: Vec<_> = third.words(THIRD, ME).collect();
    assert!(words.iter().all(|word| word.node == NODE.0), "of all but the two");
    words.iter().any(|word| to.hear_word(THIRD, word))
}

/// Two that have met the node's first life in a cluster of three.
fn two(directory: &Directory) -> (Familiarity, Familiarity) {
    let mut me = acquainted(directory);
    me.set_node_count(3);
    (me.clone(), me)
}

#[test]
fn what_others_have_met_keeps_out_a_copy_and_not_the_node_itself() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let (mut me, mut third) = two(&directory);
    let mut copy = directory.clone();
    directory.start(2, 10);
    assert_eq!(directory.greet(&mut third), Judgement::Familiar);
    assert!(tell(&third, &mut me), "what still comes from the first life is void");
    for draw in 3..9 {
        copy.start(draw, 100);
        let mut restarted = me.after_restart();
        let before = (me.known().clone(), restarted.known().clone());
        assert_eq!(copy.greet(&mut me), Judgement::Contested, "nobody ends for what was told: {draw}");
        assert_eq!(copy.greet(&mut restarted), Judgement::Contested);
        assert_eq!((me.known().clone(), restarted.known().clone()), before);
    }
    directory.start(3, 10);
    assert_eq!(directory.greet(&mut me), Judgement::Familiar);
    assert!(!tell(&third, &mut me), "it is behind now");
    assert_eq!(directory.greet(&mut me), Judgement::Familiar);
}

#[test]
fn what_others_have_heard_of_a_log_keeps_out_a_copy_of_the_last_run() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let (mut me, mut third) = two(&directory);
    let mut copy = directory.clone();
    directory.log = Lsn(directory.log.0 + 1);
    third.hear(NODE, Incarnation(1), 0, directory.log);
    assert!(!tell(&third, &mut me));
    for draw in 3..6 {
        copy.start(draw, 100);
        assert_eq!(copy.greet(&mut me), Judgement::Contested);
    }
    // In the same life what was told meanwhile need not have been known.
    let newcomer = directory.newcomer(&me.of(NODE), 0);
    assert_eq!(me.clone().judge(&newcomer), Judgement::Familiar);
    directory.start(2, 10);
    assert_eq!(directory.greet(&mut me), Judgement::Familiar);
}

#[test]
fn others_are_told_of_every_log_of_a_node() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let (mut me, mut third) = two(&directory);
    let mut copy = directory.clone();
    directory.log = Lsn(directory.log.0 + 1);
    // The third need not have a core of that number itself.
    third.hear(NODE, Incarnation(1), 3, directory.log);
    assert!(!tell(&third, &mut me));
    copy.start(3, 100);
    assert_eq!(copy.greet_from(3, &mut me.clone()), Judgement::Contested);
    assert_eq!(copy.greet(&mut me), Judgement::Familiar, "that log is as it was");
}

#[test]
fn who_has_met_nobody_takes_back_nothing_and_backs_nobody() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let (mut me, mut third) = two(&directory);
    let mut copy = directory.clone();
    directory.start(2, 10);
    assert_eq!(directory.greet(&mut third), Judgement::Familiar);
    tell(&third, &mut me);
    let before = me.clone();
    // It has lost what it remembered, and says so, or an earlier version says it.
    assert!(!me.hear_word(THIRD, &Word::new(NODE, 0, &Known::default())));
    assert_eq!(Familiarity::default().words(THIRD, ME).count(), 0);
    assert_eq!(me, before);
    copy.start(3, 10);
    assert_eq!(copy.greet(&mut me), Judgement::Contested);
}

#[test]
fn what_was_told_never_makes_a_node_familiar() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut copy = directory.clone();
    directory.start(2, 10);
    let (mut me, _) = two(&directory);
    // The third has taken in a copy, and tells of it.
    copy.start(3, 10);
    let (_, third) = two(&copy);
    tell(&third, &mut me);
    assert_eq!(copy.greet(&mut me), Judgement::Forgetful);
}

#[test]
fn who_has_told_what_is_wrong_can_take_it_back() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let (mut me, mut third) = two(&directory);
    let word = third.words(THIRD, ME).next().unwrap();
    let lie = Word { incarnation: u32::MAX, name: 5, log_end: u64::MAX, ..word };
    assert!(me.hear_word(THIRD, &lie));
    assert_eq!(directory.greet(&mut me), Judgement::Contested);
    // It has lost its disk, and learned from others.
    third = Familiarity::default();
    third.set_node_count(3);
    third.learn(THIRD, NODE, &me.of(NODE));
    assert!(!tell(&third, &mut me));
    assert_eq!(directory.greet(&mut me), Judgement::Familiar);
    for word in [Word { node: THIRD.0, ..word }, Word { node: 9, ..word }, Word { node: u8::MAX, ..word }] {
        let before = me.clone();
        assert!(!me.hear_word(THIRD, &word));
        assert_eq!(me, before, "about itself, or about none");
    }
}

#[test]
fn of_two_that_doubt_each_other_the_one_ends_that_a_majority_has_not_taken_in() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let met = two(&directory).0;
    let mut emptied = Directory::new(8);
    emptied.start(2, 0);
    emptied.start(2, 0);
    let mut me = met.after_restart();
    assert_eq!(emptied.greet(&mut me), Judgement::Doubtful, "nobody has taken in this node");
    me.set_recognised(THIRD);
    assert_eq!(emptied.greet(&mut me), Judgement::Doubtful, "the third has not said what it knows");
    let mut behind = me.clone();
    assert!(!tell(&met, &mut me));
    assert_eq!(emptied.greet(&mut me), Judgement::Forgetful);
    assert_eq!(me.disowned().count(), 0, "that may be a stranger");
    me.confirm(NODE, emptied.life());
    assert_eq!(emptied.greet(&mut me), Judgement::Forgetful);
    assert_eq!(me.disowned().count(), 1);
    // The third has met it since: this node is the one that is behind, whoever has taken it in.
    let (_, third) = two(&emptied);
    tell(&third, &mut behind);
    behind.set_recognised(NODE);
    assert_eq!(emptied.greet(&mut behind), Judgement::Doubtful);
}

#[test]
fn a_node_that_was_not_met_comes_back_above_what_the_cluster_began_with() {
    let mut directory = Directory::new(7);
    directory.start(1, 10);
    let mut peer = Familiarity::default();
    peer.set_founded_above(Incarnation(5));
    assert_eq!(peer.last_incarnation(NODE), Incarnation(5), "a batch of it would be taken for an old one");
    (0..6).for_each(|draw| directory.start(draw, 10));
    peer.confirm(NODE, directory.life());
    assert_eq!(directory.greet(&mut peer), Judgement::Familiar);
    assert_eq!(peer.last_incarnation(NODE), Incarnation(7));
    assert_eq!(peer.last_incarnation(THIRD), Incarnation(5));
    assert_eq!(peer.after_restart().last_incarnation(THIRD), Incarnation(5));
    assert_eq!(Familiarity::default().last_incarnation(NODE), Incarnation(0));
}

/// Each rule is missed by a test once it is removed.
#[cfg(feature = "mutants")]
#[test]
fn a_test_fails_for_every_rule_that_is_removed() {
    use panch_wire::rule::remove;
    let tests: [(Rule, fn()); 10] = [
        (Rule::PeerLifeRemembered, a_copy_from_before_the_last_start_is_forgetful_however_often_it_starts),
        (
            Rule::PeerLogEndRemembered,
            a_copy_from_the_last_run_is_forgetful_once_its_log_was_longer_however_often_it_starts,
        ),
        (
            Rule::PeerLogNeverShrinks,
            a_machine_that_was_put_back_within_a_life_is_forgetful_and_what_was_said_meanwhile_elsewhere_is_not_asked_for,
        ),
        (Rule::UnnamedLifeConfirmed, a_stranger_with_the_number_of_a_life_without_a_name_gives_it_none),
        (Rule::AbsentTakesInFirst, a_node_that_was_absent_at_the_founding_takes_in_the_founders_first),
        (
            Rule::UnheardStartsDropped,
            a_start_that_nobody_heard_of_takes_no_place_and_what_it_found_counts,
        ),
        (Rule::SilenceTakesNothingBack, who_has_met_nobody_takes_back_nothing_and_backs_nobody),
        (Rule::RejoinAboveFounding, a_node_that_was_not_met_comes_back_above_what_the_cluster_began_with),
        (Rule::PeerWordsRemembered, what_others_have_met_keeps_out_a_copy_and_not_the_node_itself),
        (
            Rule::MajorityDisowns,
            of_two_that_doubt_each_other_the_one_ends_that_a_majority_has_not_taken_in,
        ),
    ];
    for (rule, test) in tests {
        test();
        remove(Some(rule));
        let is_missed = std::panic::catch_unwind(test).is_err();
        remove(None);
        assert!(is_missed, "nothing misses {rule:?}");
    }
}
