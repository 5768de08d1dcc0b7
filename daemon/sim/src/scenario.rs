//! Nasty schedules, scripted: each ends in a violation, or in an error of its own, if the rule it is about is removed.
//!
//! The names `T-C*` and `T-M*` are those of the protocol reference (nasty scenarios); `T-X*` and, about leases, `T-L*`,
//! about lost disks `T-R*` and `T-ER*`, about snapshots on their way `T-XS*` and `T-EXS*`, about states that differ `T-D*` and `T-ED*`, about faults that last `T-MG*` and `T-FG*`, about clients' own
//! batches `T-FD*`, and `T-FX*` are the simulator's own, for rules that need
//! a schedule and have none there.
//!
//! | not yet | needs |
//! |---|---|
//! | T-C4 messages of an old epoch arrive after the seal | epochs |

mod basic;
mod chase;
mod common;
mod direct;
mod divergence;
mod election;
mod epaxos;
mod fast;
mod gray;
mod lease;
mod log;
mod read;
mod rejoin;
mod sessions;
mod storage;

use panch_consensus::protocol::ProtocolKind;

use crate::check;
use crate::invariant::Violation;
use crate::queue::MILLISECOND;
use crate::settings::Settings;
use crate::world::World;

/// The world of the scripts.
pub type Script = World;

