use super::figures::Figures;
use super::*;
use crate::check::Verdict;
use crate::preload::Preload;
use crate::record::Counts;
use crate::report::Quantiles;
use crate::truth::ProcessCpu;

fn info(commands: u64, extra: &str) -> Option<Snapshot> {
    Some(Snapshot::parse(&format!(
        "commands_total:{commands}\nbatches_total:{}\nmessages_total:{}\npeer_bytes_total:{}\nlog_writes_total:{}\n\
         log_bytes_total:{}\ncommit_us_histogram:1023={},51199={}\nused_cpu_user:{}\nused_cpu_sys:0\n{extra}",
        commands / 100,
        commands / 25,
        commands * 120,
        commands / 200,
        commands * 250,
        commands / 100 * 98,
        commands / 100 * 2,
        commands as f64 * 2e-6,
    )))
}

fn run(throughput: f64) -> Run {
    let p50 = (2e12 / throughput.max(1.0)) as u64;
    Run {
        name: "closed loop, set=100".to_owned(),
        concurrency: "24 x 128".to_owned(),
        throughput,
        service: Some(Quantiles {
            p50,
            p90: p50 * 2,
            p99: p50 * 3,
            p999: p50 * 10,
            max: p50 * 20,
            bounds_from: None,
        }),
        counts: Counts { completed: 1_000, acknowledged: 1_200, sent: 1_000, ..Counts::default() },
        client_load: 0.42,
        audit: Some(Verdict { checked: 1024, violations: Vec::new(), unread: Vec::new() }),
        ..Run::default()
    }
    .judged()
}

fn measured(protocol: ProtocolKind, throughput: f64, extra: [&str; 2]) -> Measured {
    // Every node has every counter; those of the second did not grow.
    let before = [info(0, extra[0]), info(0, extra[0])];
    let window = Truth::between(&before, &[info(100_000, extra[1]), info(100_000, extra[0])]);
    Measured::new(protocol, run(throughput), &window, Agreement::Equal)
}

fn comparison() -> Comparison {
    use ProtocolKind::{Basic, Epaxos, Fast, Multi};
    let mut entries = entries(&[Basic, Multi, Fast, Epaxos], 3);
    entries[0].main.rounds = vec![measured(Basic, 41_234.0, ["counter_duels:5", "counter_duels:405"])];
    entries[1].main.rounds = vec![measured(Multi, 183_246.0, ["", ""])];
    entries[2].failure =
        Some("node 1 ended by itself (exit status: 78); its last words:\n  error: no".to_owned());
    let told = [
        "counter_fast_commits:10\ncounter_slow_commits:0\ncounter_conflicts:0\ncounter_component_max:1",
        "counter_fast_commits:910\ncounter_slow_commits:100\ncounter_conflicts:37\ncounter_component_max:4",
    ];
    entries[3].main.rounds = vec![measured(Epaxos, 131_072.0, told)];
    Comparison {
        schema: SCHEMA.to_owned(),
        title: "panch-loadgen compare: 3 replicas".to_owned(),
        environment: vec![
            ("work".to_owned(), "1000000 keys, 2 % of the commands on one of them".to_owned()),
            ("placement".to_owned(), format!("all share one machine{}", ", and more".repeat(15))),
        ],
        replicas: 3,
        batch: 100,
        protocols: entries,
        ..Comparison::default()
    }
    .judged()
}

fn rounds() -> Comparison {
    let mut comparison = comparison();
    let kinds = [ProtocolKind::Basic, ProtocolKind::Multi];
    let throughputs = [[40_000.0, 38_500.0], [150_000.0, 190_000.0]];
    for ((entry, protocol), throughputs) in comparison.protocols.iter_mut().zip(kinds).zip(throughputs) {
        entry.main.rounds.extend(throughputs.map(|throughput| measured(protocol, throughput, ["", ""])));
    }
    let bad = &mut comparison.protocols[1].main.rounds[2];
    bad.run.counts.lost = 7;
    bad.run.errors = vec![("connection reset".to_owned(), 1)];
    bad.run = bad.run.clone().judged();
    bad.digests = Agreement::Different("group_0: digest 1 on node 1, 2 on node 3".to_owned());
    comparison.judged()
}

