//! From the states before a return to those after it.
//!
//! The search looks for ways with few guesses first, and from each state for a short time only:
//! where nobody looked, twenty leases may have ended in any order, and there is no end of ways. A
//! state from which there may be more is set aside as it is. It comes to its turn again, with more
//! guesses and more time, when nothing else has led on.

use super::explore::{Explorer, Found};
use super::*;

/// More than any history has unknown operations: no bound any more.
const REACH_MAX: usize = 1 << 40;

/// How far the search goes from one state before others have their turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How many guesses may be made beyond those that the revisions to come need anyway.
    pub(super) reach: usize,
    /// How many steps may be taken.
    pub(super) effort: u64,
    /// How many ways are enough.
    pub(super) ways: usize,
}

/// What is tried first: where outcomes are known there is one way, and it is short.
const FIRST: Bounds = Bounds {
    reach: 0,
    effort: 2_000,
    ways: 16,
};

impl Bounds {
    /// After all ways within these: with more guesses.
    fn farther(self) -> Bounds {
        Bounds {
            reach: (2 * self.reach).max(1),
            ..self
        }
    }

    /// After some of the ways within these: the others too.
    fn longer(self) -> Bounds {
        Bounds {
            effort: self.effort.saturating_mul(4),
            ways: self.ways.saturating_mul(4),
            ..self
        }
    }
}

impl Default for Bounds {
    fn default() -> Bounds {
        FIRST
    }
}

/// What came of looking for ways from all states.
struct Ways {
    /// For each state.
    found: Vec<Found>,
    end: Option<End>,
}

impl Ways {
    /// Which states are worth another look.
    fn which(&self, is_worth: impl Fn(&Found) -> bool) -> Vec<usize> {
        let found = self.found.iter().enumerate();
        let worth = found.filter(|(_, found)| is_worth(found));
        worth.map(|(place, _)| place).collect()
    }
}

impl Searcher<'_, '_> {
    /// Replaces every state that has not reached the goal by those that come from it and have. If
    /// there may be more, the search can go on from `at` to find them.
    pub(super) fn advance(&mut self, goal: Goal, at: usize) -> Result<(), End> {
        let mut states = std::mem::take(&mut self.states);
        let mut bounds = std::mem::take(&mut self.aside.bounds);
        let mut ways = loop {
            let ways = self.look(&mut states, goal, bounds);
            let is_none = ways.found.iter().all(|found| found.paths.is_empty());
            let is_cut_short = ways.found.iter().any(|found| found.is_cut_short);
            let is_bounded = ways.found.iter().any(|found| found.is_bounded);
            let is_over = !is_none || is_cut_short || !is_bounded;
            if ways.end.is_some() || is_over || bounds.reach > REACH_MAX {
                break ways;
            }
            bounds = bounds.farther();
        };
        if let Some(end) = ways.end {
            self.states = states;
            return Err(end);
        }
        let bounded = ways.which(|found| found.is_bounded && !found.is_cut_short);
        self.set_aside_for_more(&mut states, &bounded, at, bounds.farther());
        let cut_short = ways.which(|found| found.is_cut_short);
        self.set_aside_for_more(&mut states, &cut_short, at, bounds.longer());
        if ways.found.iter().all(|found| found.paths.is_empty()) {
            if !cut_short.is_empty() {
                return Err(End::Refuted(None, "no way was found yet".into()));
            }
            let why = ways.found.iter_mut().filter_map(|found| found.why.take());
            let why = why.max();
            self.states = states;
            return Err(self.refute(goal, why));
        }
        let mut seen = BTreeSet::new();
        for (state, found) in states.into_iter().zip(ways.found) {
            self.follow(state, found.paths, &mut seen);
        }
        self.drop_dominated();
        Ok(())
    }

    fn look(&mut self, states: &mut [State], goal: Goal, bounds: Bounds) -> Ways {
        let mut ways = Ways {
            found: Vec::new(),
            end: None,
        };
        for state in states {
            if goal.is_reached(state) {
                ways.found.push(Found {
                    paths: vec![Vec::new()],
                    ..Found::default()
                });
                continue;
            }
            let mut explorer = Explorer::new(self, state, goal, bounds);
            let outcome = explorer.run();
            let steps = explorer.steps;
            ways.found.push(explorer.into_found());
            self.steps += steps;
            if let Err(end) = outcome {
                ways.end = Some(end);
                break;
            }
        }
        ways
    }

    /// Walks all paths of one state; the last of them without a copy.
    fn follow(&mut self, state: State, paths: Vec<Vec<Move>>, seen: &mut BTreeSet<u64>) {
        let mut rest = paths.len();
        let mut state = Some(state);
        for path in paths {
            rest -= 1;
            let taken = if rest == 0 {
                state.take()
            } else {
                state.clone()
            };
            let mut after = taken.expect("taken with the last path only");
            for step in path {
                self.take(&mut after, step);
            }
            after.placed.sort_unstable();
            after.model.keep();
            if seen.insert(after.print()) {
                self.states.push(after);
            }
        }
    }

    /// Of states that are the same but for the unknown operations they have used up, keeps those
    /// that leave the most.
    fn drop_dominated(&mut self) {
        if self.states.len() < 2 {
            return;
        }
        let mut groups: BTreeMap<u64, Vec<State>> = BTreeMap::new();
        let states = std::mem::take(&mut self.states);
        let is_maybe = |place: &usize| self.is_maybe(*place);
        for state in states {
            let (used, fixed): (Vec<usize>, Vec<usize>) =
                state.placed.iter().copied().partition(is_maybe);
            let group = groups.entry(print_of(&state.model, &fixed)).or_default();
            let is_within = |one: &[usize], other: &[usize]| {
                one.iter().all(|place| other.binary_search(place).is_ok())
            };
            let used_by = |other: &State| -> Vec<usize> {
                other.placed.iter().copied().filter(is_maybe).collect()
            };
            if group.iter().any(|other| is_within(&used_by(other), &used)) {
                continue;
            }
            group.retain(|other| !is_within(&used, &used_by(other)));
            group.push(state);
        }
        self.states = groups.into_values().flatten().collect();
    }
}
