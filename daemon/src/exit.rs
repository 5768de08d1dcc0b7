//! How a process of panchd ends: the one place that says which exit code an outcome has.
//!
//! Invariants:
//! * A supervisor may start a node again after every code but [`Exit::Config`] and [`Exit::Usage`]: these are for what another try
//!   cannot change.
//! * What a fault is made of is looked at kind by kind, without a rest: a new one has to be placed here.
//! * The table in README.md says the same, in the same words; a test holds both equal.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use panch_replica::snapshot::SnapshotFault;
use panch_runtime::{CoreFault, IdentityFault, NodeFault, RingError, SalvageFault};
use panch_wal::RecoverError;

use crate::config::LoadError;
use crate::config::dev::DevError;
use crate::options::OptionsFault;

macro_rules! exits {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $meaning:literal;)*) => {
        /// How a process ends. The numbers are those of `sysexits.h`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Exit { $($(#[$doc])* $name,)* }

        impl Exit {
            /// Every one, in the order of the codes.
            pub const ALL: &'static [Exit] = &[$(Exit::$name,)*];

            /// The exit code.
            pub fn code(self) -> u8 {
                match self { $(Exit::$name => $code,)* }
            }

            /// What it means, as README.md says it.
            pub fn meaning(self) -> &'static str {
                match self { $(Exit::$name => $meaning,)* }
            }
        }
    };
}

exits! {
    /// EX_OK.
    Done = 0, "What was asked for is done; of `run` and `dev`: stopped in order, by SIGTERM or SIGINT. `status`: all nodes answer and reach a majority, a majority has room on its disks, every group that needs a leader has one, no data differ";
    /// EX_USAGE.
    Usage = 64, "The command line makes no sense";
    /// EX_DATAERR.
    Differ = 65, "`status`: nodes have different data, or do not serve a group because of that";
    /// EX_UNAVAILABLE.
    Unavailable = 69, "`status`: a node does not answer or reaches no majority, a group has no leader, or a majority has no room on its disks";
    /// EX_IOERR.
    Temporary = 74, "Something failed that another try may find mended: no room on the disk, a disk that fails, a name that has no address yet, a port or data directory in use, no memory, threads or descriptors left. Start it again after a pause";
    /// EX_CONFIG.
    Config = 78, "Starting again cannot help, somebody has to change something first: the configuration, a limit or filter of the system, a file that is not there or may not be used, a data directory that is damaged or of another node, votes that are forgotten. The last line says what to do";
}

