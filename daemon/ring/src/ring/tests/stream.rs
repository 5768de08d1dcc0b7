//! Sockets.

use std::io::{Read, Write};
use std::net::Shutdown;

use socket2::SockRef;

use super::*;
use crate::parts::SendList;

const LISTENER: Token = Token(1);
const CLIENT: Token = Token(2);
/// Connections of the server are numbered from here.
const SERVER: u64 = 100;

/// Echoes whatever comes.
fn echo(ring: &mut Ring, connections: &mut HashMap<Token, SocketId>, event: Event) {
    match event {
        Event::Accepted { stream, .. } => {
            let token = Token(SERVER + connections.len() as u64);
            let socket = ring.add_socket(stream);
            connections.insert(token, socket);
            ring.receive(socket, token);
        }
        Event::Received { token, bytes } => {
            let mut copy = ring.send_buffers().take();
            copy.extend_from_slice(&bytes);
            let mut list = SendList::new();
            list.push_bytes(copy);
            ring.send(connections[&token], &mut list, token);
        }
        Event::Sent { result, .. } => result.unwrap(),
        other => panic!("unexpected {other:?}"),
    }
}

fn echo_large_messages(config: &RingConfig) {
    let mut ring = ring(config);
    let (listener, address) = listener();
    let listener = ring.add_socket(listener);
    ring.accept(listener, LISTENER);
    let client = ring.add_socket(stream_for(address).unwrap());
    ring.connect(client, address, CLIENT);

    let pool = FramePool::new(8 << 20);
    let mut expected = Vec::new();
    let mut lists: Vec<SendList> = (0..4u8)
        .map(|number| {
            let frame = frame(&pool, 500_000, number);
            let mut list = SendList::new();
            let head = vec![0xaa + number; 1000];
            expected.extend_from_slice(&head);
            expected.extend_from_slice(frame.bytes());
            expected.extend_from_slice(&frame.bytes()[5..77_777]);
            list.push_bytes(head);
            list.push_frame(frame.clone());
            list.push_bytes(Vec::new());
            list.push_frame_range(frame, 5..77_777);
            list
        })
        .collect();
    let (mut connections, mut back, mut sent) = (HashMap::new(), Vec::new(), 0);
    let size = expected.len();
    run(&mut ring, |ring, event| {
        match event {
            Some(Event::Connected { token: CLIENT, result }) => {
                result.unwrap();
                ring.receive(client, CLIENT);
                for list in &mut lists {
                    ring.send(client, list, CLIENT);
                    assert!(list.is_empty());
                }
                assert_eq!(ring.unsent_size(client), size);
            }
            Some(Event::Received { token: CLIENT, bytes }) => back.extend_from_slice(&bytes),
            Some(Event::Sent { token: CLIENT, result }) => {
                result.unwrap();
                sent += 1;
            }
            Some(event) => echo(ring, &mut connections, event),
            None => {}
        }
        back.len() >= size && sent == 4
    });
    assert!(back == expected, "the bytes come back as they were sent");
    assert_eq!(ring.unsent_size(client), 0);
    assert_eq!(pool.used(), 0, "sent frames are released");
    let counters = ring.counters();
    assert_eq!(counters.received_bytes, 2 * size as u64);
    assert_eq!(counters.sent_bytes, 2 * size as u64);
    assert_eq!(counters.stale_completions, 0);
    assert!(ring.send_buffers().idle_count() > 0, "sent buffers return to the pool");
}

#[test]
fn large_messages_are_echoed_whole_and_in_order() {
    echo_large_messages(&small());
}

#[test]
fn large_messages_are_echoed_by_what_an_old_kernel_has() {
    let config = plain();
    assert_eq!(ring(&config).task_work(), TaskWork::Interrupting);
    echo_large_messages(&config);
}

