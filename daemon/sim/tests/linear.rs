//! The checker on histories whose verdict is known.

use panch_sim::linear::register::{Action, Answer, Bytes, KeyOperation, Register, check_key};
use panch_sim::linear::store::{Held, History, ManyAction, ManyOperation, Store, StoreOperation};
use panch_sim::linear::{Model, Timed, Verdict, check};

/// What the keys of a store hold.
type Values = <Store as Model>::State;

const STEPS: u64 = 1_000_000;

fn bytes(text: &str) -> Bytes {
    text.as_bytes().into()
}

fn call(invoked: u64, returned: u64, action: Action, answer: Answer) -> Timed<KeyOperation> {
    Timed { invoked, returned: Some(returned), operation: KeyOperation { action, answer: Some(answer) } }
}

fn lost(invoked: u64, action: Action) -> Timed<KeyOperation> {
    Timed { invoked, returned: None, operation: KeyOperation { action, answer: None } }
}

fn set(invoked: u64, returned: u64, value: &str) -> Timed<KeyOperation> {
    call(invoked, returned, Action::Set(bytes(value)), Answer::Done)
}

fn get(invoked: u64, returned: u64, value: Option<&str>) -> Timed<KeyOperation> {
    call(invoked, returned, Action::Get, Answer::Value(value.map(bytes)))
}

fn increment(invoked: u64, returned: u64, sum: i64) -> Timed<KeyOperation> {
    call(invoked, returned, Action::Increment(1), Answer::Number(sum))
}

/// Draws numbers below a bound, the same ones each time.
fn dice() -> impl FnMut(u64) -> u64 {
    let mut state = 1u64;
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    }
}

#[track_caller]
fn good(history: &[Timed<KeyOperation>]) {
    assert_eq!(check(&Register, history, STEPS), Verdict::Linearizable);
    assert_eq!(check_key(history, STEPS), Verdict::Linearizable);
}

#[track_caller]
fn bad(history: &[Timed<KeyOperation>], culprit: usize) {
    assert!(matches!(check_key(history, STEPS), Verdict::NotLinearizable { .. }));
    let Verdict::NotLinearizable { stuck, .. } = check(&Register, history, STEPS) else {
        panic!("accepted a history that is not linearizable")
    };
    assert_eq!(stuck, culprit);
}

#[test]
fn nothing_and_sequential_histories_are_linearizable() {
    good(&[]);
    good(&[set(0, 1, "a"), get(2, 3, Some("a")), set(4, 5, "b"), get(6, 7, Some("b"))]);
    good(&[get(0, 1, None), call(2, 3, Action::Delete, Answer::Number(0))]);
}

#[test]
fn concurrent_reads_may_see_old_or_new() {
    good(&[set(0, 1, "a"), set(2, 10, "b"), get(3, 4, Some("a")), get(5, 6, Some("b"))]);
    good(&[set(0, 10, "a"), set(0, 10, "b"), get(11, 12, Some("a")), get(13, 14, Some("a"))]);
}

#[test]
fn operations_that_touch_in_time_count_as_concurrent() {
    good(&[set(0, 5, "a"), get(5, 6, None)]);
}

#[test]
fn stale_read_is_found() {
    bad(&[set(0, 1, "a"), set(2, 3, "b"), get(4, 5, Some("a"))], 2);
}

#[test]
fn reads_that_go_back_are_found() {
    // New, then old, both during the write: the second read contradicts the first.
    bad(&[set(0, 1, "a"), set(2, 10, "b"), get(3, 4, Some("b")), get(5, 6, Some("a"))], 3);
}

#[test]
fn read_of_something_never_written_is_found() {
    bad(&[set(0, 1, "a"), get(2, 3, Some("x"))], 1);
}

#[test]
fn lost_update_is_found() {
    let swap = |invoked, returned, new| {
        call(invoked, returned, Action::CompareAndSet(bytes("a"), bytes(new)), Answer::Number(1))
    };
    good(&[set(0, 1, "a"), swap(2, 3, "b")]);
    bad(&[set(0, 1, "a"), swap(2, 4, "b"), swap(3, 5, "c")], 1);
    // An acknowledged write that vanishes.
    bad(&[set(0, 1, "a"), get(2, 3, None)], 1);
}

