//! Without its rule each of these configurations finds a violation.

use panch_wire::rule::{Rule, remove};

use super::all;

/// What the configuration of that name finds within so many states without `rule`.
fn found(rule: Rule, name: &str, states_max: usize) -> Option<String> {
    let configuration = all().find(|it| it.name == name).expect("there is such a configuration");
    remove(Some(rule));
    let outcome = (configuration.run)(states_max, &mut |_| true);
    remove(None);
    outcome.violation.map(|violation| violation.text)
}

macro_rules! mutants {
    ($($name:ident: $rule:ident, $configuration:literal, $states_max:literal, $text:literal;)*) => {
        $(#[test]
        fn $name() {
            let text = found(Rule::$rule, $configuration, $states_max);
            let text = text.unwrap_or_else(|| panic!("{} can be removed unnoticed", Rule::$rule.name()));
            assert!(text.contains($text), "{text}");
        })*
    };
}

mutants! {
    fast_votes_twice: FastVoteOnce, "fast-3-stripes", 20_000, "voted twice";
    fast_picks_from_any_round: FastPickHighestRound, "fast-5-t-f1", 1_000, "is chosen to hold";
    fast_recovers_from_too_few: FastRecoveryQuorum, "fast-4-slow", 2_000, "is chosen to hold";
    fast_proposes_its_own_value: FastNeverOwnValue, "fast-5-t-f1", 1_000, "is chosen to hold";
    epaxos_one_ballot: EpaxosTwoBallots, "epaxos-3-t-e1", 8_000, "was decided to hold";
    epaxos_any_acceptance: EpaxosRecoverHighestAccepted, "epaxos-3-t-e1", 8_000, "was decided to hold";
    epaxos_any_pair: EpaxosFixedPair, "epaxos-3-t-e3", 8_000, "was decided to hold";
    epaxos_buddy_ignored: EpaxosRecoverPreacceptedBuddy, "epaxos-3-two", 8_000, "has committed";
    epaxos_fast_after_slow: EpaxosNoFastCommitAfterSlow, "epaxos-3-slow", 15_000, "has committed";
    epaxos_no_validation: EpaxosValidate, "epaxos-5-t-e4", 2_000, "neither depends on the other";
    epaxos_own_dependencies: EpaxosWaitingUsesReportedDeps, "epaxos-5-t-e20", 6_000, "has committed";
}
