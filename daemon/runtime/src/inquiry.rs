//! Before a node with a new data directory says anything: asking the other nodes what they remember of it, and of each other: one of
//! them may have lost its disk, and not say so.
//!
//! A node that has lost its disk, or what it remembered of the others, waits until all have answered. One that knows of no loss begins when
//! [`decide`](panch_replica::founding::decide) says so.
//!
//! Blocks the thread that starts the node; nothing of the node runs yet, but for [`Answering`].

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::thread::{Builder, scope, sleep};
use std::time::{Duration, Instant};

use panch_consensus::quorum::classic_quorum;
use panch_replica::founding::{Answer, Decision, Founder, Founders, Newcomer, Word, decide};
use panch_wire::ids::{Incarnation, REPLICAS_MAX, ReplicaId};
use panch_wire::peer::{Challenge, Hello, HelloReply, Proof, Purpose, RefusalCode, Secret};

use crate::addresses::Addresses;
use crate::answering::Answering;
use crate::complaints::say;
use crate::core::listen_before_start;
use crate::draw::draw;
use crate::identity::{DataDir, Founding, IdentityFault};
use crate::memory::{PeerMemory, words_of};
use crate::node::NodeFault;
use crate::options::NodeOptions;
use crate::salvage::{WAY_BACK_AFTER, way_back};

/// How long one node is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two rounds of questions, while all nodes may be starting at the same moment.
const PAUSE: Duration = Duration::from_millis(5);
/// The same, later.
const LONG_PAUSE: Duration = Duration::from_millis(100);
/// Nodes that are started together answer within this time.
const TOGETHER: Duration = Duration::from_secs(2);
/// How often the operator hears what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// For so long nothing is said: nodes that are started together need not be told of each other.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// What the first incarnation of a node, or the first after the loss of its disk, is to follow.
///
/// # Errors
/// If the node must not begin, or is asked to stop.
pub(crate) fn before_first_incarnation(
    options: &NodeOptions,
    addresses: &Addresses,
    data: &mut DataDir,
) -> Result<(Incarnation, Founders), NodeFault> {
    let inquiry = Inquiry::new(options, addresses, data)?;
    if !data.identity.rejoining {
        let founders = inquiry.founders()?;
        drop(inquiry);
        data.peers.write_down()?;
        return Ok((Incarnation(0), founders));
    }
    let (last, name) = inquiry.last_incarnation()?;
    drop(inquiry);
    data.peers.write_down()?;
    // Whoever asks this node next must come back above the state as well. Nobody said what is in it, only what is not below that.
    let above = if name == 0 { Incarnation(0) } else { last };
    data.set_founding(Founding { name, above })?;
    Ok((last, Founders::default()))
}

/// Before a node that has run says anything, and has lost what it remembered of the others: what they remember. What it remembers of the
/// founding alone, a node contradicts whose disk was replaced since.
///
/// # Errors
/// If the node is asked to stop.
pub(crate) fn before_next_incarnation(
    options: &NodeOptions,
    addresses: &Addresses,
    data: &mut DataDir,
) -> Result<(), NodeFault> {
    let (last, _) = Inquiry::new(options, addresses, data)?.last_incarnation()?;
    // Written down with the start: until then the file is missed, and all are asked again.
    Ok(data.go_on(last)?)
}

/// What one node has said.
struct Said {
    /// The highest incarnation of this node that it remembers.
    known: Incarnation,
    /// What its cluster began with.
    founding: u64,
    answer: Answer,
}

/// What the others have said in a round of questions, by number; or why they have said nothing.
type Round = Vec<(ReplicaId, SocketAddr, io::Result<Said>)>;

struct Inquiry<'a> {
    options: &'a NodeOptions,
    addresses: &'a Addresses,
    data: &'a DataDir,
    hello: Hello,
    since: Instant,
    /// Held for as long as the node asks: it must not begin before it has stopped to answer that it has not.
    _answering: Option<Answering>,
}

