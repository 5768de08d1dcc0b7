//! From the tree to typed values: every key with its range and default, and the rules between keys.
//!
//! Invariant: if no error was noted, the result satisfies everything that the doc comments of the schema promise.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use panch_replica::ceilings::VALUE_SIZE_MAX;
use panch_runtime::options;
use panch_wire::batch;
use panch_wire::command::{Command, CommandKind, KEY_SIZE_MAX, SessionHeader};
use panch_wire::frame::{PAGE_SIZE, pages_for};
use panch_wire::ids::REPLICAS_MAX;

use super::members;
use super::placement::{self, GROUP_COUNT_MAX};
use super::reader::{Located, Notes, Reader};
use super::schema::{
    ClusterConfig, Config, Cores, Durability, Idle, Member, NodeConfig, NodeId, ProtocolKind, ReadLevel,
};
use super::source::{Diagnostic, Item, Table};
use super::units::{Period, Size};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// A core needs room for a batch being filled, one being sent, one being received and one being caught up.
const FRAMES_MIN: u64 = 4;
/// The longest reply beyond the value itself: a RESP length line.
const REPLY_OVERHEAD: u64 = 64;
/// So many of the largest values fit into the memory for clients.
const CLIENT_VALUES_MIN: u64 = 4;
/// See [`options::CLIENT_LITTLE_MIN`].
const CLIENT_LITTLE: u64 = options::CLIENT_LITTLE_MIN as u64;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Bytes that a batch of one command adds to the command's value, at most.
fn command_overhead() -> u64 {
    let session = Some(SessionHeader { session: 1, number: 1, acked_below: 1 });
    let empty = Command { kind: CommandKind::Set, flags: 0, session, key: &[], value: &[] };
    (batch::OVERHEAD + batch::size_of_command(&empty) + KEY_SIZE_MAX) as u64
}

/// Memory that a frame of `size` bytes takes from its pool: the pool's classes are powers of two of pages.
fn footprint(size: u64) -> u64 {
    (pages_for(size as usize).next_power_of_two() * PAGE_SIZE) as u64
}

/// Reads the whole tree. `file_folder` is what relative paths of the file start from. `None` if something that the rest
/// hangs on is missing; whatever is wrong is in `notes`.
pub(super) fn config(tree: &Table, file_folder: &Path, notes: &Notes) -> Option<Config> {
    let mut root = Reader::root(tree, notes);
    let cluster_reader = root.table("cluster", "what all nodes agree on");
    let node_reader = root.table("node", "what this node decides for itself");
    root.finish(&[]);
    let cluster = cluster_reader.map(|mut reader| (cluster(&mut reader, notes), reader));
    let members = cluster.as_ref().map_or(&[][..], |((cluster, _), _)| cluster.members.as_slice());
    let node = node_reader.map(|mut reader| (node(&mut reader, members, file_folder, notes), reader));

    let keys = |reader: &Reader<'_>| reader.asked().to_vec();
    let cluster_keys = cluster.as_ref().map_or(Vec::new(), |(_, reader)| keys(reader));
    let node_keys = node.as_ref().map_or(Vec::new(), |(_, reader)| keys(reader));
    let cluster = cluster.map(|(parts, reader)| {
        reader.finish(&[("node", &node_keys)]);
        parts
    });
    let node = node.map(|(node, reader)| {
        reader.finish(&[("cluster", &cluster_keys)]);
        node
    });
    let ((cluster, sizes), (node, located)) = (cluster?, node?);
    between(&sizes, &located, notes);
    Some(Config { cluster, node })
}

/// The values of `[cluster]` that rules of `[node]` compare with.
struct ClusterSizes {
    batch_size_max: Located<u64>,
    value_size_max: Located<u64>,
}

/// The values of `[node]` that are compared with `[cluster]`.
struct NodeSizes {
    log_segment_size: Located<u64>,
    frame_pool_size: Located<u64>,
    client_memory_max: Located<u64>,
    client_connections_max: Located<u64>,
}

