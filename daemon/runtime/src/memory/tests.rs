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
    }
}

#[test]
fn what_was_accepted_is_there_after_a_restart_and_what_was_heard_once_it_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let memory = PeerMemory::open(dir.path()).unwrap();
    assert_eq!(memory.judge(&newcomer(3)).unwrap(), Judgement::Familiar);
    assert_eq!(memory.judge(&newcomer(3)).unwrap(), Judgement::Familiar);
    assert_eq!(memory.writes(), 1);
    let again = PeerMemory::open(dir.path()).unwrap();
    assert_eq!(again.of(ReplicaId(2)), memory.of(ReplicaId(2)));
    assert!(!again.write_down().unwrap());
    for (core, end) in [(0, 0x1f), (2, u64::MAX), (0, 0x1e)] {
        again.hear(ReplicaId(2), Incarnation(3), core, end);
    }
    assert_eq!(again.writes(), 0, "hearing is no reason to wait for the disk");
    assert!(again.write_down().unwrap() && !again.write_down().unwrap());
    let last = PeerMemory::open(dir.path()).unwrap();
    let known = last.of(ReplicaId(2));
    assert_eq!(known, again.of(ReplicaId(2)));
    assert_eq!((known.end(0).lsn, known.end(1).lsn, known.end(2).lsn), (Lsn(0x1f), Lsn(0), Lsn(u64::MAX)));
    assert_eq!(last.judge(&newcomer(2)).unwrap(), Judgement::Doubtful);
    // It must show the log that was heard of.
    assert_eq!(last.judge(&newcomer(4)).unwrap(), Judgement::Unproven);
}

#[test]
fn a_file_of_the_layout_before_is_understood_and_replaced_by_the_next_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE);
    let body = "format 1\nnode 1 incarnation 9 directory 0x0000000000000005\nnode 3 incarnation 3 directory 0x0000000000000007\n";
    fs::write(&file, with_checksum(body.into())).unwrap();
    let memory = PeerMemory::open(dir.path()).unwrap();
    let unnamed = |incarnation, directory| Known {
        life: Life { incarnation: Incarnation(incarnation), directory, name: 0 },
        ends: Vec::new(),
    };
    assert_eq!((memory.of(ReplicaId(0)), memory.of(ReplicaId(2))), (unnamed(9, 5), unnamed(3, 7)));
    assert_eq!(memory.judge(&newcomer(2)).unwrap(), Judgement::Doubtful);
    assert_eq!(memory.judge(&newcomer(4)).unwrap(), Judgement::Familiar);
    assert!(fs::read_to_string(&file).unwrap().starts_with(FORMAT));
    assert_eq!(PeerMemory::open(dir.path()).unwrap().of(ReplicaId(0)), unnamed(9, 5));
}

#[test]
fn what_others_remember_is_told_and_learned_as_a_whole() {
    let (told, memory) = (PeerMemory::empty(), PeerMemory::empty());
    told.judge(&newcomer(3)).unwrap();
    told.hear(ReplicaId(2), Incarnation(3), 1, 77);
    told.judge(&Newcomer { node: ReplicaId(0), ..newcomer(9) }).unwrap();
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
    let told = PeerMemory::with(None, all.clone()).tell();
    assert!(told.len() <= panch_wire::peer::HelloReply::TEXT_SIZE_MAX, "{}", told.len());
    assert_eq!(parse(&render(&all)), Ok(all));
}

#[test]
fn a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let memory = PeerMemory::open(dir.path()).unwrap();
    memory.judge(&newcomer(3)).unwrap();
    memory.hear(ReplicaId(2), Incarnation(3), 1, 77);
    memory.write_down().unwrap();
    let file = dir.path().join(FILE);
    let text = fs::read_to_string(&file).unwrap();
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(PeerMemory::open(dir.path()).is_err(), "flip at {at}");
    }
}
