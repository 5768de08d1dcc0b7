use panch_consensus::protocol::ProtocolKind;
use panch_replica::founding::Founder;
use panch_wal::small_file::text_of;
use panch_wire::ids::ReplicaId;

use super::format::{FORMAT_IN_ONE_COPY, FORMAT_WITHOUT_FOUNDING, FORMAT_WITHOUT_INSTALLING};
use super::*;
use crate::storage::CoreDirectory;

fn wanted() -> Identity {
    Identity {
        cluster: 7,
        node: ReplicaId(1),
        cores: 2,
        protocols: vec![ProtocolKind::Multi, ProtocolKind::Multi, ProtocolKind::Multi, ProtocolKind::Epaxos],
        routing: "* 0-2; \"user:\" 3".to_owned(),
        incarnation: Incarnation(0),
        log: 0,
        rejoining: false,
        installing: false,
        returned_in: Incarnation(0),
        founders: Founders::default(),
        life: Life { is_unsynced: false, boot: 1, is_closed: false },
        founding: Founding::default(),
    }
}

fn open(dir: &Path, wanted: &Identity) -> Result<DataDir, IdentityFault> {
    DataDir::open(dir, wanted, Loss::None, false)
}

/// A node that runs.
fn run(dir: &Path, wanted: &Identity) -> DataDir {
    let mut data = open(dir, wanted).unwrap();
    if data.identity.incarnation == Incarnation(0) {
        data.begin(Incarnation(0), Founders::default()).unwrap();
    }
    enter(&data);
    data
}

/// The text of a small file.
fn text_in(path: &Path) -> String {
    String::from_utf8(text_of(&fs::read(path).unwrap()).unwrap()).unwrap()
}

/// All cores are through with their way back, and the thread that writes has seen it.
fn come_back(data: &DataDir) {
    for core in 0..data.identity.cores {
        data.write_down().unwrap();
        assert!(text_in(&data.path.join(FILE)).contains("state rejoining"), "after {core} cores");
        data.core_is_through();
    }
    data.write_down().unwrap();
    assert!(text_in(&data.path.join(FILE)).contains("state member"));
}

/// The life may be named to others.
fn name(data: &DataDir) {
    if !data.is_named() {
        data.write_down().unwrap();
    }
    assert!(data.is_named());
}

/// The cores have opened.
fn enter(data: &DataDir) {
    for core in 0..data.identity.cores {
        let start = Start { incarnation: data.identity.incarnation, key: data.key, log_end: Lsn(0) };
        starts::note(&data.path, core, start, |_| true).unwrap();
    }
    data.enter().unwrap();
}

#[test]
fn a_start_that_fails_before_it_can_write_has_not_been() {
    let dir = tempfile::tempdir().unwrap();
    let at = |boot| Identity { life: Life { is_unsynced: true, boot, is_closed: false }, ..wanted() };
    drop(open(dir.path(), &at(5)).unwrap().begin(Incarnation(0), Founders::default()));
    let first = run(dir.path(), &at(5));
    assert_eq!(first.identity.incarnation, Incarnation(1));
    name(&first);
    let text = |name: &str| fs::read(dir.path().join(name)).unwrap();
    first.close().unwrap();
    drop(first);
    let before = [FILE, "starts"].map(text);
    // Ports are taken, the memory does not suffice, and so on.
    for _ in 0..300 {
        let failed = open(dir.path(), &at(5)).unwrap();
        assert_eq!(failed.identity.incarnation, Incarnation(2));
        failed.close().unwrap();
    }
    assert_eq!([FILE, "starts"].map(text), before);
    let next = run(dir.path(), &at(6));
    assert!(!next.has_lost_votes && !next.identity.rejoining, "it was stopped in order");
    drop(next);
    // One that ran and met nobody has to be counted, and takes no place among those that others know.
    for _ in 0..300 {
        drop(run(dir.path(), &at(6)));
    }
    let last = run(dir.path(), &at(6));
    assert_eq!(last.identity.incarnation, Incarnation(303));
    assert_eq!(last.lives().previous(), Incarnation(0));
    name(&last);
    name(&last);
    assert_eq!(last.lives().previous(), Incarnation(1));
    assert_eq!(starts::open(dir.path(), None).unwrap().1, *last.lives());
}

