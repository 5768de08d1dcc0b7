//! What a data directory says of itself, and how the identity file spells it.

use panch_consensus::protocol::ProtocolKind;
use panch_replica::founding::{Founder, Founders};
use panch_replica::rejoin::Life;
use panch_wire::ids::{Incarnation, ReplicaId};

/// The layout of the identity file.
pub(super) const FORMAT: u64 = 8;
/// The layout before, which is converted: it did not say that a state is being installed, nor in which incarnation the directory began.
pub(super) const FORMAT_WITHOUT_INSTALLING: u64 = 7;
/// An earlier layout, which is converted: the file held its text once, and every change made a new file.
#[cfg(test)]
pub(super) const FORMAT_IN_ONE_COPY: u64 = 6;
/// An earlier layout, which is converted: the other small files need not have been there from the beginning.
pub(super) const FORMAT_WITHOUT_FILES: u64 = 5;
/// An earlier layout, which is converted: it did not say what the cluster began with.
pub(super) const FORMAT_WITHOUT_FOUNDING: u64 = 4;
/// What the file started with in the layouts before, of which the first had no number. The logs beside them cannot be read either.
pub(super) const EARLIER: [&str; 3] = ["cluster ", "format 2\n", "format 3\n"];

/// What stands for the directory of a node that was absent when the cluster was founded.
const ABSENT: &str = "absent";
/// Whether votes count before they are on stable storage.
const SYNCED: &str = "synced";
const UNSYNCED: &str = "unsynced";
/// Whether the life has ended in order.
const CLOSED: &str = "closed";
const OPEN: &str = "open";
/// States of a node, as the file spells them.
const MEMBER: &str = "member";
const REJOINING: &str = "rejoining";
const INSTALLING: &str = "installing";

/// What a data directory says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// The cluster.
    pub(crate) cluster: u64,
    /// The node in it.
    pub(crate) node: ReplicaId,
    /// How many core logs the directory has.
    pub(crate) cores: usize,
    /// How each group of the cluster decides: its log can be read by that protocol only.
    pub(crate) protocols: Vec<ProtocolKind>,
    /// Which group every key lives in, as a line of text that is the same for the same routing.
    pub(crate) routing: String,
    /// How often the node has started, this time included.
    pub(crate) incarnation: Incarnation,
    /// What the core logs are named: drawn once, when the directory was made.
    pub(crate) log: u64,
    /// The node has lost its disk, or its log, and is not a member again yet.
    pub(crate) rejoining: bool,
    /// A salvaged state is being written into the directory, and may not be there whole.
    pub(crate) installing: bool,
    /// What the nodes were when the cluster was founded.
    pub(crate) founders: Founders,
    /// The life that has begun.
    pub(crate) life: Life,
    /// What the cluster began with.
    pub(crate) founding: Founding,
    /// The incarnation in which this directory began because the node had lost its disk; 0: it began otherwise, or an earlier version
    /// did not note it.
    pub(crate) returned_in: Incarnation,
}

/// What a cluster began with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Founding {
    /// Names the state that was salvaged for it; 0: it began with nothing.
    pub(crate) name: u64,
    /// The highest incarnation that this state knows.
    pub(crate) above: Incarnation,
}

pub(super) fn render(identity: &Identity, format: u64) -> String {
    let protocols: Vec<&str> = identity.protocols.iter().map(|kind| kind.name()).collect();
    let mut body = format!(
        "format {format}\ncluster {:#018x}\nnode {}\ncores {}\nprotocols {}\nrouting {}\nincarnation {}\nlog {:#018x}\nstate {}\n",
        identity.cluster,
        u64::from(identity.node.0) + 1,
        identity.cores,
        protocols.join(","),
        identity.routing,
        identity.incarnation.0,
        identity.log,
        match identity {
            Identity { installing: true, .. } => INSTALLING,
            Identity { rejoining: true, .. } => REJOINING,
            _ => MEMBER,
        },
    );
    let Life { is_unsynced, boot, is_closed } = identity.life;
    let (votes, end) = (if is_unsynced { UNSYNCED } else { SYNCED }, if is_closed { CLOSED } else { OPEN });
    body += &format!("founders {}\n", render_founders(&identity.founders));
    body += &format!("life {votes} {boot:#018x} {end}\n");
    if format > FORMAT_WITHOUT_FOUNDING {
        let Founding { name, above } = identity.founding;
        body += &format!("founding {name:#018x} above {}\n", above.0);
    }
    if format > FORMAT_WITHOUT_INSTALLING {
        body += &format!("returned {}\n", identity.returned_in.0);
    }
    let sum = panch_wire::checksum::checksum(body.as_bytes());
    format!("{body}checksum {sum:#018x}\n")
}