fn echo_many_clients(config: &RingConfig) {
    const CLIENTS: usize = 20;
    const ROUNDS: usize = 50;
    let mut ring = ring(config);
    let (listener, address) = listener();
    let listener = ring.add_socket(listener);
    ring.accept(listener, LISTENER);
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                for round in 0..ROUNDS {
                    let message = vec![(number * ROUNDS + round) as u8; 1 + 300 * round];
                    stream.write_all(&message).unwrap();
                    let mut back = vec![0; message.len()];
                    stream.read_exact(&mut back).unwrap();
                    assert_eq!(back, message);
                }
            })
        })
        .collect();
    let (mut connections, mut ended) = (HashMap::new(), 0);
    run(&mut ring, |ring, event| {
        match event {
            Some(Event::ReceiveEnded { token, error }) => {
                assert!(error.is_none());
                ring.close_socket(connections[&token], token);
            }
            Some(Event::Closed { .. }) => ended += 1,
            Some(event) => echo(ring, &mut connections, event),
            None => {}
        }
        ended == CLIENTS
    });
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(connections.len(), CLIENTS);
    assert_eq!(ring.descriptor_count(), 1);
    assert_eq!(ring.receive_buffers_available(), 8);
    assert_eq!(ring.counters().stale_completions, 0);
}

#[test]
fn many_clients_share_few_buffers() {
    echo_many_clients(&small());
}

#[test]
fn many_clients_are_served_by_what_an_old_kernel_has() {
    echo_many_clients(&plain());
}

#[test]
fn what_is_sent_in_one_turn_leaves_with_one_operation() {
    let mut ring = ring(&small());
    let (socket, mut peer) = connection(&mut ring);
    let before = ring.counters().submissions;
    let mut list = SendList::new();
    for number in 0..10 {
        list.push_bytes(vec![number; 10]);
        ring.send(socket, &mut list, Token(u64::from(number)));
    }
    ring.send(socket, &mut list, Token(10));
    ring.submit().unwrap();
    assert_eq!(ring.counters().submissions - before, 1);
    for number in 0..11 {
        match next(&mut ring) {
            Event::Sent { token, result: Ok(()) } => assert_eq!(token, Token(number)),
            other => panic!("unexpected {other:?}"),
        }
    }
    let mut bytes = [0; 100];
    peer.read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at / 10));
}

#[test]
fn a_list_of_more_pieces_than_one_call_takes_is_sent_whole() {
    let mut ring = ring(&small());
    let (socket, mut peer) = connection(&mut ring);
    let mut list = SendList::new();
    for number in 0..1000u32 {
        list.push_bytes(number.to_le_bytes().to_vec());
    }
    assert_eq!(list.size(), 4000);
    ring.send(socket, &mut list, CLIENT);
    assert!(matches!(next(&mut ring), Event::Sent { token: CLIENT, result: Ok(()) }));
    let mut bytes = [0; 4000];
    peer.read_exact(&mut bytes).unwrap();
    for (number, bytes) in bytes.chunks(4).enumerate() {
        assert_eq!(bytes, (number as u32).to_le_bytes());
    }
}

#[test]
fn the_rest_of_a_short_send_follows() {
    let mut ring = ring(&small());
    let (socket, mut peer) = connection(&mut ring);
    SockRef::from(&ring.socket_fd(socket).unwrap()).set_send_buffer_size(8 << 10).unwrap();
    // Not every kernel returns early with MSG_WAITALL, so the rest is also exercised directly.
    let pattern: Vec<u8> = (0..3_000_000u32).map(|at| (at / 7) as u8).collect();
    let mut list = SendList::new();
    for chunk in pattern.chunks(999) {
        list.push_bytes(chunk.to_vec());
    }
    ring.send(socket, &mut list, CLIENT);
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 3_000_000];
        peer.read_exact(&mut bytes).unwrap();
        bytes
    });
    assert!(matches!(next(&mut ring), Event::Sent { token: CLIENT, result: Ok(()) }));
    assert!(reader.join().unwrap() == pattern);

    let (socket, mut peer) = connection(&mut ring);
    list.push_bytes(b"abcdef".to_vec());
    list.push_bytes(b"ghi".to_vec());
    ring.send(socket, &mut list, CLIENT);
    ring.advance(socket.0, 4);
    assert_eq!(ring.unsent_size(socket), 5);
    assert!(matches!(next(&mut ring), Event::Sent { .. }));
    let mut rest = [0; 5];
    peer.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"efghi");
}

