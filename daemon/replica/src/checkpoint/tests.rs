use super::*;

const EVERY: u64 = 4;

fn at(row: u8, number: u64) -> Position {
    Position { row, number }
}

fn set(ids: &[u8]) -> ReplicaSet {
    let mut set = ReplicaSet::default();
    ids.iter().for_each(|id| {
        set.insert(ReplicaId(*id));
    });
    set
}

/// Replica 0 of a log.
fn log(replica_count: usize) -> Checkpoints {
    Checkpoints::new(ReplicaId(0), replica_count, Order::Log, EVERY, &Frontier::default())
}

/// Executes slots up to `to`; the digest after slot n is n.
fn execute(checkpoints: &mut Checkpoints, slots: std::ops::RangeInclusive<u64>) {
    slots.for_each(|number| checkpoints.executed_slot(number, || number));
}

fn report(checkpoints: &mut Checkpoints, from: u8, number: u64, digest: u64) {
    let checkpoint = Checkpoint { at: at(0, number), digest };
    checkpoints.reported(ReplicaId(from), false, (0, 0), std::iter::once(checkpoint));
}

fn findings(checkpoints: &mut Checkpoints) -> Vec<Finding> {
    std::iter::from_fn(|| checkpoints.next_finding()).collect()
}

fn votes(digests: &[Option<u64>]) -> Votes {
    let mut votes = Votes::default();
    for (id, digest) in (0..).map(ReplicaId).zip(digests) {
        digest.iter().for_each(|digest| votes.set(id, *digest));
    }
    votes
}

#[test]
fn a_majority_of_equal_digests_decides_and_without_one_nobody_is_right() {
    let table: &[(&[Option<u64>], Verdict)] = &[
        (&[Some(1), None, None], Verdict::Equal { decided: false }),
        (&[Some(1), Some(1), None], Verdict::Equal { decided: true }),
        (&[Some(1), Some(2), None], Verdict::Open),
        (&[Some(1), Some(2), Some(2)], Verdict::Minority { digest: 2 }),
        (&[Some(1), Some(2), Some(3)], Verdict::Split),
        (&[Some(1), Some(2)], Verdict::Split),
        (&[Some(1), Some(1), Some(2), Some(2)], Verdict::Split),
        (&[Some(1), Some(1), Some(2), None], Verdict::Open),
        (&[Some(1), Some(1), Some(1), Some(2)], Verdict::Minority { digest: 1 }),
        (&[Some(1), Some(1), Some(2), Some(2), Some(1)], Verdict::Minority { digest: 1 }),
        (&[Some(1), Some(1), Some(2), Some(2), None], Verdict::Open),
        (&[Some(1), Some(1), Some(2), Some(2), Some(3)], Verdict::Split),
    ];
    for (digests, verdict) in table {
        assert_eq!(votes(digests).judge(digests.len(), set(&[])), *verdict, "{digests:?}");
    }
}

#[test]
fn who_was_outvoted_has_no_vote() {
    let without = set(&[2]);
    let judge = |digests: &[Option<u64>]| votes(digests).judge(3, without);
    // The third is down: nobody is left to disagree with.
    assert_eq!(judge(&[Some(1), None, Some(2)]), Verdict::Equal { decided: false });
    assert_eq!(judge(&[Some(1), Some(1), Some(2)]), Verdict::Equal { decided: true });
    // It cannot decide between the others either.
    assert_eq!(judge(&[Some(1), Some(2), Some(2)]), Verdict::Split);
}

#[test]
fn a_minority_finds_itself_outvoted_and_a_majority_goes_on() {
    let mut minority = log(3);
    execute(&mut minority, 1..=4);
    report(&mut minority, 1, 4, 99);
    let doubtful = Disagreement { at: Place::Checkpoint(at(0, 4)), own: 4, other: 99, others: set(&[1]) };
    assert_eq!(findings(&mut minority), [Finding::Doubtful(doubtful)]);
    report(&mut minority, 2, 4, 99);
    assert_eq!(
        findings(&mut minority),
        [Finding::Outvoted(Disagreement { others: set(&[1, 2]), ..doubtful })]
    );

    let mut majority = log(3);
    execute(&mut majority, 1..=4);
    report(&mut majority, 1, 4, 99);
    report(&mut majority, 2, 4, 4);
    assert_eq!(findings(&mut majority).last(), Some(&Finding::Confirmed(Place::Checkpoint(at(0, 4)))));
    assert!(majority.is_wrong(ReplicaId(1)) && !majority.is_wrong(ReplicaId(2)));
    // Then the third dies, and the wrong one goes on reporting: it stops nobody.
    execute(&mut majority, 5..=8);
    report(&mut majority, 1, 8, 99);
    assert_eq!(findings(&mut majority), []);
    // It was replaced, and agrees.
    execute(&mut majority, 9..=12);
    report(&mut majority, 1, 12, 12);
    report(&mut majority, 2, 12, 12);
    assert!(!majority.is_wrong(ReplicaId(1)));
}

