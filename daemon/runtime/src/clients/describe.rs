//! What a node says of itself to Redis clients: HELLO, INFO, CONFIG GET and CLIENT LIST.

use std::fmt::Write;
use std::net::SocketAddr;

use panch_replica::divergence::Standing;
use panch_replica::latency::Latencies;
use panch_replica::rejoin::Membership;
use panch_replica::status::GroupStatus;
use panch_ring::ring::Ring;
use panch_wal::Durability;
use panch_wire::resp::{self, Arguments, matches_glob};
use panch_wire::time::Instant;

use super::Counter;
use super::connection::{Connection, Speech};
use super::groups;
use super::latency;
use super::table::Clients;
use crate::counters::{CommandCounts, CoreCounters};
use crate::view::NodeView;

/// The version of Redis whose commands and texts are followed.
const REDIS_VERSION: &str = "7.0.15";

/// What else the core knows when a client asks.
pub(crate) struct Neighbours<'a> {
    pub(crate) clients: &'a Clients,
    pub(crate) counters: &'a CoreCounters,
    pub(crate) ring: &'a Ring,
}

/// The answer to HELLO.
pub(crate) fn hello(id: u64, resp3: bool, out: &mut Vec<u8>) {
    resp::map(7, resp3, out);
    let text = |key: &str, value: &str, out: &mut Vec<u8>| {
        resp::bulk(key.as_bytes(), out);
        resp::bulk(value.as_bytes(), out);
    };
    text("server", "redis", out);
    text("version", REDIS_VERSION, out);
    resp::bulk(b"proto", out);
    resp::integer(if resp3 { 3 } else { 2 }, out);
    resp::bulk(b"id", out);
    resp::integer(id as i64, out);
    text("mode", "cluster", out);
    text("role", "master", out);
    resp::bulk(b"modules", out);
    resp::array(0, out);
}

/// The answer to ROLE: every node takes writes, and there are no replicas in Redis' sense.
pub(crate) fn role(out: &mut Vec<u8>) {
    resp::array(3, out);
    resp::bulk(b"master", out);
    resp::integer(0, out);
    resp::array(0, out);
}

/// The answer to TIME: seconds and microseconds since 1970.
pub(crate) fn time(out: &mut Vec<u8>) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    resp::array(2, out);
    resp::bulk_integer(now.as_secs() as i64, out);
    resp::bulk_integer(i64::from(now.subsec_micros()), out);
}

/// How many other nodes have every write that was answered: with this one they are a majority.
pub(crate) fn others_for_certain(view: &NodeView) -> usize {
    view.options.members.len() / 2
}

/// What a line of CLIENT LIST takes, about.
pub(crate) const CLIENT_LINE_SIZE: usize = 512;

/// The lines of CLIENT LIST of one core.
pub(crate) fn client_lines(clients: &Clients, ring: &Ring, now: Instant) -> String {
    clients.iter().map(|connection| client_line(connection, ring, now)).collect()
}

/// One line of CLIENT LIST.
pub(crate) fn client_line(connection: &Connection, ring: &Ring, now: Instant) -> String {
    let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let address =
        |address: Option<SocketAddr>| address.map_or_else(|| "?:0".to_string(), |it| it.to_string());
    let (number, local) = ring.identity(connection.socket).unwrap_or((-1, None));
    let (name, library, version, proto, queued, arguments_size, queued_size) = match &connection.speech {
        Speech::Resp(speech) => (
            show(&speech.name),
            show(&speech.library),
            show(&speech.library_version),
            if speech.resp3 { 3 } else { 2 },
            speech.multi.queued(),
            speech.parser.size(),
            speech.multi.size(),
        ),
        Speech::Native(_) => Default::default(),
    };
    let flags = if queued.is_some() { "x" } else { "N" };
    let is_writable = connection.sending || !connection.output.is_empty();
    format!(
        "id={} addr={} laddr={} fd={number} name={name} age={} idle={} flags={flags} db=0 sub=0 psub=0 ssub=0 multi={} qbuf={} qbuf-free={} \
         argv-mem={arguments_size} multi-mem={queued_size} obl={} oll={} omem={} tot-mem={} events={} cmd={} user=default redir=-1 \
         resp={proto} lib-name={library} lib-ver={version}\n",
        connection.id,
        address(connection.address),
        address(local),
        now.since(connection.since).as_secs(),
        now.since(connection.began).as_secs(),
        queued.map_or(-1, |count| count as i64),
        connection.input.len(),
        connection.input.capacity() - connection.input.len(),
        connection.held(),
        connection.outstanding(),
        connection.held() + connection.unsent,
        connection.size() + size_of::<Connection>(),
        if is_writable { "rw" } else { "r" },
        connection.command,
    )
}

