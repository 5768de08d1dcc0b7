//! Histories with less to tell apart: the search is the shorter the more operations are alike.
//!
//! A value that no answer shows and no condition names is as good as any other such value: all of them become one. An operation of
//! unknown outcome that would have answered the old value is as good as one that only writes. Neither changes what is linearizable. Sums
//! and lengths show a value in other ways, so a history with such operations is left as it is.

use std::collections::BTreeSet;

use super::Timed;
use super::register::{Action, Answer, Bytes, KeyOperation};
use super::store::{Held, ManyAction, ManyOperation, StoreOperation};

/// Stands for every value that nobody saw. No client writes it: keys and values of histories are text.
const UNSEEN: &[u8] = &[0xff];

/// An operation whose values can be told apart less.
pub(super) trait Plain: Clone {
    /// Adds the values that its answer shows or its conditions name; false if it shows them in other ways.
    fn show(&self, seen: &mut BTreeSet<Bytes>) -> bool;

    /// The same with every other value replaced.
    fn plain(&self, replace: &impl Fn(&Bytes) -> Bytes) -> Self;
}

/// The history with as little to tell apart as there can be. Operations keep their places.
pub(super) fn plain<O: Plain>(history: &[Timed<O>]) -> Vec<Timed<O>> {
    let mut seen = BTreeSet::new();
    if !history.iter().all(|timed| timed.operation.show(&mut seen)) || seen.contains(UNSEEN) {
        return history.to_vec();
    }
    let unseen: Bytes = UNSEEN.into();
    let replace = |value: &Bytes| if seen.contains(value) { value.clone() } else { unseen.clone() };
    let plain = |timed: &Timed<O>| Timed { operation: timed.operation.plain(&replace), ..timed.clone() };
    history.iter().map(plain).collect()
}

fn show(answer: Option<&Answer>, seen: &mut BTreeSet<Bytes>) {
    match answer {
        Some(Answer::Value(value)) => seen.extend(value.clone()),
        Some(Answer::Values(values)) => seen.extend(values.iter().flatten().cloned()),
        Some(Answer::Replies(answers)) => answers.iter().for_each(|answer| show(Some(answer), seen)),
        Some(Answer::Done | Answer::Number(_) | Answer::NotANumber) | None => {}
    }
}

impl Plain for KeyOperation {
    fn show(&self, seen: &mut BTreeSet<Bytes>) -> bool {
        show(self.answer.as_ref(), seen);
        if let Action::CompareAndSet(expected, _) = &self.action {
            seen.insert(expected.clone());
        }
        !matches!(self.action, Action::Increment(_) | Action::Append(_))
    }

    fn plain(&self, replace: &impl Fn(&Bytes) -> Bytes) -> Self {
        let is_unknown = self.answer.is_none();
        let action = match &self.action {
            Action::Set(value) => Action::Set(replace(value)),
            Action::GetSet(value) if is_unknown => Action::Set(replace(value)),
            Action::GetSet(value) => Action::GetSet(replace(value)),
            Action::SetIfAbsent(value) => Action::SetIfAbsent(replace(value)),
            Action::CompareAndSet(expected, value) => Action::CompareAndSet(expected.clone(), replace(value)),
            Action::GetDelete if is_unknown => Action::Delete,
            other => other.clone(),
        };
        Self { action, answer: self.answer.clone() }
    }
}

/// One of several commands as an operation of its own, with an answer if the whole has one.
fn alone(held: &Held, answer: Option<&Answer>) -> StoreOperation {
    let answer = answer.cloned();
    match held.clone() {
        Held::One(key, action) => StoreOperation::One(key, KeyOperation { action, answer }),
        Held::Many(action) => StoreOperation::Many(ManyOperation { action, answer }),
    }
}

impl Plain for StoreOperation {
    fn show(&self, seen: &mut BTreeSet<Bytes>) -> bool {
        match self {
            Self::One(_, operation) => operation.show(seen),
            Self::Many(ManyOperation { action, answer }) => {
                show(answer.as_ref(), seen);
                if let ManyAction::Transaction { conditions, .. } | ManyAction::Exec { conditions, .. } =
                    action
                {
                    seen.extend(conditions.iter().filter_map(|(_, value)| value.clone()));
                }
                match action {
                    ManyAction::Exec { held, .. } => held.iter().all(|held| alone(held, None).show(seen)),
                    _ => true,
                }
            }
        }
    }

    fn plain(&self, replace: &impl Fn(&Bytes) -> Bytes) -> Self {
        let pairs = |pairs: &[(Bytes, Bytes)]| -> Vec<(Bytes, Bytes)> {
            pairs.iter().map(|(key, value)| (key.clone(), replace(value))).collect()
        };
        match self {
            Self::One(key, operation) => Self::One(key.clone(), operation.plain(replace)),
            Self::Many(ManyOperation { action, answer }) => {
                let action = match action {
                    ManyAction::Set(written) => ManyAction::Set(pairs(written)),
                    ManyAction::SetIfAbsent(written) => ManyAction::SetIfAbsent(pairs(written)),
                    ManyAction::Transaction { conditions, writes } => ManyAction::Transaction {
                        conditions: conditions.clone(),
                        writes: writes
                            .iter()
                            .map(|(key, value)| (key.clone(), value.as_ref().map(replace)))
                            .collect(),
                    },
                    ManyAction::Exec { conditions, held } => {
                        let held =
                            held.iter().map(|held| match alone(held, answer.as_ref()).plain(replace) {
                                Self::One(key, operation) => Held::One(key, operation.action),
                                Self::Many(operation) => Held::Many(operation.action),
                            });
                        ManyAction::Exec { conditions: conditions.clone(), held: held.collect() }
                    }
                    other => other.clone(),
                };
                Self::Many(ManyOperation { action, answer: answer.clone() })
            }
        }
    }
}
