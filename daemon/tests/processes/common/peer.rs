//! A connection that speaks as a node, with what only that node's directory holds.

use std::io::Read;

use panch_wire::ids::{Incarnation, ReplicaId};
use panch_wire::peer::{Challenge, Hello, HelloReply, LifeKey, Proof, RefusalCode, Secret};

use super::{Cluster, Raw};

/// The key of the present life of a node.
pub fn key_of(cluster: &Cluster, id: usize) -> LifeKey {
    let text = cluster.small_file(id, "starts");
    let line = text.lines().rev().find(|line| line.starts_with("start ")).expect("it has started");
    let key = line.split(' ').nth(3).expect("a key");
    LifeKey(u128::from_str_radix(key, 16).expect("a number").to_be_bytes())
}

/// What node `id` would say to another one, if it had one more core: nodes take one stream of each core, so the node's own
/// streams are not disturbed.
pub fn hello_of(cluster: &Cluster, id: usize) -> Hello {
    let loaded = panchd::config::load(&cluster.config_path(id), &[]).expect("the configuration is valid");
    let cores = cluster.settings.cores as u16;
    Hello {
        cluster: loaded.config.cluster.cluster_id(),
        fingerprint: loaded.config.cluster.fingerprint(),
        node: ReplicaId(id as u8 - 1),
        core_index: cores,
        core_count: cores + 1,
        incarnation: Incarnation(cluster.info(id).number("incarnation") as u32),
        directory: cluster.directory_name(id),
        life: key_of(cluster, id).life(),
        ..Hello::new(panch_wal::TOLD_VERSION)
    }
}

/// How a handshake ended.
pub struct Shaken {
    pub raw: Raw,
    pub refusal: Option<RefusalCode>,
    pub known: Incarnation,
}

/// Says hello to a node and proves it with `proof`, as far as it lets one.
pub fn shake(port: u16, hello: &Hello, proof: &Proof, secret: Option<&Secret>) -> Shaken {
    let mut raw = Raw::connect(port);
    let mut before = Vec::new();
    hello.write(&mut before);
    raw.send(&before);
    let mut answer = vec![0; 4];
    raw.stream.read_exact(&mut answer).expect("an answer to the hello");
    if Challenge::may_be(&answer) {
        answer.resize(Challenge::SIZE, 0);
        raw.stream.read_exact(&mut answer[4..]).expect("a challenge");
        before.append(&mut answer);
        let mut bytes = Vec::new();
        proof.write(secret, &before, &mut bytes);
        raw.send(&bytes);
    }
    loop {
        if let Some((reply, _)) = HelloReply::parse(&answer).expect("an answer") {
            let (refusal, known) = (reply.refusal, reply.known);
            return Shaken { raw, refusal, known };
        }
        let mut byte = [0];
        raw.stream.read_exact(&mut byte).expect("the answer to the proof");
        answer.push(byte[0]);
    }
}
