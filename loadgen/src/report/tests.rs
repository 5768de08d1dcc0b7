use super::*;
use crate::truth::Snapshot;

fn quantiles(p50: u64) -> Quantiles {
    Quantiles { p50, p90: p50 * 2, p99: p50 * 3, p999: p50 * 10, max: p50 * 20, bounds_from: None }
}

fn truth() -> Truth {
    let at = |commands: u64, batches: u64, bytes: u64, cpu: f64| {
        Some(Snapshot::parse(&format!(
            "node_id:1\ndurability:sync\ncommands_total:{commands}\nbatches_total:{batches}\nmessages_total:{batches}\n\
             peer_bytes_total:{bytes}\nlog_writes_total:{batches}\nused_cpu_user:{cpu}\nused_cpu_sys:0.5\n\
             group_0:leader=1,leading=1"
        )))
    };
    Truth::between(&[at(0, 0, 0, 1.0)], &[at(200_000, 4_000, 6_400_000, 2.5)])
}

fn runs() -> Vec<Run> {
    let truth = truth();
    let cpu = |of_server: f64, own: f64| {
        vec![(truth.cpu[0].name.clone(), Some(of_server)), (LOAD_GENERATOR.to_owned(), Some(own))]
    };
    let closed = Run {
        name: "closed loop, set=50,get=50".to_owned(),
        concurrency: "16 x 8".to_owned(),
        offered: None,
        throughput: 183_246.0,
        response: None,
        service: Some(quantiles(83_200)),
        reads: Some(quantiles(50_000)),
        writes: Some(quantiles(120_000)),
        lag: None,
        counts: Counts { completed: 180_000, acknowledged: 200_000, sent: 180_000, ..Counts::default() },
        durability: truth.durability.clone(),
        batch_fill: truth.ratio("commands_total", "batches_total"),
        per_command: PerCommand::new(&truth, 200_000),
        cpu: cpu(7.5, 5.0),
        client_load: 0.42,
        client_wait: Some(0.031),
        ..Run::default()
    };
    let open = Run {
        name: "open loop, set=100".to_owned(),
        offered: Some(90_000.0),
        throughput: 60_000.0,
        response: Some(Quantiles { bounds_from: Some(300_000), ..quantiles(90_000) }),
        reads: None,
        writes: None,
        lag: Some(quantiles(2_000)),
        counts: Counts {
            completed: 60_000,
            acknowledged: 60_000,
            sent: 90_000,
            queued: 900,
            dropped: 7,
            refused: 2,
            ..Counts::default()
        },
        errors: vec![("CLUSTERDOWN no majority".to_owned(), 2)],
        durability: None,
        batch_fill: None,
        per_command: PerCommand::default(),
        cpu: cpu(f64::NAN, 15.0).split_off(1),
        client_load: 0.9,
        client_wait: None,
        audit: Some(Verdict { checked: 30, violations: vec!["key 4: gone".to_owned()], unread: Vec::new() }),
        ..closed.clone()
    };
    vec![closed.judged(), open.judged()]
}

fn report() -> Report {
    let facts = vec![("kernel".to_owned(), "6.18".to_owned()), ("durability".to_owned(), "sync".to_owned())];
    Report::new("panch-loadgen: three nodes".to_owned(), facts, runs())
}

#[test]
fn the_report_is_one_table_with_its_remarks() {
    let text = render(&report(), false);
    assert_eq!(text, include_str!("../../testdata/report.txt"), "\n{text}");
}

#[test]
fn a_clean_run_has_no_error_no_broken_connection_and_no_violation() {
    let [clean, bad] = runs().try_into().unwrap();
    assert!(clean.clean && !bad.clean);
    let is_clean = |run: Run| run.judged().clean;
    let disconnected = Run { counts: Counts { disconnects: 1, ..clean.counts }, ..clean.clone() };
    let violated = Run { audit: bad.audit, ..clean.clone() };
    assert!(!is_clean(disconnected) && !is_clean(violated));
    let dropped = Run { counts: Counts { dropped: 1, ..clean.counts }, ..clean.clone() };
    let early = Run { counts: Counts { warm_up_dropped: 1, ..clean.counts }, ..clean.clone() };
    assert!(
        remarks(std::slice::from_ref(&early))[0]
            .contains("1 commands were due in the warm-up and never sent")
    );
    assert!(!is_clean(early));
    let interrupted = Run { interrupted: true, ..clean.clone() };
    let unread = Verdict { unread: vec!["node 3".to_owned()], ..Verdict::default() };
    let unread = Run { audit: Some(unread), ..clean };
    assert!(!is_clean(dropped) && !is_clean(interrupted) && !is_clean(unread));
}

