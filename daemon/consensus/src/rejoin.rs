//! Coming back without a disk: what a replica must know of its earlier life before it may claim anything again.
//!
//! A replica that has lost its disk has forgotten promises and votes that others may count on. It takes a new incarnation
//! and asks *every* other replica for its [`Horizon`]: what may have been said before that replica knew of the new
//! incarnation. From then on that replica takes in nothing of the earlier life. So, once all have answered:
//!
//! * (H1) whatever the earlier life has said, and anybody alive has heard, is about a ballot and a position at or below the
//!   horizon, which is the highest of the answers;
//! * (H2) whatever the earlier life has said beyond the horizon, nobody has heard and nobody will: as if it had never been;
//! * (H3) whatever was chosen with a vote of the earlier life lies at or below the horizon: a quorum has two members at
//!   least, and the other voter is one of those asked, with its vote durable. The same holds for a promise that was part of a quorum.
//!
//! A classic quorum of answers would not do: the one other voter may be missing in it.
//!
//! The replica then is *mute*: the protocol runs, but its claims are dropped like messages that are lost, until everything
//! up to the horizon is executed and what that took is durable in its own log (or came as a snapshot, which is durable
//! before it is installed). A snapshot of its own is not needed for that: a protocol calls nothing chosen that its log does
//! not hold. Then it has nothing to say about positions at or below the horizon but what was decided, and nothing to remember
//! about those beyond. What this means for each protocol is argued in its module `rejoin`.
//!
//! Hints are not dropped, so none may rest on a vote that is forgotten: answers to quorum reads name the horizon at least.
//!
//! A crash on the way begins everything again, in a yet higher incarnation and with the log so far: what it holds was never
//! said, or is remembered. It takes three replicas and more: while one is mute the others must be a quorum. Two replicas
//! that have lost their disks at the same time wait for each other for ever: nobody knows what the two have decided
//! together.

use panch_wire::ids::{Position, REPLICAS_MAX, Slot};
use rkyv::{Archive, Deserialize, Serialize};

use crate::ballot::Ballot;
use crate::frontier::Frontier;
use crate::messages::{is_plausible_ballot, is_plausible_slot};

/// The highest that a replica knows of anything: accepted, voted for, promised, proposed, or counted from others' messages,
/// durable or not.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Horizon {
    /// Of ballots that are promised for all positions together.
    pub ballot: Ballot,
    /// Of positions, per row; in a log, of slots in row 0.
    pub numbers: [u64; REPLICAS_MAX],
}

impl Horizon {
    /// In a log.
    pub fn of_log(ballot: Ballot, slot: Slot) -> Self {
        let mut numbers = [0; REPLICAS_MAX];
        numbers[0] = slot.0;
        Self { ballot, numbers }
    }

    /// In a log: the highest slot.
    pub fn slot(&self) -> Slot {
        Slot(self.numbers[0])
    }

    /// How many positions are at or below it.
    pub fn count(&self) -> u64 {
        self.numbers.iter().fold(0, |count, number| count.saturating_add(*number))
    }

    /// Whether the position is not beyond it.
    pub fn contains(&self, position: Position) -> bool {
        self.numbers.get(usize::from(position.row)).is_some_and(|number| position.number <= *number)
    }

    /// The higher of both, in everything.
    pub fn merge(&mut self, other: &Horizon) {
        self.ballot = self.ballot.max(other.ballot);
        for (own, other) in self.numbers.iter_mut().zip(&other.numbers) {
            *own = (*own).max(*other);
        }
    }

    /// Whether everything up to it is in `executed`.
    pub fn is_within(&self, executed: &Frontier) -> bool {
        self.numbers.iter().enumerate().all(|(row, number)| executed.upto(row as u8) >= *number)
    }

    /// Whether it can be counted on from without overflow.
    pub fn is_plausible(&self) -> bool {
        is_plausible_ballot(self.ballot) && self.numbers.iter().all(|number| is_plausible_slot(Slot(*number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_horizon_is_the_highest_of_all_answers_in_every_row() {
        let mut horizon = Horizon::of_log(Ballot { round: 3, owner: 1 }, Slot(7));
        let mut other = Horizon::of_log(Ballot { round: 2, owner: 2 }, Slot(5));
        other.numbers[2] = 4;
        horizon.merge(&other);
        assert_eq!((horizon.ballot.round, horizon.slot(), horizon.numbers[2]), (3, Slot(7), 4));
        assert!(horizon.contains(Position { row: 2, number: 4 }));
        assert!(!horizon.contains(Position { row: 2, number: 5 }));
        assert!(!horizon.contains(Position { row: 200, number: 1 }));
    }

    #[test]
    fn it_is_reached_when_every_row_is_executed_without_a_gap() {
        let mut horizon = Horizon::of_log(Ballot::default(), Slot(2));
        horizon.numbers[1] = 1;
        let mut executed = Frontier::from(Slot(2));
        assert!(!horizon.is_within(&executed));
        executed.insert(Position { row: 1, number: 2 });
        assert!(!horizon.is_within(&executed));
        executed.insert(Position { row: 1, number: 1 });
        assert!(horizon.is_within(&executed));
    }

    #[test]
    fn numbers_from_outside_that_would_overflow_are_noticed() {
        assert!(Horizon::default().is_plausible());
        assert!(!Horizon::of_log(Ballot::default(), Slot(u64::MAX)).is_plausible());
        assert!(!Horizon::of_log(Ballot { round: u64::MAX, owner: 0 }, Slot(0)).is_plausible());
    }
}
