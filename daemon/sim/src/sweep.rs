//! Sweeps: many seeds, in child processes.

use std::ops::Range;
use std::process::Command;

use panch_sim::coverage::Coverage;
use panch_sim::run::{run_gray_seed, run_seed};

use crate::Cluster;
use crate::child::{Work, listen, spawn};

/// From this many runs on, every expected branch must have been taken.
const RUNS_FOR_COVERAGE: u64 = 1000;

/// Runs one seed here and prints everything.
pub(crate) fn trace(seed: u64, gray: bool, cluster: Cluster) -> bool {
    let run = if gray { run_gray_seed } else { run_seed };
    match run(seed, cluster.protocol, usize::from(cluster.replicas), true) {
        Ok(_) => {
            println!("seed {seed}: nothing was violated");
            true
        }
        Err(violation) => {
            println!("seed {seed} failed: {violation}");
            false
        }
    }
}

/// Runs all seeds and prints the failures and what was covered; false if a seed failed or a branch was never taken.
pub(crate) fn run(seeds: Range<u64>, gray: bool, cluster: Cluster) -> anyhow::Result<bool> {
    let stride = u64::from(cluster.threads);
    let work = |from| Work {
        from,
        to: seeds.end,
        stride,
        protocol: cluster.protocol,
        replicas: cluster.replicas,
        gray,
        first: false,
        ..Work::none()
    };
    let mut children = Vec::new();
    for from in seeds.clone().take(cluster.threads.into()) {
        children.push(spawn(&work(from))?);
    }
    let mut total = Coverage::default();
    let mut failures = Vec::new();
    for mut child in children {
        loop {
            let report = listen(child)?;
            total.add(&report.coverage);
            failures.extend(report.failures);
            let Some((at, words)) = report.died else { break };
            // The seed it died at is a failure; the rest of its seeds get another child.
            let Ok(seed) = at.parse::<u64>() else { anyhow::bail!("a child died at its start: {words}") };
            total.runs += 1;
            failures.push((at, words));
            child = spawn(&work(seed + stride))?;
        }
    }
    failures.sort_by_key(|(seed, _)| seed.parse::<u64>().unwrap_or(u64::MAX));
    for (seed, text) in &failures {
        println!("seed {seed} failed: {text}");
        println!(
            "  again: panch-sim --seed {seed} --protocol {} --replicas {}{} --trace  (commit {})",
            cluster.protocol.name(),
            cluster.replicas,
            if gray { " --gray" } else { "" },
            commit()
        );
    }
    print(&total);
    let missing = if total.runs >= RUNS_FOR_COVERAGE && !gray {
        total.missing(cluster.protocol, cluster.replicas.into())
    } else {
        Vec::new()
    };
    for name in &missing {
        println!("never taken in {} runs: {name}", total.runs);
    }
    println!("{} seeds, {} failed", seeds.end - seeds.start, failures.len());
    Ok(failures.is_empty() && missing.is_empty())
}

fn print(coverage: &Coverage) {
    for row in coverage.rows().chunks(3) {
        let cells: Vec<String> = row.iter().map(|(name, count)| format!("{name:>28} {count:<10}")).collect();
        println!("{}", cells.join("").trim_end());
    }
}

/// The commit that is checked out here, for the record.
fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    text.map_or("unknown".to_string(), |text| String::from_utf8_lossy(&text).trim().to_string())
}
