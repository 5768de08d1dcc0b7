//! The end of a node's way back from the loss of its disk, or of its wait for the others to take in its start, and what the operator
//! hears meanwhile.

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

/// A core of a node whose start the others have not taken in yet.
#[derive(Default)]
pub(crate) struct Unrecognised {
    /// When it last said so; not before it has lasted for a while.
    said: Option<Instant>,
}

impl CoreLoop {
    /// Whether the others have taken in this start: then the replicas may claim something.
    pub(super) fn consider_recognition(&mut self, now: Instant) {
        let Some(Unrecognised { said }) = &mut self.unrecognised else { return };
        if self.out.peers.has_been_taken_in() {
            self.unrecognised = None;
            self.core.set_recognised(now, &mut self.out);
        } else if now.since(*said.get_or_insert(now)) >= SAY_EVERY {
            *said = Some(now);
            let hesitating: Vec<_> =
                self.out.peers.hesitating().map(|id| format!("node {}", id.0 + 1)).collect();
            say(format_args!(
                "node {} does not vote and serves nothing but stale reads before this start is taken in by {}: whoever refuses it may know of a later start of it than its data directory does, or has an older data directory itself; see what it is refused for. If that node is gone for good, start this one again",
                u64::from(self.view.node().0) + 1,
                hesitating.join(" and ")
            ));
        }
    }

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
                    Membership::Member | Membership::Unrecognised => {}
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
