//! Mends the one header in which older Go clients and our HTTP/2 library disagree.
//!
//! A Go client that is given an endpoint with a scheme, such as etcdctl 3.4 with
//! `http://127.0.0.1:2379` or with `--cluster`, sends that whole text as the pseudo header
//! `:authority`; for a unix socket it sends the path. etcd accepts both; h2 refuses the stream
//! before we can see it. So the bytes are mended below h2: `Forgiving` follows the frames a client
//! sends and leaves only the host and port of a URL, and a stand-in of a path. Nothing above it
//! uses the authority.
//!
//! Only the header blocks are read, as lists of representations (RFC 7541 section 6), without the
//! dynamic table. That is sound where the mended value is a literal which both sides then index:
//! our entry is not larger than the client's, so at any time our table holds at least the entries
//! that the client's holds, at the same indices, and a client never names what it evicted.
//!
//! Invariants:
//! - Bytes leave in the order they came, and all but mended HEADERS frames leave unchanged. What
//!   is malformed, split by CONTINUATION or longer than `FRAME_BYTES_MAX` is left for h2 to judge.
//! - At most one HEADERS frame is held back, and never for longer than it is incomplete.
//! - Once a connection's first header block needed no mending, or it is not HTTP/2 at all, reads
//!   go straight to the socket.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest frame a client may send: HTTP/2's default, which the server must not raise.
pub const FRAME_BYTES_MAX: u32 = 16 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const HELD_BYTES_MAX: usize = HEAD_BYTES + FRAME_BYTES_MAX as usize;
const KIND_HEADERS: u8 = 1;
const FLAG_END_HEADERS: u8 = 0x04;
const FLAG_PADDED: u8 = 0x08;
const FLAG_PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// `:authority` in the static table.
const NAME_AUTHORITY: usize = 1;
const HUFFMAN: u8 = 0x80;
/// Stands in for the path of a socket. One byte, as no path is shorter.
const NO_HOST: &[u8] = b"_";

/// A client's socket whose reads are mended; writes are untouched.
#[derive(Debug)]
pub struct Forgiving<S> {
    socket: S,
    /// None once there is nothing left to mend.
    follower: Option<Box<Follower>>,
}

impl<S> Forgiving<S> {
    /// Wraps a socket nothing has been read from.
    pub fn new(socket: S) -> Self {
        Self {
            socket,
            follower: Some(Box::new(Follower::new())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Forgiving<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while let Some(follower) = &mut this.follower {
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if follower.drain(buf) {
                return Poll::Ready(Ok(()));
            }
            if follower.at == Place::Through {
                this.follower = None;
                break;
            }
            // The caller's buffer is where the bytes land first; what leaves is put in its place.
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
            let came = &buf.filled()[before..];
            if came.is_empty() {
                follower.give_up();
            } else {
                follower.follow(came);
            }
            buf.set_filled(before);
        }
        Pin::new(&mut this.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Forgiving<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, parts)
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

/// Where in the client's bytes the follower stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// This many bytes of the preface have matched.
    Preface(usize),
    /// In the head of a frame.
    Head,
    /// In a HEADERS frame of this length, head included.
    Headers(usize),
    /// In another frame, of which this many bytes are to come.
    Other(usize),
    /// Nothing is to be mended any more.
    Through,
}

/// Follows the frames of one connection.
#[derive(Debug)]
struct Follower {
    at: Place,
    /// The frame that is being read. Invariant: at most `HELD_BYTES_MAX`.
    held: Vec<u8>,
    /// What may leave, from `left` on. Invariant: empty whenever more is read from the socket.
    ready: Vec<u8>,
    left: usize,
    /// Whether this client needs mending. Until it is known, the first header block decides.
    mended: bool,
}

impl Follower {
    fn new() -> Self {
        Self {
            at: Place::Preface(0),
            held: Vec::new(),
            ready: Vec::new(),
            left: 0,
            mended: false,
        }
    }

    /// Takes in what came from the client.
    fn follow(&mut self, mut came: &[u8]) {
        assert!(self.ready.is_empty(), "read before what came was passed on");
        while !came.is_empty() {
            came = match self.at {
                Place::Preface(seen) => self.preface(seen, came),
                Place::Head => self.head(came),
                Place::Headers(length) => self.headers(length, came),
                Place::Other(to_come) => self.other(to_come, came),
                Place::Through => {
                    self.ready.extend_from_slice(came);
                    &[]
                }
            };
            assert!(self.held.len() <= HELD_BYTES_MAX);
        }
    }

    /// Lets go of everything; for the end of the client's bytes.
    fn give_up(&mut self) {
        self.ready.append(&mut self.held);
        self.at = Place::Through;
    }

    /// Moves what may leave to the reader. Returns whether there was anything.
    fn drain(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.ready[self.left..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.left += count;
        if self.left == self.ready.len() {
            self.ready.clear();
            self.left = 0;
        }
        count > 0
    }

    fn preface<'a>(&mut self, seen: usize, came: &'a [u8]) -> &'a [u8] {
        let expected = &PREFACE[seen..];
        let count = expected.len().min(came.len());
        if came[..count] != expected[..count] {
            self.at = Place::Through;
            return came;
        }
        self.ready.extend_from_slice(&came[..count]);
        self.at = match count == expected.len() {
            true => Place::Head,
            false => Place::Preface(seen + count),
        };
        &came[count..]
    }

    fn head<'a>(&mut self, came: &'a [u8]) -> &'a [u8] {
        let (complete, rest) = self.hold(HEAD_BYTES, came);
        if !complete {
            return rest;
        }
        let length = frame_length(&self.held);
        if self.held[3] == KIND_HEADERS {
            let flags = self.held[4];
            let whole = flags & FLAG_END_HEADERS != 0;
            if whole && length > 0 && HEAD_BYTES + length <= HELD_BYTES_MAX {
                self.at = Place::Headers(HEAD_BYTES + length);
                return rest;
            }
            if !self.mended {
                self.give_up();
                return rest;
            }
        }
        self.ready.append(&mut self.held);
        self.at = Place::Other(length);
        rest
    }

