use super::*;
use crate::command::{Command, CommandError, CommandKind, Reply, flags, list};
use crate::reply;
use crate::slots::key_slot;
use proptest::collection::vec;
use proptest::prelude::*;

mod oversize;
mod queries;

/// What a stream of requests came to: the commands' arguments, then the fault or `None`.
type Outcome = (Vec<Vec<Vec<u8>>>, Option<RespFault>);

/// Feeds `bytes` as a connection does: a buffer that grows at the ends `cuts` and is cut in front after each request.
fn feed(limits: Limits, bytes: &[u8], cuts: &[usize]) -> Outcome {
    let mut parser = Parser::new(limits);
    let mut commands = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        loop {
            let input = &bytes[start..end];
            match parser.parse(input) {
                Ok(Parsed::Incomplete { needed }) => {
                    assert!(needed > input.len() && needed <= limits.request_size_max as usize);
                    break;
                }
                Ok(Parsed::Empty { consumed }) => {
                    assert!(consumed > 0);
                    start += consumed;
                }
                Ok(Parsed::Oversize { consumed, what }) => {
                    let mut command = vec![format!("too large: {what:?}").into_bytes()];
                    command.extend(parser.arguments(&input[..consumed]).iter().map(<[u8]>::to_vec));
                    commands.push(command);
                    start += consumed;
                }
                Ok(Parsed::Command { consumed }) => {
                    assert!(consumed > 0);
                    commands.push(parser.arguments(&input[..consumed]).iter().map(<[u8]>::to_vec).collect());
                    start += consumed;
                }
                Err(fault) => {
                    assert_eq!(parser.parse(input), Err(fault));
                    return (commands, Some(fault));
                }
            }
        }
    }
    (commands, None)
}

fn parse_all(bytes: &[u8]) -> Outcome {
    feed(Limits::default(), bytes, &[])
}

fn encode_command(arguments: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    array(arguments.len(), &mut out);
    for argument in arguments {
        bulk(argument.as_ref(), &mut out);
    }
    out
}

/// Understands one command and hands the result to `check`.
fn with_request<R>(arguments: &[&[u8]], check: impl FnOnce(Result<Request<'_>, Refusal<'_>>) -> R) -> R {
    let bytes = encode_command(arguments);
    let mut parser = Parser::new(Limits::default());
    assert_eq!(parser.parse(&bytes), Ok(Parsed::Command { consumed: bytes.len() }));
    check(translate(parser.arguments(&bytes), &mut Vec::new()))
}

