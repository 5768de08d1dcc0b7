use super::*;

fn group(line: &str) -> String {
    format!("disk_full:0\r\npeers_down:\r\ngroup_3:{line}\r\n")
}

fn multi(leading: u8, leader: &str, executed: u64) -> String {
    group(&format!(
        "protocol=multi,role=x,leader={leader},leading={leading},committed={executed},executed={executed}"
    ))
}

fn lags(report: &Report) -> Vec<Option<u64>> {
    report.groups[0].replicas.iter().map(|replica| replica.lag).collect()
}

#[test]
fn who_is_behind_is_told_by_who_leads() {
    let (leader, close, far) = (multi(1, "1", 120), multi(0, "1", 118), multi(0, "1", 20));
    let all = vec![answered("1", &leader), answered("2", &close), answered("3", &far)];
    let report = Report::new(all, true);
    assert_eq!((lags(&report), report.exit), (vec![Some(0), Some(2), Some(100)], Exit::Done));
    assert_eq!(report.groups[0].leader.as_deref(), Some("1"));
    assert_eq!(report.problems, [""; 0]);
    // A single node does not know how far the leader is.
    let report = Report::new(vec![answered("2", &close)], false);
    assert_eq!((lags(&report), report.exit), (vec![None], Exit::Done));
    assert_eq!(report.groups[0].leader.as_deref(), Some("1"), "so it says");
    let report = Report::new(vec![answered("1", &leader)], false);
    assert_eq!(lags(&report), [Some(0)]);
}

#[test]
fn groups_without_leaders_are_compared_with_whoever_is_furthest() {
    let line = |executed| group(&format!("protocol=epaxos,leader=-,committed=0,executed={executed}"));
    let report = Report::new(vec![answered("1", &line(7)), answered("2", &line(9))], true);
    assert_eq!((lags(&report), report.exit), (vec![Some(2), Some(0)], Exit::Done));
    assert!(!report.groups[0].needs_leader);
}

#[test]
fn a_node_that_is_missing_and_a_group_without_a_leader_are_no_success() {
    let follower = || answered("2", &multi(0, "1", 5));
    let report = Report::new(vec![answered("1", &multi(1, "1", 5)), follower(), silent("3")], true);
    assert_eq!(report.exit, Exit::Unavailable);
    assert_eq!(report.problems, ["Node 3 at 10.0.0.3:7001 does not answer: Connection refused."]);
    assert_eq!(report.nodes[2].state, State::Unreachable);

    let report = Report::new(vec![silent("1"), follower(), silent("3")], true);
    assert_eq!(report.exit, Exit::Unavailable);
    assert!(report.problems[2].starts_with("1 of 3 nodes answer"), "{:?}", report.problems);
    assert_eq!(report.problems[3], "Group 3 has no leader that answers: node 2 follows node 1.");
    assert_eq!(lags(&report), [None]);

    let nobody = || multi(0, "none", 5);
    let report = Report::new(vec![answered("1", &nobody()), answered("2", &nobody())], true);
    assert_eq!(report.exit, Exit::Unavailable);
    assert_eq!(report.problems, ["Group 3 has no leader: it cannot write until one is elected."]);
    let report = Report::new(vec![answered("1", &nobody())], false);
    assert_eq!(report.exit, Exit::Unavailable);
    assert_eq!(Report::new(vec![silent("1")], false).exit, Exit::Unavailable);
}

#[test]
fn disks_and_peers_that_fail_are_worth_a_line() {
    let of = |lines: &str| {
        let report = Report::new(vec![answered("2", &format!("node_id:2\r\n{lines}"))], false);
        (report.problems, report.nodes[0].disk, report.exit)
    };
    assert_eq!(
        of("disk_full:0\r\nsmall_file_trouble_ms:0\r\npeers_down:\r\n"),
        (vec![], Some(Disk::Ok), Exit::Done)
    );
    assert_eq!(of("small_file_trouble_ms:soon\r\n"), (vec![], None, Exit::Done), "an older version");
    let (lines, disk, _) = of("disk_full:0\r\nsmall_file_trouble_ms:2100\r\n");
    assert!(lines.len() == 1 && lines[0].starts_with("Node 2") && lines[0].contains("for 3 s"), "{lines:?}");
    assert_eq!(disk, Some(Disk::Hangs));
    let (lines, disk, _) = of("disk_full:1\r\npeers_down:1,3\r\n");
    assert_eq!(disk, Some(Disk::Full));
    assert!(lines.len() == 2 && lines[0].contains("Node 2 cannot prepare more log"), "{lines:?}");
    assert_eq!(lines[1], "Node 2 does not reach node 1, 3.");
    let (lines, disk, exit) = of("disk_full:1\r\nsmall_file_trouble_ms:1\r\n");
    assert_eq!((lines.len(), disk, exit), (2, Some(Disk::Hangs), Exit::Done), "{lines:?}");
}

