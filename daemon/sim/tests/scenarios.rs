//! Every scripted scenario that can run yet.

use std::sync::Mutex;
use std::thread;

use panch_sim::scenario::{ALL, Body};

#[test]
fn every_scenario_passes() {
    let (waiting, failed) = (Mutex::new(ALL.iter()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            // The lock goes back before the scenario runs.
            let next = waiting.lock().expect("no holder panics").next();
            let Some(scenario) = next else { break };
            if let Some(Err(text)) = scenario.run() {
                failed.lock().expect("no holder panics").push(format!("{}: {text}", scenario.name));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().expect("no holder panics");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_cannot_run_says_what_it_needs() {
    let waiting = ALL.iter().filter_map(|scenario| match scenario.body {
        Body::Needs(what) => Some((scenario.name, what)),
        Body::Script(_) | Body::Sized(..) | Body::Checked(..) => None,
    });
    let expected = [("T-C4", "epochs"), ("T-E21", "epochs")];
    assert_eq!(waiting.collect::<Vec<_>>(), expected);
}
