//! What `panch-loadgen` makes of its command line, and with which exit code it ends.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

/// Runs the program: its exit code, standard output and standard error.
fn loadgen(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_panch-loadgen")).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn two_reports_are_read_and_shown_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let report = |throughput: u32| {
        format!(
            r#"{{"schema":"panch-loadgen/1","title":"t","environment":{{"kernel":"6.1"}},"runs":[
            {{"name":"closed loop, set=100","throughput_per_second":{throughput},"clean":true}}]}}"#
        )
    };
    let (a, b) = (file("a.json", &report(1000)), file("b.json", &report(2000)));
    let (code, table, _) = loadgen(&["diff", &a, &b]);
    assert_eq!(code, Some(0));
    assert!(table.contains("2.000") && table.contains("The circumstances do not differ"), "{table}");
    let other = file("other.json", r#"{"schema":"another/1"}"#);
    for (second, code, part) in [
        ("/no/such/file", 66, "cannot read /no/such/file"),
        (other.as_str(), 65, "other.json has the schema \"another/1\""),
        (&file("text.json", "throughput: 3"), 65, "text.json is not a report"),
    ] {
        let (found, table, error) = loadgen(&["diff", &a, second]);
        assert_eq!((found, table.as_str()), (Some(code), ""), "{error}");
        assert!(error.contains(part), "{part} is missing in {error}");
    }
}

#[test]
fn whatever_is_wrong_with_the_options_ends_with_the_same_code_and_says_what() {
    for (arguments, part) in [
        (&[][..], "Usage"),
        (&["measure"], "measure"),
        (&["run"], "--target"),
        (&["run", "--target", "127.0.0.1:1", "--rate", "fast"], "write a number"),
        (&["run", "--target", "127.0.0.1"], "host:port"),
        (&["run", "--target", "127.0.0.1:1"], "--rate above zero"),
        (
            &["run", "--target", "127.0.0.1:1", "--mode", "closed", "--duration", "0"],
            "--duration must be above zero",
        ),
        (
            &["run", "--target", "127.0.0.1:1", "--mode", "closed", "--count", "0"],
            "--count must be above zero",
        ),
        (&["local", "--duration", "0"], "--duration must be above zero"),
        (&["local", "--rate", "1G"], "more than 1 threads can send"),
        (&["run", "--target", "127.0.0.1:1", "--rate", "1G"], "more than 1 threads can send"),
        (&["compare", "--mode", "open", "--rate", "1G"], "more than 1 threads can send"),
        (
            &["run", "--target", "127.0.0.1:1", "--mode", "closed", "--sessions", "-P", "129"],
            "--outstanding is at most 128",
        ),
        (&["local", "--replicas", "10"], "1..=9"),
        (&["compare", "--duration", "0s"], "--duration must be above zero"),
        (&["compare", "--protocols", "raft"], "raft"),
        (&["diff", "a.json"], "B.json"),
    ] {
        let (code, out, error) = loadgen(arguments);
        assert_eq!((code, out.as_str()), (Some(64), ""), "{arguments:?}: {error}");
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"]] {
        let (code, out, error) = loadgen(arguments);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        assert!(out.contains("panch-loadgen"));
    }
}

#[test]
fn nothing_ends_because_nobody_reads_standard_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_panch-loadgen"));
    let status = command.args(["compare", "--panchd", "/no/panchd"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(74));
}