#[test]
fn data_that_take_all_their_memory_are_worth_a_line() {
    let of = |size: u64, max: u64| {
        let section = format!("node_id:2\r\nused_memory_dataset:{size}\r\nmaxmemory:{max}\r\n");
        let report = Report::new(vec![answered("2", &section)], true);
        (report.problems, report.exit)
    };
    assert_eq!(of(99, 100), (vec![], Exit::Done));
    let (lines, exit) = of(5 << 20, 4 << 20);
    assert!(lines.len() == 1 && lines[0].starts_with("The data of node 2 take 5 MiB"), "{lines:?}");
    assert_eq!(exit, Exit::Done, "reads and deletions are served");
}

#[test]
fn nodes_that_reach_no_majority_or_leave_none_with_room_are_no_success() {
    let of = |disks: [u8; 3], down: [&str; 3]| {
        let node = |index: usize| {
            let (name, full, down) = (index + 1, disks[index], down[index]);
            answered(&name.to_string(), &format!("disk_full:{full}\r\npeers_down:{down}\r\n"))
        };
        let report = Report::new((0..3).map(node).collect(), true);
        (report.problems, report.exit)
    };
    let (lines, exit) = of([0, 0, 0], ["2", "1,3", "2"]);
    assert_eq!(exit, Exit::Unavailable);
    assert_eq!(lines[0], "Node 2 reaches no majority of the nodes: it decides nothing.");
    assert_eq!((lines.len(), lines[1].as_str()), (4, "Node 1 does not reach node 2."));
    assert_eq!(of([0, 0, 0], ["2", "1", ""]).1, Exit::Done, "each has a majority");
    assert_eq!(of([1, 0, 0], [""; 3]).1, Exit::Done, "the others have room");
    let (lines, exit) = of([1, 0, 1], [""; 3]);
    assert_eq!((exit, lines.len()), (Exit::Unavailable, 3));
    assert!(lines[0].starts_with("2 of 3 nodes cannot prepare more log"), "{lines:?}");
}

#[test]
fn of_several_cores_each_is_judged_by_what_it_reaches_and_has_room_for() {
    /// Three nodes of two cores: of each core whom it reaches and whether it is full. What the nodes say is what any of their cores says.
    fn of(cores: [[(usize, u8); 2]; 3]) -> (Vec<String>, Exit) {
        let node = |(index, cores): (usize, [(usize, u8); 2])| {
            let full = u8::from(cores.iter().any(|(_, full)| *full > 0));
            let mut section = format!("cores:2\r\ndisk_full:{full}\r\npeers_down:1,2,3\r\n");
            for (group, (reached, full)) in cores.into_iter().enumerate() {
                let line = format!("protocol=basic,reached={reached},log_full={full}");
                section += &format!("group_{group}:{line}\r\n");
            }
            answered(&(index + 1).to_string(), &section)
        };
        let report = Report::new(cores.into_iter().enumerate().map(node).collect(), true);
        (report.problems, report.exit)
    }
    let (lines, exit) = of([[(2, 0), (2, 0)], [(2, 0), (3, 0)], [(3, 0), (3, 0)]]);
    assert_eq!(exit, Exit::Done, "each core has a majority: {lines:?}");
    assert_eq!(lines[0], "Node 1 does not reach node 1, 2, 3, from one of its cores at least.");
    let (lines, exit) = of([[(1, 0), (2, 0)], [(1, 0), (1, 0)], [(3, 0), (3, 0)]]);
    assert_eq!(exit, Exit::Unavailable);
    assert_eq!(
        lines[..2],
        [
            "Node 1 reaches no majority of the nodes from the cores that have group 0: it decides nothing there.",
            "Node 2 reaches no majority of the nodes: it decides nothing."
        ]
    );
    let (lines, exit) = of([[(3, 1), (3, 0)], [(3, 0), (3, 1)], [(3, 0), (3, 0)]]);
    assert_eq!(exit, Exit::Done, "each group has room on two nodes: {lines:?}");
    let (lines, exit) = of([[(3, 1), (3, 0)], [(3, 1), (3, 0)], [(3, 0), (3, 0)]]);
    assert_eq!(exit, Exit::Unavailable);
    assert!(lines[0].starts_with("No majority of the nodes can prepare more log for group 0:"), "{lines:?}");
    let (lines, exit) = of([[(3, 1), (3, 1)], [(3, 1), (3, 1)], [(3, 0), (3, 0)]]);
    assert_eq!(exit, Exit::Unavailable);
    assert!(lines[0].starts_with("2 of 3 nodes cannot prepare more log"), "{lines:?}");
}

