//! Resident memory of a node: idle, with a million keys, and while a follower stands still under load.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use panch_loadgen::connection::Protocol;
use panch_loadgen::keys::KeyDistribution;
use panch_loadgen::quantity::Count;
use panch_loadgen::stderr;

use crate::failure::{Failure, above_zero, check};
use crate::guard::Paused;
use crate::nodes::{Nodes, NodesArgs, Placement, REPLICAS, Writes};

/// The most that an idle node may take, in MiB.
const IDLE_MAX: f64 = 64.0;
/// The most that a node with a million keys of 16 B with 16 B values may take, in MiB.
const LOADED_MAX: f64 = 150.0;
/// The most that a node may grow because a peer stands still, in MiB: all its frame memory (64) and what may gather for
/// one peer (8).
const GROWTH_MAX: f64 = 72.0;
const KEYS: u64 = 1_000_000;

/// `panch-bench memory`.
#[derive(Args, Clone, Debug)]
pub struct MemoryArgs {
    /// The nodes.
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// SETs while a follower stands still
    #[arg(long, value_name = "COUNT", default_value = "2M")]
    pub requests: Count,
}

/// What was measured, in MiB.
struct Row {
    what: String,
    /// One per node; absent for a node that is not judged.
    values: Vec<Option<f64>>,
    /// The most that each may be; absent for what is only told.
    bar: Option<f64>,
}

impl Row {
    fn is_kept(&self) -> bool {
        self.bar.is_none_or(|bar| self.values.iter().flatten().all(|value| *value <= bar))
    }
}

/// Resident memory of a process in MiB, the part of files left out; 0 if there is no such process.
fn resident(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

/// Runs the experiment. The report, and whether every bar was kept.
///
/// # Errors
/// If there is no result.
pub fn run(arguments: &MemoryArgs, stop: &AtomicBool) -> Result<(String, bool), Failure> {
    above_zero(arguments.requests, "--requests")?;
    let mut placement = Placement::new(usize::from(REPLICAS));
    let mut nodes = arguments.nodes.start(REPLICAS, &mut placement, stop)?;
    let durability = nodes.durability()?;
    let processes = nodes.processes();
    let now = || processes.iter().map(|process| Some(resident(*process))).collect();
    std::thread::sleep(Duration::from_secs(1));
    let mut rows = vec![Row { what: "idle".to_owned(), values: now(), bar: Some(IDLE_MAX) }];

    stderr::line(format_args!("memory: {KEYS} keys"));
    let leader = nodes.leader()?;
    let target = nodes.addresses()[leader].resp;
    write(target, KEYS, KeyDistribution::Sequential, stop)?;
    wait_for_keys(&nodes, stop)?;
    nodes.check_alive()?;
    rows.push(Row {
        what: "with 1 M keys of 16 B, 16 B values".to_owned(),
        values: now(),
        bar: Some(LOADED_MAX),
    });
    let frames =
        (0..processes.len()).map(|index| Ok(Some(nodes.frame_memory(index)? as f64 / f64::from(1 << 20))));
    let frames = frames.collect::<Result<_, Failure>>()?;
    rows.push(Row { what: "  of which batches in frame memory".to_owned(), values: frames, bar: None });

    let still = (leader + 1) % usize::from(REPLICAS);
    stderr::line(format_args!("memory: node {} stands still", still + 1));
    let before: Vec<f64> = processes.iter().map(|process| resident(*process)).collect();
    let peaks = {
        let _paused = Paused::new(processes[still]);
        peaks_during(&processes, || write(target, arguments.requests.0, KeyDistribution::Uniform, stop))?
    };
    nodes.check_alive()?;
    let growth = peaks.iter().zip(&before).enumerate();
    let growth = growth.map(|(index, (peak, before))| (index != still).then_some(peak - before));
    rows.push(Row {
        what: format!("growth while node {} stands still for {} SETs", still + 1, arguments.requests),
        values: growth.collect(),
        bar: Some(GROWTH_MAX),
    });

    let kept = rows.iter().all(Row::is_kept);
    let text = format!(
        "panch-bench memory: resident memory of each node in MiB, {REPLICAS} nodes, durability {durability}\n{}\n{}\n",
        arguments.nodes.heading(&placement),
        table(&rows)
    );
    Ok((text, kept))
}

fn write(target: SocketAddr, requests: u64, keys: KeyDistribution, stop: &AtomicBool) -> Result<(), Failure> {
    let load = Writes {
        targets: vec![target],
        protocol: Protocol::Resp,
        connections: 50,
        pipeline: 16,
        requests,
        keys,
        key_count: KEYS,
    };
    load.run(stop).map(drop)
}

/// Followers execute a moment later than the leader answers.
fn wait_for_keys(nodes: &Nodes, stop: &AtomicBool) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for index in 0..usize::from(REPLICAS) {
        loop {
            check(stop)?;
            let keys = nodes.keys(index)?;
            if keys >= KEYS {
                break;
            }
            if Instant::now() > deadline {
                return Err(Failure::Spoilt(format!("node {} has {keys} keys of {KEYS}", index + 1)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// The most that each process took while `work` was done.
fn peaks_during(processes: &[u32], work: impl FnOnce() -> Result<(), Failure>) -> Result<Vec<f64>, Failure> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peaks = vec![0.0f64; processes.len()];
            loop {
                let last = done.load(Ordering::Relaxed);
                for (peak, process) in peaks.iter_mut().zip(processes) {
                    *peak = peak.max(resident(*process));
                }
                if last {
                    return peaks;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let peaks = sampler.join().expect("a panic ends the process");
        result.map(|()| peaks)
    })
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
    let names = (1..=REPLICAS).map(|node| format!("node {node}"));
    let ends = ["bar", ""].map(str::to_owned);
    table.set_header(std::iter::once("MiB".to_owned()).chain(names).chain(ends));
    for row in rows {
        let mut cells = vec![row.what.clone()];
        cells.extend(
            row.values.iter().map(|value| value.map_or("-".to_owned(), |value| format!("{value:.1}"))),
        );
        cells.push(row.bar.map_or(String::new(), |bar| format!("{bar:.0}")));
        let verdict = match (row.bar, row.is_kept()) {
            (None, _) => "",
            (Some(_), true) => "kept",
            (Some(_), false) => "MISSED",
        };
        cells.push(verdict.to_owned());
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_above_the_bar_misses_it_and_the_one_that_stood_still_does_not_count() {
        let row =
            |values: [Option<f64>; 3]| Row { what: String::new(), values: values.to_vec(), bar: Some(10.0) };
        assert!(row([Some(9.0), None, Some(10.0)]).is_kept());
        assert!(!row([Some(9.0), Some(10.1), Some(9.0)]).is_kept());
    }

    #[test]
    fn resident_memory_of_a_process_is_known() {
        assert!(resident(std::process::id()) > 0.5);
        assert_eq!(resident(u32::MAX), 0.0);
    }
}
