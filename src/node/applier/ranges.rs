//! Large ranges, in parts and in turns, so that they hold up neither writes nor each
//! other.
//!
//! Invariants: a range is read at the revision of its first part, whatever is written meanwhile; no
//! compaction removes what a range on its way still reads; beyond `RANGES_BYTES_MAX` of gathered
//! records only the oldest range goes on.

use std::collections::VecDeque;

use super::{Applier, Mail};
use crate::{
    apply::settle,
    backend::Backend,
    kernel::{CallId, Context, Fault, limits},
    mvcc::{Part, RangeWalk},
    node::mail::FrontendInput,
    pb::etcdserverpb::RangeRequest,
};

/// Ranges on their way.
#[derive(Debug)]
pub(super) struct Ranges {
    /// What is read at once of a range that is known to have so few keys.
    first: Part,
    /// What one step reads then.
    part: Part,
    tasks: VecDeque<Task>,
    /// Calls and entries since ranges last went on.
    others: usize,
}

#[derive(Debug)]
struct Task {
    call: CallId,
    request: RangeRequest,
    walk: RangeWalk,
}

impl Ranges {
    pub fn new(first: Part, part: Part) -> Self {
        let tasks = VecDeque::new();
        Self {
            first,
            part,
            tasks,
            others: 0,
        }
    }

    /// So many calls or entries were seen to.
    pub fn beside(&mut self, others: usize) {
        self.others = self.others.saturating_add(others);
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Whether a range on its way reads what a compaction to this revision removes.
    pub fn reads_below(&self, compacted: i64) -> bool {
        let below = |task: &Task| task.walk.revision() < compacted;
        self.tasks.iter().any(below)
    }

    fn bytes(&self) -> usize {
        self.tasks.iter().map(|task| task.walk.bytes()).sum()
    }
}

impl<B: Backend> Applier<B> {
    /// Begins a range. A small one is answered at once.
    pub(super) fn start_range(
        &mut self,
        call: CallId,
        request: RangeRequest,
        cx: &mut Context<'_, Mail>,
    ) -> Result<(), Fault> {
        match settle(self.machine.range_walk(&request))? {
            Ok(walk) => {
                let first = self.ranges.first;
                let part = match self.machine.walk_is_within(&walk, first.keys_max) {
                    true => first,
                    false => self.ranges.part,
                };
                let task = Task {
                    call,
                    request,
                    walk,
                };
                self.range_part(task, part, cx)
            }
            Err(error) => {
                let result = Err(error);
                self.meter.on_read(&result, true);
                cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
                Ok(())
            }
        }
    }

    /// Goes on with ranges, for about as long as others took since the last time, but for at least
    /// one part.
    pub(super) fn ranges_go_on(&mut self, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        if self.installing.is_some() {
            return Ok(());
        }
        let others = std::mem::take(&mut self.ranges.others);
        let parts = 1 + others / limits::CALLS_PER_RANGE_PART;
        for _ in 0..parts.min(limits::RANGE_PARTS_MAX) {
            match self.ranges.tasks.pop_front() {
                Some(task) => self.range_part(task, self.ranges.part, cx)?,
                None => break,
            }
        }
        Ok(())
    }

    fn range_part(
        &mut self,
        mut task: Task,
        part: Part,
        cx: &mut Context<'_, Mail>,
    ) -> Result<(), Fault> {
        let step = self.machine.walk_on(&mut task.walk, part);
        let result = match settle(step)? {
            Ok(true) => {
                // The others wait when too much is gathered; the oldest comes to its end.
                let crowded = self.ranges.bytes() + task.walk.bytes() >= limits::RANGES_BYTES_MAX;
                match crowded {
                    true => self.ranges.tasks.push_front(task),
                    false => self.ranges.tasks.push_back(task),
                }
                return Ok(());
            }
            Ok(false) => Ok(self.machine.range_answer(&task.request, task.walk)),
            Err(error) => Err(error),
        };
        let call = task.call;
        self.meter.on_read(&result, true);
        cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
        Ok(())
    }

    /// The state was replaced: every range on its way begins anew on the new one.
    pub(super) fn restart_ranges(&mut self, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        for task in std::mem::take(&mut self.ranges.tasks) {
            self.start_range(task.call, task.request, cx)?;
        }
        Ok(())
    }
}