#[test]
fn errors_are_red_on_a_terminal_only() {
    assert!(render(&report(), true).contains('\u{1b}'));
    assert!(!render(&report(), false).contains('\u{1b}'));
}

#[test]
fn a_generator_at_its_limit_refuses_a_verdict() {
    let [idle, _] = runs().try_into().unwrap();
    assert_eq!(idle.no_verdict, None);
    let busy = Run { client_load: 0.86, ..idle.clone() };
    assert!(remarks(&[busy.judged()])[0].starts_with("NO VERDICT"));
    // Whoever waits for a CPU is as late as whoever is on it.
    let one_busy = Run { client_load_of_busiest: Some(0.86), ..idle.clone() }.judged();
    assert!(
        one_busy
            .no_verdict
            .as_ref()
            .unwrap()
            .contains("busiest of the load generator's threads was on a CPU for 86 %")
    );
    assert!(
        render(&Report::new("t".to_owned(), Vec::new(), vec![one_busy]), false)
            .contains("│   the busiest of them")
    );
    let one_waits =
        Run { client_load_of_busiest: Some(0.5), client_wait_of_busiest: Some(0.36), ..idle.clone() };
    assert!(one_waits.judged().no_verdict.unwrap().contains("50 % of its time and waited for one for 36 %"));
    let waiting = Run { client_load: 0.42, client_wait: Some(0.44), ..idle.clone() }.judged();
    assert_eq!(
        waiting.no_verdict.as_deref(),
        Some(
            "the load generator's threads were on a CPU for 42 % of their time and waited for one for 44 %; give it CPUs of its own"
        )
    );
    let late = Run { lag: Some(quantiles(500_000)), ..idle };
    assert!(remarks(&[late.judged()])[0].contains("more than 1.50 ms late"));
}

#[test]
fn a_rate_beyond_the_server_is_said_if_it_is_the_servers_doing() {
    let counts = Counts { completed: 50, sent: 60, ..Counts::default() };
    let concurrency = "2 x 8".to_owned();
    let slow = Run { offered: Some(60.0), throughput: 50.0, counts, concurrency, ..Run::default() };
    let told = |run: &Run| remarks(std::slice::from_ref(run)).join("\n");
    assert!(told(&slow).contains(
        "50.0 of 60.0 commands/s were answered: the rate is beyond what the server takes over 2 connections with 8 outstanding each,"
    ));
    // Fewer were due, by chance.
    let lucky = Run { counts: Counts { sent: 51, ..counts }, ..slow.clone() };
    assert_eq!(told(&lucky), "");
    let refused = Run { counts: Counts { refused: 10, ..counts }, ..slow.clone() };
    let late = Run { lag: Some(quantiles(500_000)), ..slow.clone() }.judged();
    for run in [refused, late] {
        let text = told(&run);
        assert!(
            text.contains("50.0 of 60.0 commands/s were answered.") && !text.contains("beyond"),
            "{text}"
        );
    }
}

#[test]
fn runs_that_were_made_are_shown_if_others_were_not_and_the_report_is_not_clean() {
    let [clean, _] = runs().try_into().unwrap();
    let report = Report::new("t".to_owned(), Vec::new(), vec![clean]);
    assert_eq!(report.exit.code, 0);
    let failed = report.clone().cut_short("node 1 ended by itself", false);
    assert_eq!((failed.exit.code, failed.runs.len()), (1, 1));
    assert!(render(&failed, false).contains("INCOMPLETE: node 1 ended by itself"));
    assert_eq!(report.cut_short("stopped", true).exit.code, 130);
}

#[test]
fn keys_that_a_preload_left_without_a_value_are_said() {
    let preload = Some(Preload { keys: 3, key_count: 10, ..Preload::default() });
    let run = Run { preload, counts: Counts { misses: 4, ..Counts::default() }, ..Run::default() };
    let lines = remarks(&[run]);
    assert!(
        lines[0].contains("only 3 of 10 keys") && lines[1].contains("4 reads found no value"),
        "{lines:?}"
    );
}

