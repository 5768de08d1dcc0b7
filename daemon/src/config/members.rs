//! The member list and the addresses: who is in the cluster, who listens where, and what cannot work together.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use panch_wire::ids::REPLICAS_MAX;

use super::reader::{Located, Notes, Reader};
use super::schema::{Address, Member, NodeId};
use super::source::{Diagnostic, Item, Place};

const EXAMPLE: &str =
    "[{ node = 1, peer = \"10.0.0.1:7201\", client = \"10.0.0.1:7001\", native = \"10.0.0.1:7101\" }]";

struct Row {
    node: Located<u64>,
    /// Key, address.
    addresses: [(&'static str, Located<Option<Address>>); 3],
}

/// Reads `members`. Empty if anything in it is wrong, so that nothing is checked against half a list.
pub(super) fn read(reader: &mut Reader<'_>, notes: &Notes) -> Vec<Member> {
    let errors_before = reader.error_count();
    let Some(value) = reader.find("members") else {
        let diagnostic =
            Diagnostic::error("`cluster.members` is missing").near(reader.place(), "in this table");
        notes.push(diagnostic.help(format!("add a line such as `members = {EXAMPLE}`")));
        return Vec::new();
    };
    let Item::Array(items) = &value.item else {
        let reason = format!("this is {}", value.item.describe());
        reader.refuse(
            "members",
            value,
            "must be a list of tables",
            reason,
            &format!("for example `members = {EXAMPLE}`"),
        );
        return Vec::new();
    };
    if items.is_empty() || items.len() > REPLICAS_MAX {
        let reason = format!("{} members; there must be 1 to {REPLICAS_MAX}", items.len());
        reader.refuse("members", value, "has the wrong length", reason, "three or five members are usual");
    }
    let mut rows = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Some(mut row) = Reader::of(format!("{}[{index}]", reader.full_name("members")), item, notes)
        else {
            continue;
        };
        let node = row.required_number("node", 1..=REPLICAS_MAX as u64, "1");
        let addresses = [("peer", "7201"), ("client", "7001"), ("native", "7101")]
            .map(|(key, port)| (key, address(&mut row, key, &format!("\"10.0.0.1:{port}\""))));
        row.finish(&[]);
        rows.push(Row { node, addresses });
    }
    check_numbers(&rows, &value.place, notes);
    check_addresses(&rows, notes);
    check_count(rows.len(), &value.place, notes);
    if reader.error_count() > errors_before {
        return Vec::new();
    }
    let mut members: Vec<Member> = rows.into_iter().filter_map(member).collect();
    members.sort_by_key(|member| member.node);
    members
}

fn member(row: Row) -> Option<Member> {
    let [(_, peer), (_, client), (_, native)] = row.addresses;
    Some(Member {
        node: NodeId(row.node.value as u8),
        peer: peer.value?,
        client: client.value?,
        native: native.value?,
    })
}

fn address(row: &mut Reader<'_>, key: &'static str, example: &str) -> Located<Option<Address>> {
    let address = row.required_value(key, example, Wanted(None)).map(|wanted| wanted.0);
    if let (Some(ip), Some(place)) = (address.value.as_ref().and_then(Address::ip), &address.place)
        && ip.is_unspecified()
    {
        let title = format!("`{}` is an address that nobody can connect to", row.full_name(key));
        let help = "members are known by an address that the others reach; listen on every interface with the \
                    `_listen` keys of `[node]`";
        row.note(
            Diagnostic::error(title).at(place.clone(), format!("{ip} means every interface")).help(help),
        );
    }
    address
}

/// `Option` around a parsed address, so that a missing one has a stand-in.
struct Wanted(Option<Address>);

impl FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(|address| Self(Some(address)))
    }
}

fn check_numbers(rows: &[Row], list: &Place, notes: &Notes) {
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| row.node.sound) {
        let same = |earlier: &&Row| earlier.node.sound && earlier.node.value == row.node.value;
        if let (Some(first), Some(place)) = (rows[..index].iter().find(same), &row.node.place) {
            let title = format!("node {} is in `cluster.members` twice", row.node.value);
            notes.push(
                Diagnostic::error(title)
                    .at(place.clone(), "again")
                    .with(first.node.place.as_ref(), "first here"),
            );
        }
    }
    // A gap leaves the highest number beyond the length of the list; each such number is one mistake.
    let all_sound = rows.iter().all(|row| row.node.sound);
    let missing = (1..=rows.len() as u64).find(|number| rows.iter().all(|row| row.node.value != *number));
    let beyond = rows.iter().find(|row| row.node.value > rows.len() as u64);
    if let (true, Some(missing), Some(beyond)) = (all_sound, missing, beyond) {
        let title = format!("`cluster.members` has no node {missing}");
        let place = beyond.node.place.as_ref().unwrap_or(list);
        let diagnostic =
            Diagnostic::error(title).at(place.clone(), "numbers must have no gap below this one");
        notes.push(diagnostic.help(format!("number the {} members from 1 to {}", rows.len(), rows.len())));
    }
}