/// The same, and then at equal load, with the first round of Multi-Paxos beyond doubt and the second not.
fn at_equal_load() -> Comparison {
    let mut comparison = rounds();
    comparison.equal_load = comparison.part_of_slowest(0.5);
    let rate = comparison.equal_load.as_ref().unwrap().rate;
    for (entry, protocol) in comparison.protocols.iter_mut().zip([ProtocolKind::Basic, ProtocolKind::Multi]) {
        entry.equal_load.rounds = [1, 2, 4]
            .map(|times| {
                let mut measured = measured(protocol, rate, ["", ""]);
                measured.run = open(rate, times * 1_000_000);
                measured.window = Figures {
                    throughput: rate,
                    lower_bounds: [figures::LATENCY_P99, figures::LATENCY_P999]
                        .into_iter()
                        .filter(|_| times == 4)
                        .map(str::to_owned)
                        .collect(),
                    latency_p50: Some(times * 1_000_000),
                    latency_p99: Some(times * 3_000_000),
                    latency_p999: Some(times * 10_000_000),
                    ..measured.window
                };
                measured
            })
            .into();
    }
    let doubtful = &mut comparison.protocols[1].equal_load.rounds[1].run;
    doubtful.lag = doubtful.response;
    *doubtful = doubtful.clone().judged();
    comparison.judged()
}

