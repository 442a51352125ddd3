//! Watches that promise what they do not keep.

use super::Case;
use super::story::*;
use crate::check::{Guarantee, Weakness};
use crate::history::*;

pub(super) fn watch_cases() -> Vec<Case> {
    use Guarantee::*;
    vec![
        (
            "an event that was not asked for",
            || {
                let mut history = unseen(watched());
                let WatchItem::Created(created) = &mut history.watches[0].item else {
                    panic!()
                };
                (created.request.key, created.request.range_end) = ("b".into(), "z".into());
                history
            },
            WatchFilter,
            &[Weakness::NoFilter],
        ),
        (
            "events out of order",
            || {
                let mut history = unseen(watched());
                let item = history.watches[2].item.clone();
                history.watches[2].item = history.watches[4].item.clone();
                history.watches[4].item = item;
                history
            },
            WatchOrdered,
            &[Weakness::NoOrder],
        ),
        (
            "an event twice",
            || {
                let mut history = unseen(watched());
                let event = response(&mut history, 2).events[0].clone();
                response(&mut history, 2).events.push(event);
                history
            },
            WatchUnique,
            &[Weakness::NoUnique],
        ),
        (
            "a revision in two parts",
            || {
                let mut history = unseen(watched());
                let second = response(&mut history, 3).events.split_off(1);
                let mut line = history.watches[3].clone();
                let WatchItem::Response(response) = &mut line.item else {
                    panic!()
                };
                response.events = second;
                history.watches.insert(4, line);
                history
            },
            WatchAtomic,
            &[Weakness::NoAtomic],
        ),
        (
            "progress before the events it covers",
            || {
                let mut history = unseen(watched());
                let progress = history.watches.pop().unwrap();
                history.watches.insert(5, progress);
                history
            },
            WatchBookmarkable,
            &[Weakness::NoBookmark],
        ),
        (
            "progress that goes back",
            || {
                let mut history = unseen(watched());
                let mut progress = history.watches.last().unwrap().clone();
                let WatchItem::Response(response) = &mut progress.item else {
                    panic!()
                };
                (response.watch_id, response.revision) = (-1, 6);
                history.watches.push(progress);
                history
            },
            WatchBookmarkable,
            &[Weakness::NoBookmark],
        ),
        (
            "the first event is missing",
            || {
                let mut history = unseen(watched());
                history.watches.remove(1);
                history
            },
            WatchResumable,
            &[Weakness::NoResume],
        ),
        (
            "an event from before the start",
            || {
                let mut history = unseen(watched());
                let WatchItem::Created(created) = &mut history.watches[0].item else {
                    panic!()
                };
                created.request.start_revision = 3;
                history
            },
            WatchResumable,
            &[Weakness::NoResume],
        ),
        (
            "an event in the middle is missing",
            || {
                let mut history = unseen(watched());
                history.watches.remove(4);
                history
            },
            WatchReliable,
            &[Weakness::NoReliable],
        ),
        (
            "half of a revision is missing",
            || {
                let mut history = unseen(watched());
                response(&mut history, 3).events.pop();
                history
            },
            WatchReliable,
            &[Weakness::NoReliable],
        ),
        (
            "an event that never was",
            || {
                let mut history = unseen(watched());
                response(&mut history, 2).events[0].kv.value = "other".into();
                history
            },
            WatchReliable,
            &[Weakness::NoReliable],
        ),
        (
            "an event before its cause",
            || {
                let mut story = Story::new();
                story.watch(WatchRequest {
                    key: "a".into(),
                    start_revision: 2,
                    ..WatchRequest::default()
                });
                story.tell(put("a", "a2"));
                story.deliver(2, |_| true);
                let mut history = unseen(story);
                let created = history.watches[0].time;
                history.watches[1].time = created;
                for event in &mut response(&mut history, 1).events {
                    event.prev_kv = None;
                }
                history
            },
            WatchReliable,
            &[Weakness::NoReliable],
        ),
        (
            "a wrong pair before",
            || {
                let mut history = unseen(watched());
                let before = &mut response(&mut history, 3).events[0].prev_kv;
                before.as_mut().unwrap().value = "other".into();
                history
            },
            WatchPrevKv,
            &[Weakness::NoPrevKv],
        ),
        (
            "no pair before, and nothing compacted",
            || {
                let mut history = unseen(watched());
                response(&mut history, 3).events[0].prev_kv = None;
                history
            },
            WatchPrevKv,
            &[Weakness::NoPrevKv],
        ),
        (
            "a change told as a creation",
            || {
                let mut history = unseen(watched());
                let kv = &mut response(&mut history, 3).events[0].kv;
                (kv.create_revision, kv.version) = (4, 1);
                history
            },
            WatchPrevKv,
            &[Weakness::NoPrevKv],
        ),
        (
            "events after the end",
            || {
                let mut history = unseen(watched());
                let mut end = history.watches[3].clone();
                end.item = WatchItem::Canceled(WatchCanceled {
                    watch_id: 0,
                    ..WatchCanceled::default()
                });
                history.watches.insert(3, end);
                history
            },
            WatchLifetime,
            &[Weakness::NoLifetime],
        ),
        (
            "events before the creation",
            || {
                let mut history = unseen(watched());
                history.watches.swap(0, 1);
                history
            },
            WatchLifetime,
            &[Weakness::NoLifetime],
        ),
        (
            "an end by a compaction that never was",
            || {
                let mut history = unseen(watched());
                history.watches.truncate(2);
                let mut end = history.watches[1].clone();
                end.item = WatchItem::Canceled(WatchCanceled {
                    watch_id: 0,
                    compact_revision: 5,
                    ..WatchCanceled::default()
                });
                history.watches.push(end);
                history
            },
            WatchCompacted,
            &[Weakness::NoCompacted],
        ),
        (
            "an end by a compaction of what was delivered",
            || {
                let mut story = watched();
                story.tell(Request::Compact(CompactRequest {
                    revision: 5,
                    physical: false,
                }));
                story.line(WatchItem::Canceled(WatchCanceled {
                    watch_id: 0,
                    compact_revision: 5,
                    ..WatchCanceled::default()
                }));
                unseen(story)
            },
            WatchCompacted,
            &[Weakness::NoCompacted],
        ),
    ]
}
