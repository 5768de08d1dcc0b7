//! Where the other nodes are reached. One that is configured by a name is looked up again when nobody is reached at the address that the
//! name had: machines and containers come back with other addresses.
//!
//! A thread of its own does so, because a look-up may take many seconds, and no core waits for one: whoever dials takes the address that is
//! known, says when it does not lead to the node, and finds another one at a later try.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use panch_ring::clock;
use panch_wire::ids::{ReplicaId, ReplicaSet};

use crate::complaints::{Complaints, say};
use crate::options::{Member, PeerName};

/// A name is looked up at most so often.
const LOOK_UP_EVERY: Duration = Duration::from_secs(2);

/// The addresses of a node's peers, for all that dial them.
#[derive(Clone)]
pub(crate) struct Addresses(Arc<Shared>);

struct Shared {
    names: Vec<Option<PeerName>>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// By node, as far as is known.
    known: Vec<SocketAddr>,
    /// When each was looked up last.
    looked_up: Vec<Option<Instant>>,
    wanted: ReplicaSet,
    end: bool,
}

/// The thread that looks names up. Dropping this ends it, after what it does: that is not waited for, since it may take long.
pub(crate) struct LookUps(Addresses);

impl Addresses {
    /// The configured ones, and the thread, if any of them is by name.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start(members: &[Member]) -> io::Result<LookUps> {
        let addresses = Self::new(members);
        if addresses.0.names.iter().any(Option::is_some) {
            let of_thread = addresses.clone();
            let look_up = |name: &PeerName| -> io::Result<Vec<SocketAddr>> {
                Ok((name.host.as_str(), name.port).to_socket_addrs()?.collect())
            };
            std::thread::Builder::new().name("panch-names".into()).spawn(move || of_thread.run(look_up))?;
        }
        Ok(LookUps(addresses))
    }

    fn new(members: &[Member]) -> Self {
        let state = State {
            known: members.iter().map(|member| member.peer).collect(),
            looked_up: vec![None; members.len()],
            wanted: ReplicaSet::default(),
            end: false,
        };
        let names = members.iter().map(|member| member.peer_name.clone()).collect();
        Self(Arc::new(Shared { names, state: Mutex::new(state), changed: Condvar::new() }))
    }

    fn hold(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to dial this node.
    pub(crate) fn of(&self, id: ReplicaId) -> SocketAddr {
        self.hold().known[id.index()]
    }

    /// Nobody was reached at this address, or somebody else than the node. If it is that of a name, the name is looked up again, unless that
    /// was done a moment ago. Does not wait for it.
    pub(crate) fn is_not(&self, id: ReplicaId, address: SocketAddr) {
        if self.0.names[id.index()].is_none() {
            return;
        }
        let mut state = self.hold();
        let is_due = state.looked_up[id.index()].is_none_or(|at| at.elapsed() >= LOOK_UP_EVERY);
        if is_due && state.known[id.index()] == address && state.wanted.insert(id) {
            self.0.changed.notify_one();
        }
    }

    /// What is to be looked up next; `None` at the end.
    fn next(&self) -> Option<ReplicaId> {
        let mut state = self.hold();
        loop {
            if state.end {
                return None;
            }
            if let Some(id) = state.wanted.iter().next() {
                state.wanted.remove(id);
                return Some(id);
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, look_up: impl Fn(&PeerName) -> io::Result<Vec<SocketAddr>>) {
        let mut complaints = Complaints::default();
        while let Some(id) = self.next() {
            let Some(name) = &self.0.names[id.index()] else { continue };
            let (found, number) = (look_up(name), u64::from(id.0) + 1);
            let mut state = self.hold();
            let known = state.known[id.index()];
            state.looked_up[id.index()] = Some(Instant::now());
            match found.map(|found| next_of(&found, known)) {
                Ok(Some(next)) if next != known => {
                    state.known[id.index()] = next;
                    drop(state);
                    say(format_args!(
                        "node {number}, {name}, is tried at {next}, since it is not reached at {known}"
                    ));
                }
                Ok(Some(_)) => {}
                Ok(None) => self.complain(
                    state,
                    &mut complaints,
                    known,
                    format_args!("{name} has no address any more"),
                ),
                Err(error) => {
                    self.complain(
                        state,
                        &mut complaints,
                        known,
                        format_args!("{name} cannot be looked up: {error}"),
                    );
                }
            }
        }
    }

    fn complain(
        &self,
        state: MutexGuard<'_, State>,
        complaints: &mut Complaints,
        known: SocketAddr,
        text: std::fmt::Arguments<'_>,
    ) {
        // Standard error may be slow, and nobody waits for it.
        drop(state);
        let text = format_args!("{text}; its last one, {known}, is tried on");
        complaints.print_rarely(clock::now(), "name", Some(known), text);
    }
}

impl LookUps {
    /// What it knows.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.0
    }
}

impl Drop for LookUps {
    fn drop(&mut self) {
        self.0.hold().end = true;
        self.0.0.changed.notify_one();
    }
}

/// Of several addresses the one behind that which did not lead to the node: all of them have their turn.
fn next_of(found: &[SocketAddr], known: SocketAddr) -> Option<SocketAddr> {
    let place = found.iter().position(|address| *address == known);
    let next = place.map_or(0, |place| (place + 1) % found.len());
    found.get(next).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 7201))
    }

    fn members() -> Vec<Member> {
        let name = |host: &str| Some(PeerName { host: host.to_owned(), port: 7201 });
        let member = |last, peer_name| Member {
            peer: address(last),
            peer_name,
            resp: address(last),
            native: address(last),
        };
        vec![member(1, None), member(2, name("two")), member(3, name("three"))]
    }

    #[test]
    fn addresses_of_a_name_have_their_turns() {
        let (one, two, three) = (address(1), address(2), address(3));
        assert_eq!(next_of(&[], one), None);
        assert_eq!(next_of(&[two, three], one), Some(two), "it has moved");
        assert_eq!(next_of(&[one], one), Some(one));
        assert_eq!(next_of(&[one, two, three], one), Some(two));
        assert_eq!(next_of(&[one, two, three], three), Some(one));
    }

    #[test]
    fn only_names_that_lead_nowhere_are_looked_up_and_not_all_the_time() {
        let addresses = Addresses::new(&members());
        let wanted = || addresses.hold().wanted.iter().map(|id| id.0).collect::<Vec<_>>();
        addresses.is_not(ReplicaId(0), address(1));
        assert!(wanted().is_empty(), "it has no name");
        addresses.is_not(ReplicaId(1), address(9));
        assert!(wanted().is_empty(), "another one is known meanwhile");
        addresses.is_not(ReplicaId(1), address(2));
        addresses.is_not(ReplicaId(2), address(3));
        assert_eq!(wanted(), [1, 2]);
        let end = LookUps(addresses.clone());
        let looked_up = Mutex::new(Vec::new());
        let look_up = |name: &PeerName| -> io::Result<Vec<SocketAddr>> {
            looked_up.lock().unwrap().push(name.host.clone());
            match name.host.as_str() {
                "two" => Ok(vec![address(22)]),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| addresses.run(look_up));
            while addresses.hold().looked_up[2].is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(end);
            thread.join().unwrap();
        });
        assert_eq!(*looked_up.lock().unwrap(), ["two", "three"]);
        assert_eq!((addresses.of(ReplicaId(1)), addresses.of(ReplicaId(2))), (address(22), address(3)));
        addresses.is_not(ReplicaId(1), address(22));
        assert!(wanted().is_empty(), "it was looked up a moment ago");
        addresses.hold().looked_up[1] = Instant::now().checked_sub(LOOK_UP_EVERY);
        addresses.is_not(ReplicaId(1), address(22));
        assert_eq!(wanted(), [1]);
    }

    #[test]
    fn a_name_is_looked_up_by_the_thread() {
        let mut members = members();
        members[1].peer_name = Some(PeerName { host: "localhost".to_owned(), port: 7 });
        let look_ups = Addresses::start(&members).unwrap();
        let addresses = look_ups.addresses();
        addresses.is_not(ReplicaId(1), address(2));
        let begun = Instant::now();
        while addresses.of(ReplicaId(1)) == address(2) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it is in /etc/hosts");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(addresses.of(ReplicaId(1)).ip().is_loopback());
    }
}