/// The name of a durability mode.
pub(crate) fn durability(mode: Durability) -> &'static str {
    match mode {
        Durability::Sync => "sync",
        Durability::Periodic { .. } => "periodic",
        Durability::Memory => "memory",
    }
}

/// Every group of the node, this core's as they are now.
pub(super) fn groups(counter: &Counter<'_>) -> Vec<GroupStatus> {
    let view = counter.view;
    let mut groups = view.reports.groups();
    groups.retain(|status| view.core_of(status.group) != view.core);
    groups.extend(counter.core.status());
    groups.sort_unstable_by_key(|status| status.group);
    groups
}

/// Keys on the node.
pub(crate) fn keys(counter: &Counter<'_>) -> u64 {
    let view = counter.view;
    // This core's are those of this moment: commands of this turn may have been executed already.
    view.reports.set_keys(view.core, counter.core.key_count());
    view.reports.keys()
}

/// The counters of each core, this one's as they are now.
fn counters_by_core(view: &NodeView, neighbours: &Neighbours<'_>) -> Vec<CoreCounters> {
    let of = |core: usize| {
        if core == view.core { *neighbours.counters } else { view.reports.core(core).counters }
    };
    (0..view.cores()).map(of).collect()
}

/// Those of all cores together.
fn added_up(counters: &[CoreCounters]) -> CoreCounters {
    let mut sum = CoreCounters::default();
    counters.iter().for_each(|core| sum.add(core));
    sum
}

/// What RESP clients of all cores have asked for, this core's as of now.
fn commands(counter: &Counter<'_>) -> CommandCounts {
    let mut sum = counter.commands.clone();
    let view = counter.view;
    for core in (0..view.cores()).filter(|core| *core != view.core) {
        sum.add(&view.reports.core(core).commands);
    }
    sum
}

/// INFO counts from here on, in its sections `stats` and `commandstats`.
pub(crate) fn reset_statistics(counter: &Counter<'_>, neighbours: &Neighbours<'_>) {
    let now = (added_up(&counters_by_core(counter.view, neighbours)), commands(counter));
    *counter.view.reports.since() = now;
}

/// Seconds of CPU that the process has used, in the system and in itself.
fn cpu_times() -> (f64, f64) {
    /// Of the fields behind the name of the program, which may hold anything.
    const USER: usize = 11;
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let seconds =
        |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0) / TICKS_PER_SECOND;
    (seconds(USER + 1), seconds(USER))
}