    fn headers<'a>(&mut self, length: usize, came: &'a [u8]) -> &'a [u8] {
        let (complete, rest) = self.hold(length, came);
        if !complete {
            return rest;
        }
        if let Some(frame) = mend_frame(&self.held) {
            self.mended = true;
            self.held = frame;
        }
        match self.mended {
            true => {
                self.ready.append(&mut self.held);
                self.at = Place::Head;
            }
            false => self.give_up(),
        }
        rest
    }

    fn other<'a>(&mut self, to_come: usize, came: &'a [u8]) -> &'a [u8] {
        let count = to_come.min(came.len());
        self.ready.extend_from_slice(&came[..count]);
        self.at = match to_come - count {
            0 => Place::Head,
            to_come => Place::Other(to_come),
        };
        &came[count..]
    }

    /// Adds to what is held until it is `length` long. Returns whether it is, and what is over.
    fn hold<'a>(&mut self, length: usize, came: &'a [u8]) -> (bool, &'a [u8]) {
        assert!(self.held.len() < length);
        let (taken, rest) = came.split_at(came.len().min(length - self.held.len()));
        self.held.extend_from_slice(taken);
        (self.held.len() == length, rest)
    }
}

fn frame_length(head: &[u8]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

/// A whole HEADERS frame, mended; None if it is sound, or unsound in another way.
fn mend_frame(frame: &[u8]) -> Option<Vec<u8>> {
    let (head, payload) = frame.split_at_checked(HEAD_BYTES)?;
    let block = block_of(head[4], payload)?;
    let mended = mend_block(&payload[block.clone()])?;
    let length = payload.len() - block.len() + mended.len();
    // A host can need more bytes in plain text than in Huffman's code.
    let length = u32::try_from(length)
        .ok()
        .filter(|length| *length <= FRAME_BYTES_MAX)?;
    let parts = [
        &length.to_be_bytes()[1..],
        &head[3..],
        &payload[..block.start],
        &mended,
        &payload[block.end..],
    ];
    Some(parts.concat())
}

/// Where the header block is in the payload of a HEADERS frame.
fn block_of(flags: u8, payload: &[u8]) -> Option<Range<usize>> {
    let (mut start, mut end) = (0, payload.len());
    if flags & FLAG_PADDED != 0 {
        start += 1;
        end = end.checked_sub(usize::from(*payload.first()?))?;
    }
    if flags & FLAG_PRIORITY != 0 {
        start += PRIORITY_BYTES;
    }
    (start <= end).then_some(start..end)
}

/// A header block with each authority mended; None if none needs it or the block is malformed.
fn mend_block(block: &[u8]) -> Option<Vec<u8>> {
    let mut cursor = Cursor { bytes: block };
    let mut mended = Vec::new();
    let mut copied = 0;
    while let Some(first) = cursor.peek() {
        // A set bit in front tells the kind; the bits behind it begin an integer.
        let name = match first.leading_zeros() {
            0 => {
                let index = cursor.integer(7)?;
                (index > 0).then_some(())?;
                continue;
            }
            1 => cursor.integer(6)?,
            2 => {
                cursor.integer(5)?;
                continue;
            }
            _ => cursor.integer(4)?,
        };
        if name == 0 {
            cursor.string()?;
        }
        let start = block.len() - cursor.bytes.len();
        let value = cursor.string()?;
        let Some(host) = (name == NAME_AUTHORITY).then(|| value.host()).flatten() else {
            continue;
        };
        mended.extend_from_slice(&block[copied..start]);
        put_string(&host, &mut mended);
        copied = block.len() - cursor.bytes.len();
    }
    if copied == 0 {
        return None;
    }
    mended.extend_from_slice(&block[copied..]);
    Some(mended)
}

/// The rest of a header block.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// An integer whose first byte has `bits` bits of it (section 5.1).
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let mask = (1 << bits) - 1;
        let mut value = usize::from(self.byte()? & mask);
        if value < usize::from(mask) {
            return Some(value);
        }
        // Three more bytes go further than any frame; who writes more is not understood.
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A string (section 5.2).
    fn string(&mut self) -> Option<Text<'a>> {
        let huffman = self.peek()? & HUFFMAN != 0;
        let length = self.integer(7)?;
        let (bytes, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(Text { huffman, bytes })
    }
}

