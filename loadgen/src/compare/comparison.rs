//! What a comparison found: one [`Comparison`], which the table and the JSON both show.
//!
//! Invariants:
//! * What follows from the rounds (medians, ratios, noise, remarks) is calculated in one place, [`Comparison::judged`].
//! * A ratio is of one round, so that both runs met the same machine; what is shown is the median of the ratios.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figures::Figures;
use super::{noise, remarks};
use crate::circumstances::{Circumstances, Exit};
use crate::cli::ProtocolKind;
use crate::json::pairs;
use crate::report::{Run, distinct};
use crate::truth::Truth;

/// The layout of a [`Comparison`] as JSON.
pub const SCHEMA: &str = "panch-loadgen-compare/1";

/// Whether all nodes ended up in the same state. As JSON: `"equal"`, what the difference was, or `null`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(from = "Option<String>", into = "Option<String>")]
pub enum Agreement {
    /// All digests of all groups are equal on all nodes.
    Equal,
    /// They were not, all the time that was waited.
    Different(String),
    /// Some node did not tell.
    #[default]
    Untold,
}

/// The word for [`Agreement::Equal`].
const EQUAL: &str = "equal";

impl From<Option<String>> for Agreement {
    fn from(text: Option<String>) -> Self {
        match text {
            None => Self::Untold,
            Some(text) if text == EQUAL => Self::Equal,
            Some(difference) => Self::Different(difference),
        }
    }
}

impl From<Agreement> for Option<String> {
    fn from(agreement: Agreement) -> Self {
        match agreement {
            Agreement::Equal => Some(EQUAL.to_owned()),
            Agreement::Different(difference) => Some(difference),
            Agreement::Untold => None,
        }
    }
}

/// One protocol, measured once.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// Which of all runs it was, from 1.
    pub position: Option<u32>,
    /// The numbers of the table, of the measured window.
    pub window: Figures,
    /// How much everything that the nodes count grew within the window, over all nodes, for whoever wants another ratio; empty if that is
    /// not known.
    pub counters: BTreeMap<String, f64>,
    /// Why it is not: see [`Truth::missing`].
    pub counters_missing: Vec<String>,
    /// The state of the nodes afterwards.
    pub digests: Agreement,
    /// What befell the nodes between the end of the run and that of its audit, if something did.
    pub failure: Option<String>,
    /// All of the run that every report has.
    pub run: Run,
}

impl Measured {
    pub(super) fn new(protocol: ProtocolKind, run: Run, window: &Truth, digests: Agreement) -> Self {
        let counters = window
            .growths()
            .filter(|(name, growth)| {
                growth.is_finite() && (name.starts_with("counter_") || name.ends_with("_total"))
            })
            .map(|(name, growth)| (name.to_owned(), growth))
            .collect();
        Self {
            position: None,
            window: Figures::new(protocol, &run, window),
            counters,
            counters_missing: window.missing.clone(),
            digests,
            failure: None,
            run,
        }
    }

    /// Whether nothing went wrong.
    pub fn is_clean(&self) -> bool {
        self.run.clean && self.is_counted() && self.digests == Agreement::Equal && self.failure.is_none()
    }

    /// Whether the counters of all nodes were read at both ends of the window.
    pub fn is_counted(&self) -> bool {
        !self.counters.is_empty()
    }
}

/// One protocol under the same load, round by round.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Series {
    /// Of each figure, the median of all rounds; absent without rounds.
    pub median: Option<Figures>,
    /// Of each figure, the least.
    pub min: Option<Figures>,
    /// Of each figure, the most.
    pub max: Option<Figures>,
    /// What was measured.
    pub rounds: Vec<Measured>,
}

impl Series {
    /// Median commands per second.
    pub fn throughput(&self) -> Option<f64> {
        self.median.as_ref().map(|median| median.throughput)
    }

    /// Whether nothing went wrong in any round.
    pub fn is_clean(&self) -> bool {
        self.rounds.iter().all(Measured::is_clean)
    }

    /// In how many rounds the client may have been the limit.
    pub fn without_verdict(&self) -> usize {
        self.rounds.iter().filter(|round| round.run.no_verdict.is_some()).count()
    }

