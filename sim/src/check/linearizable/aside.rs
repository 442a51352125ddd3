//! States that are set aside, to turn back to when those that the search goes on with lead nowhere.
//!
//! What is aside is seldom needed, so it is kept as the end of its order and made again by walking
//! that order from the last state that was kept whole.
//!
//! Invariant: an order is refuted only if nothing is left aside, and nothing that was aside had to
//! be forgotten.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::advance::Bounds;
use super::{End, Maybes, Model, Moment, Move, Searcher, State, TAPE_START, Time, end_of};

/// With how many states the search goes on.
const KEPT: usize = 8;
/// After how many steps of an order a state is kept whole.
const STEPS_PER_WHOLE: usize = 512;
/// How many states are kept whole; without them orders are walked from further back.
const WHOLE_MAX: usize = 2_000;
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
    /// States that were kept whole, by the end of their order.
    whole: BTreeMap<usize, Model>,
    /// Whether there were ways that will not be tried any more.
    pub(super) is_some_forgotten: bool,
    /// Where the search has been: how far in the history, and the state.
    been: BTreeSet<(usize, u64)>,
    /// The dead end that came farthest.
    pub(super) farthest: Option<Farthest>,
    /// Dead ends since one came farther than all before.
    in_vain: usize,
    /// How far the search goes next from the states at hand.
    pub(super) bounds: Bounds,
}

/// Where the search stood when it set states aside.
#[derive(Debug)]
struct Heap {
    /// The ends of the states' orders, and the open operations that they have placed.
    states: Vec<(usize, Vec<usize>)>,
    open: Vec<usize>,
    at: usize,
    returned: usize,
    bounds: Bounds,
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
        let at = self.at;
        let aside = &mut self.aside;
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
        for state in &mut self.states {
            self.aside.keep_whole(state);
        }
        let lean = rest.into_iter().map(|mut state| {
            self.aside.keep_whole(&mut state);
            (state.tape, state.placed)
        });
        let lean = lean.collect();
        self.set_heap_aside(lean, at, Bounds::default());
        Ok(())
    }

    /// Keeps some of these states as they are before a return, to look for more ways from
    /// them.
    pub(super) fn set_aside_for_more(
        &mut self,
        states: &mut [State],
        which: &[usize],
        at: usize,
        bounds: Bounds,
    ) {
        let mut lean = Vec::new();
        for index in which {
            let state = &mut states[*index];
            self.aside.keep_whole(state);
            lean.push((state.tape, state.placed.clone()));
        }
        if !lean.is_empty() {
            self.set_heap_aside(lean, at, bounds);
        }
    }

    fn set_heap_aside(&mut self, states: Vec<(usize, Vec<usize>)>, at: usize, bounds: Bounds) {
        self.aside.heaps.push_back(Heap {
            states,
            open: self.open.clone(),
            at,
            returned: self.returned,
            bounds,
        });
        if self.aside.heaps.len() > HEAPS_MAX {
            self.aside.heaps.pop_front();
            self.aside.is_some_forgotten = true;
        }
    }

    /// Takes up what was set aside last. If nothing is left, why no order was found.
    pub(super) fn turn_back(&mut self, end: End, events: &[(Time, Moment, usize)]) -> Option<End> {
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
        (self.at, self.returned, self.aside.bounds) = (heap.at, heap.returned, heap.bounds);
        let taken = std::mem::replace(&mut heap.states, rest);
        self.open.clone_from(&heap.open);
        self.maybes = self.called_by(events);
        self.states = taken
            .into_iter()
            .map(|(tape, placed)| self.made_again(tape, placed))
            .collect();
        if !heap.states.is_empty() {
            self.aside.heaps.push_back(heap);
        }
        None
    }

    /// The unknown operations that were called so far.
    fn called_by(&self, events: &[(Time, Moment, usize)]) -> Maybes {
        let mut maybes = Maybes::default();
        for (_, moment, place) in &events[..self.at.min(events.len())] {
            if *moment == Moment::Call && self.is_maybe(*place) {
                let kind = self.prepared.ops[*place].kind;
                maybes.push(kind, self.alike.class_of(*place), *place);
            }
        }
        maybes
    }

    /// The state at the end of an order.
    fn made_again(&self, tape: usize, mut placed: Vec<usize>) -> State {
        let (mut steps, mut model) = (Vec::new(), None);
        let mut used = BTreeSet::new();
        let mut at = tape;
        for step in self.tape.back_from(tape) {
            if model.is_none() {
                model = self.aside.whole.get(&at).cloned();
            }
            if model.is_none() {
                steps.push(step);
            }
            if let Move::Op(place) = step
                && self.is_maybe(place)
            {
                used.insert(place);
            }
            at = self.tape.before(at);
        }
        let mut model = model.unwrap_or_else(|| Model::new(&self.prepared.history.meta));
        let since = steps.len();
        for step in steps.into_iter().rev() {
            let answer = match step {
                Move::Op(place) => model.step(&self.prepared.ops[place].request),
                Move::Expire(lease) => model.step(&end_of(lease)),
            };
            assert!(
                answer.is_ok() || matches!(step, Move::Op(_)),
                "it was walked before"
            );
        }
        model.keep();
        used.extend(placed);
        placed = used.into_iter().collect();
        State {
            model,
            placed,
            tape,
            since,
        }
    }
}

impl Aside {
    /// Keeps a state whole if the last one of its order is far back.
    pub(super) fn keep_whole(&mut self, state: &mut State) {
        if state.since < STEPS_PER_WHOLE {
            return;
        }
        state.since = 0;
        self.whole.insert(state.tape, state.model.clone());
        if self.whole.len() > WHOLE_MAX {
            self.whole.pop_first();
        }
    }

    /// What was set aside last; or, the longer the search comes no farther, the longer ago: then
    /// the guess that leads nowhere is not the last one.
    fn take(&mut self) -> Option<Heap> {
        let last = self.heaps.len().checked_sub(1)?;
        self.heaps.remove(last.saturating_sub(self.in_vain / TRIES))
    }
}
