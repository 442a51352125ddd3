//! Proof that every part of the checkers is needed: wrong histories, each of which only an intact
//! checker sees through, and checkers broken on purpose, each of which must let one pass.
//!
//! A *trial* is a history with the verdict that is due. The proof is green if the intact checkers
//! judge every trial as is due. It must turn red as soon as a checker is broken in any way of
//! [`Weakness::ALL`]; one that leaves it green shows that a part of a checker guards nothing.
//!
//! Invariants:
//! - Every trial is made from a right history by changing one thing, so nothing else is wrong.
//! - The trials are the same in every run.

use crate::check::{self, Guarantee, Options, Weakness};
use crate::history::*;

pub mod generate;
mod lease;
mod order;
mod spoil;
pub(crate) mod story;
#[cfg(test)]
mod tests;
mod watch;

/// A wrong history: its name, how it is made, what must be found, and what no longer finds it.
type Case = (
    &'static str,
    fn() -> History,
    Guarantee,
    &'static [Weakness],
);

/// A history and the verdict that is due.
pub struct Trial {
    /// What is wrong with it.
    pub name: String,
    history: History,
    /// The guarantee that must be found broken; none for a right history.
    pub expected: Option<Guarantee>,
    /// Weaknesses that are known to miss it.
    pub needs: Vec<Weakness>,
    options: Options,
}

impl Trial {
    /// The verdict of checkers that are broken in these ways, or intact.
    pub fn judge(&self, weak: &[Weakness]) -> check::Report {
        let options = Options {
            weak: weak.iter().copied().collect(),
            ..self.options.clone()
        };
        check::check(&self.history, &options)
    }

    /// Whether such checkers judge as is due.
    pub fn is_judged_right(&self, weak: &[Weakness]) -> bool {
        let report = self.judge(weak);
        match self.expected {
            Some(guarantee) => report.breaks(guarantee),
            None => report.is_ok(),
        }
    }
}

/// What became of the proof under one broken checker.
#[derive(Clone, Debug)]
pub struct Row {
    /// How it is broken.
    pub weakness: Weakness,
    /// The trials that it judged wrong, by name.
    pub missed: Vec<String>,
}

/// What the proof came to.
#[derive(Clone, Debug)]
pub struct Proof {
    /// How many trials there are.
    pub trials: usize,
    /// The trials that the intact checkers judge wrong. None, if all is well.
    pub failed: Vec<String>,
    /// All broken checkers.
    pub rows: Vec<Row>,
}

impl Proof {
    /// Whether the intact checkers see everything and no broken one goes unnoticed.
    pub fn holds(&self) -> bool {
        self.failed.is_empty() && self.rows.iter().all(|row| !row.missed.is_empty())
    }
}

/// Short histories are searched a second time without guidance, which would cover for a guided
/// search that is broken. Long ones are not, so the trials do without.
fn guided_only() -> Options {
    Options {
        plain_ops_max: 0,
        ..Options::default()
    }
}

/// All trials.
pub fn trials() -> Vec<Trial> {
    let cases = [
        order::order_cases(),
        order::log_cases(),
        order::stale_cases(),
        watch::watch_cases(),
        lease::lease_cases(),
        order::format_cases(),
    ];
    let told = cases.into_iter().flatten().map(|case| {
        let (name, make, guarantee, needs) = case;
        Trial {
            name: name.into(),
            history: make(),
            expected: Some(guarantee),
            needs: needs.to_vec(),
            options: guided_only(),
        }
    });
    let mut trials: Vec<Trial> = told.collect();
    trials.extend(order::verdict_trials());
    trials.extend(spoil::trials());
    trials
}

/// Judges all trials, with intact checkers and with each broken one.
pub fn proof() -> Proof {
    let trials = trials();
    let judged_wrong = |weak: &[Weakness]| {
        let wrong = trials.iter().filter(|trial| !trial.is_judged_right(weak));
        wrong.map(|trial| trial.name.clone()).collect()
    };
    Proof {
        trials: trials.len(),
        failed: judged_wrong(&[]),
        rows: Weakness::ALL
            .iter()
            .map(|weakness| Row {
                weakness: *weakness,
                missed: judged_wrong(&[*weakness]),
            })
            .collect(),
    }
}
