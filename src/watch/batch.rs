//! Events on their way to many watches: made once, measured once, shared by clones of `Bytes`.

use std::sync::Arc;

use prost::Message;
use prost::encoding::{int64, message::encoded_len};

use super::History;
use super::watcher::Watcher;
use crate::kernel::{DiskError, WatchId};
use crate::mutant;
use crate::pb::etcdserverpb as rpc;
use crate::pb::mvccpb::{Event, event::EventType};

/// Most bytes the caller adds to a response by filling in cluster, member and term.
const HEADER_FILL_BYTES: usize = 3 * 11;
/// Memory of a response on its way, and of each of its events. Rounded up, so that windows do not
/// depend on the machine.
const RESPONSE_HELD_BYTES: usize = 256;
const EVENT_HELD_BYTES: usize = 384;
const _: () = assert!(size_of::<rpc::WatchResponse>() <= RESPONSE_HELD_BYTES);
const _: () = assert!(size_of::<Event>() <= EVENT_HELD_BYTES);
/// Field number of `WatchResponse.watch_id`.
const WATCH_ID_TAG: u32 = 2;
/// Field number of `WatchResponse.events`.
const EVENTS_TAG: u32 = 11;

/// Events in the order of their revisions, each in both flavours.
#[derive(Debug)]
pub(super) struct Batch {
    items: Vec<Item>,
    alike: Option<Alike>,
}

/// The response that was made last for many watches.
#[derive(Debug)]
struct Alike {
    positions: Vec<usize>,
    prev_kv: bool,
    response: Arc<rpc::WatchResponse>,
    /// Its size on the wire, but for the number of the watch.
    bytes: usize,
}

/// One event.
#[derive(Debug)]
pub(super) struct Item {
    /// Its revision.
    pub revision: i64,
    /// Without the value before.
    pub event: Event,
    bytes: usize,
    /// With the value before; read when the first watch wants it.
    with_prev: Option<(Event, usize)>,
}

impl Batch {
    /// The events of whole revisions, in order.
    pub fn new<'a>(revisions: impl Iterator<Item = (i64, &'a [Event])>) -> Self {
        let mut items: Vec<Item> = Vec::new();
        for (revision, events) in revisions {
            assert!(
                items.last().is_none_or(|last| last.revision < revision),
                "revisions in order"
            );
            items.extend(events.iter().map(|event| Item::new(revision, event)));
        }
        Self { items, alike: None }
    }

    /// The events.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The events of these positions as the watch wants them, each with its size on the wire.
    pub fn take(
        &mut self,
        positions: &[usize],
        watcher: &Watcher,
        store: &dyn History,
    ) -> Result<Vec<(Event, usize)>, DiskError> {
        let mut taken = Vec::with_capacity(positions.len());
        for position in positions {
            let item = &mut self.items[*position];
            if watcher.prev_kv {
                taken.push(item.with_prev(store)?.clone());
            } else {
                taken.push((item.event.clone(), item.bytes));
            }
        }
        Ok(taken)
    }

    /// The response with these events that every watch gets that wants what this one does, and its
    /// size for this one; none where it is so large that this one wants it split.
    pub fn alike(
        &mut self,
        (id, watcher): (WatchId, &Watcher),
        positions: &[usize],
        revision: i64,
        fragment_bytes: usize,
        store: &dyn History,
    ) -> Result<Option<(Arc<rpc::WatchResponse>, u64)>, DiskError> {
        let known = self.alike.as_ref().is_some_and(|known| {
            let flavour =
                known.prev_kv == watcher.prev_kv || mutant!("watch-gets-anothers-flavour");
            flavour && known.positions == positions
        });
        if !known {
            let events = self.take(positions, watcher, store)?;
            let bytes: usize = events.iter().map(|(_, bytes)| bytes).sum();
            let mut response = rpc::WatchResponse {
                header: Some(header(revision)),
                ..Default::default()
            };
            let bytes = bytes + response.encoded_len() + HEADER_FILL_BYTES;
            response.events = events.into_iter().map(|(event, _)| event).collect();
            self.alike = Some(Alike {
                positions: positions.to_vec(),
                prev_kv: watcher.prev_kv,
                response: Arc::new(response),
                bytes,
            });
        }
        let known = self.alike.as_ref().expect("it was just made");
        let bytes = known.bytes
            + match id.get() {
                0 => 0, // what is zero is not sent
                id => int64::encoded_len(WATCH_ID_TAG, &id),
            };
        if watcher.fragment && bytes >= fragment_bytes {
            return Ok(None);
        }
        Ok(Some((Arc::clone(&known.response), bytes as u64)))
    }
}

