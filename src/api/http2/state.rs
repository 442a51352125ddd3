//! What one connection is at the moment, shared by its driver and the tasks that answer.
//!
//! Invariants: what waits to be written is bounded by `OUT_BYTES_MAX`, one frame for each that
//! found room, and the small frames that answer what was read, for nothing is read while there is
//! no room; bytes of requests that were taken in are given back to the client's window once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::task::AbortHandle;

use super::{
    CONNECTION_WINDOW_BYTES, Prepared, STREAM_WINDOW_BYTES,
    frame::{self, Reason},
    hpack::Encoder,
    outbox::Outbox,
    talk::Talking,
};

/// Bytes that may wait to be written before answers have to wait too.
pub(super) const OUT_BYTES_MAX: usize = 128 * 1024;

/// Streams remembered as cut: more than a client can have said in the time of its ignorance.
const CUT_MAX: usize = 1024;

/// A queue that is not worth a look.
const WAITING_MIN: usize = 64;

/// One connection. Clones are the same one.
#[derive(Debug)]
pub(super) struct Shared<P>(Arc<Mutex<State<P>>>);

impl<P> Clone for Shared<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> Shared<P> {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State::new())))
    }

    pub fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct State<P> {
    pub out: Outbox,
    pub streams: BTreeMap<u32, Stream<P>>,
    pub encoder: Encoder,
    /// Bytes that the client lets us send on all streams together.
    pub window: i64,
    /// What it lets us send on a stream that begins.
    pub stream_window: i64,
    /// The longest frame it takes.
    pub frame_max: usize,
    /// Bytes the client may still send us on all streams together.
    pub inbound_window: i64,
    /// Bytes that were taken in since it was told.
    taken: u32,
    /// Streams that wait for room in `out` or in `window`.
    waiting: VecDeque<u32>,
    driver: Option<Waker>,
    /// Streams that we ended before the client had: it may not know yet.
    cut: BTreeSet<u32>,
    /// Data or headers were sent since the last ping.
    pub spoke: bool,
    /// The connection is over.
    pub over: bool,
}

/// One stream that neither side has given up, and that we have not ended.
#[derive(Debug)]
pub(super) struct Stream<P> {
    pub inbound: Inbound<P>,
    /// The client has said everything.
    pub ended: bool,
    /// Bytes of the body that are still to come, where the client said how many there are.
    pub length_left: Option<u64>,
    /// Bytes that the client lets us send; below zero when it took some back.
    pub window: i64,
    /// Bytes the client may still send us.
    pub inbound_window: i64,
    /// Bytes that were taken in since it was told.
    taken: u32,
    /// Who sends waits with it.
    sender: Option<Waker>,
    is_waiting: bool,
    /// The task that answers.
    pub task: Option<AbortHandle>,
}

/// What a client sends on a stream.
#[derive(Debug)]
pub(super) enum Inbound<P> {
    /// A call that may go the short way is being gathered.
    Gathered(Arc<Prepared<P>>, BytesMut),
    /// Pieces that wait for whoever reads the body, and who that is.
    Pieces(VecDeque<Bytes>, Option<Waker>),
    /// Messages that are answered in turn.
    Talk(Talking),
    /// Nobody reads the body any more.
    Ignored,
}

impl<P> Stream<P> {
    /// A stream that begins.
    pub fn new(inbound: Inbound<P>, window: i64, length_left: Option<u64>) -> Self {
        Self {
            inbound,
            ended: false,
            length_left,
            window,
            inbound_window: i64::from(STREAM_WINDOW_BYTES),
            taken: 0,
            sender: None,
            is_waiting: false,
            task: None,
        }
    }

    pub fn wake_sender(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    pub fn wake_reader(&mut self) {
        if let Inbound::Pieces(_, reader) = &mut self.inbound
            && let Some(reader) = reader.take()
        {
            reader.wake();
        }
    }
}

/// The stream is gone: nobody hears what is said on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gone;

impl<P> State<P> {
    fn new() -> Self {
        Self {
            out: Outbox::default(),
            streams: BTreeMap::new(),
            encoder: Encoder::default(),
            window: frame::WINDOW_DEFAULT,
            stream_window: frame::WINDOW_DEFAULT,
            frame_max: frame::FRAME_BYTES_MAX,
            inbound_window: i64::from(CONNECTION_WINDOW_BYTES),
            taken: 0,
            waiting: VecDeque::new(),
            driver: None,
            cut: BTreeSet::new(),
            spoke: false,
            over: false,
        }
    }

