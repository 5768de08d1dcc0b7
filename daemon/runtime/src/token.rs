//! What the tags on ring operations mean: a kind in the top byte, and what is needed to find the object.

use panch_ring::event::Token;

use crate::clients::connection::ConnectionKey;

/// Nobody waits for this event.
pub(crate) const IGNORED: u64 = 0;
const SHIFT: u32 = 56;

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    Ignored,
    ListenResp,
    ListenNative,
    ListenPeer,
    /// A client's connection on this core.
    Client(ConnectionKey),
    /// The stream to this peer.
    PeerOut(u8),
    /// The place of a peer's stream to this node.
    PeerIn(usize),
    /// The place of a stream that another core goes on with.
    HandedOver(usize),
    /// The place of a log write.
    LogWrite(usize),
    /// The place of a log sync.
    LogSync(usize),
    /// The place of a read from the log.
    Load(usize),
}

pub(crate) const LISTEN_RESP: Token = Token(1 << SHIFT);
pub(crate) const LISTEN_NATIVE: Token = Token(2 << SHIFT);
pub(crate) const LISTEN_PEER: Token = Token(3 << SHIFT);

pub(crate) fn client(key: ConnectionKey) -> Token {
    Token(4 << SHIFT | key.0)
}
pub(crate) fn peer_out(peer: u8) -> Token {
    Token(5 << SHIFT | u64::from(peer))
}
pub(crate) fn peer_in(place: usize) -> Token {
    Token(6 << SHIFT | place as u64)
}
pub(crate) fn log_write(place: usize) -> Token {
    Token(7 << SHIFT | place as u64)
}
pub(crate) fn log_sync(place: usize) -> Token {
    Token(8 << SHIFT | place as u64)
}
pub(crate) fn load(place: usize) -> Token {
    Token(9 << SHIFT | place as u64)
}
pub(crate) fn handed_over(place: usize) -> Token {
    Token(10 << SHIFT | place as u64)
}

/// Takes a tag apart.
pub(crate) fn subject(token: Token) -> Subject {
    let rest = token.0 & ((1 << SHIFT) - 1);
    let place = rest as usize;
    match token.0 >> SHIFT {
        1 => Subject::ListenResp,
        2 => Subject::ListenNative,
        3 => Subject::ListenPeer,
        4 => Subject::Client(ConnectionKey(rest)),
        5 => Subject::PeerOut(rest as u8),
        6 => Subject::PeerIn(place),
        7 => Subject::LogWrite(place),
        8 => Subject::LogSync(place),
        9 => Subject::Load(place),
        10 => Subject::HandedOver(place),
        _ => Subject::Ignored,
    }
}
