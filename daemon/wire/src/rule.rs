//! Switches for safety rules, so that a test build can remove one and prove that the tests notice.
//!
//! In every normal build [`holds`] is the constant `true` and the compiler removes the switch. With the feature
//! `mutants` (only `panch-sim` has it) one rule per thread can be turned off.

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A safety rule that can be removed in a test build.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rule { $($(#[$doc])* $name,)* }

        impl Rule {
            /// Every rule, in the order of declaration.
            pub const ALL: &'static [Rule] = &[$(Rule::$name,)*];
            /// The rule's name on the command line.
            pub fn name(self) -> &'static str { match self { $(Rule::$name => $text,)* } }
        }
    };
}

rules! {
    /// A claim leaves, and an own vote counts, only once the record behind it is durable (protocols D1, D10).
    ClaimAfterDurable = "claim-after-durable",
    /// A promise is durable before it is sent.
    PromiseAfterDurable = "promise-after-durable",
    /// Only acknowledgements of the leader's own ballot count (PM2).
    AckOwnBallot = "ack-own-ballot",
    /// A follower commits only entries accepted in the ballot that announced the commit index (PM3).
    FollowerCommitBallot = "follower-commit-ballot",
    /// What is chosen when a group comes to rest is written down, so that a restarted replica knows it (T-D9).
    CommitNoted = "commit-noted",
    /// Phase 1 adopts the value of the highest accepted ballot (T-M4).
    AdoptHighestBallot = "adopt-highest-ballot",
    /// A slot is filled with a no-op only if no promise reported a value for it (PM5, T-M2).
    NoopOnlyIfFree = "noop-only-if-free",
    /// A promise counts only when all its entries have arrived (PM4, T-M3).
    PromiseComplete = "promise-complete",
    /// A restart never reuses a ballot of an earlier incarnation (T-B5, D4).
    BallotNeverReused = "ballot-never-reused",
    /// The cumulative acknowledgement never jumps over a gap (PM10, T-M14).
    AckContiguous = "ack-contiguous",
    /// A leader hands over to a replica that reaches more others, or whose disk works when its own does not.
    FittestLeads = "fittest-leads",
    /// An acceptor refuses ballots below its promise.
    RefuseLowerBallot = "refuse-lower-ballot",
    /// No read is served before the leader's term-start entry is committed (PM6, T-M9).
    ReadAfterTermStart = "read-after-term-start",
    /// A read is confirmed by a heartbeat round that started after the read arrived (T-M10).
    ReadFreshRound = "read-fresh-round",
    /// A leader that a majority no longer follows steps down; only replies of its ballot are contact (T-M11).
    ContactOwnBallot = "contact-own-ballot",
    /// Votes are counted per member, so duplicates do not add up (T-C2).
    VotePerMember = "vote-per-member",
    /// A log that is damaged below what was acknowledged is refused at start (D3, T-C6).
    RefuseDamagedLog = "refuse-damaged-log",
    /// A log of whose segments one is missing or cut off is refused at start, wherever it was.
    RefuseLostSegments = "refuse-lost-segments",
    /// Recovery accepts a commit group only with a correct checksum (torn tail).
    TornTailCut = "torn-tail-cut",
    /// The snapshot carries the session table (PM9, T-C8).
    SessionsInSnapshot = "sessions-in-snapshot",
    /// A command of a session is applied once, however often it is decided (T-C7).
    SessionDedupe = "session-dedupe",
    /// A command that holds several takes effect only if all its conditions hold when it is executed.
    ExecConditions = "exec-conditions",
    /// What a client was told not to be applied is never proposed.
    RefusedIsDropped = "refused-is-dropped",
    /// A session that is opened again under the name of one that expired begins with numbers that the former never had.
    SessionGeneration = "session-generation",
    /// A batch of a proposer is applied once and in order, however often it is decided.
    BatchInOrder = "batch-in-order",
    /// A failed log write stops the node (D2, T-C5).
    FailedWriteStops = "failed-write-stops",
    /// The incarnation is durable before anything is sent (D5).
    IncarnationDurable = "incarnation-durable",
    /// Installing a snapshot keeps accepted entries beyond it (T-M15).
    SnapshotKeepsSuffix = "snapshot-keeps-suffix",
    /// The promise survives recycling of the segment it was written in.
    PromiseRestated = "promise-restated",
    /// The log names the snapshot that it continues, and a start without that one is refused.
    LogNamesSnapshot = "log-names-snapshot",
    /// A snapshot that cannot be written leaves the complete one whose place it was to take.
    FailedSnapshotKeepsFormer = "failed-snapshot-keeps-former",
    /// The log below the snapshot is recycled only once the snapshot is durable (D9).
    RecycleAfterSnapshot = "recycle-after-snapshot",
    /// What a replica that gets a snapshot needs next is kept until it had time to catch up: newer snapshots do not cut it off.
    LogKeptForTransfers = "log-kept-for-transfers",

    // Divergence.
    /// Digests of common positions are compared, and who disagrees with a majority stops serving.
    DigestsCompared = "digests-compared",
    /// What is said to be decided is compared with what is known to be.
    DecisionsCompared = "decisions-compared",
    /// What was known to be chosen before a leader's ballot is acknowledged in it only once the leader has said what it proposes there.
    AckCompared = "ack-compared",
    /// For that, what is chosen and has left memory is read back from the log.
    AckComparedWithLog = "ack-compared-with-log",
    /// A leader that proposes something else than what is known to be chosen is not followed, unless a majority does.
    ContradictionDeserts = "contradiction-deserts",
    /// A replica that is outvoted does not lead.
    OutvotedDoesNotLead = "outvoted-does-not-lead",
    /// What a peer reported of its state is void once the peer begins another life, or contradicts what is known to be decided.
    ReportsOfOneLife = "reports-of-one-life",
    /// That a replica must not serve survives the segment in which it was written down.
    StandingRestated = "standing-restated",

    // Small files.
    /// The second copy of a small file is written once the first is on stable storage.
    SmallFileCopiesInTurn = "small-file-copies-in-turn",
    /// Of the two copies the one that is not whole is written first.
    SmallFileWholeCopyStays = "small-file-whole-copy-stays",
    /// What was read is on stable storage before it counts.
    SmallFileSyncedWhenRead = "small-file-synced-when-read",
    /// A file that is made anew is on stable storage before it takes the name.
    SmallFileSyncedBeforeRenamed = "small-file-synced-before-renamed",
    /// A change that made a file anew counts once the name is on stable storage.
    SmallFileNameSynced = "small-file-name-synced",

    // Coming back without a disk.
    /// All other replicas are asked what the forgotten life may have said, not a quorum of them.
    RejoinAsksEverybody = "rejoin-asks-everybody",
    /// No claim leaves before everything that the forgotten life may have voted for is executed.
    RejoinMute = "rejoin-mute",
    /// No ballot below one that the forgotten life may have promised is obeyed.
    RejoinKeepsBallot = "rejoin-keeps-ballot",
    /// A node calls itself a member again only once what it executed to get there is durable.
    RejoinDurable = "rejoin-durable",
    /// A node that has lost power before its votes were on stable storage comes back as one that has lost its disk.
    PeriodicPowerRejoins = "periodic-power-rejoins",
    /// So does one of which a write or sync failed after its votes had counted, although its machine stays up.
    PeriodicFailureRejoins = "periodic-failure-rejoins",
    /// A node that starts again shows the key of the life that it is remembered with: a copy from before its last start has none.
    PeerLifeRemembered = "peer-life-remembered",
    /// A node that starts again has found all of its log that others remember to have been durable.
    PeerLogEndRemembered = "peer-log-end-remembered",
    /// Within a life a log never gets shorter.
    PeerLogNeverShrinks = "peer-log-never-shrinks",
    /// A life of which no name is remembered is taken in only if whoever is at the node's address has named it.
    UnnamedLifeConfirmed = "unnamed-life-confirmed",
    /// A node that was absent at the founding takes in the founders before they take it in.
    AbsentTakesInFirst = "absent-takes-in-first",
    /// Starts that nobody has heard of take no place in a node's notes of its starts.
    UnheardStartsDropped = "unheard-starts-dropped",
    /// What others have met of a node and told keeps it out until it has shown that it comes from there.
    PeerWordsRemembered = "peer-words-remembered",
    /// Who has met nothing of a node takes back nothing of what it told of it.
    SilenceTakesNothingBack = "silence-takes-nothing-back",
    /// Who has forgotten that a node came back from the loss of its disk does not hold up its starts.
    ForgetfulDoNotObject = "forgetful-do-not-object",
    /// A prepared segment is used only if the inventory names it: one that was not named could be lost unnoticed.
    OnlyNotedSegmentsUsed = "only-noted-segments-used",
    /// A node on its way back tells others nothing of third ones: it may have forgotten what it told before.
    ReturningTellsNothing = "returning-tells-nothing",
    /// A node that starts again claims nothing until all others have taken it in, or were out of reach for a while.
    StartRecognised = "start-recognised",
    /// Of two nodes that take each other for forgetful the one ends that a majority has not taken in.
    MajorityDisowns = "majority-disowns",
    /// A node comes back above every incarnation of it that a state knows which the cluster began with, whether a member has met it or not.
    RejoinAboveFounding = "rejoin-above-founding",
    /// EPaxos: everything depends on all that the forgotten life may have voted for.
    EpaxosRejoinFloor = "epaxos-rejoin-floor",

    // The first start.
    /// A cluster is founded only once all other nodes have answered that they are new, unless the operator says so.
    FoundingAsksEverybody = "founding-asks-everybody",
    /// Nodes that began with different salvaged states, or one of them with none, are never one cluster.
    FoundingsDoNotMix = "foundings-do-not-mix",
    /// Every node of a cluster that begins with a salvaged state begins with that state.
    FoundedWithState = "founded-with-state",
    /// Of what several nodes have accepted in a position, a cluster that begins anew keeps what was accepted in the highest ballot.
    HighestBallotSalvaged = "highest-ballot-salvaged",
    /// A batch of a graph that files have at two positions of its row is salvaged at one.
    BatchSalvagedOnce = "batch-salvaged-once",
    /// What a node has that was contradicted begins a cluster alone, not beside what others have.
    UndecidedSalvagedAlone = "undecided-salvaged-alone",
    /// They have answered so twice, so that there was a moment at which all were new.
    FoundingAsksTwice = "founding-asks-twice",
    /// A node with another directory than the one that the cluster was founded with does not begin as new.
    FoundersAreNamed = "founders-are-named",

    // Multi-Paxos leases.
    /// A lease is counted from the time its heartbeat was sent, not from the time the grant arrived (T-M8).
    LeaseSendTime = "lease-send-time",
    /// While a grant runs, its granter promises no ballot to anybody but the leader it granted to.
    LeaseRefusesOthers = "lease-refuses-others",
    /// While a grant runs, its granter does not stand for election itself.
    LeaseBindsGranter = "lease-binds-granter",
    /// A restarted replica promises nothing for as long as a grant of its earlier life may last (D7, T-M7).
    LeaseBootDelay = "lease-boot-delay",
    /// No grant is longer than what the granter would wait after a restart.
    LeaseWithinBootDelay = "lease-within-boot-delay",
    /// The longest lease granted is in the log before it is granted, and a restarted replica waits for that one.
    LeaseLongestRecorded = "lease-longest-recorded",
    /// A leader counts on less than the granted time, by as much as clocks may differ.
    LeaseDrift = "lease-drift",
    /// The lease is compared with the time at each read (T-M6).
    LeaseComparedAtRead = "lease-compared-at-read",
    /// No lease read before the leader's term-start entry is chosen.
    LeaseAfterTermStart = "lease-after-term-start",
    /// A leader that hands over serves no more lease reads before it asks.
    LeaseEndsAtTransfer = "lease-ends-at-transfer",
    /// A handover ends only grants of the rounds that the old leader gave up.
    LeaseReleaseNamesRounds = "lease-release-names-rounds",
    /// A replica whose own log stands still neither asks for a lease nor grants one.
    LeaseNeedsLog = "lease-needs-log",
    // Basic Paxos.
    /// A promise for a slot is durable before it is sent (D1).
    BasicPromiseDurable = "basic-promise-durable",
    /// An acceptance, with its value, is durable before it is sent or counted (D1, D10, T-C1).
    BasicVoteDurable = "basic-vote-durable",
    /// Phase 1 adopts the reported value of the highest ballot, not the first or the most frequent one (T-B1).
    BasicAdoptHighest = "basic-adopt-highest",
    /// An acceptor refuses, slot by slot, what is below its promise.
    BasicRefuseLower = "basic-refuse-lower",
    /// Accepting in a ballot promises that ballot too (T-B2).
    BasicAcceptPromises = "basic-accept-promises",
    /// A ballot is never used by two incarnations of a replica (T-B5).
    BasicBallotNeverReused = "basic-ballot-never-reused",
    /// Promises and votes are counted per member, so duplicates do not add up (T-C2).
    BasicVotePerMember = "basic-vote-per-member",
    /// A slot is filled with a no-op only if no promise of the quorum reported a value.
    BasicNoopOnlyIfFree = "basic-noop-only-if-free",
    /// A batch is proposed in a second slot only once the first is known to hold another value.
    BasicOneSlotAtATime = "basic-one-slot-at-a-time",
    /// An accepted value counts as chosen only if it was accepted in the ballot that was chosen or above it.
    BasicChosenBallot = "basic-chosen-ballot",
    /// A chosen value that was not accepted here is written down before it counts as held (see `record_committed`).
    BasicLearnedRecorded = "basic-learned-recorded",
    /// A slot that is chosen or truncated is never answered as if nothing was accepted in it.
    BasicChosenIsFinal = "basic-chosen-is-final",
    /// A read waits for the highest slot that a classic quorum has accepted.
    BasicReadQuorum = "basic-read-quorum",
    /// Only answers to the request that left after the read arrived count for it.
    BasicReadFreshRound = "basic-read-fresh-round",
    // Fast Paxos.
    /// An acceptor votes once per slot and round, over restarts too (PF1, T-F3).
    FastVoteOnce = "fast-vote-once",
    /// How many votes of a fast round force a value depends on how many acceptors answered (PF2, T-F2).
    FastPickThreshold = "fast-pick-threshold",
    /// Only the votes of the highest round among the answers decide what is picked (T-F1, T-F4).
    FastPickHighestRound = "fast-pick-highest-round",
    /// A vote of a classic round binds, however few there are (PF3, T-F1).
    FastPickClassicBinds = "fast-pick-classic-binds",
    /// A vote and its batch are durable before the vote leaves (T-C1).
    FastVoteAfterDurable = "fast-vote-after-durable",
    /// A promise, of a term or for one slot, is durable before it is sent.
    FastPromiseAfterDurable = "fast-promise-after-durable",
    /// A restart never uses a term of an earlier incarnation again (PF4).
    FastTermNeverReused = "fast-term-never-reused",
    /// Fast votes are allowed only in slots that a finished first phase found empty.
    FastAnyAfterPhaseOne = "fast-any-after-phase-one",
    /// A promise to the coordinator for one slot blocks a later fast vote there (T-F11).
    FastSlotPromiseBlocks = "fast-slot-promise-blocks",
    /// The coordinator picks a value for a slot of its fast round only from a classic quorum of answers.
    FastRecoveryQuorum = "fast-recovery-quorum",
    /// A slot without a vote in sight becomes a no-op only after a classic quorum gave up its fast votes there (PF7).
    FastNoopAfterPromises = "fast-noop-after-promises",
    /// After a missed fast quorum the coordinator proposes what the votes say, never a batch of its own (PF5, T-F5).
    FastNeverOwnValue = "fast-never-own-value",
    /// Where something is known to be chosen nothing else gets a vote, nor is proposed.
    FastChosenIsFinal = "fast-chosen-is-final",
    /// Two batches under one name are two values: votes carry a checksum.
    FastDigestCompared = "fast-digest-compared",
    /// Votes are counted per member, so duplicates do not add up (T-C2).
    FastVotePerMember = "fast-vote-per-member",
    /// Only votes of one round are counted together.
    FastVotesOfOneRound = "fast-votes-of-one-round",
    /// A chosen batch is executed only once its bytes are here (PF6).
    FastExecuteWithPayload = "fast-execute-with-payload",
    /// A batch gets a second slot only when its first is known to hold something else (T-F6).
    FastSecondSlotAfterLoss = "fast-second-slot-after-loss",
    /// A fast round decides with a fast quorum.
    FastQuorumSize = "fast-quorum-size",
    /// A coordinator hands over to a replica that reaches more others, or whose disk works when its own does not; fast rounds
    /// are for groups whose members all reach each other and have disks of about the same speed.
    FastFittestCoordinates = "fast-fittest-coordinates",
    /// Of the batches that came by for an open slot, those leave memory that nobody is known to vote for any more.
    FastPayloadsLeave = "fast-payloads-leave",
    /// An acceptor obeys no term below the one it promised (T-F9).
    FastRefuseOldTerm = "fast-refuse-old-term",
    /// A promise counts only when all the votes it reports have arrived.
    FastPromiseComplete = "fast-promise-complete",
    /// A chosen value that was not voted for here is written down before the log calls it chosen.
    FastLearnedWrittenDown = "fast-learned-written-down",
    /// A read asks acceptors after it arrived, and a classic quorum of them.
    FastReadQuorum = "fast-read-quorum",
    /// A client's own batch holds nothing but commands of its session, so that whatever is decided twice takes effect once (T-FD3).
    FastDirectNeedsSession = "fast-direct-needs-session",
    /// A client's batch is named after all its bytes by a hash that no client can aim: votes for the name are for these bytes (T-FD6).
    FastClientNamesChecked = "fast-client-names-checked",
    // EPaxos.
    /// A batch depends on what conflicts with any of its keys, not only with the first that conflicts (T-E9).
    EpaxosAllKeys = "epaxos-all-keys",
    /// An instance waits for everything up to a dependency's number that interferes, not only for the one at it (T-E10).
    EpaxosPrefixDependencies = "epaxos-prefix-dependencies",
    /// Two writes of one session interfere whatever keys they touch (T-E18).
    EpaxosSessionIsAKey = "epaxos-session-is-a-key",
    /// Instances that depend on each other are executed by stamp, row and number: a total order (T-E11).
    EpaxosComponentOrder = "epaxos-component-order",
    /// What is accepted and what is promised are two ballots (Sutra 2020, T-E1).
    EpaxosTwoBallots = "epaxos-two-ballots",
    /// A lower ballot than the one joined is refused.
    EpaxosRefuseLowerBallot = "epaxos-refuse-lower-ballot",
    /// A vote is durable before it is sent, the own one before it counts.
    EpaxosVoteDurable = "epaxos-vote-durable",
    /// A promise is durable before it is sent, and an own ballot before it is used.
    EpaxosPromiseDurable = "epaxos-promise-durable",
    /// The record of a fast commit is durable before anybody, its command leader included, makes use of it (P-E1, T-E2).
    EpaxosFastCommitDurable = "epaxos-fast-commit-durable",
    /// Three replicas: only the vote of the buddy named beforehand makes a fast commit (T-E3).
    EpaxosFixedPair = "epaxos-fixed-pair",
    /// Once the second phase has begun, votes of the first make no commit any more (T-E6).
    EpaxosNoFastCommitAfterSlow = "epaxos-no-fast-commit-after-slow",
    /// Four replicas and more: a fast commit takes a fast quorum, not a majority.
    EpaxosFastQuorumSize = "epaxos-fast-quorum-size",
    /// A restarted command leader does not go on in ballot 0.
    EpaxosOwnerNeverResumes = "epaxos-owner-never-resumes",
    /// A number of a row is used for one batch only: reservations are durable first and skipped after a restart (T-E13).
    EpaxosNumberNeverReused = "epaxos-number-never-reused",
    /// After a restart everything depends on all numbers that may have been used before (T-E23).
    EpaxosOwnRowFloor = "epaxos-own-row-floor",
    /// A restart brings every batch of the log, and all that a snapshot covers, back into the index of conflicts (T-E16).
    EpaxosIndexRebuilt = "epaxos-index-rebuilt",
    /// A recovery takes up the acceptance of the highest ballot.
    EpaxosRecoverHighestAccepted = "epaxos-recover-highest-accepted",
    /// Three replicas: a recovery keeps what the buddy voted for.
    EpaxosRecoverPreacceptedBuddy = "epaxos-recover-preaccepted-buddy",
    /// Four replicas and more: votes are accepted by a recovery only once nothing excludes their fast commit (T-E4).
    EpaxosValidate = "epaxos-validate",
    /// A recovery that keeps votes makes the batch depend on all that its quorum has executed without it.
    EpaxosValidateExecuted = "epaxos-validate-executed",
    /// Who voted for a batch knows what it touches until everything before it in its row is executed, whatever snapshot covers it.
    EpaxosVoterRemembers = "epaxos-voter-remembers",
    /// A recovery that waited accepts the dependencies that were reported to it, not its own (T-E20).
    EpaxosWaitingUsesReportedDeps = "epaxos-waiting-uses-reported-deps",
    /// A no-op that is accepted and not committed conflicts like the batch it may still become, known or not (T-E8).
    EpaxosAcceptedNoopConflicts = "epaxos-accepted-noop-conflicts",
    /// A committed instance never changes (T-E14).
    EpaxosCommitIsFinal = "epaxos-commit-is-final",
    /// What is executed is forgotten only when every replica has executed it durably (T-E19).
    EpaxosCollectAfterAll = "epaxos-collect-after-all",
    /// A read asks a classic quorum what it must see (T-E22).
    EpaxosReadQuorum = "epaxos-read-quorum",
    /// What was voted for must be waited for by a read, unless the command leader itself says that it has not decided it.
    EpaxosReadVoted = "epaxos-read-voted",
    /// A read of several keys goes through the log: replicas execute writes that do not interfere in different orders.
    EpaxosManyKeysInLog = "epaxos-many-keys-in-log",
    /// A replica that only a snapshot can help executes nothing until it has one, however long that takes (T-EXS2).
    EpaxosPauseLasts = "epaxos-pause-lasts",
    /// A peer's word that only a snapshot can help counts if it was asked.
    EpaxosCoveredIfAsked = "epaxos-covered-if-asked",
    /// A replica that is heard and lags is waited for until the log has reached its bound, and no longer (T-EXS3).
    EpaxosSlowGivenUp = "epaxos-slow-given-up",
    /// What a silent replica lacks leaves memory only when others had the time to pass it on.
    EpaxosPassedOn = "epaxos-passed-on",
    /// What is on its way is not asked for again.
    EpaxosFetchOnce = "epaxos-fetch-once",
    /// A doubt about the own state ends under load, too: states are compared when a report arrives, and whom a majority has shown to be wrong
    /// is not doubted about (T-ED1).
    EpaxosDoubtEnds = "epaxos-doubt-ends",
}

#[cfg(feature = "mutants")]
std::thread_local! {
    static REMOVED: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Whether `rule` is in force: always, outside a mutant build.
#[inline(always)]
pub fn holds(rule: Rule) -> bool {
    #[cfg(feature = "mutants")]
    {
        REMOVED.with(|removed| removed.get() != Some(rule))
    }
    #[cfg(not(feature = "mutants"))]
    {
        let _ = rule;
        true
    }
}

/// Removes `rule` on this thread, or restores all with `None`.
#[cfg(feature = "mutants")]
pub fn remove(rule: Option<Rule>) {
    REMOVED.with(|removed| removed.set(rule));
}