    /// The driver's task looks at the connection when something changes.
    pub fn drive_with(&mut self, waker: &Waker) {
        match &self.driver {
            Some(known) if known.will_wake(waker) => {}
            Some(_) | None => self.driver = Some(waker.clone()),
        }
    }

    /// Something is to be written, or the last stream is over.
    pub fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    /// Whether answers find room.
    pub fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES_MAX
    }

    /// Lets all go on that waited for room or for the window, in their order.
    pub fn wake_waiting(&mut self) {
        while let Some(stream) = self.waiting.pop_front() {
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.is_waiting = false;
                stream.wake_sender();
            }
        }
    }

    /// How many of these bytes may be sent now on a stream; waits until it is one at least.
    pub fn poll_room(
        &mut self,
        id: u32,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Gone>> {
        let has_room = self.has_room();
        let window = self.window;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Gone));
        };
        let open = usize::try_from(window.min(stream.window)).unwrap_or(0);
        let some = bytes.min(open).min(self.frame_max);
        if has_room && (some > 0 || bytes == 0) {
            return Poll::Ready(Ok(some));
        }
        stream.sender = Some(cx.waker().clone());
        // Who waits for its own window is woken by it alone.
        if (!has_room || window <= 0) && !std::mem::replace(&mut stream.is_waiting, true) {
            self.waiting.push_back(id);
            self.forget_gone();
        }
        Poll::Pending
    }

    /// Streams that ended while they waited leave the queue at times, for a client that gives us
    /// no window may begin and give up as many as it likes.
    fn forget_gone(&mut self) {
        if self.waiting.len() > 2 * self.streams.len() + WAITING_MIN {
            let streams = &self.streams;
            self.waiting.retain(|id| streams.contains_key(id));
        }
    }

    /// Appends the head of an answer.
    pub fn put_head(&mut self, id: u32, status: StatusCode, headers: &HeaderMap, ends: bool) {
        let mut block = BytesMut::new();
        self.encoder.put_head(&mut block, status, headers);
        self.put_block(id, &block, ends);
    }

    /// Appends the trailers of an answer.
    pub fn put_trailers(&mut self, id: u32, trailers: &HeaderMap) {
        let mut block = BytesMut::new();
        self.encoder.put_trailers(&mut block, trailers);
        self.put_block(id, &block, true);
    }

    fn put_block(&mut self, id: u32, block: &[u8], ends: bool) {
        self.spoke = true;
        let stream_flag = if ends { frame::END_STREAM } else { 0 };
        let mut pieces = block.chunks(self.frame_max).peekable();
        let mut kind = (frame::HEADERS, stream_flag);
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() {
                frame::END_HEADERS
            } else {
                0
            };
            let out = self.out.small();
            frame::put_head(out, piece.len(), kind.0, kind.1 | last, id);
            out.extend_from_slice(piece);
            kind = (frame::CONTINUATION, 0);
        }
    }

    /// Appends some data, for which there must be room.
    pub fn put_data(&mut self, id: u32, data: Bytes, ends: bool) {
        let bytes = i64::try_from(data.len()).expect("a frame is small");
        self.window -= bytes;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.window -= bytes;
        }
        self.spoke = true;
        let flags = if ends { frame::END_STREAM } else { 0 };
        frame::put_head(self.out.small(), data.len(), frame::DATA, flags, id);
        self.out.put(data);
    }

    /// Appends a whole answer of one message and its good end, if there is room for all of it.
    pub fn put_whole(&mut self, id: u32, message: &[u8]) -> Result<bool, Gone> {
        let has_room = self.has_room();
        let stream = self.streams.get(&id).ok_or(Gone)?;
        let bytes = i64::try_from(message.len()).unwrap_or(i64::MAX);
        let open = self.window.min(stream.window);
        if !has_room || bytes > open || message.len() > self.frame_max {
            return Ok(false);
        }
        self.window -= bytes;
        self.put_well_head(id);
        let out = self.out.small();
        frame::put_head(out, message.len(), frame::DATA, 0, id);
        out.extend_from_slice(message);
        self.put_well_trailers(id);
        Ok(true)
    }

    /// Appends the head of an answer to a call that is no error.
    pub fn put_well_head(&mut self, id: u32) {
        self.framed(id, frame::END_HEADERS, Encoder::put_well_head);
    }

    /// Appends the good end of an answer to a call.
    pub fn put_well_trailers(&mut self, id: u32) {
        let flags = frame::END_HEADERS | frame::END_STREAM;
        self.framed(id, flags, Encoder::put_well_trailers);
    }

    /// Appends a block of a few bytes, whose length is put in its place when it is known.
    fn framed(&mut self, id: u32, flags: u8, block: fn(&mut Encoder, &mut BytesMut)) {
        self.spoke = true;
        let out = self.out.small();
        let start = out.len();
        frame::put_head(out, 0, frame::HEADERS, flags, id);
        block(&mut self.encoder, out);
        let length = out.len() - start - frame::HEAD_BYTES;
        out[start + 2] = u8::try_from(length).expect("two short fields");
    }

    /// We have said everything on a stream.
    pub fn finish(&mut self, id: u32) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        if !stream.ended {
            // The client need not say the rest.
            frame::put_reset(self.out.small(), id, Reason::NoError);
            self.cut(id);
        }
        self.let_go(stream);
    }

    fn cut(&mut self, id: u32) {
        self.cut.insert(id);
        if self.cut.len() > CUT_MAX {
            self.cut.pop_first();
        }
    }

    /// Whether the client may still speak on a stream that is over; the last time if it ends.
    pub fn was_cut(&mut self, id: u32, ends: bool) -> bool {
        match ends {
            true => self.cut.remove(&id),
            false => self.cut.contains(&id),
        }
    }

    /// Ends a stream by force and tells the client why.
    pub fn reset(&mut self, id: u32, reason: Reason) {
        frame::put_reset(self.out.small(), id, reason);
        self.cut(id);
        self.abandon(id);
    }

    /// Ends a stream of which the client wants to hear no more.
    pub fn abandon(&mut self, id: u32) {
        if let Some(mut stream) = self.streams.remove(&id) {
            if let Some(task) = stream.task.take() {
                task.abort();
            }
            self.let_go(stream);
        }
    }

    fn let_go(&mut self, mut stream: Stream<P>) {
        stream.wake_reader();
        stream.wake_sender();
        self.take(match &stream.inbound {
            Inbound::Pieces(pieces, _) => pieces.iter().map(Bytes::len).sum(),
            Inbound::Gathered(_, gathered) => gathered.len(),
            Inbound::Talk(talking) => talking.owed(),
            Inbound::Ignored => 0,
        });
        self.wake_driver();
    }

    /// The connection is over: all that was begun on it ends.
    pub fn end(&mut self) {
        self.over = true;
        self.out.clear();
        while let Some((id, _)) = self.streams.first_key_value() {
            let id = *id;
            self.abandon(id);
        }
    }

    /// So many bytes of requests were taken in, and the client may send as many more.
    pub fn take(&mut self, bytes: usize) {
        self.taken += u32::try_from(bytes).expect("not more than the window");
        if self.taken >= CONNECTION_WINDOW_BYTES / 2 {
            let taken = std::mem::take(&mut self.taken);
            self.inbound_window += i64::from(taken);
            frame::put_window_update(self.out.small(), 0, taken);
            self.wake_driver();
        }
    }

    /// The same of one stream.
    pub fn take_of(&mut self, id: u32, bytes: usize) {
        self.take(bytes);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.taken += u32::try_from(bytes).expect("not more than the window");
        if stream.taken >= STREAM_WINDOW_BYTES / 2 && !stream.ended {
            let taken = std::mem::take(&mut stream.taken);
            stream.inbound_window += i64::from(taken);
            frame::put_window_update(self.out.small(), id, taken);
            self.wake_driver();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a client begins and gives up leaves nothing behind, whatever it waited for.
    #[test]
    fn streams_that_are_given_up_leave_no_trace() {
        let mut state: State<()> = State::new();
        state.window = 0;
        let mut cx = Context::from_waker(Waker::noop());
        for id in (1..100_000).step_by(2) {
            let inbound = Inbound::Pieces(VecDeque::new(), None);
            state.streams.insert(id, Stream::new(inbound, 100, None));
            assert!(state.poll_room(id, 10, &mut cx).is_pending());
            state.reset(id, Reason::Refused);
        }
        assert!(state.waiting.len() <= WAITING_MIN + 1);
        assert!(state.cut.len() <= CUT_MAX);
    }
}
