//! Commands that own their bytes, and what is said about them, in the words of the history.

use panch_wire::command::{Command, CommandError, CommandKind, Reply, SessionHeader, flags, list};
use panch_wire::exec::{self, Condition, hash_of};
use panch_wire::reply;
use panch_wire::transaction::Step;

use crate::linear::register::{Action, Answer, Bytes};
use crate::linear::store::{Held, ManyAction};

/// A command that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedCommand {
    /// What to do.
    pub kind: CommandKind,
    /// See [`flags`].
    pub flags: u8,
    /// Who asks.
    pub session: Option<SessionHeader>,
    /// The key.
    pub key: Vec<u8>,
    /// The value, or a list.
    pub value: Vec<u8>,
}

/// What a command means, in the words of the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Intent {
    /// About one key, that of the command.
    One(Action),
    /// About several.
    Many(ManyAction),
}

impl From<Action> for Intent {
    fn from(action: Action) -> Self {
        Self::One(action)
    }
}

impl From<ManyAction> for Intent {
    fn from(action: ManyAction) -> Self {
        Self::Many(action)
    }
}

impl Intent {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        match self {
            Self::One(action) => *action == Action::Get,
            Self::Many(action) => action.is_read(),
        }
    }

    /// The same with its values as the history has them: without padding.
    pub(super) fn trimmed(self) -> Self {
        match self {
            Self::One(action) => Self::One(trimmed_one(action)),
            Self::Many(action) => Self::Many(trimmed_many(action)),
        }
    }
}

fn trim(value: Bytes) -> Bytes {
    let end = value.iter().position(|byte| *byte == b'_').unwrap_or(value.len());
    value[..end].into()
}

fn trimmed_one(action: Action) -> Action {
    match action {
        Action::Set(value) => Action::Set(trim(value)),
        Action::SetIfAbsent(value) => Action::SetIfAbsent(trim(value)),
        Action::GetSet(value) => Action::GetSet(trim(value)),
        Action::CompareAndSet(old, new) => Action::CompareAndSet(trim(old), trim(new)),
        other => other,
    }
}

fn trimmed_many(action: ManyAction) -> ManyAction {
    let pairs = |pairs: Vec<(Bytes, Bytes)>| -> Vec<(Bytes, Bytes)> {
        pairs.into_iter().map(|(key, value)| (key, trim(value))).collect()
    };
    let values = |pairs: Vec<(Bytes, Option<Bytes>)>| -> Vec<(Bytes, Option<Bytes>)> {
        pairs.into_iter().map(|(key, value)| (key, value.map(trim))).collect()
    };
    match action {
        ManyAction::Set(all) => ManyAction::Set(pairs(all)),
        ManyAction::SetIfAbsent(all) => ManyAction::SetIfAbsent(pairs(all)),
        ManyAction::Transaction { conditions, writes } => {
            ManyAction::Transaction { conditions: values(conditions), writes: values(writes) }
        }
        ManyAction::Exec { conditions, held } => {
            let trimmed = |held| match held {
                Held::One(key, action) => Held::One(key, trimmed_one(action)),
                Held::Many(action) => Held::Many(trimmed_many(action)),
            };
            ManyAction::Exec { conditions: values(conditions), held: held.into_iter().map(trimmed).collect() }
        }
        other => other,
    }
}

/// What became of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It took effect, once.
    Answer(Answer),
    /// It had no effect.
    Refused(CommandError),
    /// It may take effect at any time, or have done so, or never.
    Lost,
}

