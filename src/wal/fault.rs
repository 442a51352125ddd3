//! Why a log cannot be trusted, with the file, the offset, what was found and what to do.

use std::fmt;

use super::{Contradiction, segment_name};
use crate::kernel::{ClusterId, EntryId, Fault, LogIndex, MemberId, SegmentId};

/// The log cannot be trusted, so the member must not start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFault {
    /// The segment that shows it.
    pub segment: SegmentId,
    /// Where in the segment.
    pub offset: u64,
    /// What was found there.
    pub finding: Finding,
}

/// What was found in a log that cannot be trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Written bytes which are not the head of a write.
    HeadDamaged,
    /// A complete write whose content does not match its checksum.
    ContentDamaged,
    /// A write that is not whole although the log goes on behind it.
    WriteIncomplete,
    /// The head belongs to another place.
    Misplaced { segment: SegmentId, offset: u64 },
    /// The write does not follow the one before it.
    ChainBroken { expected: u32, found: u32 },
    /// The file is shorter than it was made.
    FileShort { found: u64, expected: u64 },
    /// A file of the sequence is not there.
    FileMissing,
    /// A record that this version cannot read.
    RecordUnreadable(&'static str),
    /// The segment was written by a newer version.
    FormatUnknown(u32),
    /// The segment belongs to another member or cluster.
    Foreign {
        expected: (ClusterId, MemberId),
        found: (ClusterId, MemberId),
    },
    /// Intact records that contradict each other.
    Contradiction(Contradiction),
    /// The backend holds entries which the log does not.
    BackendAhead { backend: EntryId, last: LogIndex },
    /// The log begins behind the point the backend has reached.
    BackendBehind { backend: EntryId, first: LogIndex },
    /// The backend's last entry has another term than the log's entry of that index.
    BackendDiffers { backend: EntryId, log: EntryId },
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the write-ahead log cannot be trusted: file {}, offset {}: {}; \
             bring back the file exactly as this member last wrote it, or remove the member from \
             the cluster, delete its data directory and add it again as a new member",
            segment_name(self.segment),
            self.offset,
            self.finding
        )
    }
}

impl std::error::Error for LogFault {}

impl From<LogFault> for Fault {
    fn from(fault: LogFault) -> Self {
        Self::Log(fault.to_string())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadDamaged => f.write_str("written bytes that are not the head of a write"),
            Self::ContentDamaged => {
                f.write_str("a complete write whose content does not match its checksum")
            }
            Self::WriteIncomplete => {
                f.write_str("an incomplete write although the log goes on behind it")
            }
            Self::Misplaced { segment, offset } => write!(
                f,
                "a write that belongs to file {}, offset {offset}",
                segment_name(*segment)
            ),
            Self::ChainBroken { expected, found } => write!(
                f,
                "a write that follows checksum {found:08x} where the one before it has \
                 {expected:08x}, so part of the log is missing, older or foreign"
            ),
            Self::FileShort { found, expected } => {
                write!(f, "the file has {found} bytes and was made with {expected}")
            }
            Self::FileMissing => f.write_str("the file is missing"),
            Self::RecordUnreadable(what) => write!(f, "an intact write with {what}"),
            Self::FormatUnknown(format) => {
                write!(
                    f,
                    "format {format}, which a newer version must have written"
                )
            }
            Self::Foreign { expected, found } => write!(
                f,
                "the file of member {:x} in cluster {:x}, not of member {:x} in cluster {:x}",
                found.1.get(),
                found.0.get(),
                expected.1.get(),
                expected.0.get()
            ),
            Self::Contradiction(contradiction) => contradiction.fmt(f),
            Self::BackendAhead { backend, last } => write!(
                f,
                "the log ends with index {last} although the backend holds index {} of term {}",
                backend.index, backend.term
            ),
            Self::BackendBehind { backend, first } => write!(
                f,
                "the log begins after index {first} although the backend ends with index {}",
                backend.index
            ),
            Self::BackendDiffers { backend, log } => write!(
                f,
                "index {} has term {} in the log and term {} in the backend",
                log.index, log.term, backend.term
            ),
        }
    }
}
