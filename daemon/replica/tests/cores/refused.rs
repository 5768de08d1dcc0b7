//! A write that waited at a node without a majority and never left it is given up, and said to be not applied.

use panch_consensus::protocol::ProtocolKind;
use panch_wire::command::{Command, CommandError, CommandKind};
use panch_wire::time::Duration;

use crate::world::World;

#[test]
fn what_waited_without_a_majority_is_not_applied_and_never_will_be() {
    for kind in ProtocolKind::ALL {
        let mut world = World::new(*kind, Duration::from_secs(3600));
        world.run_for(Duration::from_secs(2));
        for node in 0..3 {
            world.cut(Some(node));
            // Long enough for a leader to know that it leads nobody.
            world.run_for(Duration::from_secs(2));
            let key = [node];
            let set = Command { kind: CommandKind::Set, flags: 0, session: None, key: &key, value: b"late" };
            world.submit_command(node.into(), &set);
            world.run_for(Duration::from_millis(9_900));
            assert_eq!(world.refused, [], "{kind:?}: node {node} says too soon that it waits in vain");
            world.run_for(Duration::from_millis(200));
            assert_eq!(
                world.refused,
                [CommandError::Unavailable],
                "{kind:?}: node {node} knows that it is not applied"
            );
            world.refused.clear();
            world.cut(None);
            world.run_for(Duration::from_secs(3));
        }
        assert_eq!(world.replies, 0, "{kind:?}");
        // Everything works again, and nothing of it has come.
        (0..3).for_each(|node| world.submit(node));
        world.run_for(Duration::from_secs(2));
        assert_eq!(world.replies, 3, "{kind:?}");
        for core in &world.cores {
            assert_eq!(
                core.status().next().map(|status| status.keys),
                Some(1),
                "{kind:?}: a key that was refused"
            );
        }
    }
}

#[test]
fn what_waited_for_a_majority_that_comes_in_time_is_applied() {
    for kind in ProtocolKind::ALL {
        let mut world = World::new(*kind, Duration::from_secs(3600));
        world.run_for(Duration::from_secs(2));
        world.cut(Some(1));
        world.run_for(Duration::from_secs(2));
        world.submit(1);
        world.run_for(Duration::from_secs(5));
        assert_eq!((world.replies, world.refused.len()), (0, 0), "{kind:?}");
        world.cut(None);
        world.run_for(Duration::from_secs(3));
        assert_eq!((world.replies, world.refused.len()), (1, 0), "{kind:?}");
    }
}