#[test]
fn a_node_that_has_lost_a_small_file_says_so_and_may_come_back_with_what_it_has() {
    for name in ["peers", "starts", "core-1.starts"] {
        let dir = tempfile::tempdir().unwrap();
        // Not before it has run.
        drop(open(dir.path(), &wanted()).unwrap());
        drop(run(dir.path(), &wanted()));
        drop(run(dir.path(), &wanted()));
        let file = dir.path().join(name);
        fs::remove_file(&file).unwrap();
        let text = open(dir.path(), &wanted()).map(drop).unwrap_err().to_string();
        assert!(text.starts_with(&format!("{} is gone", file.display())), "{text}");
        assert!(text.contains("--rejoin") && !text.contains("empty"), "{text}");
        assert!(!file.exists());
        assert!(!DataDir::open(dir.path(), &wanted(), Loss::None, true).unwrap().identity.rejoining);
        let data = DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false).unwrap();
        assert!(data.identity.rejoining);
        enter(&data);
        drop(data);
        let data = open(dir.path(), &wanted()).unwrap();
        assert!(file.exists() && data.identity.rejoining && !data.lacks_peers, "until it is through");
        enter(&data);
        come_back(&data);
        drop(data);
        assert!(matches!(
            DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false),
            Err(IdentityFault::NotEmpty(_))
        ));
    }
}

/// Who has come back without its disk since the founding has another directory than it had then.
#[test]
fn a_node_that_has_lost_what_it_remembered_asks_the_others_however_often_it_starts_and_does_not_go_by_the_founding()
 {
    let dir = tempfile::tempdir().unwrap();
    let mut data = open(dir.path(), &wanted()).unwrap();
    data.begin(Incarnation(0), [Founder::With(7); panch_wire::ids::REPLICAS_MAX]).unwrap();
    enter(&data);
    assert!(!data.lacks_peers);
    drop(data);
    fs::remove_file(dir.path().join("peers")).unwrap();
    let mut told = DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false).unwrap();
    for _ in 0..2 {
        assert!(told.lacks_peers && told.identity.rejoining);
        assert_eq!(told.identity.founders, Founders::default());
        assert!(told.peers.tell().is_empty(), "nothing of the founding counts: {}", told.peers.tell());
        told.peers.learn("3:4:9:5:-", ReplicaId(1)).unwrap();
        // The process ends before it has said anything.
        drop(told);
        told = open(dir.path(), &wanted()).unwrap();
    }
    told.peers.learn("3:4:9:5:-", ReplicaId(1)).unwrap();
    told.go_on(Incarnation(1)).unwrap();
    assert_eq!(told.identity.incarnation, Incarnation(2));
    told.go_on(Incarnation(6)).unwrap();
    enter(&told);
    drop(told);
    let next = open(dir.path(), &wanted()).unwrap();
    assert!(!next.lacks_peers && next.identity.rejoining);
    assert_eq!((next.identity.incarnation, next.peers.of(ReplicaId(2)).life.directory), (Incarnation(8), 9));
    assert_eq!(next.identity.founders, Founders::default());
}

#[test]
fn a_lost_disk_has_no_incarnation_until_the_others_say_the_last_and_comes_back_without_being_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false).unwrap();
    assert_eq!((data.identity.incarnation, data.identity.rejoining), (Incarnation(0), true));
    drop(data);
    data = open(dir.path(), &wanted()).unwrap();
    assert_eq!((data.identity.incarnation, data.identity.rejoining), (Incarnation(0), true));
    data.begin(Incarnation(6), Founders::default()).unwrap();
    enter(&data);
    drop(data);
    let data = DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false).unwrap();
    assert_eq!((data.identity.incarnation, data.identity.rejoining), (Incarnation(8), true));
    enter(&data);
    come_back(&data);
    drop(data);
    assert!(matches!(
        DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false),
        Err(IdentityFault::NotEmpty(_))
    ));
    let data = open(dir.path(), &wanted()).unwrap();
    assert_eq!((data.identity.incarnation, data.identity.rejoining), (Incarnation(9), false));
}

#[test]
fn a_directory_whose_identity_is_gone_is_not_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(run(dir.path(), &wanted()));
    let file = dir.path().join(FILE);
    fs::remove_file(&file).unwrap();
    for _ in 0..2 {
        let text = open(dir.path(), &wanted()).map(drop).unwrap_err().to_string();
        assert!(text.starts_with(&format!("{} is gone", file.display())), "{text}");
        assert!(text.contains("empty it whole and start the node with --rejoin"), "{text}");
        assert!(!file.exists(), "it would be taken for the identity of what is there");
    }
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    assert!(DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false).unwrap().identity.rejoining);
}

