//! Every scripted scenario that can run yet.

use panch_sim::scenario::{ALL, Body};

#[test]
fn every_scenario_passes() {
    let failed: Vec<String> = ALL
        .iter()
        .filter_map(|scenario| Some(format!("{}: {}", scenario.name, scenario.run()?.err()?)))
        .collect();
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
