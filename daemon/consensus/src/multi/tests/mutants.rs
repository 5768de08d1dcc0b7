//! Every scenario must notice when its rule is removed: otherwise it proves nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use panch_wire::rule::{Rule, remove};

use super::{acceptor_rules, leader_rules, random, scenarios};
use crate::protocol::Counters;

/// Whether `scenario` panics without `rule`.
fn notices(rule: Rule, scenario: impl Fn()) -> bool {
    remove(Some(rule));
    let outcome = catch_unwind(AssertUnwindSafe(scenario));
    remove(None);
    outcome.is_err()
}

macro_rules! mutants {
    ($($name:ident: $rule:ident, $scenario:path;)*) => {
        $(#[test]
        fn $name() {
            assert!(notices(Rule::$rule, $scenario), "{} can be removed unnoticed", Rule::$rule.name());
        })*
    };
}

mutants! {
    acks_of_older_ballots: AckOwnBallot, leader_rules::old_acknowledgement_is_ignored;
    commit_over_older_ballots: FollowerCommitBallot, scenarios::commit_index_over_a_value_that_lost;
    any_reported_value: AdoptHighestBallot, acceptor_rules::highest_ballot_is_adopted;
    noop_over_a_minority_report: NoopOnlyIfFree, scenarios::chosen_value_reported_once;
    promise_without_entries: PromiseComplete, scenarios::promise_whose_entries_are_lost;
    acks_over_gaps: AckContiguous, scenarios::acknowledgement_over_a_gap;
    lower_ballots_obeyed: RefuseLowerBallot, scenarios::accept_of_a_deposed_leader;
    reads_before_the_term_start: ReadAfterTermStart, scenarios::read_before_the_term_start;
    reads_in_old_rounds: ReadFreshRound, scenarios::read_joins_a_round_in_flight;
    contact_of_any_ballot: ContactOwnBallot, scenarios::replies_in_a_higher_ballot_are_not_contact;
    votes_counted_by_counter: VotePerMember, scenarios::duplicated_votes;
    votes_before_durable: ClaimAfterDurable, scenarios::own_vote_is_lost_in_a_crash;
    promises_before_durable: PromiseAfterDurable, scenarios::promise_is_lost_in_a_crash;
    ballots_before_durable: BallotNeverReused, scenarios::ballot_used_before_it_is_written_down;
    snapshot_over_the_suffix: SnapshotKeepsSuffix, acceptor_rules::snapshot_keeps_what_lies_beyond;
}

/// Rules that break often enough are found by the random schedules without being told where to look.
#[test]
fn random_schedules_notice_too() {
    for rule in [
        Rule::AckContiguous,
        Rule::ClaimAfterDurable,
        Rule::FollowerCommitBallot,
        Rule::NoopOnlyIfFree,
        Rule::PromiseComplete,
        Rule::ReadAfterTermStart,
        Rule::ReadFreshRound,
        Rule::VotePerMember,
    ] {
        let noticed = (0..100).any(|seed| {
            notices(rule, || {
                random::run(seed, &mut Counters::default());
            })
        });
        assert!(noticed, "{} can be removed unnoticed", rule.name());
    }
}
