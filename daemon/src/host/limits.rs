//! The limits of the process: on memory that it locks, and on files that it opens.

use panch_runtime::log_size::LogSize;

use super::sys::UNLIMITED;
use super::{Finding, log_size};
use crate::config::NodeConfig;
use crate::config::units::Size;

/// glommio refuses to make an executor with less.
const LOCKED_MEMORY_MIN: u64 = 512 << 10;
/// Descriptors beyond client connections and segments of logs: rings, eventfds, snapshots, listeners.
const OPEN_FILES_RESERVE: u64 = 128;
/// Descriptors that each core thread adds to the reserve.
const OPEN_FILES_PER_CORE: u64 = 32;
/// A node that could serve fewer clients at once than this is not started.
const CONNECTIONS_MIN: u64 = 16;

/// How to raise that limit.
pub(super) const LOCKED_MEMORY_REMEDY: &str = "in a systemd drop-in `LimitMEMLOCK=infinity`, or `docker run --ulimit memlock=-1`, or a line such as \
     `panch - memlock unlimited` for its user in /etc/security/limits.conf before the next login; in a shell of root `ulimit -l unlimited`";

/// `limit`: what holds after it was raised as far as the process may.
pub(super) fn locked_memory(limit: u64, cores: u64) -> Finding {
    let what = "locked memory";
    let remedy = LOCKED_MEMORY_REMEDY;
    let text = if limit == UNLIMITED { "no limit".to_owned() } else { format!("limit {}", Size(limit)) };
    if limit < LOCKED_MEMORY_MIN {
        Finding::failure(what, format!("{text}; at least {} are needed", Size(LOCKED_MEMORY_MIN)), remedy)
    } else if limit < LOCKED_MEMORY_MIN.saturating_mul(cores) {
        let need = Size(LOCKED_MEMORY_MIN * cores);
        Finding::warning(what, format!("{text}; {cores} cores are safe with {need}"), remedy)
    } else {
        Finding::fine(what, text)
    }
}

/// Descriptors that a node with so many cores needs beside those of its clients. A core keeps all of its log open, if that is on the disk.
/// While another node catches up it may have more segments, as many as a snapshot fills: how large those are is not known here.
pub(super) fn reserve(node: &NodeConfig, cores: u64) -> u64 {
    let segments = log_size(node).map_or(0, LogSize::segments_max);
    OPEN_FILES_RESERVE + cores * (OPEN_FILES_PER_CORE + segments)
}

/// `limit`: what holds after it was raised as far as the process may. `connections` and `reserve`: of all nodes of the process together.
pub(super) fn open_files(limit: u64, connections: u64, nodes: u64, reserve: u64) -> Finding {
    let what = "open files";
    let need = connections + reserve;
    let text = if limit == UNLIMITED { "no limit".to_owned() } else { format!("limit {limit}") };
    if limit >= need {
        let on_top = "while another node catches up, one more for each log segment that a snapshot of the data would fill";
        return Finding::fine(what, format!("{text}; {need} may be needed, and, {on_top}"));
    }
    let raise = format!("in a systemd drop-in `LimitNOFILE={need}`, or `docker run --ulimit nofile={need}`");
    let possible = limit.saturating_sub(reserve);
    if possible < (nodes * CONNECTIONS_MIN).min(connections) {
        return Finding::failure(
            what,
            format!("{text}, but {reserve} may be needed beside those of clients"),
            format!(
                "{raise}. Each segment of the log takes one: larger ones, with node.log_segment_size, are fewer"
            ),
        );
    }
    let text =
        format!("{text}: that is enough for {possible} client connections at a time, not for {connections}");
    let per_node = possible / nodes;
    Finding::warning(what, text, format!("{raise}, or lower node.client_connections_max to {per_node}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Durability, parse};
    use crate::exit::Exit;
    use crate::host::Level;

    #[test]
    fn limits_are_compared_with_what_the_config_needs() {
        assert_eq!(locked_memory(UNLIMITED, 64).level, Level::Fine);
        assert_eq!(locked_memory(64 << 10, 1).exit(), Exit::Config);
        assert_eq!(locked_memory(512 << 10, 2).level, Level::Warning);
        assert_eq!(open_files(20_000, 10_000, 1, 192).level, Level::Fine);
        let finding = open_files(4096, 10_000, 1, 192);
        assert_eq!(finding.level, Level::Warning, "fewer clients are better than none");
        assert!(finding.remedy.contains("client_connections_max to 3904"), "{}", finding.remedy);
        let finding = open_files(4096, 30_000, 3, 480);
        assert!(finding.remedy.contains("client_connections_max to 1205"), "{}", finding.remedy);
        let finding = open_files(64, 10_000, 1, 160);
        assert_eq!(finding.exit(), Exit::Config);
        assert!(finding.remedy.contains("LimitNOFILE=10160"), "{}", finding.remedy);
        assert_eq!(open_files(161, 1, 1, 160).level, Level::Fine, "as few as are wanted");
    }

    #[test]
    fn every_segment_of_a_log_takes_a_descriptor() {
        let text = include_str!("../../../configs/cluster-3/1.toml");
        let node = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            parse(Path::new("1.toml"), text, &sets).unwrap().config.node
        };
        let sizes = |segment: &str, snapshot: &str| {
            node(&[
                &format!("node.log_segment_size={segment}"),
                &format!("node.snapshot_log_size={snapshot}"),
            ])
        };
        let usual = sizes("64MiB", "256MiB");
        assert_eq!(reserve(&usual, 1), 128 + 32 + 4 * 4 + 2 + 4);
        assert_eq!(reserve(&usual, 2) - reserve(&usual, 1), 32 + 22);
        let in_memory = NodeConfig { durability: Durability::Memory, ..usual };
        assert_eq!(reserve(&in_memory, 2), 128 + 2 * 32, "it has no segments");
        assert_eq!(reserve(&sizes("4MiB", "1TiB"), 1), 128 + 32 + (4 << 18) + 6);
    }
}