#[test]
fn a_reset_by_the_peer_is_reported_and_ends_sending() {
    for config in [small(), plain()] {
        let mut ring = ring(&config);
        let (socket, peer) = connection(&mut ring);
        ring.receive(socket, CLIENT);
        ring.submit().unwrap();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        match next(&mut ring) {
            Event::ReceiveEnded { token: CLIENT, error: Some(error) } => {
                assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
            }
            other => panic!("unexpected {other:?}"),
        }
        let mut list = SendList::new();
        for token in 0..3 {
            list.push_bytes(vec![1; 10]);
            ring.send(socket, &mut list, Token(token));
        }
        for expected in 0..4 {
            match next(&mut ring) {
                Event::Sent { token, result: Err(_) } => assert_eq!(token, Token(expected)),
                other => panic!("unexpected {other:?}"),
            }
            if expected == 2 {
                list.push_bytes(vec![1; 10]);
                ring.send(socket, &mut list, Token(3));
            }
        }
        assert_eq!(ring.unsent_size(socket), 0);
    }
}

#[test]
fn a_close_with_operations_in_flight_ends_them_all_and_leaks_nothing() {
    for config in [small(), plain()] {
        let mut ring = ring(&config);
        let pool = FramePool::new(16 << 20);
        let (socket, mut peer) = connection(&mut ring);
        ring.receive(socket, CLIENT);
        // More than the socket's buffers take: the send stays in flight, and another list waits behind it.
        let mut list = SendList::new();
        list.push_frame(frame(&pool, 12 << 20, 1));
        ring.send(socket, &mut list, CLIENT);
        ring.submit().unwrap();
        list.push_bytes(vec![0; 100]);
        ring.send(socket, &mut list, CLIENT);
        assert!(events_within(&mut ring, Duration::from_millis(30)).is_empty());
        assert_eq!(ring.operation_count() - 1, 2, "receive and send, beside the doorbell");
        peer.write_all(b"arrives while the socket is being closed").unwrap();
        ring.close_socket(socket, Token(77));
        ring.close_socket(socket, Token(78));
        ring.send(socket, &mut list, CLIENT);
        let events = events_within(&mut ring, Duration::from_millis(50));
        assert!(matches!(events[..], [Event::Closed { token: Token(77) }]), "{events:?}");
        assert_eq!((ring.operation_count(), ring.descriptor_count()), (1, 0));
        assert_eq!(ring.receive_buffers_available(), 8);
        assert_eq!(pool.used(), 0);
        // The last reference is gone when the peer sees the end, and the identifier names nothing any more.
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest);
        assert!(peer.write_all(&[0; 1 << 20]).is_err());
        assert!(ring.socket_fd(socket).is_none());
        ring.receive(socket, CLIENT);
        ring.send(socket, &mut list, CLIENT);
        ring.accept(socket, CLIENT);
        ring.finish_sending(socket);
        ring.pause_receive(socket);
        assert!(events_within(&mut ring, Duration::from_millis(5)).is_empty());
    }
}

#[test]
fn events_that_wait_behind_a_close_are_void() {
    let mut ring = ring(&small());
    let (socket, _peer) = connection(&mut ring);
    let mut list = SendList::new();
    for number in 0..3 {
        list.push_bytes(vec![1; 10]);
        ring.send(socket, &mut list, Token(number));
    }
    assert!(matches!(next(&mut ring), Event::Sent { token: Token(0), .. }));
    ring.close_socket(socket, Token(9));
    assert!(matches!(next(&mut ring), Event::Closed { token: Token(9) }));
    assert!(events_within(&mut ring, Duration::from_millis(5)).is_empty());
}

#[test]
fn submissions_in_the_backlog_keep_their_order_and_are_not_lost() {
    let mut ring = ring(&small());
    let (socket, mut peer) = connection(&mut ring);
    let nothing = io_uring::opcode::Nop::new().build().user_data(UNTRACKED);
    ring.backlog.extend(std::iter::repeat_n(nothing, 200));
    ring.receive(socket, CLIENT);
    let mut list = SendList::new();
    list.push_bytes(b"hello".to_vec());
    ring.send(socket, &mut list, CLIENT);
    ring.pause_receive(socket);
    assert_eq!(ring.counters().backlogged, 2, "the receive and its cancellation wait behind what was there");
    ring.submit().unwrap();
    assert!(ring.backlog.is_empty());
    assert_eq!(ring.counters().submissions, 203);
    peer.write_all(b"x").unwrap();
    let events = events_within(&mut ring, Duration::from_millis(20));
    assert!(matches!(events[..], [Event::Sent { token: CLIENT, result: Ok(()) }]), "{events:?}");
    ring.receive(socket, CLIENT);
    assert!(matches!(next(&mut ring), Event::Received { .. }));
}

