//! Goldens of `testdata/config`, the shipped files, and the rules that no golden shows.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const HEAD: &str = r#"[cluster]
name = "test"
members = [{ node = 1, peer = "127.0.0.1:7201", client = "127.0.0.1:7001", native = "127.0.0.1:7101" }]
[node]
id = 1
data_dir = "data"
"#;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(text: &str, overrides: &[&str]) -> Result<Loaded, Report> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    parse(Path::new("test.toml"), text, &overrides)
}

/// Each `.toml` with its `.err`: the exact report. Lines `# --set ..` at the top are flags.
/// To rewrite the expected texts after a change of wording: `PANCH_BLESS=1 cargo test -p panchd`, then read the diff.
#[test]
fn reports_are_as_recorded() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder("testdata/config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        count += 1;
        let text = fs::read_to_string(&path).unwrap();
        let overrides: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# --set ")).collect();
        let name = path.file_name().unwrap();
        let overrides: Vec<String> = overrides.into_iter().map(str::to_owned).collect();
        let report = match parse(Path::new(name), &text, &overrides) {
            Ok(loaded) => loaded.warnings.render(false),
            Err(report) => LoadError::Invalid(report).render(false),
        };
        let expected_path = path.with_extension("err");
        if std::env::var_os("PANCH_BLESS").is_some() {
            fs::write(&expected_path, &report).unwrap();
        }
        if fs::read_to_string(&expected_path).unwrap_or_default() != report {
            wrong.push(format!("{}:\n{report}", name.display()));
        }
    }
    assert!(count >= 15, "the goldens are missing");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn production_file_has_every_key_at_its_default() {
    let path = folder("../configs/production.toml");
    let production = load(&path, &[]).unwrap();
    assert!(production.warnings.is_empty(), "{}", production.warnings);
    assert!(production.defaulted.is_empty(), "not in the file: {:?}", production.defaulted);
    let text = fs::read_to_string(&path).unwrap();
    let members = &text[text.find("members = [").unwrap()..];
    let members = &members[..members.find("\n]").unwrap() + 2];
    let least =
        format!("[cluster]\nname = \"orders\"\n{members}\n[node]\nid = 1\ndata_dir = \"/var/lib/panch\"\n");
    assert_eq!(read(&least, &[]).unwrap().config, production.config);
}

#[test]
fn shipped_clusters_load_and_their_nodes_agree() {
    let node = |number: u8| load(&folder(&format!("../configs/cluster-3/{number}.toml")), &[]).unwrap();
    let nodes = [node(1), node(2), node(3)];
    for (index, node) in nodes.iter().enumerate() {
        assert!(node.warnings.is_empty(), "{}", node.warnings);
        assert_eq!(node.config.cluster.fingerprint(), nodes[0].config.cluster.fingerprint());
        assert_eq!(node.config.replica().index(), index);
        assert_eq!(node.config.peers().count(), 2);
        assert!(node.config.node.data_dir.ends_with(format!("configs/cluster-3/data/node-{}", index + 1)));
    }
    assert!(load(&folder("../configs/dev.toml"), &[]).unwrap().warnings.is_empty());
}

#[test]
fn shipped_mixed_cluster_has_a_group_of_each_protocol() {
    use ProtocolKind::{Basic, Epaxos, Fast, Multi};
    let mixed = load(&folder("../configs/dev-mixed.toml"), &[]).unwrap();
    assert!(mixed.warnings.is_empty(), "{}", mixed.warnings);
    assert_eq!(mixed.config.cluster.protocols(), [Multi, Epaxos, Fast, Basic]);
    let routing = mixed.config.cluster.routing();
    assert_eq!(routing.to_string(), r#"* 0,3; "cart:" 1; "session:" 2; "user:" 2"#);
    // The file says so of these keys, and the comments of the production file of these rules.
    let group = |key: &str| routing.group_of_key(key.as_bytes()).0;
    assert_eq!((group("cart:7"), group("user:7"), group("session:7")), (1, 2, 2));
    assert!((0..100).all(|number| [0, 3].contains(&group(&format!("key-{number}")))));
}

const MIXED: &[&str] = &[
    "cluster.groups=8",
    "cluster.protocol=basic",
    r#"cluster.placement=[
        { groups = "5,3", prefix = ["b:", "a\"\u0000"], protocol = "epaxos" },
        { groups = [1, "6-7"], protocol = "fast" },
        { groups = 2, prefix = "c:", other_keys = true },
    ]"#,
];

