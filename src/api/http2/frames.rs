//! What each frame of a client means, and what must not be there (RFC 9113 sections 5 and 6).

use std::{collections::VecDeque, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tonic::body::Body;

use super::{
    Prepared, Rules, Serve,
    answering::Answering,
    driver::{FIELDS_BYTES_MAX, Fatal},
    frame::{self, Head, Reason, setting},
    head,
    hpack::{Decoder, Field, Fields, Name},
    inbound,
    police::{self, Police, Scene},
    state::{Inbound, Shared, State, Stream},
    talk::Talking,
};

/// Bytes of a call that goes the short way, at most.
const GATHERED_BYTES_MAX: usize = 64 * 1024;
/// Bytes in front of a message.
pub(super) const MESSAGE_HEAD_BYTES: usize = 5;
const PRIORITY_BYTES: usize = 5;
/// Settings that may come with one read: each may be a look at every stream.
const SETTINGS_MAX: u32 = 100;

/// A header block of which more is to come.
struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
}

type Known<P> = Arc<Prepared<P>>;

/// What a block asks for.
enum Asked<P> {
    Request(Known<P>),
    Malformed,
    TooLarge,
}

/// Reads the frames of one client.
pub(super) struct Reading<V: Serve> {
    service: V,
    rules: Rules,
    shared: Shared<V::Plan>,
    decoder: Decoder,
    police: Police,
    /// Bytes of the preface that have come.
    preface: usize,
    /// The first frame, which must be settings, has come.
    begun: bool,
    block: Option<Block>,
    /// The last block of a request, and what it means while the client's table stays the same.
    last: Option<(Vec<u8>, Known<V::Plan>)>,
    /// The highest stream that the client has begun.
    highest: u32,
    /// No stream may begin any more.
    closing: bool,
    /// Settings that came with one read.
    settings: u32,
}

const fn fatal(reason: Reason) -> Fatal {
    Fatal(reason, b"")
}

const PROTOCOL: Fatal = fatal(Reason::Protocol);
const FRAME_SIZE: Fatal = fatal(Reason::FrameSize);
const FLOW_CONTROL: Fatal = fatal(Reason::FlowControl);

impl<V: Serve> Reading<V> {
    pub fn new(service: V, rules: Rules, shared: Shared<V::Plan>) -> Self {
        Self {
            service,
            police: Police::new(rules.ping_apart_min),
            rules,
            shared,
            decoder: Decoder::new(),
            preface: 0,
            begun: false,
            block: None,
            last: None,
            highest: 0,
            closing: false,
            settings: 0,
        }
    }

    /// The highest stream that was looked at.
    pub fn last_stream(&self) -> u32 {
        self.highest
    }

    /// Refuses what would begin from now on.
    pub fn begin_no_more(&mut self) {
        self.closing = true;
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.closing && self.shared.lock().streams.is_empty()
    }

    /// Takes in what came; the rest is the beginning of a frame.
    pub fn take<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Fatal> {
        self.settings = 0;
        let expected = &super::PREFACE[self.preface..];
        if !expected.is_empty() {
            let count = expected.len().min(bytes.len());
            if bytes[..count] != expected[..count] {
                return Err(PROTOCOL);
            }
            self.preface += count;
            bytes = &bytes[count..];
        }
        while let Some(head) = Head::read(bytes) {
            if head.length > frame::FRAME_BYTES_MAX {
                return Err(FRAME_SIZE);
            }
            let Some((frame, rest)) = bytes.split_at_checked(frame::HEAD_BYTES + head.length)
            else {
                break;
            };
            bytes = rest;
            self.on_frame(head, &frame[frame::HEAD_BYTES..])?;
        }
        Ok(bytes)
    }