fn cluster(reader: &mut Reader<'_>, notes: &Notes) -> (ClusterConfig, ClusterSizes) {
    let name = reader.required_text("name", "\"orders\"");
    let id = reader.text("id", "", "\"2f6c\"");
    let protocol = reader.choice("protocol", ProtocolKind::ALL, ProtocolKind::Multi);
    let groups = reader.number("groups", 1..=GROUP_COUNT_MAX, 1);
    let placement = placement::read(reader, &protocol, &groups, notes);
    let members = members::read(reader, notes);
    let batch_commands = reader.number("batch_commands", 1..=65_536, 100);
    let pipeline_depth = reader.number("pipeline_depth", 1..=1024, 10);
    let batch_size_max = reader.size("batch_size_max", 4 * KIB..=16 * MIB, 64 * KIB);
    let linger = reader.period("linger", Duration::ZERO..=ms(1000), Duration::ZERO);
    let value_size_max = reader.size("value_size_max", 1..=VALUE_SIZE_MAX as u64, MIB);
    let heartbeat_interval = reader.period("heartbeat_interval", ms(1)..=ms(60_000), ms(100));
    let election_timeout = reader.period("election_timeout", ms(3)..=ms(600_000), ms(500));
    let lease = reader.period("lease", Duration::ZERO..=ms(600_000), election_timeout.value / 2);
    let clock_drift_ppm = reader.number("clock_drift_ppm", 0..=100_000, 10_000);
    let slow_after = reader.period("slow_after", ms(1)..=ms(60_000), ms(50));
    let recover_after = reader.period("recover_after", ms(2)..=ms(600_000), ms(300));
    let recover_always_after = reader.period("recover_always_after", ms(3)..=ms(3_600_000), ms(2000));
    let fast_free_for_all = reader.boolean("fast_free_for_all", false);
    let epaxos_thrifty = reader.boolean("epaxos_thrifty", false);

    identifier(&name, "cluster.name", false, notes);
    identifier(&id, "cluster.id", true, notes);
    let (beat, timeout) = (&heartbeat_interval, &election_timeout);
    if beat.sound && timeout.sound && timeout.value < beat.value * 3 {
        let title = format!(
            "`cluster.election_timeout` ({}) is less than three times `cluster.heartbeat_interval` ({})",
            Period(timeout.value),
            Period(beat.value)
        );
        let (place, context) =
            if timeout.place.is_some() { (&timeout.place, &beat.place) } else { (&beat.place, &None) };
        let diagnostic = Diagnostic::error(title)
            .near(place.as_ref(), "one lost heartbeat would start an election")
            .with(context.as_ref(), "the interval")
            .help(format!(
                "use an election timeout of at least {}, or a shorter interval",
                Period(beat.value * 3)
            ));
        notes.push(diagnostic);
    }
    if lease.sound && timeout.sound && lease.value >= timeout.value {
        let title = format!(
            "`cluster.lease` ({}) is not less than `cluster.election_timeout` ({})",
            Period(lease.value),
            Period(timeout.value)
        );
        let diagnostic = Diagnostic::error(title)
            .near(lease.place.as_ref().or(timeout.place.as_ref()), "nobody could be elected in time")
            .with(timeout.place.as_ref(), "the timeout")
            .help(format!("use a lease of at most half the timeout: {}", Period(timeout.value / 2)));
        notes.push(diagnostic);
    }
    let slow = ("slow_after", &slow_after);
    let recover = ("recover_after", &recover_after);
    less(slow, recover, "instances whose quorum is still waited for would be recovered", notes);
    less(
        recover,
        ("recover_always_after", &recover_always_after),
        "suspicion would make no difference",
        notes,
    );

    let config = ClusterConfig {
        name: name.value,
        id: id.value,
        protocol: protocol.value,
        groups: groups.value as u16,
        placement,
        members,
        batch_commands: batch_commands.value as usize,
        pipeline_depth: pipeline_depth.value as usize,
        batch_size_max: batch_size_max.value as usize,
        linger: linger.value,
        value_size_max: value_size_max.value as usize,
        heartbeat_interval: heartbeat_interval.value,
        election_timeout: election_timeout.value,
        lease: lease.value,
        clock_drift_ppm: clock_drift_ppm.value,
        slow_after: slow_after.value,
        recover_after: recover_after.value,
        recover_always_after: recover_always_after.value,
        fast_free_for_all: fast_free_for_all.value,
        epaxos_thrifty: epaxos_thrifty.value,
    };
    (config, ClusterSizes { batch_size_max, value_size_max })
}