#[test]
fn groups_have_the_protocols_and_keys_that_their_entries_give_them() {
    use ProtocolKind::{Basic, Epaxos, Fast};
    let cluster = read(HEAD, MIXED).unwrap().config.cluster;
    assert_eq!(cluster.protocols(), [Basic, Fast, Basic, Epaxos, Basic, Epaxos, Fast, Fast]);
    assert_eq!(cluster.routing().to_string(), r#"* 0-2,4,6-7; "a\"\x00" 3,5; "b:" 3,5; "c:" 2"#);
    let plain = read(HEAD, &["cluster.groups=8"]).unwrap().config.cluster;
    assert_eq!(plain.routing(), panch_wire::routing::Routing::even(8));
    for kind in ProtocolKind::ALL {
        let set = format!("cluster.protocol={kind}");
        assert_eq!(read(HEAD, &[&set]).unwrap().config.cluster.protocols(), [*kind]);
        assert_eq!(kind.of_replica().name(), kind.word());
    }
}

#[test]
fn placement_reads_back_as_itself_and_is_part_of_the_fingerprint() {
    let loaded = read(HEAD, MIXED).unwrap();
    let printed = loaded.print();
    let again = parse(Path::new("test.toml"), &printed, &[]).unwrap();
    assert_eq!(again.config, loaded.config, "{printed}");
    let fingerprint = |placement: &str| {
        let set = format!("cluster.placement=[{placement}]");
        read(HEAD, &["cluster.groups=4", &set]).unwrap().config.cluster.fingerprint()
    };
    let written = [
        r#"{ groups = 1, protocol = "fast" }, { groups = [3, 2], prefix = ["a", "b"] }"#,
        r#"{ groups = "2-3", prefix = ["b", "a"], protocol = "multi", other_keys = false }, { groups = [1], protocol = "fast" }"#,
    ];
    assert_eq!(fingerprint(written[0]), fingerprint(written[1]), "spelling does not count");
    let others = [
        "",
        r#"{ groups = 1, protocol = "fast" }"#,
        r#"{ groups = 1, protocol = "epaxos" }, { groups = [3, 2], prefix = ["a", "b"] }"#,
        r#"{ groups = 1, protocol = "fast" }, { groups = [3, 2], prefix = ["a", "c"] }"#,
        r#"{ groups = 1, protocol = "fast" }, { groups = [3, 2], prefix = ["a", "b"], other_keys = true }"#,
        r#"{ groups = 0, protocol = "fast" }, { groups = [3, 2], prefix = ["a", "b"] }"#,
    ];
    for other in others {
        assert_ne!(fingerprint(other), fingerprint(written[0]), "{other}");
    }
}

#[test]
fn printed_config_reads_back_as_itself() {
    let sets = [
        "node.cores=[0, 2]",
        "cluster.id=a.b",
        "node.idle=park",
        "cluster.linger=1ms",
        "node.data_dir='a \"b\\'",
    ];
    let loaded = read(HEAD, &sets).unwrap();
    let printed = loaded.print();
    let again = parse(Path::new("test.toml"), &printed, &[]).unwrap();
    assert_eq!(again.config, loaded.config, "{printed}");
    assert!(again.defaulted.is_empty());
    let is_marked =
        |key: &str| printed.lines().any(|line| line.starts_with(key) && line.ends_with("# default"));
    assert!(
        is_marked("groups") && is_marked("peer_listen") && !is_marked("linger") && !is_marked("idle"),
        "{printed}"
    );
}

#[test]
fn later_flags_win_and_touch_only_their_key() {
    let plain = read(HEAD, &[]).unwrap().config;
    let changed =
        read(HEAD, &["cluster.batch_commands=50", "cluster.batch_commands=60", "node.durability=memory"]);
    let mut expected = plain.clone();
    expected.cluster.batch_commands = 60;
    expected.node.durability = Durability::Memory;
    assert_eq!(changed.unwrap().config, expected);
    // A bare word, a quoted one and a quantity are all the same to a flag.
    for text in ["node.spin=20us", "node.spin = \"20us\"", "node.spin='20us'"] {
        assert_eq!(read(HEAD, &[text]).unwrap().config.node.spin.as_micros(), 20);
    }
}

#[test]
fn relative_data_folder_starts_from_the_file_unless_a_flag_names_it() {
    let at = |overrides: &[String]| {
        parse(Path::new("etc/panch/1.toml"), HEAD, overrides).unwrap().config.node.data_dir
    };
    assert_eq!(at(&[]), Path::new("etc/panch/data"));
    assert_eq!(at(&["node.data_dir=here".to_owned()]), Path::new("here"));
    assert_eq!(at(&["node.data_dir=/srv".to_owned()]), Path::new("/srv"));
}

#[test]
fn a_lease_is_half_the_election_timeout_and_always_below_it() {
    let lease = |sets: &[&str]| read(HEAD, sets).map(|loaded| loaded.config.cluster.lease.as_millis());
    assert_eq!(lease(&[]).unwrap(), 250);
    assert_eq!(lease(&["cluster.election_timeout=1s"]).unwrap(), 500);
    assert_eq!(lease(&["cluster.lease=0s"]).unwrap(), 0);
    assert_eq!(lease(&["cluster.lease=499ms"]).unwrap(), 499);
    assert!(lease(&["cluster.lease=500ms"]).is_err());
}

/// The two numbers are exchanged between nodes and written to disk: a change here separates running clusters.
#[test]
fn identity_and_fingerprint_are_stable_and_cover_the_cluster_alone() {
    let plain = read(HEAD, &[]).unwrap().config;
    assert_eq!(format!("{:016x}", plain.cluster.cluster_id()), "b9cdc6e779359e17");
    assert_eq!(format!("{:016x}", plain.cluster.fingerprint()), "ad17dded5633731d");
    let other = |set: &str| read(HEAD, &[set]).unwrap().config.cluster;
    for set in [
        "cluster.groups=2",
        "cluster.linger=1us",
        "cluster.value_size_max=1KiB",
        "cluster.election_timeout=1s",
        "cluster.protocol=fast",
        "cluster.slow_after=51ms",
        "cluster.recover_after=301ms",
        "cluster.recover_always_after=3s",
        "cluster.fast_free_for_all=true",
        "cluster.epaxos_thrifty=true",
        "cluster.lease=1ms",
        "cluster.clock_drift_ppm=1",
    ] {
        assert_ne!(other(set).fingerprint(), plain.cluster.fingerprint(), "{set}");
        assert_eq!(other(set).cluster_id(), plain.cluster.cluster_id());
    }
    assert_eq!(other("node.idle=park").fingerprint(), plain.cluster.fingerprint());
    assert_eq!(
        other("cluster.linger=0ns").fingerprint(),
        plain.cluster.fingerprint(),
        "spelling does not count"
    );
    assert_ne!(other("cluster.id=b").cluster_id(), plain.cluster.cluster_id());
    // Name and id are kept apart: "ab" + "" is not "a" + "b".
    let named =
        |name: &str, id: &str| ClusterConfig { name: name.into(), id: id.into(), ..plain.cluster.clone() };
    assert_ne!(named("ab", "").cluster_id(), named("a", "b").cluster_id());
}

#[test]
fn order_of_the_member_list_does_not_count() {
    let member = |node: u8| {
        format!(
            "{{ node = {node}, peer = \"h{node}:7201\", client = \"h{node}:7001\", native = \"h{node}:7101\" }}"
        )
    };
    let config = |order: [u8; 3]| {
        let list = order.map(member).join(", ");
        let set = format!("cluster.members=[{list}]");
        read(
            HEAD,
            &[
                &set,
                "node.resp_listen=0.0.0.0:1",
                "node.native_listen=0.0.0.0:2",
                "node.peer_listen=0.0.0.0:3",
            ],
        )
    };
    let (one, other) = (config([1, 2, 3]).unwrap(), config([3, 1, 2]).unwrap());
    assert_eq!(one.config, other.config);
}

#[test]
fn largest_value_that_is_allowed_fits_a_frame() {
    use panch_wire::frame::FRAME_SIZE_MAX;
    let sets = ["node.log_segment_size=1GiB", "node.snapshot_log_size=1GiB", "node.frame_pool_size=1GiB"];
    let with = |set: &str| read(HEAD, &[sets.as_slice(), &[set, "node.client_memory_max=1GiB"]].concat());
    assert!(with("cluster.value_size_max=128MiB").is_err());
    let largest = with("cluster.value_size_max=127MiB").unwrap().config.cluster.value_size_max;
    let session = Some(panch_wire::command::SessionHeader { session: 1, number: 1, acked_below: 1 });
    let (key, value) = (vec![0; panch_wire::command::KEY_SIZE_MAX], vec![0; largest]);
    let kind = panch_wire::command::CommandKind::Set;
    let command = panch_wire::command::Command { kind, flags: 0, session, key: &key, value: &value };
    assert!(panch_wire::batch::OVERHEAD + panch_wire::batch::size_of_command(&command) <= FRAME_SIZE_MAX);
}

#[test]
fn core_placement_respects_what_the_process_may_use() {
    let allowed = [1, 2, 5];
    assert_eq!(Cores::All.place(&allowed), Ok(vec![1, 2, 5]));
    assert_eq!(Cores::Count(2).place(&allowed), Ok(vec![1, 2]));
    assert_eq!(Cores::List(vec![5, 1]).place(&allowed), Ok(vec![5, 1]));
    assert!(Cores::Count(4).place(&allowed).unwrap_err().contains("only 3 CPUs (1-2,5)"));
    assert!(Cores::List(vec![0]).place(&allowed).unwrap_err().contains("CPU 0"));
    let many: Vec<usize> = (0..256).collect();
    assert_eq!(Cores::All.place(&many[1..]), Ok(many[1..].to_vec()));
    assert!(Cores::All.place(&many).unwrap_err().contains("a node has 255 at most"));
    assert!(read(HEAD, &["node.cores=255"]).is_ok() && read(HEAD, &["node.cores=256"]).is_err());
    let list = |count| format!("node.cores={:?}", &many[..count]);
    assert!(read(HEAD, &[&list(255)]).is_ok() && read(HEAD, &[&list(256)]).is_err());
}

#[test]
fn clients_whose_connections_alone_may_take_more_than_half_of_their_memory_are_warned_of() {
    let warned = |sets: &[&str]| read(HEAD, sets).unwrap().warnings.to_string();
    let (little, much) = ("node.client_memory_max=8MiB", "node.client_connections_max=100_000");
    assert!(
        warned(&[little]).contains("`node.client_connections_max` to at most 1024"),
        "{}",
        warned(&[little])
    );
    assert!(warned(&[much]).contains("at least 800000KiB"), "{}", warned(&[much]));
    assert_eq!(warned(&[little, "node.client_connections_max=1024"]), "");
}

#[test]
fn addresses_have_one_spelling() {
    let text = |text: &str| text.parse::<Address>().map(|address| address.to_string());
    assert_eq!(text("127.0.0.1:7001"), Ok("127.0.0.1:7001".to_owned()));
    assert_eq!(text("[::1]:7001"), Ok("[::1]:7001".to_owned()));
    assert_eq!(text("Node-1.Example:7001"), Ok("node-1.example:7001".to_owned()));
    for bad in ["127.0.0.1", "127.0.0.1:", "h:0", "h:65536", ":1", "::1:1", "1.2.3:1", "999.1.1.1:1", "a b:1"]
    {
        assert!(text(bad).is_err(), "{bad}");
    }
}

/// Whatever the bytes, the answer is a report: every file and flag is foreign.
#[test]
fn no_text_makes_the_parser_panic() {
    let long = "x".repeat(5000);
    for text in [
        "\u{0}",
        "[",
        "a=[[[[",
        "[cluster]\nmembers=[[1]]",
        "é=\"\u{200b}\"",
        "[cluster.cluster]\n[[node]]",
        &long,
    ] {
        let report = read(text, &[text]).unwrap_err();
        assert!(report.error_count() > 0);
        assert!(!report.render(true).is_empty());
    }
    // Every prefix of a good file, cut in the middle of anything.
    for end in 0..HEAD.len() {
        if let Err(report) = read(&HEAD[..end], &[]) {
            assert!(!report.to_string().is_empty());
        }
    }
}

#[test]
fn unreadable_files_are_told_apart_from_wrong_ones() {
    let error = load(Path::new("no/such/file.toml"), &[]).unwrap_err();
    assert!(error.to_string().contains("cannot read the config file no/such/file.toml"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latin.toml");
    fs::write(&path, b"name = \"\xe9\"").unwrap();
    assert!(load(&path, &[]).unwrap_err().to_string().contains("not UTF-8 text (byte 8)"));
}