#[test]
fn double_increment_is_found() {
    good(&[increment(0, 1, 1), increment(2, 3, 2)]);
    bad(&[increment(0, 1, 1), increment(2, 3, 3)], 1);
    // A retry applied twice: one call, two effects, the second visible to others.
    bad(&[increment(0, 5, 1), get(6, 7, Some("2"))], 1);
}

#[test]
fn unknown_outcome_may_take_effect_late_or_never() {
    good(&[lost(0, Action::Set(bytes("a"))), get(1, 2, None), get(3, 4, None)]);
    good(&[lost(0, Action::Set(bytes("a"))), get(1, 2, None), get(3, 4, Some("a"))]);
    bad(&[lost(0, Action::Set(bytes("a"))), get(1, 2, Some("a")), get(3, 4, None)], 2);
    good(&[lost(5, Action::Increment(1)), increment(6, 7, 2), get(8, 9, Some("2"))]);
    // Not before it was called.
    bad(&[get(0, 1, Some("a")), lost(2, Action::Set(bytes("a")))], 0);
    // An unseen unknown write may still explain a failed swap.
    let swap = call(4, 5, Action::CompareAndSet(bytes("a"), bytes("b")), Answer::Number(0));
    good(&[set(0, 1, "a"), lost(2, Action::Set(bytes("x"))), swap]);
}

#[test]
fn every_action_has_its_answers() {
    let text = |text: &str| Some(bytes(text));
    good(&[
        call(0, 1, Action::SetIfAbsent(bytes("a")), Answer::Number(1)),
        call(2, 3, Action::SetIfAbsent(bytes("b")), Answer::Number(0)),
        call(4, 5, Action::GetSet(bytes("c")), Answer::Value(text("a"))),
        call(6, 7, Action::Append(bytes("de")), Answer::Number(3)),
        call(8, 9, Action::Increment(1), Answer::NotANumber),
        call(10, 11, Action::GetDelete, Answer::Value(text("cde"))),
        call(12, 13, Action::GetDelete, Answer::Value(None)),
        call(14, 15, Action::Increment(-4), Answer::Number(-4)),
        call(16, 17, Action::Delete, Answer::Number(1)),
    ]);
    bad(&[call(0, 1, Action::SetIfAbsent(bytes("a")), Answer::Number(0))], 0);
    bad(&[set(0, 1, "a"), call(2, 3, Action::GetSet(bytes("b")), Answer::Value(None))], 1);
    bad(&[set(0, 1, "a"), call(2, 3, Action::Append(bytes("b")), Answer::Number(1))], 1);
}

#[test]
fn many_unknown_writes_do_not_stop_the_search() {
    let mut history: Vec<_> = (0..30).map(|n| lost(n, Action::Set(bytes(&format!("lost{n}"))))).collect();
    for n in 0..500 {
        history.push(set(100 + 4 * n, 101 + 4 * n, &format!("v{n}")));
        history.push(get(102 + 4 * n, 103 + 4 * n, Some(&format!("v{n}"))));
    }
    assert_eq!(check_key(&history, STEPS), Verdict::Linearizable);
}

#[test]
fn wide_concurrency_is_searched_with_memory() {
    // Eight clients at once, all overlapping, then a read: without the memory this takes factorial time.
    let mut history = Vec::new();
    for round in 0..20u64 {
        for client in 0..8u64 {
            history.push(increment(100 * round, 100 * round + 50, (8 * round + 8 - client) as i64));
        }
    }
    good(&history);
    history.push(get(10_000, 10_001, Some("161")));
    assert!(matches!(check_key(&history, STEPS), Verdict::NotLinearizable { .. }));
}