#[test]
fn only_an_empty_directory_is_a_lost_one_and_only_a_log_in_memory_is_lost_in_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("core-0"), "").unwrap();
    assert!(matches!(
        DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false),
        Err(IdentityFault::NotEmpty(_))
    ));
    fs::remove_file(dir.path().join("core-0")).unwrap();
    // What a crash and a file system of its own leave is nothing.
    fs::write(dir.path().join("identity.new"), "format").unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    assert!(DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false).unwrap().identity.rejoining);

    let dir = tempfile::tempdir().unwrap();
    for (incarnation, rejoining) in [(1, false), (2, true), (3, true)] {
        let mut data = DataDir::open(dir.path(), &wanted(), Loss::OfMemory, false).unwrap();
        if incarnation == 1 {
            data.begin(Incarnation(0), Founders::default()).unwrap();
        }
        enter(&data);
        let identity = &data.identity;
        assert_eq!((identity.incarnation.0, identity.rejoining), (incarnation, rejoining));
    }
}

#[test]
fn every_start_is_a_new_incarnation_of_the_same_directory() {
    let dir = tempfile::tempdir().unwrap();
    // One that was told at once not to begin has not run.
    for _ in 0..2 {
        assert_eq!(open(dir.path(), &wanted()).unwrap().identity.incarnation, Incarnation(0));
    }
    let first = run(dir.path(), &wanted()).identity.clone();
    let second = open(dir.path(), &wanted()).unwrap().identity;
    assert_eq!((first.incarnation, second.incarnation), (Incarnation(1), Incarnation(2)));
    assert_eq!(first.log, second.log);
}

#[test]
fn a_directory_that_never_ran_may_turn_out_to_be_a_lost_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), &wanted()).unwrap());
    let mut data = DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false).unwrap();
    assert_eq!((data.identity.incarnation, data.identity.rejoining), (Incarnation(0), true));
    let last = data.begin(Incarnation(u32::MAX), Founders::default());
    assert!(matches!(last, Err(IdentityFault::Exhausted)));
}

#[test]
fn a_directory_is_held_by_one_process_part_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _held = open(dir.path(), &wanted()).unwrap();
    assert!(matches!(open(dir.path(), &wanted()), Err(IdentityFault::Locked(_))));
}

#[test]
fn a_directory_of_other_protocols_is_refused_and_the_text_says_which_group_and_what_to_do() {
    use ProtocolKind::{Epaxos, Fast, Multi};
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), &wanted()).unwrap());
    let open_with = |wanted: &Identity| open(dir.path(), wanted);
    let open = |protocols: [ProtocolKind; 4]| {
        open_with(&Identity { protocols: protocols.into(), ..wanted() }).map(drop)
    };
    let text = open([Multi, Fast, Fast, Epaxos]).unwrap_err().to_string();
    for part in
        ["protocol = \"multi\" for group 1 and 1 more,", "says \"fast\"", "restore protocol = \"multi\""]
    {
        assert!(text.contains(part), "{text}");
    }
    let text = open([Multi, Multi, Multi, Multi]).unwrap_err().to_string();
    assert!(text.contains("protocol = \"epaxos\" for group 3,"), "{text}");
    open([Multi, Multi, Multi, Epaxos]).unwrap();
}

