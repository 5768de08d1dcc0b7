//! Sockets as panch wants them. The descriptors are made here, with ordinary calls, and given to a ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// How to listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenOptions {
    /// Whether several sockets, one per core, share the address and the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Connections that may wait to be accepted; the kernel bounds it by net.core.somaxconn.
    pub backlog: u32,
    /// How connections that are accepted notice that the other end is gone.
    pub liveness: Option<Liveness>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { reuse_port: false, backlog: 1024, liveness: None }
    }
}

/// When a connection whose other end has vanished, or hangs, is given up by the kernel: every operation on it then fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Liveness {
    /// Silence after which the other end is probed. Whole seconds, as the next.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes after which the connection is given up.
    pub probes: u32,
    /// What was sent must be acknowledged, or find room at the other end, within this time.
    pub unacknowledged_max: Option<Duration>,
}

/// Makes the kernel watch over a connection. On a listener: over all connections that it accepts.
///
/// # Errors
/// If it is not a TCP socket.
pub fn set_liveness(socket: impl AsFd, liveness: &Liveness) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    let keep_alive = TcpKeepalive::new()
        .with_time(liveness.idle)
        .with_interval(liveness.interval)
        .with_retries(liveness.probes);
    socket.set_tcp_keepalive(&keep_alive)?;
    if liveness.unacknowledged_max.is_some() {
        socket.set_tcp_user_timeout(liveness.unacknowledged_max)?;
    }
    Ok(())
}

/// A TCP socket that listens on `address`, with SO_REUSEADDR. What it accepts inherits TCP_NODELAY and liveness.
///
/// # Errors
/// If the address is in use, is not this machine's, or is not allowed.
pub fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(true)?;
    if let Some(liveness) = &options.liveness {
        set_liveness(&socket, liveness)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// A TCP socket for a connection to `address`, not yet connected, with TCP_NODELAY.
///
/// # Errors
/// If the process has no descriptor left or the address family is not supported.
pub fn stream_for(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// The address that `socket` is bound to.
///
/// # Errors
/// If it is not an IP socket.
pub fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    SockRef::from(&socket).local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// The address of the other end.
///
/// # Errors
/// If it is not a connected IP socket.
pub fn peer_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    SockRef::from(&socket).peer_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_inherit_nodelay() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
        let address = local_address(&listener).unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (stream, _) = SockRef::from(&listener).accept().unwrap();
        assert!(stream.tcp_nodelay().unwrap());
        assert_eq!(peer_address(&stream).unwrap(), client.local_addr().unwrap());
        assert!(SockRef::from(&stream_for(address).unwrap()).tcp_nodelay().unwrap());
    }

    #[test]
    fn accepted_connections_inherit_liveness() {
        let liveness = Liveness {
            idle: Duration::from_secs(5),
            interval: Duration::from_secs(2),
            probes: 3,
            unacknowledged_max: Some(Duration::from_secs(7)),
        };
        let options = ListenOptions { liveness: Some(liveness), ..ListenOptions::default() };
        let listener = listen("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let address = local_address(&listener).unwrap();
        let dialled = stream_for(address).unwrap();
        set_liveness(&dialled, &liveness).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = SockRef::from(&listener).accept().unwrap();
        for stream in [SockRef::from(&accepted), SockRef::from(&dialled)] {
            assert!(stream.keepalive().unwrap());
            assert_eq!(stream.tcp_keepalive_time().unwrap(), liveness.idle);
            assert_eq!(stream.tcp_keepalive_interval().unwrap(), liveness.interval);
            assert_eq!(stream.tcp_keepalive_retries().unwrap(), liveness.probes);
            assert_eq!(stream.tcp_user_timeout().unwrap(), liveness.unacknowledged_max);
        }
    }

    #[test]
    fn only_listeners_that_all_ask_for_it_share_a_port() {
        let shared = ListenOptions { reuse_port: true, backlog: 16, liveness: None };
        let first = listen("127.0.0.1:0".parse().unwrap(), shared).unwrap();
        let address = local_address(&first).unwrap();
        listen(address, shared).unwrap();
        assert_eq!(listen(address, ListenOptions::default()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
