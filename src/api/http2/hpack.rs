//! Header blocks (RFC 7541): clients' are read with their table, ours are written with two entries.
//!
//! Invariant: a block that is read changes the table by all it says, even where its fields are
//! refused, as the client's table changes too.

use std::{collections::VecDeque, sync::LazyLock};

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::huffman;

/// The bytes a table may have, unless somebody says otherwise; we never do.
pub(super) const TABLE_BYTES: usize = 4096;
/// What an entry counts beside its name and value (section 4.1).
const ENTRY_BYTES: usize = 32;
const HUFFMAN: u8 = 0x80;

/// What a field is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Header(HeaderName),
    /// A name that no request has.
    Odd,
}

/// One field of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Field {
    pub name: Name,
    /// None for what is no value.
    pub value: Option<HeaderValue>,
    name_bytes: usize,
    /// As tables count it.
    bytes: usize,
}

/// The name in front of a value, before it is known whether it is one.
#[derive(Clone)]
struct Label {
    name: Name,
    bytes: usize,
}

/// A block that cannot be read; the connection has no table any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unreadable;

/// The fields of a block.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub list: Vec<Field>,
    /// There were more than allowed; those behind are missing.
    pub over: bool,
    /// The block changed the table: the same bytes may mean something else next time.
    pub changed: bool,
}

/// Reads a client's blocks.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    bytes: usize,
    bytes_max: usize,
    text: Vec<u8>,
}

static STATIC: LazyLock<Vec<Field>> = LazyLock::new(|| {
    let field = |(name, value): &(&str, &str)| Field {
        name: Label::new(name.as_bytes()).name,
        value: HeaderValue::from_str(value).ok(),
        name_bytes: name.len(),
        bytes: name.len() + value.len() + ENTRY_BYTES,
    };
    STATIC_TABLE.iter().map(field).collect()
});

impl Label {
    fn new(name: &[u8]) -> Self {
        let bytes = name.len();
        let name = match name {
            b":method" => Name::Method,
            b":scheme" => Name::Scheme,
            b":authority" => Name::Authority,
            b":path" => Name::Path,
            // Names of small letters only, and none that begins with a colon.
            other => HeaderName::from_lowercase(other).map_or(Name::Odd, Name::Header),
        };
        Self { name, bytes }
    }
}

impl Decoder {
    pub fn new() -> Self {
        Self {
            table: VecDeque::new(),
            bytes: 0,
            bytes_max: TABLE_BYTES,
            text: Vec::new(),
        }
    }

    /// Reads a block. Fields beyond so many bytes are left out.
    pub fn read(&mut self, block: &[u8], list_max: usize) -> Result<Fields, Unreadable> {
        let mut cursor = Cursor { bytes: block };
        let mut fields = Fields::default();
        let mut room = list_max;
        let mut begun = false;
        while let Some(first) = cursor.bytes.first() {
            // A set bit in front tells the kind; the bits behind it begin an integer.
            let field = match first.leading_zeros() {
                0 => self.entry(cursor.integer(7)?)?,
                1 => {
                    let field = self.literal(&mut cursor, 6)?;
                    self.insert(field.clone());
                    fields.changed = true;
                    field
                }
                2 if begun => return Err(Unreadable),
                2 => {
                    self.resize(cursor.integer(5)?)?;
                    fields.changed = true;
                    continue;
                }
                _ => self.literal(&mut cursor, 4)?,
            };
            begun = true;
            fields.over |= field.bytes > room;
            if !fields.over {
                room -= field.bytes;
                fields.list.push(field);
            }
        }
        Ok(fields)
    }

    fn entry(&self, index: usize) -> Result<Field, Unreadable> {
        let index = index.checked_sub(1).ok_or(Unreadable)?;
        let field = match index.checked_sub(STATIC_TABLE.len()) {
            None => STATIC.get(index),
            Some(index) => self.table.get(index),
        };
        field.cloned().ok_or(Unreadable)
    }

    fn literal(&mut self, cursor: &mut Cursor<'_>, bits: u32) -> Result<Field, Unreadable> {
        let label = match cursor.integer(bits)? {
            0 => {
                cursor.string(&mut self.text)?;
                Label::new(&self.text)
            }
            index => {
                let field = self.entry(index)?;
                Label {
                    name: field.name,
                    bytes: field.name_bytes,
                }
            }
        };
        cursor.string(&mut self.text)?;
        Ok(Field {
            name: label.name,
            value: HeaderValue::from_bytes(&self.text).ok(),
            name_bytes: label.bytes,
            bytes: label.bytes + self.text.len() + ENTRY_BYTES,
        })
    }

    fn insert(&mut self, field: Field) {
        self.bytes += field.bytes;
        self.table.push_front(field);
        self.evict();
    }

    fn resize(&mut self, bytes_max: usize) -> Result<(), Unreadable> {
        if bytes_max > TABLE_BYTES {
            return Err(Unreadable);
        }
        self.bytes_max = bytes_max;
        self.evict();
        Ok(())
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            let oldest = self.table.pop_back();
            self.bytes -= oldest.expect("what is counted is there").bytes;
        }
    }
}

