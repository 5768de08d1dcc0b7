//! The log of a node through what happens to a cluster, beside `testdata/events.txt`.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::{Cluster, Settings, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
const EXPECTED: &str = include_str!("../../testdata/events.txt");

/// The lines of a part of the script: those that have to come, and those that may.
fn expected(part: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let heading = format!("== {part}");
    let lines = EXPECTED.lines().skip_while(|line| *line != heading).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| !line.starts_with("== ")).collect();
    assert!(!lines.is_empty(), "nothing is expected of: {part}");
    let (may, must): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|line| line.starts_with("? "));
    (
        must.into_iter().map(str::to_owned).collect(),
        may.into_iter().map(|line| line.trim_start_matches("? ").to_owned()).collect(),
    )
}

struct Script {
    cluster: Cluster,
    /// Whose log is read.
    reader: usize,
    /// What nodes are called in the expected lines.
    names: Vec<(usize, &'static str)>,
    /// Lines of the log that belong to earlier parts.
    seen: usize,
}

impl Script {
    /// What the log says since the last part: level and text, with names and times made alike.
    fn lines(&self) -> Vec<String> {
        let text = self.cluster.errors(self.reader);
        let own = format!("panchd: node {}: ", self.reader);
        let mark = |line: &str| {
            let (head, rest) = line.split_once(&own)?;
            let level = head.split_whitespace().nth(1)?;
            let mut rest = rest.to_owned();
            for (id, name) in &self.names {
                rest = rest.replace(&format!("node {id} "), &format!("node {name} "));
            }
            for leads in ["this node leads", "node LEADER leads", "node OTHER leads"] {
                rest = rest.replace(leads, "SOMEBODY leads");
            }
            if let Some((who, ballot)) = rest.split_once(" (ballot ") {
                let is_number = |text: &str| text.parse::<u64>().is_ok();
                let (round, node) = ballot.trim_end_matches(')').split_once('.')?;
                assert!(is_number(round) && is_number(node), "{line}");
                rest = who.to_owned();
            }
            let words = rest.split(' ').collect::<Vec<_>>();
            let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            let is_time = |index: usize| {
                words.get(index + 1).is_some_and(|unit| unit.starts_with('s') && unit.len() < 3)
            };
            let is_count = |word: &str| word.starts_with('(') && is_number(&word[1..]);
            let words = words.iter().map(|word| if is_count(word) { "(N" } else { word });
            let words: Vec<&str> = words.collect();
            let words = words.iter().enumerate();
            let words: Vec<&str> = words
                .map(|(index, word)| if is_number(word) && is_time(index) { "N" } else { word })
                .collect();
            Some(format!("{level} {}", words.join(" ")))
        };
        text.lines().filter_map(mark).skip(self.seen).collect()
    }

    /// Waits for the lines of a part of the script, and looks whether there are others.
    fn expect(&mut self, part: &str) {
        let (must, may) = expected(part);
        let lines = eventually(&format!("{part}: {must:?}"), PATIENCE, || {
            let lines = self.lines();
            let found: BTreeSet<String> = lines.iter().cloned().collect();
            must.is_subset(&found).then_some(lines)
        });
        for line in &lines {
            assert!(must.contains(line) || may.contains(line), "{part}: not expected: {line}\nof {lines:#?}");
        }
        self.seen += lines.len();
    }
}

#[test]
fn a_log_tells_what_happens_to_a_cluster() {
    let cluster = Cluster::start(Settings {
        node: "log_segment_size = \"4MiB\"\nsnapshot_log_size = \"8MiB\"\n".into(),
        disk: Some(128),
        ..Settings::default()
    });
    let leader = cluster.leader();
    let reader = cluster.follower();
    let other = 6 - leader - reader;
    let names = vec![(leader, "LEADER"), (other, "OTHER"), (reader, "READER")];
    let mut script = Script { cluster, reader, names, seen: 0 };
    eventually("the log names the leader", PATIENCE, || {
        script.lines().iter().any(|line| line.ends_with("leads")).then_some(())
    });
    script.seen = script.lines().len();

    script.cluster.kill(leader);
    script.expect("the leader is gone");
    script.cluster.kill(other);
    script.expect("the other one, too");
    script.cluster.spawn(leader);
    script.cluster.spawn(other);
    script.cluster.wait_serving(&[leader, other]);
    script.expect("both are back");
    script.cluster.wait_writable();
    let mut client = script.cluster.connect(reader);
    if let Some(disk) = script.cluster.disk(reader) {
        disk.fill();
        // What the segments hold is taken first.
        let value = vec![b'x'; 500_000];
        eventually("writes are refused", PATIENCE, || {
            redis::cmd("SET").arg("big").arg(&value).query::<()>(&mut client).is_err().then_some(())
        });
        script.expect("its disk is full");
        script.cluster.disk(reader).expect("it was there").empty();
        script.expect("there is room again");
    } else {
        println!("without a full disk: this process may not make disks");
    }
    script.cluster.wait_writable();
    let value = vec![b'x'; 500_000];
    eventually("a snapshot is due", PATIENCE, || {
        let _ = redis::cmd("SET").arg("big").arg(&value).query::<()>(&mut client);
        script.lines().iter().any(|line| line.contains("snapshot")).then_some(())
    });
    script.expect("much is written");
    script.cluster.stop(reader, Duration::from_secs(20));
    let text = script.cluster.errors(reader);
    let last = format!("panchd: node {reader} is asked to stop, and takes nothing in any more");
    assert!(text.lines().any(|line| line.ends_with(&last)), "{text}");
}
