//! Large answers to ranges: how many there may be at a time, and how they are sent.
//!
//! An answer of many megabytes is not made one message first: that would hold up every other client
//! for as long, and keep a second copy of it. Its parts are sent as they were read, a piece at a
//! time as the client takes it, and what was sent is let go. Answers that are ready at the same
//! time take turns piece by piece (`Pace`): a put waits for one piece and not for one of each.
//!
//! Invariants: a turn is held from before the range is read until its answer is sent or dropped;
//! what is counted as held is what such answers still have to send.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
    vec,
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tonic::{Response, Status, body::Body};

use super::{grpc::unary, pace::Pace};
use crate::{
    kernel::{ApiError, PartedRange, PartedTxn, limits},
    pb::etcdserverpb::{RangeRequest, RangeResponse, TxnResponse},
};

/// How long a range waits for its turn: as long as a call may take.
const PATIENCE: Duration = Duration::from_secs(7);

/// Records that are encoded before others get their turn.
const ENCODED_AT_A_TIME: usize = 100;

/// Who may read much at a time.
#[derive(Debug)]
pub struct Turns {
    free: Arc<Semaphore>,
    pace: Pace,
    held: Arc<watch::Sender<usize>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(limits::LARGE_READS_MAX)),
            pace: Pace::default(),
            held: Arc::new(watch::Sender::new(0)),
        }
    }
}

/// Memory of one answer that was not sent yet.
#[derive(Debug)]
struct Held {
    bytes: usize,
    all: Arc<watch::Sender<usize>>,
}

impl Held {
    fn new(bytes: usize, all: &Arc<watch::Sender<usize>>) -> Self {
        all.send_modify(|all| *all += bytes);
        let all = Arc::clone(all);
        Self { bytes, all }
    }

