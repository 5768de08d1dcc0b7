//! Keys that operations on several keys tie together, as one sequential object, and the check of a whole history.

use std::collections::BTreeMap;
use std::fmt;

use super::plain::plain;
use super::register::{
    Action, Anomaly, Answer, Bytes, KeyOperation, Register, Summary, Text, check_key, describe, write_action,
};
use super::{Model, Timed, Verdict, check};

/// What a client asked of several keys at once: it takes effect at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManyAction {
    /// Reads all of them.
    Read(Vec<Bytes>),
    /// Counts those that are there, repeats included.
    Exists(Vec<Bytes>),
    /// Writes all of them.
    Set(Vec<(Bytes, Bytes)>),
    /// Writes all of them if none is there; answers 1 or 0.
    SetIfAbsent(Vec<(Bytes, Bytes)>),
    /// Deletes them; answers how many there were.
    Delete(Vec<Bytes>),
    /// Writes if all conditions hold; answers 1 or 0. A condition is the value that a key must have, if any; so is a write.
    Transaction {
        /// What must hold.
        conditions: Vec<(Bytes, Option<Bytes>)>,
        /// What is written then, in this order.
        writes: Vec<(Bytes, Option<Bytes>)>,
    },
    /// All these commands if all conditions hold; answers their answers, or that there is no value.
    Exec {
        /// What must hold, by ascending keys.
        conditions: Vec<(Bytes, Option<Bytes>)>,
        /// What is done then, in this order.
        held: Vec<Held>,
    },
}

/// One of several commands that take effect at one moment, after those before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// On one key.
    One(Bytes, Action),
    /// On several, but no `Exec`.
    Many(ManyAction),
}

impl Held {
    fn is_read(&self) -> bool {
        match self {
            Self::One(_, action) => *action == Action::Get,
            Self::Many(action) => action.is_read(),
        }
    }

    fn keys(&self) -> Vec<&Bytes> {
        match self {
            Self::One(key, _) => vec![key],
            Self::Many(action) => action.keys(),
        }
    }
}

impl ManyAction {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Exists(_))
    }

    /// The keys, as often as it names them.
    pub fn keys(&self) -> Vec<&Bytes> {
        match self {
            Self::Read(keys) | Self::Exists(keys) | Self::Delete(keys) => keys.iter().collect(),
            Self::Set(pairs) | Self::SetIfAbsent(pairs) => pairs.iter().map(|(key, _)| key).collect(),
            Self::Transaction { conditions, writes } => {
                conditions.iter().chain(writes).map(|(key, _)| key).collect()
            }
            Self::Exec { conditions, held } => {
                conditions.iter().map(|(key, _)| key).chain(held.iter().flat_map(Held::keys)).collect()
            }
        }
    }

    /// The action, in words.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |f: &mut fmt::Formatter<'_>, key: &Bytes, value: Option<&Bytes>| match value {
            Some(value) => write!(f, " {}={}", Text(key), Text(value)),
            None => write!(f, " {}=nil", Text(key)),
        };
        match self {
            Self::Read(keys) | Self::Exists(keys) | Self::Delete(keys) => {
                f.write_str(match self {
                    Self::Read(_) => "mget",
                    Self::Exists(_) => "exists",
                    _ => "del",
                })?;
                keys.iter().try_for_each(|key| write!(f, " {}", Text(key)))
            }
            Self::Set(pairs) | Self::SetIfAbsent(pairs) => {
                f.write_str(if matches!(self, Self::Set(_)) { "mset" } else { "msetnx" })?;
                pairs.iter().try_for_each(|(key, value)| pair(f, key, Some(value)))
            }
            Self::Transaction { conditions, writes } => {
                f.write_str("if")?;
                conditions.iter().try_for_each(|(key, value)| pair(f, key, value.as_ref()))?;
                f.write_str(" then")?;
                writes.iter().try_for_each(|(key, value)| pair(f, key, value.as_ref()))
            }
            Self::Exec { conditions, held } => {
                f.write_str("exec if")?;
                conditions.iter().try_for_each(|(key, value)| pair(f, key, value.as_ref()))?;
                f.write_str(" then")?;
                held.iter().try_for_each(|held| {
                    f.write_str(" (")?;
                    match held {
                        Held::One(key, action) => {
                            write!(f, "{}: ", Text(key))?;
                            write_action(action, f)?;
                        }
                        Held::Many(action) => action.write(f)?,
                    }
                    f.write_str(")")
                })
            }
        }
    }
}

