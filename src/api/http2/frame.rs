//! Frames as they stand on the wire (RFC 9113 section 4 and 6).

use bytes::{BufMut, BytesMut};

/// Bytes in front of each payload.
pub(super) const HEAD_BYTES: usize = 9;
/// The longest frame a client may send: the least that every server must take.
pub(super) const FRAME_BYTES_MAX: usize = 16 * 1024;
/// The largest window there is.
pub(super) const WINDOW_MAX: i64 = (1 << 31) - 1;
/// The windows before anybody said something else.
pub(super) const WINDOW_DEFAULT: i64 = 65_535;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 0x01;
pub(super) const ACK: u8 = 0x01;
pub(super) const END_HEADERS: u8 = 0x04;
pub(super) const PADDED: u8 = 0x08;
pub(super) const PRIORITIZED: u8 = 0x20;

/// The settings we look at or send.
pub(super) mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends, with the numbers of section 7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    Refused = 7,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// What the head of a frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    /// The head in front of these bytes, if all of it is there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD_BYTES>()?;
        Some(Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
        })
    }

    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends the head of a frame.
pub(super) fn put_head(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    let [a, b, c, d] = u32::try_from(length)
        .expect("a frame is small")
        .to_be_bytes();
    assert!(a == 0, "a frame is small");
    let [e, f, g, h] = stream.to_be_bytes();
    out.extend_from_slice(&[b, c, d, kind, flags, e, f, g, h]);
}

/// Puts the length of a short payload into the head of its frame.
pub(super) fn put_length(head: &mut [u8], length: usize) {
    let length = u16::try_from(length).expect("a short payload");
    head[1..3].copy_from_slice(&length.to_be_bytes());
}

/// Appends what we want from clients.
pub(super) fn put_settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    put_head(out, settings.len() * 6, SETTINGS, 0, 0);
    for (name, value) in settings {
        out.put_u16(*name);
        out.put_u32(*value);
    }
}

/// Appends that settings were taken.
pub(super) fn put_settings_ack(out: &mut BytesMut) {
    put_head(out, 0, SETTINGS, ACK, 0);
}

/// Appends a ping or the answer to one.
pub(super) fn put_ping(out: &mut BytesMut, flags: u8, payload: [u8; 8]) {
    put_head(out, payload.len(), PING, flags, 0);
    out.extend_from_slice(&payload);
}

/// Appends the end of a stream by force.
pub(super) fn put_reset(out: &mut BytesMut, stream: u32, reason: Reason) {
    put_head(out, 4, RST_STREAM, 0, stream);
    out.put_u32(reason as u32);
}

/// Appends that a client may send more; of stream 0 for all streams together.
pub(super) fn put_window_update(out: &mut BytesMut, stream: u32, bytes: u32) {
    put_head(out, 4, WINDOW_UPDATE, 0, stream);
    out.put_u32(bytes);
}

/// Appends that no stream beyond `last` is looked at any more.
pub(super) fn put_goaway(out: &mut BytesMut, last: u32, reason: Reason, story: &[u8]) {
    put_head(out, 8 + story.len(), GOAWAY, 0, 0);
    out.put_u32(last);
    out.put_u32(reason as u32);
    out.extend_from_slice(story);
}

/// The payload without its padding; none if there is more padding than payload.
pub(super) fn unpadded(head: Head, payload: &[u8]) -> Option<&[u8]> {
    if !head.has(PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    let length = rest.len().checked_sub(usize::from(*padding))?;
    Some(&rest[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        let mut out = BytesMut::new();
        put_head(&mut out, 0x01_0203, HEADERS, END_HEADERS, 0x7fff_fffe);
        assert_eq!(Head::read(&out[..8]), None);
        let head = Head::read(&out).unwrap();
        assert_eq!((head.length, head.kind), (0x01_0203, HEADERS));
        assert_eq!(head.stream, 0x7fff_fffe);
        assert!(head.has(END_HEADERS) && !head.has(END_STREAM));
    }

    #[test]
    fn padding_is_taken_off() {
        let head = |flags| Head {
            length: 0,
            kind: DATA,
            flags,
            stream: 1,
        };
        assert_eq!(unpadded(head(0), b"\x02abc"), Some(&b"\x02abc"[..]));
        assert_eq!(unpadded(head(PADDED), b"\x02abc"), Some(&b"a"[..]));
        assert_eq!(unpadded(head(PADDED), b"\x03abc"), Some(&b""[..]));
        assert_eq!(unpadded(head(PADDED), b"\x04abc"), None);
        assert_eq!(unpadded(head(PADDED), b""), None);
    }
}