fn check_addresses(rows: &[Row], notes: &Notes) {
    let mut seen: Vec<(String, String, &Place)> = Vec::new();
    for row in rows {
        for (key, located) in &row.addresses {
            let (Some(address), Some(place)) = (&located.value, &located.place) else { continue };
            let (text, owner) = (address.to_string(), format!("{key} of node {}", row.node.value));
            match seen.iter().find(|(other, _, _)| *other == text) {
                Some((_, first, first_place)) => {
                    let title = format!("{text} is used twice in `cluster.members`");
                    let diagnostic = Diagnostic::error(title).at(place.clone(), format!("as {owner}"));
                    notes.push(diagnostic.with(Some(first_place), format!("as {first}")));
                }
                None => seen.push((text, owner, place)),
            }
        }
    }
    let peers = || rows.iter().map(|row| &row.addresses[0].1);
    let is_loopback = |peer: &&Located<Option<Address>>| {
        peer.value.as_ref().is_some_and(|address| {
            address.ip().is_some_and(|ip| ip.is_loopback()) || address.host() == "localhost"
        })
    };
    let is_elsewhere = |peer: &&Located<Option<Address>>| {
        peer.value.as_ref().is_some_and(|address| !address.ip().is_some_and(|ip| ip.is_unspecified()))
            && !is_loopback(peer)
    };
    let (near, far) = (peers().find(is_loopback), peers().find(is_elsewhere));
    if let (Some(Located { place: Some(near), .. }), Some(far)) = (near, far) {
        let title = "`cluster.members` mixes loopback with other peer addresses";
        let diagnostic = Diagnostic::error(title).at(near.clone(), "only this machine can connect to it");
        let help = "give every node the address at which the others reach it";
        notes.push(diagnostic.with(far.place.as_ref(), "this node is elsewhere").help(help));
    }
}

fn check_count(count: usize, list: &Place, notes: &Notes) {
    if count > 0 && count.is_multiple_of(2) {
        let tolerated = (count - 1) / 2;
        let diagnostic = Diagnostic::warning("`cluster.members` has an even number of nodes");
        let label = format!("{count} nodes survive the loss of {tolerated}, as {} would", count - 1);
        notes.push(diagnostic.at(list.clone(), label).help("use an odd number: one node less or one more"));
    }
}

/// Where to listen: as written, else the member's own address. `None` in the value if unknown; then an error is noted.
pub(super) fn listen(
    reader: &mut Reader<'_>,
    key: &'static str,
    own: Option<&Address>,
    member_key: &str,
) -> Located<Option<SocketAddr>> {
    let example = "\"0.0.0.0:7001\"";
    if let Some(written) = reader.optional_value::<Listen>(key, example) {
        return written.map(|listen| listen.map(|listen| listen.0));
    }
    reader.note_default(key);
    let Some(own) = own else { return Located { value: None, place: None, sound: false } };
    let value = own.ip().map(|ip| SocketAddr::new(ip, own.port()));
    if value.is_none() {
        let title = format!("`{}` is missing", reader.full_name(key));
        let diagnostic = Diagnostic::error(title).near(reader.place(), "in this table");
        let port = own.port();
        let help = format!(
            "the `{member_key}` address of this node is the host name {}, so say which interface to listen on, for \
             example `{key} = \"0.0.0.0:{port}\"`",
            own.host()
        );
        reader.note(diagnostic.help(help));
    }
    Located { value, place: None, sound: value.is_some() }
}

/// An address to listen on: an IP address, because a name may mean any interface or none.
struct Listen(SocketAddr);

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let address = Address::from_str(text)?;
        let Some(ip) = address.ip() else {
            return Err(format!(
                "`{}` is a name; listen on an IP address: 0.0.0.0 for every interface",
                address.host()
            ));
        };
        Ok(Self(SocketAddr::new(ip, address.port())))
    }
}

/// Reports listeners that want the same port of the same interface, and those that are open to everyone.
pub(super) fn check_listen(listeners: &[(&str, &Located<Option<SocketAddr>>)], notes: &Notes) {
    for (index, (key, listener)) in listeners.iter().enumerate() {
        let Some(address) = listener.value else { continue };
        for (other_key, other) in &listeners[..index] {
            let overlaps =
                |other: SocketAddr| other.port() == address.port() && overlap(other.ip(), address.ip());
            if other.value.is_some_and(overlaps) {
                let title = format!("`{other_key}` and `{key}` want the same port {}", address.port());
                let (place, context) = if listener.place.is_some() {
                    (&listener.place, &other.place)
                } else {
                    (&other.place, &None)
                };
                let diagnostic = Diagnostic::error(title).near(place.as_ref(), "only one can have it");
                notes.push(
                    diagnostic
                        .with(context.as_ref(), "the other")
                        .help("give each listener a port of its own"),
                );
            }
        }
        if address.ip().is_unspecified() {
            let diagnostic = Diagnostic::warning(format!("`{key}` accepts connections on every interface"));
            let label = "connections are neither authenticated nor encrypted";
            notes.push(
                diagnostic
                    .near(listener.place.as_ref(), label)
                    .help("keep it behind a firewall, or listen on one interface"),
            );
        }
    }
}

fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}
