//! Tests prove something only if they notice when the rule that they test is removed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use panch_wire::rule::{Rule, remove};

use super::random::Run;

/// How the names of the rules of a protocol begin. Those of Multi-Paxos, and of what all protocols share, have no prefix.
const PREFIXES: [&str; 3] = ["basic-", "fast-", "epaxos-"];

/// Whether `scenario` panics without `rule`.
fn notices(rule: Rule, scenario: impl Fn()) -> bool {
    remove(Some(rule));
    let outcome = catch_unwind(AssertUnwindSafe(scenario));
    remove(None);
    outcome.is_err()
}

/// `scenario` panics without `rule`.
pub(crate) fn assert_notices(rule: Rule, scenario: impl Fn()) {
    assert!(notices(rule, scenario), "{} can be removed unnoticed", rule.name());
}

/// One of the first `count` random schedules notices, of every one of the rules, that it is missing, without being told
/// where to look.
pub(crate) fn assert_random_schedules_notice(count: u64, run: Run, rules: &[Rule]) {
    for rule in rules {
        let noticed = (0..count).any(|seed| {
            notices(*rule, || {
                run(seed);
            })
        });
        assert!(noticed, "{} can be removed unnoticed", rule.name());
    }
}

/// Every rule whose name begins so (with "", with no prefix at all) is either tested by one of these mutants or, being no
/// rule of the protocol itself, elsewhere.
pub(crate) fn assert_every_rule_is_tested(prefix: &str, tested: &[Rule], elsewhere: &[Rule]) {
    for rule in Rule::ALL {
        let own = PREFIXES.into_iter().find(|prefix| rule.name().starts_with(prefix)).unwrap_or("");
        let times = usize::from(tested.contains(rule)) + usize::from(elsewhere.contains(rule));
        assert_eq!(times, usize::from(own == prefix), "{}", rule.name());
    }
}

/// The mutants of one protocol. A test for each: "without the rule, the scenario panics". One that no rule is left out,
/// except those listed as tested elsewhere. And the rules that break often enough to be found by so many random schedules.
macro_rules! mutants {
    (
        rules $prefix:literal, elsewhere [$($elsewhere:ident),* $(,)?];
        random { $($test:ident: $count:literal of $run:path, [$($found:ident),* $(,)?];)* }
        $($name:ident: $rule:ident, $scenario:path;)*
    ) => {
        $(#[test]
        fn $name() {
            $crate::testing::mutants::assert_notices(panch_wire::rule::Rule::$rule, $scenario);
        })*

        $(#[test]
        fn $test() {
            use panch_wire::rule::Rule;
            $crate::testing::mutants::assert_random_schedules_notice($count, $run, &[$(Rule::$found),*]);
        })*

        #[test]
        fn every_rule_has_a_mutant() {
            use panch_wire::rule::Rule;
            let tested = [$(Rule::$rule),*];
            let elsewhere = [$(Rule::$elsewhere),*];
            $crate::testing::mutants::assert_every_rule_is_tested($prefix, &tested, &elsewhere);
        }
    };
}

pub(crate) use mutants;
