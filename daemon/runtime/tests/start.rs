//! A whole node in this process: what it refuses to start with.

use std::fs;
use std::path::Path;

use panch_consensus::protocol::{ProtocolKind, Tuning};
use panch_replica::batcher::BatchLimits;
use panch_replica::replica::ReplicaConfig;
use panch_runtime::options::{Idle, Loss, Member, NodeOptions};
use panch_runtime::{Node, NodeFault};
use panch_wal::{Config, Durability};
use panch_wire::client::ReadLevel;
use panch_wire::ids::ReplicaId;
use panch_wire::routing::Routing;
use panch_wire::time::Duration;

fn options(data_dir: &Path, cores: usize, durability: Durability) -> NodeOptions {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    NodeOptions {
        node: ReplicaId(0),
        cluster: 1,
        fingerprint: 2,
        secret: None,
        members: vec![Member { peer: any, peer_name: None, resp: any, native: any }],
        protocols: vec![ProtocolKind::Multi; 2],
        routing: Routing::even(2),
        cpus: vec![None; cores],
        data_dir: data_dir.into(),
        loss: Default::default(),
        begin_with: Vec::new(),
        config_file: Default::default(),
        told_to_found: false,
        boot: 1,
        stop: Default::default(),
        peer_listen: any,
        resp_listen: any,
        native_listen: any,
        log: Config { segment_size: 2 << 20, durability, ..Config::default() },
        replica: ReplicaConfig {
            batch: BatchLimits::default(),
            hash_seed: 0,
            request_timeout: Duration::from_secs(1),
            snapshot_log_size: 1 << 20,
            session_idle_max: Duration::from_secs(60),
            checkpoint_every: 512,
        },
        tuning: Tuning::default(),
        default_read_level: ReadLevel::Quorum,
        idle: Idle::Park,
        spin: Duration::ZERO,
        frame_pool_size: 16 << 20,
        connections_max: 10,
        client_memory_max: 1 << 20,
        data_memory_max: u64::MAX,
        release_memory: || (),
    }
}

/// Runs a node until every group has a leader: until it has voted.
fn run(options: NodeOptions) -> Result<(), NodeFault> {
    let groups = usize::from(options.group_count());
    let node = Node::start(options)?;
    let start = std::time::Instant::now();
    loop {
        let led = node.reports().groups().iter().filter(|status| status.protocol.leader.is_some()).count();
        if led == groups {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{led} groups are led");
        std::thread::sleep(Duration::from_millis(10));
    }
    node.stop_handle().stop();
    node.wait()
}

#[test]
fn a_node_that_has_voted_does_not_start_without_its_log() {
    for (cores, lost, core) in [(1, "core-0/log", 0), (1, "core-0", 0), (2, "core-1/log", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let options = || options(dir.path(), cores, Durability::Sync);
        run(options()).unwrap();
        run(options()).unwrap();
        let (lost, kept) = (dir.path().join(lost), dir.path().join("kept"));
        fs::rename(&lost, &kept).unwrap();
        for _ in 0..2 {
            let fault = run(options()).unwrap_err();
            assert!(matches!(fault, NodeFault::LogMissing { core: of, .. } if of == core), "{fault}");
        }
        fs::remove_dir_all(&lost).unwrap();
        fs::rename(&kept, &lost).unwrap();
        run(options()).unwrap();
    }
}

#[test]
fn a_node_that_has_voted_without_a_log_does_not_start_with_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    run(options(dir.path(), 1, Durability::Memory)).unwrap();
    assert!(matches!(run(options(dir.path(), 1, Durability::Memory)), Err(NodeFault::Forgotten)));
    assert!(matches!(
        run(options(dir.path(), 1, Durability::Sync)),
        Err(NodeFault::LogMissing { core: 0, .. })
    ));
}

#[test]
fn a_log_on_the_disk_is_not_given_up_for_one_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    run(options(dir.path(), 1, Durability::Sync)).unwrap();
    for loss in [Loss::None, Loss::OfMemory] {
        let options = NodeOptions { loss, ..options(dir.path(), 1, Durability::Memory) };
        assert!(matches!(run(options), Err(NodeFault::LogOnDisk { .. })));
    }
    run(options(dir.path(), 1, Durability::Sync)).unwrap();
}

#[test]
fn a_start_that_failed_before_the_first_vote_may_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for cores in [2, 2] {
        let mut options = options(dir.path(), cores, Durability::Sync);
        options.resp_listen = taken.local_addr().unwrap();
        assert!(matches!(run(options), Err(NodeFault::Core(_))));
    }
    run(options(dir.path(), 2, Durability::Sync)).unwrap();
}

#[test]
fn the_cores_of_two_nodes_never_share_a_port() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    // A port that is free at this moment.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let with = |dir: &Path| NodeOptions { native_listen: free, ..options(dir, 2, Durability::Sync) };
    let first = Node::start(with(dirs[0].path())).unwrap();
    assert!(matches!(run(with(dirs[1].path())), Err(NodeFault::Core(_))));
    first.stop_handle().stop();
    first.wait().unwrap();
    run(with(dirs[1].path())).unwrap();
}