/// The text of INFO.
pub(crate) fn info(
    counter: &mut Counter<'_>,
    neighbours: &Neighbours<'_>,
    sections: Arguments<'_>,
) -> String {
    let view = counter.view;
    let everything = sections.is_empty()
        || sections.iter().any(|given| {
            ["all", "everything", "default"].iter().any(|name| given.eq_ignore_ascii_case(name.as_bytes()))
        });
    let wants =
        |name: &str| everything || sections.iter().any(|given| given.eq_ignore_ascii_case(name.as_bytes()));
    let by_core = counters_by_core(view, neighbours);
    let counters = added_up(&by_core);
    let mut latencies = Latencies::default();
    for core in 0..view.cores() {
        if core == view.core {
            latencies.add(counter.core.latencies());
        } else {
            latencies.add(&view.reports.core(core).latencies);
        }
    }
    let statuses = groups(counter);
    let mut text = String::new();
    let mut section = |name: &str, lines: &[(&str, String)]| {
        if wants(name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let mut title = name.to_string();
            title[..1].make_ascii_uppercase();
            let _ = write!(text, "# {title}\r\n");
            for (key, value) in lines {
                let _ = write!(text, "{key}:{value}\r\n");
            }
        }
    };
    let uptime = counter.now.since(view.started).as_secs();
    section(
        "server",
        &[
            ("redis_version", REDIS_VERSION.into()),
            ("panch_version", env!("CARGO_PKG_VERSION").into()),
            ("redis_mode", "cluster".into()),
            ("process_id", std::process::id().to_string()),
            ("tcp_port", view.options.resp_listen.port().to_string()),
            ("uptime_in_seconds", uptime.to_string()),
        ],
    );
    section(
        "clients",
        &[
            ("connected_clients", counters.connections.to_string()),
            ("maxclients", view.options.connections_max.to_string()),
            ("blocked_clients", counters.connections_waiting.to_string()),
        ],
    );
    let resident = resident_size();
    section(
        "memory",
        &[
            ("used_memory", resident.to_string()),
            ("used_memory_rss", resident.to_string()),
            ("used_memory_dataset", view.reports.data_size().to_string()),
            ("maxmemory", view.options.data_memory_max.to_string()),
            ("maxmemory_policy", "noeviction".into()),
            ("mem_clients_normal", view.memory.held().to_string()),
            ("client_memory_max", view.options.client_memory_max.to_string()),
            ("frames_used", counters.frames_used.to_string()),
        ],
    );
    let is_returning =
        |it: &GroupStatus| matches!(it.membership, Membership::Asking(_) | Membership::Mute(_));
    let applied: u64 = statuses.iter().map(|status| status.probe.applied).sum();
    let (since, commands_since) = view.reports.since().clone();
    let count = |of: fn(&CoreCounters) -> u64| of(&counters).saturating_sub(of(&since)).to_string();
    section(
        "stats",
        &[
            ("total_connections_received", count(|it| it.connections_accepted)),
            ("total_commands_processed", count(|it| it.requests)),
            ("rejected_connections", count(|it| it.connections_refused)),
            ("evicted_clients", count(|it| it.clients_evicted)),
            ("client_protocol_errors", count(|it| it.client_faults)),
            ("peer_protocol_errors", count(|it| it.peer_faults)),
            ("peer_memory_writes", count(|it| it.peer_memory_writes)),
        ],
    );
    section("replication", &[("role", "master".into()), ("connected_slaves", "0".into())]);
    let (system, user) = cpu_times();
    section("cpu", &[("used_cpu_sys", format!("{system:.2}")), ("used_cpu_user", format!("{user:.2}"))]);
    section("cluster", &[("cluster_enabled", "1".into())]);
    let mut commands = commands(counter);
    commands.since(&commands_since);
    let of_commands: Vec<(String, String)> = commands
        .asked()
        .map(|(name, calls, rejected)| {
            (format!("cmdstat_{name}"), format!("calls={calls},rejected_calls={rejected}"))
        })
        .collect();
    let of_commands: Vec<(&str, String)> =
        of_commands.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    section("commandstats", &of_commands);
    let sum = |of: fn(&GroupStatus) -> u64| statuses.iter().map(of).sum::<u64>().to_string();
    let mut lines = vec![
        ("node_id", (u64::from(view.node().0) + 1).to_string()),
        ("cluster_id", format!("{:016x}", view.options.cluster)),
        ("incarnation", view.incarnation.0.to_string()),
        ("rejoining", u8::from(statuses.iter().any(is_returning)).to_string()),
        ("diverged", u8::from(statuses.iter().any(|it| it.standing != Standing::Sound)).to_string()),
        ("small_file_trouble_ms", counters.note_trouble_ms.to_string()),
        ("protocol", groups::protocols(view)),
        ("durability", durability(view.options.log.durability).into()),
        ("cores", view.cores().to_string()),
        ("groups", view.options.group_count().to_string()),
        ("commands_total", sum(|status| status.probe.commands)),
        ("reads_total", sum(|status| status.probe.reads)),
        ("batches_total", sum(|status| status.probe.batches)),
        ("direct_batches_total", sum(|status| status.probe.direct)),
        ("slots_total", sum(|status| status.probe.slots)),
        ("applied_total", applied.to_string()),
        ("duplicates_total", sum(|status| status.probe.duplicates)),
        ("held_total", sum(|status| status.probe.held)),
        ("voided_total", sum(|status| status.probe.voided)),
        ("reproposed_total", sum(|status| status.probe.reproposed)),
        ("timeouts_total", sum(|status| status.probe.timeouts)),
        ("snapshots_total", sum(|status| status.probe.snapshots)),
        ("installs_total", sum(|status| status.probe.installs)),
        ("log_cuts_total", sum(|status| status.probe.log_cuts)),
        ("snapshots_sending", sum(|status| status.sending.count)),
        ("snapshot_bytes_in_flight", sum(|status| status.sending.in_flight)),
        ("snapshot_window", sum(|status| status.sending.window)),
        ("snapshot_window_max", sum(|status| status.sending.window_max)),
        ("execution_us_total", sum(|status| status.probe.execution_us)),
        ("digests_compared_total", sum(|status| status.digests.counts.compared)),
        ("digests_missed_total", sum(|status| status.digests.counts.missed)),
        ("digests_differed_total", sum(|status| status.digests.counts.differed)),
        ("messages_total", sum(|status| status.probe.messages)),
        ("elections_total", sum(|status| status.counters.elections)),
        ("packets_total", counters.packets.to_string()),
        ("peer_bytes_total", counters.peer_bytes.to_string()),
        ("dropped_messages_total", counters.dropped_messages.to_string()),
        ("log_writes_total", counters.log_writes.to_string()),
        ("log_bytes_total", counters.log_bytes.to_string()),
        ("ring_enters_total", counters.ring_enters.to_string()),
        ("turns_total", counters.turns.to_string()),
        ("parks_total", counters.parks.to_string()),
    ];
    lines.extend(counters.health());
    let mode = view.options.log.durability;
    let of_group = |status: &GroupStatus| {
        let health = by_core[view.core_of(status.group)].health_of_groups(view.options.members.len());
        (format!("group_{}", status.group.0), format!("{},{health}", groups::line(status, mode)))
    };
    let rendered: Vec<(String, String)> = latency::lines(&latencies)
        .into_iter()
        .chain(
            groups::counters(&statuses).map(|(name, count)| (format!("counter_{name}"), count.to_string())),
        )
        .chain(statuses.iter().map(of_group))
        .collect();
    lines.extend(rendered.iter().map(|(key, value)| (key.as_str(), value.clone())));
    section("panch", &lines);
    let keys: u64 = statuses.iter().map(|status| status.keys).sum();
    let keyspace = if keys == 0 { vec![] } else { vec![("db0", format!("keys={keys},expires=0,avg_ttl=0"))] };
    section("keyspace", &keyspace);
    text
}

