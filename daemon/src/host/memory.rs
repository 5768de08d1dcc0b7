//! The memory of the machine: what the data may take where nobody says, and whether everything is there that may be taken.

use panch_runtime::machine::memory_size_at_ease;

use super::{Finding, cores, rounded, rounded_up};
use crate::config::{Config, NodeConfig};

/// Of the memory that is left beside batches and clients the data may take so much where nobody says: a numerator and a denominator. The
/// rest is for the program, for what is written while a snapshot is made, and for others.
const DATA_SHARE: (u64, u64) = (3, 5);
/// The data may take so much however little is left.
const DATA_MIN: u64 = 16 << 20;

/// Bytes of memory that the data of this node may take, one of `nodes` in this process.
pub fn data_memory_max(config: &Config, nodes: usize) -> u64 {
    let needs = Needs::of(&config.node, cores(config), nodes as u64, memory_size_at_ease());
    needs.data
}

/// What one node may take, in bytes.
#[derive(Clone, Copy, Default)]
struct Needs {
    data: u64,
    batches: u64,
    clients: u64,
}

impl Needs {
    /// Of a node with so many cores, one of `nodes` on a machine with `size` bytes, if that is known.
    fn of(node: &NodeConfig, cores: u64, nodes: u64, size: Option<u64>) -> Self {
        let batches = cores.saturating_mul(node.frame_pool_size as u64);
        let clients = node.client_memory_max as u64;
        let (part, of) = DATA_SHARE;
        let data = match (node.data_memory_max, size) {
            (0, Some(size)) => {
                let left = (size / nodes.max(1)).saturating_sub(batches.saturating_add(clients));
                (left / of * part).max(DATA_MIN)
            }
            (0, None) => u64::MAX,
            (max, _) => max,
        };
        Self { data, batches, clients }
    }

    fn and(self, other: Self) -> Self {
        Self {
            data: self.data.saturating_add(other.data),
            batches: self.batches.saturating_add(other.batches),
            clients: self.clients.saturating_add(other.clients),
        }
    }
}

/// Whether the memory for everything that these nodes, in one process, may take is there.
pub(super) fn memory(configs: &[Config]) -> Finding {
    let nodes: Vec<(&NodeConfig, u64)> = configs.iter().map(|config| (&config.node, cores(config))).collect();
    judge(&nodes, memory_size_at_ease())
}

/// The same for nodes with their numbers of cores.
fn judge(nodes: &[(&NodeConfig, u64)], size: Option<u64>) -> Finding {
    let what = "memory";
    let count = nodes.len() as u64;
    let each = nodes.iter().map(|(node, cores)| Needs::of(node, *cores, count, size));
    let Needs { data, batches, clients } = each.fold(Needs::default(), Needs::and);
    let sum = data.saturating_add(batches).saturating_add(clients);
    let Some(size) = size else {
        let remedy = if nodes.iter().any(|(node, _)| node.data_memory_max == 0) {
            "set node.data_memory_max: what is 0 there is no limit here".to_owned()
        } else {
            format!("make sure that it has the {} that the configuration allows", rounded_up(sum))
        };
        return Finding::warning(what, "how much this machine has cannot be read", remedy);
    };
    let text = format!(
        "{} for the data, {} for batches and {} for clients of {} that this machine or the control group has",
        rounded_up(data),
        rounded_up(batches),
        rounded_up(clients),
        rounded(size)
    );
    if sum <= size {
        return Finding::fine(what, text);
    }
    let remedy = format!(
        "lower node.data_memory_max, node.frame_pool_size (per core) or node.client_memory_max, together by {}, or give the process more \
         memory (systemd: MemoryMax= and MemoryHigh=; Docker: --memory)",
        rounded_up(sum - size)
    );
    Finding::warning(what, format!("too little: {text}"), remedy)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;
    use crate::host::Level;

    const MIB: u64 = 1 << 20;

    /// 64 MiB for batches of each core, 96 MiB for clients.
    fn node(data_memory_max: u64) -> NodeConfig {
        let text = include_str!("../../../configs/cluster-3/1.toml");
        let node = parse(Path::new("1.toml"), text, &[]).unwrap().config.node;
        assert_eq!((node.frame_pool_size as u64, node.client_memory_max as u64), (64 * MIB, 96 * MIB));
        NodeConfig { data_memory_max, ..node }
    }

    #[test]
    fn the_data_take_a_share_of_what_is_left_beside_batches_and_clients_of_all_nodes() {
        let data = |cores, nodes, size| Needs::of(&node(0), cores, nodes, size).data;
        assert_eq!(data(1, 1, Some(1160 * MIB)), 600 * MIB);
        assert_eq!(data(2, 1, Some(1224 * MIB)), 600 * MIB);
        assert_eq!(data(1, 3, Some(3 * 1160 * MIB)), 600 * MIB);
        assert_eq!(data(1, 1, Some(100 * MIB)), DATA_MIN, "there is always a little");
        assert_eq!(data(1, 1, None), u64::MAX);
        assert_eq!(Needs::of(&node(5), 1, 1, Some(1160 * MIB)).data, 5, "somebody says");
    }

    #[test]
    fn more_than_the_machine_has_is_warned_of_with_numbers() {
        let judge = |data, cores, count, size| judge(&vec![(&node(data), cores); count], size);
        assert_eq!(judge(0, 1, 1, Some(1160 * MIB)).level, Level::Fine);
        assert_eq!(judge(840 * MIB, 1, 1, Some(1000 * MIB)).level, Level::Fine);
        let finding = judge(900 * MIB, 1, 1, Some(1000 * MIB));
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.text.contains("900MiB for the data, 64MiB for batches and 96MiB"), "{finding:?}");
        assert!(finding.remedy.contains("together by 60MiB"), "{finding:?}");
        assert_eq!(judge(300 * MIB, 1, 3, Some(1000 * MIB)).level, Level::Warning);
        assert_eq!(judge(0, 1, 1, Some(150 * MIB)).level, Level::Warning, "not even without data");
        let finding = judge(840 * MIB, 1, 1, Some(1000 * MIB - 1));
        assert!(finding.remedy.contains("together by 1MiB"), "less would not do: {finding:?}");
    }

    #[test]
    fn where_nobody_knows_what_there_is_it_is_said_what_has_to_be() {
        let judge = |data| judge(&[(&node(data), 1)], None);
        let (open, set) = (judge(0), judge(840 * MIB));
        assert_eq!((open.level, set.level), (Level::Warning, Level::Warning));
        assert!(open.remedy.contains("set node.data_memory_max"), "{open:?}");
        assert!(set.remedy.contains("has the 1000MiB") && !set.remedy.contains("set node"), "{set:?}");
    }
}
