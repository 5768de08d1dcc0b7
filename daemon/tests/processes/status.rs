//! `panchd status` of three nodes, of which one dies, and then another one: what people read, what programs read, and the exit code.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::common::{Cluster, Settings, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
const DONE: i32 = 0;
const UNAVAILABLE: i32 = 69;

fn status(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_panchd"))
        .arg("status")
        .args(arguments)
        .output()
        .expect("the daemon can be run")
}

/// What `status` says of the whole cluster: its exit code, the table, and what it complains of.
fn table(cluster: &Cluster) -> (Option<i32>, String, String) {
    let config = cluster.config_path(1).display().to_string();
    let Output { status, stdout, stderr } = status(&["--config", &config]);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

fn json(cluster: &Cluster) -> (Option<i32>, Value) {
    let config = cluster.config_path(1).display().to_string();
    let output = status(&["--json", "--config", &config]);
    assert!(output.stderr.is_empty(), "{output:?}");
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// The cells of the row that begins so.
fn row<'a>(table: &'a str, begin: &[&str]) -> Vec<&'a str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found = rows.filter(|row| row.starts_with(begin));
    found.next().unwrap_or_else(|| panic!("no row {begin:?}:\n{table}"))
}

#[test]
fn people_programs_and_scripts_learn_who_is_missing() {
    let mut cluster = Cluster::start(Settings { groups: 2, ..Settings::default() });
    // Under leaders that all know.
    let leader = eventually("all is well", PATIENCE, || {
        let (code, report) = json(&cluster);
        let groups = report["groups"].as_array()?;
        let replicas = || groups.iter().filter_map(|group| group["replicas"].as_array()).flatten();
        let is_level = replicas().count() == 6 && replicas().all(|replica| replica["lag"] == 0);
        let are_up =
            report["nodes"].as_array()?.iter().all(|node| node["peers_down"] == serde_json::json!([]));
        let leader: usize = groups[0]["leader"].as_str()?.parse().ok()?;
        (code == Some(DONE) && is_level && are_up).then_some(leader)
    });
    let (code, text, errors) = table(&cluster);
    assert_eq!((code, errors.as_str()), (Some(DONE), ""), "{text}");
    for id in cluster.ids() {
        let address = format!("127.0.0.1:{}", cluster.ports(id).resp);
        let cells = row(&text, &[&id.to_string(), &address]);
        assert!(cells[2] == "serving" && cells.ends_with(&["sync", "-", "ok"]), "{text}");
    }
    let cells = row(&text, &["0", "multi", &leader.to_string()]);
    assert_eq!(cells[3..5], ["leader", &leader.to_string()], "{text}");

    // One that does not lead the first group.
    let first = cluster.ids().find(|id| *id != leader).expect("there are three");
    let other = 6 - leader - first;
    cluster.kill(first);
    eventually("the others lead and miss it", PATIENCE, || {
        let (code, report) = json(&cluster);
        assert_eq!((code, &report["exit_code"]), (Some(UNAVAILABLE), &UNAVAILABLE.into()));
        let is_missed =
            |id: usize| report["nodes"][id - 1]["peers_down"] == serde_json::json!([first.to_string()]);
        let is_led =
            |group: &Value| group["leader"].as_str().is_some_and(|leader| leader != first.to_string());
        let are_led = report["groups"].as_array()?.iter().all(is_led);
        (are_led && is_missed(leader) && is_missed(other)).then_some(())
    });
    let (code, text, errors) = table(&cluster);
    assert_eq!(code, Some(UNAVAILABLE), "{text}");
    assert!(errors.contains(&format!("Node {first} at 127.0.0.1:")), "{errors}");
    assert!(errors.contains("does not answer") && !errors.contains("no majority"), "{errors}");
    assert_eq!(row(&text, &[&first.to_string()])[2], "unreachable", "{text}");
    assert!(row(&text, &[&other.to_string()]).contains(&&*first.to_string()), "{text}");

    cluster.kill(leader);
    let (code, report) = json(&cluster);
    assert_eq!(code, Some(UNAVAILABLE));
    let states: Vec<_> = cluster.ids().map(|id| report["nodes"][id - 1]["state"].as_str()).collect();
    assert_eq!(states.iter().filter(|state| **state == Some("unreachable")).count(), 2, "{report}");
    eventually("nobody leads", PATIENCE, || {
        let (code, text, errors) = table(&cluster);
        assert_eq!(code, Some(UNAVAILABLE), "{text}");
        assert!(errors.contains("1 of 3 nodes answer, which is no majority"), "{errors}");
        errors.contains("Group 0 has no leader").then_some(())
    });
    // The one that is left knows no better.
    let address = format!("127.0.0.1:{}", cluster.ports(other).resp);
    eventually("it knows that nobody leads", PATIENCE, || {
        let output = status(&["--address", &address]);
        (output.status.code() == Some(UNAVAILABLE)).then_some(())
    });

    for id in [first, leader] {
        cluster.spawn(id);
    }
    cluster.wait_serving(&[first, leader]);
    eventually("all is well again", PATIENCE, || (table(&cluster).0 == Some(DONE)).then_some(()));
}

#[test]
fn a_group_without_leaders_is_level_when_all_have_executed_the_same() {
    let mut cluster =
        Cluster::start(Settings { cluster: "protocol = \"epaxos\"\n".into(), ..Settings::default() });
    cluster.assert_all_serve();
    eventually("all are level", PATIENCE, || {
        let (code, report) = json(&cluster);
        let group = &report["groups"][0];
        assert_eq!((&group["leader"], &group["needs_leader"]), (&Value::Null, &Value::Bool(false)));
        let replicas = group["replicas"].as_array()?;
        let are_level = replicas.len() == 3 && replicas.iter().all(|replica| replica["lag"] == 0);
        (code == Some(DONE) && are_level).then_some(())
    });
    cluster.kill(2);
    assert_eq!(table(&cluster).0, Some(UNAVAILABLE));
}