/// One period of `[cluster]` must be shorter than another; `otherwise` says why.
fn less(
    (first, shorter): (&str, &Located<Duration>),
    (second, longer): (&str, &Located<Duration>),
    otherwise: &str,
    notes: &Notes,
) {
    if !(shorter.sound && longer.sound) || shorter.value < longer.value {
        return;
    }
    let (short, long) = (Period(shorter.value), Period(longer.value));
    let title = format!("`cluster.{second}` ({long}) is not longer than `cluster.{first}` ({short})");
    let (place, context) =
        if longer.place.is_some() { (&longer.place, &shorter.place) } else { (&shorter.place, &None) };
    let diagnostic =
        Diagnostic::error(title).near(place.as_ref(), otherwise).with(context.as_ref(), "must be shorter");
    notes.push(diagnostic.help(format!("let `{second}` be several times `{first}`")));
}

/// Names end up in file names, log lines and metric labels.
fn identifier(text: &Located<String>, key: &str, may_be_empty: bool, notes: &Notes) {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_valid =
        text.value.len() <= 64 && text.value.chars().all(fits) && (may_be_empty || !text.value.is_empty());
    if text.sound && !is_valid {
        let label = if text.value.is_empty() {
            "empty"
        } else {
            "only letters, digits, `.`, `_` and `-`, 64 at most"
        };
        notes.push(
            Diagnostic::error(format!("`{key}` cannot be used as a name")).near(text.place.as_ref(), label),
        );
    }
}

fn node(
    reader: &mut Reader<'_>,
    members: &[Member],
    file_folder: &Path,
    notes: &Notes,
) -> (NodeConfig, NodeSizes) {
    let id = reader.required_number("id", 1..=REPLICAS_MAX as u64, "1");
    let own = members.iter().find(|member| u64::from(member.node.0) == id.value);
    if id.sound && own.is_none() && !members.is_empty() {
        let known: Vec<String> = members.iter().map(|member| member.node.to_string()).collect();
        let title = format!("`node.id` is {}, but `cluster.members` has no such node", id.value);
        let diagnostic = Diagnostic::error(title).near(id.place.as_ref(), "not a member");
        notes.push(diagnostic.help(format!("the members are nodes {}", known.join(", "))));
    }
    let data_dir = data_dir(reader, file_folder);
    let secret_file = secret_file(reader, file_folder);
    let cores = cores(reader);
    let durability = reader.choice("durability", Durability::ALL, Durability::Sync);
    let periodic_interval = reader.period("periodic_interval", ms(1)..=ms(60_000), ms(100));
    let idle = reader.choice("idle", Idle::ALL, Idle::SpinThenPark);
    let spin = reader.period("spin", Duration::ZERO..=ms(10), Duration::from_micros(50));
    let own = if id.sound { own } else { None };
    let (resp, native, peer) = (
        members::listen(reader, "resp_listen", own.map(|own| &own.client), "client"),
        members::listen(reader, "native_listen", own.map(|own| &own.native), "native"),
        members::listen(reader, "peer_listen", own.map(|own| &own.peer), "peer"),
    );
    members::check_listen(
        &[("node.resp_listen", &resp), ("node.native_listen", &native), ("node.peer_listen", &peer)],
        notes,
    );
    let log_segment_size = reader.size("log_segment_size", 2 * MIB..=4 * GIB, 64 * MIB);
    let log_writes_in_flight = reader.number("log_writes_in_flight", 1..=64, 1);
    let snapshot_log_size = reader.size("snapshot_log_size", 2 * MIB..=1 << 40, 256 * MIB);
    let frame_pool_size = reader.size("frame_pool_size", MIB..=64 * GIB, 64 * MIB);
    let client_connections_max = reader.number("client_connections_max", 1..=1_000_000, 10_000);
    let request_timeout = reader.period("request_timeout", ms(100)..=ms(60_000), ms(3000));
    let default_read_level = reader.choice("default_read_level", ReadLevel::ALL, ReadLevel::Quorum);
    let data_memory_max = reader.size("data_memory_max", 0..=64 << 40, 0);
    let client_memory_max = reader.size("client_memory_max", MIB..=64 * GIB, 96 * MIB);

    let segment = &log_segment_size;
    if segment.sound && !segment.value.is_multiple_of(PAGE_SIZE as u64) {
        let title = "`node.log_segment_size` is not a multiple of 4KiB";
        let diagnostic =
            Diagnostic::error(title).near(segment.place.as_ref(), "direct writes need whole pages");
        let rounded = segment.value.next_multiple_of(PAGE_SIZE as u64);
        notes.push(diagnostic.help(format!("use {}", Size(rounded))));
    }
    let snapshot = &snapshot_log_size;
    if snapshot.sound && segment.sound && snapshot.value < segment.value {
        let title = format!(
            "`node.snapshot_log_size` ({}) is less than `node.log_segment_size` ({})",
            Size(snapshot.value),
            Size(segment.value)
        );
        let (place, context) = if snapshot.place.is_some() {
            (&snapshot.place, &segment.place)
        } else {
            (&segment.place, &None)
        };
        let diagnostic = Diagnostic::error(title)
            .near(place.as_ref(), "a snapshot would free no whole segment")
            .with(context.as_ref(), "one segment")
            .help("let a snapshot cover at least one segment; four or more are usual");
        notes.push(diagnostic);
    }
    if durability.sound && durability.value != Durability::Sync {
        let text = match durability.value {
            Durability::Periodic => "a power failure may lose writes that were acknowledged",
            _ => "nothing is written to disk: every restart of this node forgets",
        };
        let title = format!("`node.durability` is \"{}\"", durability.value);
        let diagnostic = Diagnostic::warning(title).near(durability.place.as_ref(), text);
        notes.push(diagnostic.help("use \"sync\" wherever the data matters"));
    }

    let unspecified = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let config = NodeConfig {
        id: NodeId(id.value as u8),
        data_dir,
        secret_file,
        cores,
        durability: durability.value,
        periodic_interval: periodic_interval.value,
        idle: idle.value,
        spin: spin.value,
        resp_listen: resp.value.unwrap_or(unspecified),
        native_listen: native.value.unwrap_or(unspecified),
        peer_listen: peer.value.unwrap_or(unspecified),
        log_segment_size: log_segment_size.value,
        log_writes_in_flight: log_writes_in_flight.value as usize,
        snapshot_log_size: snapshot_log_size.value,
        frame_pool_size: frame_pool_size.value as usize,
        client_connections_max: client_connections_max.value as usize,
        data_memory_max: data_memory_max.value,
        client_memory_max: client_memory_max.value as usize,
        request_timeout: request_timeout.value,
        default_read_level: default_read_level.value,
    };
    (config, NodeSizes { log_segment_size, frame_pool_size, client_memory_max, client_connections_max })
}

