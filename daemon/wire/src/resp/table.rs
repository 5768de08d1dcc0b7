//! The commands that are understood.

/// Bits of [`CommandInfo::flags`].
pub mod flag {
    /// Changes data.
    pub const WRITE: u16 = 1;
    /// Reads data.
    pub const READONLY: u16 = 1 << 1;
    /// Refused when memory or log is full.
    pub const DENYOOM: u16 = 1 << 2;
    /// Takes constant time.
    pub const FAST: u16 = 1 << 3;
    /// Allowed while the node starts.
    pub const LOADING: u16 = 1 << 4;
    /// Allowed while the node cannot reach the others.
    pub const STALE: u16 = 1 << 5;
    /// Allowed before authentication.
    pub const NO_AUTH: u16 = 1 << 6;

    pub(in crate::resp) const NAMES: [&str; 7] =
        ["write", "readonly", "denyoom", "fast", "loading", "stale", "no_auth"];
}

/// What is known about a command.
#[derive(Clone, Debug)]
pub struct CommandInfo {
    /// Lower case; `container|name` for a subcommand.
    pub name: &'static str,
    /// How many arguments, the name included; at least that many if negative.
    pub arity: i16,
    /// See [`flag`].
    pub flags: u16,
    /// Position of the first key; 0 if there is none.
    pub first_key: i16,
    /// Position of the last key, from the end if negative.
    pub last_key: i16,
    /// Distance between keys.
    pub key_step: i16,
}

impl CommandInfo {
    /// Whether a command may have `count` arguments, the name (and not a subcommand's) included.
    pub fn takes(&self, count: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { count >= arity } else { count == arity }
    }

    /// Whether it has keys.
    pub(super) fn has_keys(&self) -> bool {
        self.first_key > 0
    }

    /// Whether the argument at `position` is a key.
    pub(super) fn has_key_at(&self, position: usize) -> bool {
        let (first, step) = (self.first_key as usize, self.key_step as usize);
        let fits = self.last_key < 0 || position <= self.last_key as usize;
        self.has_keys() && position >= first && fits && (position - first).is_multiple_of(step)
    }
}

macro_rules! commands {
    ($($name:ident $text:literal $arity:literal [$($flag:ident)*] $first:literal $last:literal $step:literal;)*) => {
        /// A command by its name.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs, reason = "the names are the commands'")]
        pub enum CommandName { $($name,)* }

        pub(super) const NAMES: &[CommandName] = &[$(CommandName::$name,)*];

        /// Every command, in the order of [`CommandName`].
        pub static TABLE: &[CommandInfo] = &[$(CommandInfo {
            name: $text, arity: $arity, flags: 0 $(| flag::$flag)*,
            first_key: $first, last_key: $last, key_step: $step,
        },)*];

        /// Packed names with their positions in the table, sorted.
        const INDEX: [(u128, u8); NAMES.len()] = sorted([$((pack($text.as_bytes()), CommandName::$name as u8),)*]);
    };
}

commands! {
    Get "get" 2 [READONLY FAST] 1 1 1;
    Set "set" -3 [WRITE DENYOOM] 1 1 1;
    SetNx "setnx" 3 [WRITE DENYOOM FAST] 1 1 1;
    GetSet "getset" 3 [WRITE DENYOOM FAST] 1 1 1;
    GetDel "getdel" 2 [WRITE FAST] 1 1 1;
    MGet "mget" -2 [READONLY FAST] 1 -1 1;
    MSet "mset" -3 [WRITE DENYOOM] 1 -1 2;
    MSetNx "msetnx" -3 [WRITE DENYOOM] 1 -1 2;
    Del "del" -2 [WRITE] 1 -1 1;
    Unlink "unlink" -2 [WRITE FAST] 1 -1 1;
    Exists "exists" -2 [READONLY FAST] 1 -1 1;
    Incr "incr" 2 [WRITE DENYOOM FAST] 1 1 1;
    IncrBy "incrby" 3 [WRITE DENYOOM FAST] 1 1 1;
    Decr "decr" 2 [WRITE DENYOOM FAST] 1 1 1;
    DecrBy "decrby" 3 [WRITE DENYOOM FAST] 1 1 1;
    Append "append" 3 [WRITE DENYOOM FAST] 1 1 1;
    StrLen "strlen" 2 [READONLY FAST] 1 1 1;
    Type "type" 2 [READONLY FAST] 1 1 1;
    Touch "touch" -2 [READONLY FAST] 1 -1 1;
    Ttl "ttl" 2 [READONLY FAST] 1 1 1;
    PTtl "pttl" 2 [READONLY FAST] 1 1 1;
    ExpireTime "expiretime" 2 [READONLY FAST] 1 1 1;
    PExpireTime "pexpiretime" 2 [READONLY FAST] 1 1 1;
    Persist "persist" 2 [WRITE FAST] 1 1 1;
    Ping "ping" -1 [FAST] 0 0 0;
    Echo "echo" 2 [LOADING STALE FAST] 0 0 0;
    Hello "hello" -1 [LOADING STALE FAST NO_AUTH] 0 0 0;
    Auth "auth" -2 [LOADING STALE FAST NO_AUTH] 0 0 0;
    Select "select" 2 [LOADING STALE FAST] 0 0 0;
    Quit "quit" -1 [LOADING STALE FAST NO_AUTH] 0 0 0;
    Reset "reset" 1 [LOADING STALE FAST NO_AUTH] 0 0 0;
    Client "client" -2 [LOADING STALE] 0 0 0;
    Command "command" -1 [LOADING STALE] 0 0 0;
    Info "info" -1 [LOADING STALE] 0 0 0;
    Config "config" -2 [LOADING STALE] 0 0 0;
    DbSize "dbsize" 1 [READONLY FAST] 0 0 0;
    Time "time" 1 [LOADING STALE FAST] 0 0 0;
    Role "role" 1 [LOADING STALE FAST] 0 0 0;
    Wait "wait" 3 [] 0 0 0;
    Cluster "cluster" -2 [LOADING STALE] 0 0 0;
    ReadOnly "readonly" 1 [LOADING STALE FAST] 0 0 0;
    ReadWrite "readwrite" 1 [LOADING STALE FAST] 0 0 0;
    Multi "multi" 1 [LOADING STALE FAST] 0 0 0;
    Exec "exec" 1 [LOADING STALE] 0 0 0;
    Discard "discard" 1 [LOADING STALE FAST] 0 0 0;
    Watch "watch" -2 [LOADING STALE FAST] 1 -1 1;
    Unwatch "unwatch" 1 [LOADING STALE FAST] 0 0 0;
}

