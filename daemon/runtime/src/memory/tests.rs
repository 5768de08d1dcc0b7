use std::fs;

use panch_replica::familiarity::Claim;

use super::*;

fn newcomer(incarnation: u32) -> Newcomer {
    Newcomer {
        node: ReplicaId(2),
        core: 0,
        life: Life {
            incarnation: Incarnation(incarnation),
            directory: 7,
            name: u64::from(incarnation) << 40 | 5,
        },
        returning: false,
        is_authentic: true,
        asked: LogEnd::default(),
        claim: Claim {
            earlier: Incarnation(incarnation - 1),
            earlier_name: u64::from(incarnation - 1) << 40 | 5,
            ..Claim::default()
        },
        asked_told: LogEnd::default(),
        told: Claim::default(),
    }
}

/// As a core and the thread that writes do it together.
fn meet(memory: &PeerMemory, newcomer: &Newcomer) -> Judgement {
    memory.judge(newcomer).unwrap_or_else(|| {
        memory.write_down().unwrap();
        memory.judge(newcomer).expect("it is written down")
    })
}

fn open(dir: &Path) -> PeerMemory {
    PeerMemory::open(dir, Reminder::default()).unwrap()
}

#[test]
fn what_was_accepted_is_there_after_a_restart_and_what_was_heard_once_it_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    assert_eq!(meet(&memory, &newcomer(3)), Judgement::Familiar);
    assert_eq!(meet(&memory, &newcomer(3)), Judgement::Familiar);
    assert_eq!(memory.writes(), 1);
    let again = open(dir.path());
    assert_eq!(again.of(ReplicaId(2)), memory.of(ReplicaId(2)));
    assert!(!again.write_down().unwrap());
    for (core, end) in [(0, 0x1f), (2, u64::MAX), (0, 0x1e)] {
        again.hear(ReplicaId(2), Incarnation(3), core, end);
    }
    assert_eq!(again.writes(), 0, "hearing is no reason to wait for the disk");
    assert!(again.write_down().unwrap() && !again.write_down().unwrap());
    let last = open(dir.path());
    let known = last.of(ReplicaId(2));
    assert_eq!(known, again.of(ReplicaId(2)));
    assert_eq!((known.end(0).lsn, known.end(1).lsn, known.end(2).lsn), (Lsn(0x1f), Lsn(0), Lsn(u64::MAX)));
    assert_eq!(meet(&last, &newcomer(2)), Judgement::Doubtful);
    // It must show the log that was heard of.
    assert_eq!(meet(&last, &newcomer(4)), Judgement::Unproven);
}

#[test]
fn a_file_of_the_layout_before_is_understood_and_replaced_by_the_next_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE);
    let body = "format 1\nnode 1 incarnation 9 directory 0x0000000000000005\nnode 3 incarnation 3 directory 0x0000000000000007\n";
    fs::write(&file, with_checksum(body.into())).unwrap();
    let memory = open(dir.path());
    let unnamed = |incarnation, directory| Known {
        life: Life { incarnation: Incarnation(incarnation), directory, name: 0 },
        ends: Vec::new(),
    };
    assert_eq!((memory.of(ReplicaId(0)), memory.of(ReplicaId(2))), (unnamed(9, 5), unnamed(3, 7)));
    assert_eq!(meet(&memory, &newcomer(2)), Judgement::Doubtful);
    assert_eq!(meet(&memory, &newcomer(4)), Judgement::Familiar);
    let text = panch_wal::small_file::text_of(&fs::read(&file).unwrap()).unwrap();
    assert!(text.starts_with(FORMAT.as_bytes()));
    assert_eq!(open(dir.path()).of(ReplicaId(0)), unnamed(9, 5));
}

#[test]
fn what_others_remember_is_told_and_learned_as_a_whole() {
    let (told, memory) = (PeerMemory::empty(), PeerMemory::empty());
    meet(&told, &newcomer(3));
    told.hear(ReplicaId(2), Incarnation(3), 1, 77);
    meet(&told, &Newcomer { node: ReplicaId(0), ..newcomer(9) });
    memory.learn(&told.tell(), ReplicaId(0)).unwrap();
    assert_eq!(memory.of(ReplicaId(0)), Known::default());
    assert_eq!(memory.of(ReplicaId(2)), told.of(ReplicaId(2)));
    for foreign in
        ["3", "3:1:2:3", "0:1:2:3:-", "10:1:2:3:-", "3:x:2:3:-", "3:1:y:3:-", "3:1:2:3:", "3:1:2:3:-:4"]
    {
        assert!(memory.learn(foreign, ReplicaId(0)).is_err(), "{foreign}");
    }
}

