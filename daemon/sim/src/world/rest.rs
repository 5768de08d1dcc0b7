//! The end of a run: what must come to rest once the trouble is over, with all nodes and without some.

use panch_consensus::frontier::Frontier;
use panch_wal::Durability;
use panch_wire::ids::GroupId;

use super::node::{Node, State};
use super::{Event, World};
use crate::coverage::Coverage;
use crate::disk::CrashKind;
use crate::invariant::{Violation, durability, linearizability};
use crate::queue::{MILLISECOND, SECOND, Time};
use crate::random::{Concern, Stream};
use crate::settings::{Lasting, Settings};

/// How long a healed cluster may take until everybody agrees and every client is answered.
const REST_WITHIN: Time = 60 * SECOND;

impl World {
    /// A whole run: trouble, then healing and rest, and the checks that can only be made at the end.
    ///
    /// # Errors
    /// The first violation.
    pub fn run(&mut self) -> Result<Coverage, Violation> {
        self.plan_faults();
        let Settings { trouble, long_absence, lasting, final_absence, .. } = self.shared.settings;
        if lasting == Lasting::Meanwhile {
            self.weaken();
        }
        if long_absence > 0 {
            self.miss_one(trouble, long_absence);
        } else {
            self.run_for(trouble);
        }
        self.clients.stop();
        if final_absence {
            self.serve_without_some()?;
        }
        if lasting == Lasting::AtRest {
            self.serve_beside_weakness()?;
        }
        self.finish()
    }

    /// One node stays away for that long in the middle of the trouble, while the others and all clients go on.
    fn miss_one(&mut self, trouble: Time, absence: Time) {
        self.run_for((trouble - absence) / 2);
        let node = self.victim();
        if !matches!(self.nodes[node].state, State::Refused) {
            self.shared.coverage.long_absences += 1;
            self.nodes[node].is_absent = true;
            self.nodes[node].crash(&mut self.shared, CrashKind::Kill);
        }
        self.run_for(absence);
        self.nodes[node].is_absent = false;
        self.shared.queue.push_in(0, Event::Restart { node });
        self.run_for((trouble - absence) / 2);
    }

    /// Heals everything but as many nodes as a group survives the loss of, which stay down, and requires that all clients are
    /// answered and every other node takes a new write.
    fn serve_without_some(&mut self) -> Result<(), Violation> {
        let count = self.nodes.len();
        // One on its way back needs all others, and one that will refuse to start is away already.
        let is_lost = |node: &Node| node.rotten || matches!(node.state, State::Refused);
        let lost = self.nodes.iter().filter(|node| is_lost(node)).count();
        let room = ((count - 1) / 2).saturating_sub(lost);
        if room == 0 || self.nodes.iter().any(Node::is_on_its_way_back) {
            return Ok(());
        }
        let mut random = Stream::new(self.shared.settings.seed, Concern::Absence);
        let absent = random.range(1, room as u64) as usize;
        let mut others: Vec<usize> = (0..count).filter(|node| !is_lost(&self.nodes[*node])).collect();
        for _ in 0..absent {
            let place = random.below(others.len() as u64) as usize;
            let node = others.swap_remove(place);
            self.nodes[node].is_absent = true;
            let is_synced = self.shared.settings.wal.durability == Durability::Sync;
            let kind = if is_synced && random.chance(500_000) { CrashKind::Power } else { CrashKind::Kill };
            self.nodes[node].crash(&mut self.shared, kind);
        }
        self.shared.coverage.absences += absent as u64;
        self.heal();
        self.come_to_rest(
            |world| world.clients.are_idle(),
            "without some nodes not every client is answered",
        )?;
        for node in &mut self.nodes {
            node.is_absent = false;
        }
        Ok(())
    }

    /// Heals everything and requires that the cluster comes to rest: all clients answered, all nodes in the same state, a
    /// new write on every node. Then checks the history.
    ///
    /// # Errors
    /// The first violation.
    pub fn finish(&mut self) -> Result<Coverage, Violation> {
        self.clients.stop();
        self.heal();
        self.rest()?;
        if self.shared.settings.final_blackout {
            self.blackout();
            self.heal();
            self.rest()?;
        }
        let checked = linearizability::check(&self.clients.history);
        match checked {
            Ok(summary) => {
                self.shared.coverage.checked += summary.operations as u64;
                self.shared.coverage.families += summary.families as u64;
            }
            Err(text) => self.shared.invariants.note("linearizability", Err(text)),
        }
        self.check()?;
        for node in &self.nodes {
            for status in node.status() {
                self.shared.coverage.add_status(&status);
            }
            let disk = node.disk.counters;
            self.shared.coverage.lost_pages += disk.lost_pages;
            self.shared.coverage.torn_pages += disk.torn_pages;
            self.shared.coverage.rotten_pages += disk.rotten;
            self.shared.coverage.lost_files += disk.lost_files;
        }
        let network = self.shared.network.counters;
        self.shared.coverage.lost_packets += network.lost;
        self.shared.coverage.duplicated_packets += network.duplicated;
        self.shared.coverage.corrupted_packets += network.corrupted;
        Ok(self.shared.coverage.clone())
    }

    /// # Errors
    /// The violation, if there is one.
    pub fn check(&self) -> Result<(), Violation> {
        self.violation().map_or(Ok(()), |violation| Err(violation.clone()))
    }

    fn rest(&mut self) -> Result<(), Violation> {
        self.come_to_rest(
            |world| world.clients.are_idle() && world.are_equal(),
            "the healed cluster does not come to rest",
        )?;
        for group in self.shared.groups() {
            let agreement = &self.shared.invariants.agreement;
            let kept = self
                .executed(group)
                .try_for_each(|executed| durability::check_end(agreement, group, executed));
            self.shared.invariants.note("durability", kept);
        }
        self.check()
    }

    /// First the old business, then one new write through every node, until that is done, too.
    pub(super) fn come_to_rest(
        &mut self,
        is_done: impl Fn(&Self) -> bool,
        otherwise: &str,
    ) -> Result<(), Violation> {
        let deadline = self.now() + REST_WITHIN;
        let mut resting = false;
        while self.now() < deadline && !resting && self.violation().is_none() {
            self.run_for(20 * MILLISECOND);
            resting = self.clients.are_idle() && self.are_up();
        }
        if resting {
            self.probe();
            resting = false;
        }
        while self.now() < deadline && !resting && self.violation().is_none() {
            self.run_for(20 * MILLISECOND);
            resting = is_done(self);
        }
        self.check()?;
        if !resting {
            self.shared.invariants.note("progress", Err(format!("{otherwise}: {}", self.describe())));
        }
        self.check()
    }

    /// Whether every node that did not refuse to start, and is not kept away, lives, and none is on its way back.
    fn are_up(&self) -> bool {
        self.nodes.iter().all(|node| match &node.state {
            State::Refused => true,
            _ if node.is_absent => true,
            State::Up(life) => life.core.is_live() && !node.is_on_its_way_back(),
            _ => false,
        })
    }

    fn executed(&self, group: GroupId) -> impl Iterator<Item = &Frontier> {
        self.nodes.iter().filter_map(Node::life).filter_map(move |life| life.core.executed(group))
    }

    fn are_equal(&self) -> bool {
        let mut groups = self.shared.groups();
        self.are_up()
            && groups.all(|group| {
                let mut executed = self.executed(group);
                let first = executed.next();
                executed.all(|other| Some(other) == first)
            })
    }
}