impl<'a> Inquiry<'a> {
    fn new(options: &'a NodeOptions, addresses: &'a Addresses, data: &'a DataDir) -> Result<Self, NodeFault> {
        // A node that has lost its disk learns it from the others.
        let has_forgotten = data.identity.rejoining && !data.lacks_peers;
        let founding = if has_forgotten { Hello::ANY_FOUNDING } else { data.identity.founding.name };
        let hello = Hello {
            founding,
            cluster: options.cluster,
            node: options.node,
            core_count: options.cpus.len() as u16,
            fingerprint: options.fingerprint,
            directory: data.identity.log,
            purpose: Purpose::Inquiry,
            ..Hello::new(panch_wal::TOLD_VERSION)
        };
        let is_new = !data.identity.rejoining;
        let answering = if options.members.len() > 1 {
            let listener = listen_before_start(options)?;
            let answering = Answering::start(
                listener,
                hello,
                options.members.len() as u8,
                options.secret.clone(),
                is_new,
            );
            Some(answering.map_err(|error| NodeFault::Io { what: "cannot answer other nodes", error })?)
        } else {
            None
        };
        Ok(Self { options, addresses, data, hello, since: Instant::now(), _answering: answering })
    }

    /// Asks all others at once. One that there is no thread for is not asked in this round.
    fn ask_all(&self) -> Round {
        let others = (0..self.options.members.len() as u8).map(ReplicaId);
        let others = others.filter(|id| *id != self.options.node);
        let secret = self.options.secret.as_ref();
        scope(|scope| {
            let asked: Vec<_> = others
                .map(|id| {
                    let address = self.addresses.of(id);
                    let question = move || {
                        let answer = ask(address, id, &self.hello, secret, &self.data.peers);
                        if answer.is_err() {
                            self.addresses.is_not(id, address);
                        }
                        answer
                    };
                    (id, address, Builder::new().name("panch-inquiry".into()).spawn_scoped(scope, question))
                })
                .collect();
            let answers = asked.into_iter().map(|(id, address, thread)| {
                let answer = thread.map_err(|error| {
                    let text = format!("not asked, since no thread can be started: {error}");
                    io::Error::new(error.kind(), text)
                });
                (id, address, answer.and_then(|thread| thread.join().expect("a panic aborts the process")))
            });
            answers.collect()
        })
    }

    /// Waits before the next round; an error if the node is asked to stop.
    fn pause(&self) -> Result<(), NodeFault> {
        if self.options.stop.load(Ordering::Relaxed) {
            return Err(NodeFault::Stopped);
        }
        sleep(if self.since.elapsed() < TOGETHER { PAUSE } else { LONG_PAUSE });
        Ok(())
    }

    /// What the nodes were when the cluster was, or is now, founded.
    fn founders(&self) -> Result<Founders, NodeFault> {
        let who = Newcomer {
            me: self.options.node,
            directory: self.data.identity.log,
            node_count: self.options.members.len(),
            told_to_found: self.options.told_to_found,
        };
        let path = || self.data.path.clone();
        let number = |id: ReplicaId| u64::from(id.0) + 1;
        let mut before = [Answer::None; REPLICAS_MAX];
        let mut said = None;
        loop {
            let round = self.ask_all();
            let mut answers = [Answer::None; REPLICAS_MAX];
            for (id, _, result) in &round {
                let (Ok(said), Some(place)) = (result, answers.get_mut(id.index())) else { continue };
                *place = said.answer;
                if let (Answer::New { directory, again }, Answer::New { directory: earlier, .. }) =
                    (place, before[id.index()])
                {
                    *again = *directory == earlier;
                }
            }
            match decide(&who, &answers) {
                Decision::Begin(founders) => return Ok(founders),
                Decision::Remembered(by, Incarnation(life)) => {
                    return Err(IdentityFault::Remembered { path: path(), by: number(by), life }.into());
                }
                Decision::Replaced(by) => {
                    return Err(IdentityFault::Replaced { path: path(), by: number(by) }.into());
                }
                Decision::Exists(by) => return Err(IdentityFault::Exists { by: number(by) }.into()),
                Decision::Wait => {}
            }
            before = answers;
            if self.since.elapsed() >= SAY_AFTER && is_due(&mut said) {
                say(format_args!("{}", self.waiting_text(&round)));
                let is_alone = !round.iter().any(|(_, _, said)| said.is_ok());
                if is_alone && self.since.elapsed() >= WAY_BACK_AFTER && self.data.identity.founding.name == 0
                {
                    say(format_args!("node {}: {}", number(self.options.node), way_back(self.options)));
                }
            }
            self.pause()?;
        }
    }

