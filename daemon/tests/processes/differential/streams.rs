//! What is sent: commands at random, by a seed, over few keys so that they meet.

use super::differences::{self as differ, Difference};
use crate::common::Dice;
use crate::common::raw::encode;

/// A command and what its replies may be like.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) bytes: Vec<u8>,
    /// `None`: the same bytes.
    pub(super) difference: Option<&'static Difference>,
}

impl Step {
    pub(super) fn same(arguments: &[&[u8]]) -> Self {
        Self { bytes: encode(arguments), difference: None }
    }

    pub(super) fn differs(difference: &'static Difference, arguments: &[&[u8]]) -> Self {
        Self { bytes: encode(arguments), difference: Some(difference) }
    }

    /// Words of a line, `~` standing for an empty one.
    pub(super) fn line(line: &str) -> Self {
        Self::same(&words(line))
    }

    pub(super) fn line_differs(difference: &'static Difference, line: &str) -> Self {
        Self::differs(difference, &words(line))
    }

    /// As a person types it.
    pub(super) fn inline(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), difference: None }
    }
}

fn words(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(|word| if word == "~" { &b""[..] } else { word.as_bytes() }).collect()
}

/// Commands whose answers differ.
static DIFFERENT: &[(&Difference, &str)] = &[
    (&differ::HELLO, "HELLO"),
    (&differ::HELLO, "HELLO 2"),
    (&differ::HELLO, "HELLO 3"),
    (&differ::HELLO, "HELLO 3 AUTH default x SETNAME me"),
    (&differ::HELLO, "HELLO 2 SETNAME ~"),
    (&differ::CLIENT_ID, "CLIENT ID"),
    (&differ::TIME, "TIME"),
    (&differ::WAIT, "WAIT 0 0"),
    (&differ::TEXT, "INFO"),
    (&differ::TEXT, "INFO server clients"),
    (&differ::TEXT, "CLIENT INFO"),
    (&differ::TEXT, "CLIENT LIST"),
    (&differ::TEXT, "CLIENT LIST TYPE normal"),
    (&differ::TEXT, "CLUSTER INFO"),
    (&differ::TEXT, "CLUSTER NODES"),
    (&differ::CONFIG_GET, "CONFIG GET maxmemory"),
    (&differ::CONFIG_GET, "CONFIG GET save appendonly port"),
    (&differ::CLUSTER, "CLUSTER MYID"),
    (&differ::CLUSTER, "CLUSTER SLOTS"),
    (&differ::COMMAND, "COMMAND COUNT"),
    (&differ::COMMAND, "COMMAND INFO get client"),
    (&differ::COMMAND, "COMMAND LIST"),
    (&differ::HELP, "CLIENT HELP"),
    (&differ::HELP, "config help"),
    (&differ::HELP, "COMMAND HELP"),
    (&differ::HELP, "CLUSTER HELP"),
    (&differ::NEWER, "CLIENT SETINFO LIB-NAME x"),
    (&differ::NEWER, "CLIENT NO-TOUCH on"),
];

/// Each of them once.
pub(super) fn all_different() -> Vec<Step> {
    DIFFERENT.iter().map(|(difference, line)| Step::line_differs(difference, line)).collect()
}

/// Draws commands.
pub(super) struct Writer {
    pub(super) dice: Dice,
    /// All keys have it in common, so that they live in one slot.
    tag: String,
}

impl Writer {
    pub(super) fn new(seed: u64, tag: &str) -> Self {
        Self { dice: Dice::new(seed), tag: format!("{{{tag}}}") }
    }