    pub(super) fn summarize(&mut self) {
        let windows: Vec<&Figures> = self.rounds.iter().map(|round| &round.window).collect();
        self.median = Figures::of_rounds(&windows, |spread| spread.median);
        self.min = Figures::of_rounds(&windows, |spread| spread.least);
        self.max = Figures::of_rounds(&windows, |spread| spread.most);
    }
}

/// One protocol: a row of the table.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Which, as a config has it.
    pub protocol: String,
    /// What it is called: its name, and a number if it was asked for several times.
    pub label: String,
    /// Messages per batch by the requirement document's formula, least and most: see [`super::figures::seed_model`].
    #[serde(rename = "seed_model_messages_per_batch")]
    pub model: (f64, f64),
    /// Why there is no more.
    pub failure: Option<String>,
    /// Why [`Entry::within_noise`] is not known, although there is a ratio to Multi-Paxos: `basic ran once`.
    #[serde(rename = "throughput_noise_unknown")]
    pub noise_unknown: Option<String>,
    /// A/A noise: the highest throughput of all runs of this protocol under the load that was asked for, divided by the lowest. Absent if
    /// it ran once, or did nothing in one of them.
    #[serde(rename = "throughput_aa_ratio")]
    pub aa_ratio: Option<f64>,
    /// Whether neither the median of the throughputs in relation to Multi-Paxos nor its inverse exceeds the larger A/A noise of the two.
    /// Absent if one of them is.
    #[serde(rename = "throughput_to_multi_within_noise")]
    pub within_noise: Option<bool>,
    /// Under the load that was asked for: as much as it takes, or a rate.
    #[serde(flatten)]
    pub main: Series,
    /// Under the load of [`Comparison::equal_load`].
    pub equal_load: Series,
}

impl Entry {
    /// What was measured, without its number.
    fn kind(&self) -> &str {
        self.label.split(" #").next().unwrap_or_default()
    }

    /// Both series, with what stands behind the name in a text.
    pub fn series(&self) -> [(&'static str, &Series); 2] {
        [("", &self.main), (" at equal load", &self.equal_load)]
    }

    pub(super) fn is_clean(&self) -> bool {
        self.failure.is_none()
            && !self.main.rounds.is_empty()
            && self.series().iter().all(|(_, it)| it.is_clean())
    }
}

/// The open loop that every protocol was measured in, besides the closed one.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct EqualLoad {
    /// Commands per second.
    #[serde(rename = "offered_per_second")]
    pub rate: f64,
    /// Which protocol was the slowest in the closed loop, by the median of its throughputs.
    pub slowest: String,
    /// The rate, divided by that median.
    pub part_of_slowest: f64,
}

/// Everything that a comparison found.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// The layout: [`SCHEMA`].
    pub schema: String,
    /// One line.
    pub title: String,
    /// How it came to be.
    #[serde(flatten)]
    pub circumstances: Circumstances,
    /// Lines of name and value on the machine and the settings.
    #[serde(with = "pairs")]
    pub environment: Vec<(String, String)>,
    /// Number of nodes.
    pub replicas: u8,
    /// Commands at which a batch is complete.
    #[serde(rename = "batch_commands")]
    pub batch: u32,
    /// From what the order of the protocols in each round was drawn; absent if it was that of the command line.
    #[serde(default)]
    pub order_seed: Option<u64>,
    /// The load of [`Entry::equal_load`]; absent if that was not measured.
    #[serde(default)]
    pub equal_load: Option<EqualLoad>,
    /// It was stopped before its end.
    #[serde(default)]
    pub interrupted: bool,
    /// Every protocol was measured, and nothing went wrong.
    #[serde(default)]
    pub clean: bool,
    /// The rows.
    pub protocols: Vec<Entry>,
    /// What has to be said about the numbers, a line each.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// How the program ended.
    #[serde(flatten)]
    pub exit: Exit,
}

