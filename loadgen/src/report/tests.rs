use super::*;
use crate::truth::Snapshot;
use std::time::Duration;

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

fn columns() -> Vec<Column> {
    let closed = Column {
        title: "closed loop\nset=50,get=50".to_owned(),
        concurrency: "16 x 8".to_owned(),
        offered: None,
        throughput: 183_246.0,
        response: None,
        service: Some(quantiles(83_200)),
        parts: Some((quantiles(50_000), quantiles(120_000))),
        lag: None,
        counts: Counts { completed: 180_000, acknowledged: 200_000, sent: 180_000, ..Counts::default() },
        errors: Vec::new(),
        truth: truth(),
        client_cpu: (Duration::from_millis(900), 0.42),
        verdict: None,
        interrupted: false,
    };
    let open = Column {
        title: "open loop\nset=100".to_owned(),
        offered: Some(90_000.0),
        throughput: 60_000.0,
        response: Some(Quantiles { bounds_from: Some(300_000), ..quantiles(90_000) }),
        parts: None,
        lag: Some(quantiles(2_000)),
        counts: Counts {
            completed: 60_000,
            acknowledged: 60_000,
            sent: 60_000,
            queued: 600,
            dropped: 7,
            refused: 2,
            ..Counts::default()
        },
        errors: vec![("CLUSTERDOWN no majority".to_owned(), 2)],
        truth: Truth::default(),
        client_cpu: (Duration::from_millis(900), 0.9),
        verdict: Some(Verdict {
            checked: 30,
            violations: vec!["key 4: gone".to_owned()],
            unread: Vec::new(),
        }),
        ..closed.clone()
    };
    vec![closed, open]
}

#[test]
fn the_report_is_one_table_with_its_remarks() {
    let heading = Heading {
        title: "panch-loadgen: three nodes".to_owned(),
        facts: vec![("kernel".to_owned(), "6.18".to_owned()), ("durability".to_owned(), "sync".to_owned())],
    };
    let text = render(&heading, &columns(), false);
    assert_eq!(text, include_str!("../../testdata/report.txt"), "\n{text}");
}

#[test]
fn a_clean_run_has_no_error_no_broken_connection_and_no_violation() {
    let [clean, bad] = columns().try_into().unwrap();
    assert!(clean.is_clean() && !bad.is_clean());
    let disconnected = Column { counts: Counts { disconnects: 1, ..clean.counts }, ..clean.clone() };
    let violated = Column { verdict: bad.verdict, ..clean.clone() };
    assert!(!disconnected.is_clean() && !violated.is_clean());
    let dropped = Column { counts: Counts { dropped: 1, ..clean.counts }, ..clean.clone() };
    let interrupted = Column { interrupted: true, ..clean.clone() };
    let unread = Verdict { unread: vec!["node 3".to_owned()], ..Verdict::default() };
    let unread = Column { verdict: Some(unread), ..clean };
    assert!(!dropped.is_clean() && !interrupted.is_clean() && !unread.is_clean());
}

#[test]
fn errors_are_red_on_a_terminal_only() {
    let heading = Heading::default();
    assert!(render(&heading, &columns(), true).contains('\u{1b}'));
    assert!(!render(&heading, &columns(), false).contains('\u{1b}'));
}

#[test]
fn a_generator_at_its_limit_refuses_a_verdict() {
    let [idle, _] = columns().try_into().unwrap();
    assert_eq!(idle.client_limits(), None);
    let busy = Column { client_cpu: (Duration::ZERO, 0.86), ..idle.clone() };
    assert!(remarks(&[busy])[0].starts_with("NO VERDICT"));
    let late = Column { lag: Some(quantiles(500_000)), ..idle };
    assert!(remarks(&[late])[0].contains("1.50 ms late"));
}

#[test]
fn programs_get_the_same_numbers() {
    let heading = Heading { title: "t".to_owned(), facts: vec![("kernel".to_owned(), "6.18".to_owned())] };
    let text = crate::json::render(&heading, &columns());
    for part in [
        r#""schema":"panch-loadgen/1""#,
        r#""environment":{"kernel":"6.18"}"#,
        r#""throughput_per_second":183246"#,
        r#""service_ns":{"p50":83200,"p90":166400,"p99":249600,"p99.9":832000,"max":1664000,"lower_bounds":[]}"#,
        r#""max":1800000,"lower_bounds":["p99.9","max"]}"#,
        r#""no_verdict":null"#,
        r#""no_verdict":"the load generator used 90"#,
        r#""batch_fill":50"#,
        r#""messages_per_command":0.02"#,
        r#""errors":{"CLUSTERDOWN no majority":2}"#,
        r#""violations":["key 4: gone"]"#,
        r#""node 1 (leader)":7.5"#,
        r#""packets_per_command":null"#,
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(text.matches('{').count(), text.matches('}').count());
}
