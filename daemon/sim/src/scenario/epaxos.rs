//! EPaxos: command leaders that die, conflicts, restarts, reads beside late news.

use std::cell::Cell;
use std::rc::Rc;

use panch_consensus::epaxos::message::Message;
use panch_consensus::protocol::ProtocolKind;
use panch_replica::replica::Level;
use panch_wire::ids::Position;
use panch_wire::time::Duration;

use super::{Script, broken, end, ensure, steady};
use crate::client::{Outcome, OwnedCommand};
use crate::disk::CrashKind;
use crate::linear::register::{Action, Answer, Bytes};
use crate::linear::store::ManyAction;
use crate::network::NetworkSettings;
use crate::queue::{MILLISECOND, SECOND};
use crate::settings::Settings;
use crate::world::{Letter, Verdict};

fn set(text: &str) -> Action {
    Action::Set(text.as_bytes().into())
}

fn begin(seed: u64, count: usize) -> Result<Script, String> {
    steady(Settings::calm_of(ProtocolKind::Epaxos, seed, count))
}

fn is_answer(outcome: Option<&Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Answer(_)))
}

fn value(text: &str) -> Option<Outcome> {
    Some(Outcome::Answer(Answer::Value(Some(text.as_bytes().into()))))
}

fn is_commit(letter: &Letter) -> bool {
    matches!(letter.epaxos(), Some(Message::Commit(_)))
}

/// T-E2. The command leader answers, tells nobody, and loses power; what it answered must be there.
pub(super) fn leader_dies_after_the_answer(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    world.set_filter(Box::new(|letter: &Letter| {
        if letter.from == 0 && is_commit(letter) { Verdict::Drop } else { Verdict::Pass }
    }));
    let call = world.call(0, "r0", set("answered"), Level::Log);
    let answered = world.run_until(SECOND, |world| is_answer(world.outcome(call)));
    ensure!(answered, "no write");
    world.bounce(0, CrashKind::Power);
    world.clear_filter();
    let read = world.get(1, "r0", Level::Log);
    world.check().map_err(broken)?;
    ensure!(read == value("answered"), "read {read:?}: {}", world.describe());
    end(world)
}

