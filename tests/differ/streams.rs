//! Decides whether two watch streams were sent the same.
//!
//! Per watch, events are compared one by one, whatever response brought them: where a server cuts
//! its responses is its own affair. Between watches there is no order, but for the answers to the
//! stream itself, which have the id of no watch.

use std::collections::BTreeSet;

use fated::pb::{etcdserverpb::WatchResponse, mvccpb::event::EventType};

use crate::side::Received;

/// The id of what belongs to no watch.
const STREAM: i64 = -1;
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// Where two streams part.
pub struct Unlike {
    /// The watch, and how much was alike before.
    pub place: String,
    /// What etcd sent from there on.
    pub reference: Vec<String>,
    /// What fated sent.
    pub subject: Vec<String>,
}

/// How often what is known to differ was seen.
pub struct Met {
    /// Watches from below zero.
    pub negative_starts: usize,
    /// Deletions at a compacted revision that only ours told.
    pub kept_deletions: usize,
    /// Progress that only the reference told.
    pub progress_withheld: usize,
    /// Progress that both told.
    pub progress_told: usize,
}

/// What differs on a stream on which so many watches were asked for,
/// and behind these compactions.
pub fn unlike(
    wanted: usize,
    compactions: &BTreeSet<i64>,
    one: &Received,
    two: &Received,
) -> Option<Unlike> {
    let created = |received: &Received| {
        received
            .responses
            .iter()
            .filter(|told| told.created)
            .count()
    };
    let answered = created(one) >= wanted && created(two) >= wanted;
    if one.end != two.end || (one.end.is_none() && !answered) {
        let tell = |side: &Received| vec![format!("{} created, end {:?}", created(side), side.end)];
        let place = format!("{wanted} watches");
        return Some(Unlike {
            place,
            reference: tell(one),
            subject: tell(two),
        });
    }
    if !is_within(&progress(two), &progress(one)) {
        let (reference, subject) = (progress(one), progress(two));
        let place = "progress".to_owned();
        return Some(Unlike {
            place,
            reference,
            subject,
        });
    }
    let all = one.responses.iter().chain(&two.responses);
    let watches: BTreeSet<i64> = all.map(|response| response.watch_id).collect();
    watches.into_iter().find_map(|id| {
        let (mut left, mut right) = (told(&one.responses, id), told(&two.responses, id));
        let kept = kept_deletions(compactions, two, id);
        if lost(&left, &right, &kept) {
            right = without(&right, &kept);
        }
        let same = left
            .iter()
            .zip(&right)
            .take_while(|(one, two)| one == two)
            .count();
        let place = format!("watch {id}, behind {same} alike");
        (left != right).then(|| Unlike {
            place,
            reference: left.split_off(same),
            subject: right.split_off(same),
        })
    })
}

/// Counts what is known to differ, on streams that are otherwise alike.
pub fn met(compactions: &BTreeSet<i64>, one: &Received, two: &Received) -> Met {
    let negative = |told: &&WatchResponse| told.created && told.cancel_reason == COMPACTED;
    let progress_told = progress(two).len();
    let watches: BTreeSet<i64> = two.responses.iter().map(|told| told.watch_id).collect();
    let kept = watches.into_iter().map(|id| {
        let kept = kept_deletions(compactions, two, id);
        let lost = lost(&told(&one.responses, id), &told(&two.responses, id), &kept);
        if lost { kept.len() } else { 0 }
    });
    Met {
        kept_deletions: kept.sum(),
        negative_starts: two.responses.iter().filter(negative).count(),
        progress_withheld: progress(one).len().saturating_sub(progress_told),
        progress_told,
    }
}

/// What a watch began with, if that was a deletion at a revision to which history was compacted.
/// etcd 3.5.1 forgets such a deletion, though the revision can still be watched from.
fn kept_deletions(compactions: &BTreeSet<i64>, received: &Received, id: i64) -> Vec<String> {
    let responses = received.responses.iter();
    let events = responses
        .filter(|response| response.watch_id == id)
        .flat_map(|response| &response.events);
    let mut revision = None;
    let deletions = events.take_while(|event| {
        let at = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let first = *revision.get_or_insert(at);
        at == first && compactions.contains(&at) && event.r#type == EventType::Delete as i32
    });
    deletions.map(|event| format!("{event:?}")).collect()
}

/// Whether what the reference told is ours without these.
fn lost(reference: &[String], subject: &[String], kept: &[String]) -> bool {
    !kept.is_empty() && reference == without(subject, kept)
}

fn without(told: &[String], kept: &[String]) -> Vec<String> {
    let told = told.iter().filter(|one| !kept.contains(one));
    told.cloned().collect()
}

/// etcd 3.5.1 tells progress at once, newer ones only when every watch has come so far, or not at
/// all: what ours tells must be part of what the reference told.
fn progress(received: &Received) -> Vec<String> {
    let responses = received
        .responses
        .iter()
        .filter(|response| is_progress(response));
    responses.map(words).collect()
}

fn is_progress(response: &WatchResponse) -> bool {
    response.watch_id == STREAM && !response.created && !response.canceled
}

fn is_within(part: &[String], whole: &[String]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|wanted| rest.any(|there| there == wanted))
}

fn told(responses: &[WatchResponse], id: i64) -> Vec<String> {
    let mut told = Vec::new();
    let responses = responses.iter().filter(|response| !is_progress(response));
    for response in responses.filter(|response| response.watch_id == id) {
        told.extend(response.events.iter().map(|event| format!("{event:?}")));
        if response.events.is_empty() {
            told.push(words(response));
        }
    }
    told
}

fn words(response: &WatchResponse) -> String {
    // A start below zero is asked of the reference as an empty range; see `newer`.
    let reason = match response.cancel_reason.as_str() {
        COMPACTED if response.created => EMPTY_RANGE,
        reason => reason,
    };
    let revision = response.header.as_ref().map_or(0, |header| header.revision);
    format!(
        "at {revision}: created {} canceled {} ({reason}) compacted {}",
        response.created, response.canceled, response.compact_revision,
    )
}