#[test]
fn who_is_not_the_node_that_was_asked_for_does_not_serve() {
    let foreign = |name: &str, address: &str| {
        let answer = Err(Silence::Foreign("it is node 9".to_owned()));
        let asked = Asked { name: name.to_owned(), address: address.to_owned(), answer };
        let report = Report::new(vec![asked], true);
        assert_eq!((report.exit, report.nodes[0].state), (Exit::Unavailable, State::Foreign));
        report.problems[0].clone()
    };
    assert_eq!(
        foreign("3", "h:7001"),
        "Node 3 at h:7001 does not answer as node 3 of this cluster: it is node 9."
    );
    assert_eq!(
        foreign("h:7001", "h:7001"),
        "Node at h:7001 does not answer as a node of panch: it is node 9."
    );
}

#[test]
fn digests_are_compared_where_nodes_have_executed_the_same() {
    let node = |name: &str, line: &str| answered(name, &format!("group_3:protocol=basic,{line}"));
    let one = || node("1", "digest=aa,diverged=0,frontier=10,checkpoints=0.512:11;0.1024:12;");
    let two = || node("2", "digest=bb,diverged=0,frontier=11,checkpoints=0.1024:12;0.1536:13;");
    let differences = |nodes| {
        let report = Report::new(nodes, true);
        assert_eq!(report.exit == Exit::Differ, !report.problems.is_empty());
        report.problems
    };
    let three = node("3", "digest=bb,diverged=0,frontier=11");
    assert_eq!(differences(vec![one(), two(), three, node("4", "protocol=older")]), [""; 0]);
    assert_eq!(
        differences(vec![two(), node("5", "digest=cc,frontier=11")]),
        ["The data of group 3 differ after the same commands (11): digest bb on node 2; cc on node 5."]
    );
    assert_eq!(
        differences(vec![one(), two(), node("5", "digest=cc,frontier=9,checkpoints=0.1024:13;")]),
        [
            "The data of group 3 differ after the same commands (0.1024): digest 12 on node 1, 2; 13 on node 5."
        ]
    );
    let stopped = differences(vec![node("5", "digest=cc,diverged=1,frontier=9")]);
    assert!(stopped[0].starts_with("Node 5 does not serve group 3"), "{stopped:?}");
}

#[test]
fn foreign_text_is_made_printable_and_json_is_an_object() {
    let foreign = "node_id:\u{1b}[2J\r\npeers_down:\u{1b}\r\nx\u{1b}:\u{1b}\r\n\
        group_3:protocol=\u{1b},role=\u{1b},ballot=\u{1b},diverged=1,frontier=1,digest=\u{1b}";
    let report =
        Report::new(vec![answered("1", foreign), answered("2", "group_3:frontier=1,digest=2")], true);
    assert!(!report.problems.iter().any(|line| line.contains('\u{1b}')), "{:?}", report.problems);
    let text = report.json();
    assert!(!text.contains("\\u001b"), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["exit_code"], &value["nodes"][1]["node"]), (&65.into(), &"2".into()));
    assert_eq!(value["groups"][0]["replicas"][1]["lag"], serde_json::Value::Null);
}