#[test]
fn a_close_ends_also_what_a_shutdown_does_not_reach() {
    let mut ring = ring(&plain());
    let (reader, _writer) = std::io::pipe().unwrap();
    let pipe = ring.add_socket(reader);
    ring.receive(pipe, CLIENT);
    ring.submit().unwrap();
    ring.close_socket(pipe, Token(3));
    assert!(matches!(next(&mut ring), Event::Closed { token: Token(3) }));
}

#[test]
fn a_descriptor_number_is_not_reused_while_an_operation_refers_to_it() {
    let mut ring = ring(&small());
    let (socket, _peer) = connection(&mut ring);
    ring.receive(socket, CLIENT);
    ring.submit().unwrap();
    let number = ring.socket_fd(socket).unwrap().as_raw_fd();
    ring.close_socket(socket, CLIENT);
    // The cancellation has not even been submitted.
    assert_eq!(ring.socket_fd(socket).map(|fd| fd.as_raw_fd()), Some(number));
    assert!(matches!(next(&mut ring), Event::Closed { token: CLIENT }));
    assert!(ring.socket_fd(socket).is_none());
}

#[test]
fn receives_go_on_when_buffers_are_returned() {
    for config in [small(), plain()] {
        let mut ring = ring(&config);
        let (socket, mut peer) = connection(&mut ring);
        let message: Vec<u8> = (0..200_000u32).map(|at| (at / 3) as u8).collect();
        peer.write_all(&message).unwrap();
        ring.receive(socket, CLIENT);
        let mut held = Vec::new();
        run(&mut ring, |ring, event| {
            match event {
                Some(Event::Received { bytes, .. }) => held.push(bytes),
                Some(other) => panic!("unexpected {other:?}"),
                None => {}
            }
            ring.counters().buffer_shortages > 0
        });
        assert_eq!(held.len(), 8);
        assert_eq!(ring.receive_buffers_available(), 0);
        let shortages = ring.counters().buffer_shortages;
        assert!(events_within(&mut ring, Duration::from_millis(20)).is_empty());
        assert_eq!(ring.counters().buffer_shortages, shortages, "no attempt without a buffer");
        let mut received: Vec<u8> = held.iter().flat_map(|bytes| bytes.iter().copied()).collect();
        held.clear();
        run(&mut ring, |_, event| {
            if let Some(Event::Received { bytes, .. }) = event {
                received.extend_from_slice(&bytes);
            }
            received.len() == message.len()
        });
        assert!(received == message);
    }
}

#[test]
fn a_paused_socket_receives_nothing_until_it_goes_on() {
    for config in [small(), plain()] {
        let mut ring = ring(&config);
        let (socket, mut peer) = connection(&mut ring);
        ring.receive(socket, CLIENT);
        ring.submit().unwrap();
        ring.pause_receive(socket);
        assert!(events_within(&mut ring, Duration::from_millis(10)).is_empty());
        peer.write_all(b"later").unwrap();
        assert!(events_within(&mut ring, Duration::from_millis(20)).is_empty());
        // A pause that is taken back before the kernel has heard of it changes nothing.
        ring.receive(socket, Token(9));
        ring.pause_receive(socket);
        ring.receive(socket, Token(9));
        match next(&mut ring) {
            Event::Received { token: Token(9), bytes } => assert_eq!(&*bytes, b"later"),
            other => panic!("unexpected {other:?}"),
        }
        peer.shutdown(Shutdown::Write).unwrap();
        assert!(matches!(next(&mut ring), Event::ReceiveEnded { token: Token(9), error: None }));
    }
}

