//! What the reply to a command will take, foreseen from what is known of values before it is executed.

use panch_wire::command::{Command, CommandKind, flags, list};
use panch_wire::exec;

use crate::ceilings::{REPLIES_SIZE_MAX, REPLY_SIZE_MAX};

/// Bytes that a reply takes at most beside the values in it, in whichever protocol it is written, with what it takes to know whom it is for.
pub const SMALL_REPLY_SIZE: usize = 128;

/// What one value takes in a reply of several beside its bytes.
const ITEM_SIZE: usize = 32;

/// Bytes of the reply to `command`, at most, where `length_of` tells how long the value of a key is.
pub fn reply_size(command: &Command<'_>, length_of: &mut dyn FnMut(&[u8]) -> usize) -> usize {
    let returned = match command.kind {
        CommandKind::Get | CommandKind::GetSet | CommandKind::GetDel => length_of(command.key),
        CommandKind::Set if command.flags & flags::RETURN_OLD != 0 => length_of(command.key),
        CommandKind::MGet => {
            let size = list::items(command.value).map(|key| ITEM_SIZE + length_of(key)).sum();
            REPLY_SIZE_MAX.min(size)
        }
        CommandKind::Exec => {
            // One of its commands may return what another has written.
            let written = exec::commands(command.value).map(|inner| inner.longest_value()).max().unwrap_or(0);
            let mut length_of = |key: &[u8]| length_of(key).max(written);
            let size = exec::commands(command.value).map(|inner| inner_size(&inner, &mut length_of)).sum();
            REPLIES_SIZE_MAX.min(size)
        }
        _ => 0,
    };
    SMALL_REPLY_SIZE + returned
}

fn inner_size(command: &Command<'_>, length_of: &mut dyn FnMut(&[u8]) -> usize) -> usize {
    if command.kind.may_be_held() { reply_size(command, length_of) } else { SMALL_REPLY_SIZE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(kind: CommandKind, value: &[u8]) -> Command<'_> {
        Command { kind, flags: 0, session: None, key: b"k", value }
    }

    #[test]
    fn replies_with_values_are_foreseen_by_their_lengths() {
        let size =
            |command: &Command<'_>| reply_size(command, &mut |key| if key == b"k" { 1000 } else { 50 });
        assert_eq!(size(&command(CommandKind::Get, b"")), SMALL_REPLY_SIZE + 1000);
        assert_eq!(size(&command(CommandKind::StrLen, b"")), SMALL_REPLY_SIZE);
        let set = command(CommandKind::Set, &[0; 5000]);
        assert_eq!(size(&set), SMALL_REPLY_SIZE);
        assert_eq!(size(&Command { flags: flags::RETURN_OLD, ..set }), SMALL_REPLY_SIZE + 1000);
        let mut keys = Vec::new();
        [b"k", b"x", b"k"].iter().for_each(|key| list::push(&mut keys, *key));
        assert_eq!(size(&command(CommandKind::MGet, &keys)), SMALL_REPLY_SIZE + 3 * ITEM_SIZE + 2050);
        let mut steps = Vec::new();
        for step in [set, command(CommandKind::Get, b""), command(CommandKind::GetDel, b"")] {
            exec::push_command(&step, &mut steps);
        }
        let foreseen = size(&command(CommandKind::Exec, &steps));
        assert!((10_000..10_000 + 5 * SMALL_REPLY_SIZE).contains(&foreseen), "what it has set: {foreseen}");
    }
}