/// `1:NAME 2:absent`: nodes of which nothing is known are left out.
fn render_founders(founders: &Founders) -> String {
    let words = (1..).zip(founders).filter_map(|(node, founder)| match founder {
        Founder::Unknown => None,
        Founder::Absent => Some(format!("{node}:{ABSENT}")),
        Founder::With(directory) => Some(format!("{node}:{directory:#018x}")),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn parse_founders(text: &str) -> Option<Founders> {
    let mut founders = Founders::default();
    for word in text.split_whitespace() {
        let (node, founder) = word.split_once(':')?;
        let founder = match founder {
            ABSENT => Founder::Absent,
            name => Founder::With(u64::from_str_radix(name.strip_prefix("0x")?, 16).ok()?),
        };
        *founders.get_mut(node.parse::<usize>().ok()?.checked_sub(1)?)? = founder;
    }
    Some(founders)
}

/// `synced BOOT open`, or other words for what [`Life`] says.
fn parse_life(text: &str) -> Option<Life> {
    let [votes, boot, end] = text.split(' ').collect::<Vec<_>>()[..] else { return None };
    let is = |word: &str, yes: &str, no: &str| (word == yes || word == no).then_some(word == yes);
    Some(Life {
        is_unsynced: is(votes, UNSYNCED, SYNCED)?,
        boot: u64::from_str_radix(boot.strip_prefix("0x")?, 16).ok()?,
        is_closed: is(end, CLOSED, OPEN)?,
    })
}

/// `NAME above INCARNATION`.
fn parse_founding(text: &str) -> Option<Founding> {
    let [name, "above", above] = text.split(' ').collect::<Vec<_>>()[..] else { return None };
    let name = u64::from_str_radix(name.strip_prefix("0x")?, 16).ok()?;
    Some(Founding { name, above: Incarnation(above.parse().ok()?) })
}

/// Parses the file, of this layout or of an earlier one, and says which; the number of the first bad line as the error.
pub(super) fn parse(text: &str) -> Result<(Identity, u64), usize> {
    let line = |index: usize, key: &str| {
        let value = text.lines().nth(index).and_then(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.ok_or(index + 1)
    };
    let number = |index: usize, key: &str| {
        let value = line(index, key)?;
        let number = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => value.parse().ok(),
        };
        number.ok_or(index + 1)
    };
    let format = number(0, "format")?;
    if !(FORMAT_WITHOUT_FOUNDING..=FORMAT).contains(&format) {
        return Err(1);
    }
    let node = u8::try_from(number(2, "node")?).ok().and_then(|node| node.checked_sub(1)).ok_or(3usize)?;
    let (rejoining, installing) = match line(8, "state")? {
        REJOINING => (true, false),
        INSTALLING => (false, true),
        MEMBER => (false, false),
        _ => return Err(9),
    };
    let founders = parse_founders(line(9, "founders")?).ok_or(10usize)?;
    let life = parse_life(line(10, "life")?).ok_or(11usize)?;
    let founding = if format > FORMAT_WITHOUT_FOUNDING {
        parse_founding(line(11, "founding")?).ok_or(12usize)?
    } else {
        Founding::default()
    };
    let incarnation = |index: usize, key: &str| {
        let number = u32::try_from(number(index, key)?);
        number.map(Incarnation).map_err(|_| index + 1)
    };
    let is_noted = format > FORMAT_WITHOUT_INSTALLING;
    let returned_in = if is_noted { incarnation(12, "returned")? } else { Incarnation(0) };
    let protocols: Option<Vec<_>> = line(4, "protocols")?.split(',').map(ProtocolKind::from_name).collect();
    let identity = Identity {
        cluster: number(1, "cluster")?,
        node: ReplicaId(node),
        cores: number(3, "cores")? as usize,
        protocols: protocols.ok_or(5usize)?,
        routing: line(5, "routing")?.to_owned(),
        incarnation: incarnation(6, "incarnation")?,
        log: number(7, "log")?,
        rejoining,
        installing,
        founders,
        life,
        founding,
        returned_in,
    };
    if render(&identity, format) != text {
        return Err(text.lines().count());
    }
    Ok((identity, format))
}