#[test]
fn the_peer_sees_the_end_after_everything_queued() {
    let mut ring = ring(&small());
    let (socket, mut peer) = connection(&mut ring);
    let mut list = SendList::new();
    list.push_bytes(vec![5; 300_000]);
    ring.send(socket, &mut list, CLIENT);
    ring.finish_sending(socket);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        peer.write_all(b"thanks").unwrap();
        bytes
    });
    ring.receive(socket, CLIENT);
    let mut thanks = Vec::new();
    run(&mut ring, |_, event| {
        if let Some(Event::Received { bytes, .. }) = event {
            thanks.extend_from_slice(&bytes);
        }
        thanks.len() == 6
    });
    assert_eq!(reader.join().unwrap(), [5; 300_000]);
}

#[test]
fn failures_to_connect_and_to_accept_are_reported() {
    for config in [small(), plain()] {
        let mut ring = ring(&config);
        let (closed, address) = listener();
        drop(closed);
        let client = ring.add_socket(stream_for(address).unwrap());
        ring.connect(client, address, CLIENT);
        match next(&mut ring) {
            Event::Connected { token: CLIENT, result: Err(error) } => {
                assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
            }
            other => panic!("unexpected {other:?}"),
        }
        let deaf = ring.add_socket(stream_for(address).unwrap());
        ring.accept(deaf, LISTENER);
        match next(&mut ring) {
            Event::AcceptFailed { token: LISTENER, error } => {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn an_attempt_to_connect_can_be_given_up() {
    let mut ring = ring(&small());
    // TEST-NET-1 (RFC 5737): nobody answers. Where there is no route the attempt fails at once, which is as good.
    let address = "192.0.2.1:9".parse().unwrap();
    let client = ring.add_socket(stream_for(address).unwrap());
    ring.connect(client, address, CLIENT);
    ring.submit().unwrap();
    ring.close_socket(client, Token(3));
    assert!(matches!(next(&mut ring), Event::Closed { token: Token(3) }));
    assert_eq!(ring.descriptor_count(), 0);
}

#[test]
fn more_operations_than_both_queues_hold_are_all_completed() {
    for config in [RingConfig { entries: 2, ..small() }, RingConfig { entries: 2, ..plain() }] {
        const SOCKETS: u64 = 64;
        let mut ring = ring(&config);
        let mut peers = Vec::new();
        let mut list = SendList::new();
        for number in 0..SOCKETS {
            let (socket, mut peer) = connection(&mut ring);
            peer.write_all(&[number as u8; 64]).unwrap();
            ring.receive(socket, Token(number));
            list.push_bytes(vec![number as u8; 64]);
            ring.send(socket, &mut list, Token(number));
            peers.push(peer);
        }
        let (mut sent, mut received) = (0, 0);
        run(&mut ring, |_, event| {
            match event {
                Some(Event::Sent { result: Ok(()), .. }) => sent += 1,
                Some(Event::Received { token, bytes }) => {
                    assert_eq!(&*bytes, [token.0 as u8; 64]);
                    received += 1;
                }
                Some(other) => panic!("unexpected {other:?}"),
                None => {}
            }
            (sent, received) == (SOCKETS, SOCKETS)
        });
        for (number, mut peer) in peers.into_iter().enumerate() {
            let mut bytes = [0; 64];
            peer.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, [number as u8; 64]);
        }
        assert_eq!(ring.counters().stale_completions, 0);
    }
}

#[test]
fn a_dropped_ring_closes_its_sockets_and_received_bytes_outlive_it() {
    for config in [small(), plain()] {
        let mut ring = ring(&config);
        let pool = FramePool::new(16 << 20);
        let (socket, mut peer) = connection(&mut ring);
        ring.receive(socket, CLIENT);
        peer.write_all(b"kept").unwrap();
        let Event::Received { bytes, .. } = next(&mut ring) else { panic!("bytes come first") };
        let mut list = SendList::new();
        list.push_frame(frame(&pool, 12 << 20, 1));
        ring.send(socket, &mut list, CLIENT);
        ring.submit().unwrap();
        ring.set_deadline(Some(crate::clock::now() + Duration::from_secs(3600)));
        ring.submit().unwrap();
        let start = Instant::now();
        drop(ring);
        assert!(start.elapsed() < DRAIN_TIMEOUT, "everything could be cancelled");
        assert_eq!(pool.used(), 0);
        assert_eq!(&*bytes, b"kept");
        let _ = peer.read_to_end(&mut Vec::new());
        assert!(peer.write_all(&[0; 1 << 20]).is_err());
    }
}
