//! Every scenario must notice when its rule is removed: otherwise it proves nothing.

use super::{acceptor_rules, gray, leader_rules, lease_rules, leases, random, scenarios, trust_rules};
use crate::testing::mutants::mutants;

mutants! {
    // The log, snapshots and sessions are no part of the protocol, and a lost disk takes whole nodes (T-R1 to T-R4).
    rules "", elsewhere [
        RefuseDamagedLog, RefuseLostSegments, LogNamesSnapshot, DigestsCompared, StandingRestated,
        TornTailCut, SessionsInSnapshot, SessionDedupe, SessionGeneration, ExecConditions, RefusedIsDropped, BatchInOrder, FailedWriteStops,
        IncarnationDurable, PromiseRestated, RecycleAfterSnapshot, RejoinAsksEverybody, RejoinMute,
        RejoinKeepsBallot, RejoinDurable, PeriodicPowerRejoins, PeriodicFailureRejoins, FoundingAsksEverybody, FoundingAsksTwice,
        FoundersAreNamed, FoundingsDoNotMix, FoundedWithState, HighestBallotSalvaged, BatchSalvagedOnce, UndecidedSalvagedAlone,
        PeerLifeRemembered,
        PeerLogEndRemembered, PeerLogNeverShrinks, UnnamedLifeConfirmed, AbsentTakesInFirst, UnheardStartsDropped,
        PeerWordsRemembered, SilenceTakesNothingBack, ReturningTellsNothing, OnlyNotedSegmentsUsed, ForgetfulDoNotObject, StartRecognised, MajorityDisowns, LogKeptForTransfers, DecisionsCompared,
        SmallFileCopiesInTurn, SmallFileWholeCopyStays, SmallFileSyncedWhenRead, SmallFileSyncedBeforeRenamed,
        SmallFileNameSynced,
        OutvotedDoesNotLead, ReportsOfOneLife, RejoinAboveFounding, FailedSnapshotKeepsFormer,
    ];
    random {
        random_schedules_notice_too: 400 of random::run, [
            AckContiguous, ClaimAfterDurable, FollowerCommitBallot, NoopOnlyIfFree, PromiseComplete,
            ReadAfterTermStart, ReadFreshRound, VotePerMember,
        ];
        random_schedules_with_leases_notice_too: 60 of leases::run, [LeaseComparedAtRead, LeaseRefusesOthers];
    }

    acks_of_older_ballots: AckOwnBallot, leader_rules::old_acknowledgement_is_ignored;
    commit_over_older_ballots: FollowerCommitBallot, scenarios::commit_index_over_a_value_that_lost;
    chosen_and_not_written_down: CommitNoted, acceptor_rules::what_is_chosen_at_rest_is_written_down;
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
    lease_from_the_receipt: LeaseSendTime, lease_rules::lease_from_the_send_time;
    lease_from_slow_replies: LeaseSendTime, leases::slow_replies_and_drifting_clocks;
    lease_as_long_as_the_grant: LeaseDrift, lease_rules::less_than_the_grant_is_used;
    lease_without_drift: LeaseDrift, leases::slow_replies_and_drifting_clocks_in_time;
    promise_during_a_grant: LeaseRefusesOthers, lease_rules::granter_refuses_others;
    promise_during_a_lease: LeaseRefusesOthers, leases::slow_replies_and_drifting_clocks;
    standing_during_a_grant: LeaseBindsGranter, lease_rules::granter_does_not_stand;
    standing_during_a_lease: LeaseBindsGranter, leases::granter_stands;
    promise_after_a_restart: LeaseBootDelay, lease_rules::restarted_replica_waits;
    deserted_after_a_restart: LeaseBootDelay, leases::granter_restarts;
    grant_beyond_the_boot_delay: LeaseWithinBootDelay, lease_rules::longer_than_own_lease;
    lease_not_compared: LeaseComparedAtRead, lease_rules::lease_after_a_pause;
    lease_of_a_paused_leader: LeaseComparedAtRead, leases::paused_leader;
    lease_before_the_term_start: LeaseAfterTermStart, lease_rules::lease_before_the_term_start;
    lease_during_a_handover: LeaseEndsAtTransfer, leases::handover;
    handover_of_any_round: LeaseReleaseNamesRounds, lease_rules::release_of_earlier_rounds;
    handover_that_comes_late: LeaseReleaseNamesRounds, leases::late_handover;
    grants_of_a_stalled_log: LeaseNeedsLog, lease_rules::granter_whose_log_stands_still;
    leases_of_stalled_logs: LeaseNeedsLog, leases::stalled_logs;
    unfit_leaders: FittestLeads, gray::hung_disk_of_the_leader;
    leaders_with_few_links: FittestLeads, gray::link_of_the_leader;
    leaders_behind_narrow_links: FittestLeads, gray::narrow_link_of_the_leader;
    slow_leaders: FittestLeads, gray::slow_process_of_the_leader;
    longer_grants_forgotten: LeaseLongestRecorded, leases::granter_restarts_with_a_shorter_lease;
    longer_grants_not_written: LeaseLongestRecorded, lease_rules::longest_lease_is_written_down;
    chosen_acknowledged_untold: AckCompared, acceptor_rules::acknowledged_once_told;
    left_memory_uncompared: AckComparedWithLog, trust_rules::compared_after_a_restart;
    below_the_log_uncompared: AckComparedWithLog, trust_rules::leader_below_the_log_gets_a_snapshot;
    never_proposed_unread: AckComparedWithLog, trust_rules::never_proposed_is_found_in_the_log;
    contradicting_leader_followed: ContradictionDeserts, acceptor_rules::contradicting_leader_is_deserted;
    grants_of_any_ballot: ContactOwnBallot, lease_rules::grants_in_another_ballot;
}
