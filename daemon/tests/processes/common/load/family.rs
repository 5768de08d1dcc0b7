//! Families of keys: keys of one group that clients write, read and count together.

use std::collections::BTreeSet;

use panch_sim::linear::register::Answer;
use panch_sim::linear::store::{History, ManyAction};

use super::{Client, End, OWN, bytes};

/// Keys of a family.
const MEMBERS: usize = 3;

/// What is asked of several keys at once.
#[derive(Clone, Debug)]
enum AskedMany {
    Read,
    Exists,
    Set(String),
    SetIfAbsent(String),
    Delete,
}

#[derive(Clone, Debug)]
enum AnsweredMany {
    Done,
    Values(Vec<Option<String>>),
    Number(i64),
}

/// An operation on several keys of a family.
#[derive(Clone, Debug)]
pub(super) struct OnFamily {
    keys: Vec<String>,
    invoked: u64,
    /// `None` if the outcome is open.
    returned: Option<(u64, AnsweredMany)>,
    asked: AskedMany,
}

/// The name of a member.
pub(super) fn member(family: &str, number: usize) -> String {
    format!("{{{family}}}{number}")
}

impl Client {
    /// An operation on some members of a family.
    pub(super) fn on_family(&mut self, family: &str, value: String) {
        let first = self.dice.below(MEMBERS);
        let count = 1 + self.dice.below(MEMBERS);
        let keys: Vec<String> =
            (first..first + count).map(|number| member(family, number % MEMBERS)).collect();
        let asked = match self.dice.below(16) {
            0..7 => AskedMany::Read,
            7 => AskedMany::Exists,
            8..14 => AskedMany::Set(value),
            14 => AskedMany::SetIfAbsent(value),
            _ => AskedMany::Delete,
        };
        let command = |name: &str| redis::cmd(name).arg(&keys).to_owned();
        let pairs = |name: &str, value: &str| {
            let mut command = redis::cmd(name);
            for key in &keys {
                command.arg(key).arg(value);
            }
            command
        };
        let invoked = self.now();
        let end = match &asked {
            AskedMany::Read => self.run(OWN, &command("MGET")).map(AnsweredMany::Values),
            AskedMany::Exists => self.run(OWN, &command("EXISTS")).map(AnsweredMany::Number),
            AskedMany::Set(value) => self.run::<()>(OWN, &pairs("MSET", value)).map(|()| AnsweredMany::Done),
            AskedMany::SetIfAbsent(value) => self.run(OWN, &pairs("MSETNX", value)).map(AnsweredMany::Number),
            AskedMany::Delete => self.run(OWN, &command("DEL")).map(AnsweredMany::Number),
        };
        let is_read = matches!(asked, AskedMany::Read | AskedMany::Exists);
        let returned = match end {
            End::Refused => return,
            // It changed nothing.
            End::Open if is_read => return,
            End::Open => None,
            End::Answer(answer) => Some((self.now(), answer)),
        };
        if let Some((at, _)) = returned
            && !is_read
        {
            self.wrote(at);
        }
        self.memory.many.push(OnFamily { keys, invoked, returned, asked });
    }
}

/// All members that were asked about.
pub(super) fn members(many: &[OnFamily]) -> BTreeSet<&str> {
    many.iter().flat_map(|operation| operation.keys.iter().map(String::as_str)).collect()
}

/// Adds operations to a history; the last moment in them.
pub(super) fn add_to(history: &mut History, many: &[OnFamily]) -> u64 {
    let mut last = 0;
    for operation in many {
        let keys = || operation.keys.iter().map(|key| bytes(key));
        let pairs = |value: &str| keys().map(|key| (key, bytes(value))).collect();
        let action = match &operation.asked {
            AskedMany::Read => ManyAction::Read(keys().collect()),
            AskedMany::Exists => ManyAction::Exists(keys().collect()),
            AskedMany::Set(value) => ManyAction::Set(pairs(value)),
            AskedMany::SetIfAbsent(value) => ManyAction::SetIfAbsent(pairs(value)),
            AskedMany::Delete => ManyAction::Delete(keys().collect()),
        };
        let answer = operation.returned.as_ref().map(|(_, answer)| match answer {
            AnsweredMany::Done => Answer::Done,
            AnsweredMany::Values(values) => {
                Answer::Values(values.iter().map(|value| value.as_deref().map(bytes)).collect())
            }
            AnsweredMany::Number(number) => Answer::Number(*number),
        });
        let returned = operation.returned.as_ref().map(|(at, _)| *at);
        last = last.max(operation.invoked).max(returned.unwrap_or(0));
        history.push_many(operation.invoked, returned, action, answer);
    }
    last
}