    fn on_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        if !std::mem::replace(&mut self.begun, true)
            && (head.kind != frame::SETTINGS || head.has(frame::ACK))
        {
            return Err(PROTOCOL);
        }
        if let Some(block) = &self.block
            && (head.kind != frame::CONTINUATION || head.stream != block.stream)
        {
            return Err(PROTOCOL);
        }
        match head.kind {
            frame::DATA => self.on_data(head, payload),
            frame::HEADERS => self.on_headers(head, payload),
            frame::CONTINUATION => self.on_continuation(head, payload),
            frame::PRIORITY => self.on_priority(head, payload),
            frame::RST_STREAM => self.on_reset(head, payload),
            frame::SETTINGS => self.on_settings(head, payload),
            frame::PING => self.on_ping(head, payload),
            frame::WINDOW_UPDATE => self.on_window_update(head, payload),
            frame::GOAWAY if head.stream != 0 => Err(PROTOCOL),
            frame::GOAWAY if payload.len() < 8 => Err(FRAME_SIZE),
            frame::PUSH_PROMISE => Err(PROTOCOL),
            // A client that goes away has its calls answered first; what is unknown is ignored.
            _ => Ok(()),
        }
    }

    /// A stream that a client may speak on: not ours, and not one it has not begun.
    fn must_have_begun(&self, stream: u32) -> Result<(), Fatal> {
        match stream == 0 || stream.is_multiple_of(2) || stream > self.highest {
            true => Err(PROTOCOL),
            false => Ok(()),
        }
    }

    fn on_data(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        self.must_have_begun(head.stream)?;
        let data = frame::unpadded(head, payload).ok_or(PROTOCOL)?;
        let shared = self.shared.clone();
        let mut guard = shared.lock();
        let state = &mut *guard;
        // Padding counts as well.
        let bytes = payload.len();
        state.inbound_window -= bytes as i64;
        if state.inbound_window < 0 {
            return Err(FLOW_CONTROL);
        }
        let stream = match state.streams.get_mut(&head.stream) {
            Some(stream) if !stream.ended => stream,
            Some(_) | None => {
                if !state.was_cut(head.stream, head.has(frame::END_STREAM)) {
                    state.reset(head.stream, Reason::StreamClosed);
                }
                state.take(bytes);
                return Ok(());
            }
        };
        stream.inbound_window -= bytes as i64;
        let ends = head.has(frame::END_STREAM);
        let odd = if stream.inbound_window < 0 {
            Some(Reason::FlowControl)
        } else if !stream.counts(data.len(), ends) {
            Some(Reason::Protocol)
        } else {
            None
        };
        if let Some(reason) = odd {
            state.reset(head.stream, reason);
            state.take(bytes);
            return Ok(());
        }
        stream.ended = ends;
        let padding = bytes - data.len();
        match &mut stream.inbound {
            Inbound::Pieces(pieces, _) => {
                if !data.is_empty() {
                    pieces.push_back(Bytes::copy_from_slice(data));
                }
                stream.wake_reader();
            }
            Inbound::Ignored => state.take_of(head.stream, data.len()),
            Inbound::Talk(talking) => {
                let step = talking.take(data, ends);
                state.on_step(head.stream, step);
            }
            Inbound::Gathered(prepared, gathered) => {
                gathered.extend_from_slice(data);
                if ends || gathered.len() > GATHERED_BYTES_MAX {
                    let prepared = Arc::clone(prepared);
                    self.on_gathered(state, head.stream, &prepared);
                }
            }
        }
        if padding > 0 {
            state.take_of(head.stream, padding);
        }
        Ok(())
    }

    /// All of a call has come, or too much for the short way.
    fn on_gathered(&self, state: &mut State<V::Plan>, id: u32, prepared: &Prepared<V::Plan>) {
        let stream = state.streams.get_mut(&id).expect("it was gathered on it");
        let Inbound::Gathered(_, gathered) = &mut stream.inbound else {
            unreachable!("only what is gathered comes here");
        };
        let whole = std::mem::take(gathered).freeze();
        if stream.ended
            && is_one_message(&whole)
            && let Some(plan) = &prepared.plan
            && let Ok(answer) = self.service.begin(plan, whole.slice(MESSAGE_HEAD_BYTES..))
        {
            let answering = Answering::new(self.shared.clone(), id);
            let task = tokio::spawn(async move { answering.reply(answer.await).await });
            stream.inbound = Inbound::Ignored;
            stream.task = Some(task.abort_handle());
            state.take(whole.len());
            return;
        }
        let pieces = match whole.is_empty() {
            true => VecDeque::new(),
            false => VecDeque::from([whole]),
        };
        stream.inbound = Inbound::Pieces(pieces, None);
        self.answer(stream, id, prepared);
    }

    /// Has a request answered in the general way.
    fn answer(&self, stream: &mut Stream<V::Plan>, id: u32, prepared: &Prepared<V::Plan>) {
        let body = Body::new(inbound::Body::new(self.shared.clone(), id));
        let method = prepared.head.method.clone();
        let response = Box::pin(self.service.answer(prepared.head.request(body)));
        let answering = Answering::new(self.shared.clone(), id);
        let task = tokio::spawn(async move {
            let response = response.await;
            answering.response(response, &method).await;
        });
        stream.task = Some(task.abort_handle());
    }

    fn on_headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        if head.stream == 0 || head.stream.is_multiple_of(2) {
            return Err(PROTOCOL);
        }
        let mut block = frame::unpadded(head, payload).ok_or(PROTOCOL)?;
        if head.has(frame::PRIORITIZED) {
            let (priority, rest) = block.split_at_checked(PRIORITY_BYTES).ok_or(FRAME_SIZE)?;
            if depends_on(priority) == head.stream {
                return Err(PROTOCOL);
            }
            block = rest;
        }
        let ends = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return self.on_block(head.stream, ends, block);
        }
        self.block = Some(Block {
            stream: head.stream,
            ends,
            bytes: block.to_vec(),
        });
        Ok(())
    }

    fn on_continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        let mut block = self.block.take().ok_or(PROTOCOL)?;
        if block.bytes.len() + payload.len() > FIELDS_BYTES_MAX {
            return Err(fatal(Reason::EnhanceYourCalm));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(frame::END_HEADERS) {
            return self.on_block(block.stream, block.ends, &block.bytes);
        }
        // One without any bytes could be followed by the like for ever.
        if payload.is_empty() {
            return Err(fatal(Reason::EnhanceYourCalm));
        }
        self.block = Some(block);
        Ok(())
    }

    fn on_block(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Fatal> {
        let shared = self.shared.clone();
        if id <= self.highest {
            let fields = self.decode(block)?;
            let odd = |field: &Field| !matches!(field.name, Name::Header(_));
            let sound = !fields.list.iter().any(odd);
            return self.on_trailers(&mut shared.lock(), id, ends, sound);
        }
        self.highest = id;
        let prepared = self.prepare(block)?;
        let mut state = shared.lock();
        if self.closing || state.streams.len() >= self.rules.streams_max as usize {
            state.reset(id, Reason::Refused);
            return Ok(());
        }
        match prepared {
            Asked::Request(prepared) => self.begin(&mut state, id, ends, prepared),
            Asked::Malformed => state.reset(id, Reason::Protocol),
            Asked::TooLarge => {
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                state.put_head(id, status, &HeaderMap::new(), true);
                if !ends {
                    state.reset(id, Reason::NoError);
                }
            }
        }
        Ok(())
    }

    fn begin(&self, state: &mut State<V::Plan>, id: u32, ends: bool, prepared: Known<V::Plan>) {
        let length = prepared.head.length;
        if ends && length.is_some_and(|length| length > 0) {
            return state.reset(id, Reason::Protocol);
        }
        let plan = prepared.plan.as_ref().filter(|_| !ends);
        let inbound = match plan.map(|plan| self.service.talk(plan)) {
            Some(Some(talk)) => {
                // Some clients wait for it before they say anything.
                state.put_well_head(id);
                Inbound::Talk(Talking::new(talk, self.shared.clone(), id))
            }
            Some(None) => Inbound::Gathered(Arc::clone(&prepared), BytesMut::new()),
            None => Inbound::Pieces(VecDeque::new(), None),
        };
        let mut stream = Stream::new(inbound, state.stream_window, length);
        stream.ended = ends;
        if plan.is_none() {
            self.answer(&mut stream, id, &prepared);
        }
        state.streams.insert(id, stream);
    }

    /// What a block means, decoded only if it is not the one before.
    fn prepare(&mut self, block: &[u8]) -> Result<Asked<V::Plan>, Fatal> {
        if let Some((bytes, prepared)) = &self.last
            && bytes == block
        {
            return Ok(Asked::Request(Arc::clone(prepared)));
        }
        let fields = self.decode(block)?;
        if fields.over {
            return Ok(Asked::TooLarge);
        }
        let Ok(head) = head::Head::of(fields.list) else {
            return Ok(Asked::Malformed);
        };
        let plan = self.service.plan(&head);
        let prepared = Arc::new(Prepared { head, plan });
        if !fields.changed {
            self.last = Some((block.to_vec(), Arc::clone(&prepared)));
        }
        Ok(Asked::Request(prepared))
    }

    fn decode(&mut self, block: &[u8]) -> Result<Fields, Fatal> {
        let read = self.decoder.read(block, FIELDS_BYTES_MAX);
        let fields = read.map_err(|_| fatal(Reason::Compression))?;
        if fields.changed {
            self.last = None;
        }
        Ok(fields)
    }

    /// A block on a stream that has begun before; `sound` if its fields may be trailers.
    fn on_trailers(
        &self,
        state: &mut State<V::Plan>,
        id: u32,
        ends: bool,
        sound: bool,
    ) -> Result<(), Fatal> {
        let Some(stream) = state.streams.get_mut(&id) else {
            return match state.was_cut(id, ends) {
                true => Ok(()),
                false => Err(fatal(Reason::StreamClosed)),
            };
        };
        if stream.ended {
            state.reset(id, Reason::StreamClosed);
            return Ok(());
        }
        if !ends || !sound || !stream.counts(0, true) {
            state.reset(id, Reason::Protocol);
            return Ok(());
        }
        stream.ended = true;
        match &mut stream.inbound {
            Inbound::Gathered(prepared, _) => {
                let prepared = Arc::clone(prepared);
                self.on_gathered(state, id, &prepared);
            }
            Inbound::Talk(talking) => {
                let step = talking.take(&[], true);
                state.on_step(id, step);
            }
            Inbound::Pieces(..) | Inbound::Ignored => stream.wake_reader(),
        }
        Ok(())
    }

    fn on_priority(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        if head.stream == 0 {
            return Err(PROTOCOL);
        }
        let mut state = self.shared.lock();
        if payload.len() != PRIORITY_BYTES {
            state.reset(head.stream, Reason::FrameSize);
        } else if depends_on(payload) == head.stream {
            state.reset(head.stream, Reason::Protocol);
        }
        Ok(())
    }

    fn on_reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        self.must_have_begun(head.stream)?;
        if payload.len() != 4 {
            return Err(FRAME_SIZE);
        }
        let mut state = self.shared.lock();
        state.was_cut(head.stream, true);
        state.abandon(head.stream);
        Ok(())
    }

    fn on_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        if head.stream != 0 {
            return Err(PROTOCOL);
        }
        if head.has(frame::ACK) {
            return if payload.is_empty() {
                Ok(())
            } else {
                Err(FRAME_SIZE)
            };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(FRAME_SIZE);
        }
        self.settings += 1;
        if self.settings > SETTINGS_MAX {
            return Err(fatal(Reason::EnhanceYourCalm));
        }
        let mut state = self.shared.lock();
        let mut window = None;
        for mut setting in payload.chunks_exact(6) {
            let (name, value) = (setting.get_u16(), setting.get_u32());
            match name {
                setting::INITIAL_WINDOW_SIZE => window = Some(value),
                _ => set(&mut state, name, value)?,
            }
        }
        // Each is a look at every stream, so only the last of them counts.
        if let Some(window) = window {
            set_window(&mut state, i64::from(window))?;
        }
        frame::put_settings_ack(state.out.small());
        Ok(())
    }

    fn on_ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        if head.stream != 0 {
            return Err(PROTOCOL);
        }
        let payload = <[u8; 8]>::try_from(payload).map_err(|_| FRAME_SIZE)?;
        if head.has(frame::ACK) {
            return Ok(());
        }
        let mut state = self.shared.lock();
        let scene = Scene {
            now: std::time::Instant::now(),
            spoke: std::mem::take(&mut state.spoke),
            busy: !state.streams.is_empty(),
        };
        if self.police.is_too_many(scene) {
            return Err(Fatal(Reason::EnhanceYourCalm, police::STORY));
        }
        frame::put_ping(state.out.small(), frame::ACK, payload);
        Ok(())
    }

    fn on_window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        let more = <[u8; 4]>::try_from(payload).map_err(|_| FRAME_SIZE)?;
        let more = i64::from(u32::from_be_bytes(more) & (u32::MAX >> 1));
        let mut state = self.shared.lock();
        if head.stream == 0 {
            state.window += more;
            if more == 0 {
                return Err(PROTOCOL);
            }
            if state.window > frame::WINDOW_MAX {
                return Err(FLOW_CONTROL);
            }
            state.wake_waiting();
            return Ok(());
        }
        self.must_have_begun(head.stream)?;
        let Some(stream) = state.streams.get_mut(&head.stream) else {
            return Ok(()); // it ended before the client knew
        };
        stream.window += more;
        if more == 0 {
            state.reset(head.stream, Reason::Protocol);
        } else if stream.window > frame::WINDOW_MAX {
            state.reset(head.stream, Reason::FlowControl);
        } else {
            stream.wake_sender();
        }
        Ok(())
    }
}

