//! Clients that ping too often are sent away, as etcd does it (`--grpc-keepalive-min-time`).
//!
//! The HTTP/2 library answers pings by itself and tells nobody, so frames are followed below it,
//! both ways: which streams are open, when data or headers were sent, and when the client pings.
//! The rules are those of Go's gRPC: a ping that comes sooner than allowed is a strike, what is
//! sent to the client between two pings forgives all, and with the third strike the connection
//! ends with GOAWAY, ENHANCE_YOUR_CALM and the words `too_many_pings`, which clients understand.
//!
//! Invariants: bytes pass unchanged; our own GOAWAY goes out between two frames and is the last;
//! what is not HTTP/2 is not followed.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 0xb;
const REASON: &[u8] = b"too_many_pings";
/// Strikes that are let pass.
const STRIKES_MAX: u32 = 2;
/// Who has no stream open has no reason to ping more often than this.
const WITHOUT_STREAMS: Duration = Duration::from_secs(2 * 60 * 60);
/// Reads of what a client still says, so that its system does not throw our last word away.
const LAST_READS_MAX: usize = 64;

/// A client's socket whose pings are counted.
#[derive(Debug)]
pub struct Policed<S> {
    socket: S,
    /// None for what is not HTTP/2.
    police: Option<Box<Police>>,
}

impl<S> Policed<S> {
    /// Wraps a socket nothing has been read from. Pings may come this far apart.
    pub fn new(socket: S, apart_min: Duration) -> Self {
        Self {
            socket,
            police: Some(Box::new(Police::new(apart_min))),
        }
    }
}

/// What is known of one connection.
#[derive(Debug)]
struct Police {
    apart_min: Duration,
    /// Bytes of the preface that have come.
    preface: usize,
    inbound: Frames,
    outbound: Frames,
    /// The highest stream that the client has begun.
    highest: u32,
    /// Streams that we have not ended.
    open: BTreeSet<u32>,
    /// Data or headers were sent since the last ping.
    spoke: bool,
    strikes: u32,
    last_ping: Option<Instant>,
    /// What is left to be said before the end.
    farewell: Option<Vec<u8>>,
}

/// A place in a stream of frames.
#[derive(Default, Debug)]
struct Frames {
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
}

/// What the head of a frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frames {
    /// Goes on by some of what has come: to the end of a head, which is then told, or of the data.
    fn next(&mut self, data: &mut &[u8]) -> Option<Head> {
        while !data.is_empty() {
            let skip = self.left.min(data.len());
            *data = &data[skip..];
            self.left -= skip;
            let take = (HEAD_BYTES - self.have).min(data.len());
            self.head[self.have..self.have + take].copy_from_slice(&data[..take]);
            self.have += take;
            *data = &data[take..];
            if self.have == HEAD_BYTES {
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                self.have = 0;
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                return Some(Head {
                    kind,
                    flags,
                    stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
                });
            }
        }
        None
    }

    /// Whether the next byte begins a frame.
    fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

impl Police {
    fn new(apart_min: Duration) -> Self {
        Self {
            apart_min,
            preface: 0,
            inbound: Frames::default(),
            outbound: Frames::default(),
            highest: 0,
            open: BTreeSet::new(),
            spoke: false,
            strikes: 0,
            last_ping: None,
            farewell: None,
        }
    }

    /// Takes in what came from the client. Returns whether it is HTTP/2.
    fn follow_client(&mut self, mut came: &[u8], now: Instant) -> bool {
        let expected = &PREFACE[self.preface..];
        let count = expected.len().min(came.len());
        if came[..count] != expected[..count] {
            return false;
        }
        self.preface += count;
        came = &came[count..];
        while let Some(head) = self.inbound.next(&mut came) {
            match head.kind {
                HEADERS if head.stream > self.highest => {
                    self.highest = head.stream;
                    self.open.insert(head.stream);
                }
                RST_STREAM => {
                    self.open.remove(&head.stream);
                }
                PING if head.flags & ACK == 0 => self.on_ping(now),
                _ => {}
            }
        }
        true
    }