#[test]
fn checkpoints_are_compared_whoever_passes_them_first() {
    let mut ahead = log(3);
    execute(&mut ahead, 1..=40);
    for number in [4, 20, 40] {
        report(&mut ahead, 1, number, number);
        report(&mut ahead, 2, number, number);
    }
    assert_eq!(ahead.counts(), DigestCounts { compared: 3, ..DigestCounts::default() });

    let mut behind = log(3);
    for number in [4, 20, 40] {
        report(&mut behind, 1, number, number);
        report(&mut behind, 2, number, number);
    }
    execute(&mut behind, 1..=40);
    assert_eq!(behind.counts(), DigestCounts { compared: 3, ..DigestCounts::default() });
}

#[test]
fn what_a_peer_reports_from_far_away_crowds_out_nothing() {
    let mut checkpoints = log(3);
    execute(&mut checkpoints, 1..=40);
    report(&mut checkpoints, 1, 40, 40);
    for round in 1..1000u64 {
        report(&mut checkpoints, 2, 40 + round * RING as u64 * EVERY, 7);
    }
    report(&mut checkpoints, 2, u64::MAX - u64::MAX % EVERY, 7);
    report(&mut checkpoints, 2, 0, 7);
    report(&mut checkpoints, 2, 41, 7);
    assert_eq!(findings(&mut checkpoints), [Finding::Confirmed(Place::Checkpoint(at(0, 40)))]);
    report(&mut checkpoints, 2, 40, 40);
    assert_eq!(checkpoints.counts().compared, 1);
    let foreign = Checkpoint { at: at(200, EVERY), digest: 1 };
    checkpoints.reported(ReplicaId(1), false, (0, 0), std::iter::once(foreign));
    checkpoints.reported(ReplicaId(8), true, (0, 0), std::iter::once(foreign));
    assert_eq!(checkpoints.wrong(), set(&[]));
}

#[test]
fn checkpoints_left_behind_are_counted() {
    let mut checkpoints = log(3);
    execute(&mut checkpoints, 1..=EVERY * (RING as u64 + 10));
    assert_eq!(checkpoints.counts().missed, 10);
}

#[test]
fn states_of_one_frontier_are_compared_whole() {
    let mut checkpoints = log(3);
    checkpoints.reported(ReplicaId(1), false, (7, 70), std::iter::empty());
    checkpoints.reported(ReplicaId(2), false, (8, 81), std::iter::empty());
    checkpoints.compare_whole(8, 80);
    let found = Disagreement { at: Place::Frontier(8), own: 80, other: 81, others: set(&[2]) };
    assert_eq!(findings(&mut checkpoints), [Finding::Doubtful(found)]);
    checkpoints.reported(ReplicaId(1), false, (8, 80), std::iter::empty());
    checkpoints.compare_whole(8, 80);
    assert_eq!(findings(&mut checkpoints), [Finding::Confirmed(Place::Frontier(8))]);
    assert!(checkpoints.is_wrong(ReplicaId(2)));
}

/// Executes instances of a graph in this order; the digest of each checkpoint that is passed.
fn graph(begin: &Frontier, order: &[(u8, u64)], changed: impl Fn(u8, u64) -> u64) -> Vec<Checkpoint> {
    let mut executed = begin.clone();
    let mut checkpoints = Checkpoints::new(ReplicaId(0), 3, Order::Graph, EVERY, begin);
    for (row, number) in order {
        let at = at(*row, *number);
        assert!(executed.insert(at));
        let contribution = contribution(at, 5, 6, changed(*row, *number));
        checkpoints.executed_instance(at, contribution, &executed);
    }
    let mut passed = Vec::new();
    while let Some(checkpoint) = checkpoints.next_unsent() {
        passed.push(checkpoint);
    }
    passed.sort_by_key(|checkpoint| checkpoint.at);
    passed
}