/// T-E7. A command leader stands still in the middle; others recover its instances and go on; then it wakes up.
pub(super) fn slow_leader(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    world.set_filter(Box::new(|letter: &Letter| {
        let vote = matches!(letter.epaxos(), Some(Message::PreAcceptOk(_) | Message::AcceptOk(_)));
        if letter.to == 0 && vote { Verdict::Drop } else { Verdict::Pass }
    }));
    let call = world.call(0, "n0", Action::Increment(1), Level::Log);
    world.run_for(5 * MILLISECOND);
    world.pause(0, 2 * SECOND);
    let other = world.call(1, "n0", Action::Increment(1), Level::Log);
    let recovered = world.run_until(5 * SECOND, |world| world.outcome(other).is_some());
    world.clear_filter();
    ensure!(recovered, "nobody recovers: {}", world.describe());
    world.wait(call, 3 * SECOND);
    world.run_for(SECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// T-E11. Everybody writes one key in the same moments, with nothing heard of each other: equal stamps, one order.
pub(super) fn same_stamps(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    for round in 0..8 {
        let text = |node| format!("{round}.{node};");
        let calls: Vec<_> = (0..count)
            .map(|node| world.call(node, "l0", Action::Append(text(node).into_bytes().into()), Level::Log))
            .collect();
        for call in calls {
            let outcome = world.wait(call, 3 * SECOND);
            ensure!(is_answer(outcome.as_ref()), "{outcome:?}: {}", world.describe());
        }
    }
    world.check().map_err(broken)?;
    end(world)
}

/// T-E12. Only one other node hears of a batch, and tells of it in its dependencies; then the two are gone.
pub(super) fn known_by_name_only(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    world.set_filter(Box::new(|letter: &Letter| {
        if letter.from == 0 && letter.to != 1 { Verdict::Drop } else { Verdict::Pass }
    }));
    let _ = world.call(0, "r0", set("unknown"), Level::Log);
    world.run_for(2 * MILLISECOND);
    let _ = world.call(1, "r0", set("depends"), Level::Log);
    world.run_for(20 * MILLISECOND);
    world.crash(0, CrashKind::Power);
    if count > 3 {
        world.crash(1, CrashKind::Power);
    }
    world.clear_filter();
    let call = world.call(count - 1, "r0", set("after"), Level::Log);
    let done = world.run_until(8 * SECOND, |world| world.outcome(call).is_some());
    world.check().map_err(broken)?;
    ensure!(done, "blocked by an unknown instance: {}", world.describe());
    end(world)
}

/// T-E13. A command leader restarts over and over with proposals on their way.
pub(super) fn numbers_after_restarts(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    for round in 0..5 {
        world.stall_disk(0, 20 * MILLISECOND);
        let _ = world.call(0, "r0", set(&format!("v{round}")), Level::Log);
        world.run_for((1 + round) * MILLISECOND);
        world.bounce(0, CrashKind::Power);
        world.check().map_err(broken)?;
    }
    ensure!(world.set_soon(1, "r0", "after"), "blocked: {}", world.describe());
    end(world)
}

/// T-E14. Proposals are late, commits are not, and everything comes twice.
pub(super) fn early_commits(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network = NetworkSettings { streams: false, duplication: 1_000_000, ..NetworkSettings::calm() };
    let mut world = steady(settings)?;
    world.set_filter(Box::new(move |letter: &Letter| match letter.epaxos() {
        Some(Message::PreAccept(_) | Message::Seen(_)) if letter.to == count - 1 => {
            Verdict::Delay(20 * MILLISECOND)
        }
        _ => Verdict::Pass,
    }));
    for expected in 1..=8 {
        let call = world.call(0, "n0", Action::Increment(1), Level::Log);
        let outcome = world.wait(call, 2 * SECOND);
        ensure!(outcome == Some(Outcome::Answer(Answer::Number(expected))), "{expected}: {outcome:?}");
    }
    world.run_for(100 * MILLISECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// T-E15. All replicas write one key as fast as they can, with uneven delays: components stay bounded, all finish.
pub(super) fn one_hot_key(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.latency_high *= 10;
    let mut world = steady(settings)?;
    let mut calls = Vec::new();
    for _ in 0..40 {
        for node in 0..count {
            calls.push(world.call(node, "n0", Action::Increment(1), Level::Log));
        }
        world.run_for(MILLISECOND);
    }
    for call in calls {
        let outcome = world.wait(call, 10 * SECOND);
        ensure!(outcome.is_some(), "unanswered: {}", world.describe());
    }
    world.check().map_err(broken)?;
    end(world)
}

/// T-E16. Acceptors restart between the votes for two batches that interfere.
pub(super) fn acceptors_restart(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    for round in 0..4 {
        world.set_filter(Box::new(
            |letter: &Letter| if is_commit(letter) { Verdict::Drop } else { Verdict::Pass },
        ));
        let first = world.call(0, "r0", set(&format!("a{round}")), Level::Log);
        world.run_for(3 * MILLISECOND);
        for node in 1..count {
            world.bounce(node, CrashKind::Power);
        }
        world.run_for(20 * MILLISECOND);
        let second = world.call(1, "r0", set(&format!("b{round}")), Level::Log);
        world.run_for(20 * MILLISECOND);
        world.clear_filter();
        world.wait(first, 3 * SECOND);
        world.wait(second, 3 * SECOND);
        world.check().map_err(broken)?;
    }
    end(world)
}

/// T-E18. Numbers of one session on different keys and nodes, each sent twice to different nodes.
pub(super) fn wandering_session(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    let session = seed + 77;
    let call = world.call_command(0, OwnedCommand::open_session(session), None, Level::Log);
    let outcome = world.wait(call, SECOND);
    ensure!(is_answer(outcome.as_ref()), "no session: {outcome:?}");
    for number in 1..=8u64 {
        let key: &[u8] = if number % 2 == 0 { b"n0" } else { b"n1" };
        let command = OwnedCommand::of(key, &Action::Increment(1)).in_session(session, number);
        let calls: Vec<_> = [number as usize % count, (number as usize + 1) % count]
            .map(|node| world.call_command(node, command.clone(), None, Level::Log))
            .into();
        let expected = number.div_ceil(2) as i64;
        for call in calls {
            let outcome = world.wait(call, 2 * SECOND);
            ensure!(
                outcome == Some(Outcome::Answer(Answer::Number(expected))),
                "number {number}: {outcome:?} instead of {expected}"
            );
        }
    }
    world.check().map_err(broken)?;
    end(world)
}

/// T-E22. A write is answered; the news of it reach nobody for a while; reads elsewhere must see it.
pub(super) fn read_and_late_news(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    world.set_filter(Box::new(|letter: &Letter| {
        if is_commit(letter) { Verdict::Delay(50 * MILLISECOND) } else { Verdict::Pass }
    }));
    for number in 0..6 {
        let text = format!("v{number}");
        ensure!(world.set(0, "r0", &text), "no write");
        let node = 1 + number % (count - 1);
        let read = world.get(node, "r0", Level::Quorum);
        world.check().map_err(broken)?;
        ensure!(read == value(&text), "node {node} read {read:?} after {text}");
    }
    end(world)
}

/// T-E23. A command leader forgets an instance that one peer saw; a later one of the same row must still cover it.
pub(super) fn forgotten_instance(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    world.set_filter(Box::new(|letter: &Letter| {
        if letter.from == 0 && letter.to != 1 || letter.to == 0 { Verdict::Drop } else { Verdict::Pass }
    }));
    world.stall_disk(0, SECOND);
    let _ = world.call(0, "r0", set("forgotten"), Level::Log);
    world.run_for(5 * MILLISECOND);
    world.bounce(0, CrashKind::Power);
    world.clear_filter();
    ensure!(world.set_soon(0, "r0", "after"), "no write after the restart: {}", world.describe());
    let read = world.get(1, "r0", Level::Log);
    world.check().map_err(broken)?;
    ensure!(read == value("after"), "read {read:?}");
    end(world)
}

/// T-E2, exactly. The log takes the vote and then stands still: the record of the fast commit is lost with the power. The two that go on
/// are not the two that voted.
pub(super) fn commit_record_lost(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    settings.tuning.slow_after = Duration::from_secs(2);
    let mut world = steady(settings)?;
    world.set_filter(Box::new(|letter: &Letter| match letter.epaxos() {
        Some(Message::PreAcceptOk(_)) => Verdict::Delay(20 * MILLISECOND),
        Some(Message::PreAccept(_)) => Verdict::Pass,
        _ if letter.from == 0 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let call = world.call(0, "r0", set("answered"), Level::Log);
    world.run_for(10 * MILLISECOND);
    world.stall_disk(0, SECOND);
    world.run_for(30 * MILLISECOND);
    let answered = is_answer(world.outcome(call));
    // The one that voted is gone for a while.
    let voter = 1;
    world.isolate(voter);
    world.clear_filter();
    world.bounce(0, CrashKind::Power);
    let read = world.get(2, "r0", Level::Log);
    world.check().map_err(broken)?;
    ensure!(!answered || read == value("answered"), "read {read:?} after the answer: {}", world.describe());
    world.rejoin(voter);
    end(world)
}

/// A majority of seven votes, which is no fast quorum; nobody hears of a second phase.
pub(super) fn majority_is_no_fast_quorum(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    let majority = count / 2 + 1;
    world.set_filter(Box::new(move |letter: &Letter| {
        if letter.from == 0 && letter.to >= majority { Verdict::Drop } else { Verdict::Pass }
    }));
    let call = world.call(0, "r0", set("early"), Level::Log);
    world.run_for(5 * MILLISECOND);
    ensure!(world.outcome(call).is_none(), "{majority} of {count} made a fast commit");
    for node in 0..majority - 1 {
        world.crash(node, CrashKind::Power);
    }
    world.clear_filter();
    ensure!(world.set_soon(count - 1, "r1", "after"), "nobody goes on: {}", world.describe());
    world.check().map_err(broken)?;
    end(world)
}

/// Two writes of node 0, one of which is answered and told late; then node 1 writes both keys in one batch.
fn late_news_of_one(seed: u64, count: usize, first_is_late: bool) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    settings.replica.batch.linger = Duration::from_millis(2);
    let mut world = steady(settings)?;
    for (number, key) in ["l0", "l1"].into_iter().enumerate() {
        let is_late = (number == 0) == first_is_late;
        world.set_filter(Box::new(move |letter: &Letter| {
            if is_late && letter.from == 0 && is_commit(letter) {
                Verdict::Delay(60 * MILLISECOND)
            } else {
                Verdict::Pass
            }
        }));
        let call = world.call(0, key, Action::Append((*b"0;").into()), Level::Log);
        let outcome = world.wait(call, SECOND);
        ensure!(is_answer(outcome.as_ref()), "no write: {outcome:?}");
    }
    world.clear_filter();
    world.run_for(5 * MILLISECOND);
    let calls = ["l0", "l1"].map(|key| world.call(1, key, Action::Append((*b"1;").into()), Level::Log));
    for call in calls {
        let outcome = world.wait(call, SECOND);
        world.check().map_err(broken)?;
        ensure!(is_answer(outcome.as_ref()), "no second write: {outcome:?}");
    }
    world.run_for(200 * MILLISECOND);
    world.check().map_err(broken)?;
    end(world)
}

/// T-E9. The batch depends on the later of the two, which it shares its second key with.
pub(super) fn later_of_two_keys(seed: u64, count: usize) -> Result<(), String> {
    late_news_of_one(seed, count, false)
}

/// T-E10. The batch depends on the later of the two and waits for the earlier as well.
pub(super) fn earlier_of_two_keys(seed: u64, count: usize) -> Result<(), String> {
    late_news_of_one(seed, count, true)
}

/// T-E5. Two command leaders die, each with one voter; whoever recovers either finds the other in the way.
pub(super) fn in_each_others_way(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    let last = count - 1;
    world.set_filter(Box::new(move |letter: &Letter| match (letter.from, letter.to) {
        (0, to) if to != 1 => Verdict::Drop,
        (from, to) if from == last && to != last - 1 => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let _ = world.call(0, "r0", set("one"), Level::Log);
    let _ = world.call(last, "r0", set("other"), Level::Log);
    world.run_for(5 * MILLISECOND);
    world.crash(0, CrashKind::Power);
    world.crash(last, CrashKind::Power);
    world.clear_filter();
    let call = world.call(2, "r0", set("after"), Level::Log);
    let done = world.run_until(8 * SECOND, |world| world.outcome(call).is_some());
    world.check().map_err(broken)?;
    ensure!(done, "two recoveries wait for each other: {}", world.describe());
    end(world)
}

/// T-E17. The voters of a batch know different things; who recovers it knows least.
pub(super) fn poorer_copy_recovers(seed: u64, count: usize) -> Result<(), String> {
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    let last = count - 1;
    // The last node's batch is known to the node before it only.
    world.set_filter(Box::new(move |letter: &Letter| match (letter.from, letter.to) {
        (from, to) if from == last && to != last - 1 => Verdict::Drop,
        (0, _) if !matches!(letter.epaxos(), Some(Message::PreAccept(_) | Message::Seen(_))) => Verdict::Drop,
        (_, 0) => Verdict::Drop,
        _ => Verdict::Pass,
    }));
    let _ = world.call(last, "l0", Action::Append((*b"a;").into()), Level::Log);
    world.run_for(3 * MILLISECOND);
    let _ = world.call(0, "l0", Action::Append((*b"b;").into()), Level::Log);
    world.run_for(5 * MILLISECOND);
    world.crash(0, CrashKind::Power);
    world.clear_filter();
    let call = world.call(1, "l0", Action::Append((*b"c;").into()), Level::Log);
    let done = world.run_until(8 * SECOND, |world| world.outcome(call).is_some());
    world.check().map_err(broken)?;
    ensure!(done, "blocked: {}", world.describe());
    end(world)
}

/// T-E19. One node lags behind while the others execute and forget; then all write the same key.
pub(super) fn forgotten_by_others(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    let last = count - 1;
    world.isolate(last);
    for number in 0..60 {
        let call = world.call(number % last, "n0", Action::Increment(1), Level::Log);
        world.wait(call, SECOND);
    }
    world.run_for(SECOND);
    world.rejoin(last);
    let calls: Vec<_> =
        (0..count).map(|node| world.call(node, "n0", Action::Increment(1), Level::Log)).collect();
    for call in calls {
        let outcome = world.wait(call, 5 * SECOND);
        ensure!(is_answer(outcome.as_ref()), "{outcome:?}: {}", world.describe());
    }
    world.check().map_err(broken)?;
    end(world)
}

/// T-E8. One voter knows the batch of a dead command leader; somebody who does not know it accepts a no-op for it, alone, and votes for a batch
/// that may conflict: that vote must depend on it. Then a higher ballot brings the batch back.
///
/// Whoever commits the batch in the end has the votes of a quorum that knew it, and the vote of each of these depends on it too: what the
/// group executes does not show whether this vote does. With three replicas, whoever accepts a no-op alone knows the batch.
pub(super) fn noop_over_unknown_batch(seed: u64, count: usize) -> Result<(), String> {
    let (leader, voter, recoverer) = (0, 1, 2);
    let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
    settings.network.streams = false;
    let mut world = steady(settings)?;
    let accepted: Rc<Cell<Option<Position>>> = Rc::default();
    let depends: Rc<Cell<Option<bool>>> = Rc::default();
    let (is_accepted, vote) = (Rc::clone(&accepted), Rc::clone(&depends));
    world.set_filter(Box::new(move |letter: &Letter| match letter.epaxos() {
        Some(Message::PreAccept(_)) if (letter.from, letter.to) == (leader, voter) => Verdict::Pass,
        // That there is a batch of this number, and no more.
        Some(Message::Progress(_)) if letter.from == voter => Verdict::Pass,
        _ if [leader, voter].contains(&letter.from) || [leader, voter].contains(&letter.to) => Verdict::Drop,
        Some(Message::Recover(_)) if letter.from != recoverer => Verdict::Drop,
        Some(Message::Accept(message)) if message.noop => {
            is_accepted.set(Some(message.position));
            Verdict::Drop
        }
        Some(Message::PreAcceptOk(message)) if letter.from == recoverer => {
            vote.set(is_accepted.get().map(|position| message.deps.contains(position)));
            Verdict::Pass
        }
        _ => Verdict::Pass,
    }));
    let _ = world.call(leader, "l0", Action::Append((*b"a;").into()), Level::Log);
    world.run_for(5 * MILLISECOND);
    world.crash(leader, CrashKind::Power);
    let done = world.run_until(3 * SECOND, |_| accepted.get().is_some());
    ensure!(done, "nobody recovers: {}", world.describe());
    world.run_for(5 * MILLISECOND);
    let call = world.call(recoverer + 1, "l0", Action::Append((*b"b;").into()), Level::Log);
    world.run_for(30 * MILLISECOND);
    world.check().map_err(broken)?;
    ensure!(depends.get() == Some(true), "the vote beside the no-op depends on it: {:?}", depends.get());
    // Of those that take part from now on nobody has accepted the no-op.
    world.set_filter(Box::new(move |letter: &Letter| {
        if [letter.from, letter.to].contains(&recoverer) { Verdict::Drop } else { Verdict::Pass }
    }));
    let done = world.run_until(3 * SECOND, |world| is_answer(world.outcome(call)));
    world.check().map_err(broken)?;
    ensure!(done, "blocked: {}", world.describe());
    world.clear_filter();
    let read = world.get(voter, "l0", Level::Log);
    world.check().map_err(broken)?;
    ensure!(read == value("a;b;"), "the batch did not come back: {read:?}");
    end(world)
}

/// T-E24. The second of two writes is asked for when the first is acknowledged, on another node, which hears of the first later. A read of both
/// keys there, which waits for something else meanwhile, must not show the second without the first.
pub(super) fn two_keys_beside_two_writes(seed: u64, count: usize) -> Result<(), String> {
    // The first key is named twice, so that a count says which of them were there.
    let keys = || ["x", "x", "y"].map(|key| Bytes::from(key.as_bytes())).to_vec();
    for (read, level) in [ManyAction::Read(keys()), ManyAction::Exists(keys())]
        .into_iter()
        .flat_map(|read| [Level::Quorum, Level::Lease, Level::Log].map(|level| (read.clone(), level)))
    {
        let mut settings = Settings::calm_of(ProtocolKind::Epaxos, seed, count);
        settings.tuning.slow_after = Duration::from_millis(60);
        let mut world = steady(settings)?;
        world.set_filter(Box::new(|letter: &Letter| match (letter.from, letter.to, letter.epaxos()) {
            // What the first node commits reaches the second late,
            (0, 1, Some(Message::PreAccept(_))) => Verdict::Pass,
            (0, 1, _) => Verdict::Delay(40 * MILLISECOND),
            // and that an unrelated write is decided, which the read must wait for, a little late.
            (2, 1, Some(Message::Commit(_))) => Verdict::Delay(25 * MILLISECOND),
            _ => Verdict::Pass,
        }));
        ensure!(world.set(2, "z", "unrelated"), "no unrelated write: {}", world.describe());
        let both = world.call_many(1, read.clone(), level);
        world.run_for(2 * MILLISECOND);
        ensure!(world.set(0, "x", "first"), "no first write: {}", world.describe());
        ensure!(world.set(1, "y", "second"), "no second write: {}", world.describe());
        let outcome = world.wait(both, SECOND);
        world.check().map_err(broken)?;
        let Some(Outcome::Answer(answer)) = &outcome else {
            return Err(format!("{read:?} {level:?}: {outcome:?}: {}", world.describe()));
        };
        let count = match answer {
            Answer::Values(values) => values.iter().flatten().count() as i64,
            Answer::Number(count) => *count,
            _ => return Err(format!("{read:?} {level:?}: {answer:?}")),
        };
        ensure!(count != 1, "{read:?} {level:?}: only the second of two writes is seen");
        end(world)?;
    }
    Ok(())
}

/// T-E25. A command leader and those that voted for its batch are gone for a minute, in which the others decide and forget what interferes with it.
/// Then the voters are back, without the command leader, and just a quorum is up.
pub(super) fn votes_that_were_away(seed: u64, count: usize) -> Result<(), String> {
    let mut world = begin(seed, count)?;
    let quorum = count / 2 + 1;
    let absent = count - quorum;
    world.set_filter(Box::new(move |letter: &Letter| {
        let vote = matches!(letter.epaxos(), Some(Message::PreAcceptOk(_)));
        let is_lost = letter.from < absent && letter.to >= absent || vote && letter.to == 0;
        if is_lost { Verdict::Drop } else { Verdict::Pass }
    }));
    let _ = world.call(0, "r0", set("voted for"), Level::Log);
    world.run_for(10 * MILLISECOND);
    for node in 0..absent {
        world.crash(node, CrashKind::Power);
    }
    world.clear_filter();
    for round in 0..60 {
        let written = world.set_soon(absent + round % quorum, "r0", &format!("decided {round}"));
        ensure!(written, "a quorum is up: {}", world.describe());
        world.run_for(SECOND);
    }
    for node in quorum + 1..count {
        world.crash(node, CrashKind::Power);
    }
    for node in 1..absent {
        world.restart(node);
    }
    let written = (0..10).any(|_| world.set_soon(absent, "r0", "after"));
    world.check().map_err(broken)?;
    ensure!(written, "an instance stays open: {}", world.describe());
    end(world)
}
