//! Random operations on families of keys: keys of one group that are read, written and compared together.

use panch_replica::replica::Level;

use super::command::pad;
use super::{Client, Intent, OwnedCommand};
use crate::linear::register::{Action, Bytes};
use crate::linear::store::{Held, ManyAction};
use crate::settings::ClientSettings;

/// How many families there are.
const FAMILIES: u64 = 2;

impl Client {
    /// Something about a family. `token` is unique in the run.
    pub(super) fn many_operation(
        &mut self,
        token: &str,
        settings: &ClientSettings,
    ) -> (OwnedCommand, Option<Intent>, Level) {
        let tag = self.random.below(FAMILIES);
        let name = |number: u64| -> Bytes { format!("{{m{tag}}}{number}").into_bytes().into() };
        let all: Vec<Bytes> = (0..settings.family_size).map(name).collect();
        let value = |number: usize| pad(format!("{token}.{number}").as_bytes(), settings.padding);
        let some = self.some_of(&all);
        let pairs = || some.iter().enumerate().map(|(number, key)| (key.clone(), value(number))).collect();
        let one = &some[0];
        let action = match self.random.below(22) {
            0..=3 => ManyAction::Read(all),
            4..=5 => ManyAction::Read(some),
            6 => ManyAction::Exists(some.iter().chain(&some).cloned().collect()),
            7..=9 => ManyAction::Set(pairs()),
            10 => ManyAction::SetIfAbsent(pairs()),
            11 => ManyAction::Delete(some),
            12..=14 => {
                let conditions = some.iter().map(|key| (key.clone(), self.seen_of(key, settings))).collect();
                let mut write = |number, key: &Bytes| {
                    (key.clone(), (!self.random.chance(200_000)).then(|| value(number)))
                };
                let writes = all.iter().enumerate().map(|(number, key)| write(number, key)).collect();
                ManyAction::Transaction { conditions, writes }
            }
            15..=18 => self.several(&all, token, settings),
            other => {
                let action = match other {
                    19 => Action::Get,
                    20 => Action::GetSet(value(0)),
                    _ => Action::Set(value(0)),
                };
                let level = if action == Action::Get { self.read_level(settings) } else { Level::Log };
                return (OwnedCommand::of(one, &action), Some(action.into()), level);
            }
        };
        let level = if action.is_read() { self.read_level(settings) } else { Level::Log };
        (OwnedCommand::of_many(&action), Some(action.into()), level)
    }

    /// Several commands, now and then only if some keys still have the values that the client saw last.
    fn several(&mut self, all: &[Bytes], token: &str, settings: &ClientSettings) -> ManyAction {
        let mut watched = if self.random.chance(500_000) { self.some_of(all) } else { Vec::new() };
        watched.sort_unstable();
        let conditions = watched.into_iter().map(|key| (key.clone(), self.seen_of(&key, settings))).collect();
        let mut written = 0;
        let mut value = || {
            written += 1;
            pad(format!("{token}.{written}").as_bytes(), settings.padding)
        };
        let count = 1 + self.random.below(5);
        let held = (0..count).map(|_| {
            let some = self.some_of(all);
            let key = some[0].clone();
            match self.random.below(10) {
                0..=2 => Held::One(key, Action::Get),
                3 => Held::Many(ManyAction::Read(some)),
                4..=5 => Held::One(key, Action::Set(value())),
                6 => Held::One(key, Action::GetSet(value())),
                7 => Held::One(key, Action::GetDelete),
                8 => Held::One(key, Action::SetIfAbsent(value())),
                _ => Held::Many(ManyAction::Set(some.into_iter().map(|key| (key, value())).collect())),
            }
        });
        ManyAction::Exec { conditions, held: held.collect() }
    }

    /// At least one of the keys, in any order.
    fn some_of(&mut self, all: &[Bytes]) -> Vec<Bytes> {
        let mut some = all.to_vec();
        let first = self.random.below(all.len() as u64) as usize;
        some.rotate_left(first);
        some.truncate(1 + self.random.below(all.len() as u64) as usize);
        some
    }

    /// The value that the key had when the client saw it last, as it was written.
    fn seen_of(&self, key: &Bytes, settings: &ClientSettings) -> Option<Bytes> {
        let seen = self.family.iter().find(|(other, _)| other == key);
        seen.and_then(|(_, value)| value.as_ref()).map(|value| pad(value, settings.padding))
    }
}
