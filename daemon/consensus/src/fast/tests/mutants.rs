//! Every test must notice when its rule is removed: otherwise it proves nothing.

use super::{acceptor_rules, coordinator_rules, election_rules, gray, payloads, picking, random, scenarios};
use crate::testing::mutants::mutants;

mutants! {
    rules "fast-", elsewhere [FastDirectNeedsSession, FastClientNamesChecked];
    random {
        random_schedules_notice_too: 100 of random::run, [
            FastVotePerMember, FastVoteAfterDurable, FastExecuteWithPayload, FastLearnedWrittenDown,
            FastNeverOwnValue, FastAnyAfterPhaseOne, FastReadQuorum, FastPromiseComplete,
        ];
    }

    second_votes: FastVoteOnce, acceptor_rules::one_vote_per_slot_and_round;
    second_votes_after_a_restart: FastVoteOnce, acceptor_rules::t_f3_a_restart_does_not_vote_a_second_time;
    frozen_threshold: FastPickThreshold, picking::picks_are_those_of_the_table;
    frozen_threshold_by_brute_force: FastPickThreshold, picking::no_value_with_a_fast_quorum_is_ever_lost;
    frozen_threshold_in_a_recovery: FastPickThreshold, coordinator_rules::t_f2_with_more_answers_more_votes_are_needed_to_bind;
    votes_of_any_round_picked: FastPickHighestRound,
        coordinator_rules::t_f1_the_newer_classic_round_counts_however_many_older_fast_votes_there_are;
    classic_votes_counted: FastPickClassicBinds, picking::picks_are_those_of_the_table;
    votes_before_durable: FastVoteAfterDurable, scenarios::t_c1_votes_are_lost_in_a_crash_of_all;
    votes_without_a_record: FastVoteAfterDurable, acceptor_rules::a_fast_vote_leaves_after_its_record;
    promises_before_durable: FastPromiseAfterDurable, acceptor_rules::a_promise_is_written_down_before_it_leaves;
    terms_before_durable: FastTermNeverReused, acceptor_rules::a_term_is_written_down_before_it_is_used;
    any_before_the_first_phase: FastAnyAfterPhaseOne, coordinator_rules::nobody_may_vote_before_the_first_phase_is_done;
    fast_votes_after_a_slot_promise: FastSlotPromiseBlocks,
        acceptor_rules::t_f11_no_fast_vote_after_a_promise_for_the_classic_round;
    recovery_from_too_few: FastRecoveryQuorum,
        coordinator_rules::a_slow_slot_goes_to_the_classic_round_only_with_a_quorum_of_answers;
    noops_at_once: FastNoopAfterPromises,
        coordinator_rules::a_hole_becomes_a_no_op_only_after_a_quorum_gave_up_its_fast_votes;
    own_value: FastNeverOwnValue,
        coordinator_rules::t_f5_after_a_missed_fast_quorum_the_votes_decide_not_the_coordinators_wish;
    own_value_in_a_group: FastNeverOwnValue,
        scenarios::t_f5_a_lost_vote_does_not_let_the_coordinator_contradict_what_others_learned;
    chosen_outvoted: FastChosenIsFinal,
        acceptor_rules::where_something_else_is_known_to_be_chosen_there_is_no_vote;
    chosen_outvoted_in_a_fast_round: FastChosenIsFinal,
        acceptor_rules::no_fast_vote_where_something_else_is_known_to_be_chosen;
    chosen_not_proposed: FastChosenIsFinal,
        coordinator_rules::a_coordinator_proposes_nothing_beside_what_it_knows_to_be_chosen;
    names_without_checksum: FastDigestCompared, acceptor_rules::two_batches_of_one_name_are_two_values;
    votes_counted_by_counter: FastVotePerMember, acceptor_rules::votes_count_once_per_member;
    votes_of_any_round_counted: FastVotesOfOneRound, acceptor_rules::votes_of_different_rounds_do_not_add_up;
    executed_by_name: FastExecuteWithPayload,
        acceptor_rules::t_f10_a_value_chosen_by_name_is_fetched_before_it_is_executed;
    second_slots: FastSecondSlotAfterLoss,
        acceptor_rules::t_f6_a_repeated_proposal_gets_no_second_slot_while_its_first_is_open;
    second_slots_in_a_group: FastSecondSlotAfterLoss,
        scenarios::t_f6_a_batch_is_decided_once_although_it_was_proposed_twice;
    small_fast_quorums: FastQuorumSize, acceptor_rules::a_fast_round_needs_a_fast_quorum;
    old_terms_obeyed: FastRefuseOldTerm, acceptor_rules::messages_of_an_older_term_are_refused_with_the_newer;
    old_proposals_obeyed: FastRefuseOldTerm, acceptor_rules::t_f9_a_proposal_of_an_old_term_after_a_newer_promise;
    promise_without_votes: FastPromiseComplete, coordinator_rules::a_promise_counts_once_its_votes_have_arrived;
    promises_mixed: FastPromiseComplete,
        election_rules::votes_that_an_earlier_answer_reported_do_not_make_up_for_those_of_a_later_one;
    learned_not_written: FastLearnedWrittenDown, acceptor_rules::a_value_chosen_without_the_own_vote_is_written_down;
    unfit_coordinators: FastFittestCoordinates, gray::hung_disk_of_the_coordinator;
    coordinators_with_few_links: FastFittestCoordinates, gray::link_of_the_coordinator;
    coordinators_with_late_links: FastFittestCoordinates, gray::late_link_of_the_coordinator;
    slow_coordinators: FastFittestCoordinates, gray::slow_process_of_the_coordinator;
    losers_kept: FastPayloadsLeave, payloads::many_terms_collide;
    reads_of_one: FastReadQuorum, acceptor_rules::a_read_waits_for_what_a_quorum_may_have_voted_in;
}