#[test]
fn reads_and_writes_are_decided_however_many_are_concurrent() {
    // An outage: many writes are answered at about the same time, in another order than they were asked for.
    let mut history = vec![set(0, 1, "old")];
    for n in 0..80u64 {
        let (invoked, effect) = (10 + n, 1000 + 10 * (n * 37 % 80));
        history.push(set(invoked, effect + 1 + n * 13 % 300, &format!("v{n}")));
        history.push(get(invoked, effect + 9, Some(&format!("v{n}"))));
        history.push(lost(invoked, Action::Set(bytes(&format!("lost{n}")))));
    }
    history.push(get(500, 1790, Some("lost9")));
    assert_eq!(check_key(&history, STEPS), Verdict::Linearizable);
    // The last one took effect at 1790; and two reads do not agree which one that was.
    history.push(get(3000, 3001, Some("lost5")));
    assert_eq!(check_key(&history, STEPS), Verdict::Linearizable);
    history.push(get(3002, 3003, Some("lost9")));
    assert!(matches!(check_key(&history, 1000), Verdict::NotLinearizable { .. }));
}

#[test]
fn both_ways_to_decide_agree() {
    let mut below = dice();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut history = Vec::new();
        for number in 0..2 + below(4) {
            let invoked = below(12);
            let returned = invoked + below(6);
            let value = ["a", "b", "c"][below(3) as usize];
            let is_new = !history.iter().any(|timed: &Timed<KeyOperation>| {
                matches!(&timed.operation.action, Action::Set(other) if *other == bytes(value))
            });
            history.push(match below(5) {
                0..=1 if is_new && number % 3 == 2 => lost(invoked, Action::Set(bytes(value))),
                0..=1 if is_new => set(invoked, returned, value),
                2 => get(invoked, returned, None),
                _ => get(invoked, returned, Some(value)),
            });
        }
        let is_linearizable = |verdict| matches!(verdict, Verdict::Linearizable);
        let by_search = is_linearizable(check(&Register, &history, STEPS));
        assert_eq!(is_linearizable(check_key(&history, STEPS)), by_search, "{history:?}");
        *(if by_search { &mut accepted } else { &mut refused }) += 1;
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} and {refused}");
}

#[test]
fn a_search_that_takes_too_long_says_so() {
    let history: Vec<_> = (0..10).map(|n| increment(0, 10, 10 - n)).collect();
    assert_eq!(check(&Register, &history, 3), Verdict::Undecided);
}

/// A history of families; reads and writes name their keys `a`, `b` and `c`.
#[derive(Default)]
struct Families(History);

impl Families {
    fn set(mut self, invoked: u64, returned: u64, pairs: &[(&str, &str)]) -> Self {
        let pairs = pairs.iter().map(|(key, value)| (bytes(key), bytes(value))).collect();
        self.0.push_many(invoked, Some(returned), ManyAction::Set(pairs), Some(Answer::Done));
        self
    }

    fn lose(mut self, invoked: u64, pairs: &[(&str, &str)]) -> Self {
        let pairs = pairs.iter().map(|(key, value)| (bytes(key), bytes(value))).collect();
        self.0.push_many(invoked, None, ManyAction::Set(pairs), None);
        self
    }

    fn read(mut self, invoked: u64, returned: u64, seen: &[(&str, Option<&str>)]) -> Self {
        let keys = seen.iter().map(|(key, _)| bytes(key)).collect();
        let values = seen.iter().map(|(_, value)| value.map(bytes)).collect();
        self.0.push_many(invoked, Some(returned), ManyAction::Read(keys), Some(Answer::Values(values)));
        self
    }

    fn one(mut self, key: &str, timed: Timed<KeyOperation>) -> Self {
        let Timed { invoked, returned, operation: KeyOperation { action, answer } } = timed;
        self.0.push(key.as_bytes(), invoked, returned, action, answer);
        self
    }

    fn many(mut self, invoked: u64, returned: u64, action: ManyAction, answer: i64) -> Self {
        self.0.push_many(invoked, Some(returned), action, Some(Answer::Number(answer)));
        self
    }

    #[track_caller]
    fn good(self) {
        self.0.check(STEPS).expect("a history that is linearizable");
    }

    #[track_caller]
    fn bad(self, culprit: &str) {
        let anomaly = self.0.check(STEPS).expect_err("a history that is not linearizable");
        assert!(anomaly.text.lines().nth(1).is_some_and(|line| line.contains(culprit)), "{}", anomaly.text);
    }
}

