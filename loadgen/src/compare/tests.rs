use super::*;
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
    let p50 = (2e12 / throughput) as u64;
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
    entries[0].rounds = vec![measured(Basic, 41_234.0, ["counter_duels:5", "counter_duels:405"])];
    entries[1].rounds = vec![measured(Multi, 183_246.0, ["", ""])];
    entries[2].failure =
        Some("node 1 ended by itself (exit status: 78); its last words:\n  error: no".to_owned());
    let told = [
        "counter_fast_commits:10\ncounter_slow_commits:0\ncounter_conflicts:0\ncounter_component_max:1",
        "counter_fast_commits:910\ncounter_slow_commits:100\ncounter_conflicts:37\ncounter_component_max:4",
    ];
    entries[3].rounds = vec![measured(Epaxos, 131_072.0, told)];
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
        entry.rounds.extend(throughputs.map(|throughput| measured(protocol, throughput, ["", ""])));
    }
    let bad = &mut comparison.protocols[1].rounds[2];
    bad.run.counts.lost = 7;
    bad.run.errors = vec![("connection reset".to_owned(), 1)];
    bad.run = bad.run.clone().judged();
    bad.digests = Agreement::Different("group_0: digest 1 on node 1, 2 on node 3".to_owned());
    comparison.judged()
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

#[test]
fn a_wide_terminal_gets_one_table() {
    let text = table::render(&comparison(), 200, false);
    assert_eq!(text, include_str!("../../testdata/compare_wide.txt"), "\n{text}");
    assert!(widest(&text) <= table::WIDE);
}

#[test]
fn a_narrow_terminal_gets_three_tables_and_rounds_their_ranges() {
    let text = table::render(&rounds(), table::WIDE - 1, false);
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
        for round in &mut entry.rounds {
            round.window = figures.clone();
        }
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
    comparison.protocols[1].rounds = vec![silent];
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
        comparison.protocols[index].rounds.iter().map(|round| round.window.to_multi).collect()
    };
    assert_eq!(ratios(1), [Some(1.0), Some(1.0), Some(1.0)]);
    assert_eq!(ratios(0)[1], Some(40.0 / 150.0));
    let spread = figures::Spread::of([3.0, 1.0, 2.0, 10.0]).unwrap();
    assert_eq!((spread.median, spread.least, spread.most), (2.5, 1.0, 10.0));
    assert_eq!(figures::Spread::of([]), None);
    let mut alone = entries(&[ProtocolKind::Basic], 3);
    alone[0].rounds = vec![measured(ProtocolKind::Basic, 1e4, ["", ""])];
    relate(&mut alone);
    assert_eq!(alone[0].rounds[0].window.to_multi, None);
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
    different.protocols[0].rounds[0].digests = Agreement::Untold;
    assert!(!is_clean(different));
    let run = &mut whole.protocols[0].rounds[0].run;
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
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(text.matches("\"digests\"").count(), 7);
}

#[test]
fn what_is_written_is_read_back_equal() {
    let mut comparison = rounds();
    comparison.protocols[0].rounds[0].digests = Agreement::Untold;
    assert_eq!(serde_json::from_str::<Comparison>(&crate::json::render(&comparison)).unwrap(), comparison);
}