/// A call to several keys.
#[derive(Clone, PartialEq, Eq)]
pub struct ManyOperation {
    /// What was asked.
    pub action: ManyAction,
    /// What was answered; `None` if that is unknown.
    pub answer: Option<Answer>,
}

impl fmt::Debug for ManyOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.action.write(f)?;
        match &self.answer {
            None => write!(f, " -> ?"),
            Some(answer) => write!(f, " -> {answer:?}"),
        }
    }
}

/// An operation on some keys of a [`Store`].
#[derive(Clone, PartialEq, Eq)]
pub enum StoreOperation {
    /// On one key.
    One(Bytes, KeyOperation),
    /// On several.
    Many(ManyOperation),
}

impl fmt::Debug for StoreOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(key, operation) => write!(f, "{}: {operation:?}", Text(key)),
            Self::Many(operation) => write!(f, "{operation:?}"),
        }
    }
}

/// Some keys.
#[derive(Clone, Debug)]
pub struct Store(Vec<Bytes>);

impl Store {
    /// A store of these keys, all absent.
    pub fn new(mut keys: Vec<Bytes>) -> Self {
        keys.sort_unstable();
        keys.dedup();
        Self(keys)
    }

    fn place(&self, key: &Bytes) -> usize {
        self.0.binary_search(key).expect("operations are about the keys of the store")
    }

    fn apply(&self, state: &[Option<Bytes>], action: &ManyAction) -> (Box<[Option<Bytes>]>, Answer) {
        let mut after: Box<[Option<Bytes>]> = state.into();
        let value = |key: &Bytes| &state[self.place(key)];
        let count = |keys: &[Bytes]| keys.iter().filter(|key| value(key).is_some()).count();
        let answer = match action {
            ManyAction::Read(keys) => Answer::Values(keys.iter().map(|key| value(key).clone()).collect()),
            ManyAction::Exists(keys) => Answer::Number(count(keys) as i64),
            ManyAction::Set(pairs) => {
                pairs.iter().for_each(|(key, new)| after[self.place(key)] = Some(new.clone()));
                Answer::Done
            }
            ManyAction::SetIfAbsent(pairs) => {
                let absent = pairs.iter().all(|(key, _)| value(key).is_none());
                if absent {
                    pairs.iter().for_each(|(key, new)| after[self.place(key)] = Some(new.clone()));
                }
                Answer::Number(i64::from(absent))
            }
            ManyAction::Delete(keys) => {
                let taken = keys.iter().filter(|key| after[self.place(key)].take().is_some()).count();
                Answer::Number(taken as i64)
            }
            ManyAction::Transaction { conditions, writes } => {
                let holds = conditions.iter().all(|(key, expected)| value(key) == expected);
                if holds {
                    writes.iter().for_each(|(key, new)| after[self.place(key)].clone_from(new));
                }
                Answer::Number(i64::from(holds))
            }
            ManyAction::Exec { conditions, held } => {
                if conditions.iter().all(|(key, expected)| value(key) == expected) {
                    let step = |held: &Held| match held {
                        Held::One(key, action) => {
                            let place = self.place(key);
                            let (new, answer) = Register::apply(&after[place], action);
                            after[place] = new;
                            answer
                        }
                        Held::Many(action) => {
                            let (next, answer) = self.apply(&after, action);
                            after = next;
                            answer
                        }
                    };
                    Answer::Replies(held.iter().map(step).collect())
                } else {
                    Answer::Value(None)
                }
            }
        };
        (after, answer)
    }
}

impl Model for Store {
    type Operation = StoreOperation;
    type State = Box<[Option<Bytes>]>;

    fn initial(&self) -> Self::State {
        vec![None; self.0.len()].into()
    }

    fn step(&self, state: &Self::State, operation: &StoreOperation) -> Option<Self::State> {
        match operation {
            StoreOperation::One(key, operation) => {
                let place = self.place(key);
                let mut after = state.clone();
                after[place] = Register.step(&state[place], operation)?;
                Some(after)
            }
            StoreOperation::Many(ManyOperation { action, answer }) => {
                let (after, right) = self.apply(state, action);
                answer.as_ref().is_none_or(|given| *given == right).then_some(after)
            }
        }
    }