#[test]
fn a_preload_that_failed_leaves_no_clean_run_and_the_words_of_the_server_are_kept() {
    let [clean, _] = runs().try_into().unwrap();
    let errors = vec![("CLUSTERDOWN no majority".to_owned(), 7)];
    let failed = Preload { keys: 3, key_count: 10, failed: 7, errors };
    let run = Run { preload: Some(failed), ..clean.clone() }.judged();
    let report = Report::new("t".to_owned(), Vec::new(), vec![run]);
    assert_eq!(report.exit.code, 1);
    assert!(report.remarks[0].ends_with("7 x CLUSTERDOWN no majority."), "{:?}", report.remarks);
    let whole = Preload { keys: 10, key_count: 10, ..Preload::default() };
    assert!(Run { preload: Some(whole), ..clean }.judged().clean);
}

#[test]
fn an_audit_that_had_nothing_to_read_is_none() {
    let [clean, _] = runs().try_into().unwrap();
    let report = Report::new(
        "t".to_owned(),
        Vec::new(),
        vec![Run { audit: Some(Verdict::default()), ..clean }.judged()],
    );
    assert_eq!(report.exit.code, 1);
    let text = render(&report, false);
    let is_told = |line: &str| line.starts_with("│ audit ") && line.ends_with(" nothing sampled │");
    assert!(text.lines().any(is_told) && text.contains("AUDIT: nothing sampled"), "{text}");
}

#[test]
fn counters_that_are_not_the_clusters_are_not_shown_and_the_node_is_named() {
    let at = |process: u32, commands: u32| {
        Some(Snapshot::parse(&format!(
            "node_id:2\nprocess_id:{process}\ncommands_total:{commands}\nbatches_total:9"
        )))
    };
    let truth = Truth::between(&[at(7, 100)], &[at(8, 500)]);
    let run = Run {
        name: "closed loop, set=100".to_owned(),
        counters_missing: truth.missing.clone(),
        batch_fill: truth.ratio("commands_total", "batches_total"),
        ..Run::default()
    };
    let text = render(&Report::new("t".to_owned(), Vec::new(), vec![run]), false);
    assert!(text.lines().any(|line| line.contains("batch fill") && line.ends_with(" - │")), "{text}");
    let remark =
        "`closed loop, set=100`: the cluster's counters are not known: node 2 was restarted during the run.";
    assert!(text.contains(remark), "{text}");
}

#[test]
fn programs_get_the_same_numbers() {
    let text = crate::json::render(&report());
    for part in [
        r#""schema":"panch-loadgen/1""#,
        r#""environment":{"kernel":"6.18","durability":"sync"}"#,
        r#""throughput_per_second":183246.0"#,
        r#""service_ns":{"p50":83200,"p90":166400,"p99":249600,"p99.9":832000,"max":1664000,"lower_bounds":[],"bounds_from":null}"#,
        r#""max":1800000,"lower_bounds":["p99.9","max"],"bounds_from":300000}"#,
        r#""no_verdict":null"#,
        r#""no_verdict":"the load generator used 90"#,
        r#""batch_fill":50.0"#,
        r#""messages_per_command":0.02"#,
        r#""errors":{"CLUSTERDOWN no majority":2}"#,
        r#""violations":["key 4: gone"]"#,
        r#""node 1 (leader)":7.5"#,
        r#""packets_per_command":null"#,
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn what_is_written_is_read_back_equal() {
    let report = report();
    let read: Report = serde_json::from_str(&crate::json::render(&report)).unwrap();
    assert_eq!(read, report);
    assert_eq!(render(&read, false), render(&report, false));
    let odd = Run { batch_fill: Some(0.1 + 0.2), throughput: 1.0 / 3.0, ..Run::default() };
    let odd = Report::new("\u{1}\n\"".to_owned(), Vec::new(), vec![odd]);
    assert_eq!(serde_json::from_str::<Report>(&crate::json::render(&odd)).unwrap(), odd);
}

#[test]
fn reports_of_older_and_of_newer_versions_are_read() {
    let text = r#"{"schema":"panch-loadgen/1","title":"t","environment":{},"later":[1],"runs":[{"name":"n","sent":3,"new":{},
        "service_ns":{"p50":1,"p90":2,"p99":30,"p99.9":40,"max":50,"lower_bounds":["p99.9","max"]},"response_ns":null}]}"#;
    let report: Report = serde_json::from_str(text).unwrap();
    let run = &report.runs[0];
    assert_eq!((run.counts.sent, run.response, run.batch_fill), (3, None, None));
    assert_eq!(run.service.unwrap().bounds_from, Some(40));
}
