//! Catch-up: one bounded slice of work per call reads a window of history once and serves it to
//! many watches that stand inside it.
//!
//! Fairness: streams take turns, and the watches of a stream take turns. The watch whose turn it is
//! fixes the window; others near by are served along. The turn passes to the first one that was
//! looked at and not served, so every watch is served within as many slices as there are watches
//! behind, however far back the others stand.

use std::cmp::max;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::History;
use super::batch::Batch;
use super::hub::Hub;
use super::stream::Control;
use super::watcher::{End, Position, Span, WatchKey};
use crate::kernel::{DiskError, StreamId, WatchId};
use crate::mutant;

/// A stretch of history, in memory for one slice.
struct Window {
    /// The first revision inside.
    from: i64,
    /// The first revision after it.
    end: i64,
    batch: Batch,
    /// Positions in the batch, ordered by key, then by revision.
    by_key: Vec<usize>,
}

impl Hub {
    /// One slice of work for watches that are behind. Returns whether there is more to do now; if
    /// not, only credit, a request or an installed image can bring more.
    pub fn catch_up(&mut self, store: &dyn History) -> Result<bool, DiskError> {
        self.compact_revision = max(self.compact_revision, store.compact_revision());
        let picked = self.pick();
        let mut skipped = BTreeMap::new();
        let mut window: Option<Window> = None;
        let mut looked_at = 0;
        for watch in &picked {
            let (next, blocked) = self.standing(*watch);
            if !blocked && next < self.compact_revision {
                if mutant!("compacted-watch-not-told") {
                    self.move_on(*watch);
                    continue;
                }
                self.cancel_compacted(*watch);
                continue;
            }
            if blocked || looked_at >= self.settings.catchup_events {
                skipped.entry(watch.stream).or_insert(watch.id);
                continue;
            }
            let window = match &mut window {
                Some(window) => window,
                none => none.insert(self.read_window(next, store)?),
            };
            if (window.from..window.end).contains(&next) {
                looked_at += self.serve(*watch, next, window, store)?;
            } else {
                skipped.entry(watch.stream).or_insert(watch.id);
            }
        }
        self.pass_turn(&picked, &skipped);
        Ok(self.wants_catch_up())
    }

    /// The watches to look at: from the stream whose turn it is on, in each from its own cursor on.
    fn pick(&self) -> Vec<WatchKey> {
        let turns = self
            .ready
            .range(self.turn..)
            .chain(self.ready.range(..self.turn));
        let mut picked = Vec::new();
        for stream in turns {
            let found = &self.streams[stream];
            let ids = found.behind.range(found.cursor..);
            let ids = ids.chain(found.behind.range(..found.cursor));
            let room = self.settings.catchup_watches - picked.len();
            picked.extend(ids.take(room).map(|id| WatchKey {
                stream: *stream,
                id: *id,
            }));
            if picked.len() >= self.settings.catchup_watches {
                break;
            }
        }
        picked
    }

    /// Where a watch that was picked stands, and whether its stream got blocked meanwhile.
    fn standing(&self, watch: WatchKey) -> (i64, bool) {
        let stream = &self.streams[&watch.stream];
        match stream.watches[&watch.id].position {
            Position::Synced { .. } => unreachable!("a watch is picked once, while it is behind"),
            Position::Behind { next } => (next, stream.is_blocked()),
        }
    }

    /// A planted bug: the watch goes on behind the compaction as if nothing was lost.
    fn move_on(&mut self, watch: WatchKey) {
        let stream = self
            .streams
            .get_mut(&watch.stream)
            .expect("it was looked up");
        let watcher = stream.watches.get_mut(&watch.id).expect("it was looked up");
        watcher.position = Position::Behind {
            next: self.compact_revision,
        };
    }

    fn cancel_compacted(&mut self, watch: WatchKey) {
        let dropped = self.drop_watch(watch);
        assert!(dropped, "the watch was just looked at");
        if let Some(stream) = self.streams.get_mut(&watch.stream) {
            stream.ended.insert(watch.id);
        }
        let answer = Control::Compacted {
            id: watch.id,
            compact_revision: self.compact_revision,
        };
        self.answer(watch.stream, answer);
    }

