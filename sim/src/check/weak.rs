//! Broken eyes for the checkers: what an answer looks like to one that does not look closely.

use super::prepare::Op;
use super::{Options, Weakness};
use crate::history::*;
use crate::model::Model;

/// The outcome that a checker with these weaknesses sees: whatever it does not look at is taken
/// from the model that was just asked.
pub fn outcome(options: &Options, model: &Model, op: &Op<'_>) -> Option<Outcome> {
    let Outcome::Ok(response) = &op.source.outcome else {
        return None;
    };
    let mut response = response.clone();
    if options.is_weak(Weakness::NoHeaders) {
        response.header.revision = 0;
    }
    if options.is_weak(Weakness::KeysOnly)
        && let (Request::Range(range), Reply::Range(reply)) = (&*op.request, &mut response.reply)
        && range.revision == 0
    {
        for kv in &mut reply.kvs {
            if let Some(there) = model.kvs().get(&kv.key) {
                *kv = there.clone();
            }
        }
    }
    Some(Outcome::Ok(response))
}

/// The same, if the checkers are broken at all.
pub fn outcome_if_weak(options: &Options, model: &Model, op: &Op<'_>) -> Option<Outcome> {
    if options.weak.is_empty() {
        return None;
    }
    outcome(options, model, op)
}
