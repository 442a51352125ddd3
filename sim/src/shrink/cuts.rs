//! What can be left out: what came later, what came before, whole kinds of things, and parts of
//! lists down to single ones.
//!
//! Invariant: who leaves a step out waits for as long, so that the others keep their places in time
//! as far as the plan decides them.

use std::{
    collections::BTreeSet,
    mem::{Discriminant, discriminant},
};

use super::{Shrink, WIDTH};
use crate::{
    faults::FaultKind,
    membership::MembershipPlan,
    plan::Plan,
    script::{Step, What},
};

impl Shrink<'_> {
    /// Clients wait before their first step too, so that whatever comes to be the first keeps its time.
    /// It is the same run: none of them has anything to wait for yet.
    pub(super) fn begin_with_waits(&mut self) {
        if self.plan.waits_first {
            return;
        }
        let mut plan = self.plan.clone();
        plan.waits_first = true;
        for first in plan
            .clients
            .iter_mut()
            .filter_map(|steps| steps.first_mut())
        {
            first.wait_us = 0;
        }
        self.keep_first("a hasty beginning", vec![plan]);
    }

    /// What comes after the moment of breaking did not break it.
    pub(super) fn cut_behind(&mut self) {
        let mut plan = self.plan.clone();
        if let Some(at_ms) = self.broken.at_ms {
            plan.faults.retain(|fault| fault.at_ms <= at_ms);
            plan.membership.steps.retain(|step| step.at_ms <= at_ms);
            plan.faults_ms = plan.faults_ms.min(at_ms + 1);
            for (steps, sent) in plan.clients.iter_mut().zip(&self.broken.sent) {
                steps.truncate(*sent);
            }
        }
        plan.operations_min = 0;
        let mut less = plan.clone();
        less.last_cut = false;
        let mut least = less.clone();
        least.membership.forced = None;
        least.ends_early = true;
        // Not all that a client sends is recorded.
        let mut more = plan.clone();
        more.clients.clone_from(&self.plan.clients);
        let mut more_at_once = more.clone();
        (more_at_once.ends_early, more_at_once.last_cut) = (true, false);
        more_at_once.membership.forced = None;
        let candidates = vec![least, less, more_at_once, plan, more];
        self.keep_first("what came later", candidates);
    }

    /// What came long before the moment of breaking may not matter: everything up to some time goes,
    /// and the rest comes so much sooner.
    pub(super) fn cut_before(&mut self) {
        let last = self.broken.at_ms.unwrap_or(self.plan.faults_ms);
        let last = last.min(self.plan.faults_ms);
        for eighths in [7, 6, 4, 2, 1] {
            let plan = later(&self.plan, last * eighths / 8);
            if plan != self.plan && self.keep_first("what came before", vec![plan]).is_some() {
                return;
            }
        }
    }

    /// Whole kinds of things at once.
    pub(super) fn cut_whole(&mut self) {
        let changes: [fn(&mut Plan); 8] = [
            |plan| plan.faults.clear(),
            |plan| plan.membership = MembershipPlan::default(),
            |plan| plan.membership.forced = None,
            |plan| plan.watchers.clear(),
            |plan| plan.operations_min = 0,
            |plan| plan.last_cut = false,
            |plan| plan.deaf = false,
            |plan| {
                (plan.ends_early, plan.last_cut) = (true, false);
                plan.membership.forced = None;
            },
        ];
        self.keep_each("whole kinds", &changes);
    }

    /// Whole clients. Their places stay, because their numbers are part of what is drawn.
    pub(super) fn cut_clients(&mut self) {
        for at in 0..self.plan.clients.len() {
            if !self.plan.clients.get(at).is_none_or(Vec::is_empty) {
                let mut plan = self.plan.clone();
                plan.clients[at].clear();
                self.keep_first("clients", vec![plan]);
            }
        }
        let mut plan = self.plan.clone();
        while plan.clients.len() > 1 && plan.clients.last().is_some_and(Vec::is_empty) {
            plan.clients.pop();
        }
        if plan != self.plan {
            self.keep_first("clients", vec![plan]);
        }
    }

    /// All faults of one kind, and all steps of one kind.
    pub(super) fn cut_kinds(&mut self) {
        let mut faults: Vec<Discriminant<FaultKind>> = Vec::new();
        for kind in self.plan.faults.iter().map(|it| discriminant(&it.kind)) {
            if !faults.contains(&kind) {
                faults.push(kind);
            }
        }
        let mut steps: Vec<Discriminant<What>> = Vec::new();
        for kind in self.plan.clients.iter().flatten() {
            let kind = discriminant(&kind.what);
            if !steps.contains(&kind) {
                steps.push(kind);
            }
        }
        // A single kind is the whole list, which was tried.
        for kind in faults.iter().filter(|_| faults.len() > 1) {
            let mut plan = self.plan.clone();
            plan.faults.retain(|it| discriminant(&it.kind) != *kind);
            self.keep_first("a kind of fault", vec![plan]);
        }
        for kind in steps {
            let mut plan = self.plan.clone();
            for client in &mut plan.clients {
                *client = without(client, |_, step| discriminant(&step.what) == kind);
            }
            self.keep_first("a kind of step", vec![plan]);
        }
    }

    /// Parts of a list: halves first, single ones last.
    pub(super) fn cut_list<T: Clone>(&mut self, pass: &str, list: fn(&mut Plan) -> &mut Vec<T>) {
        let length = |plan: &Plan| list(&mut plan.clone()).len();
        let mut size = length(&self.plan).div_ceil(2);
        let least = length(&self.plan) / self.level.parts;
        while size > least && self.trial.may_go_on() {
            let mut from = 0;
            while from < length(&self.plan) {
                let starts = (from..length(&self.plan)).step_by(size).take(WIDTH);
                let without = |start: usize| {
                    let mut plan = self.plan.clone();
                    let whole = list(&mut plan);
                    let end = (start + size).min(whole.len());
                    whole.drain(start..end);
                    plan
                };
                let candidates: Vec<Plan> = starts.map(without).collect();
                let tried = candidates.len();
                match self.keep_first(pass, candidates) {
                    // What follows has moved up to where the part stood.
                    Some(kept) => from += kept * size,
                    None => from += tried * size,
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    /// Parts of what all clients do together: halves first, single steps last.
    pub(super) fn cut_steps(&mut self) {
        let length = |plan: &Plan| plan.clients.iter().map(Vec::len).sum::<usize>();
        let mut size = length(&self.plan).div_ceil(2);
        let least = length(&self.plan) / self.level.parts;
        while size > least && self.trial.may_go_on() {
            let mut from = 0;
            while from < length(&self.plan) {
                let order = by_time(&self.plan.clients);
                let starts = (from..order.len()).step_by(size).take(WIDTH);
                let cut = |start: usize| {
                    let part = &order[start..(start + size).min(order.len())];
                    let part: BTreeSet<(usize, usize)> = part.iter().copied().collect();
                    let mut plan = self.plan.clone();
                    for (client, steps) in plan.clients.iter_mut().enumerate() {
                        *steps = without(steps, |at, _| part.contains(&(client, at)));
                    }
                    plan
                };
                let candidates: Vec<Plan> = starts.map(cut).collect();
                let tried = candidates.len();
                match self.keep_first("steps", candidates) {
                    Some(kept) => from += kept * size,
                    None => from += tried * size,
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }
}

/// The steps of all clients, as client and place, in the order of the times at which they would come
/// if nothing took any time.
fn by_time(clients: &[Vec<Step>]) -> Vec<(usize, usize)> {
    let mut order = Vec::new();
    for (client, steps) in clients.iter().enumerate() {
        let mut time = 0;
        for (at, step) in steps.iter().enumerate() {
            time += step.wait_us;
            order.push((time, client, at));
        }
    }
    order.sort_unstable();
    order
        .into_iter()
        .map(|(_, client, at)| (client, at))
        .collect()
}

/// Steps without some; whoever follows one that is left out waits for it too.
fn without(steps: &[Step], goes: impl Fn(usize, &Step) -> bool) -> Vec<Step> {
    let mut left = Vec::new();
    let mut wait_us = 0;
    for (at, step) in steps.iter().enumerate() {
        wait_us += step.wait_us;
        if !goes(at, step) {
            left.push(Step {
                wait_us: std::mem::take(&mut wait_us),
                what: step.what.clone(),
            });
        }
    }
    left
}

/// The plan from some time on, as if that were its beginning.
fn later(plan: &Plan, from_ms: u64) -> Plan {
    let mut plan = plan.clone();
    plan.faults.retain(|fault| fault.at_ms >= from_ms);
    plan.faults.iter_mut().for_each(|it| it.at_ms -= from_ms);
    let changes = &mut plan.membership.steps;
    changes.retain(|step| step.at_ms >= from_ms);
    changes.iter_mut().for_each(|it| it.at_ms -= from_ms);
    for steps in &mut plan.clients {
        let mut time_us = 0;
        let is_before = |step: &&Step| {
            time_us += step.wait_us;
            time_us < from_ms * 1000
        };
        let before = steps.iter().take_while(is_before).count();
        if let Some(next) = steps.get_mut(before) {
            next.wait_us = time_us - from_ms * 1000;
        }
        steps.drain(..before);
    }
    plan.faults_ms -= from_ms.min(plan.faults_ms);
    plan
}