impl OwnedCommand {
    /// The command for an action on a key.
    pub fn of(key: &[u8], action: &Action) -> Self {
        let pair = |first: &[u8], second: &[u8]| {
            let mut value = Vec::new();
            list::push(&mut value, first);
            list::push(&mut value, second);
            value
        };
        let (kind, value) = match action {
            Action::Get => (CommandKind::Get, Vec::new()),
            Action::Set(value) => (CommandKind::Set, value.to_vec()),
            Action::SetIfAbsent(value) => (CommandKind::SetNx, value.to_vec()),
            Action::GetSet(value) => (CommandKind::GetSet, value.to_vec()),
            Action::GetDelete => (CommandKind::GetDel, Vec::new()),
            Action::Delete => {
                let mut value = Vec::new();
                list::push(&mut value, key);
                (CommandKind::Del, value)
            }
            Action::Increment(by) => (CommandKind::IncrBy, by.to_le_bytes().to_vec()),
            Action::Append(value) => (CommandKind::Append, value.to_vec()),
            Action::CompareAndSet(old, new) => (CommandKind::CompareAndSet, pair(old, new)),
        };
        Self { kind, flags: 0, session: None, key: key.to_vec(), value }
    }

    /// The command for an action on several keys.
    pub fn of_many(action: &ManyAction) -> Self {
        let mut value = Vec::new();
        let mut flags = 0;
        let kind = match action {
            ManyAction::Read(keys) | ManyAction::Exists(keys) | ManyAction::Delete(keys) => {
                keys.iter().for_each(|key| list::push(&mut value, key));
                match action {
                    ManyAction::Read(_) => CommandKind::MGet,
                    ManyAction::Exists(_) => CommandKind::Exists,
                    _ => CommandKind::Del,
                }
            }
            ManyAction::Set(pairs) | ManyAction::SetIfAbsent(pairs) => {
                for (key, new) in pairs {
                    list::push(&mut value, key);
                    list::push(&mut value, new);
                }
                if matches!(action, ManyAction::SetIfAbsent(_)) {
                    flags = flags::IF_ABSENT;
                }
                CommandKind::MSet
            }
            ManyAction::Transaction { conditions, writes } => {
                for (key, expected) in conditions {
                    let step = expected.as_ref().map_or(Step::Absent(key), |value| Step::Equals(key, value));
                    step.push(&mut value);
                }
                for (key, new) in writes {
                    let step = new.as_ref().map_or(Step::Delete(key), |value| Step::Set(key, value));
                    step.push(&mut value);
                }
                CommandKind::Transaction
            }
            ManyAction::Exec { conditions, held } => {
                for (key, expected) in conditions {
                    Condition { key, hash: expected.as_deref().map(hash_of) }.push(&mut value);
                }
                for one in held {
                    let command = match one {
                        Held::One(key, action) => Self::of(key, action),
                        Held::Many(action) => Self::of_many(action),
                    };
                    exec::push_command(&command.borrow(), &mut value);
                }
                CommandKind::Exec
            }
        };
        let key = action.keys().first().map(|key| key.to_vec()).unwrap_or_default();
        Self { kind, flags, session: None, key, value }
    }

