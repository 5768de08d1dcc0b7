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
    /// Recovery accepts a commit group only with a correct checksum (torn tail).
    TornTailCut = "torn-tail-cut",
    /// The snapshot carries the session table (PM9, T-C8).
    SessionsInSnapshot = "sessions-in-snapshot",
    /// A command of a session is applied once, however often it is decided (T-C7).
    SessionDedupe = "session-dedupe",
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
    /// The log below the snapshot is recycled only once the snapshot is durable (D9).
    RecycleAfterSnapshot = "recycle-after-snapshot",
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
