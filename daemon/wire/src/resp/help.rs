//! What `HELP` says of the subcommands of a command, in Redis' words for those that there are.

use super::encode;
use super::table::CommandName;

const CLIENT: &[&str] = &[
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "LIST [TYPE NORMAL]",
    "    Return information about client connections.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Set the name or the version of the client library of the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "NO-EVICT (ON|OFF)",
    "    Accepted: no connection is evicted to free memory.",
    "NO-TOUCH (ON|OFF)",
    "    Accepted: commands do not change how long ago keys were used.",
];

const COMMAND: &[&str] = &[
    "(no subcommand)",
    "    Return details about all Redis commands.",
    "COUNT",
    "    Return the total number of commands in this Redis server.",
    "LIST [FILTERBY (MODULE <module>|ACLCAT <category>|PATTERN <pattern>)]",
    "    Return a list of all commands in this Redis server.",
    "INFO [<command-name> ...]",
    "    Return details about multiple Redis commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "DOCS [<command-name> ...]",
    "    Return an empty map: there is no documentation here.",
    "GETKEYS <full-command>",
    "    Return the keys from a full Redis command.",
];

const CONFIG: &[&str] = &[
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "RESETSTAT",
    "    Reset statistics reported by the INFO command in its section stats.",
];

const CLUSTER: &[&str] = &[
    "INFO",
    "    Return information about the cluster.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "MYID",
    "    Return the node id.",
    "NODES",
    "    Return cluster configuration seen by node. Output format:",
    "    <id> <ip:port> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ...",
    "SLOTS",
    "    Return information about slots range mappings. Each range is made of:",
    "    start, end, master and replicas IP addresses, ports and ids",
    "SHARDS",
    "    Return information about slot range mappings and the nodes associated with them.",
];

/// The lines about the subcommands of `container`; none if it has none.
pub(super) fn lines(container: CommandName) -> &'static [&'static str] {
    match container {
        CommandName::Client => CLIENT,
        CommandName::Command => COMMAND,
        CommandName::Config => CONFIG,
        CommandName::Cluster => CLUSTER,
        _ => &[],
    }
}

/// Appends the answer to `HELP` of a command with subcommands.
pub fn write_help(container: CommandName, out: &mut Vec<u8>) {
    let lines = lines(container);
    let title = format!(
        "{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        container.info().name.to_ascii_uppercase()
    );
    encode::array(lines.len() + 3, out);
    let all = [title.as_str()].into_iter().chain(lines.iter().copied());
    for line in all.chain(["HELP", "    Prints this help."]) {
        encode::simple(line, out);
    }
}
