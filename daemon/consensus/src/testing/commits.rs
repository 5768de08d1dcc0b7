//! What a protocol tells its own proposer of commits.

use super::cluster::Cluster;
use super::tuning;
use crate::protocol::Protocol;

/// All replicas propose, batches that interfere and batches that do not: each hears once of every batch of its own.
pub(crate) fn each_own_batch_is_told_once<P: Protocol>(replica_count: u8) {
    let mut cluster: Cluster<P> = Cluster::new(replica_count, 0, 3, tuning());
    cluster.run_for(500);
    let mut proposed = vec![Vec::new(); replica_count.into()];
    for round in 0..10u8 {
        for id in cluster.ids() {
            let key = [id, round];
            let keys: &[&[u8]] = if round % 2 == 0 { &[b"key"] } else { &[&key] };
            let batch = cluster.propose_keys(id, keys).expect("the pipeline has room");
            proposed[usize::from(id)].push(batch);
        }
        cluster.run_for(2);
        cluster.run_till("an idle group", 2_000, |cluster| cluster.ids().all(|id| cluster.is_idle(id)));
    }
    for id in cluster.ids() {
        let mut committed = cluster.committed(id).to_vec();
        committed.sort_unstable();
        assert_eq!(committed, proposed[usize::from(id)], "replica {id}");
    }
}
