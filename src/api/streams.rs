//! Watch streams on their way from the core to the connections of their clients.
//!
//! What the core sends waits in the stream's lane until its connection takes it; then all that
//! waits is encoded at once, as one piece, and given back to the core's account at once. Of a
//! response that many watches get, all but the number of the watch is encoded once.
//!
//! Invariants: what waits is bounded by the core, which sends no more than a window ahead; after an
//! end comes nothing.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame};
use prost::{
    Message,
    encoding::{int64, message},
};
use tokio_stream::Stream;
use tonic::Status;

use super::{grpc::unary, handle::Shared, status};
use crate::{
    kernel::{Event, StreamId, StreamItem, StreamRequest, WatchId},
    pb::etcdserverpb as rpc,
};

/// Bytes of one piece, but for the last response in it.
const PIECE_BYTES: usize = 32 * 1024;
/// A longer response is encoded for each watch when its connection takes it, so that its values do
/// not wait there a second time.
const ALIKE_BYTES_MAX: u64 = 16 * 1024;
/// Field numbers of `WatchResponse`.
const HEADER_TAG: u32 = 1;
const WATCH_ID_TAG: u32 = 2;

/// What waits for one stream's connection.
#[derive(Debug)]
pub(super) struct Lane(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    sent: VecDeque<Sent>,
    /// Since when the first of them waits.
    since: Instant,
    reader: Option<Waker>,
}

/// What a watch stream is sent: by the core, or by the edge when the client's half broke.
#[derive(Debug)]
enum Sent {
    Response(Box<rpc::WatchResponse>, u64),
    Alike(WatchId, Arc<Alike>, u64),
    End(Status),
}

/// A response that many watches get.
#[derive(Debug)]
pub(super) struct Alike {
    response: Arc<rpc::WatchResponse>,
    /// What stands before and behind the number of the watch.
    header: Vec<u8>,
    rest: Vec<u8>,
}

impl Sent {
    /// What it holds, and its size in the core's account.
    fn response(&self) -> Option<(&rpc::WatchResponse, u64)> {
        match self {
            Self::Response(response, bytes) => Some((response, *bytes)),
            Self::Alike(_, alike, bytes) => Some((&alike.response, *bytes)),
            Self::End(_) => None,
        }
    }

    /// The whole response.
    fn to_response(&self) -> Option<rpc::WatchResponse> {
        match self {
            Self::Response(response, _) => Some((**response).clone()),
            Self::Alike(watch, alike, _) => Some(rpc::WatchResponse {
                watch_id: watch.get(),
                ..(*alike.response).clone()
            }),
            Self::End(_) => None,
        }
    }

    /// Appends it as a message. `behind` more wait, which may be as long.
    fn put(&self, behind: usize, out: &mut BytesMut) {
        match self {
            Self::Response(response, _) => {
                let bytes = response.encoded_len();
                make_room(out, bytes, behind);
                unary::put_head(out, bytes);
                response.encode(out).expect("a growing buffer has room");
            }
            Self::Alike(watch, alike, _) => alike.put(*watch, behind, out),
            Self::End(_) => {}
        }
    }
}

/// Room for a message of so many bytes, and at once for those behind it.
fn make_room(out: &mut BytesMut, bytes: usize, behind: usize) {
    let need = unary::HEAD_BYTES + bytes;
    if out.capacity() - out.len() < need {
        let ahead = PIECE_BYTES.saturating_sub(out.len());
        out.reserve(need + ahead.min(need * behind));
    }
}

impl Alike {
    fn new(response: &Arc<rpc::WatchResponse>) -> Self {
        let mut header = Vec::new();
        if let Some(known) = &response.header {
            message::encode(HEADER_TAG, known, &mut header);
        }
        let mut rest = response.encode_to_vec();
        rest.drain(..header.len());
        Self {
            response: Arc::clone(response),
            header,
            rest,
        }
    }

    /// Appends it as a message for this watch.
    fn put(&self, watch: WatchId, behind: usize, out: &mut BytesMut) {
        let id = watch.get();
        let id_bytes = match id {
            0 => 0, // what is zero is not sent
            id => int64::encoded_len(WATCH_ID_TAG, &id),
        };
        let bytes = self.header.len() + id_bytes + self.rest.len();
        make_room(out, bytes, behind);
        unary::put_head(out, bytes);
        out.put_slice(&self.header);
        if id != 0 {
            int64::encode(WATCH_ID_TAG, &id, out);
        }
        out.put_slice(&self.rest);
    }
}