    pub(super) fn steps(&mut self, count: usize) -> Vec<Step> {
        (0..count).map(|_| self.step()).collect()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.dice.below(from.len())]
    }

    fn key(&mut self) -> Vec<u8> {
        let name = self.pick(&["a", "b", "c", "d", "number", "x y\r\n", "\0"]);
        format!("{}{name}", self.tag).into_bytes()
    }

    fn keys(&mut self) -> Vec<Vec<u8>> {
        (0..1 + self.dice.below(4)).map(|_| self.key()).collect()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.dice.below(8) {
            0 => Vec::new(),
            1 => self.pick(&["0", "-1", "10", "9223372036854775807", "-9223372036854775808"]).into(),
            2 => self.pick(&["01", "+1", "-0", " 1", "1 ", "1.5", "9223372036854775808", "1e3"]).into(),
            3 => b"*1\r\n$4\r\nPING\r\n".to_vec(),
            4 => {
                let size = self.dice.below(3000);
                self.dice.bytes(size)
            }
            _ => self.pick(&["one", "two", "NX", "GET", "\r\n", "\0", "\u{e9}"]).into(),
        }
    }

    fn number(&mut self) -> &'static str {
        self.pick(&["1", "-1", "0", "41", "9223372036854775807", "-9223372036854775808", "1x", "", "007"])
    }

    /// A command on data.
    pub(super) fn data(&mut self) -> Step {
        let (key, value) = (self.key(), self.value());
        let named = |name: &str, rest: &[Vec<u8>]| {
            let mut arguments: Vec<&[u8]> = vec![name.as_bytes()];
            arguments.extend(rest.iter().map(Vec::as_slice));
            Step::same(&arguments)
        };
        match self.dice.below(16) {
            0..=2 => {
                let mut rest = vec![key, value];
                for _ in 0..self.dice.below(4) {
                    rest.push(self.pick(&["NX", "xx", "GET", "get", "KEEPTTL", "nonsense"]).into());
                }
                named("SET", &rest)
            }
            3 => named(self.pick(&["SETNX", "GETSET", "APPEND", "append"]), &[key, value]),
            4 | 5 => named(self.pick(&["GET", "get", "GETDEL", "STRLEN", "TYPE"]), &[key]),
            6 => named(self.pick(&["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME", "PERSIST"]), &[key]),
            7 | 8 => {
                let keys = self.keys();
                named(self.pick(&["MGET", "DEL", "UNLINK", "EXISTS", "TOUCH"]), &keys)
            }
            9 | 10 => {
                let mut pairs = Vec::new();
                for key in self.keys() {
                    pairs.extend([key, self.value()]);
                }
                if self.dice.below(10) == 0 {
                    pairs.pop();
                }
                named(self.pick(&["MSET", "MSETNX"]), &pairs)
            }
            11 | 12 => {
                let key = if self.dice.below(3) > 0 { format!("{}number", self.tag).into() } else { key };
                named(self.pick(&["INCR", "DECR"]), &[key])
            }
            13 | 14 => {
                let by = self.number().into();
                named(self.pick(&["INCRBY", "DECRBY"]), &[key, by])
            }
            // The wrong number of arguments.
            _ => {
                let name = self.pick(&["GET", "SET", "MSET", "INCRBY", "TTL", "TOUCH", "PERSIST", "append"]);
                if self.dice.below(2) == 0 { named(name, &[]) } else { named("GET", &[key, value]) }
            }
        }
    }

    /// A command about the connection or the server that both answer alike.
    fn other(&mut self) -> Step {
        let line = self.pick(&[
            "PING",
            "PING hello",
            "PING a b",
            "ECHO hello",
            "ECHO",
            "SELECT 0",
            "SELECT 1",
            "SELECT x",
            "SELECT 99999999999",
            "SELECT 9999999999999999999999",
            "DBSIZE",
            "DBSIZE",
            "DBSIZE x",
            "ROLE",
            "WAIT x 0",
            "WAIT 0 x",
            "WAIT 0 -1",
            "READONLY",
            "READWRITE",
            "AUTH x",
            "AUTH default x",
            "AUTH default ~",
            "AUTH DEFAULT x",
            "AUTH nobody x",
            "AUTH a b c",
            "AUTH",
            "HELLO 4",
            "HELLO x",
            "HELLO 3 nonsense",
            "HELLO 2 AUTH default",
            "HELLO 3 AUTH nobody x",
            "HELLO 2 AUTH nobody x SETNAME thief",
            "CLIENT GETNAME",
            "CLIENT SETNAME me",
            "CLIENT SETNAME ~",
            "CLIENT NO-EVICT on",
            "CLIENT NO-EVICT maybe",
            "CLIENT REPLY maybe",
            "CLIENT nonsense",
            "CLIENT",
            "CLIENT ID x",
            "CONFIG RESETSTAT",
            "CONFIG nonsense",
            "CONFIG GET",
            "CONFIG GET nonsense",
            "CLUSTER KEYSLOT foo{bar}baz",
            "CLUSTER KEYSLOT",
            "CLUSTER nonsense",
            "COMMAND GETKEYS MSET a 1 b 2",
            "COMMAND GETKEYS GET a",
            "COMMAND GETKEYS GET",
            "COMMAND GETKEYS PING a",
            "COMMAND GETKEYS nonsense a",
            "COMMAND LIST FILTERBY PATTERN x?x",
            "COMMAND LIST FILTERBY MODULE x",
            "COMMAND LIST FILTERBY ACLCAT x",
            "COMMAND LIST FILTERBY x y",
            "COMMAND LIST x",
            "COMMAND nonsense",
            "COMMAND INFO nonsense",
            "nonsense",
            "nonsense a b",
            "GETTY",
            "RESET",
            "~",
            "RESET x",
        ]);
        Step::line(line)
    }

    /// One whose answers differ.
    fn different(&mut self) -> Step {
        let (difference, line) = DIFFERENT[self.dice.below(DIFFERENT.len())];
        Step::line_differs(difference, line)
    }

    /// As a person types it, and things that mean nothing.
    fn odd(&mut self) -> Step {
        let tag = self.tag.clone();
        match self.dice.below(6) {
            0 => Step::inline(b"\r\n*0\r\n*-1\r\n\n PING\r\n"),
            1 => Step::inline(format!("set  {tag}a \"a \\x41\\n'\"\t xx\r\n").as_bytes()),
            2 => Step::inline(format!("GET {tag}a\n").as_bytes()),
            3 => Step::inline(b"echo 'it\\'s' \r\n"),
            4 => Step::inline(b"ECHO \"\"\r\n"),
            _ => Step::inline(format!("mget {tag}a {tag}b '{tag}c'\r\n").as_bytes()),
        }
    }

    fn step(&mut self) -> Step {
        match self.dice.below(20) {
            0..=12 => self.data(),
            13..=16 => self.other(),
            17 => self.different(),
            _ => self.odd(),
        }
    }
}