    fn waiting_text(&self, round: &Round) -> String {
        let missing = round.iter().filter_map(|(id, address, result)| match result {
            Ok(_) => None,
            Err(error) => Some(name_of(*id, *address, error)),
        });
        let missing = missing.collect::<Vec<_>>().join(", ");
        let members = round.iter().filter_map(|(id, _, result)| match result {
            Ok(Said { answer: Answer::Member { .. }, .. }) => Some(format!("node {}", u64::from(id.0) + 1)),
            _ => None,
        });
        let members = members.collect::<Vec<_>>().join(", ");
        let missing = if missing.is_empty() { "all others to begin".to_owned() } else { missing };
        let (node, path) = (u64::from(self.options.node.0) + 1, self.data.path.display());
        if !members.is_empty() {
            format!(
                "node {node} has an empty data directory ({path}) and waits for {missing}. The cluster was founded without it ({members}), \
                 and every node must answer that it has not met it. If it was a member, start it with the directory that it ran with, \
                 or, if that is lost, with --rejoin"
            )
        } else if self.options.told_to_found {
            format!(
                "node {node} is to found the cluster and waits for {missing}: a majority of the nodes must be there, all of them new"
            )
        } else {
            format!(
                "node {node} has an empty data directory ({path}) and waits for {missing}. A cluster is founded once every node has \
                 answered that it is new, too. If this one ran before, its disk is not where it was: stop it and mount that. If the \
                 cluster is new and some node cannot be started, start the others, one of them with --found"
            )
        }
    }

    /// The highest incarnation that any other node remembers of this one, and what the cluster began with, once all have said theirs.
    fn last_incarnation(&self) -> Result<(Incarnation, u64), NodeFault> {
        let mut highest = [None; REPLICAS_MAX];
        let mut said = None;
        loop {
            let round = self.ask_all();
            let mut reasons = Vec::new();
            for (id, address, result) in &round {
                match result {
                    Ok(Said { known, founding, answer: Answer::Member { .. } }) => {
                        let place = &mut highest[id.index()];
                        let before = place.map_or(Incarnation(0), |(before, _)| before);
                        *place = Some((before.max(*known), *founding));
                    }
                    _ if highest[id.index()].is_some() => {}
                    Ok(_) => {
                        let text = io::Error::other("it is new, and knows nothing");
                        reasons.push(name_of(*id, *address, &text));
                    }
                    Err(error) => reasons.push(name_of(*id, *address, error)),
                }
            }
            let mut foundings = highest.iter().flatten().map(|(_, founding)| *founding);
            let founding = foundings.next().unwrap_or_default();
            if foundings.any(|other| other != founding) {
                reasons.push(
                    "nodes of one cluster: those that answer began with different salvaged states".to_owned(),
                );
            }
            if reasons.is_empty() {
                let last = highest.into_iter().flatten().map(|(last, _)| last).max();
                return Ok((last.unwrap_or_default(), founding));
            }
            if is_due(&mut said) {
                let lost = if self.data.lacks_peers { "its file `peers`" } else { "its disk" };
                say(format_args!(
                    "node {} has lost {lost} and waits for {}. All other nodes must answer: if one of them has lost its disk, too, no \
                     node can tell what the two have decided together",
                    u64::from(self.options.node.0) + 1,
                    reasons.join(", ")
                ));
                let count = self.options.members.len();
                if self.since.elapsed() >= WAY_BACK_AFTER && count - 1 - reasons.len() < classic_quorum(count)
                {
                    say(format_args!(
                        "node {}: {}",
                        u64::from(self.options.node.0) + 1,
                        way_back(self.options)
                    ));
                }
            }
            self.pause()?;
        }
    }
}

