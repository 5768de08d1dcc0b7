//! Every test of a rule must notice when the rule is removed.

use super::{acceptor_rules, conflicts, footprint, lagging, leader_rules, random, scenarios, stuck};
use crate::testing::mutants::mutants;

mutants! {
    // The order of execution has mutants of its own; a lost disk, snapshots and what clients ask for take whole nodes (T-ER1, T-E24).
    rules "epaxos-", elsewhere [
        EpaxosPrefixDependencies, EpaxosComponentOrder, EpaxosRejoinFloor, EpaxosManyKeysInLog,
        EpaxosDoubtEnds,
    ];
    random {
        random_schedules_notice_too: 60 of random::run, [
            EpaxosCommitIsFinal, EpaxosIndexRebuilt, EpaxosRecoverPreacceptedBuddy, EpaxosFixedPair,
            EpaxosNumberNeverReused,
        ];
    }

    dependencies_of_the_first_key_only: EpaxosAllKeys, conflicts::dependencies_are_the_highest_over_all_keys;
    sessions_that_are_no_keys: EpaxosSessionIsAKey, footprint::writes_of_one_session_interfere;
    one_ballot: EpaxosTwoBallots, acceptor_rules::a_promise_leaves_the_ballot_of_the_acceptance_alone;
    lower_ballots_obeyed: EpaxosRefuseLowerBallot, acceptor_rules::ballots_below_the_one_joined_are_refused;
    votes_before_durable: EpaxosVoteDurable, scenarios::votes_count_only_once_they_are_durable;
    ballots_before_durable: EpaxosPromiseDurable, scenarios::a_ballot_is_used_only_once_it_is_durable;
    fast_commits_before_durable: EpaxosFastCommitDurable,
        scenarios::a_fast_commit_is_used_only_once_its_record_is_durable;
    any_pair: EpaxosFixedPair, leader_rules::only_the_buddy_is_asked_for_a_vote;
    fast_commit_after_slow: EpaxosNoFastCommitAfterSlow,
        leader_rules::late_votes_do_not_commit_once_the_second_phase_has_begun;
    fast_commit_of_a_majority: EpaxosFastQuorumSize, leader_rules::a_fast_commit_of_seven_takes_five;
    leader_that_resumes: EpaxosOwnerNeverResumes, leader_rules::a_restarted_leader_recovers_instead_of_going_on;
    numbers_used_again: EpaxosNumberNeverReused, leader_rules::numbers_that_may_have_been_used_are_skipped;
    own_row_forgotten: EpaxosOwnRowFloor, leader_rules::after_a_restart_everything_depends_on_the_own_row;
    index_not_rebuilt: EpaxosIndexRebuilt, leader_rules::batches_of_the_log_are_depended_on_after_a_restart;
    any_acceptance: EpaxosRecoverHighestAccepted, acceptor_rules::the_acceptance_of_the_highest_ballot_is_taken_up;
    vote_of_the_buddy_dropped: EpaxosRecoverPreacceptedBuddy, acceptor_rules::the_vote_of_the_buddy_is_kept;
    votes_accepted_unseen: EpaxosValidate, acceptor_rules::votes_are_validated_before_they_are_accepted;
    executed_not_depended_on: EpaxosValidateExecuted,
        acceptor_rules::what_is_executed_where_a_validation_asks_becomes_a_dependency;
    votes_lost_to_snapshots: EpaxosVoterRemembers, acceptor_rules::a_vote_is_remembered_although_a_snapshot_covers_it;
    own_dependencies_accepted: EpaxosWaitingUsesReportedDeps,
        acceptor_rules::a_recovery_accepts_the_dependencies_that_were_reported;
    noops_that_vanish: EpaxosAcceptedNoopConflicts, acceptor_rules::an_accepted_noop_conflicts_until_it_is_committed;
    commits_that_change: EpaxosCommitIsFinal, acceptor_rules::a_committed_instance_is_not_voted_for_again;
    forgotten_too_early: EpaxosCollectAfterAll, acceptor_rules::what_one_replica_lacks_is_kept_for_it;
    votes_not_waited_for: EpaxosReadVoted, scenarios::a_read_sees_a_batch_whose_commits_are_delayed;
    executed_beyond_a_snapshot: EpaxosPauseLasts,
        lagging::a_replica_that_only_a_snapshot_can_help_rests_until_it_is_there;
    unasked_word: EpaxosCoveredIfAsked, lagging::word_that_nobody_asked_for_counts_for_nothing;
    laggards_fill_logs: EpaxosSlowGivenUp,
        lagging::a_laggard_is_waited_for_until_the_log_is_full_and_again_when_it_is_level;
    given_up_in_silence: EpaxosPassedOn, stuck::two_that_give_each_other_up_in_silence_lose_nothing;
    given_up_on_old_word: EpaxosPassedOn,
        lagging::who_is_given_up_in_silence_is_passed_on_to_first_until_it_reports;
    asked_for_again: EpaxosFetchOnce, lagging::what_is_on_its_way_is_not_asked_for_again;
    reads_without_a_quorum: EpaxosReadQuorum, acceptor_rules::a_read_waits_for_what_a_quorum_knows;
    stale_reads: EpaxosReadQuorum, scenarios::a_read_sees_a_batch_whose_commits_are_delayed;
}