    /// Takes in what was sent to the client.
    fn follow_server(&mut self, mut sent: &[u8]) {
        while let Some(head) = self.outbound.next(&mut sent) {
            match head.kind {
                DATA | HEADERS => {
                    self.spoke = true;
                    if head.flags & END_STREAM != 0 {
                        self.open.remove(&head.stream);
                    }
                }
                RST_STREAM => {
                    self.open.remove(&head.stream);
                }
                _ => {}
            }
        }
    }

    fn on_ping(&mut self, now: Instant) {
        let before = self.last_ping.replace(now);
        if std::mem::take(&mut self.spoke) {
            self.strikes = 0;
            return;
        }
        let apart_min = match self.open.is_empty() {
            true => WITHOUT_STREAMS,
            false => self.apart_min,
        };
        if before.is_some_and(|before| before + apart_min > now) {
            self.strikes += 1;
        }
        if self.strikes > STRIKES_MAX && self.farewell.is_none() {
            self.farewell = Some(farewell(self.highest));
        }
    }
}

/// The frame that ends a connection.
fn farewell(highest: u32) -> Vec<u8> {
    let length = u32::try_from(8 + REASON.len()).expect("a few bytes");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[GOAWAY, 0]);
    frame.extend_from_slice(&0_u32.to_be_bytes());
    frame.extend_from_slice(&highest.to_be_bytes());
    frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend_from_slice(REASON);
    frame
}

impl<S: AsyncRead + AsyncWrite + Unpin> Policed<S> {
    /// Whether the connection is to end and nothing of ours stands half written.
    fn leaves(&self) -> bool {
        let police = self.police.as_ref();
        police.is_some_and(|police| police.farewell.is_some() && police.outbound.is_between())
    }

    /// Says the last word; then the connection is over.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let over = || io::Error::new(io::ErrorKind::ConnectionAborted, "too many pings");
        let words = self
            .police
            .as_mut()
            .and_then(|police| police.farewell.as_mut());
        let Some(words) = words else {
            return Poll::Ready(over());
        };
        while !words.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, words)) {
                Ok(0) => return Poll::Ready(over()),
                Ok(count) => drop(words.drain(..count)),
                Err(error) => return Poll::Ready(error),
            }
        }
        if let Err(error) = ready!(Pin::new(&mut self.socket).poll_shutdown(cx)) {
            return Poll::Ready(error);
        }
        let mut bytes = [0; 1024];
        for _ in 0..LAST_READS_MAX {
            let mut buf = ReadBuf::new(&mut bytes);
            let read = Pin::new(&mut self.socket).poll_read(cx, &mut buf);
            if !matches!(read, Poll::Ready(Ok(()))) || buf.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(over())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Policed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leaves() {
            return this.poll_leave(cx).map(Err);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
        if let Some(police) = &mut this.police {
            let came = &buf.filled()[before..];
            if !police.follow_client(came, Instant::now()) {
                this.police = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Policed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.leaves() {
            return this.poll_leave(cx).map(Err);
        }
        let bytes = match &this.police {
            Some(police) => police.allowed(bytes),
            None => bytes,
        };
        let count = ready!(Pin::new(&mut this.socket).poll_write(cx, bytes))?;
        if let Some(police) = &mut this.police {
            police.follow_server(&bytes[..count]);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(police) = &mut this.police else {
            return Pin::new(&mut this.socket).poll_write_vectored(cx, parts);
        };
        if police.farewell.is_some() {
            let first = parts.iter().find(|part| !part.is_empty());
            return Pin::new(this).poll_write(cx, first.map_or(&[][..], |part| &part[..]));
        }
        let count = ready!(Pin::new(&mut this.socket).poll_write_vectored(cx, parts))?;
        let mut left = count;
        for part in parts {
            let sent = left.min(part.len());
            police.follow_server(&part[..sent]);
            left -= sent;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl Police {
    /// What may still be sent: before the end only the rest of a frame that has begun.
    fn allowed<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.farewell.is_none() {
            return bytes;
        }
        let rest = match self.outbound.have {
            0 => self.outbound.left,
            have => HEAD_BYTES - have,
        };
        &bytes[..rest.min(bytes.len())]
    }
}

#[cfg(test)]
mod tests;