fn name_of(id: ReplicaId, address: SocketAddr, error: &io::Error) -> String {
    format!("node {} at {address} ({error})", u64::from(id.0) + 1)
}

/// Whether it is time to say something again.
fn is_due(said: &mut Option<Instant>) -> bool {
    let due = said.is_none_or(|said| said.elapsed() >= SAY_EVERY);
    if due {
        *said = Some(Instant::now());
    }
    due
}

/// Asks one node, which must say that it is `id`.
fn ask(
    address: SocketAddr,
    id: ReplicaId,
    hello: &Hello,
    secret: Option<&Secret>,
    peers: &PeerMemory,
) -> io::Result<Said> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut before = Vec::new();
    Hello { nonce: draw()?, ..*hello }.write(&mut before);
    stream.write_all(&before)?;
    let (mut answer, mut is_proven, mut founding) = (Vec::new(), false, 0);
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..count]);
        if !is_proven && Challenge::may_be(&answer) {
            let Some(challenge) = Challenge::parse(&answer).map_err(io::Error::other)? else { continue };
            challenge.check(secret, &before, &answer).map_err(io::Error::other)?;
            founding = challenge.founding;
            before.extend(answer.drain(..Challenge::SIZE));
            let mut proof = Vec::new();
            Proof::default().write(secret, &before, &mut proof);
            stream.write_all(&proof)?;
            before.append(&mut proof);
            is_proven = true;
            continue;
        }
        match HelloReply::parse(&answer).map_err(io::Error::other)? {
            None => {}
            Some((HelloReply { refusal: Some(code), text, .. }, _)) => {
                return Err(io::Error::other(refusal_text(code, text).to_owned()));
            }
            Some((HelloReply { known, text, .. }, size)) => {
                if !is_proven || !HelloReply::is_sealed(&answer[..size], secret, &before) {
                    return Err(io::Error::other("its answer does not have the seal of the cluster secret"));
                }
                let answer = answer_of(text, id)
                    .ok_or_else(|| io::Error::other("another node answers at this address"))?;
                peers.learn(text, hello.node)?;
                return Ok(Said { known, founding, answer });
            }
        }
    }
}

/// What node `id` has answered; `None` if it is not this node, or says what cannot be understood.
fn answer_of(text: &str, id: ReplicaId) -> Option<Answer> {
    let mut words = words_of(text)?.into_iter();
    let (node, incarnation, directory) = words.next()?;
    if node != id {
        return None;
    }
    if incarnation == Incarnation(0) {
        return Some(Answer::New { directory, again: false });
    }
    let mut of = [Word::default(); REPLICAS_MAX];
    for (node, incarnation, directory) in words {
        *of.get_mut(node.index())? = match (incarnation, directory) {
            (Incarnation(0), 0) => Word::Founder(Founder::Absent),
            (Incarnation(0), directory) => Word::Founder(Founder::With(directory)),
            (incarnation, directory) => Word::Met(incarnation, directory),
        };
    }
    Some(Answer::Member { directory, of })
}

fn refusal_text(code: RefusalCode, text: &str) -> &str {
    if text.is_empty() { code.text() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_begins_with_the_one_who_gives_it() {
        assert_eq!(answer_of("2:0:a", ReplicaId(1)), Some(Answer::New { directory: 10, again: false }));
        assert_eq!(answer_of("2:0:a", ReplicaId(0)), None);
        assert_eq!(answer_of("", ReplicaId(0)), None);
        assert_eq!(answer_of("2:0:a 17:1:b", ReplicaId(1)).map(|_| ()), Some(()), "a new node says no more");
        let Some(Answer::Member { directory: 10, of }) = answer_of("2:3:a 1:5:b 3:0:c 4:0:0", ReplicaId(1))
        else {
            panic!("no member")
        };
        let expected = [
            Word::Met(Incarnation(5), 11),
            Word::default(),
            Word::Founder(Founder::With(12)),
            Word::Founder(Founder::Absent),
            Word::Founder(Founder::Unknown),
        ];
        assert_eq!(of[..5], expected);
    }
}