#[test]
fn a_directory_whose_keys_live_elsewhere_is_refused_and_the_text_shows_where() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), &wanted()).unwrap());
    let other = Identity { routing: "* 0-3".to_owned(), ..wanted() };
    let text = open(dir.path(), &other).map(drop).unwrap_err().to_string();
    assert!(text.contains(r#"they were "* 0-2; "user:" 3" and the configuration says "* 0-3""#), "{text}");
}

#[test]
fn unsynced_votes_are_lost_with_the_power_or_the_disk_and_not_with_the_process() {
    let at = |boot, is_unsynced| Identity { life: Life { is_unsynced, boot, is_closed: false }, ..wanted() };
    let dir = tempfile::tempdir().unwrap();
    let open_at = |boot, is_unsynced, alone| {
        let mut data = DataDir::open(dir.path(), &at(boot, is_unsynced), Loss::None, alone).unwrap();
        if data.identity.incarnation == Incarnation(0) {
            data.begin(Incarnation(0), Founders::default()).unwrap();
        }
        enter(&data);
        data
    };
    drop(open_at(5, true, false));
    assert!(!open_at(5, true, false).identity.rejoining, "killed");
    open_at(5, true, false).close().unwrap();
    assert!(!open_at(6, true, false).identity.rejoining, "stopped in order");
    let open = open_at(6, true, false);
    open.leave_open();
    open.close().unwrap();
    drop(open);
    let alone = open_at(7, true, true);
    assert!(alone.has_lost_votes && !alone.identity.rejoining);
    drop(alone);
    // Synced by now, but not what the life before has written.
    assert!(!open_at(7, false, false).identity.rejoining);
    let lost = open_at(8, false, false);
    assert!(lost.has_lost_votes && lost.identity.rejoining);
    drop(lost);
    let lost = open_at(9, false, false);
    assert!(!lost.has_lost_votes && lost.identity.rejoining, "it goes on");
    come_back(&lost);
    lost.close().unwrap();
    drop(lost);
    assert!(!open_at(10, true, false).identity.rejoining);
    // The machine stays up, but a write of the log has failed.
    let failed = open_at(10, true, false);
    failed.mistrust();
    failed.write_doubt().unwrap();
    // What else is written then does not take it back.
    failed.write(&failed.identity).unwrap();
    drop(failed);
    let lost = open_at(10, true, false);
    assert!(lost.has_lost_votes && lost.identity.rejoining);
    come_back(&lost);
    lost.close().unwrap();
    drop(lost);
    // No vote counted that was not on stable storage.
    let failed = open_at(10, false, false);
    failed.mistrust();
    failed.write_doubt().unwrap();
    drop(failed);
    assert!(!open_at(10, false, false).identity.rejoining);
}

#[test]
fn what_the_nodes_were_at_the_founding_is_kept_and_the_layout_before_is_converted() {
    let dir = tempfile::tempdir().unwrap();
    let mut founders = Founders::default();
    (founders[0], founders[1], founders[8]) = (Founder::With(5), Founder::With(u64::MAX), Founder::Absent);
    let mut data = open(dir.path(), &wanted()).unwrap();
    data.begin(Incarnation(0), founders).unwrap();
    enter(&data);
    drop(data);
    let identity = open(dir.path(), &wanted()).unwrap().identity;
    assert_eq!(identity.founders, founders);
    for format in
        [FORMAT_WITHOUT_INSTALLING, FORMAT_IN_ONE_COPY, FORMAT_WITHOUT_FILES, FORMAT_WITHOUT_FOUNDING]
    {
        fs::write(dir.path().join(FILE), render(&identity, format)).unwrap();
        for name in ["peers", "starts"] {
            if format == FORMAT_WITHOUT_INSTALLING {
                // As it is.
            } else if format == FORMAT_IN_ONE_COPY {
                let text = text_in(&dir.path().join(name));
                fs::write(dir.path().join(name), text).unwrap();
            } else {
                fs::remove_file(dir.path().join(name)).unwrap();
            }
        }
        let converted = run(dir.path(), &wanted()).identity.clone();
        assert_eq!((converted.founders, converted.log), (identity.founders, identity.log));
        assert!(text_in(&dir.path().join(FILE)).starts_with("format 8\n"));
        for name in [FILE, "peers", "starts", "core-0.starts", "core-1.starts"] {
            let bytes = fs::read(dir.path().join(name)).unwrap();
            assert!(bytes.starts_with(b"copies 1 "), "{name} has room");
        }
    }
}

#[test]
fn what_the_cluster_began_with_is_kept_and_no_life_is_below_those_that_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let founding = Founding { name: u64::MAX - 1, above: Incarnation(6) };
    open(dir.path(), &wanted()).unwrap().set_founding(founding).unwrap();
    let mut data = open(dir.path(), &wanted()).unwrap();
    assert_eq!((data.identity.incarnation, data.identity.founding), (Incarnation(0), founding));
    data.begin(Incarnation(2), Founders::default()).unwrap();
    enter(&data);
    drop(data);
    let identity = open(dir.path(), &wanted()).unwrap().identity;
    assert_eq!((identity.incarnation, identity.founding), (Incarnation(8), founding));
    // Nor is that of any other node that comes back.
    let peers = open(dir.path(), &wanted()).unwrap().peers;
    assert_eq!(peers.last_incarnation(ReplicaId(2)), Incarnation(6));
    let other = tempfile::tempdir().unwrap();
    let mut back = DataDir::open(other.path(), &wanted(), Loss::OfDisk, false).unwrap();
    back.set_founding(founding).unwrap();
    assert_eq!(back.peers.last_incarnation(ReplicaId(2)), Incarnation(6));
}