    /// So much of it was sent.
    fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.all.send_modify(|all| *all -= bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

/// The right to one large answer; dropping it lets the next one go on.
pub type Turn = OwnedSemaphorePermit;

impl Turns {
    /// Waits for a turn if the range may be large.
    pub async fn wait(&self, request: &RangeRequest) -> Result<Option<Turn>, ApiError> {
        self.within(PATIENCE, request).await
    }

    async fn within(
        &self,
        patience: Duration,
        request: &RangeRequest,
    ) -> Result<Option<Turn>, ApiError> {
        let few = request.limit > 0 && request.limit <= limits::SMALL_READ_KEYS;
        if request.range_end.is_empty() || request.count_only || few {
            return Ok(None);
        }
        let mut held = self.held.subscribe();
        let turn = async {
            let turn = Arc::clone(&self.free).acquire_owned().await.ok()?;
            let light = |held: &usize| *held < limits::LARGE_READS_BYTES_MAX;
            held.wait_for(light).await.ok()?;
            Some(turn)
        };
        match tokio::time::timeout(patience, turn).await {
            Ok(Some(turn)) => Ok(Some(turn)),
            // Nobody closes either of them; what is left is that it took too long.
            Ok(None) | Err(_) => Err(ApiError::TooManyRequests),
        }
    }

    /// Takes over an answer that is large; a small one comes back.
    pub fn large(&self, answer: PartedRange, turn: Option<Turn>) -> Result<Large, RangeResponse> {
        let bytes = answer.encoded_len();
        if bytes < limits::LARGE_READ_BYTES || u32::try_from(bytes).is_err() {
            return Err(answer.joined());
        }
        let mut head = Vec::new();
        unary::put_head(&mut head, bytes);
        Ok(self.in_pieces(answer.into_message(head), turn))
    }

    /// The same for a transaction, large or not. It comes back if it is more than a message holds.
    pub fn txn(&self, answer: PartedTxn) -> Result<Large, TxnResponse> {
        let bytes = answer.encoded_len();
        if u32::try_from(bytes).is_err() {
            return Err(answer.joined());
        }
        let mut head = Vec::with_capacity(bytes.min(limits::RANGE_PART_BYTES));
        unary::put_head(&mut head, bytes);
        Ok(self.in_pieces(answer.into_message(head), None))
    }

    fn in_pieces(&self, message: Vec<Bytes>, turn: Option<Turn>) -> Large {
        let held = Held::new(message.iter().map(Bytes::len).sum(), &self.held);
        let pieces = Pieces::new(message, (turn, held), self.pace.clone());
        Large(Arc::new(Mutex::new(Some(pieces))))
    }
}

/// Whether the answer is sent as it is, by a look at its keys and values: it is measured when it is
/// encoded. One of many records is not even looked at.
pub fn is_small(response: &RangeResponse) -> bool {
    let bytes = response
        .kvs
        .iter()
        .take(ENCODED_AT_A_TIME)
        .map(|kv| kv.key.len() + kv.value.len());
    response.kvs.len() <= ENCODED_AT_A_TIME && bytes.sum::<usize>() < limits::LARGE_READ_BYTES
}

/// An answer that was sorted or filtered, in parts. That of many records takes milliseconds, so
/// others go in between.
pub async fn parted(mut response: RangeResponse) -> PartedRange {
    let kvs = std::mem::take(&mut response.kvs);
    let mut parts = Vec::new();
    for (at, some) in kvs.chunks(ENCODED_AT_A_TIME).enumerate() {
        if at > 0 {
            tokio::task::yield_now().await;
        }
        parts.push(PartedRange::part_of(some));
    }
    PartedRange {
        rest: response,
        parts,
    }
}

/// An empty answer, in the place of which whoever serves the connection puts a large one.
pub fn instead<T: Default>(large: Large) -> Response<T> {
    let mut answer = Response::new(T::default());
    answer.extensions_mut().insert(large);
    answer
}

/// An answer on its way from the service to the connection, as an extension of the response.
#[derive(Clone)]
pub struct Large(Arc<Mutex<Option<Pieces>>>);

impl Large {
    /// The body to send; none if it was taken before.
    pub fn into_body(self) -> Option<Body> {
        let pieces = self.0.lock().expect("no holder of the lock panics").take();
        pieces.map(Body::new)
    }

    /// The whole message with its head if it is not large after all, or else the body to send.
    pub fn into_message(self) -> Result<Bytes, Body> {
        let pieces = self.0.lock().expect("no holder of the lock panics").take();
        match pieces {
            Some(pieces) if pieces.left < limits::LARGE_READ_BYTES => {
                let mut message = BytesMut::with_capacity(pieces.left);
                message.extend_from_slice(&pieces.begun);
                for part in pieces.parts {
                    message.extend_from_slice(&part);
                }
                Ok(message.freeze())
            }
            Some(pieces) => Err(Body::new(pieces)),
            None => Err(Body::empty()),
        }
    }
}

/// One gRPC message, sent in pieces.
#[derive(Debug)]
struct Pieces {
    /// What is left of the part that was begun, and the parts behind it.
    begun: Bytes,
    parts: vec::IntoIter<Bytes>,
    /// Bytes that are still to come, for the check at the end.
    left: usize,
    /// Bytes that may be sent before it is somebody else's turn.
    allowed: usize,
    ended: bool,
    pace: Pace,
    /// Its place in the queue for the next piece.
    place: Option<oneshot::Receiver<usize>>,
    held: Held,
    _turn: Option<Turn>,
}

impl Pieces {
    fn new(message: Vec<Bytes>, (turn, held): (Option<Turn>, Held), pace: Pace) -> Self {
        let left = held.bytes;
        Self {
            begun: Bytes::new(),
            parts: message.into_iter(),
            left,
            // One that is not very large is sent at once.
            allowed: match left <= limits::RANGE_FIRST_BYTES {
                true => left,
                false => 0,
            },
            ended: false,
            pace,
            place: None,
            held,
            _turn: turn,
        }
    }

    /// The next piece, or nothing when all was sent.
    fn next(&mut self) -> Option<Bytes> {
        while self.begun.is_empty() {
            self.begun = self.parts.next()?;
        }
        let bytes = self.begun.len().min(limits::RANGE_PIECE_BYTES);
        let bytes = bytes.min(self.allowed);
        self.allowed -= bytes;
        self.left -= bytes;
        self.held.release(bytes);
        Some(self.begun.split_to(bytes))
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let pieces = &mut *self;
        if pieces.left > 0 && pieces.allowed == 0 {
            let pace = &pieces.pace;
            let place = pieces.place.get_or_insert_with(|| pace.place());
            // Whoever gives turns is gone only when the runtime ends.
            let given = ready!(Pin::new(place).poll(cx)).unwrap_or(1);
            pieces.place = None;
            pieces.allowed = given * limits::RANGE_PIECE_BYTES;
        }
        if let Some(piece) = self.next() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        assert_eq!(self.left, 0, "the message is as long as was said");
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::trailers(unary::well()))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use prost::Message as _;

    use super::*;
    use crate::pb::{etcdserverpb::ResponseHeader, mvccpb::KeyValue};

    fn response(records: usize) -> RangeResponse {
        let kv = |number: usize| KeyValue {
            key: format!("k{number:06}").into(),
            value: vec![b'v'; number % 300].into(),
            mod_revision: i64::try_from(number).unwrap(),
            ..KeyValue::default()
        };
        RangeResponse {
            header: Some(ResponseHeader {
                revision: 9,
                ..ResponseHeader::default()
            }),
            kvs: (0..records).map(kv).collect(),
            more: true,
            count: 1 << 40,
        }
    }

    #[tokio::test]
    async fn pieces_are_the_message_and_let_their_turn_go() {
        let turns = Turns::default();
        let wanted = RangeRequest {
            key: "a".into(),
            range_end: "b".into(),
            ..RangeRequest::default()
        };
        let turn = turns.wait(&wanted).await.unwrap();
        assert!(turn.is_some());
        assert_eq!(turns.free.available_permits(), limits::LARGE_READS_MAX - 1);
        let whole = response(5000);
        let Ok(large) = turns.large(parted(whole.clone()).await, turn) else {
            panic!("it is large");
        };
        let mut body = large.into_body().expect("not taken before");
        let mut bytes = bytes::BytesMut::new();
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(piece) => {
                    assert!(piece.len() <= limits::RANGE_PIECE_BYTES);
                    bytes.extend_from_slice(&piece);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
        assert_eq!(bytes[0], 0);
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
        assert_eq!(length as usize, bytes.len() - 5);
        assert_eq!(RangeResponse::decode(&bytes[5..]).unwrap(), whole);
        drop(body);
        assert_eq!(*turns.held.borrow(), 0, "nothing is held of what was sent");
        assert_eq!(turns.free.available_permits(), limits::LARGE_READS_MAX);
        let small = turns.large(parted(response(3)).await, None);
        assert_eq!(small.err(), Some(response(3)), "a small one is not");
    }

    #[tokio::test]
    async fn the_next_waits_for_its_turn_but_not_for_ever() {
        let turns = Turns::default();
        let wanted = RangeRequest {
            key: "a".into(),
            range_end: "b".into(),
            ..RangeRequest::default()
        };
        let mut held = Vec::new();
        for _ in 0..limits::LARGE_READS_MAX {
            held.push(turns.wait(&wanted).await.unwrap());
        }
        let soon = Duration::from_millis(20);
        let late = turns.within(soon, &wanted).await;
        assert_eq!(late.err(), Some(ApiError::TooManyRequests));
        let page = RangeRequest {
            limit: limits::SMALL_READ_KEYS,
            ..wanted.clone()
        };
        assert!(turns.wait(&page).await.unwrap().is_none());
        held.pop();
        assert!(turns.wait(&wanted).await.unwrap().is_some());
    }

    /// Goal: what answers hold is bounded by bytes too, and counts no more once they are dropped.
    #[tokio::test]
    async fn much_that_is_not_sent_lets_nothing_further_begin() {
        let turns = Turns::default();
        let wanted = RangeRequest {
            key: "a".into(),
            range_end: "b".into(),
            ..RangeRequest::default()
        };
        let turn = turns.wait(&wanted).await.unwrap();
        let large = turns.large(parted(response(5000)).await, turn);
        let large = large.expect("it is large");
        let bytes = *turns.held.borrow();
        assert!(bytes > 5000 * 150, "{bytes}");
        let rest = Held::new(limits::LARGE_READS_BYTES_MAX - bytes, &turns.held);
        let soon = Duration::from_millis(20);
        let late = turns.within(soon, &wanted).await;
        assert_eq!(late.err(), Some(ApiError::TooManyRequests));
        drop(large);
        assert!(turns.wait(&wanted).await.unwrap().is_some());
        drop(rest);
        assert_eq!(*turns.held.borrow(), 0);
    }
}