/// Whether this is one plain message and nothing else.
fn is_one_message(bytes: &[u8]) -> bool {
    let Some(([compressed, length @ ..], message)) =
        bytes.split_first_chunk::<MESSAGE_HEAD_BYTES>()
    else {
        return false;
    };
    *compressed == 0 && u32::from_be_bytes(*length) as usize == message.len()
}

fn depends_on(priority: &[u8]) -> u32 {
    let [a, b, c, d, ..] = *priority else {
        return 0;
    };
    u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1)
}

fn set<P>(state: &mut State<P>, name: u16, value: u32) -> Result<(), Fatal> {
    match name {
        setting::HEADER_TABLE_SIZE => state.encoder.on_table_size(value),
        setting::ENABLE_PUSH if value > 1 => return Err(PROTOCOL),
        setting::MAX_FRAME_SIZE => {
            let allowed = frame::FRAME_BYTES_MAX..1 << 24;
            if !allowed.contains(&(value as usize)) {
                return Err(PROTOCOL);
            }
            // Longer frames would only hold up others.
            state.frame_max = (value as usize).min(4 * frame::FRAME_BYTES_MAX);
        }
        _ => {}
    }
    Ok(())
}

/// A stream that begins has this window, and others get or lose the difference.
fn set_window<P>(state: &mut State<P>, window: i64) -> Result<(), Fatal> {
    if window > frame::WINDOW_MAX {
        return Err(FLOW_CONTROL);
    }
    let more = window - std::mem::replace(&mut state.stream_window, window);
    for stream in state.streams.values_mut() {
        stream.window += more;
        if stream.window > frame::WINDOW_MAX {
            return Err(FLOW_CONTROL);
        }
        stream.wake_sender();
    }
    Ok(())
}

impl<P> Stream<P> {
    /// Takes note of some of the body. Says whether that is what the client said there would be.
    fn counts(&mut self, bytes: usize, ends: bool) -> bool {
        let Some(left) = &mut self.length_left else {
            return true;
        };
        match left.checked_sub(bytes as u64) {
            Some(rest) => {
                *left = rest;
                !ends || rest == 0
            }
            None => false,
        }
    }
}
