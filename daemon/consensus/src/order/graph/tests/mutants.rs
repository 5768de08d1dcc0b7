//! Every test of a rule must notice when the rule is removed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use panch_wire::rule::{Rule, remove};

use super::{reference, scenarios};

/// Whether `scenario` panics without `rule`.
fn notices(rule: Rule, scenario: impl Fn()) -> bool {
    remove(Some(rule));
    let outcome = catch_unwind(AssertUnwindSafe(scenario));
    remove(None);
    outcome.is_err()
}

#[test]
fn only_the_instance_at_the_number() {
    assert!(notices(Rule::EpaxosPrefixDependencies, scenarios::everything_up_to_the_number_is_waited_for));
}

#[test]
fn order_by_stamp_alone() {
    assert!(notices(Rule::EpaxosComponentOrder, scenarios::equal_stamps_in_a_cycle_have_one_order));
}

#[test]
fn random_graphs_notice_too() {
    for rule in [Rule::EpaxosPrefixDependencies, Rule::EpaxosComponentOrder] {
        let noticed = (0..200).any(|seed| notices(rule, || reference::run(seed)));
        assert!(noticed, "{} can be removed unnoticed", rule.name());
    }
}