impl CommandName {
    /// The command with this name in any case.
    pub fn find(name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() > NAME_SIZE_MAX {
            return None;
        }
        let packed = pack(name);
        let at = INDEX.binary_search_by_key(&packed, |entry| entry.0).ok()?;
        Some(NAMES[usize::from(INDEX[at].1)])
    }

    /// What is known about it.
    pub fn info(self) -> &'static CommandInfo {
        &TABLE[self as usize]
    }
}

macro_rules! subcommands {
    ($($name:ident $container:ident $text:literal $arity:literal;)*) => {
        /// A command inside a container command.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Subcommand { $($name,)* }

        pub(super) const SUBCOMMANDS: &[(Subcommand, CommandName, CommandInfo)] = &[$((
            Subcommand::$name,
            CommandName::$container,
            CommandInfo {
                name: $text, arity: $arity, flags: flag::LOADING | flag::STALE,
                first_key: 0, last_key: 0, key_step: 0,
            },
        ),)*];
    };
}

subcommands! {
    ClientSetName Client "client|setname" 3;
    ClientGetName Client "client|getname" 2;
    ClientSetInfo Client "client|setinfo" 4;
    ClientId Client "client|id" 2;
    ClientList Client "client|list" -2;
    ClientInfo Client "client|info" 2;
    ClientNoEvict Client "client|no-evict" 3;
    ClientNoTouch Client "client|no-touch" 3;
    ClientReply Client "client|reply" 3;
    ClientHelp Client "client|help" 2;
    CommandCount Command "command|count" 2;
    CommandDocs Command "command|docs" -2;
    CommandInfos Command "command|info" -2;
    CommandList Command "command|list" -2;
    CommandGetKeys Command "command|getkeys" -4;
    CommandHelp Command "command|help" 2;
    ConfigGet Config "config|get" -3;
    ConfigResetStat Config "config|resetstat" 2;
    ConfigHelp Config "config|help" 2;
    ClusterSlots Cluster "cluster|slots" 2;
    ClusterShards Cluster "cluster|shards" 2;
    ClusterNodes Cluster "cluster|nodes" 2;
    ClusterInfo Cluster "cluster|info" 2;
    ClusterKeySlot Cluster "cluster|keyslot" 3;
    ClusterMyId Cluster "cluster|myid" 2;
    ClusterHelp Cluster "cluster|help" 2;
}

impl Subcommand {
    /// The subcommand of `container` with this name in any case.
    pub(super) fn find(container: CommandName, name: &[u8]) -> Option<(Self, &'static CommandInfo)> {
        let prefix = container.info().name.len() + 1;
        SUBCOMMANDS
            .iter()
            .find(|(_, of, info)| {
                *of == container && info.name.as_bytes()[prefix..].eq_ignore_ascii_case(name)
            })
            .map(|(subcommand, _, info)| (*subcommand, info))
    }
}

/// The longest name of a command (not a subcommand), in bytes: names are packed into a `u128`.
pub(super) const NAME_SIZE_MAX: usize = 15;

/// A name as a number, letters in lower case: comparing names is comparing numbers.
const fn pack(name: &[u8]) -> u128 {
    assert!(name.len() <= NAME_SIZE_MAX);
    // The leading one keeps names apart that differ in leading zero bytes.
    let mut packed = 1;
    let mut at = 0;
    while at < name.len() {
        packed = packed << 8 | name[at].to_ascii_lowercase() as u128;
        at += 1;
    }
    packed
}

const fn sorted<const N: usize>(mut index: [(u128, u8); N]) -> [(u128, u8); N] {
    let mut end = 1;
    while end < N {
        let mut at = end;
        while at > 0 && index[at - 1].0 > index[at].0 {
            let moved = index[at];
            index[at] = index[at - 1];
            index[at - 1] = moved;
            at -= 1;
        }
        end += 1;
    }
    index
}
