//! Sessions are forgotten when nobody used them for long, and not before.

use panch_consensus::protocol::ProtocolKind;
use panch_wire::command::{Command, CommandKind, SessionHeader};
use panch_wire::time::Duration;

use crate::world::World;

/// A client whose keys nobody else touches, after others wrote one key again and again: under EPaxos that key's instances would
/// have higher stamps, were stamps counted per key.
#[test]
fn a_session_in_use_is_not_forgotten() {
    for kind in ProtocolKind::ALL {
        let mut world = World::new(*kind, Duration::from_secs(8));
        world.run_for(Duration::from_secs(2));
        let send = |world: &mut World, kind: CommandKind, number: u64, key: &str| {
            let session = Some(SessionHeader { session: 7, number, acked_below: number });
            world.submit_command(1, &Command { kind, flags: 0, session, key: key.as_bytes(), value: b"" });
        };
        send(&mut world, CommandKind::OpenSession, 1, "");
        for _ in 0..50 {
            for node in 0..world.cores.len() {
                world.submit(node);
            }
            world.run_for(Duration::from_millis(2));
        }
        for number in 1..=60 {
            // The world panics at a command that is refused.
            send(&mut world, CommandKind::Set, number, &format!("mine {number}"));
            world.run_for(Duration::from_millis(200));
        }
        assert_eq!(world.replies, 1 + 150 + 60, "{kind:?}");
    }
}
