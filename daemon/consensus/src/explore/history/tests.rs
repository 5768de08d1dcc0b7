//! The search notices each kind of disagreement.

use panch_wire::ids::Slot;

use super::super::tests::{batch, proposals};
use super::*;
use crate::protocol::Value;

struct Scene {
    order: Order,
    frames: Vec<Frame>,
    batches: Batches,
    history: History,
}

/// The batches 0 and 1 write one key, batch 2 another.
fn scene(order: Order) -> Scene {
    let mut frames: Vec<_> = proposals(&[0, 1]).into_iter().map(|(_, frame)| frame).collect();
    frames.push(batch(2, 9, b"other key"));
    let batches = Batches::new(frames.iter());
    Scene { order, batches, history: History::new(frames.len()), frames }
}

impl Scene {
    fn choose(
        &mut self,
        executed: &mut Executed,
        row: u8,
        number: u64,
        batch: Option<usize>,
    ) -> Result<(), String> {
        let value = Value::from(batch.map(|batch| self.frames[batch].clone()));
        let chosen = Chosen { position: Position { row, number }, stamp: number, value };
        self.history.on_chosen(&self.batches, self.order, &chosen, executed)
    }
}

#[test]
fn two_values_in_one_position_are_noticed_even_after_a_crash() {
    let mut scene = scene(Order::Log);
    scene.choose(&mut Executed::default(), 0, 1, Some(0)).expect("the first value");
    scene.choose(&mut Executed::default(), 0, 1, Some(0)).expect("the same value");
    scene.choose(&mut Executed::default(), 0, 1, None).expect_err("another value");
}

#[test]
fn slots_are_executed_in_turn() {
    let mut scene = scene(Order::Log);
    let mut executed = Executed::default();
    scene.choose(&mut executed, 0, 1, None).expect("the first slot");
    scene.choose(&mut executed, 0, 3, Some(0)).expect_err("a gap");
}

#[test]
fn a_batch_that_nobody_proposed_is_noticed() {
    let mut scene = scene(Order::Log);
    let stranger = Value::Batch(batch(1, 77, b"key"));
    let chosen = Chosen { position: Slot(1).into(), stamp: 1, value: stranger };
    let outcome = scene.history.on_chosen(&scene.batches, Order::Log, &chosen, &mut Executed::default());
    outcome.expect_err("nobody proposed it");
}

#[test]
fn what_interferes_has_one_order_and_the_rest_has_any() {
    let mut scene = scene(Order::Graph);
    let (mut one, mut two) = (Executed::default(), Executed::default());
    for batch in [0, 2, 1] {
        scene.choose(&mut one, batch as u8, 1, Some(batch)).expect("the first order");
    }
    scene.choose(&mut two, 2, 1, Some(2)).expect("it interferes with nothing");
    scene.choose(&mut two, 1, 1, Some(1)).expect("nothing was executed that comes later");
    scene.choose(&mut two, 0, 1, Some(0)).expect_err("the other order");
}

#[test]
fn a_graph_decides_a_batch_once() {
    let mut scene = scene(Order::Graph);
    scene.choose(&mut Executed::default(), 0, 1, Some(0)).expect("the first position");
    scene.choose(&mut Executed::default(), 0, 2, Some(0)).expect_err("the second position");
}

#[test]
fn what_was_executed_before_a_proposal_comes_before_it() {
    let mut scene = scene(Order::Graph);
    scene.choose(&mut Executed::default(), 0, 1, Some(0)).expect("the first batch");
    scene.history.on_propose(&scene.batches, Order::Graph, 1);
    let mut executed = Executed::default();
    scene.choose(&mut executed, 1, 1, Some(1)).expect("the later one alone");
    scene.choose(&mut executed, 0, 1, Some(0)).expect_err("after the later one");
}
