//! Streams of small messages, each of which is answered before the next is asked: what a client
//! says is taken out of its frames as they come, and what it is told goes straight to what is
//! written, with no task, body or queue in between.
//!
//! Invariants: of one stream one message is asked at a time, so that answers keep their order;
//! bytes of messages that have not had their turn are not given back to the client's window, so
//! that they are bounded by it; the way is from the connection's lock to that of who is asked and
//! never back, for listeners are told with no other lock held.

use std::{fmt, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::{
    answering::send,
    frame,
    frames::MESSAGE_HEAD_BYTES,
    state::{Inbound, Shared, State},
};
use crate::api::handle::{Answer, Listen};

/// What messages mean, and answers. Going away gives up what was asked.
pub trait Talk: fmt::Debug + Send {
    /// Bytes of a message, at most.
    fn bytes_max(&self) -> usize;

    /// Asks what a message says and has the listener told; or the trailers that end the stream.
    fn ask(&mut self, message: &[u8], listener: &Arc<dyn Listen>) -> Result<(), HeaderMap>;

    /// Appends an answer with its five bytes in front; or the trailers that end the stream.
    fn tell(&mut self, answer: Answer, out: &mut BytesMut) -> Result<(), HeaderMap>;

    /// The trailers of a stream on which all is said: nothing, or something that is no message.
    fn end(&mut self, rest: &[u8]) -> HeaderMap;
}

/// One such stream.
#[derive(Debug)]
pub(super) struct Talking {
    talk: Box<dyn Talk>,
    listener: Arc<dyn Listen>,
    /// What came and has not had its turn.
    held: BytesMut,
    /// Bytes of it, the last ones, that were not given back to the client's window.
    owed: usize,
    /// A message was asked, and its answer is not yet with what is written.
    busy: bool,
}

/// What has to be done after a look at what was said.
#[derive(Default, Debug)]
pub(super) struct Step {
    /// Bytes that may be given back.
    taken: usize,
    /// The trailers, at the end.
    end: Option<HeaderMap>,
}

/// What stands in front of some bytes.
enum Front {
    /// A message of so many bytes, behind its head.
    Message(usize),
    /// More has to come.
    Part,
    /// Nothing that could become a message.
    Odd,
}

impl Talking {
    pub fn new<P: Send + Sync + 'static>(
        talk: Box<dyn Talk>,
        shared: Shared<P>,
        stream: u32,
    ) -> Self {
        Self {
            talk,
            listener: Arc::new(Outlet { shared, stream }),
            held: BytesMut::new(),
            owed: 0,
            busy: false,
        }
    }

    /// Bytes that were not given back to the client's window.
    pub fn owed(&self) -> usize {
        self.owed
    }

    /// Takes in what came; `ended` if it was the last.
    pub fn take(&mut self, mut data: &[u8], ended: bool) -> Step {
        let mut taken = 0;
        // Most often this is one message, and nothing waits: then nothing is copied.
        if !self.busy
            && self.held.is_empty()
            && let Front::Message(length) = self.front(data)
        {
            let (message, rest) = data.split_at(MESSAGE_HEAD_BYTES + length);
            if let Err(trailers) = self.ask(&message[MESSAGE_HEAD_BYTES..]) {
                return Step {
                    taken: data.len(),
                    end: Some(trailers),
                };
            }
            taken = message.len();
            data = rest;
        }
        self.held.extend_from_slice(data);
        self.owed += data.len();
        let mut step = self.go_on(ended);
        step.taken += taken;
        step
    }

    /// Asks the next message if its turn has come.
    fn go_on(&mut self, ended: bool) -> Step {
        if self.busy {
            return Step::default();
        }
        let end = match self.front(&self.held) {
            Front::Message(length) => {
                let held = std::mem::take(&mut self.held);
                let asked = self.ask(&held[MESSAGE_HEAD_BYTES..][..length]);
                self.held = held;
                self.held.advance(MESSAGE_HEAD_BYTES + length);
                asked.err()
            }
            Front::Part if !ended => None,
            Front::Part | Front::Odd => Some(self.talk.end(&self.held)),
        };
        if end.is_some() {
            self.held.clear();
        }
        let owed = match self.busy {
            true => self.owed.min(self.held.len()),
            false => 0, // of the message that is awaited, or at the end
        };
        Step {
            taken: std::mem::replace(&mut self.owed, owed) - owed,
            end,
        }
    }

    fn ask(&mut self, message: &[u8]) -> Result<(), HeaderMap> {
        self.talk.ask(message, &self.listener)?;
        self.busy = true;
        Ok(())
    }

    fn front(&self, bytes: &[u8]) -> Front {
        let Some(([compressed, length @ ..], message)) =
            bytes.split_first_chunk::<MESSAGE_HEAD_BYTES>()
        else {
            return Front::Part;
        };
        let length = u32::from_be_bytes(*length) as usize;
        if *compressed != 0 || length > self.talk.bytes_max() {
            Front::Odd
        } else if message.len() < length {
            Front::Part
        } else {
            Front::Message(length)
        }
    }
}

impl<P> State<P> {
    /// Does what came of a look at what was said on a stream.
    pub fn on_step(&mut self, id: u32, step: Step) {
        self.take_of(id, step.taken);
        if let Some(trailers) = step.end {
            self.put_trailers(id, &trailers);
            self.finish(id);
        }
    }

    /// The answer is with what is written.
    fn on_told(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && let Inbound::Talk(talking) = &mut stream.inbound
        {
            talking.busy = false;
            let step = talking.go_on(stream.ended);
            self.on_step(id, step);
        }
    }

    /// Appends an answer. What the client takes no bytes of yet comes back.
    fn tell(&mut self, id: u32, answer: Answer) -> Option<Bytes> {
        let has_room = self.has_room();
        let stream = self.streams.get_mut(&id)?;
        let Inbound::Talk(talking) = &mut stream.inbound else {
            unreachable!("a stream that talks does so to its end");
        };
        assert!(talking.busy, "an answer belongs to a question");
        let out = self.out.small();
        let start = out.len();
        frame::put_head(out, 0, frame::DATA, 0, id);
        let data = out.len();
        if let Err(trailers) = talking.talk.tell(answer, out) {
            out.truncate(start);
            let taken = std::mem::take(&mut talking.owed);
            let end = Some(trailers);
            self.on_step(id, Step { taken, end });
            return None;
        }
        let length = out.len() - data;
        let bytes = i64::try_from(length).expect("an answer is small");
        if !has_room || bytes > self.window.min(stream.window) || length > frame::FRAME_BYTES_MAX {
            let late = out.split_off(data).freeze();
            out.truncate(start);
            return Some(late);
        }
        frame::put_length(&mut out[start..], length);
        self.window -= bytes;
        stream.window -= bytes;
        self.spoke = true;
        self.wake_driver();
        self.on_told(id);
        None
    }
}

/// Tells a stream the answers to what it asks.
struct Outlet<P> {
    shared: Shared<P>,
    stream: u32,
}

impl<P> fmt::Debug for Outlet<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outlet({})", self.stream)
    }
}

impl<P: Send + Sync + 'static> Listen for Outlet<P> {
    fn answered(&self, answer: Answer) {
        let late = self.shared.lock().tell(self.stream, answer);
        let Some(late) = late else { return };
        let (shared, stream) = (self.shared.clone(), self.stream);
        tokio::spawn(async move {
            // A stream that is gone meanwhile is told nothing.
            if send(&shared, stream, late, false).await.is_ok() {
                shared.lock().on_told(stream);
            }
        });
    }
}