fn open(rate: f64, p50: u64) -> Run {
    let closed = run(rate);
    let quantiles =
        Quantiles { p50, p90: p50 * 2, p99: p50 * 3, p999: p50 * 10, max: p50 * 20, bounds_from: None };
    Run { offered: Some(rate), response: Some(quantiles), ..closed }.judged()
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

#[test]
fn a_wide_terminal_gets_one_table() {
    let text = table::render(&comparison(), table::WIDE, false);
    assert_eq!(text, include_str!("../../testdata/compare_wide.txt"), "\n{text}");
    assert!(widest(&text) <= table::WIDE);
}

#[test]
fn a_narrow_terminal_gets_three_tables_and_rounds_their_ranges() {
    let text = table::render(&at_equal_load(), table::WIDE - 1, false);
    assert_eq!(text, include_str!("../../testdata/compare_narrow.txt"), "\n{text}");
    assert!(widest(&text) <= table::NARROW);
}

#[test]
fn large_figures_fit_too() {
    let most = 99_999.0;
    let figures = Figures {
        throughput: 9_999_949.0,
        to_multi: Some(99.99),
        latency_p50: Some(99_999_000_000),
        latency_p99: Some(99_999_000_000),
        latency_p999: Some(99_999_000_000),
        lower_bounds: [figures::LATENCY_P50, figures::LATENCY_P99, figures::LATENCY_P999]
            .map(str::to_owned)
            .into(),
        commit_p50: Some(99_999_000_000),
        commit_p99: Some(99_999_000_000),
        commit_p999: Some(99_999_000_000),
        execution_p50: None,
        execution_p99: None,
        execution_p999: None,
        fast_path: Some(1.0),
        conflicts: Some(99.9),
        clashes: Some(999.9),
        component_max: Some(9_999.0),
        batch_fill: Some(9_999.0),
        messages_per_command: Some(99.99),
        messages_per_batch: Some(999.9),
        bytes_per_command: Some(most),
        log_writes_per_command: Some(9.9),
        log_bytes_per_command: Some(most),
        cpu_per_million: Some(9_999.0),
    };
    let mut comparison = comparison();
    comparison.replicas = 9;
    for entry in &mut comparison.protocols {
        for round in &mut entry.main.rounds {
            round.window = figures.clone();
            round.run.no_verdict = Some("late".to_owned());
        }
        entry.main.summarize();
        (entry.aa_ratio, entry.within_noise) = (Some(99.99), Some(true));
    }
    let wide = table::render(&comparison, table::WIDE, false);
    let narrow = table::render(&comparison, 80, false);
    assert!(widest(&wide) <= table::WIDE && wide.matches('┌').count() == 1, "{wide}");
    assert!(widest(&narrow) <= table::NARROW && narrow.matches('┌').count() == 3, "{narrow}");
}

#[test]
fn control_characters_are_for_terminals_only() {
    assert!(table::render(&comparison(), 160, true).contains('\u{1b}'));
    assert!(!table::render(&comparison(), 160, false).contains('\u{1b}'));
}

#[test]
fn figures_are_of_the_window_and_absent_where_nothing_counts_them() {
    let told = [
        "counter_fast_commits:10\ncounter_slow_commits:0",
        "counter_fast_commits:910\ncounter_slow_commits:100",
    ];
    let figures = measured(ProtocolKind::Epaxos, 1e5, told).window;
    assert_eq!((figures.fast_path, figures.conflicts, figures.component_max), (Some(0.9), None, None));
    assert_eq!((figures.batch_fill, figures.messages_per_batch), (Some(100.0), Some(4.0)));
    assert_eq!((figures.bytes_per_command, figures.log_writes_per_command), (Some(120.0), Some(0.005)));
    assert_eq!(
        [figures.commit_p50, figures.commit_p99, figures.commit_p999, figures.execution_p50],
        [Some(1_023_000), Some(51_199_000), Some(51_199_000), None]
    );
    assert_eq!(figures.cpu_per_million, Some(2.0));
    // Counters of one protocol say nothing of another.
    assert_eq!(measured(ProtocolKind::Multi, 1e5, told).window.fast_path, None);
    let fast = [
        "counter_fast_chosen:0\ncounter_classic_chosen:0\ncounter_collisions:0",
        "counter_fast_chosen:3\ncounter_classic_chosen:1\ncounter_collisions:20",
    ];
    let figures = measured(ProtocolKind::Fast, 1e5, fast).window;
    assert_eq!((figures.fast_path, figures.clashes), (Some(0.75), Some(0.01)));
    let nothing = Figures::new(ProtocolKind::Epaxos, &run(1e5), &Truth::default());
    let (latency_p50, latency_p99, latency_p999) = (Some(20_000_000), Some(60_000_000), Some(200_000_000));
    let known = Figures { throughput: 1e5, latency_p50, latency_p99, latency_p999, ..Figures::default() };
    assert_eq!(nothing, known);
}

#[test]
fn a_node_that_did_not_tell_its_counters_leaves_no_sum_of_the_others() {
    let truth = Truth::between(&[info(0, ""), info(0, "")], &[info(100, ""), None]);
    let silent = Measured::new(ProtocolKind::Multi, run(1e5), &truth, Agreement::Equal);
    assert!(!silent.is_counted() && !silent.is_clean());
    assert_eq!((silent.window.batch_fill, silent.window.cpu_per_million), (None, None));
    let mut comparison = comparison();
    comparison.protocols[1].main.rounds = vec![silent];
    let text = table::render(&comparison.judged(), table::WIDE, false);
    assert!(text.contains("COUNTERS NOT KNOWN: server 2 did not tell its counters after the run"), "{text}");
    assert_eq!(
        Truth::between(&[info(0, "")], &[info(100, "")]).cpu,
        [ProcessCpu { name: "server 1".to_owned(), used: Some(Duration::from_micros(200)) }]
    );
}

#[test]
fn the_model_is_the_documents_own() {
    for (protocol, at_3, at_5) in [
        (ProtocolKind::Basic, (8.0, 8.0), (12.0, 12.0)),
        (ProtocolKind::Multi, (4.0, 4.0), (6.0, 6.0)),
        (ProtocolKind::Fast, (3.4, 3.4), (5.6, 5.6)),
        (ProtocolKind::Epaxos, (6.0, 9.0), (10.0, 15.0)),
    ] {
        assert_eq!((figures::seed_model(protocol, 3), figures::seed_model(protocol, 5)), (at_3, at_5));
    }
}

#[test]
fn ratios_are_of_the_same_round_and_medians_of_the_ratios() {
    let comparison = rounds();
    let ratios = |index: usize| -> Vec<Option<f64>> {
        comparison.protocols[index].main.rounds.iter().map(|round| round.window.to_multi).collect()
    };
    assert_eq!(ratios(1), [Some(1.0), Some(1.0), Some(1.0)]);
    assert_eq!(ratios(0)[1], Some(40.0 / 150.0));
    let medians = |index: usize| comparison.protocols[index].main.median.as_ref().unwrap();
    // 41.234 of 183.246, 40 of 150 and 38.5 of 190 thousand.
    assert_eq!(medians(0).to_multi, Some(41_234.0 / 183_246.0));
    assert_eq!((medians(0).throughput, medians(1).throughput), (40_000.0, 183_246.0));
}

#[test]
fn medians_and_ranges_that_rest_on_bounds_are_marked() {
    let text = table::render(&at_equal_load(), table::WIDE, false);
    assert!(text.contains("┆ 1.00 - 4.00 ┆ 3.00 - >=12.0 ┆"), "{text}");
}

/// Comparisons of these protocols, each with so many rounds of this throughput.
fn of_rounds(all: &[(ProtocolKind, &[f64])]) -> Comparison {
    let kinds: Vec<ProtocolKind> = all.iter().map(|(protocol, _)| *protocol).collect();
    let mut protocols = entries(&kinds, 3);
    for (entry, (protocol, throughputs)) in protocols.iter_mut().zip(all) {
        entry.main.rounds =
            throughputs.iter().map(|throughput| measured(*protocol, *throughput, ["", ""])).collect();
    }
    Comparison { replicas: 3, batch: 100, protocols, ..Comparison::default() }.judged()
}

#[test]
fn a_ratio_that_repeats_of_the_same_protocol_have_as_well_is_marked() {
    use ProtocolKind::{Basic, Epaxos, Multi};
    let comparison = of_rounds(&[
        (Basic, &[50_000.0, 51_000.0, 50_000.0]),
        (Multi, &[100_000.0, 120_000.0, 110_000.0]),
        (Epaxos, &[90_000.0, 110_000.0, 99_000.0]),
    ]);
    let noise: Vec<_> =
        comparison.protocols.iter().map(|entry| (entry.aa_ratio.unwrap(), entry.within_noise)).collect();
    assert_eq!(noise, [(1.02, Some(false)), (1.2, None), (110.0 / 90.0, Some(true))]);
    let text = table::render(&comparison, table::NARROW, false);
    for row in [
        "│ basic    ┆  50.0 ┆  0.45 ┆  1.02 ┆",
        "│ multi    ┆ 110.0 ┆  1.00 ┆  1.20 ┆",
        "│ epaxos   ┆  99.0 ┆ ~0.90 ┆  1.22 ┆",
    ] {
        assert!(text.contains(row), "{row} is missing in {text}");
    }
    assert!(text.contains("~: neither") && !text.contains("NOISE NOT KNOWN"), "{text}");
    // The same protocol twice, once each: that is noise too, and a ratio within it.
    let same = of_rounds(&[(Multi, &[100_000.0]), (Multi, &[80_000.0])]);
    assert_eq!(same.protocols[0].aa_ratio, Some(1.25));
    assert_eq!((same.protocols[0].within_noise, same.protocols[1].within_noise), (None, Some(true)));
    let once = of_rounds(&[(Multi, &[100_000.0]), (Basic, &[80_000.0])]);
    assert_eq!((once.protocols[0].aa_ratio, once.protocols[1].within_noise), (None, None));
    let text = table::render(&once, table::NARROW, false);
    assert!(text.contains("NOISE NOT KNOWN") && text.contains("multi") && !text.contains("A/A"), "{text}");
}

#[test]
fn a_ratio_whose_noise_is_not_known_is_marked_and_the_reason_is_said() {
    use ProtocolKind::{Basic, Epaxos, Fast, Multi};
    let comparison = of_rounds(&[
        (Multi, &[100_000.0, 120_000.0]),
        (Basic, &[50_000.0]),
        (Epaxos, &[90_000.0, 0.0]),
        (Fast, &[20_000.0, 20_000.0]),
    ]);
    let reasons: Vec<_> = comparison
        .protocols
        .iter()
        .map(|entry| (entry.within_noise, entry.noise_unknown.as_deref()))
        .collect();
    let [once, nothing] = ["basic ran once", "epaxos did nothing in one of its runs"];
    assert_eq!(reasons, [(None, None), (None, Some(once)), (None, Some(nothing)), (Some(false), None)]);
    assert!(comparison.remarks[0].starts_with("NOISE NOT KNOWN: "), "{:?}", comparison.remarks);
    assert!(comparison.remarks[0].contains(once) && comparison.remarks[0].contains(nothing));
    let text = table::render(&comparison, table::NARROW, false);
    for row in
        ["│ multi    ┆ 110.0 ┆  1.00 ┆", "│ basic    ┆  50.0 ┆ ?0.50 ┆", "│ fast     ┆  20.0 ┆  0.18 ┆"]
    {
        assert!(text.contains(row), "{row} is missing in {text}");
    }
}

#[test]
fn what_befell_a_round_beside_its_numbers_is_said_and_it_is_shown() {
    let mut comparison = of_rounds(&[(ProtocolKind::Multi, &[100_000.0])]);
    let round = &mut comparison.protocols[0].main.rounds[0];
    assert!(round.is_clean());
    round.failure = Some("node 1 ended by itself".to_owned());
    let errors = vec![("CLUSTERDOWN no majority".to_owned(), 7)];
    round.run.preload = Some(Preload { keys: 3, key_count: 10, failed: 7, errors });
    round.run.counts.misses = 4;
    round.run.counts.warm_up_dropped = 5;
    round.run.audit.as_mut().unwrap().unread = vec!["key 9: no answer".to_owned()];
    round.run = round.run.clone().judged();
    assert!(!round.is_clean());
    let comparison = comparison.judged();
    let text = table::render(&comparison, table::WIDE, false);
    for part in [
        "│ multi    ┆ 100.0 ┆",
        "FAILED AFTER THE RUN: node 1 ended by itself",
        "PRELOAD INCOMPLETE: the preload failed, with 7 failed writes and broken connections: 7 x CLUSTERDOWN no majority",
        "PRELOAD INCOMPLETE: the preload gave only 3 of 10 keys a value",
        "4 reads found no value",
        "5 commands were due in the warm-up and never sent",
        "AUDIT INCOMPLETE: key 9: no answer",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(comparison.exit.code, 1);
}

#[test]
fn ratios_to_multi_are_left_out_where_they_mean_nothing() {
    use ProtocolKind::{Basic, Fast, FastDirect, Multi};
    let once: &[f64] = &[1e5];
    for all in [
        &[(Basic, once)][..],
        &[(Multi, once)],
        &[(Fast, once), (FastDirect, once)],
        &[(Multi, &[]), (Basic, once)],
    ] {
        let comparison = of_rounds(all);
        assert!(!comparison.has_ratios(), "{all:?}");
        let text = table::render(&comparison, table::NARROW, false);
        assert!(!text.contains("multi ┆") && !text.contains("to multi") && !text.contains("NOISE"), "{text}");
    }
    // At the rate of an open loop all do the same.
    let mut open_loop = of_rounds(&[(Multi, once), (Basic, once)]);
    assert!(open_loop.has_ratios());
    for entry in &mut open_loop.protocols {
        entry.main.rounds[0] = Measured { run: open(1e5, 1_000), ..Measured::default() };
    }
    assert!(!open_loop.judged().has_ratios());
}

#[test]
fn all_are_offered_the_same_part_of_what_the_slowest_did() {
    let load = rounds().part_of_slowest(0.5).unwrap();
    assert_eq!((load.rate, load.slowest.as_str(), load.part_of_slowest), (20_000.0, "basic", 0.5));
    // Whoever failed is not the slowest, nor is who did nothing.
    let mut comparison = rounds();
    comparison.protocols[0].failure = Some("gone".to_owned());
    assert_eq!(comparison.part_of_slowest(0.5).unwrap().slowest, "epaxos");
    let nothing = of_rounds(&[(ProtocolKind::Multi, &[0.0])]);
    assert_eq!(nothing.part_of_slowest(0.5), None);
    assert_eq!(of_rounds(&[(ProtocolKind::Multi, &[1.0])]).part_of_slowest(0.5).unwrap().rate, 1.0);
}

#[test]
fn what_is_said_of_every_round_is_said_once() {
    let remarks = at_equal_load().remarks;
    let of = |start: &str| remarks.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        (of("basic, rounds 1 to 3: 0 errors"), of("multi, rounds 1 to 2: "), of("multi, round 3: ")),
        (1, 1, 1)
    );
    assert_eq!(of("basic at equal load, rounds 1 to 3: 0 errors"), 1);
    for round in 1..=3 {
        assert_eq!(of(&format!("multi at equal load, round {round}: ")), 1);
    }
    assert_eq!(
        of("  NO VERDICT, the client may have been the limit: the load generator was more than 6.00 ms late"),
        1
    );
}

#[test]
fn a_protocol_that_is_named_twice_is_numbered() {
    use ProtocolKind::{Fast, Multi};
    let labels: Vec<String> =
        entries(&[Multi, Fast, Multi], 3).into_iter().map(|entry| entry.label).collect();
    assert_eq!(labels, ["multi #1", "fast", "multi #2"]);
}

#[test]
fn equal_digests_of_every_group_on_every_node_are_agreement_and_nothing_less() {
    let node = |text: &str| Some(Snapshot::parse(text));
    let (one, two) = ("group_0:digest=aa\ngroup_1:digest=bb", "group_0:digest=aa\ngroup_1:digest=cc");
    assert_eq!(compare_digests(&[node(one), node(one)]), Agreement::Equal);
    assert!(matches!(
        compare_digests(&[node(one), node(two)]),
        Agreement::Different(text) if text == "group_1: digest bb on node 1, cc on node 2"
    ));
    for untold in [node("group_0:digest=aa"), node("group_0:leader=1\ngroup_1:digest=bb"), None] {
        assert_eq!(compare_digests(&[node(one), untold]), Agreement::Untold);
    }
    assert_eq!(compare_digests(&[node("node_id:1"), node("node_id:2")]), Agreement::Untold);
}

#[test]
fn another_protocol_than_the_one_asked_for_is_refused() {
    let node = |text: &str| Some(Snapshot::parse(text));
    let fine = [node("group_0:protocol=epaxos"), node("group_0:digest=1")];
    assert_eq!(runs(ProtocolKind::Epaxos, &fine), Ok(()));
    let fault = runs(ProtocolKind::Fast, &fine).unwrap_err();
    assert!(fault.contains("asked for fast") && fault.contains("group_0 of node 1 runs epaxos"), "{fault}");
    assert!(runs(ProtocolKind::Fast, &[None]).is_err());
}

#[test]
fn a_comparison_is_clean_only_if_everything_was_measured_and_agreed() {
    assert!(!comparison().clean);
    let mut whole = comparison();
    whole.protocols.remove(2);
    let is_clean = |comparison: Comparison| comparison.judged().clean;
    assert!(is_clean(whole.clone()));
    assert!(!is_clean(Comparison { interrupted: true, ..whole.clone() }));
    let mut different = whole.clone();
    different.protocols[0].main.rounds[0].digests = Agreement::Untold;
    assert!(!is_clean(different));
    let run = &mut whole.protocols[0].main.rounds[0].run;
    run.counts.refused = 1;
    *run = run.clone().judged();
    assert!(!is_clean(whole));
}

#[test]
fn programs_get_every_round_and_every_counter() {
    let text = crate::json::render(&rounds());
    for part in [
        r#""schema":"panch-loadgen-compare/1""#,
        r#""label":"epaxos","seed_model_messages_per_batch":[6.0,9.0],"failure":null"#,
        r#""fast_path_part":0.9"#,
        r#""counter_duels":400.0"#,
        r#""clashes_per_batch":0.2"#,
        r#""digests":"group_0: digest 1 on node 1, 2 on node 3""#,
        r#""failure":"node 1 ended by itself (exit status: 78); its last words:\n  error: no""#,
        r#""service_ns":{"p50":"#,
        r#""throughput_aa_ratio":1.2666666666666666,"throughput_to_multi_within_noise":null,"median":{"throughput_per_second":183246.0,"#,
        r#""min":{"throughput_per_second":38500.0,"#,
        r#""max":{"throughput_per_second":190000.0,"#,
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(text.matches("\"digests\"").count(), 7);
}

#[test]
fn what_is_written_is_read_back_equal() {
    let mut comparison = at_equal_load();
    comparison.order_seed = Some(u64::MAX);
    comparison.protocols[0].main.rounds[0].digests = Agreement::Untold;
    assert_eq!(serde_json::from_str::<Comparison>(&crate::json::render(&comparison)).unwrap(), comparison);
}
