//! Records from and to lines of JSON. Bad lines are refused with their number, never with a panic.

use std::fmt;
use std::io::{self, BufRead, Write};

use super::{FORMAT_VERSION, LINE_BYTES_MAX, Operation, Outcome, Record, Request};
use super::{name_of, name_of_reply};

/// Why a history cannot be read.
#[derive(Debug)]
pub struct ReadError {
    /// The line, counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub text: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

impl std::error::Error for ReadError {}

/// Reads line by line; holds one line at a time.
pub struct Reader<R> {
    input: R,
    line: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// A reader at the start of the input.
    pub fn new(input: R) -> Self {
        Reader {
            input,
            line: 0,
            buffer: Vec::new(),
        }
    }

    pub(super) fn refuse(&self, text: String) -> ReadError {
        ReadError {
            line: self.line,
            text,
        }
    }

    /// Whether there was another line. It is in the buffer then, without its end.
    fn read_line(&mut self) -> Result<bool, ReadError> {
        self.line += 1;
        self.buffer.clear();
        let mut limited = io::Read::take(&mut self.input, LINE_BYTES_MAX as u64 + 1);
        let count = limited.read_until(b'\n', &mut self.buffer);
        match count {
            Err(error) => Err(self.refuse(error.to_string())),
            Ok(count) if count > LINE_BYTES_MAX => {
                Err(self.refuse(format!("longer than {LINE_BYTES_MAX} bytes")))
            }
            Ok(count) => Ok(count > 0),
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read_line() {
                Err(error) => return Some(Err(error)),
                Ok(false) => return None,
                Ok(true) if self.buffer.trim_ascii().is_empty() => (),
                Ok(true) => break,
            }
        }
        let parsed = serde_json::from_slice::<Record>(&self.buffer)
            .map_err(|error| error.to_string())
            .and_then(|record| validate(&record).map(|()| record));
        Some(parsed.map_err(|text| self.refuse(text)))
    }
}

/// Writes a record a line.
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// A writer that appends to the output.
    pub fn new(output: W) -> Self {
        Writer { output }
    }

    /// Appends one line. The record must keep the rules of the format.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        if let Err(text) = validate(record) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        serde_json::to_writer(&mut self.output, record)?;
        self.output.write_all(b"\n")
    }

    /// Hands everything on.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The rules that one line can break by itself.
pub fn validate(record: &Record) -> Result<(), String> {
    match record {
        Record::Meta(meta) if meta.version != FORMAT_VERSION => {
            Err(format!("format version {} is unknown", meta.version))
        }
        Record::Meta(meta) if !(1..=REVISION_MAX).contains(&meta.revision) => Err(format!(
            "a cluster begins at a revision from 1 to {REVISION_MAX}"
        )),
        Record::Meta(_) => Ok(()),
        Record::Op(op) => validate_operation(op),
        Record::Watch(_) => Ok(()),
        Record::Commit(commit) => validate_txn(&commit.request, 0),
    }
}

fn validate_operation(op: &Operation) -> Result<(), String> {
    if op.ret.is_none() != (op.outcome == Outcome::Unknown) {
        return Err("a return time is absent exactly if the outcome is unknown".into());
    }
    if op.ret.is_some_and(|ret| ret < op.call) {
        return Err("returned before it was called".into());
    }
    if let Outcome::Ok(response) = &op.outcome {
        let reply = name_of_reply(&response.reply);
        if reply != name_of(&op.request) {
            return Err(format!(
                "a {reply} cannot answer a {}",
                name_of(&op.request)
            ));
        }
    }
    validate_txn(&op.request, 0)
}

/// The greatest revision to begin with; leaves room to count on.
const REVISION_MAX: i64 = 1 << 60;

/// How deep txns may nest in a history.
const TXN_DEPTH_MAX: usize = 16;

fn validate_txn(request: &Request, depth: usize) -> Result<(), String> {
    let Request::Txn(txn) = request else {
        return Ok(());
    };
    if depth > TXN_DEPTH_MAX {
        return Err(format!("txns nest deeper than {TXN_DEPTH_MAX}"));
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Request::Range(_) | Request::Put(_) | Request::DeleteRange(_) => (),
            Request::Txn(_) => validate_txn(op, depth + 1)?,
            Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => {
                return Err(format!("a txn cannot hold a {}", name_of(op)));
            }
        }
    }
    Ok(())
}