    /// Opens a session.
    pub fn open_session(session: u64) -> Self {
        let header = SessionHeader { session, number: 1, acked_below: 1 };
        Self {
            kind: CommandKind::OpenSession,
            flags: 0,
            session: Some(header),
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Closes every session that was not used since `slot`.
    pub fn expire_sessions(slot: u64) -> Self {
        let value = slot.to_le_bytes().to_vec();
        Self { kind: CommandKind::ExpireSessions, flags: 0, session: None, key: Vec::new(), value }
    }

    /// The same within a session.
    pub fn in_session(mut self, session: u64, number: u64) -> Self {
        self.session = Some(SessionHeader { session, number, acked_below: number });
        self
    }

    /// Whether it opens or closes sessions.
    pub fn is_session_control(&self) -> bool {
        use CommandKind::{CloseSession, ExpireSessions, OpenSession};
        matches!(self.kind, OpenSession | CloseSession | ExpireSessions)
    }

    /// As the replica takes it.
    pub fn borrow(&self) -> Command<'_> {
        Command {
            kind: self.kind,
            flags: self.flags,
            session: self.session,
            key: &self.key,
            value: &self.value,
        }
    }
}

/// A reply in the words of the history.
pub fn outcome_of(reply: Reply<'_>) -> Outcome {
    let answer = match reply {
        Reply::Ok => Answer::Done,
        Reply::Nil => Answer::Value(None),
        Reply::Int(number) => Answer::Number(number),
        Reply::Bytes(bytes) => Answer::Value(Some(bytes.into())),
        Reply::Array(bytes) => {
            let value =
                |item: &[u8]| item.split_first().filter(|(tag, _)| **tag == 1).map(|(_, value)| value.into());
            Answer::Values(list::items(bytes).map(value).collect())
        }
        Reply::Status(text) => Answer::Value(Some(text.as_bytes().into())),
        Reply::Replies(bytes) => {
            let answer = |reply| match outcome_of(reply) {
                Outcome::Answer(answer) => answer,
                other => panic!("no command that is held with others is answered {other:?} in the simulator"),
            };
            Answer::Replies(reply::items(bytes).map(answer).collect())
        }
        Reply::Error(CommandError::NotAnInteger | CommandError::Overflow) => Answer::NotANumber,
        Reply::Error(CommandError::Unknown) => return Outcome::Lost,
        Reply::Error(error) => return Outcome::Refused(error),
    };
    Outcome::Answer(answer)
}

fn padding_of(token: &[u8], most: u64) -> usize {
    let hash = token.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    if most == 0 { 0 } else { ((hash >> 16) % (most + 1)) as usize }
}

/// A token made longer, by a length that the token decides.
pub(super) fn pad(token: &[u8], most: u64) -> Bytes {
    let mut value = token.to_vec();
    value.resize(token.len() + padding_of(token, most), b'_');
    value.into()
}

/// The token of a padded value; `None` if its padding is not what the token decides.
pub(super) fn unpad(value: &[u8], most: u64) -> Option<Bytes> {
    let end = value.iter().position(|byte| *byte == b'_').unwrap_or(value.len());
    let padding = &value[end..];
    let right = padding.is_empty() || padding.len() == padding_of(&value[..end], most);
    (right && padding.iter().all(|byte| *byte == b'_')).then(|| value[..end].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_decided_by_the_token() {
        for token in ["0.1", "3.17", "5.999"] {
            let padded = pad(token.as_bytes(), 100);
            assert_eq!(unpad(&padded, 100).as_deref(), Some(token.as_bytes()));
            if padded.len() > token.len() + 1 {
                assert_eq!(unpad(&padded[..padded.len() - 1], 100), None);
            }
        }
        assert_eq!(unpad(b"17", 100).as_deref(), Some(&b"17"[..]));
    }

    #[test]
    fn every_action_is_a_valid_command() {
        let value: Bytes = (&b"v"[..]).into();
        let actions = [
            Action::Get,
            Action::Set(value.clone()),
            Action::SetIfAbsent(value.clone()),
            Action::GetSet(value.clone()),
            Action::GetDelete,
            Action::Delete,
            Action::Increment(-3),
            Action::Append(value.clone()),
            Action::CompareAndSet(value.clone(), value),
        ];
        for action in actions {
            assert!(OwnedCommand::of(b"k", &action).in_session(1, 1).borrow().is_valid(), "{action:?}");
        }
        let pair = || (Bytes::from(&b"k"[..]), Bytes::from(&b"v"[..]));
        let (key, new) = pair();
        let many = [
            ManyAction::Read(vec![key.clone(), key.clone()]),
            ManyAction::Exists(vec![key.clone(), key.clone()]),
            ManyAction::Set(vec![pair(), pair()]),
            ManyAction::SetIfAbsent(vec![pair(), pair()]),
            ManyAction::Delete(vec![key.clone(), key.clone()]),
            ManyAction::Transaction {
                conditions: vec![(key.clone(), None)],
                writes: vec![(key.clone(), Some(new.clone()))],
            },
            ManyAction::Exec {
                conditions: vec![(key.clone(), Some(new))],
                held: vec![Held::One(key.clone(), Action::Get), Held::Many(ManyAction::Delete(vec![key]))],
            },
        ];
        for action in many {
            let command = OwnedCommand::of_many(&action);
            assert!(command.in_session(1, 1).borrow().is_valid(), "{action:?}");
        }
        assert!(OwnedCommand::open_session(1).borrow().is_valid());
        assert!(OwnedCommand::expire_sessions(1).borrow().is_valid());
    }
}