#[test]
fn a_directory_of_the_layout_before_is_told_from_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), "cluster 0x0000000000000007\nnode 2\ncores 2\n").unwrap();
    assert!(matches!(open(dir.path(), &wanted()).map(drop), Err(IdentityFault::Earlier(_))));
}

#[test]
fn foreign_changed_and_damaged_directories_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), &wanted()).unwrap());
    let open = |wanted: Identity| DataDir::open(dir.path(), &wanted, Loss::None, false).map(drop);
    assert!(matches!(
        open(Identity { cluster: 8, ..wanted() }),
        Err(IdentityFault::Foreign { what: "cluster", .. })
    ));
    assert!(matches!(
        open(Identity { node: ReplicaId(0), ..wanted() }),
        Err(IdentityFault::Foreign { what: "node", .. })
    ));
    assert!(matches!(
        open(Identity { cores: 1, ..wanted() }),
        Err(IdentityFault::Layout { what: "cores", .. })
    ));
    assert!(matches!(
        open(Identity { protocols: vec![ProtocolKind::Multi; 5], ..wanted() }),
        Err(IdentityFault::Layout { what: "groups", .. })
    ));
    let file = dir.path().join(FILE);
    // As an earlier version has it: once.
    let text = text_in(&file);
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(open(wanted()).is_err(), "flip at {at}");
    }
}

#[test]
fn a_directory_without_a_small_file_does_not_vote_after_a_start_that_was_to_rejoin_and_failed() {
    let dir = tempfile::tempdir().unwrap();
    drop(run(dir.path(), &wanted()));
    let peers = dir.path().join("peers");
    let kept = fs::read(&peers).unwrap();
    fs::remove_file(&peers).unwrap();
    assert!(matches!(open(dir.path(), &wanted()).map(drop), Err(IdentityFault::Gone(_))));
    drop(DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false).unwrap());
    // It failed after the file was made anew.
    fs::write(&peers, kept).unwrap();
    assert!(open(dir.path(), &wanted()).unwrap().identity.rejoining);
}