#[test]
fn a_graph_has_the_same_digests_however_its_instances_are_interleaved() {
    let all: Vec<(u8, u64)> = (1..=8).flat_map(|number| [(0, number), (2, number)]).collect();
    let mut other: Vec<(u8, u64)> = all.iter().rev().copied().collect();
    let changed = |row, number| u64::from(row) * 100 + number;
    let digests = graph(&Frontier::default(), &all, changed);
    let places: Vec<Position> = digests.iter().map(|checkpoint| checkpoint.at).collect();
    assert_eq!(places, [at(0, 4), at(0, 8), at(2, 4), at(2, 8)]);
    assert_eq!(digests, graph(&Frontier::default(), &other, changed));
    other.swap(3, 9);
    assert_eq!(digests, graph(&Frontier::default(), &other, changed));
    // One of them changed something else.
    let differs = graph(&Frontier::default(), &all, |row, number| {
        changed(row, number) + u64::from((row, number) == (2, 6))
    });
    assert_eq!(digests[..3], differs[..3]);
    assert_ne!(digests[3], differs[3]);
}

#[test]
fn a_checkpoint_of_a_graph_that_a_snapshot_has_cut_is_not_compared() {
    let mut covered = Frontier::default();
    covered.extend_to(0, 5);
    covered.insert(at(0, 7));
    let order = [(0, 6), (0, 8), (0, 9), (0, 10), (0, 11), (0, 12)];
    let places: Vec<Position> =
        graph(&covered, &order, |_, _| 1).iter().map(|checkpoint| checkpoint.at).collect();
    assert_eq!(places, [at(0, 12)]);
    // One that ends where the snapshot does is complete, and the next one is the first to be compared.
    let places = graph(&Frontier::from(panch_wire::ids::Slot(8)), &order[2..], |_, _| 1);
    assert_eq!(places.len(), 1);
}

/// Under load whole states are hardly ever compared.
#[test]
fn in_a_graph_a_checkpoint_refutes_whom_a_majority_with_this_replica_disagrees_with() {
    let mut checkpoints = Checkpoints::new(ReplicaId(0), 3, Order::Graph, EVERY, &Frontier::default());
    let mut executed = Frontier::default();
    for number in 1..=EVERY {
        executed.insert(at(1, number));
        checkpoints.executed_instance(at(1, number), number, &executed);
    }
    let own = checkpoints.next_unsent().unwrap();
    let is_refuted = |checkpoints: &Checkpoints, at: Place, others: &[u8]| {
        checkpoints.is_refuted(Disagreement { at, own: 1, other: 2, others: set(others) })
    };
    let place = Place::Checkpoint(own.at);
    assert!(!is_refuted(&checkpoints, place, &[2]) && !is_refuted(&checkpoints, place, &[]));
    for (from, digest) in [(2, own.digest + 1), (1, own.digest)] {
        let checkpoint = Checkpoint { at: own.at, digest };
        checkpoints.reported(ReplicaId(from), false, (0, 0), std::iter::once(checkpoint));
    }
    assert!(is_refuted(&checkpoints, place, &[2]) && !is_refuted(&checkpoints, place, &[1, 2]));
    assert!(!is_refuted(&checkpoints, place, &[]));
    assert!(is_refuted(&checkpoints, Place::Decision(at(1, 1)), &[2]), "a part of it");
    assert!(is_refuted(&checkpoints, Place::Frontier(7), &[2]), "it shows why they differ");
    // In another row, and in what follows, this replica may be wrong as well.
    assert!(!is_refuted(&checkpoints, Place::Checkpoint(at(0, EVERY)), &[2]));
    assert!(!is_refuted(&checkpoints, Place::Decision(at(2, 1)), &[2]));
    assert!(!is_refuted(&checkpoints, Place::Decision(at(1, EVERY + 1)), &[2]));
    // In its next life it may be right.
    checkpoints.forget_reports_of(ReplicaId(2));
    assert!(!is_refuted(&checkpoints, place, &[2]) && !is_refuted(&checkpoints, Place::Frontier(7), &[2]));
}