impl Lane {
    pub fn new() -> Self {
        Self(Mutex::new(Waiting {
            sent: VecDeque::new(),
            since: Instant::now(),
            reader: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().expect("no holder of the lock panics")
    }

    /// The core sends. `alike` remembers the response that many watches got last.
    pub fn send(&self, item: StreamItem, alike: &mut Option<Arc<Alike>>) {
        let sent = match item {
            StreamItem::Alike { bytes, .. } if bytes > ALIKE_BYTES_MAX => {
                return self.send(item.alone(), alike);
            }
            StreamItem::Watch { response, bytes } => Sent::Response(response, bytes),
            StreamItem::Alike {
                watch,
                response,
                bytes,
            } => {
                let known = alike
                    .as_ref()
                    .filter(|known| Arc::ptr_eq(&known.response, &response));
                let known = match known {
                    Some(known) => Arc::clone(known),
                    None => Arc::clone(alike.insert(Arc::new(Alike::new(&response)))),
                };
                Sent::Alike(watch, known, bytes)
            }
            StreamItem::End(error) => Sent::End(status::of(error)),
        };
        self.push(sent);
    }

    fn push(&self, sent: Sent) {
        let mut waiting = self.lock();
        if waiting.sent.is_empty() {
            waiting.since = Instant::now();
        }
        waiting.sent.push_back(sent);
        if let Some(reader) = waiting.reader.take() {
            reader.wake();
        }
    }

    /// Ends the stream with a status of the edge.
    pub fn fail(&self, status: Status) {
        self.push(Sent::End(status));
    }
}

/// The requests of one watch stream.
#[derive(Debug)]
pub struct StreamRequests {
    pub(super) shared: Arc<Shared>,
    pub(super) stream: StreamId,
    pub(super) lane: Arc<Lane>,
}

impl StreamRequests {
    /// Hands a request to the core.
    pub fn send(&self, request: rpc::WatchRequest) {
        self.shared.tell(Event::StreamItem {
            stream: self.stream,
            item: StreamRequest::Watch(request),
        });
    }

    /// Ends the stream with a status of the edge.
    pub fn fail(&self, status: Status) {
        self.lane.fail(status);
    }
}

/// The items of one watch stream, as its connection takes them. Going away closes the stream.
#[derive(Debug)]
pub struct StreamItems {
    pub(super) shared: Arc<Shared>,
    pub(super) stream: StreamId,
    pub(super) lane: Arc<Lane>,
    pub(super) ended: bool,
}

impl StreamItems {
    /// Takes what waits, one by one, while `each` wants more; gives it back to the core's account.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        mut each: impl FnMut(&Sent, usize) -> bool,
    ) -> Poll<Option<Result<(), Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut waiting = self.lane.lock();
        if waiting.sent.is_empty() {
            waiting.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if matches!(waiting.sent.front(), Some(Sent::End(_))) {
            self.ended = true;
            return match waiting.sent.pop_front() {
                Some(Sent::End(status)) => Poll::Ready(Some(Err(status))),
                Some(Sent::Response(..) | Sent::Alike(..)) | None => {
                    unreachable!("it was just looked at")
                }
            };
        }
        let meter = self.shared.instruments().watch();
        let mut taken = meter.taking(waiting.since.elapsed());
        let mut credit = 0;
        let mut wants_more = true;
        while wants_more && let Some(sent) = waiting.sent.pop_front() {
            let Some((response, bytes)) = sent.response() else {
                waiting.sent.push_front(sent);
                break;
            };
            taken.add(response);
            credit += bytes;
            wants_more = each(&sent, waiting.sent.len());
        }
        drop(waiting);
        taken.end();
        self.shared.tell(Event::StreamCredit {
            stream: self.stream,
            bytes: credit,
        });
        Poll::Ready(Some(Ok(())))
    }

    /// Appends what waits as messages, up to a piece of some size. None when all is over.
    pub fn poll_piece(
        &mut self,
        out: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(), Status>>> {
        self.poll_take(cx, |sent, behind| {
            sent.put(behind, out);
            out.len() < PIECE_BYTES
        })
    }
}

impl Stream for StreamItems {
    type Item = Result<rpc::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut next = None;
        let taken = self.poll_take(cx, |sent, _| {
            next = sent.to_response();
            false
        });
        Poll::Ready(match ready!(taken) {
            Some(Ok(())) => next.map(Ok),
            Some(Err(status)) => Some(Err(status)),
            None => None,
        })
    }
}

impl Drop for StreamItems {
    fn drop(&mut self) {
        self.shared.close_stream(self.stream);
        let waiting = std::mem::take(&mut self.lane.lock().sent);
        for (response, _) in waiting.iter().filter_map(Sent::response) {
            self.shared.instruments().watch().lost(response);
        }
    }
}

/// The answer to a watch: what waits, piece by piece, and how it ended.
#[derive(Debug)]
pub struct StreamBody {
    items: StreamItems,
    ended: bool,
}

impl StreamBody {
    /// Sends these items.
    pub fn new(items: StreamItems) -> Self {
        Self {
            items,
            ended: false,
        }
    }
}

impl HttpBody for StreamBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut piece = BytesMut::new();
        let trailers = match ready!(self.items.poll_piece(&mut piece, cx)) {
            Some(Ok(())) => return Poll::Ready(Some(Ok(Frame::data(piece.freeze())))),
            Some(Err(status)) => unary::ended(&status),
            None => unary::well(),
        };
        self.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests;
