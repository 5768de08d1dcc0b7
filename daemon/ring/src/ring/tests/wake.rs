//! Sleeping and waking: deadlines, doorbells, parking.

use std::io::Write;

use super::*;
use crate::clock::now;
use crate::mesh;

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn a_deadline_is_reported_once_and_not_early() {
    for config in [small(), plain()] {
        let mut ring = ring(&config);
        let deadline = now() + milliseconds(20);
        ring.set_deadline(Some(deadline));
        assert!(matches!(next(&mut ring), Event::Deadline));
        assert!(now() >= deadline);
        assert!(events_within(&mut ring, milliseconds(20)).is_empty());
        ring.set_deadline(Some(now() - milliseconds(5)));
        assert!(matches!(next(&mut ring), Event::Deadline));
    }
}

#[test]
fn an_earlier_deadline_replaces_a_later_one() {
    let mut ring = ring(&small());
    let start = now();
    ring.set_deadline(Some(start + Duration::from_secs(3600)));
    ring.submit().unwrap();
    ring.set_deadline(Some(start + Duration::from_secs(1800)));
    ring.submit().unwrap();
    ring.set_deadline(Some(start + milliseconds(20)));
    assert!(matches!(next(&mut ring), Event::Deadline));
    assert!(now().since(start) >= milliseconds(20) && now().since(start) < Duration::from_secs(60));
}

#[test]
fn a_later_deadline_costs_nothing_and_the_earlier_end_is_not_reported() {
    let mut ring = ring(&small());
    let start = now();
    ring.set_deadline(Some(start + milliseconds(10)));
    ring.submit().unwrap();
    let submissions = ring.counters().submissions;
    ring.set_deadline(Some(start + milliseconds(60)));
    ring.submit().unwrap();
    assert_eq!(ring.counters().submissions, submissions);
    assert!(matches!(next(&mut ring), Event::Deadline));
    assert!(now() >= start + milliseconds(60));
    ring.set_deadline(Some(now() + milliseconds(10)));
    ring.submit().unwrap();
    ring.set_deadline(None);
    assert!(events_within(&mut ring, milliseconds(30)).is_empty());
}

#[test]
fn a_doorbell_rung_by_another_thread_ends_a_wait() {
    let mut ring = ring(&small());
    for _ in 0..3 {
        let bell = ring.doorbell().clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(milliseconds(30));
            bell.ring();
        });
        let start = Instant::now();
        ring.wait(Some(PATIENCE)).unwrap();
        assert!(start.elapsed() >= milliseconds(20) && start.elapsed() < PATIENCE / 2);
        assert!(ring.next_event().is_none());
        thread.join().unwrap();
    }
    let start = Instant::now();
    ring.wait(Some(milliseconds(20))).unwrap();
    assert!(start.elapsed() >= milliseconds(20));
}

#[test]
fn a_wait_does_not_block_when_there_is_other_work() {
    let mut ring = ring(&small());
    let start = Instant::now();
    ring.wait_while(Some(PATIENCE), || false).unwrap();
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn a_parked_core_is_woken_by_parcels_bytes_and_deadlines() {
    for config in [small(), plain()] {
        let mut ports = mesh::connect::<u64>(2, 16).unwrap();
        let (sender, port) = (ports.remove(1), ports.remove(0));
        let mut ring = Ring::new(&config, port.doorbell().clone()).unwrap();
        let (socket, mut peer) = connection(&mut ring);
        ring.receive(socket, Token(1));
        let thread = std::thread::spawn(move || {
            for round in 0..20 {
                std::thread::sleep(milliseconds(2));
                if round % 2 == 0 {
                    peer.write_all(&[1; 100]).unwrap();
                } else {
                    sender.send(0, round).unwrap();
                }
            }
            peer
        });
        let (mut bytes_count, mut parcels, mut deadlines, mut sleeps, mut armed) = (0, 0, 0, 0, false);
        let start = Instant::now();
        while (bytes_count, parcels, deadlines) != (1000, 10, 1) {
            assert!(start.elapsed() < PATIENCE, "{bytes_count} {parcels} {deadlines}");
            while let Some(event) = ring.next_event() {
                match event {
                    Event::Received { bytes, .. } => bytes_count += bytes.len(),
                    Event::Deadline => deadlines += 1,
                    other => panic!("unexpected {other:?}"),
                }
            }
            port.drain(|_, _| parcels += 1);
            if (bytes_count, parcels) == (1000, 10) && !std::mem::replace(&mut armed, true) {
                ring.set_deadline(Some(now() + milliseconds(10)));
            }
            sleeps += 1;
            // A wake-up that is lost ends only here, and then too late for the assertion above.
            ring.wait_while(Some(PATIENCE * 2), || port.is_empty() && deadlines == 0).unwrap();
        }
        drop(thread.join().unwrap());
        // Wake-ups may coincide; many more sleeps than wake-ups would mean that sleeping does not work.
        assert!((1..200).contains(&sleeps), "{sleeps} sleeps for 21 wake-ups");
    }
}

#[test]
fn an_idle_turn_makes_no_system_call() {
    let mut ring = ring(&small());
    let (socket, _peer) = connection(&mut ring);
    ring.receive(socket, Token(1));
    ring.submit().unwrap();
    let enters = ring.counters().enters;
    for _ in 0..100 {
        assert!(ring.next_event().is_none());
        ring.submit().unwrap();
    }
    assert_eq!(ring.counters().enters, enters);
}