/// A relative path of the file starts from the file's folder, so that the node finds its data wherever it is started
/// from; one of a flag starts from the current directory, as the shell completes it.
fn data_dir(reader: &mut Reader<'_>, file_folder: &Path) -> PathBuf {
    let text = reader.required_text("data_dir", "\"/var/lib/panch\"");
    let Some(place) = text.place.as_ref().filter(|_| text.sound) else { return PathBuf::new() };
    let path = if place.source == 0 { file_folder.join(&text.value) } else { PathBuf::from(&text.value) };
    let problem = if text.value.is_empty() {
        Some(("is empty", "name a folder that belongs to this node alone"))
    } else if path.exists() && !path.is_dir() {
        Some(("is not a folder", "a file of this name exists; choose another name or remove it"))
    } else {
        None
    };
    if let Some((problem, help)) = problem {
        let diagnostic = Diagnostic::error(format!("`node.data_dir` {problem}"));
        reader.note(diagnostic.at(place.clone(), path.display().to_string()).help(help));
    }
    path
}

/// A path like that of the data directory; empty: none. Whether the file is there is this machine's matter.
fn secret_file(reader: &mut Reader<'_>, file_folder: &Path) -> Option<PathBuf> {
    let text = reader.text("secret_file", "", "\"/etc/panch/secret\"");
    let place = text.place.as_ref().filter(|_| text.sound && !text.value.is_empty())?;
    Some(if place.source == 0 { file_folder.join(&text.value) } else { PathBuf::from(&text.value) })
}

