//! Every scenario must notice when its rule is removed: otherwise it proves nothing.

use super::{acceptor_rules, learner_rules, proposer_rules, random, scenarios};
use crate::testing::mutants::mutants;

mutants! {
    rules "basic-", elsewhere [];
    random {
        random_schedules_notice_too: 100 of random::run, [
            BasicAdoptHighest, BasicChosenIsFinal, BasicRefuseLower, BasicNoopOnlyIfFree,
            BasicChosenBallot, BasicReadQuorum,
        ];
    }

    promises_before_durable: BasicPromiseDurable, scenarios::promise_lost_in_a_crash;
    votes_before_durable: BasicVoteDurable, scenarios::votes_lost_in_a_crash;
    any_reported_value: BasicAdoptHighest, proposer_rules::highest_reported_ballot_wins;
    lower_ballots_obeyed: BasicRefuseLower, acceptor_rules::lower_ballots_are_refused_slot_by_slot;
    acceptances_without_promise: BasicAcceptPromises, acceptor_rules::accepting_promises_too;
    ballots_of_earlier_lives: BasicBallotNeverReused, scenarios::ballot_of_an_earlier_life;
    ballots_without_incarnation: BasicBallotNeverReused, proposer_rules::lives_have_different_ballots;
    answers_counted_by_counter: BasicVotePerMember, proposer_rules::members_are_counted;
    noop_over_a_reported_value: BasicNoopOnlyIfFree, proposer_rules::a_reported_value_fills_the_hole;
    batch_in_two_slots: BasicOneSlotAtATime, proposer_rules::a_batch_stays_with_its_slot;
    any_acceptance_is_chosen: BasicChosenBallot, learner_rules::older_acceptances_are_not_taken_for_chosen;
    learned_but_not_written: BasicLearnedRecorded, learner_rules::learned_values_survive_a_restart;
    truncated_is_free: BasicChosenIsFinal, acceptor_rules::truncated_slots_are_chosen;
    reads_of_one_replica: BasicReadQuorum, learner_rules::reads_need_a_quorum;
    answers_to_older_requests: BasicReadFreshRound, learner_rules::answers_to_older_requests_do_not_count;
}