#[test]
fn the_longest_that_can_be_told_fits_an_answer() {
    let life = Life { incarnation: Incarnation(u32::MAX), directory: u64::MAX, name: u64::MAX };
    let end = LogEnd { lsn: Lsn(u64::MAX), since: Incarnation(u32::MAX) };
    let known = Known { life, ends: vec![end; CORES_MAX] };
    let mut all: [Known; REPLICAS_MAX] = Default::default();
    // A node does not remember itself.
    all[1..].fill(known);
    let all = Familiarity::new(all);
    let told = PeerMemory::with(None, all.clone(), Reminder::default()).tell();
    assert!(told.len() <= panch_wire::peer::HelloReply::TEXT_SIZE_MAX, "{}", told.len());
    let mut longest = Familiarity::new(std::array::from_fn(|_| all.known()[1].clone()));
    for by in 0..REPLICAS_MAX as u8 {
        for node in 0..REPLICAS_MAX as u8 {
            longest.set_told(ReplicaId(by), ReplicaId(node), all.known()[1].clone());
        }
    }
    assert!(render(&longest, FORMAT).len() <= SIZE_MAX);
    assert_eq!(parse(&render(&longest, FORMAT)), Ok(longest));
    assert_eq!(parse(&render(&all, FORMAT)), Ok(all));
}

const WORD: Word =
    Word { node: 2, core: 1, incarnation: 4, directory: 7, name: 4 << 40 | 5, since: 3, log_end: 78 };

#[test]
fn what_was_told_is_there_after_a_restart_apart_from_what_was_met() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    memory.set_node_count(3);
    meet(&memory, &newcomer(3));
    let writes = memory.writes();
    memory.hear_word(ReplicaId(1), &WORD);
    assert!(memory.is_outdated(ReplicaId(2)) && memory.outdatings() == 1, "the third life is over");
    assert_eq!(memory.writes(), writes, "hearing is no reason to wait for the disk");
    assert!(memory.write_down().unwrap());
    memory.hear_word(ReplicaId(1), &WORD);
    assert!(!memory.write_down().unwrap(), "that is nothing new");
    let again = open(dir.path());
    again.set_node_count(3);
    assert_eq!(again.of(ReplicaId(2)), memory.of(ReplicaId(2)));
    let (life, end) = again.told_of(ReplicaId(2), 1);
    assert_eq!((life.incarnation, life.directory, life.name), (Incarnation(4), 7, WORD.name));
    assert_eq!(end, LogEnd { lsn: Lsn(78), since: Incarnation(3) });
    assert_eq!(meet(&again, &newcomer(3)), Judgement::Contested);
    assert_eq!(again.words(ReplicaId(0), ReplicaId(1)).len(), 1);
    assert_eq!(again.words(ReplicaId(0), ReplicaId(1))[0].incarnation, 3, "only what it has met itself");
}

#[test]
fn a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    meet(&memory, &newcomer(3));
    memory.hear(ReplicaId(2), Incarnation(3), 1, 77);
    memory.set_node_count(3);
    memory.hear_word(ReplicaId(1), &WORD);
    memory.write_down().unwrap();
    let file = dir.path().join(FILE);
    // As an earlier version has it: once.
    let text = render(&hold(&memory.now).familiarity, FORMAT);
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(PeerMemory::open(dir.path(), Reminder::default()).is_err(), "flip at {at}");
    }
}

#[test]
fn who_says_hello_counts_once_it_is_written_down_and_nobody_waits_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    assert_eq!(meet(&memory, &newcomer(3)), Judgement::Familiar);
    // Nothing can be written where there is no folder.
    let memory = PeerMemory::with(
        Some(SmallFile::open(dir.path().join("lost/peers"), SIZE_MAX).unwrap().0),
        hold(&memory.now).familiarity.after_restart(),
        Reminder::default(),
    );
    for core in [0, 1] {
        let newcomer = Newcomer { core, ..newcomer(4) };
        for _ in 0..3 {
            assert_eq!(memory.judge(&newcomer), None);
            assert!(memory.write_down().is_err());
            assert_eq!(memory.of(ReplicaId(2)).life.incarnation, Incarnation(3));
        }
    }
    assert_eq!(hold(&memory.now).waiting.len(), 2, "each core of it once");
    // What is no news needs no disk.
    assert_eq!(memory.judge(&newcomer(3)), Some(Judgement::Familiar));
    fs::create_dir(dir.path().join("lost")).unwrap();
    assert!(memory.write_down().unwrap());
    assert_eq!(memory.judge(&newcomer(4)), Some(Judgement::Familiar));
    assert_eq!(memory.judge(&Newcomer { core: 1, ..newcomer(4) }), Some(Judgement::Familiar));
    assert!(hold(&memory.now).waiting.is_empty() && !memory.write_down().unwrap());
    let again = open(&dir.path().join("lost"));
    assert_eq!(again.of(ReplicaId(2)).life, newcomer(4).life);
}
