//! From the states before a return to those after it.
//!
//! The search looks for ways with few guesses first. A state from which there may be more ways is
//! set aside as it is, and comes to its turn with more guesses when nothing else has led on.

use super::explore::{Explorer, Found};
use super::*;

/// More than any history has unknown operations: no bound any more.
const REACH_MAX: usize = 1 << 40;

/// The next bound: nothing is guessed at first.
fn more_than(reach: usize) -> usize {
    (2 * reach).max(1)
}

/// What came of looking for ways from all states.
struct Ways {
    /// For each state.
    found: Vec<Found>,
    end: Option<End>,
}

impl Searcher<'_, '_> {
    /// Replaces every state that has not reached the goal by all that come from it and have. If
    /// that must be done again with more guesses, the search goes on from `at`.
    pub(super) fn advance(&mut self, goal: Goal, at: usize) -> Result<(), End> {
        let mut states = std::mem::take(&mut self.states);
        let mut reach = self.aside.reach;
        let mut ways = loop {
            let ways = self.look(&mut states, goal, reach);
            let is_none = ways.found.iter().all(|found| found.paths.is_empty());
            let is_bounded = ways.found.iter().any(|found| found.is_bounded);
            if ways.end.is_some() || !is_none || !is_bounded || reach > REACH_MAX {
                break ways;
            }
            reach = more_than(reach);
        };
        if let Some(end) = ways.end {
            self.states = states;
            return Err(end);
        }
        self.aside.reach = 0;
        if ways.found.iter().all(|found| found.paths.is_empty()) {
            let why = ways.found.iter_mut().filter_map(|found| found.why.take());
            let why = why.max();
            self.states = states;
            return Err(self.refute(goal, why));
        }
        let more = ways.found.iter().enumerate();
        let more = more.filter(|(_, found)| found.is_bounded);
        let more: Vec<usize> = more.map(|(place, _)| place).collect();
        self.set_aside_for_more(&mut states, &more, at, more_than(reach));
        let mut seen = BTreeSet::new();
        for (state, found) in states.into_iter().zip(ways.found) {
            self.aside.is_some_forgotten |= found.is_cut_short;
            self.follow(state, found.paths, &mut seen);
        }
        self.drop_dominated();
        Ok(())
    }

    fn look(&mut self, states: &mut [State], goal: Goal, reach: usize) -> Ways {
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
            let mut explorer = Explorer::new(self, state, goal, reach);
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