impl Exit {
    /// The worse of two: what asks for a person counts before what may pass.
    pub fn or_worse(self, other: Self) -> Self {
        if other.code() > self.code() { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// What the system said. What was named is not there, may not be used, or cannot be what it is named as: it will not be at another try,
/// either.
impl From<&io::Error> for Exit {
    fn from(error: &io::Error) -> Self {
        use ErrorKind::{
            InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
            ReadOnlyFilesystem,
        };
        match error.kind() {
            NotFound | PermissionDenied | IsADirectory | NotADirectory | ReadOnlyFilesystem => Exit::Config,
            InvalidInput | InvalidFilename => Exit::Config,
            _ => Exit::Temporary,
        }
    }
}

impl From<&NodeFault> for Exit {
    fn from(fault: &NodeFault) -> Self {
        match fault {
            NodeFault::Stopped => Exit::Done,
            NodeFault::Identity(fault) => fault.into(),
            NodeFault::Directory { error, .. } | NodeFault::Io { error, .. } => error.into(),
            NodeFault::Log { fault, .. } => fault.into(),
            NodeFault::Snapshot { fault, .. } => fault.into(),
            NodeFault::Salvage(fault) => fault.into(),
            NodeFault::Ring(fault) => fault.into(),
            NodeFault::Core(fault) => fault.into(),
            NodeFault::Replay { .. }
            | NodeFault::Past { .. }
            | NodeFault::StateMissing { .. }
            | NodeFault::LogMissing { .. }
            | NodeFault::LogOnDisk { .. }
            | NodeFault::Forgotten => Exit::Config,
        }
    }
}

impl From<&IdentityFault> for Exit {
    fn from(fault: &IdentityFault) -> Self {
        match fault {
            IdentityFault::Io { error, .. } => error.into(),
            // Whoever holds it ends some time: it may be the node itself, which has not ended yet.
            IdentityFault::Locked(_) => Exit::Temporary,
            IdentityFault::NotEmpty(_)
            | IdentityFault::Remembered { .. }
            | IdentityFault::Replaced { .. }
            | IdentityFault::Exists { .. }
            | IdentityFault::Founded(_)
            | IdentityFault::BeginsWithData(_)
            | IdentityFault::Rejoining { .. }
            | IdentityFault::Beginning(_)
            | IdentityFault::HalfFilled(_)
            | IdentityFault::Nothing(_)
            | IdentityFault::Exhausted
            | IdentityFault::Damaged { .. }
            | IdentityFault::Gone(_)
            | IdentityFault::Nameless(_)
            | IdentityFault::Foreign { .. }
            | IdentityFault::Earlier(_)
            | IdentityFault::Later(_)
            | IdentityFault::Protocol { .. }
            | IdentityFault::Routing { .. }
            | IdentityFault::Layout { .. } => Exit::Config,
        }
    }
}

impl From<&RecoverError> for Exit {
    fn from(fault: &RecoverError) -> Self {
        match fault {
            RecoverError::List(error) | RecoverError::Read { source: error, .. } => error.into(),
            // It asks for a larger limit in the configuration.
            RecoverError::Memory { .. }
            | RecoverError::Body { .. }
            | RecoverError::Damaged { .. }
            | RecoverError::Identity { .. }
            | RecoverError::Inventory
            | RecoverError::MissingSegment { .. }
            | RecoverError::ShortSegment { .. }
            | RecoverError::Version { .. } => Exit::Config,
        }
    }
}

impl From<&SnapshotFault> for Exit {
    fn from(fault: &SnapshotFault) -> Self {
        match fault {
            SnapshotFault::Descriptors(error) | SnapshotFault::Read(error) => error.into(),
            SnapshotFault::Version(_) | SnapshotFault::Damaged(_) | SnapshotFault::Misnamed { .. } => {
                Exit::Config
            }
        }
    }
}

impl From<&SalvageFault> for Exit {
    fn from(fault: &SalvageFault) -> Self {
        match fault {
            SalvageFault::Unreadable { error, .. } | SalvageFault::Unwritable { error, .. } => error.into(),
            SalvageFault::Memory { .. }
            | SalvageFault::Exists(_)
            | SalvageFault::Damaged(_)
            | SalvageFault::Earlier(_)
            | SalvageFault::State { .. }
            | SalvageFault::Misfit { .. }
            | SalvageFault::Choice(_) => Exit::Config,
        }
    }
}

impl From<&RingError> for Exit {
    fn from(fault: &RingError) -> Self {
        match fault {
            RingError::Missing | RingError::Disabled(_) | RingError::Forbidden => Exit::Config,
            // Other processes of the user count, too, and they may end.
            RingError::Memory | RingError::Descriptors => Exit::Temporary,
            RingError::Other(error) => error.into(),
        }
    }
}

impl From<&CoreFault> for Exit {
    fn from(fault: &CoreFault) -> Self {
        match fault {
            CoreFault::Log(failed) => (&failed.source).into(),
            CoreFault::Ring(error) | CoreFault::Io { error, .. } => error.into(),
            CoreFault::Disowned { .. } => Exit::Config,
        }
    }
}

impl From<&OptionsFault> for Exit {
    fn from(fault: &OptionsFault) -> Self {
        match fault {
            // Whatever the resolver says: it may know more at another try.
            OptionsFault::Name(..) => Exit::Temporary,
            OptionsFault::Affinity(error) => error.into(),
            OptionsFault::Cores(_) | OptionsFault::Secret(_) => Exit::Config,
        }
    }
}

impl From<&LoadError> for Exit {
    fn from(fault: &LoadError) -> Self {
        match fault {
            LoadError::Unreadable { error, .. } if error.kind() != ErrorKind::InvalidData => error.into(),
            LoadError::Unreadable { .. } | LoadError::Invalid(_) => Exit::Config,
        }
    }
}

impl From<&DevError> for Exit {
    fn from(fault: &DevError) -> Self {
        match fault {
            DevError::Io { error, .. } | DevError::Listen { error, .. } => error.into(),
            DevError::InUse(_) => Exit::Temporary,
            DevError::Data(fault) => fault.into(),
            DevError::Config(fault) => fault.into(),
            DevError::Foreign(_) | DevError::Different { .. } | DevError::Port(_) => Exit::Config,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const README: &str = include_str!("../../README.md");
    const HEADING: &str = "| exit code | meaning |\n|---|---|\n";

    #[test]
    fn the_table_for_people_says_the_same() {
        let (_, table) = README.split_once(HEADING).expect("README.md has a table of the exit codes");
        let (table, _) = table.split_once("\n\n").expect("something follows");
        let rows: Vec<String> =
            Exit::ALL.iter().map(|exit| format!("| {} | {} |", exit.code(), exit.meaning())).collect();
        assert_eq!(table.lines().collect::<Vec<_>>(), rows);
        assert!(Exit::ALL.is_sorted_by_key(|exit| exit.code()));
    }

    fn code(number: i32) -> u8 {
        Exit::from(&io::Error::from_raw_os_error(number)).code()
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_is_not_there_is_not() {
        for passing in [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EADDRINUSE, libc::EMFILE, libc::ENOMEM] {
            assert_eq!(code(passing), 74, "{passing}");
        }
        for lasting in [libc::ENOENT, libc::EACCES, libc::EPERM, libc::ENOTDIR, libc::EISDIR, libc::EROFS] {
            assert_eq!(code(lasting), 78, "{lasting}");
        }
    }

    #[test]
    fn a_damaged_log_is_not_tried_again_and_a_disk_that_fails_is() {
        let of = |fault| Exit::from(&NodeFault::Log { path: PathBuf::new(), fault });
        let read = |number| RecoverError::List(io::Error::from_raw_os_error(number));
        assert_eq!(of(read(libc::EIO)), Exit::Temporary);
        assert_eq!(of(read(libc::EACCES)), Exit::Config);
        assert_eq!(of(RecoverError::Inventory), Exit::Config);
        let identity = |number| {
            let error = io::Error::from_raw_os_error(number);
            Exit::from(&NodeFault::Identity(IdentityFault::Io { path: PathBuf::new(), error }))
        };
        assert_eq!((identity(libc::EIO), identity(libc::ENOTDIR)), (Exit::Temporary, Exit::Config));
        let in_use = IdentityFault::Locked(PathBuf::new());
        assert_eq!(Exit::from(&in_use), Exit::Temporary);
        assert_eq!(Exit::from(&IdentityFault::Exhausted), Exit::Config);
        assert_eq!(Exit::from(&NodeFault::Ring(RingError::Forbidden)), Exit::Config);
    }
}