fn words(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

fn refusal(arguments: &[&[u8]]) -> String {
    with_request(arguments, |result| {
        let mut out = Vec::new();
        result.expect_err("refused").write(&mut out);
        String::from_utf8(out).unwrap()
    })
}

#[track_caller]
fn translates(line: &str, check: impl FnOnce(Request<'_>) -> bool) {
    with_request(&words(line), |result| assert!(check(result.expect("accepted")), "{line}"));
}

#[track_caller]
fn is_data(line: &str, kind: CommandKind, bits: u8, key: &str, value: &[u8]) {
    let expected = Command { kind, flags: bits, session: None, key: key.as_bytes(), value };
    translates(line, |request| matches!(request, Request::Data(command) if command == expected));
}

#[test]
fn arrays_and_inline_commands_are_read() {
    let (commands, fault) =
        parse_all(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n\r\n*0\r\n*-1\r\nPING\n  set k  v \r\n$\r\n");
    assert_eq!(fault, None);
    let expected: [&[&[u8]]; 4] = [&[b"GET", b"a"], &[b"PING"], &[b"set", b"k", b"v"], &[b"$"]];
    assert_eq!(commands, expected);
}

#[test]
fn inline_quotes_follow_the_rules_of_redis() {
    for (line, expected) in [
        (r#"echo 'a\'b' "#, Some(vec![b"echo".to_vec(), b"a'b".to_vec()])),
        (r#"echo "\x41\n\q""#, Some(vec![b"echo".to_vec(), b"A\nq".to_vec()])),
        (r#"echo fo"o b""#, Some(vec![b"echo".to_vec(), b"foo b".to_vec()])),
        (r#"echo "" '' "\xg1\t""#, Some(vec![b"echo".to_vec(), vec![], vec![], b"xg1\t".to_vec()])),
        (r#"echo '\n'"#, Some(vec![b"echo".to_vec(), br"\n".to_vec()])),
        (r#"SET a "b"#, None),
        (r#"SET a "b"c"#, None),
        (r#"SET a 'b"#, None),
        (r#"SET a "b\"#, None),
    ] {
        let (commands, fault) = parse_all(format!("{line}\r\n").as_bytes());
        assert_eq!(commands.into_iter().next(), expected, "{line}");
        assert_eq!(fault, expected.is_none().then_some(RespFault::Quotes), "{line}");
    }
}

#[test]
fn protocol_errors_have_the_texts_of_redis() {
    for (bytes, text) in [
        (&b"*03\r\n"[..], "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*-\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*1\rx", "invalid multibulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*9999999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n:3\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$03\r\n", "invalid bulk length"),
        (b"*1\r\n$a\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$1\r\nab\r\n", "invalid bulk length"),
        (b"a 'b\n", "unbalanced quotes in request"),
    ] {
        let (commands, fault) = parse_all(bytes);
        assert!(commands.is_empty());
        let mut out = Vec::new();
        fault.expect("a fault").write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("-ERR Protocol error: {text}\r\n"));
    }
    assert_eq!(parse_all(&[b'x'; (64 << 10) + 1]).1, Some(RespFault::InlineSize));
    assert_eq!(parse_all(&[b'x'; 64 << 10]).1, None);
    assert_eq!(parse_all(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nset a b\r\n"), (vec![], Some(RespFault::Http)));
}

#[test]
fn bytes_that_were_read_are_not_read_again() {
    let bytes = encode_command(&[b"set".to_vec(), b"k".to_vec(), vec![b'v'; 5000]]);
    let mut parser = Parser::new(Limits::default());
    assert!(
        matches!(parser.parse(&bytes[..100]), Ok(Parsed::Incomplete { needed }) if needed == bytes.len())
    );
    let mut changed = bytes.clone();
    changed[..20].fill(b'?');
    assert_eq!(parser.parse(&changed), Ok(Parsed::Command { consumed: bytes.len() }));

    let mut parser = Parser::new(Limits::default());
    assert!(matches!(parser.parse(b"ping xxx"), Ok(Parsed::Incomplete { needed: 9 })));
    assert!(matches!(parser.parse(b"ping\nxxxyy"), Ok(Parsed::Incomplete { needed: 11 })));
}

#[test]
fn announced_arguments_alone_ask_for_no_memory() {
    let mut parser = Parser::new(Limits::default());
    assert_eq!(parser.parse(b"*1048576\r\n"), Ok(Parsed::Incomplete { needed: 16 }));
}

#[test]
fn replies_have_the_bytes_of_redis() {
    let mut items = Vec::new();
    list::push(&mut items, b"\x01one");
    list::push(&mut items, b"\0");
    let mut replies = Vec::new();
    for reply in [Reply::Int(1), Reply::Nil, Reply::Array(&items), Reply::Error(CommandError::NotAnInteger)] {
        reply::push_item(&reply, &mut replies);
    }
    let refusal = "-ERR value is not an integer or out of range\r\n";
    let [several2, several3] =
        ["$-1", "_"].map(|nil| format!("*4\r\n:1\r\n{nil}\r\n*2\r\n$3\r\none\r\n{nil}\r\n{refusal}"));
    for (reply, resp2, resp3) in [
        (Reply::Replies(&replies), several2.as_str(), several3.as_str()),
        (Reply::Replies(&[]), "*0\r\n", "*0\r\n"),
        (Reply::Ok, "+OK\r\n", "+OK\r\n"),
        (Reply::Nil, "$-1\r\n", "_\r\n"),
        (Reply::Int(-120), ":-120\r\n", ":-120\r\n"),
        (Reply::Bytes(b""), "$0\r\n\r\n", "$0\r\n\r\n"),
        (Reply::Bytes(b"va\r\nlue"), "$7\r\nva\r\nlue\r\n", "$7\r\nva\r\nlue\r\n"),
        (Reply::Status("string"), "+string\r\n", "+string\r\n"),
        (Reply::Array(&items), "*2\r\n$3\r\none\r\n$-1\r\n", "*2\r\n$3\r\none\r\n_\r\n"),
        (
            Reply::Error(CommandError::Overflow),
            "-ERR increment or decrement would overflow\r\n",
            "-ERR increment or decrement would overflow\r\n",
        ),
    ] {
        for (resp3, expected) in [(false, resp2), (true, resp3)] {
            let mut out = Vec::new();
            write_reply(&reply, resp3, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
    for (resp3, expected) in [
        (false, "*4\r\n*3\r\n$1\r\nx\r\n$2\r\n42\r\n*-1\r\n"),
        (true, "%2\r\n~3\r\n=5\r\ntxt:x\r\n$2\r\n42\r\n_\r\n"),
    ] {
        let mut out = Vec::new();
        map(2, resp3, &mut out);
        set(3, resp3, &mut out);
        verbatim("x", resp3, &mut out);
        bulk_integer(42, &mut out);
        null_array(resp3, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    let mut out = Vec::new();
    error("ERR a\r\nb", &mut out);
    simple("c\nd", &mut out);
    assert_eq!(out, b"-ERR a  b\r\n+c d\r\n");
}

#[test]
fn data_commands_become_commands() {
    let mut keys = Vec::new();
    list::push(&mut keys, b"a");
    list::push(&mut keys, b"b");
    use CommandKind::*;
    is_data("get a", Get, 0, "a", b"");
    is_data("SET a b", Set, 0, "a", b"b");
    is_data("set a b NX get", Set, flags::IF_ABSENT | flags::RETURN_OLD, "a", b"b");
    is_data("set a b xx", Set, flags::IF_PRESENT, "a", b"b");
    is_data("SetNx a b", SetNx, 0, "a", b"b");
    is_data("getset a b", GetSet, 0, "a", b"b");
    is_data("getdel a", GetDel, 0, "a", b"");
    is_data("append a b", Append, 0, "a", b"b");
    is_data("strlen a", StrLen, 0, "a", b"");
    is_data("type a", Type, 0, "a", b"");
    is_data("mget a b", MGet, 0, "a", &keys);
    is_data("mset a b", MSet, 0, "a", &keys);
    is_data("msetnx a b", MSet, flags::IF_ABSENT, "a", &keys);
    is_data("del a b", Del, 0, "a", &keys);
    is_data("unlink a b", Del, 0, "a", &keys);
    is_data("exists a b", Exists, 0, "a", &keys);
    is_data("touch a b", Exists, 0, "a", &keys);
    is_data("set a b KEEPTTL", Set, 0, "a", b"b");
    is_data("set a b xx keepttl get", Set, flags::IF_PRESENT | flags::RETURN_OLD, "a", b"b");
    is_data("incr a", IncrBy, 0, "a", &1i64.to_le_bytes());
    is_data("decr a", IncrBy, 0, "a", &(-1i64).to_le_bytes());
    is_data("incrby a -9223372036854775808", IncrBy, 0, "a", &i64::MIN.to_le_bytes());
    is_data("decrby a 9223372036854775807", IncrBy, 0, "a", &(-i64::MAX).to_le_bytes());
}

#[test]
fn everything_else_becomes_a_request() {
    translates("ping", |request| matches!(request, Request::Ping(None)));
    translates("PING hi", |request| matches!(request, Request::Ping(Some(b"hi"))));
    translates("echo hi", |request| matches!(request, Request::Echo(b"hi")));
    translates("select 0", |request| matches!(request, Request::Accepted));
    translates("client no-evict ON", |request| matches!(request, Request::Accepted));
    translates("client no-touch off", |request| matches!(request, Request::Accepted));
    translates("multi", |request| matches!(request, Request::Multi));
    translates("EXEC", |request| matches!(request, Request::Exec));
    translates("discard", |request| matches!(request, Request::Discard));
    translates("unwatch", |request| matches!(request, Request::Unwatch));
    let keys = b"\x01\0\0\0a\x01\0\0\0b";
    translates(
        "watch a b",
        |request| matches!(request, Request::Watch(Command { kind: CommandKind::MGet, key: b"a", value, .. }) if value == keys),
    );
    translates("quit now", |request| matches!(request, Request::Quit));
    translates("reset", |request| matches!(request, Request::Reset));
    translates("dbsize", |request| matches!(request, Request::DbSize));
    translates("readonly", |request| matches!(request, Request::ReadOnly));
    translates("readwrite", |request| matches!(request, Request::ReadWrite));
    let hello = |line, expected| {
        translates(line, |request| matches!(request, Request::Hello(hello) if hello == expected));
    };
    hello("hello", HelloRequest::default());
    hello("HELLO 3", HelloRequest { version: Some(3), ..HelloRequest::default() });
    hello(
        "hello 2 setname x AUTH me secret",
        HelloRequest { version: Some(2), user: Some(b"me"), name: Some(b"x") },
    );
    translates("auth secret", |request| matches!(request, Request::Authenticate(None)));
    translates("auth me secret", |request| matches!(request, Request::Authenticate(Some(b"me"))));
    translates("persist a", |request| matches!(request, Request::Persist));
    translates("time", |request| matches!(request, Request::Time));
    translates("role", |request| matches!(request, Request::Role));
    translates("wait 1 0", |request| matches!(request, Request::Wait));
    translates("wait -1 100", |request| matches!(request, Request::Wait));
    translates("config resetstat", |request| matches!(request, Request::ResetStatistics));
    for line in ["ttl a", "PTTL a", "expiretime a", "pexpiretime a"] {
        translates(
            line,
            |request| matches!(request, Request::TimeToLive(command) if command.kind == CommandKind::Exists),
        );
    }
    let client = |line, expected| {
        translates(line, |request| matches!(request, Request::Client(client) if client == expected));
    };
    client("client setname x", ClientRequest::SetName(b"x"));
    client("client getname", ClientRequest::Name);
    client("CLIENT SETINFO LIB-NAME redis-py", ClientRequest::SetLibraryName(b"redis-py"));
    client("client setinfo lib-ver 1", ClientRequest::SetLibraryVersion(b"1"));
    client("client id", ClientRequest::Id);
    client("client info", ClientRequest::Info);
    client("client list", ClientRequest::List);
    client("client list type normal", ClientRequest::List);
    client("client reply on", ClientRequest::Replies(Replies::On));
    client("client reply OFF", ClientRequest::Replies(Replies::Off));
    client("client reply skip", ClientRequest::Replies(Replies::Skip));
    let cluster = |line, expected| {
        translates(line, |request| matches!(request, Request::Cluster(cluster) if cluster == expected));
    };
    cluster("cluster slots", ClusterRequest::Slots);
    cluster("cluster shards", ClusterRequest::Shards);
    cluster("cluster nodes", ClusterRequest::Nodes);
    cluster("cluster info", ClusterRequest::Info);
    cluster("cluster myid", ClusterRequest::MyId);
    cluster("cluster keyslot foo", ClusterRequest::KeySlot(12182));
    translates("info", |request| matches!(request, Request::Info(sections) if sections.is_empty()));
    translates("info a b", |request| matches!(request, Request::Info(sections) if sections.len() == 2));
    translates(
        "config get save max*",
        |request| matches!(request, Request::ConfigGet(patterns) if patterns.get(1) == b"max*"),
    );
}

#[test]
fn refusals_have_the_texts_of_redis() {
    // Taken from Redis 7.0 over a socket (SETINFO: 7.2).
    for (line, text) in [
        ("foo a b", "ERR unknown command 'foo', with args beginning with: 'a' 'b' "),
        ("foo", "ERR unknown command 'foo', with args beginning with: "),
        ("get", "ERR wrong number of arguments for 'get' command"),
        ("GET a b", "ERR wrong number of arguments for 'get' command"),
        ("ping a b", "ERR wrong number of arguments for 'ping' command"),
        ("mset a b c", "ERR wrong number of arguments for 'mset' command"),
        ("msetnx a b c", "ERR wrong number of arguments for 'msetnx' command"),
        ("dbsize x", "ERR wrong number of arguments for 'dbsize' command"),
        ("client", "ERR wrong number of arguments for 'client' command"),
        ("client foo", "ERR unknown subcommand 'foo'. Try CLIENT HELP."),
        ("client setname", "ERR wrong number of arguments for 'client|setname' command"),
        ("client id x", "ERR wrong number of arguments for 'client|id' command"),
        ("client no-evict maybe", "ERR syntax error"),
        ("client list foo", "ERR syntax error"),
        ("client list type foo", "ERR Unknown client type 'foo'"),
        ("client setinfo x y", "ERR Unrecognized option 'x'"),
        ("config get", "ERR wrong number of arguments for 'config|get' command"),
        ("config foo", "ERR unknown subcommand 'foo'. Try CONFIG HELP."),
        ("cluster keyslot", "ERR wrong number of arguments for 'cluster|keyslot' command"),
        ("command foo", "ERR unknown subcommand 'foo'. Try COMMAND HELP."),
        ("command count x", "ERR wrong number of arguments for 'command|count' command"),
        ("select a", "ERR value is not an integer or out of range"),
        ("select 1", "ERR SELECT is not allowed in cluster mode"),
        ("select -1", "ERR SELECT is not allowed in cluster mode"),
        ("select 2147483648", "ERR value is out of range, value must between -2147483648 and 2147483647"),
        ("wait x 1", "ERR value is not an integer or out of range"),
        ("wait 1 x", "ERR timeout is not an integer or out of range"),
        ("wait 1 -1", "ERR timeout is negative"),
        ("wait 1", "ERR wrong number of arguments for 'wait' command"),
        ("client reply maybe", "ERR syntax error"),
        ("client help x", "ERR wrong number of arguments for 'client|help' command"),
        ("command list all", "ERR syntax error"),
        ("command list filterby pattern", "ERR syntax error"),
        ("command list filterby size 1", "ERR syntax error"),
        ("command list filterby pattern a b", "ERR syntax error"),
        ("command getkeys foo a", "ERR Invalid command specified"),
        ("command getkeys ping a", "ERR The command has no key arguments"),
        ("command getkeys get a b", "ERR Invalid number of arguments specified for command"),
        ("hello a", "ERR Protocol version is not an integer or out of range"),
        ("hello 4", "NOPROTO unsupported protocol version"),
        ("hello 3 foo", "ERR Syntax error in HELLO option 'foo'"),
        ("hello 2 auth a", "ERR Syntax error in HELLO option 'auth'"),
        ("auth a b c", "ERR syntax error"),
        ("set a b nx xx", "ERR syntax error"),
        ("set a b ex", "ERR syntax error"),
        ("set a b foo", "ERR syntax error"),
        ("set a b ex 10", "ERR expiry is not supported (EX, PX, EXAT and PXAT)"),
        ("incrby a +1", "ERR value is not an integer or out of range"),
        ("incrby a 01", "ERR value is not an integer or out of range"),
        ("incrby a 9223372036854775808", "ERR value is not an integer or out of range"),
        ("incrby a -0", "ERR value is not an integer or out of range"),
        ("decrby a -9223372036854775808", "ERR decrement would overflow"),
    ] {
        assert_eq!(refusal(&words(line)), format!("-{text}\r\n"), "{line}");
    }
    assert_eq!(
        refusal(&[b"client", b"setname", b"a b"]),
        "-ERR Client names cannot contain spaces, newlines or special characters.\r\n"
    );
    assert_eq!(
        refusal(&[b"foo\r\nbar", b"x\r\ny"]),
        "-ERR unknown command 'foo  bar', with args beginning with: 'x  y' \r\n"
    );
    assert_eq!(
        refusal(&[&[b'f'; 200], &[b'y'; 100], &[b'z'; 100], b"w"]),
        format!(
            "-ERR unknown command '{}', with args beginning with: '{}' '{}' \r\n",
            "f".repeat(128),
            "y".repeat(100),
            "z".repeat(25)
        )
    );
}

#[test]
fn a_key_beyond_the_limit_is_refused_wherever_it_stands() {
    let key = vec![b'k'; 65536];
    for arguments in [
        &[b"get", &key[..]][..],
        &[b"set", &key, b"v"],
        &[b"mget", b"a", &key],
        &[b"mset", b"a", &key, &key, b"v"],
    ] {
        assert_eq!(
            refusal(arguments),
            "-ERR key is longer than 65535 bytes: the command was not executed\r\n"
        );
    }
    with_request(&[b"mset", b"a", &key], |result| assert!(result.is_ok()));
}

#[test]
fn every_command_is_found_in_any_case_and_nothing_else_is() {
    for (position, info) in TABLE.iter().enumerate() {
        let found = CommandName::find(info.name.to_uppercase().as_bytes()).unwrap();
        assert_eq!((found as usize, found.info().name), (position, info.name));
        assert!(CommandName::find(&info.name.as_bytes()[1..]).is_none_or(|other| other != found));
    }
    for stranger in [&b""[..], b"\0get", b"g", b"gett", b"a-name-of-17-byte", b"client|id"] {
        assert_eq!(CommandName::find(stranger), None);
    }
}

#[test]
fn patterns_match_as_in_redis() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("max*", "MAXmemory", true),
        ("max*y", "maxmemory-policy", true),
        ("m?x", "max", true),
        ("m?x", "mx", false),
        ("h[ae]llo", "hEllo", true),
        ("h[^e]llo", "hello", false),
        ("h[a-c]llo", "hbllo", true),
        ("h[c-a]llo", "hbllo", true),
        ("h[\\]]llo", "h]llo", true),
        ("h[a", "ha", true),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("a\\", "a\\", true),
        ("", "a", false),
        ("a", "", false),
        ("[", "a", false),
    ] {
        assert_eq!(matches_glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
    }
    assert!(!matches_glob("a*".repeat(200).as_bytes(), "a".repeat(199).as_bytes()));
}

/// Bytes that look like requests often enough to get deep into the parser.
fn almost_requests() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        proptest::sample::select(TABLE).prop_map(|info| info.name.as_bytes().to_vec()),
        vec(any::<u8>(), 0..8),
    ];
    let word = prop_oneof![
        proptest::sample::select(vec![
            &b"nx"[..],
            b"xx",
            b"get",
            b"ex",
            b"setname",
            b"setinfo",
            b"lib-name",
            b"list",
            b"type",
            b"info",
            b"keyslot",
            b"docs",
            b"count",
            b"auth",
            b"2",
            b"3",
            b"-9223372036854775808",
            b"",
            b"a\r\nb",
        ])
        .prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 0..12),
    ];
    let array = (name, vec(word, 0..5)).prop_map(|(name, mut words)| {
        words.insert(0, name);
        encode_command(&words)
    });
    let piece = prop_oneof![
        4 => array,
        1 => vec(any::<u8>(), 0..20),
        1 => "[a-z'\"\\\\ \t]{0,20}\r?\n".prop_map(String::into_bytes),
        1 => "[*$][-0-9]{0,12}\r\n".prop_map(String::into_bytes),
    ];
    (vec(piece, 0..6), any::<prop::sample::Index>(), any::<Option<u8>>()).prop_map(|(pieces, at, flip)| {
        let mut bytes = pieces.concat();
        if let Some(flip) = flip
            && !bytes.is_empty()
        {
            let at = at.index(bytes.len());
            bytes[at] = flip;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn commands_come_back_however_they_are_cut(
        commands in vec(vec(vec(any::<u8>(), 0..300), 1..6), 0..6),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
        every in 1usize..8,
    ) {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode_command(command)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(&feed(Limits::default(), &bytes, &cuts), &(commands.clone(), None));
        let regular: Vec<usize> = (0..bytes.len()).step_by(every).collect();
        prop_assert_eq!(feed(Limits::default(), &bytes, &regular), (commands, None));
    }

    #[test]
    fn cuts_change_nothing_for_bad_bytes_either(
        bytes in almost_requests(), cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let whole = parse_all(&bytes);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(&feed(Limits::default(), &bytes, &cuts), &whole);
        let single: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(&feed(Limits::default(), &bytes, &single), &whole);
    }

    #[test]
    fn no_bytes_panic_and_every_answer_is_one_line_or_valid(bytes in almost_requests()) {
        let limits = Limits { request_size_max: 100, inline_size_max: 30, bulk_size_max: 50, argument_count_max: 9 };
        for limits in [Limits::default(), limits] {
            let mut scratch = Vec::new();
            for command in feed(limits, &bytes, &[bytes.len() / 2]).0 {
                let bytes = encode_command(&command);
                let mut parser = Parser::new(Limits::default());
                prop_assert_eq!(parser.parse(&bytes), Ok(Parsed::Command { consumed: bytes.len() }));
                match translate(parser.arguments(&bytes), &mut scratch) {
                    Ok(Request::Help(container)) => write_help(container, &mut Vec::new()),
                    Ok(Request::Data(command)) => prop_assert!(command.is_valid()),
                    Ok(Request::Command(query)) => query.write(true, &mut Vec::new()),
                    Ok(Request::Cluster(ClusterRequest::KeySlot(slot))) => {
                        prop_assert_eq!(slot, key_slot(&command[2]));
                    }
                    Ok(_) => {}
                    Err(refusal) => {
                        let mut out = Vec::new();
                        refusal.write(&mut out);
                        prop_assert!(out.starts_with(b"-") && out.ends_with(b"\r\n") && out.len() < 512);
                        prop_assert!(!out[..out.len() - 2].iter().any(|byte| matches!(byte, b'\r' | b'\n')));
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_are_decimal(value: i64, shift in 0u32..64) {
        for value in [value, value >> shift, i64::MIN, i64::MAX, 0, 10, 99, 100, -1] {
            let mut out = Vec::new();
            integer(value, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!(":{value}\r\n"));
            prop_assert_eq!(parser::parse_integer(value.to_string().as_bytes()), Some(value));
        }
    }

    #[test]
    fn no_pattern_panics(pattern in "[a-c*?^\\[\\]\\\\-]{0,12}", text in "[a-c]{0,12}") {
        let _ = matches_glob(pattern.as_bytes(), text.as_bytes());
        let prefix = [text.as_bytes(), b"*"].concat();
        prop_assert!(matches_glob(&prefix, text.as_bytes()));
    }
}