    fn never_changes(&self, operation: &StoreOperation) -> bool {
        match operation {
            StoreOperation::One(_, operation) => Register.never_changes(operation),
            StoreOperation::Many(ManyOperation { action, answer }) => match action {
                ManyAction::Read(_) | ManyAction::Exists(_) => true,
                ManyAction::SetIfAbsent(_) | ManyAction::Delete(_) | ManyAction::Transaction { .. } => {
                    matches!(answer, Some(Answer::Number(0)))
                }
                ManyAction::Exec { held, .. } => {
                    matches!(answer, Some(Answer::Value(None))) || held.iter().all(Held::is_read)
                }
                ManyAction::Set(_) => false,
            },
        }
    }
}

/// A whole history.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Operations on one key, by key.
    pub keys: BTreeMap<Vec<u8>, Vec<Timed<KeyOperation>>>,
    /// Operations on several keys.
    pub many: Vec<Timed<ManyOperation>>,
}

impl History {
    /// Adds an operation on one key.
    pub fn push(
        &mut self,
        key: &[u8],
        invoked: u64,
        returned: Option<u64>,
        action: Action,
        answer: Option<Answer>,
    ) {
        let timed = Timed { invoked, returned, operation: KeyOperation { action, answer } };
        self.keys.entry(key.to_vec()).or_default().push(timed);
    }

    /// Adds an operation on several keys.
    pub fn push_many(
        &mut self,
        invoked: u64,
        returned: Option<u64>,
        action: ManyAction,
        answer: Option<Answer>,
    ) {
        self.many.push(Timed { invoked, returned, operation: ManyOperation { action, answer } });
    }

    /// Keys that operations on several keys tie together, directly or through others; each key once.
    fn families(&self) -> Vec<Vec<Bytes>> {
        let mut families: Vec<Vec<Bytes>> = Vec::new();
        for timed in &self.many {
            let keys = timed.operation.action.keys();
            let touches = |family: &Vec<Bytes>| keys.iter().any(|key| family.contains(key));
            let mut family: Vec<Bytes> =
                families.extract_if(.., |family| touches(family)).flatten().collect();
            for key in keys {
                if !family.contains(key) {
                    family.push(key.clone());
                }
            }
            families.push(family);
        }
        families
    }

    /// Everything about the keys of a family.
    fn of_family(&self, family: &[Bytes]) -> Vec<Timed<StoreOperation>> {
        let mut operations = Vec::new();
        for key in family {
            let of_key = self.keys.get(&key[..]).map_or(&[][..], Vec::as_slice);
            operations.extend(of_key.iter().map(|timed| Timed {
                invoked: timed.invoked,
                returned: timed.returned,
                operation: StoreOperation::One(key.clone(), timed.operation.clone()),
            }));
        }
        let many = self.many.iter().filter(|timed| family.contains(timed.operation.action.keys()[0]));
        operations.extend(many.map(|timed| Timed {
            invoked: timed.invoked,
            returned: timed.returned,
            operation: StoreOperation::Many(timed.operation.clone()),
        }));
        operations
    }

    /// Checks everything: keys that nothing ties to others one by one, families as a whole. `steps_max` bounds the search of
    /// each.
    ///
    /// # Errors
    /// The first part whose history is not linearizable, or not decided.
    pub fn check(&self, steps_max: u64) -> Result<Summary, Anomaly> {
        let mut summary = Summary::default();
        let families = self.families();
        for (key, operations) in &self.keys {
            if families.iter().flatten().any(|other| other[..] == key[..]) {
                continue;
            }
            summary.operations += operations.len();
            refuse(key, operations, check_key(operations, steps_max))?;
        }
        for family in families {
            let operations = self.of_family(&family);
            summary.operations += operations.len();
            summary.families += 1;
            let name = family.join(&b' ');
            refuse(&name, &operations, check(&Store::new(family), &plain(&operations), steps_max))?;
        }
        Ok(summary)
    }
}

fn refuse<O: fmt::Debug + PartialEq>(
    name: &[u8],
    operations: &[Timed<O>],
    verdict: Verdict,
) -> Result<(), Anomaly> {
    let text = match verdict {
        Verdict::Linearizable => return Ok(()),
        Verdict::Undecided => format!("not decided: {} operations", operations.len()),
        Verdict::NotLinearizable { stuck, linearized } => describe(operations, stuck, linearized),
    };
    Err(Anomaly { key: name.to_vec(), text })
}
