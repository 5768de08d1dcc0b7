//! COMMAND and HELP.

use super::*;
use crate::resp::{help, table};

fn ask(line: &str, resp3: bool) -> String {
    with_request(&words(line), |result| {
        let Ok(Request::Command(query)) = result else { panic!("{line} is no query") };
        let mut out = Vec::new();
        query.write(resp3, &mut out);
        String::from_utf8(out).unwrap()
    })
}

fn names(line: &str) -> Vec<String> {
    let text = ask(line, false);
    text.lines().skip(1).filter(|line| !line.starts_with('$')).map(str::to_string).collect()
}

#[test]
fn command_describes_commands_as_redis_does() {
    let get =
        "*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n*0\r\n*0\r\n";
    assert_eq!(ask("command info GET nosuch", false), format!("*2\r\n{get}$-1\r\n"));
    assert!(ask("command info get", true).starts_with("*1\r\n*10\r\n$3\r\nget\r\n:2\r\n~2\r\n"));
    assert_eq!(ask("command count", false), format!(":{}\r\n", TABLE.len()));
    assert_eq!(ask("command docs get", false), "*0\r\n");
    assert_eq!(ask("command docs", true), "%0\r\n");
    for line in ["command", "command info"] {
        assert!(ask(line, false).starts_with(&format!("*{}\r\n{get}", TABLE.len())));
    }
}

#[test]
fn names_of_commands_are_listed_by_pattern_and_category() {
    let all = names("command list");
    assert_eq!(all.len(), TABLE.len() + table::SUBCOMMANDS.len());
    assert!(all.iter().any(|name| name == "client|id"));
    assert_eq!(names("command list filterby pattern *ttl"), ["ttl", "pttl"]);
    assert_eq!(
        names("command list FILTERBY Pattern CONFIG*"),
        ["config", "config|get", "config|resetstat", "config|help"]
    );
    assert_eq!(names("command list filterby module json"), Vec::<String>::new());
    assert_eq!(names("command list filterby aclcat nosuch"), Vec::<String>::new());
    let (fast, slow) =
        (names("command list filterby aclcat fast"), names("command list filterby aclcat slow"));
    assert_eq!(fast.len() + slow.len(), all.len());
    assert_eq!(names("command list filterby aclcat Write").len(), 14);
    assert!(names("command list filterby aclcat dangerous").contains(&"config|get".to_string()));
}

#[test]
fn the_keys_of_a_command_are_told() {
    for (line, keys) in [
        ("command getkeys get a", &["a"][..]),
        ("command getkeys MSET a 1 b 2", &["a", "b"]),
        ("command getkeys mset a 1 b", &["a", "b"]),
        ("command getkeys del a b c", &["a", "b", "c"]),
        ("command getkeys set a get ex 3", &["a"]),
    ] {
        assert_eq!(names(line), keys, "{line}");
    }
}

/// The help names every subcommand, and none that does not exist.
#[test]
fn help_names_the_subcommands_that_there_are() {
    for container in [CommandName::Client, CommandName::Command, CommandName::Config, CommandName::Cluster] {
        let lines = help::lines(container);
        let helped: Vec<String> = lines
            .iter()
            .filter(|line| !line.starts_with([' ', '(']))
            .map(|line| line.split(' ').next().unwrap().to_ascii_lowercase())
            .collect();
        let mut known: Vec<&str> = table::SUBCOMMANDS
            .iter()
            .filter(|(_, of, _)| *of == container)
            .map(|(_, _, info)| info.name.split_once('|').unwrap().1)
            .filter(|name| *name != "help")
            .collect();
        known.sort_unstable();
        let mut sorted: Vec<&str> = helped.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        assert_eq!(sorted, known, "{container:?}");
        let name = container.info().name;
        with_request(&[name.as_bytes(), b"help"], |result| {
            assert!(matches!(result, Ok(Request::Help(found)) if found == container));
        });
        let mut out = Vec::new();
        write_help(container, &mut out);
        let text = String::from_utf8(out).unwrap();
        let title = format!(
            "*{}\r\n+{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:\r\n",
            lines.len() + 3,
            name.to_uppercase()
        );
        assert!(text.starts_with(&title), "{text}");
        assert!(text.ends_with("+HELP\r\n+    Prints this help.\r\n"), "{text}");
        assert_eq!(text.matches("\r\n").count(), lines.len() + 4);
    }
}