#[test]
fn a_read_of_several_keys_shows_one_moment() {
    let writes = || Families::default().one("x", set(0, 1, "first")).one("y", set(2, 3, "second"));
    writes().read(0, 9, &[("x", Some("first")), ("y", None)]).good();
    writes().read(0, 9, &[("x", None), ("y", None)]).good();
    // Key by key each of the two answers is right; together they never were.
    writes().read(0, 9, &[("x", None), ("y", Some("second"))]).bad("mget x y -> [nil, second]");
}

#[test]
fn a_write_of_several_keys_is_seen_whole() {
    let write = || Families::default().set(0, 9, &[("a", "1"), ("b", "2")]);
    write().one("a", get(1, 2, Some("1"))).one("b", get(3, 4, Some("2"))).good();
    write().one("a", get(1, 2, Some("1"))).one("b", get(3, 4, None)).bad("b: get -> nil");
    // Through a third key the first two are tied to it.
    write()
        .one("a", get(1, 2, Some("1")))
        .read(3, 4, &[("b", Some("2")), ("c", None)])
        .one("c", set(5, 6, "3"))
        .good();
    write()
        .one("c", set(0, 1, "3"))
        .one("a", get(2, 3, Some("1")))
        .read(4, 5, &[("c", Some("3")), ("b", None)])
        .bad("mget c b");
}

#[test]
fn every_action_on_several_keys_has_its_answers() {
    let keys = || vec![bytes("a"), bytes("b")];
    let pairs = |value: &str| vec![(bytes("a"), bytes(value)), (bytes("b"), bytes(value))];
    let swap = |old: Option<&str>, new: Option<&str>| ManyAction::Transaction {
        conditions: vec![(bytes("a"), old.map(bytes)), (bytes("b"), old.map(bytes))],
        writes: vec![(bytes("b"), new.map(bytes)), (bytes("c"), new.map(bytes))],
    };
    let begin = || {
        Families::default()
            .many(0, 1, ManyAction::SetIfAbsent(pairs("1")), 1)
            .many(2, 3, ManyAction::SetIfAbsent(pairs("2")), 0)
            .many(4, 5, ManyAction::Exists([keys(), keys()].concat()), 4)
            .many(6, 7, swap(Some("2"), Some("3")), 0)
            .many(8, 9, swap(Some("1"), Some("3")), 1)
            .read(10, 11, &[("c", Some("3")), ("a", Some("1")), ("b", Some("3"))])
            .many(12, 13, ManyAction::Delete(keys()), 2)
            .many(14, 15, swap(None, None), 1)
    };
    begin().read(16, 17, &[("c", None)]).good();
    begin().read(16, 17, &[("c", Some("3"))]).bad("mget c -> [3]");
    begin().many(16, 17, ManyAction::Delete(keys()), 1).bad("del a b -> 1");
    begin().many(16, 17, swap(None, Some("4")), 0).bad("if a=nil b=nil then b=4 c=4 -> 0");
}

#[test]
fn commands_that_are_held_by_one_take_effect_at_one_moment_and_in_their_order() {
    let exec = |seen: Option<&str>| ManyAction::Exec {
        conditions: vec![(bytes("a"), seen.map(bytes))],
        held: vec![
            Held::One(bytes("b"), Action::GetSet(bytes("1"))),
            Held::Many(ManyAction::Read(vec![bytes("a"), bytes("b")])),
            Held::One(bytes("a"), Action::Set(bytes("2"))),
            Held::One(bytes("b"), Action::Increment(1)),
        ],
    };
    let answers = |a: Option<&str>, b: Option<&str>| {
        Answer::Replies(vec![
            Answer::Value(b.map(bytes)),
            Answer::Values(vec![a.map(bytes), Some(bytes("1"))]),
            Answer::Done,
            Answer::Number(2),
        ])
    };
    let run = |mut history: Families, (invoked, returned), seen, answer| {
        history.0.push_many(invoked, Some(returned), exec(seen), Some(answer));
        history
    };
    let first = || run(Families::default(), (0, 9), None, answers(None, None));
    first().read(10, 11, &[("a", Some("2")), ("b", Some("2"))]).good();
    first().read(1, 2, &[("a", Some("2")), ("b", Some("1"))]).bad("mget a b -> [2, 1]");
    let again = || run(first(), (10, 11), Some("2"), answers(Some("2"), Some("2")));
    again().one("b", get(12, 13, Some("2"))).good();
    run(again(), (14, 15), None, Answer::Value(None)).good();
    run(again(), (14, 15), Some("2"), Answer::Value(None)).bad("exec if a=2 then (b: getset 1)");
    run(first(), (10, 11), Some("2"), answers(Some("2"), Some("1"))).bad("exec if a=2");
    // One that was lost may have done everything, or nothing.
    for (a, b) in [(None, None), (Some("2"), Some("2"))] {
        let mut lost = Families::default();
        lost.0.push_many(0, None, exec(None), None);
        lost.read(20, 21, &[("a", a), ("b", b)]).good();
    }
    let mut lost = Families::default();
    lost.0.push_many(0, None, exec(None), None);
    lost.read(20, 21, &[("a", None), ("b", Some("2"))]).bad("mget a b -> [nil, 2]");
}

