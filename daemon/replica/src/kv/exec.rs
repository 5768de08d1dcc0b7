//! Several commands as one.

use panch_wire::command::{CommandKind, Reply};
use panch_wire::exec;
use panch_wire::reply::{self, ERROR_ITEM_SIZE};
use panch_wire::rule::{Rule, holds};

use super::{Kv, MALFORMED, TOO_LARGE};
use crate::ceilings::{EXEC_WORK_MAX, REPLIES_SIZE_MAX};

/// Bytes of an item of the answer before its content: its length and its tag.
const ITEM_HEADER_SIZE: usize = 5;

impl Kv {
    /// Executes the commands in `value` if all conditions hold. An answer that would make the whole too long is replaced by an
    /// error; its command has taken effect all the same.
    pub(super) fn execute<'a>(&'a mut self, value: &[u8], scratch: &'a mut Vec<u8>) -> Reply<'a> {
        if !exec::is_valid(value) {
            return MALFORMED;
        }
        // Conditions hash values, and so does what appends to them: a short command must not keep all replicas busy for minutes.
        let work_max = EXEC_WORK_MAX.min(4 * self.value_size_max);
        let mut work = 0;
        for condition in exec::conditions(value) {
            let found = self.value(condition.key);
            work += found.map_or(0, <[u8]>::len);
            if work > work_max {
                return TOO_LARGE;
            }
            if holds(Rule::ExecConditions) && !condition.holds(found) {
                return Reply::Nil;
            }
        }
        scratch.clear();
        let size_max = self.reply_size_max.min(REPLIES_SIZE_MAX);
        let count = exec::commands(value).count();
        let mut inner = Vec::new();
        for (left, command) in (0..count).rev().zip(exec::commands(value)) {
            // Errors of all that follow find room in any case: a command takes more bytes than its error.
            let room = size_max.saturating_sub(scratch.len() + left * ERROR_ITEM_SIZE);
            if command.kind == CommandKind::Append {
                work += self.value(command.key).map_or(0, <[u8]>::len);
            }
            let reply = match command.kind {
                CommandKind::Append if work > work_max => TOO_LARGE,
                // Work is bounded like the answer, however many commands ask for long values.
                CommandKind::MGet => {
                    self.values(command.value, room.saturating_sub(ITEM_HEADER_SIZE), &mut inner)
                }
                _ => self.apply(&command, &mut inner),
            };
            let fits = 4 + reply::size(&reply) <= room;
            reply::push_item(if fits { &reply } else { &TOO_LARGE }, scratch);
        }
        Reply::Replies(scratch)
    }
}

#[cfg(test)]
mod tests;
