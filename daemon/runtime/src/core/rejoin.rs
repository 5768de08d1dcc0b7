//! The end of a node's way back from the loss of its disk, and what the operator hears meanwhile.

use panch_consensus::quorum::classic_quorum;
use panch_replica::rejoin::Membership;
use panch_wire::time::{Duration, Instant};

use super::CoreLoop;
use crate::complaints::say;
use crate::salvage::{WAY_BACK_AFTER, way_back};

/// How often the operator hears what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// A core on the node's way back.
pub(crate) struct Returning {
    since: Instant,
    /// When it last said so.
    said: Instant,
}

impl Returning {
    /// It begins.
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, said: now }
    }
}

impl CoreLoop {
    /// Whether all groups of this core are through; once those of all cores are, it is written down that the node is a member again.
    pub(super) fn consider_return(&mut self, now: Instant) {
        let Some(Returning { since, said }) = &mut self.returning else { return };
        let node = u64::from(self.view.node().0) + 1;
        if self.core.is_live() && !self.core.is_rejoining() {
            self.returning = None;
            self.data.core_is_through();
        } else if now.since(*said) >= SAY_EVERY {
            *said = now;
            let is_long = now.since(*since) >= WAY_BACK_AFTER;
            for status in self.core.status() {
                let group = status.group.0;
                match status.membership {
                    Membership::Member => {}
                    Membership::Asking(missing) => {
                        let count = self.view.options.members.len();
                        let has_majority = count - 1 - missing.count() >= classic_quorum(count);
                        let missing: Vec<String> = missing.iter().map(|id| (id.0 + 1).to_string()).collect();
                        say(format_args!(
                            "node {node} is on its way back: group {group} waits for node {} to say what was decided; a node that is on its \
                             way back, too, cannot",
                            missing.join(" and node ")
                        ));
                        if is_long && !has_majority {
                            say(format_args!("node {node}: {}", way_back(&self.view.options)));
                            break;
                        }
                    }
                    Membership::Mute(last) => {
                        let executed = status.executed.0;
                        say(format_args!(
                            "node {node} is on its way back: group {group} has executed {executed} positions, needs at least the first {last}, and does not vote yet"
                        ));
                    }
                }
            }
        }
    }
}
