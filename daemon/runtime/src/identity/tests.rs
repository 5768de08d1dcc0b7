use super::*;

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
        founders: Founders::default(),
        life: Life { is_unsynced: false, boot: 1, is_closed: false },
        founding: Founding::default(),
    }
}

fn open(dir: &Path, wanted: &Identity) -> Result<DataDir, IdentityFault> {
    DataDir::open(dir, wanted, Loss::None, false)
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
    drop(data);
    let data = DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false).unwrap();
    assert_eq!((data.identity.incarnation, data.identity.rejoining), (Incarnation(8), true));
    assert!(!data.core_is_through().unwrap() && data.core_is_through().unwrap());
    drop(data);
    assert!(matches!(
        DataDir::open(dir.path(), &wanted(), Loss::OfDisk, false),
        Err(IdentityFault::NotEmpty(_))
    ));
    let data = open(dir.path(), &wanted()).unwrap();
    assert_eq!((data.identity.incarnation, data.identity.rejoining), (Incarnation(9), false));
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
    let mut data = open(dir.path(), &wanted()).unwrap();
    data.begin(Incarnation(0), Founders::default()).unwrap();
    let first = data.identity.clone();
    drop(data);
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
fn unsynced_votes_are_lost_with_the_power_and_not_with_the_process() {
    let at = |boot, is_unsynced| Identity { life: Life { is_unsynced, boot, is_closed: false }, ..wanted() };
    let dir = tempfile::tempdir().unwrap();
    let open_at = |boot, is_unsynced, alone| {
        DataDir::open(dir.path(), &at(boot, is_unsynced), Loss::None, alone).unwrap()
    };
    open_at(5, true, false).begin(Incarnation(0), Founders::default()).unwrap();
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
    assert!(!lost.core_is_through().unwrap() && lost.core_is_through().unwrap());
    lost.close().unwrap();
    drop(lost);
    assert!(!open_at(10, true, false).identity.rejoining);
}

#[test]
fn what_the_nodes_were_at_the_founding_is_kept_and_the_layout_before_is_converted() {
    let dir = tempfile::tempdir().unwrap();
    let mut founders = Founders::default();
    (founders[0], founders[1], founders[8]) = (Founder::With(5), Founder::With(u64::MAX), Founder::Absent);
    let mut data = open(dir.path(), &wanted()).unwrap();
    data.begin(Incarnation(0), founders).unwrap();
    drop(data);
    let identity = open(dir.path(), &wanted()).unwrap().identity;
    assert_eq!(identity.founders, founders);
    for format in [FORMAT_WITHOUT_FOUNDING, FORMAT_WITHOUT_FOUNDERS] {
        fs::write(dir.path().join(FILE), render(&identity, format)).unwrap();
        let converted = open(dir.path(), &wanted()).unwrap().identity;
        let founders =
            if format == FORMAT_WITHOUT_FOUNDERS { Founders::default() } else { identity.founders };
        assert_eq!((converted.founders, converted.log), (founders, identity.log));
        assert!(fs::read_to_string(dir.path().join(FILE)).unwrap().starts_with("format 5\n"));
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
    drop(data);
    let identity = open(dir.path(), &wanted()).unwrap().identity;
    assert_eq!((identity.incarnation, identity.founding), (Incarnation(8), founding));
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
    let text = fs::read_to_string(&file).unwrap();
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(open(wanted()).is_err(), "flip at {at}");
    }
}