/// What would have changed nothing at an earlier moment, where it was possible as well, is what changes something later.
#[test]
fn what_changes_nothing_now_may_have_to_change_something_later() {
    let delete = ManyAction::Transaction {
        conditions: vec![(bytes("b"), None)],
        writes: vec![(bytes("a"), None), (bytes("b"), None)],
    };
    Families::default()
        .many(0, 20, delete, 1)
        .one("a", call(1, 19, Action::GetSet(bytes("1")), Answer::Value(None)))
        .read(21, 22, &[("a", None), ("b", None)])
        .good();
    good(&[
        call(0, 20, Action::Set(bytes("1")), Answer::Done),
        call(0, 20, Action::GetSet(bytes("2")), Answer::Value(Some(bytes("1")))),
        call(0, 1, Action::GetSet(bytes("1")), Answer::Value(None)),
        get(21, 22, Some("1")),
    ]);
}

/// Whether there is an order of what is left, by trying all of them.
fn by_trying_all(store: &Store, state: &Values, left: &[Timed<StoreOperation>]) -> bool {
    if left.iter().all(|timed| timed.returned.is_none()) {
        return true;
    }
    let first_return = left.iter().filter_map(|timed| timed.returned).min().unwrap_or(u64::MAX);
    (0..left.len()).filter(|next| left[*next].invoked <= first_return).any(|next| {
        let Some(after) = store.step(state, &left[next].operation) else { return false };
        let mut rest = left.to_vec();
        rest.remove(next);
        by_trying_all(store, &after, &rest)
    })
}

