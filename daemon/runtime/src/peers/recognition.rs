//! Whether the other nodes have taken in this life of this node, before which it claims nothing: see [`panch_replica::rejoin`].

use panch_replica::rejoin::has_forgotten;
use panch_wire::ids::{Incarnation, ReplicaId, ReplicaSet};
use panch_wire::peer::HelloReply;
use panch_wire::time::{Duration, Instant};

use super::OPEN_TIMEOUT;

/// What a peer thinks of this life of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opinion {
    /// It has not said.
    Unknown,
    /// It has accepted a hello.
    Accepted,
    /// It takes this node for one that may have forgotten something.
    Against,
}

/// Time between two looks in which a core has not listened: it looks less often than it has to. Each look counts for something, so
/// that a process that never gets more time waits for longer, and not for ever; but for nothing if they are so far apart that no stream
/// can be opened meanwhile, which takes a turn at least between its first one and its last.
fn missed(gap: Duration) -> Duration {
    if 2 * gap > OPEN_TIMEOUT { gap } else { gap.saturating_sub(2 * LISTEN_EVERY) }
}

impl Opinion {
    /// Of a peer that refuses this node, whose directory began in this incarnation because the disk before was lost; 0: it did not.
    ///
    /// Before this node was a member again, all others had met that incarnation. Who remembers none of that time has lost its own memory,
    /// or is an older copy, and knows nothing that could be missing in this directory: it may as well be out of reach. Who has remembered
    /// it in this life of this node was right, and stays so.
    pub(super) fn after_refusal(self, reply: &HelloReply<'_>, returned_in: Incarnation) -> Self {
        let is_ignorant = has_forgotten(reply.known.max(reply.told), returned_in);
        if is_ignorant && self != Self::Against { Self::Unknown } else { Self::Against }
    }
}

/// A core that waits looks so often.
const LISTEN_EVERY: Duration = Duration::from_millis(50);

/// How far a core of this node is with it.
#[derive(Default, Debug)]
pub(super) struct Recognition {
    /// When whoever has not answered by then counts as out of reach; `None`: no hello could be said yet, or it is over.
    patience: Option<Instant>,
    /// When this core looked last.
    looked: Instant,
    /// Whoever has not answered is out of reach.
    is_late: bool,
    /// They have. Whatever they say later is about what this node has said since.
    is_reached: bool,
}

impl Recognition {
    /// Hellos can be said from now on, or could before.
    pub(super) fn wait(&mut self, now: Instant) {
        if !self.is_late {
            // While this process stands still, nobody is out of reach.
            let gap = now.since(std::mem::replace(&mut self.looked, now));
            let until = self.patience.map_or(now + OPEN_TIMEOUT, |until| until + missed(gap));
            self.is_late = now >= until;
            self.patience = Some(until).filter(|_| !self.is_late);
        }
    }