/// What a scenario is run as.
#[derive(Clone, Copy)]
pub enum Body {
    /// The script, for one seed.
    Script(fn(u64) -> Result<(), String>),
    /// The script, for one seed and so many replicas; each of these numbers.
    Sized(&'static [usize], fn(u64, usize) -> Result<(), String>),
    /// The configuration of the bounded exhaustive check with this name, and so many states of it.
    Checked(&'static str, usize),
    /// It cannot be run before this exists.
    Needs(&'static str),
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// As the reference calls it.
    pub name: &'static str,
    /// What happens.
    pub text: &'static str,
    /// How.
    pub body: Body,
}

/// Seeds with which each script is run: they vary the times and what crashes leave.
pub const SEEDS: u64 = 6;

macro_rules! scenarios {
    ($($name:literal $text:literal $body:expr;)*) => {
        /// Every scenario, in the order of the reference.
        pub const ALL: &[Scenario] = &[$(Scenario { name: $name, text: $text, body: $body },)*];
    };
}

use Body::{Checked, Needs, Script as Run, Sized};

scenarios! {
    "T-C1" "a vote is sent, its write is lost in a crash, the node votes differently" Run(storage::vote_lost_in_crash);
    "T-C2" "every message arrives twice; votes are counted per member" Run(common::every_message_twice);
    "T-C3" "messages of an earlier incarnation arrive after a restart" Run(common::messages_of_an_earlier_life);
    "T-C4" "messages of an old epoch arrive after the seal" Needs("epochs");
    "T-C5" "a log write fails once; the node must stop" Run(storage::failed_write);
    "T-C6" "the log is damaged in the middle; the node must not vote there" Run(storage::damaged_log);
    "T-C7" "a client retries on another node while the first copy is undecided" Run(sessions::retry_while_undecided);
    "T-C8" "a snapshot is restored, then an old command is retried" Run(sessions::retry_after_restore);
    "T-C9" "a session expires while a retry is on its way" Run(sessions::expiry_and_retry);
    "T-C10" "a clock jumps, crawls and races (without leases)" Run(read::unsteady_clock);
    "T-C10L" "clocks drift while a lease is held" Run(lease::drifting_clocks);
    "T-C11" "a segment of the log is gone; the node must not start" Run(storage::lost_segment);
    "T-C12" "the snapshot that the log continues is gone or damaged; the node must not start" Run(storage::lost_snapshot);
    "T-C13" "a snapshot in doubt is made again in its own place, and that cannot be written" Run(storage::failed_remake);
    "T-M1" "a deposed leader hears of a commit where it holds a losing value" Run(log::losing_value_on_old_leader);
    "T-M2" "a new leader keeps a value that only one promise reports" Run(election::value_reported_once);
    "T-M3" "part of a promise is lost" Run(election::part_of_a_promise_lost);
    "T-M4" "two leaders leave different values; the highest ballot wins, not the most votes" Run(election::highest_ballot_wins);
    "T-M5" "a leader's own vote counts only once durable" Run(storage::own_vote_counted_early);
    "T-M6" "the leader is paused between the acknowledgement and a lease read" Run(lease::paused_leader);
    "T-M7" "a follower grants a lease, restarts at once, and votes for another" Run(lease::granter_restarts);
    "T-M8" "a lease is computed from the time of receipt" Run(lease::slow_answers);
    "T-M9" "a new leader reads before its term-start entry is chosen" Run(read::read_before_term_start);
    "T-M10" "a read is confirmed by a round that began before it arrived" Run(read::round_before_the_read);
    "T-M11" "replies in a higher ballot count as contact" Run(read::contact_in_a_higher_ballot);
    "T-M12" "a node returns from a partition and must not disturb" Run(election::return_from_partition);
    "T-M13" "a node sends but does not receive, and must not disturb" Run(election::deaf_node);
    "T-M14" "an Accept is lost, the next arrives; the acknowledgement must not cover the gap" Run(log::gap_is_not_acknowledged);
    "T-M15" "a snapshot is installed below entries that were acknowledged" Run(log::snapshot_below_acknowledged_entries);
    "T-M16" "the log is truncated past a lagging follower, which then stands for election" Run(log::truncated_past_a_candidate);
    "T-X1" "a deposed leader goes on proposing in its old ballot" Run(log::old_leader_goes_on);
    "T-X2" "acknowledgements of an old ballot arrive in a new term" Run(log::old_acknowledgements);
    "T-X3" "a candidate crashes before its promise is durable and stands again" Run(election::ballot_used_twice);
    "T-X4" "the segment that holds the promise is recycled" Run(storage::promise_recycled);
    "T-X5" "the log is recycled while the snapshot may still be lost" Run(storage::recycled_before_snapshot);
    "T-X6" "a torn commit group ends the log" Run(storage::torn_tail);
    "T-X7" "a batch is decided twice" Run(common::batch_decided_twice);
    "T-X8" "power fails everywhere at once, again and again" Run(storage::blackouts);
    "T-X9" "a large snapshot is read and sent in any order" Run(log::snapshot_read_in_any_order);
    "T-XS1" "a replica catches up by a snapshot over a long and narrow link, under load" Run(chase::multi);
    "T-XS2" "the same with Basic Paxos" Run(chase::basic);
    "T-XS3" "the same with Fast Paxos" Run(chase::fast);
    "T-XS4" "the same with EPaxos" Run(chase::epaxos);
    "T-XS5" "more is written than a replica can catch up with, and then less" Run(chase::in_vain);
    "T-EXS1" "the same with EPaxos" Run(chase::epaxos_in_vain);
    "T-XS6" "one replica has no room for a snapshot, and another gets one meanwhile" Run(chase::multi_without_room);
    "T-EXS4" "the same with EPaxos" Run(chase::epaxos_without_room);
    "T-EXS2" "EPaxos: a replica catches up by a snapshot while only new keys are written" Run(chase::epaxos_on_new_keys);
    "T-EXS3" "EPaxos: a replica is heard and executes nothing" Run(chase::epaxos_slow_replica);
    "T-X13" "a batch on its way to the leader is lost, the next one arrives" Run(log::lost_forward);
    "T-R1" "a disk is lost, and the only one that can tell what it held does not answer" Run(rejoin::one_does_not_answer);
    "T-R2" "a disk is lost, and the only one that has what it held is cut off" Run(rejoin::cut_off_after_the_answers);
    "T-R3" "a disk is lost with the promise that deposed a leader, who has not noticed" Run(rejoin::deposed_leader_proposes);
    "T-R4" "a disk is lost, and the power fails when its node is a member again" Run(rejoin::power_fails_at_the_end);
    "T-R5" "every disk is lost, one after the other" Run(rejoin::one_after_the_other);
    "T-R6" "a read that only a node without its disk can answer" Run(rejoin::read_through_the_mute);
    "T-D1" "a minority has another state than the others" Sized(&[3, 5], divergence::minority_stops);
    "T-D2" "replicas have different states, and none has a majority" Sized(&[3, 4], divergence::all_stop_without_a_majority);
    "T-D3" "two have different states while the third is away" Run(divergence::third_tells_who_is_right);
    "T-ED1" "EPaxos: the same, and the third writes without a pause" Run(divergence::third_tells_under_load);
    "T-D4" "the segment that says that a replica must not serve is recycled" Run(divergence::standing_outlives_its_segment);
    "T-D5" "votes are forgotten without a trace, and what they had chosen is decided again" Run(divergence::forgotten_votes);
    "T-D6" "votes are forgotten without a trace, and who forgot them leads" Run(divergence::forgetful_leader);
    "T-D9" "the same, and who knows better was restarted" Run(divergence::forgetful_leader_and_a_restart);
    "T-D7" "who leads when it can is outvoted" Run(divergence::outvoted_home);
    "T-D8" "who closes idle sessions is outvoted" Run(divergence::sessions_expire);
    "T-R7" "one node loses power before its votes are synced, while another is cut off" Run(rejoin::unsynced_votes_are_lost);
    "T-R8" "a disk is restored from a copy that was made before its node's last start" Run(rejoin::copy_from_before_the_last_start);
    "T-R9" "a disk is restored from a copy of the last run" Run(rejoin::copy_of_the_last_run);
    "T-R10" "a disk is restored from an older copy, and who is there was only told of what it lacks" Run(rejoin::copy_that_others_have_told_of);
    "T-R11" "a disk is restored from an older copy, and who knows better is slow" Run(rejoin::copy_that_a_slow_node_knows_of);
    "T-R12" "a disk is restored from a copy after all others have lost theirs" Run(rejoin::copy_that_knows_nobody);
    "T-R13" "a disk is restored from an older copy, and who knows better has lost what it knew of others" Run(rejoin::copy_that_only_a_forgetful_node_knows_of);
    "T-R14" "who objects to a start is an older copy itself, and goes away" Run(rejoin::forgetful_objector_goes_away);
    "T-L1" "a leader with a lease is cut off" Run(lease::cut_off);
    "T-L2" "a follower whose own lease is shorter grants, restarts and votes for another" Run(lease::short_granter);
    "T-L3" "the only follower that grants stands for election" Run(lease::granter_stands);
    "T-L4" "a new leader has a lease before its term-start entry is chosen" Run(lease::lease_before_term_start);
    "T-L5" "a leader hands over, and hears nothing of who takes over" Run(lease::handover);
    "T-L6" "a request to take over comes late, and its leader has gone on" Run(lease::late_handover);
    "T-L7" "the logs of a quorum stand still" Run(lease::stalled_logs);
    "T-L8" "a granter restarts at once with a shorter lease than it has granted" Run(lease::granter_restarts_with_less);
    "T-MG1" "the leader's disk hangs, its process lives" Sized(SIZES, gray::leaders_hung_disk);
    "T-MG2" "the leader does not reach one other, one way or both" Sized(SIZES, gray::leaders_cut_link);
    "T-FG1" "the coordinator's disk hangs, its process lives" Sized(SIZES, gray::coordinators_hung_disk);
    "T-FG2" "the coordinator does not reach one other, one way or both" Sized(SIZES, gray::coordinators_cut_link);
    "T-B1" "a value accepted in a higher ballot wins, though a lower one was accepted first" Sized(SIZES, basic::highest_ballot_wins);
    "T-B2" "an acceptor accepts without a promise; a lower Prepare arrives" Sized(SIZES, basic::accepting_promises);
    "T-B3" "all propose at the same moments" Sized(SIZES, basic::duelling_proposers);
    "T-B4" "a proposer dies when too few have accepted; the hole blocks nobody" Sized(SIZES, basic::proposer_dies_half_way);
    "T-B5" "a proposer forgets its ballot in a crash and proposes something else" Sized(SIZES, basic::ballot_of_an_earlier_life);
    "T-B6" "an answer to an older read comes late" Sized(&[3], basic::answer_to_an_older_read);
    "T-F1" "two coordinators in turn pick and die; the third follows the newer pick" Sized(LARGE, fast::pick_over_a_pick);
    "T-F1A" "a pick of the minority is on its way when another quorum picks" Checked("fast-5-t-f1", 2_000);
    "T-F2" "votes are split, again and again" Sized(SIZES, fast::split_votes);
    "T-F3" "an acceptor restarts between a vote and a duplicate" Sized(SIZES, fast::restart_between_votes);
    "T-F4" "classic votes of one term and fast votes of the next" Sized(SIZES, fast::rounds_of_two_terms);
    "T-F5" "a vote for a chosen batch is lost on the way to a coordinator with its own batch" Sized(SIZES, fast::one_vote_short);
    "T-F6" "a batch is chosen in two slots" Sized(SIZES, fast::chosen_twice);
    "T-F6A" "a batch is proposed again before any vote arrives" Sized(SIZES, fast::proposed_twice);
    "T-F7" "two proposers are swapped at half of the acceptors" Sized(SIZES, fast::cascade);
    "T-F8" "no fast quorum is up" Sized(SIZES, fast::no_fast_quorum);
    "T-F9" "permissions and proposals of an old term arrive in a new one" Sized(SIZES, fast::old_permissions);
    "T-F10" "votes name a batch that its proposer took with it" Sized(LARGE, fast::votes_without_the_batch);
    "T-F11" "the classic round of a slot comes before the proposal for its fast one" Sized(SIZES, fast::classic_before_fast);
    "T-F11A" "the promise for the classic round of a slot comes before the proposal for its fast one" Sized(LARGE, fast::promise_before_fast);
    "T-FX1" "all but the coordinator voted, and nobody hears of it" Sized(LARGE, fast::unheard_votes);
    "T-FX2" "promises arrive without the votes that they report" Sized(SIZES, fast::part_of_a_promise_lost);
    "T-FX3" "a read at a replica that a write has not reached" Sized(SIZES, fast::read_before_news);
    "T-FD1" "a client's own batch reaches a minority, and the client dies" Sized(SIZES, direct::client_dies_half_way);
    "T-FD2" "a client's batch is chosen in two slots" Sized(SIZES, direct::chosen_in_two_slots);
    "T-FD3" "a client's batch has a command outside its session" Sized(&[3], direct::command_without_session);
    "T-FD4" "the home of a client's batch dies; the client asks another while it is undecided" Sized(SIZES, direct::another_home_while_undecided);
    "T-FD5" "batches of two clients collide" Sized(SIZES, direct::two_clients_collide);
    "T-FD6" "two clients give their batches one name" Sized(SIZES, direct::one_name_for_two_batches);
    "T-FD7" "a client's batch without a fast quorum" Sized(SIZES, direct::in_classic_rounds);
    "T-E1" "a no-op accepted once, and a higher ballot (Sutra)" Checked("epaxos-3-t-e1", 8_000);
    "T-E2" "a fast commit is answered, and its leader loses power" Sized(SIZES, epaxos::leader_dies_after_the_answer);
    "T-E2A" "the record of a fast commit is lost with the power" Sized(&[3], epaxos::commit_record_lost);
    "T-E2B" "a majority is no fast quorum" Sized(&[7], epaxos::majority_is_no_fast_quorum);
    "T-E3" "the peer that is not the buddy has other dependencies" Checked("epaxos-3-t-e3", 8_000);
    "T-E4" "two recoveries of conflicting batches" Checked("epaxos-5-t-e4", 4_000);
    "T-E5" "two recoveries are in each other's way" Sized(&[5, 7], epaxos::in_each_others_way);
    "T-E6" "a late vote after the second phase has begun" Checked("epaxos-3-slow", 15_000);
    "T-E7" "a slow command leader is recovered; its batch counts once" Sized(SIZES, epaxos::slow_leader);
    "T-E8" "a no-op is accepted for an unknown batch, which a higher ballot brings back" Sized(&[5], epaxos::noop_over_unknown_batch);
    "T-E9" "a batch conflicts with an earlier and a later one of a row" Sized(SIZES, epaxos::later_of_two_keys);
    "T-E10" "a dependency covers the earlier ones of its row" Sized(SIZES, epaxos::earlier_of_two_keys);
    "T-E11" "everybody writes one key at once; ties are broken alike" Sized(SIZES, epaxos::same_stamps);
    "T-E12" "an instance is known from dependencies only" Sized(SIZES, epaxos::known_by_name_only);
    "T-E13" "numbers are never used again after restarts" Sized(SIZES, epaxos::numbers_after_restarts);
    "T-E14" "a commit comes before the proposal, and twice" Sized(SIZES, epaxos::early_commits);
    "T-E15" "closed loops on one key at all replicas" Sized(SIZES, epaxos::one_hot_key);
    "T-E16" "acceptors restart; what they voted for still counts" Sized(SIZES, epaxos::acceptors_restart);
    "T-E17" "who recovers has the poorer copy" Sized(SIZES, epaxos::poorer_copy_recovers);
    "T-E18" "a session on several nodes, with retries" Sized(SIZES, epaxos::wandering_session);
    "T-E19" "one replica lags while the others forget" Sized(SIZES, epaxos::forgotten_by_others);
    "T-E20" "a recovery that waited uses the dependencies reported to it" Checked("epaxos-5-t-e20", 6_000);
    "T-E21" "a seal beside conflicting instances" Needs("epochs");
    "T-E22" "a read races with a fast commit whose news are late" Sized(SIZES, epaxos::read_and_late_news);
    "T-ER1" "a disk is lost, and its node votes before it knows what it had voted for" Run(rejoin::vote_before_it_knows);
    "T-E23" "a leader forgets its own instance, which one peer saw" Sized(SIZES, epaxos::forgotten_instance);
    "T-E25" "votes for an instance are away for a minute while the others decide what interferes" Sized(LARGE, epaxos::votes_that_were_away);
    "T-E24" "a read of two keys beside a write of each, one after the other" Sized(&[3], epaxos::two_keys_beside_two_writes);
}

/// Group sizes for scenarios of any.
const SIZES: &[usize] = &[3, 5, 7];
/// Group sizes for scenarios that need a fast quorum without somebody.
const LARGE: &[usize] = &[5, 7];

/// The scenario with this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name.eq_ignore_ascii_case(name))
}

impl Scenario {
    /// Runs the script with all its seeds; `None` if it cannot be run yet.
    ///
    /// # Errors
    /// What went wrong, with the seed.
    pub fn run(&self) -> Option<Result<(), String>> {
        let failed = match self.body {
            Needs(_) => return None,
            Checked(name, states) => {
                let configuration = check::all().find(|it| it.name == name);
                let run = configuration.expect("scenarios name configurations that exist").run;
                run(states, &mut |_| true).violation.map(|violation| violation.to_string())
            }
            Run(script) => {
                (0..SEEDS).find_map(|seed| script(seed).err().map(|text| format!("seed {seed}: {text}")))
            }
            Sized(counts, script) => counts.iter().find_map(|count| {
                let failed = |seed| script(seed, *count).err().map(|text| (seed, text));
                (0..SEEDS)
                    .find_map(failed)
                    .map(|(seed, text)| format!("{count} replicas, seed {seed}: {text}"))
            }),
        };
        Some(failed.map_or(Ok(()), Err))
    }

    /// The protocol that it is about, by its name; `None`: all.
    pub fn protocol(&self) -> Option<ProtocolKind> {
        match self.name.as_bytes().get(2)? {
            b'B' => Some(ProtocolKind::Basic),
            b'M' | b'L' => Some(ProtocolKind::Multi),
            b'F' => Some(ProtocolKind::Fast),
            b'E' => Some(ProtocolKind::Epaxos),
            _ => None,
        }
    }
}

/// Returns with an error if the condition does not hold.
macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}
use ensure;

fn broken(violation: Violation) -> String {
    violation.to_string()
}

/// A world for a script, with a leader.
fn begin(settings: Settings) -> Result<(Script, usize), String> {
    let mut world = Script::new(settings, false);
    let leader = world.wait_for_leader();
    world.check().map_err(broken)?;
    match leader {
        Some(leader) => Ok((world, leader)),
        None => Err(format!("no leader: {}", world.describe())),
    }
}

/// A world for a script, without a leader, that has decided something everywhere.
fn steady(settings: Settings) -> Result<Script, String> {
    let mut world = Script::new(settings, false);
    let written = world.set_soon(0, "r0", "start");
    world.check().map_err(broken)?;
    ensure!(written, "no first write: {}", world.describe());
    world.run_for(200 * MILLISECOND);
    world.check().map_err(broken)?;
    Ok(world)
}

/// Heals the world and lets it come to rest; all its checks.
fn end(mut world: Script) -> Result<(), String> {
    world.finish().map(drop).map_err(broken)
}

/// The nodes that are not `one`.
fn others(count: usize, one: usize) -> Vec<usize> {
    (0..count).filter(|node| *node != one).collect()
}