impl Item {
    fn new(revision: i64, event: &Event) -> Self {
        let kv = event.kv.as_ref().expect("an event names its key");
        assert_eq!(
            kv.mod_revision, revision,
            "an event belongs to its revision"
        );
        let event = Event {
            r#type: event.r#type,
            kv: event.kv.clone(),
            prev_kv: None,
        };
        Self {
            revision,
            bytes: encoded_len(EVENTS_TAG, &event),
            event,
            with_prev: None,
        }
    }

    /// The event's key.
    pub fn key(&self) -> &[u8] {
        &self.event.kv.as_ref().expect("an event names its key").key
    }

    fn with_prev(&mut self, store: &dyn History) -> Result<&(Event, usize), DiskError> {
        if self.with_prev.is_none() {
            let kv = self.event.kv.as_ref().expect("an event names its key");
            let created =
                self.event.r#type() == EventType::Put && kv.create_revision == kv.mod_revision;
            let mut event = self.event.clone();
            if !created {
                let before = match mutant!("watch-shows-the-new-pair-as-old") {
                    true => self.revision,
                    false => self.revision - 1,
                };
                event.prev_kv = store.at(&kv.key, before)?;
            }
            let bytes = encoded_len(EVENTS_TAG, &event);
            self.with_prev = Some((event, bytes));
        }
        Ok(self.with_prev.as_ref().expect("it was just made"))
    }
}

/// The size of a response once the caller has filled its header in; at most a few bytes too much.
pub(super) fn response_bytes(response: &rpc::WatchResponse) -> u64 {
    (response.encoded_len() + HEADER_FILL_BYTES) as u64
}

/// What a response takes in memory beyond its bytes on the wire. Values are shared, but may be held
/// by nobody else any more.
pub(super) fn held_bytes(response: &rpc::WatchResponse) -> u64 {
    (RESPONSE_HELD_BYTES + response.events.len() * EVENT_HELD_BYTES) as u64
}

/// The responses that carry these events to one watch: one, or several of less than
/// `fragment_bytes` where that is given and more than one event is there to be split.
pub(super) fn responses(
    id: WatchId,
    revision: i64,
    events: Vec<(Event, usize)>,
    fragment_bytes: Option<usize>,
) -> Vec<(rpc::WatchResponse, u64)> {
    assert!(
        !events.is_empty(),
        "a response without events would read as progress"
    );
    let base = rpc::WatchResponse {
        header: Some(header(revision)),
        watch_id: id.get(),
        ..Default::default()
    };
    let base_bytes = base.encoded_len() + HEADER_FILL_BYTES;
    let total = base_bytes + events.iter().map(|(_, bytes)| bytes).sum::<usize>();
    let limit = match mutant!("watch-splits-a-revision") {
        true => base_bytes,
        false => fragment_bytes
            .filter(|limit| total >= *limit)
            .unwrap_or(usize::MAX),
    };
    // The flag itself takes two bytes in each response that is not the last.
    let empty_bytes = base_bytes + if limit < usize::MAX { 2 } else { 0 };
    let mut parts = Vec::with_capacity(1);
    let (mut part, mut part_bytes) = (base.clone(), empty_bytes);
    for (event, bytes) in events {
        if !part.events.is_empty() && part_bytes + bytes >= limit {
            part.fragment = !mutant!("watch-splits-a-revision");
            if !mutant!("watch-loses-a-fragment") {
                parts.push((part, part_bytes as u64));
            }
            (part, part_bytes) = (base.clone(), empty_bytes);
        }
        part.events.push(event);
        part_bytes += bytes;
    }
    parts.push((part, part_bytes as u64));
    parts
}

/// A header that tells a revision; the caller fills in the rest.
pub(super) fn header(revision: i64) -> rpc::ResponseHeader {
    rpc::ResponseHeader {
        revision,
        ..Default::default()
    }
}
