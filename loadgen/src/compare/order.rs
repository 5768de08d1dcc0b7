//! In which order the protocols are measured, or whatever else is compared.
//!
//! Each round has every protocol once, so that a machine that becomes slower or faster does so to all of them. The order within a round is
//! drawn, so that none always comes after the same one.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::drive::run_name;

/// A seed for orders that nobody chose: of few digits, because people may have to write them.
pub fn any_seed() -> u64 {
    run_name() % 1_000_000
}

/// The order of all rounds, one after the other.
pub struct Order {
    /// Absent if every round has the order of the command line.
    random: Option<Xoshiro256PlusPlus>,
    protocols: usize,
}

impl Order {
    /// Of so many protocols, drawn from `seed`; without one, as they are listed.
    pub fn new(seed: Option<u64>, protocols: usize) -> Self {
        Self { random: seed.map(Xoshiro256PlusPlus::seed_from_u64), protocols }
    }

    /// The next round: positions on the command line.
    pub fn round(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.protocols).collect();
        if let Some(random) = &mut self.random {
            order.shuffle(random);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn rounds(seed: Option<u64>) -> Vec<Vec<usize>> {
        let mut order = Order::new(seed, 4);
        (0..6).map(|_| order.round()).collect()
    }

    #[test]
    fn a_seed_gives_the_same_order_again_and_every_round_has_each_protocol_once() {
        assert_eq!(rounds(Some(7)), rounds(Some(7)));
        for round in rounds(Some(7)) {
            assert_eq!(round.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2, 3]));
        }
        assert_eq!(rounds(None), vec![vec![0, 1, 2, 3]; 6]);
    }

    #[test]
    fn seeds_and_rounds_differ() {
        let orders: BTreeSet<Vec<Vec<usize>>> = (0..20).map(|seed| rounds(Some(seed))).collect();
        assert!(orders.len() > 15);
        let first: BTreeSet<Vec<usize>> = (0..20).flat_map(|seed| rounds(Some(seed))).collect();
        assert_eq!(first.len(), 24, "every order of four occurs");
    }
}
