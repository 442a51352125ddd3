//! What a run did: a running hash over every event and effect, and, when asked for, lines in fixed
//! columns.
//!
//! Invariant: whether lines are kept or not changes neither the hash nor the run.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
};

use fated::{
    kernel::{
        Digest, DiskError, DiskOp, DiskOutcome, Effect, Event, Instant, LinkOp, LogIndex, MemberId,
        Response, StreamItem, Term, trace::TraceLine,
    },
    node::wire,
};

/// Lines that are kept for the story of a failure.
const LINES_KEPT: usize = 4000;
/// A line's last column is cut here.
const WHAT_CHARS_MAX: usize = 240;

/// The trace of a run.
#[derive(Debug)]
pub struct Trace {
    hash: Digest,
    steps: u64,
    marks: Option<Vec<u64>>,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Nowhere,
    /// The last lines up to a time.
    Kept(VecDeque<String>, u64),
    File(BufWriter<File>),
}

/// How much of a run is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// The hash.
    #[default]
    Hash,
    /// The hash after each step too.
    Marks,
    /// The last lines.
    Lines,
    /// The last lines up to this virtual time.
    Until(u64),
    /// All lines, in a file.
    File(String),
}

/// What a member looked like after its last turn.
#[derive(Clone, Debug)]
pub struct View {
    pub role: &'static str,
    pub term: Term,
    pub commit: LogIndex,
    pub applied: LogIndex,
    pub durable: LogIndex,
    pub revision: i64,
}

impl Default for View {
    fn default() -> Self {
        Self {
            role: "down",
            term: Term::ZERO,
            commit: LogIndex::ZERO,
            applied: LogIndex::ZERO,
            durable: LogIndex::ZERO,
            revision: 0,
        }
    }
}

impl Trace {
    /// An empty trace.
    pub fn new(keep: &Keep) -> io::Result<Self> {
        let sink = match keep {
            Keep::Hash | Keep::Marks => Sink::Nowhere,
            Keep::Lines => Sink::Kept(VecDeque::new(), u64::MAX),
            Keep::Until(time) => Sink::Kept(VecDeque::new(), *time),
            Keep::File(path) => Sink::File(BufWriter::new(File::create(Path::new(path))?)),
        };
        Ok(Self {
            hash: Digest::EMPTY,
            steps: 0,
            marks: (*keep == Keep::Marks).then(Vec::new),
            sink,
        })
    }

    /// Takes in one thing that happened.
    pub fn note(&mut self, now: u64, member: u64, payload: u64) {
        self.steps += 1;
        self.hash.number(now);
        self.hash.number(member);
        self.hash.number(payload);
        if let Some(marks) = &mut self.marks {
            marks.push(self.hash.value());
        }
    }

    /// Whether lines are wanted.
    pub fn has_lines(&self) -> bool {
        !matches!(self.sink, Sink::Nowhere)
    }

    /// Adds a line about a member.
    pub fn line(&mut self, now: u64, member: MemberId, view: &View, what: &str) {
        if matches!(self.sink, Sink::Kept(_, until) if now > until) {
            return;
        }
        let mut what: String = what.chars().take(WHAT_CHARS_MAX).collect();
        what.retain(|char| char != '\n');
        let line = TraceLine {
            now: Instant::from_nanos(now),
            member,
            role: view.role,
            what,
            term: view.term,
            commit: view.commit,
            applied: view.applied,
            durable: view.durable,
            revision: view.revision,
        };
        self.push(format!("{:>8} {line}", self.steps));
    }