    /// When [`Recognition::wait`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.patience.map(|until| until.min(self.looked + LISTEN_EVERY))
    }

    /// Whether all others have taken in this life, or were out of reach for long enough. Who says that this node may have forgotten
    /// something is not out of reach, whatever becomes of it, unless this node has found that it has itself (`disowned`).
    pub(super) fn is_reached(
        &mut self,
        mut opinions: impl Iterator<Item = (ReplicaId, Opinion)>,
        disowned: ReplicaSet,
    ) -> bool {
        let is_settled = |(id, opinion)| match opinion {
            Opinion::Accepted => true,
            Opinion::Unknown => self.is_late,
            Opinion::Against => disowned.contains(id),
        };
        self.is_reached = self.is_reached || opinions.all(is_settled);
        self.is_reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [ReplicaId; 2] = [ReplicaId(1), ReplicaId(2)];

    fn is_reached(recognition: &mut Recognition, opinions: [Opinion; 2], disowned: ReplicaSet) -> bool {
        recognition.is_reached(OTHERS.into_iter().zip(opinions), disowned)
    }

    /// As a core that runs does, which wakes when it has to.
    fn look(recognition: &mut Recognition, from: Instant, to: Instant) -> Instant {
        recognition.wait(from);
        while let Some(at) = recognition.deadline().filter(|at| *at < to) {
            recognition.wait(at);
        }
        recognition.wait(to);
        to
    }

    #[test]
    fn who_remembers_nothing_since_a_disk_was_replaced_is_as_good_as_out_of_reach() {
        let refused = |known: u32, told: u32| HelloReply {
            version: 1,
            refusal: None,
            incarnation: Incarnation(9),
            core_count: 1,
            known: Incarnation(known),
            since: Incarnation(0),
            told: Incarnation(told),
            told_since: Incarnation(0),
            text: "",
        };
        let returned_in = Incarnation(5);
        for (known, told, opinion) in [
            (0, 0, Opinion::Unknown),
            (4, 3, Opinion::Unknown),
            (5, 0, Opinion::Against),
            (4, 5, Opinion::Against),
            (7, 0, Opinion::Against),
        ] {
            assert_eq!(
                Opinion::Unknown.after_refusal(&refused(known, told), returned_in),
                opinion,
                "{known} {told}"
            );
            assert_eq!(
                Opinion::Unknown.after_refusal(&refused(known, told), Incarnation(0)),
                Opinion::Against,
                "a directory that is as old as the cluster may lack anything"
            );
            assert_eq!(
                Opinion::Against.after_refusal(&refused(known, told), returned_in),
                Opinion::Against,
                "it knew better before it forgot"
            );
        }
    }

    #[test]
    fn who_does_not_answer_is_waited_for_from_the_first_hello_on_and_not_for_ever() {
        let mut recognition = Recognition::default();
        let none = ReplicaSet::default();
        let opinions = [Opinion::Accepted, Opinion::Unknown];
        let begun = Instant(0) + OPEN_TIMEOUT;
        assert!(!is_reached(&mut recognition, opinions, none), "no hello was said");
        look(&mut recognition, begun, begun + OPEN_TIMEOUT - Duration::from_nanos(1));
        assert!(!is_reached(&mut recognition, opinions, none));
        recognition.wait(begun + OPEN_TIMEOUT);
        assert!(is_reached(&mut recognition, opinions, none));
        assert_eq!(recognition.deadline(), None, "a core does not wake for it again");
        assert!(is_reached(&mut recognition, opinions, none));
    }

    #[test]
    fn what_a_process_missed_is_not_time_that_others_had_and_it_ends_all_the_same() {
        let none = ReplicaSet::default();
        let opinions = [Opinion::Accepted, Opinion::Unknown];
        let mut recognition = Recognition::default();
        recognition.wait(Instant(0));
        let back = Instant(0) + OPEN_TIMEOUT + OPEN_TIMEOUT;
        recognition.wait(back);
        assert!(!is_reached(&mut recognition, opinions, none), "nothing was heard meanwhile");
        look(&mut recognition, back, back + OPEN_TIMEOUT);
        assert!(is_reached(&mut recognition, opinions, none));
        // A process that gets time so rarely always.
        let mut recognition = Recognition::default();
        let seldom = Duration::from_millis(400);
        let mut now = Instant(0);
        let looks = (0..100).take_while(|_| {
            recognition.wait(now);
            now = now + seldom;
            !is_reached(&mut recognition, opinions, none)
        });
        assert!((20..100).contains(&looks.count()), "each look counts for something");
        // One that gets time so rarely that it has heard nobody out.
        let mut recognition = Recognition::default();
        let mut now = Instant(0);
        for _ in 0..200 {
            recognition.wait(now);
            assert!(!is_reached(&mut recognition, opinions, none), "no hello can have been answered");
            now = now + OPEN_TIMEOUT / 2 + LISTEN_EVERY;
        }
        look(&mut recognition, now, now + OPEN_TIMEOUT + OPEN_TIMEOUT);
        assert!(is_reached(&mut recognition, opinions, none));
    }

    #[test]
    fn who_objects_is_waited_for_until_it_accepts_or_is_known_to_be_forgetful() {
        let (mut first, mut second) = (Recognition::default(), Recognition::default());
        let objecting = [Opinion::Unknown, Opinion::Against];
        for recognition in [&mut first, &mut second] {
            look(recognition, Instant(0), Instant(0) + OPEN_TIMEOUT + OPEN_TIMEOUT);
            assert_eq!(recognition.deadline(), None);
            assert!(!is_reached(recognition, objecting, ReplicaSet::default()));
        }
        let mut disowned = ReplicaSet::default();
        disowned.insert(OTHERS[0]);
        assert!(!is_reached(&mut first, objecting, disowned), "that is another one");
        disowned.insert(OTHERS[1]);
        assert!(is_reached(&mut first, objecting, disowned));
        assert!(is_reached(&mut second, [Opinion::Unknown, Opinion::Accepted], ReplicaSet::default()));
        assert!(is_reached(&mut second, objecting, ReplicaSet::default()), "for the life of this node");
    }
}