/// The rest of a block.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, Unreadable> {
        let (first, rest) = self.bytes.split_first().ok_or(Unreadable)?;
        self.bytes = rest;
        Ok(*first)
    }

    /// An integer whose first byte has `bits` bits of it (section 5.1).
    fn integer(&mut self, bits: u32) -> Result<usize, Unreadable> {
        let mask = (1_u8 << bits) - 1;
        let mut value = usize::from(self.byte()? & mask);
        if value < usize::from(mask) {
            return Ok(value);
        }
        // Three more bytes go further than any block; who writes more is not understood.
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Unreadable)
    }

    /// A string (section 5.2), into `text`.
    fn string(&mut self, text: &mut Vec<u8>) -> Result<(), Unreadable> {
        let coded = self.bytes.first().ok_or(Unreadable)? & HUFFMAN != 0;
        let length = self.integer(7)?;
        let (bytes, rest) = self.bytes.split_at_checked(length).ok_or(Unreadable)?;
        self.bytes = rest;
        text.clear();
        if !coded {
            text.extend_from_slice(bytes);
            return Ok(());
        }
        // The shortest code has five bits, so that is all there can be.
        match huffman::decode(bytes, text, length * 8 / 5) {
            true => Ok(()),
            false => Err(Unreadable),
        }
    }
}

/// Writes our blocks. The two fields that are in every answer to a call are put into the client's
/// table, all others are written out.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// The entries the client has of us: the kind of the content, then also that all is well.
    entries: u8,
    /// The client wants no table of ours, or a small one.
    plain: bool,
    /// It has not been told yet that we keep none.
    owes_size: bool,
}

/// The indices of our entries: the newest has the lowest.
const NEWEST: u8 = 62;
const STATUS_OK: u8 = 0x88;
const GRPC: &str = "application/grpc";

impl Encoder {
    /// The client keeps a table of so many bytes for us.
    pub fn on_table_size(&mut self, bytes: u32) {
        if (bytes as usize) < TABLE_BYTES && !self.plain {
            self.plain = true;
            self.owes_size = true;
        }
    }

    /// Appends the block of an answer's head.
    pub fn put_head(&mut self, out: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
        self.begin(out);
        if status == StatusCode::OK {
            out.put_u8(STATUS_OK);
        } else {
            put_integer(out, 0, 4, 8); // the name is that of `:status 200`
            put_string(out, status.as_str().as_bytes());
        }
        self.put_fields(out, headers);
    }

    /// Appends the block of the trailers.
    pub fn put_trailers(&mut self, out: &mut BytesMut, trailers: &HeaderMap) {
        self.begin(out);
        self.put_fields(out, trailers);
    }

    /// Appends the head of an answer to a call that is no error.
    pub fn put_well_head(&mut self, out: &mut BytesMut) {
        self.begin(out);
        out.put_u8(STATUS_OK);
        self.put_kind(out);
    }

    /// Appends the trailers of an answer to a call that is no error.
    pub fn put_well_trailers(&mut self, out: &mut BytesMut) {
        self.begin(out);
        self.put_well(out);
    }

    fn begin(&mut self, out: &mut BytesMut) {
        if std::mem::take(&mut self.owes_size) {
            out.put_u8(0x20); // a table of no bytes
            self.entries = 0;
        }
    }

    fn put_kind(&mut self, out: &mut BytesMut) {
        match (self.plain, self.entries) {
            (true, _) => {
                put_integer(out, 0, 4, 31); // the name is that of `content-type`
                put_string(out, GRPC.as_bytes());
            }
            (false, 0) => {
                put_integer(out, 0x40, 6, 31);
                put_string(out, GRPC.as_bytes());
                self.entries = 1;
            }
            (false, entries) => out.put_u8(0x80 | (NEWEST + entries - 1)),
        }
    }

    fn put_well(&mut self, out: &mut BytesMut) {
        match (self.plain, self.entries) {
            (false, 2) => out.put_u8(0x80 | NEWEST),
            (false, 1) => {
                out.put_u8(0x40);
                put_string(out, b"grpc-status");
                put_string(out, b"0");
                self.entries = 2;
            }
            (_, _) => {
                out.put_u8(0);
                put_string(out, b"grpc-status");
                put_string(out, b"0");
            }
        }
    }

    fn put_fields(&mut self, out: &mut BytesMut, fields: &HeaderMap) {
        for (name, value) in fields {
            if is_of_connection(name) {
                continue;
            }
            if name == header::CONTENT_TYPE && value == GRPC {
                self.put_kind(out);
                continue;
            }
            if name == "grpc-status" && value == "0" {
                self.put_well(out);
                continue;
            }
            out.put_u8(if value.is_sensitive() { 0x10 } else { 0 });
            put_string(out, name.as_str().as_bytes());
            put_string(out, value.as_bytes());
        }
    }
}

/// Fields of HTTP/1's connections, which HTTP/2 has no place for.
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || name == "keep-alive"
        || name == "proxy-connection"
}

fn put_integer(out: &mut BytesMut, mark: u8, bits: u32, value: usize) {
    let mask = (1_usize << bits) - 1;
    if value < mask {
        out.put_u8(mark | value as u8);
        return;
    }
    out.put_u8(mark | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.put_u8(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn put_string(out: &mut BytesMut, text: &[u8]) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// RFC 7541 appendix A, from index 1.
#[rustfmt::skip]
const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""),
    ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
mod tests;
