//! States that are set aside, to turn back to when those that the search goes on with lead nowhere.
//!
//! Invariant: an order is refuted only if nothing is left aside, and nothing that was aside had to
//! be forgotten.

use std::collections::{BTreeSet, VecDeque};

use super::{End, Maybes, Searcher, State, TAPE_START};

/// With how many states the search goes on.
const KEPT: usize = 64;
/// How many dead ends it takes to look one heap further back.
const TRIES: usize = 4;
/// How many heaps of states may be aside; the oldest is forgotten first.
const HEAPS_MAX: usize = 2_000;
/// How many states the search remembers to have been in.
const BEEN_MAX: usize = 2_000_000;

/// What is aside.
#[derive(Debug, Default)]
pub(super) struct Aside {
    heaps: VecDeque<Heap>,
    /// Whether there were ways that will not be tried any more.
    pub(super) is_some_forgotten: bool,
    /// Where the search has been: how far in the history, and the state.
    been: BTreeSet<(usize, u64)>,
    /// The dead end that came farthest.
    pub(super) farthest: Option<Farthest>,
    /// Dead ends since one came farther than all before.
    in_vain: usize,
    /// How many guesses the states at hand are to be tried with next, if more than at first.
    pub(super) reach: usize,
}

/// Where the search stood when it set states aside.
#[derive(Debug)]
struct Heap {
    states: Vec<State>,
    open: Vec<usize>,
    maybes: Maybes,
    at: usize,
    returned: usize,
    reach: usize,
}

/// The dead end that came farthest.
#[derive(Debug)]
pub(super) struct Farthest {
    /// How many returns it came through.
    pub(super) returned: usize,
    /// The order that led there.
    pub(super) tape: usize,
    end: End,
}

impl Searcher<'_, '_> {
    /// Goes on with the states that have used up the fewest unknown operations.
    pub(super) fn set_aside(&mut self) -> Result<(), End> {
        if self.states.len() < 2 && self.aside.heaps.is_empty() {
            return Ok(());
        }
        let (at, aside) = (self.at, &mut self.aside);
        if aside.been.len() > BEEN_MAX {
            aside.been.clear();
        }
        // Where the search has been, it did not get through from, or will turn back to.
        self.states
            .retain(|state| aside.been.insert((at, state.print())));
        if self.states.is_empty() {
            return Err(End::Refuted(None, "nothing new to try".into()));
        }
        if self.states.len() <= KEPT {
            return Ok(());
        }
        self.states.sort_by_key(|state| state.placed.len());
        let rest = self.states.split_off(KEPT);
        self.set_heap_aside(rest, at, 0);
        Ok(())
    }

    /// Keeps states as they are before a return, to try them with more guesses.
    pub(super) fn set_aside_for_more(&mut self, states: Vec<State>, at: usize, reach: usize) {
        if !states.is_empty() {
            self.set_heap_aside(states, at, reach);
        }
    }

    fn set_heap_aside(&mut self, states: Vec<State>, at: usize, reach: usize) {
        self.aside.heaps.push_back(Heap {
            states,
            open: self.open.clone(),
            maybes: self.maybes.clone(),
            at,
            returned: self.returned,
            reach,
        });
        if self.aside.heaps.len() > HEAPS_MAX {
            self.aside.heaps.pop_front();
            self.aside.is_some_forgotten = true;
        }
    }

    /// Takes up what was set aside last. If nothing is left, why no order was found.
    pub(super) fn turn_back(&mut self, end: End) -> Option<End> {
        let farthest = self.aside.farthest.as_ref();
        let is_dead_end = !self.states.is_empty();
        self.aside.in_vain += 1;
        if is_dead_end && farthest.is_none_or(|farthest| farthest.returned <= self.returned) {
            if farthest.is_none_or(|farthest| farthest.returned < self.returned) {
                self.aside.in_vain = 0;
            }
            let tape = self.states.last().map_or(TAPE_START, |state| state.tape);
            self.aside.farthest = Some(Farthest {
                returned: self.returned,
                tape,
                end,
            });
        }
        let Some(mut heap) = self.aside.take() else {
            if self.aside.is_some_forgotten {
                return Some(End::GaveUp("there were more ways than can be tried".into()));
            }
            let farthest = self.aside.farthest.as_ref();
            return Some(
                farthest
                    .expect("a search dies first of a dead end")
                    .end
                    .clone(),
            );
        };
        let rest = heap.states.split_off(heap.states.len().min(KEPT));
        (self.at, self.returned, self.aside.reach) = (heap.at, heap.returned, heap.reach);
        self.states = std::mem::replace(&mut heap.states, rest);
        (self.open, self.maybes) = (heap.open.clone(), heap.maybes.clone());
        if !heap.states.is_empty() {
            self.aside.heaps.push_back(heap);
        }
        None
    }
}

impl Aside {
    /// What was set aside last; or, the longer the search comes no farther, the longer ago: then
    /// the guess that leads nowhere is not the last one.
    fn take(&mut self) -> Option<Heap> {
        let last = self.heaps.len().checked_sub(1)?;
        self.heaps.remove(last.saturating_sub(self.in_vain / TRIES))
    }
}