/// Every directory with everything that a node may be told to do with it. What is refused changes nothing. The same for `--found` is in the tests of
/// whole nodes.
#[test]
fn what_a_directory_is_for_is_known_and_nothing_else_is_done_with_it() {
    use IdentityFault::{Beginning, BeginsWithData, HalfFilled, Locked, NotEmpty, Nothing, Rejoining};
    let state = Founding { name: 77, above: Incarnation(4) };
    let with_state = Identity { founding: state, ..wanted() };
    let begin = |mut data: DataDir| {
        data.begin(Incarnation(0), Founders::default()).unwrap();
        enter(&data);
    };
    let lost = |dir: &Path| DataDir::open(dir, &wanted(), Loss::OfDisk, false);
    let wait_with_state = |dir: &Path| {
        let mut data = open(dir, &with_state).unwrap();
        data.set_founding(state).unwrap();
        data
    };
    type Make<'a> = &'a dyn Fn(&Path);
    let empty: Make = &|_| ();
    let waits: Make = &|dir| drop(open(dir, &wanted()).unwrap());
    let waits_with_state: Make = &|dir| drop(wait_with_state(dir));
    // The power fails before anything else is written, and later.
    let to_be_filled: Make = &|dir| drop(open(dir, &with_state).unwrap());
    let to_be_filled_anew: Make = &|dir| {
        waits_with_state(dir);
        drop(open(dir, &with_state).unwrap());
    };
    let half_filled: Make = &|dir| {
        drop(open(dir, &with_state).unwrap());
        CoreDirectory::open(dir, 1).unwrap().await_log().unwrap();
    };
    let half_filled_by_an_earlier_version: Make = &|dir| {
        let data = open(dir, &wanted()).unwrap();
        fs::write(dir.join(FILE), render(&data.identity, FORMAT_WITHOUT_INSTALLING)).unwrap();
        CoreDirectory::open(dir, 1).unwrap().await_log().unwrap();
    };
    let waits_to_rejoin: Make = &|dir| drop(lost(dir).unwrap());
    let knows_what_to_rejoin: Make = &|dir| lost(dir).unwrap().set_founding(state).unwrap();
    let has_run: Make = &|dir| begin(open(dir, &wanted()).unwrap());
    let has_run_with_state: Make = &|dir| begin(wait_with_state(dir));
    let rejoins: Make = &|dir| begin(lost(dir).unwrap());
    let name = |fault: IdentityFault| match fault {
        Beginning(_) => "waits with state",
        Rejoining { .. } => "waits to rejoin",
        HalfFilled(_) => "half filled",
        BeginsWithData(_) | NotEmpty(_) => "not empty",
        Nothing(_) => "nothing",
        Locked(_) => "in use",
        other => panic!("{other}"),
    };
    // Without a flag, with --from, with --rejoin, and for `panchd salvage`.
    let table: [(Make, [&str; 4]); 12] = [
        (empty, ["done", "done", "done", "nothing"]),
        (waits, ["done", "done", "done", "nothing"]),
        (waits_with_state, ["done", "done", "waits with state", "done"]),
        (to_be_filled, ["half filled", "done", "half filled", "nothing"]),
        (to_be_filled_anew, ["half filled", "done", "half filled", "nothing"]),
        (half_filled, ["half filled", "done", "half filled", "nothing"]),
        (half_filled_by_an_earlier_version, ["half filled", "done", "half filled", "nothing"]),
        (waits_to_rejoin, ["done", "waits to rejoin", "done", "nothing"]),
        (knows_what_to_rejoin, ["done", "waits to rejoin", "done", "nothing"]),
        (has_run, ["done", "not empty", "not empty", "done"]),
        (has_run_with_state, ["done", "not empty", "not empty", "done"]),
        (rejoins, ["done", "not empty", "done", "done"]),
    ];
    for (row, (make, expected)) in table.into_iter().enumerate() {
        for (order, expected) in expected.into_iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path());
            let before = fs::read_to_string(dir.path().join(FILE)).ok();
            let work = || match order {
                0 => open(dir.path(), &wanted()).map(Some),
                1 => open(dir.path(), &with_state).map(Some),
                2 => lost(dir.path()).map(Some),
                _ => DataDir::look(dir.path(), &wanted()).map(|_| None),
            };
            let (held, outcome) = match work() {
                Ok(held) => (held, "done"),
                Err(fault) => (None, name(fault)),
            };
            assert_eq!(outcome, expected, "row {row}, order {order}");
            if expected != "done" {
                assert_eq!(
                    fs::read_to_string(dir.path().join(FILE)).ok(),
                    before,
                    "row {row}, order {order}"
                );
            }
            if held.is_some() {
                assert_eq!(work().err().map(name), Some("in use"), "row {row}, order {order}");
            }
        }
    }
}

#[test]
fn no_change_of_a_node_that_runs_needs_room_on_the_disk() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let mut data = open(dir.path(), &wanted()).unwrap();
    data.begin(Incarnation(0), [Founder::With(u64::MAX); panch_wire::ids::REPLICAS_MAX]).unwrap();
    enter(&data);
    drop(data);
    let names = [FILE, "peers", "starts", "core-0.starts", "core-1.starts"];
    let files = || names.map(|name| fs::metadata(dir.path().join(name)).unwrap().ino());
    let before = files();
    for _ in 0..3 {
        let data = run(dir.path(), &wanted());
        name(&data);
        data.peers.settle().unwrap();
        data.close().unwrap();
    }
    let longest = Identity {
        incarnation: Incarnation(u32::MAX),
        rejoining: true,
        life: Life { is_unsynced: true, boot: u64::MAX, is_closed: true },
        founding: Founding { name: u64::MAX, above: Incarnation(u32::MAX) },
        ..open(dir.path(), &wanted()).unwrap().identity.clone()
    };
    open(dir.path(), &wanted()).unwrap().write(&longest).unwrap();
    assert_eq!(files(), before, "all in place");
}

#[test]
fn files_of_a_later_version_are_left_as_they_are() {
    for name in [FILE, "peers", "starts"] {
        let dir = tempfile::tempdir().unwrap();
        drop(run(dir.path(), &wanted()));
        fs::write(dir.path().join(name), "format 99\nwhatever\n").unwrap();
        let text = open(dir.path(), &wanted()).map(drop).unwrap_err().to_string();
        assert!(
            text.contains(name) && text.contains("later version") && text.contains("Nothing was changed"),
            "{text}"
        );
    }
}