    fn read_window(&self, from: i64, store: &dyn History) -> Result<Window, DiskError> {
        assert!(from <= self.revision, "only the past is read again");
        assert!(
            from >= self.compact_revision,
            "what was compacted is not read"
        );
        let (revisions_max, bytes_max) =
            (self.settings.catchup_revisions, self.settings.catchup_bytes);
        let (revisions, end) = store.events(from, self.revision, revisions_max, bytes_max)?;
        assert!(end > from, "reading history makes progress");
        assert!(
            end <= self.revision + 1,
            "the store reads no further than asked"
        );
        let batch = Batch::new(
            revisions
                .iter()
                .map(|(revision, events)| (*revision, &events[..])),
        );
        let items = batch.items();
        assert!(items.first().is_none_or(|first| first.revision >= from));
        assert!(items.last().is_none_or(|last| last.revision < end));
        let mut by_key: Vec<usize> = (0..items.len()).collect();
        by_key.sort_by(|left, right| items[*left].key().cmp(items[*right].key()));
        Ok(Window {
            from,
            end,
            batch,
            by_key,
        })
    }

    /// Serves what a watch wants of the window and moves it to the window's end. Returns how many
    /// events had to be looked at.
    fn serve(
        &mut self,
        watch: WatchKey,
        next: i64,
        window: &mut Window,
        store: &dyn History,
    ) -> Result<usize, DiskError> {
        let watcher = &self.streams[&watch.stream].watches[&watch.id];
        let items = window.batch.items();
        let mut positions = window.positions(&watcher.span);
        let looked_at = positions.len();
        positions.retain(|position| {
            let item = &items[*position];
            let from = next + i64::from(mutant!("catch-up-skips-its-first-revision"));
            item.revision >= from && watcher.wants(&item.event)
        });
        let idle = positions.is_empty() && mutant!("synced-after-an-empty-window");
        if !positions.is_empty() {
            self.send_events(watch, &mut window.batch, &positions, store)?;
        }
        let stream = self
            .streams
            .get_mut(&watch.stream)
            .expect("it was looked up");
        let watcher = stream.watches.get_mut(&watch.id).expect("it was looked up");
        if window.end > self.revision || idle {
            watcher.position = Position::Synced { from: window.end };
            stream.behind.remove(&watch.id);
            self.synced.insert(&watcher.span, watch);
            self.caught_up += 1;
        } else {
            watcher.position = Position::Behind { next: window.end };
        }
        self.settle(watch.stream);
        Ok(looked_at)
    }

    /// Moves the cursor of each stream that was looked at, and the turn of the streams.
    fn pass_turn(&mut self, picked: &[WatchKey], skipped: &BTreeMap<StreamId, WatchId>) {
        let (Some(first), Some(last)) = (picked.first(), picked.last()) else {
            return;
        };
        for watch in picked {
            // The last write wins: after the last one, unless one was skipped.
            let after = WatchId::new(watch.id.get().wrapping_add(1));
            let stream = self
                .streams
                .get_mut(&watch.stream)
                .expect("catch-up ends no stream");
            stream.cursor = skipped.get(&watch.stream).copied().unwrap_or(after);
        }
        // The first stream has had its turn, whether or not all its watches were served.
        let others = picked.iter().map(|watch| watch.stream);
        let mut others = others.filter(|stream| *stream != first.stream);
        let unserved = others.find(|stream| skipped.contains_key(stream));
        self.turn = unserved.unwrap_or_else(|| last.stream.next());
    }
}

impl Window {
    /// Positions of the events on these keys, in the order of their revisions.
    fn positions(&self, span: &Span) -> Vec<usize> {
        let key = |position: &usize| self.batch.items()[*position].key();
        let (start, end) = match span {
            Span::Key(key) => (key, Bound::Included(key)),
            Span::Range { start, end } => match end {
                End::Key(end) => (start, Bound::Excluded(end)),
                End::Infinite => (start, Bound::Unbounded),
            },
        };
        let low = self
            .by_key
            .partition_point(|position| key(position) < &start[..]);
        let high = self.by_key.partition_point(|position| match end {
            Bound::Included(end) => key(position) <= &end[..],
            Bound::Excluded(end) => key(position) < &end[..],
            Bound::Unbounded => true,
        });
        let mut positions = self.by_key[low..high].to_vec();
        positions.sort_unstable();
        positions
    }
}
