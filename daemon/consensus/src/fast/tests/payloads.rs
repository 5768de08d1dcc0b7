//! What is kept of the batches that come by for one slot.

use panch_wire::ids::{REPLICAS_MAX, Slot};

use super::super::message::{PayloadReply, Prepare};
use super::super::round::Round;
use super::solo::{R1, R2, Solo, stripes, term, votes};
use crate::protocol::Value;

/// In every term another batch wins a few votes in slot 1, and in the last one a batch that this replica has not seen.
pub(super) fn many_terms_collide() {
    let mut solo = Solo::new(3);
    let terms = 2 * REPLICAS_MAX as u64;
    for number in 1..=terms {
        let frame = solo.frame(number);
        let plan = stripes(term(number, 1), 3);
        solo.propose(R1, plan, 1, &frame);
        solo.settle();
    }
    let last = solo.frame(terms + 1);
    let round = Round::classic(term(terms + 1, 1));
    for from in [R1, R2] {
        solo.hear(from, votes(round, 1, Some(&last)), None);
    }
    assert_eq!(solo.chosen(), [], "its bytes are missing");
    solo.hear(R1, PayloadReply { slot: Slot(1) }, Some(&last));
    assert_eq!(solo.chosen(), [(1, Value::Batch(last))], "progress: there is no room for what is chosen");
}

#[test]
fn the_batch_that_is_chosen_after_many_collisions_has_room() {
    many_terms_collide();
}

#[test]
fn the_own_vote_is_reported_with_its_batch_after_many_collisions() {
    let mut solo = Solo::new(3);
    let terms = 2 * REPLICAS_MAX as u64;
    for number in 1..=terms {
        let frame = solo.frame(number);
        solo.propose(R1, stripes(term(number, 1), 3), 1, &frame);
        let other = solo.frame(100 + number);
        solo.propose(R2, stripes(term(number, 1), 3), 1, &other);
        solo.settle();
    }
    let newest = term(terms + 1, 1);
    solo.hear(R1, Prepare { term: newest, from_slot: Slot(1) }, None);
    let bodies: Vec<_> = solo.told().into_iter().filter_map(|(_, _, body)| body).collect();
    assert_eq!(bodies, [solo.frame(terms)]);
}