/// A string as it was sent.
struct Text<'a> {
    huffman: bool,
    bytes: &'a [u8],
}

impl Text<'_> {
    /// What the authority should have been, if it is a URL or the path of a socket.
    fn host(&self) -> Option<Vec<u8>> {
        let text = match self.huffman {
            true => huffman_decode(self.bytes)?,
            false => self.bytes.to_vec(),
        };
        let host = match text.first()? {
            b'/' => NO_HOST,
            _ => host_of_url(&text)?,
        };
        assert!(
            host.len() <= text.len(),
            "our table would fill before the client's"
        );
        Some(host.to_vec())
    }
}

/// The host and port of a URL; None if the text is none.
fn host_of_url(text: &[u8]) -> Option<&[u8]> {
    let rest = [&b"http://"[..], b"https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(*scheme))?;
    let end = rest.iter().position(|byte| b"/?#".contains(byte));
    let host = &rest[..end.unwrap_or(rest.len())];
    (!host.is_empty()).then_some(host)
}

fn put_string(text: &[u8], into: &mut Vec<u8>) {
    let mut rest = text.len();
    if rest < 0x7f {
        into.push(rest as u8);
    } else {
        into.push(0x7f);
        rest -= 0x7f;
        while rest >= 0x80 {
            into.push(0x80 | (rest & 0x7f) as u8);
            rest >>= 7;
        }
        into.push(rest as u8);
    }
    into.extend_from_slice(text);
}

/// The symbols of RFC 7541 appendix B with codes of up to 15 bits, by the length of the code. The
/// code is canonical: within a length codes follow each other in this order, and the first of a
/// length follows the last of the length before. No host has a character that is not here.
const CODES: [(u32, &[u8]); 10] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
];

/// The text behind Huffman's code; None if it is malformed or has a character not in `CODES`.
fn huffman_decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes.len() * 8 / 5);
    let (mut code, mut length) = (0_u32, 0);
    for bit in (0..bytes.len() * 8).map(|at| bytes[at / 8] >> (7 - at % 8) & 1) {
        code = code << 1 | u32::from(bit);
        length += 1;
        if let Some(symbol) = symbol(code, length) {
            text.push(symbol);
            (code, length) = (0, 0);
        } else if length > CODES[CODES.len() - 1].0 {
            return None;
        }
    }
    // The rest is padding: less than a byte, and all ones.
    (length < 8 && code + 1 == 1 << length).then_some(text)
}

fn symbol(code: u32, length: u32) -> Option<u8> {
    let mut first = 0;
    let mut before = 0;
    for (bits, symbols) in CODES {
        first <<= bits - before;
        before = bits;
        if bits == length {
            let at = code.checked_sub(first)?;
            return symbols.get(at as usize).copied();
        }
        first += symbols.len() as u32;
    }
    None
}

#[cfg(test)]
mod tests;
