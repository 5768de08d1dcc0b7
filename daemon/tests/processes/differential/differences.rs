//! Replies: where they end, what they are made of, and where a node's may be other than those of Redis.

/// A place where the replies are not the same bytes, and why not.
pub(super) struct Difference {
    pub(super) what: &'static str,
    pub(super) why: &'static str,
    /// Whether the node's reply and that of Redis are what they are expected to be.
    pub(super) alike: fn(&[u8], &[u8]) -> bool,
}

macro_rules! differences {
    ($($name:ident $what:literal $why:literal $alike:expr;)*) => {
        $(pub(super) static $name: Difference = Difference { what: $what, why: $why, alike: $alike };)*

        /// All of them.
        pub(super) static DIFFERENCES: &[&Difference] = &[$(&$name,)*];
    };
}

differences! {
    HELLO "HELLO" "connections are numbered on each server" |ours, theirs| without_id(ours) == without_id(theirs);
    CLIENT_ID "CLIENT ID" "connections are numbered on each server" |ours, theirs| ours[0] == b':' && theirs[0] == b':';
    TIME "TIME" "the second is asked a moment later" |ours, theirs| {
        shape(ours) == shape(theirs) && seconds(ours).abs_diff(seconds(theirs)) < 30
    };
    TEXT "INFO, CLIENT LIST, CLIENT INFO, CLUSTER INFO, CLUSTER NODES" "each tells of itself" |ours, theirs| {
        shape(ours) == shape(theirs) && matches!(ours[0], b'$' | b'=')
    };
    CONFIG_GET "CONFIG GET" "each has its own settings, under the same names" |ours, theirs| shape(ours) == shape(theirs);
    CLUSTER "CLUSTER SLOTS, CLUSTER MYID" "each has its own address and name" |ours, theirs| shape(ours) == shape(theirs);
    COMMAND "COMMAND, COMMAND COUNT, COMMAND INFO, COMMAND LIST, COMMAND DOCS" "a node has fewer commands, and no documentation" |ours, theirs| {
        ours[0] == theirs[0] && ours[0] != b'-'
    };
    HELP "HELP" "a node has fewer subcommands" |ours, theirs| {
        let first = |reply: &[u8]| items(reply).first().map(|item| item.to_vec());
        let last = |reply: &[u8]| items(reply).last().map(|item| item.to_vec());
        first(ours).is_some() && first(ours) == first(theirs) && last(ours) == last(theirs)
    };
    NEWER "CLIENT SETINFO, CLIENT NO-TOUCH" "they came with Redis 7.2, and clients of today send them" |ours, theirs| {
        ours == b"+OK\r\n" && theirs.starts_with(b"-ERR unknown subcommand")
    };
    EXPIRY "SET EX, GETEX, EXPIRE and so on" "keys of a node do not expire, and it says so" |ours, theirs| {
        let refused = ours.starts_with(b"-ERR expiry is not supported") || ours.starts_with(b"-ERR unknown command");
        refused && theirs[0] != b'-'
    };
    SLOTS "commands with keys of several slots" "a node takes them where the keys live in one group" |ours, theirs| {
        ours[0] != b'-' && theirs.starts_with(b"-CROSSSLOT")
    };
    LINE_END "an argument that does not end where its length says" "Redis skips two bytes unseen; a node ends the connection rather than to execute the middle of a value" |ours, theirs| {
        ours == b"-ERR Protocol error: invalid bulk length\r\n" && theirs == b"+PONG\r\n"
    };
    LIMITS "values over value_size_max, keys over 65,535 bytes" "Redis takes 512 MB; a node says which limit it was" |ours, theirs| {
        let named = [&b"value_size_max"[..], b"key is longer than 65535 bytes"];
        let is_named = named.iter().any(|name| ours.windows(name.len()).any(|window| window == *name));
        is_named && ours[0] == b'-' && theirs == b"+OK\r\n"
    };
    WAIT "WAIT" "every write that was answered is on a majority of the nodes" |ours, theirs| {
        matches!(ours, b":0\r\n" | b":1\r\n") && theirs == b":0\r\n"
    };
}

/// The size of the reply at the front; `None` if it is not all there.
pub(super) fn reply_size(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|window| window == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse::<i64>().ok();
    let list = |count: i64| {
        let mut at = line;
        for _ in 0..count {
            at += reply_size(&bytes[at..])?;
        }
        Some(at)
    };
    match bytes[0] {
        b'$' | b'=' => {
            let size = number()?;
            let end = if size < 0 { line } else { line + size as usize + 2 };
            (bytes.len() >= end).then_some(end)
        }
        b'*' | b'~' => list(number()?),
        b'%' => list(2 * number()?),
        _ => Some(line),
    }
}

/// Replies one by one.
///
/// # Panics
/// If the last one has no end.
pub(super) fn replies(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let size = reply_size(bytes).unwrap_or_else(|| panic!("no end: {}", bytes.escape_ascii()));
        let (reply, rest) = bytes.split_at(size);
        found.push(reply);
        bytes = rest;
    }
    found
}

/// What a list consists of; nothing if it is none.
fn items(reply: &[u8]) -> Vec<&[u8]> {
    if !matches!(reply[0], b'*' | b'~' | b'%') {
        return Vec::new();
    }
    let line = reply.windows(2).position(|window| window == b"\r\n").expect("it has an end") + 2;
    replies(&reply[line..])
}

/// The types in a reply, and how long its lists are. Names of settings are part of it.
fn shape(reply: &[u8]) -> String {
    let kind = char::from(reply[0]);
    let parts: Vec<String> = items(reply).into_iter().map(shape).collect();
    if parts.is_empty() { kind.to_string() } else { format!("{kind}[{}]", parts.join(" ")) }
}

/// The answer to HELLO without the number of the connection.
fn without_id(reply: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = items(reply).into_iter().map(<[u8]>::to_vec).collect();
    if let Some(at) = parts.iter().position(|part| part == b"$2\r\nid\r\n") {
        parts.remove(at + 1);
    }
    parts
}

/// The first of the numbers that TIME answers.
fn seconds(reply: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(items(reply)[0]).into_owned();
    text.lines().nth(1).and_then(|line| line.parse().ok()).expect("a number")
}