    fn push(&mut self, line: String) {
        match &mut self.sink {
            Sink::Nowhere => {}
            Sink::Kept(lines, _) => {
                if lines.len() == LINES_KEPT {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
            // The file is for a reader; a full disk must not end the run.
            Sink::File(file) => drop(writeln!(file, "{line}")),
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash.value()
    }

    /// How much happened so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The hash after each step, if it was kept.
    pub fn take_marks(&mut self) -> Vec<u64> {
        self.marks.take().unwrap_or_default()
    }

    /// The last lines, if they were kept.
    pub fn take_lines(&mut self) -> Vec<String> {
        match &mut self.sink {
            Sink::Kept(lines, _) => lines.drain(..).collect(),
            Sink::Nowhere | Sink::File(_) => Vec::new(),
        }
    }
}

/// A number for what came in.
pub fn digest_event(event: &Event) -> u64 {
    let mut digest = Digest::EMPTY;
    let d = &mut digest;
    match event {
        Event::Call { call, request, .. } => {
            d.number(1);
            d.number(call.get());
            debug(d, request);
        }
        Event::Cancel { call } => numbers(d, &[2, call.get()]),
        Event::StreamOpened { stream, .. } => numbers(d, &[3, stream.get()]),
        Event::StreamItem { stream, item } => {
            numbers(d, &[4, stream.get()]);
            debug(d, item);
        }
        Event::StreamCredit { stream, bytes } => numbers(d, &[5, stream.get(), *bytes]),
        Event::StreamClosed { stream } => numbers(d, &[6, stream.get()]),
        Event::LinkUp {
            link,
            peer,
            outgoing,
        } => numbers(d, &[7, link.get(), peer.get(), u64::from(*outgoing)]),
        Event::Frame { link, bytes } => {
            numbers(d, &[8, link.get()]);
            d.bytes(bytes);
        }
        Event::LinkDown { link, .. } => numbers(d, &[9, link.get()]),
        Event::DiskDone { ticket, outcome } => {
            numbers(d, &[10, ticket.get()]);
            digest_outcome(d, outcome);
        }
        Event::Signal(_) => d.number(11),
    }
    digest.value()
}

fn digest_outcome(d: &mut Digest, outcome: &Result<DiskOutcome, DiskError>) {
    match outcome {
        Ok(DiskOutcome::Done) => d.number(1),
        Ok(DiskOutcome::Backend(size)) => numbers(d, &[2, size.file_bytes]),
        Ok(DiskOutcome::Rewriting) => d.number(6),
        Ok(DiskOutcome::SnapshotOpened { bytes_estimate }) => numbers(d, &[3, *bytes_estimate]),
        Ok(DiskOutcome::SnapshotChunk { data, .. }) => {
            d.number(4);
            d.bytes(data);
        }
        Err(error) => numbers(d, &[5, error.kind as u64]),
    }
}

/// A number for what went out.
pub fn digest_effect(effect: &Effect) -> u64 {
    let mut digest = Digest::EMPTY;
    let d = &mut digest;
    match effect {
        Effect::Disk { ticket, op } => {
            numbers(d, &[21, ticket.get()]);
            digest_op(d, op);
        }
        Effect::Link(LinkOp::Dial { link, peer, .. }) => {
            numbers(d, &[22, link.get(), peer.get()]);
        }
        Effect::Link(LinkOp::Send { link, bytes }) => {
            numbers(d, &[23, link.get()]);
            d.bytes(bytes);
        }
        Effect::Link(LinkOp::Close { link }) => numbers(d, &[24, link.get()]),
        Effect::Reply { call, result } => {
            numbers(d, &[25, call.get()]);
            match result {
                Ok(Response::Put(response)) => encoded(d, response),
                Ok(Response::Range(response)) => encoded(d, response),
                Ok(Response::PartedRange(range)) => encoded(d, &range.clone().joined()),
                Ok(Response::Txn(response)) => encoded(d, response),
                Ok(Response::PartedTxn(txn)) => encoded(d, &txn.clone().joined()),
                Ok(response) => debug(d, response),
                Err(error) => d.number(u64::from(error.number())),
            }
        }
        Effect::Stream { stream, item } => {
            numbers(d, &[26, stream.get()]);
            match item {
                StreamItem::Watch { response, .. } => encoded(d, response.as_ref()),
                StreamItem::Alike {
                    watch, response, ..
                } => {
                    d.number(watch.get().cast_unsigned());
                    encoded(d, response.as_ref());
                }
                StreamItem::End(error) => d.number(u64::from(error.number())),
            }
        }
        Effect::Log(line) => {
            d.number(27);
            d.bytes(line.message.as_bytes());
        }
        Effect::Ready => d.number(28),
        Effect::Halt(fault) => {
            d.number(29);
            debug(d, fault);
        }
    }
    digest.value()
}

fn digest_op(d: &mut Digest, op: &DiskOp) {
    match op {
        DiskOp::WalPrepare { segment, bytes } => numbers(d, &[1, segment.get(), *bytes]),
        DiskOp::WalWrite {
            segment,
            offset,
            bytes,
            ..
        } => {
            numbers(d, &[2, segment.get(), *offset]);
            d.bytes(bytes);
        }
        DiskOp::WalRemove { before } => numbers(d, &[3, before.get()]),
        DiskOp::Commit { batch } => {
            let id = batch.consistent;
            let figures = [id.term.get(), id.index.get(), batch.state_hash];
            d.number(4);
            numbers(d, &figures);
            numbers(d, &[batch.operations as u64, batch.bytes as u64]);
        }
        DiskOp::Defragment { bytes_max } => numbers(d, &[5, *bytes_max as u64]),
        DiskOp::RemoveReplaced => d.number(14),
        DiskOp::SnapshotOpen { id } => numbers(d, &[6, id.get()]),
        DiskOp::SnapshotRead { id, .. } => numbers(d, &[7, id.get()]),
        DiskOp::SnapshotClose { id } => numbers(d, &[8, id.get()]),
        DiskOp::StageOpen { id } => numbers(d, &[9, id.get()]),
        DiskOp::StageWrite { id, data } => {
            numbers(d, &[10, id.get()]);
            d.bytes(data);
        }
        DiskOp::StageSeal { id } => numbers(d, &[11, id.get()]),
        DiskOp::StageInstall { id } => numbers(d, &[12, id.get()]),
        DiskOp::StageDrop { id } => numbers(d, &[13, id.get()]),
    }
}

fn numbers(digest: &mut Digest, numbers: &[u64]) {
    numbers.iter().for_each(|number| digest.number(*number));
}

fn encoded(digest: &mut Digest, message: &impl prost::Message) {
    digest.bytes(&message.encode_to_vec());
}

fn debug(digest: &mut Digest, value: &impl std::fmt::Debug) {
    let mut text = String::new();
    write!(text, "{value:?}").expect("a string takes everything");
    digest.bytes(text.as_bytes());
}

/// What came in, in words.
pub fn show_event(event: &Event) -> String {
    match event {
        Event::Frame { link, bytes } => {
            format!("<- frame {link} {}", show_frame(bytes))
        }
        Event::DiskDone {
            ticket,
            outcome: Ok(_),
        } => format!("<- disk done {ticket}"),
        Event::Call { .. }
        | Event::Cancel { .. }
        | Event::StreamOpened { .. }
        | Event::StreamItem { .. }
        | Event::StreamCredit { .. }
        | Event::StreamClosed { .. }
        | Event::LinkUp { .. }
        | Event::LinkDown { .. }
        | Event::DiskDone { .. }
        | Event::Signal(_) => format!("<- {event:?}"),
    }
}

/// What went out, in words.
pub fn show_effect(effect: &Effect) -> String {
    match effect {
        Effect::Link(LinkOp::Send { link, bytes }) => {
            format!("-> frame {link} {}", show_frame(bytes))
        }
        Effect::Disk {
            ticket,
            op:
                DiskOp::WalWrite {
                    segment,
                    offset,
                    bytes,
                    ..
                },
        } => format!(
            "-> disk {ticket} write {segment} at {offset}, {} bytes",
            bytes.len()
        ),
        Effect::Disk {
            ticket,
            op: DiskOp::Commit { batch },
        } => format!("-> disk {ticket} commit {:?}", batch.consistent),
        Effect::Disk { .. }
        | Effect::Link(_)
        | Effect::Reply { .. }
        | Effect::Stream { .. }
        | Effect::Log(_)
        | Effect::Ready
        | Effect::Halt(_) => format!("-> {effect:?}"),
    }
}

fn show_frame(bytes: &bytes::Bytes) -> String {
    match wire::decode(bytes.clone()) {
        Some(wire::Frame::Raft(message)) => format!("{message:?}"),
        Some(wire::Frame::Peer(message)) => format!("{message:?}"),
        None => "that cannot be read".to_owned(),
    }
}