fn cores(reader: &mut Reader<'_>) -> Cores {
    const CPU_MAX: i128 = 4095;
    const COUNT_MAX: i128 = options::CORES_MAX as i128;
    let help = "write a number of cores (`cores = 2`), `cores = \"all\"`, or the CPUs (`cores = [0, 2]`)";
    let Some(value) = reader.find("cores") else {
        reader.note_default("cores");
        return Cores::Count(1);
    };
    match &value.item {
        Item::Integer(count @ 1..=COUNT_MAX) => return Cores::Count(*count as usize),
        Item::String(word) if word == "all" => return Cores::All,
        Item::Integer(_) => {
            reader.refuse("cores", value, "is out of range", format!("must be from 1 to {COUNT_MAX}"), "")
        }
        Item::Array(items) if items.is_empty() => {
            reader.refuse("cores", value, "is empty", "no CPU at all", help)
        }
        Item::Array(items) if items.len() > options::CORES_MAX => {
            let reason = format!("{} CPUs; a node has {COUNT_MAX} cores at most", items.len());
            reader.refuse("cores", value, "is too long", reason, "")
        }
        Item::Array(items) => {
            let mut cpus = Vec::new();
            let errors_before = reader.error_count();
            for item in items {
                match &item.item {
                    Item::Integer(cpu @ 0..=CPU_MAX) if cpus.contains(&(*cpu as usize)) => {
                        reader.refuse("cores", item, "names a CPU twice", "again", "")
                    }
                    Item::Integer(cpu @ 0..=CPU_MAX) => cpus.push(*cpu as usize),
                    other => {
                        let reason = format!("this is {}", other.describe());
                        reader.refuse("cores", item, "must list CPU numbers from 0 to 4095", reason, "")
                    }
                }
            }
            if reader.error_count() == errors_before {
                return Cores::List(cpus);
            }
        }
        other => {
            let reason = format!("this is {}", other.describe());
            reader.refuse("cores", value, "cannot be understood", reason, help);
        }
    }
    Cores::Count(1)
}

/// Whether what every client may hold, whatever the others do, leaves half of their memory to share.
fn clients(node: &NodeSizes, notes: &Notes) {
    let (memory, connections) = (&node.client_memory_max, &node.client_connections_max);
    let least = 2 * CLIENT_LITTLE * connections.value;
    if !(memory.sound && connections.sound) || memory.value >= least {
        return;
    }
    let title = format!(
        "`node.client_memory_max` ({}) is little for {} clients (`node.client_connections_max`)",
        Size(memory.value),
        connections.value
    );
    let (place, context) = if memory.place.is_some() {
        (&memory.place, &connections.place)
    } else {
        (&connections.place, &None)
    };
    let label =
        format!("each may hold {} whatever the others do: together they may exceed it", Size(CLIENT_LITTLE));
    let diagnostic =
        Diagnostic::warning(title).near(place.as_ref(), label).with(context.as_ref(), "so many clients");
    notes.push(diagnostic.help(format!(
        "set `node.client_memory_max` to at least {}, or `node.client_connections_max` to at most {}",
        Size(least),
        memory.value / (2 * CLIENT_LITTLE)
    )));
}

/// Rules between `[cluster]` and `[node]`: what is agreed on must fit what this node sets aside.
fn between(cluster: &ClusterSizes, node: &NodeSizes, notes: &Notes) {
    let (batch, value) = (&cluster.batch_size_max, &cluster.value_size_max);
    if !(batch.sound && value.sound) {
        return;
    }
    let from_value = value.value + command_overhead();
    let (largest, cause) = if from_value > batch.value { (from_value, value) } else { (batch.value, batch) };
    let frame = footprint(largest);
    let too_small =
        |size: &Located<u64>, cause: &Located<u64>, key: &str, least: u64, label: &str, reason: &str| {
            if !size.sound || size.value >= least {
                return;
            }
            let title = format!("`{key}` ({}) is too small: {reason}", Size(size.value));
            let (place, context) =
                if size.place.is_some() { (&size.place, &cause.place) } else { (&cause.place, &None) };
            let diagnostic = Diagnostic::error(title)
                .near(place.as_ref(), label)
                .with(context.as_ref(), "because of this");
            notes.push(
                diagnostic.help(format!("set `{key}` to at least {}, or allow less here", Size(least))),
            );
        };
    let need = format!("the largest batch takes {}", Size(frame));
    too_small(
        &node.log_segment_size,
        cause,
        "node.log_segment_size",
        2 * frame,
        "a segment must hold two of the largest",
        &need,
    );
    too_small(
        &node.frame_pool_size,
        cause,
        "node.frame_pool_size",
        FRAMES_MIN * frame,
        "a core must hold four of the largest",
        &need,
    );
    let least = CLIENT_VALUES_MIN * (value.value + REPLY_OVERHEAD).next_multiple_of(64 * KIB);
    let need = format!("the largest value takes {}", Size(value.value));
    too_small(
        &node.client_memory_max,
        value,
        "node.client_memory_max",
        least,
        "clients must be able to be owed four of the largest",
        &need,
    );
    if node.client_memory_max.value >= least {
        clients(node, notes);
    }
}