fn resident_size() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// The answer to CONFIG GET.
pub(crate) fn config(view: &NodeView, patterns: Arguments<'_>, resp3: bool, out: &mut Vec<u8>) {
    let options = &view.options;
    let fsync = match options.log.durability {
        Durability::Sync => "always",
        Durability::Periodic { .. } => "everysec",
        Durability::Memory => "no",
    };
    let settings = [
        ("appendfsync", fsync.to_string()),
        ("appendonly", if options.log.durability == Durability::Memory { "no" } else { "yes" }.to_string()),
        ("bind", options.resp_listen.ip().to_string()),
        ("cluster-enabled", "yes".to_string()),
        ("databases", "1".to_string()),
        ("dir", options.data_dir.display().to_string()),
        ("maxclients", options.connections_max.to_string()),
        ("maxmemory", options.data_memory_max.to_string()),
        ("maxmemory-clients", options.client_memory_max.to_string()),
        ("maxmemory-policy", "noeviction".to_string()),
        ("port", options.resp_listen.port().to_string()),
        ("proto-max-bulk-len", options.replica.batch.value_size_max.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_string()),
    ];
    let chosen: Vec<_> = settings
        .iter()
        .filter(|(name, _)| patterns.iter().any(|pattern| matches_glob(pattern, name.as_bytes())))
        .collect();
    resp::map(chosen.len(), resp3, out);
    for (name, value) in chosen {
        resp::bulk(name.as_bytes(), out);
        resp::bulk(value.as_bytes(), out);
    }
}
