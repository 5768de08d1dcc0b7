//! `panchd salvage`: what a stopped node has, as a file that a new cluster can begin with.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use panch_consensus::protocol::{Order as Ordering, ProtocolKind};
use panch_replica::salvage::{Salvage, Salvaged};

use crate::cli::{SalvageArgs, complain, print};
use crate::config::Config;
use crate::exit::Exit;
use crate::options::{Surroundings, node_options};
use crate::run::Order;

/// Writes the file and prints what is in it, what may be lost, and how to go on.
pub fn salvage(arguments: &SalvageArgs) -> Exit {
    let loaded = match arguments.config.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let order = Order::about(&arguments.config.config);
    let surroundings = match Surroundings::without(&loaded.config) {
        Ok(surroundings) => surroundings,
        Err(fault) => {
            complain(&format!("panchd salvage: {fault}\n"));
            return Exit::from(&fault);
        }
    };
    let options = node_options(&loaded.config, &order, Arc::new(AtomicBool::new(false)), surroundings);
    match panch_runtime::salvage::salvage(&options, &arguments.out) {
        Ok(found) => {
            print(&describe(&found, &loaded.config, arguments));
            Exit::Done
        }
        Err(fault) => {
            complain(&format!("panchd salvage: {fault}\n"));
            Exit::from(&fault)
        }
    }
}

fn describe(found: &Salvage, config: &Config, arguments: &SalvageArgs) -> String {
    let (out, data) = (arguments.out.display(), config.node.data_dir.display());
    let mut text = format!("Salvaged node {} to {out}:\n\n", found.node.0 + 1);
    for it in &found.groups {
        let _ = writeln!(text, "  {}", describe_group(it, found.protocols[it.group.index()]));
    }
    if found.groups.iter().any(|it| it.undecided) {
        text += "\nThis node was contradicted: somebody has forgotten a vote, and no majority has said who. Only you can judge: leave out
this file in what follows, and give those of all other nodes, or, if you judge this node right, give this file alone, on every node (what
the others have beyond it is not taken over then, in no group). Keep all data directories.
";
    }
    let _ = write!(
        text,
        "\nA new cluster begins with what the files of all nodes have together: of every group the state in which most is decided, and what was
accepted beyond that by any of them. May be lost: everything that was acknowledged later than what these nodes have, that is, what only
nodes have whose directories are lost or were not synced when their power failed. What is here and was not known to be decided takes
effect then.

1. Do the same on every other node whose data directory is left, and copy all the files to every node.
2. On every node, move the data directory away (and keep it until all is well):

     mv {data} {data}.old

3. Start every node with the same files (--from once for each), once; from then on without --from:

     panchd run --config {} --from {out}

It serves once every node has answered that it begins with the same. If one cannot be started, start one of the others with --found,
and that one with --from as well when it can be; after the loss of its disk later on, with --rejoin as ever.
",
        arguments.config.config.display()
    );
    text
}

fn describe_group(it: &Salvaged, kind: ProtocolKind) -> String {
    let mut text = format!("group {} ({}): {} positions executed", it.group.0, kind.name(), it.executed.0);
    if kind.order() == Ordering::Graph {
        let rows = (1..).zip(&it.rows).map(|(node, upto)| format!("node {node} up to {upto}"));
        let _ = write!(text, " (proposed by {})", rows.collect::<Vec<_>>().join(", "));
    }
    if it.remnants > 0 {
        let what = match kind.order() {
            Ordering::Log => "accepted and not known to be decided",
            Ordering::Graph => "that others may not have executed, or are not known to be decided",
        };
        let _ = write!(text, ", and {} values {what}", it.remnants);
    }
    let _ = write!(text, "; {} keys, digest {:016x}", it.keys, it.digest);
    if it.undecided {
        text += "; CONTRADICTED by another node, and counts only if no other file is given, or all others have the same";
    }
    if it.diverged {
        text += "; DIFFERS from what other nodes have, and is not used";
    }
    text
}
