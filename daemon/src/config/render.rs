//! The effective values as TOML: what `panchd check --print` shows, and the canonical text of `[cluster]` that is
//! fingerprinted.
//!
//! Invariant: reading the text gives back the same config. The text of [`cluster`] changes only if a value changes, so
//! changing its layout is a change of the protocol between nodes.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::schema::{ClusterConfig, Config, Cores, NodeConfig, list};
use super::units::{Period, Size};

/// The whole config. Keys in `defaulted` (full names) are marked.
pub fn config(config: &Config, defaulted: &BTreeSet<String>) -> String {
    let mut table = "";
    let mut text = String::new();
    for line in format!("{}\n{}", cluster(&config.cluster), node(&config.node)).lines() {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']);
        }
        let key = line.split(" = ").next().unwrap_or("");
        if defaulted.contains(&format!("{table}.{key}")) {
            let _ = writeln!(text, "{line:<40} # default");
        } else {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

/// `[cluster]` in canonical spelling.
pub(super) fn cluster(cluster: &ClusterConfig) -> String {
    let mut text = String::from("[cluster]\n");
    let mut put = |key: &str, value: String| {
        let _ = writeln!(text, "{key} = {value}");
    };
    put("name", quoted(&cluster.name));
    put("id", quoted(&cluster.id));
    put("protocol", quoted(cluster.protocol.word()));
    put("groups", cluster.groups.to_string());
    let members: String = cluster
        .members
        .iter()
        .map(|member| {
            let (peer, client, native) = (&member.peer, &member.client, &member.native);
            let node = member.node;
            format!(
                "  {{ node = {node}, peer = \"{peer}\", client = \"{client}\", native = \"{native}\" }},\n"
            )
        })
        .collect();
    put("members", format!("[\n{members}]"));
    put("batch_commands", cluster.batch_commands.to_string());
    put("pipeline_depth", cluster.pipeline_depth.to_string());
    put("batch_size_max", size(cluster.batch_size_max as u64));
    put("linger", period(cluster.linger));
    put("value_size_max", size(cluster.value_size_max as u64));
    put("heartbeat_interval", period(cluster.heartbeat_interval));
    put("election_timeout", period(cluster.election_timeout));
    put("lease", period(cluster.lease));
    put("clock_drift_ppm", cluster.clock_drift_ppm.to_string());
    put("slow_after", period(cluster.slow_after));
    put("recover_after", period(cluster.recover_after));
    put("recover_always_after", period(cluster.recover_always_after));
    put("fast_free_for_all", cluster.fast_free_for_all.to_string());
    put("epaxos_thrifty", cluster.epaxos_thrifty.to_string());
    for placement in &cluster.placement {
        let groups: Vec<usize> = placement.groups.iter().copied().map(usize::from).collect();
        let _ = write!(text, "\n[[cluster.placement]]\ngroups = {}\n", quoted(&list(&groups)));
        let _ = writeln!(text, "protocol = {}", quoted(placement.protocol.word()));
        if !placement.prefixes.is_empty() {
            let prefixes: Vec<String> = placement.prefixes.iter().map(|prefix| quoted(prefix)).collect();
            let _ =
                writeln!(text, "prefix = [{}]\nother_keys = {}", prefixes.join(", "), placement.other_keys);
        }
    }
    text
}

fn node(node: &NodeConfig) -> String {
    let mut text = String::from("[node]\n");
    let mut put = |key: &str, value: String| {
        let _ = writeln!(text, "{key} = {value}");
    };
    put("id", node.id.to_string());
    put("data_dir", path(&node.data_dir));
    put("secret_file", node.secret_file.as_deref().map_or_else(|| quoted(""), path));
    put(
        "cores",
        match &node.cores {
            Cores::Count(count) => count.to_string(),
            Cores::All => quoted("all"),
            Cores::List(cpus) => format!("{cpus:?}"),
        },
    );
    put("durability", quoted(node.durability.word()));
    put("periodic_interval", period(node.periodic_interval));
    put("idle", quoted(node.idle.word()));
    put("spin", period(node.spin));
    put("resp_listen", quoted(&node.resp_listen.to_string()));
    put("native_listen", quoted(&node.native_listen.to_string()));
    put("peer_listen", quoted(&node.peer_listen.to_string()));
    put("log_segment_size", size(node.log_segment_size));
    put("log_writes_in_flight", node.log_writes_in_flight.to_string());
    put("snapshot_log_size", size(node.snapshot_log_size));
    put("frame_pool_size", size(node.frame_pool_size as u64));
    put("client_connections_max", node.client_connections_max.to_string());
    put("data_memory_max", size(node.data_memory_max));
    put("client_memory_max", size(node.client_memory_max as u64));
    put("request_timeout", period(node.request_timeout));
    put("default_read_level", quoted(node.default_read_level.word()));
    text
}

fn size(bytes: u64) -> String {
    format!("\"{}\"", Size(bytes))
}

fn period(duration: std::time::Duration) -> String {
    format!("\"{}\"", Period(duration))
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