#[test]
fn the_search_finds_what_trying_all_orders_finds() {
    let mut draw = dice();
    let store = Store::new(vec![bytes("a"), bytes("b")]);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..6_000 {
        let mut history = Vec::new();
        for _ in 0..2 + draw(5) {
            let key = |drawn| bytes(if drawn == 0 { "a" } else { "b" });
            let value = |drawn: u64| (drawn > 0).then(|| bytes(&drawn.to_string()));
            let (one, other) = (key(draw(2)), key(draw(2)));
            let (first, second) = (value(draw(3)), value(draw(3)));
            let written = bytes(&(1 + draw(2)).to_string());
            let done = i64::try_from(draw(2)).expect("0 or 1");
            let is_known = draw(4) > 0;
            let many = |action, answer| {
                StoreOperation::Many(ManyOperation { action, answer: is_known.then_some(answer) })
            };
            let single = |action, answer| {
                StoreOperation::One(one.clone(), KeyOperation { action, answer: is_known.then_some(answer) })
            };
            let operation = match draw(9) {
                0 => many(ManyAction::Read(vec![one, other]), Answer::Values(vec![first, second])),
                1 => many(ManyAction::Set(vec![(one, written.clone()), (other, written)]), Answer::Done),
                2 => many(ManyAction::Delete(vec![one]), Answer::Number(done)),
                3 => {
                    let action = ManyAction::Transaction {
                        conditions: vec![(one, first)],
                        writes: vec![(other, second)],
                    };
                    many(action, Answer::Number(done))
                }
                8 => {
                    let held = vec![
                        Held::One(other.clone(), Action::GetSet(written)),
                        Held::Many(ManyAction::Read(vec![one.clone(), other.clone()])),
                    ];
                    let values = Answer::Values(vec![first.clone(), Some(bytes("1"))]);
                    let answer = if done == 1 {
                        Answer::Replies(vec![Answer::Value(second), values])
                    } else {
                        Answer::Value(None)
                    };
                    many(ManyAction::Exec { conditions: vec![(one, first)], held }, answer)
                }
                4 => single(Action::GetSet(written), Answer::Value(first)),
                5 => single(Action::Set(written), Answer::Done),
                6 => single(Action::SetIfAbsent(written), Answer::Number(done)),
                _ => single(Action::Get, Answer::Value(first)),
            };
            let invoked = draw(20);
            let returned = is_known.then(|| invoked + 1 + draw(12));
            history.push(Timed { invoked, returned, operation });
        }
        let is_linearizable = match check(&store, &history, STEPS) {
            Verdict::Linearizable => true,
            Verdict::NotLinearizable { .. } => false,
            Verdict::Undecided => panic!("a few operations are decided"),
        };
        assert_eq!(is_linearizable, by_trying_all(&store, &store.initial(), &history), "{history:?}");
        // With values made alike that nobody saw.
        let mut whole = History::default();
        let tied = ManyAction::Exists(vec![bytes("a"), bytes("b")]);
        whole.push_many(0, None, tied, None);
        for Timed { invoked, returned, operation } in history {
            match operation {
                StoreOperation::One(key, it) => whole.push(&key, invoked, returned, it.action, it.answer),
                StoreOperation::Many(it) => whole.push_many(invoked, returned, it.action, it.answer),
            }
        }
        assert_eq!(is_linearizable, whole.check(STEPS).is_ok(), "{whole:?}");
        *(if is_linearizable { &mut accepted } else { &mut refused }) += 1;
    }
    assert!(accepted > 500 && refused > 500, "{accepted} and {refused}");
}

#[test]
fn lost_writes_of_several_keys_are_decided() {
    let mut history = Families::default();
    for n in 0..20u64 {
        let value = format!("lost{n}");
        history = history.lose(n, &[("a", &value), ("b", &value)]);
    }
    for n in 0..100u64 {
        let (at, value) = (100 + 10 * n, format!("v{n}"));
        history = history.set(at, at + 5, &[("a", &value), ("b", &value)]);
        history = history.set(at, at + 5, &[("c", &value), ("b", &value)]);
        history = history.read(at + 6, at + 7, &[("a", Some(&value)), ("b", Some(&value))]);
        if n % 10 == 0 {
            // One of the lost ones shows up late.
            let value = format!("lost{}", n / 10);
            history = history.read(at + 8, at + 9, &[("a", Some(&value)), ("b", Some(&value))]);
        }
    }
    let mut wrong = Families(history.0.clone());
    history.good();
    wrong = wrong.read(9_000, 9_001, &[("a", Some("lost15")), ("b", Some("lost16"))]);
    wrong.bad("mget a b");
}

#[test]
fn anomalies_name_the_key_and_the_operation() {
    let fine = Families::default().one("fine", set(0, 1, "a"));
    let wrong = Families(fine.0.clone()).one("wrong", set(0, 1, "a")).one("wrong", get(2, 3, Some("b")));
    let anomaly = wrong.0.check(STEPS).unwrap_err();
    assert_eq!(anomaly.key, b"wrong");
    assert!(anomaly.text.contains("get -> b"), "{}", anomaly.text);
    let summary = fine.set(2, 3, &[("a", "1"), ("b", "2")]).0.check(STEPS).unwrap();
    assert_eq!((summary.operations, summary.families), (2, 1));
}

#[test]
fn what_is_not_decided_is_refused() {
    let mut history = Families::default();
    for n in 0..10 {
        history = history.one("k", increment(0, 10, 10 - n));
    }
    assert!(history.0.check(3).unwrap_err().text.contains("not decided"));
}