impl Comparison {
    /// With what follows from the numbers: medians, ratios to Multi-Paxos and their noise, whether all is clean, and what has to be said.
    #[must_use]
    pub fn judged(mut self) -> Self {
        relate(&mut self.protocols);
        for entry in &mut self.protocols {
            entry.main.summarize();
            entry.equal_load.summarize();
        }
        judge_noise(&mut self.protocols);
        self.clean = !self.interrupted && self.protocols.iter().all(Entry::is_clean);
        self.remarks = remarks::of(&self);
        // The client is the same for all protocols, so its limit is said and does not fail the comparison.
        self.exit = Exit::of(self.interrupted, self.clean, false);
        self
    }

    /// A rate that is about this part of what the slowest protocol did, of those that did anything.
    pub(super) fn part_of_slowest(&self, part: f64) -> Option<EqualLoad> {
        let measured = self.protocols.iter().filter(|entry| entry.failure.is_none());
        let throughputs = measured.filter_map(|entry| Some((entry, entry.main.throughput()?)));
        let (slowest, throughput) = throughputs
            .filter(|(_, throughput)| *throughput > 0.0)
            .min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        let rate = (throughput * part).floor().max(1.0);
        Some(EqualLoad { rate, slowest: slowest.label.clone(), part_of_slowest: rate / throughput })
    }

    /// Which programs the servers of all rounds are, each once.
    pub fn server_versions(&self) -> Vec<String> {
        let series = self.protocols.iter().flat_map(Entry::series);
        let rounds = series.flat_map(|(_, series)| &series.rounds);
        distinct(rounds.flat_map(|round| &round.run.server_versions))
    }

    /// Whether throughputs stand in relation to that of Multi-Paxos.
    pub fn has_ratios(&self) -> bool {
        self.protocols
            .iter()
            .any(|entry| entry.main.rounds.iter().any(|round| round.window.to_multi.is_some()))
    }

    /// How many rounds there are, of the protocol that has most.
    pub fn rounds(&self) -> usize {
        self.protocols.iter().map(|entry| entry.main.rounds.len()).max().unwrap_or(0)
    }
}

/// Each throughput in relation to that of Multi-Paxos in the same round: the machine's speed may drift between rounds.
fn relate(entries: &mut [Entry]) {
    let is_open =
        entries.iter().flat_map(|entry| &entry.main.rounds).any(|round| round.run.offered.is_some());
    let measured = entries.iter().filter(|entry| !entry.main.rounds.is_empty()).count();
    let Some(multi) = entries.iter().find(|entry| entry.protocol == ProtocolKind::Multi.word()) else {
        return;
    };
    let base: Vec<f64> = multi.main.rounds.iter().map(|round| round.window.throughput).collect();
    if is_open || measured < 2 {
        return;
    }
    for entry in entries {
        for (round, base) in entry.main.rounds.iter_mut().zip(&base).filter(|(_, base)| **base > 0.0) {
            round.window.to_multi = Some(round.window.throughput / base);
        }
    }
}

/// What runs of the same protocol differ by, and which ratios do not exceed that.
fn judge_noise(entries: &mut [Entry]) {
    let mut throughputs: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for entry in entries.iter() {
        let rounds = entry.main.rounds.iter().map(|round| round.window.throughput);
        throughputs.entry(entry.kind().to_owned()).or_default().extend(rounds);
    }
    let noise = |kind: &str| {
        let all = throughputs.get(kind).map(Vec::as_slice).unwrap_or_default();
        noise::largest_ratio(all).map_err(|reason| format!("{kind} {reason}"))
    };
    let of_multi = noise(ProtocolKind::Multi.label());
    let base = entries.iter().position(|entry| entry.protocol == ProtocolKind::Multi.word());
    for (index, entry) in entries.iter_mut().enumerate() {
        let own = noise(entry.kind());
        entry.aa_ratio = own.as_ref().ok().copied();
        let larger = own.and_then(|own| of_multi.clone().map(|other| own.max(other)));
        let ratio = entry.main.median.as_ref().and_then(|median| median.to_multi);
        let judged = ratio
            .filter(|_| Some(index) != base)
            .map(|ratio| larger.map(|noise| noise::is_within(ratio, noise)))
            .transpose();
        (entry.within_noise, entry.noise_unknown) = match judged {
            Ok(within) => (within, None),
            Err(reason) => (None, Some(reason)),
        };
    }
}
