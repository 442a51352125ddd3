//! What goes over a link between two members: a greeting each way, then frames.
//!
//! ```text
//! greeting, 44 bytes, little-endian
//!   0..8    "fatedlnk"
//!   8..12   protocol version, 1
//!  12..16   verdict: 0 welcome, 1 version, 2 cluster, 3 receiver (always 0 from the dialling side)
//!  16..24   cluster id
//!  24..32   member id of the sender
//!  32..40   member id of the intended receiver
//!  40..44   CRC-32 of bytes 0..40
//! frame
//!   0..4    length of the payload, 1 to FRAME_BYTES_MAX
//!   4..8    CRC-32 of the payload
//!   8..     payload
//! ```
//!
//! The dialling side greets first and the other side answers, so a wrong address shows before a
//! single frame was sent.
//!
//! A greeting without cluster, sender and receiver is an inquiry, of a process that is no member
//! yet: it is answered with a welcome, one frame that holds a `MemberListResponse`, and the end.
//!
//! Pure: bytes to meaning and back, for the sockets of production and for simulated links alike.

use crate::{
    kernel::{ClusterId, MemberId, limits},
    mutant,
};

const MAGIC: &[u8; 8] = b"fatedlnk";
const VERSION: u32 = 1;
/// Bytes of a greeting.
pub const GREETING_BYTES: usize = 44;
/// Bytes in front of each payload.
pub const HEADER_BYTES: usize = 8;

/// Who speaks to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// What the side that was dialled says; the other side says welcome.
    pub verdict: Verdict,
    /// The speaker's cluster.
    pub cluster: ClusterId,
    /// The speaker.
    pub sender: MemberId,
    /// Whom it believes to speak to.
    pub receiver: MemberId,
}

/// What the side that was dialled says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Verdict {
    /// Frames may follow.
    Welcome = 0,
    /// Another version of the protocol.
    Version = 1,
    /// Another cluster.
    Cluster = 2,
    /// Another member was meant.
    Receiver = 3,
}

impl Verdict {
    fn from_number(number: u32) -> Option<Self> {
        [Self::Welcome, Self::Version, Self::Cluster, Self::Receiver]
            .into_iter()
            .find(|verdict| *verdict as u32 == number)
    }

    /// Why the link was refused, for the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Welcome => "welcome",
            Self::Version => "the members speak different versions of the link protocol",
            Self::Cluster => "the members belong to different clusters",
            Self::Receiver => "another member answers at this address",
        }
    }
}

/// What a greeting turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// A greeting of this version.
    Greeting(Greeting),
    /// A greeting of another version.
    OtherVersion,
}

impl Greeting {
    /// Its bytes.
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut out = [0; GREETING_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(self.verdict as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.cluster.get().to_le_bytes());
        out[24..32].copy_from_slice(&self.sender.get().to_le_bytes());
        out[32..40].copy_from_slice(&self.receiver.get().to_le_bytes());
        let crc = crc32fast::hash(&out[..40]);
        out[40..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// From its bytes.
    pub fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Heard, String> {
        if &bytes[..8] != MAGIC {
            return Err("what answers is not a member of this kind".to_owned());
        }
        if word(&bytes[8..12]) != VERSION {
            return Ok(Heard::OtherVersion);
        }
        if word(&bytes[40..]) != crc32fast::hash(&bytes[..40]) {
            return Err("a greeting arrived damaged".to_owned());
        }
        let verdict = Verdict::from_number(word(&bytes[12..16]))
            .ok_or_else(|| "a greeting with an unknown verdict".to_owned())?;
        Ok(Heard::Greeting(Self {
            verdict,
            cluster: ClusterId::new(long(&bytes[16..24])),
            sender: MemberId::new(long(&bytes[24..32])),
            receiver: MemberId::new(long(&bytes[32..40])),
        }))
    }

    /// Asks whoever answers which cluster it belongs to and who the members are.
    pub const INQUIRY: Self = Self {
        verdict: Verdict::Welcome,
        cluster: ClusterId::ZERO,
        sender: MemberId::ZERO,
        receiver: MemberId::ZERO,
    };

    /// The answer of `member` to whoever dialled it. Frames may follow only if it is a welcome.
    pub fn answer(heard: Heard, cluster: ClusterId, member: MemberId) -> Self {
        let (verdict, receiver) = match heard {
            Heard::OtherVersion => (Verdict::Version, MemberId::ZERO),
            Heard::Greeting(Self::INQUIRY) => (Verdict::Welcome, MemberId::ZERO),
            Heard::Greeting(said) if said.cluster != cluster => (Verdict::Cluster, said.sender),
            Heard::Greeting(said) if said.receiver != member => (Verdict::Receiver, said.sender),
            Heard::Greeting(said) => (Verdict::Welcome, said.sender),
        };
        Self {
            verdict,
            cluster,
            sender: member,
            receiver,
        }
    }

    /// What whoever dialled `peer` makes of the answer.
    pub fn accept(heard: Heard, cluster: ClusterId, peer: MemberId) -> Verdict {
        match heard {
            Heard::OtherVersion => Verdict::Version,
            Heard::Greeting(answer) if answer.verdict != Verdict::Welcome => answer.verdict,
            Heard::Greeting(answer) if answer.cluster != cluster => Verdict::Cluster,
            Heard::Greeting(answer) if answer.sender != peer => Verdict::Receiver,
            Heard::Greeting(_) => Verdict::Welcome,
        }
    }
}

/// The eight bytes in front of a payload.
pub fn header(payload: &[u8]) -> [u8; HEADER_BYTES] {
    assert!(
        payload.len() <= limits::FRAME_BYTES_MAX,
        "a frame exceeds its bound"
    );
    let length = u32::try_from(payload.len()).expect("bounded by FRAME_BYTES_MAX");
    let mut out = [0; HEADER_BYTES];
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[4..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    out
}

/// What the eight bytes say about the payload behind them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    length: usize,
    crc: u32,
}

impl Header {
    /// Refuses a length beyond the bound before any room is taken for it.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let length = word(&bytes[..4]) as usize;
        if length == 0 || length > limits::FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} bytes is not allowed"));
        }
        let crc = word(&bytes[4..]);
        Ok(Self { length, crc })
    }

    /// Bytes of the payload.
    pub fn length(self) -> usize {
        self.length
    }

    /// Refuses a payload that is not the one the head was made for.
    pub fn check(self, payload: &[u8]) -> Result<(), String> {
        if payload.len() < self.length {
            return Err("the link ended within a frame".to_owned());
        }
        if crc32fast::hash(payload) != self.crc && !mutant!("frame-checksum-unchecked") {
            return Err("a frame arrived damaged".to_owned());
        }
        Ok(())
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(verdict: Verdict) -> Greeting {
        Greeting {
            verdict,
            cluster: ClusterId::new(7),
            sender: MemberId::new(u64::MAX),
            receiver: MemberId::new(9),
        }
    }

    #[test]
    fn greetings_come_back_and_damage_shows() {
        for verdict in [Verdict::Welcome, Verdict::Cluster, Verdict::Receiver] {
            let said = greeting(verdict);
            let bytes = said.encode();
            assert_eq!(Greeting::decode(&bytes), Ok(Heard::Greeting(said)));
            for at in 0..bytes.len() {
                let mut damaged = bytes;
                damaged[at] ^= 0x40;
                assert_ne!(Greeting::decode(&damaged), Ok(Heard::Greeting(said)));
            }
        }
    }

    /// Goal: only the member that was meant, in the same cluster, is heard.
    #[test]
    fn strangers_are_refused_on_both_sides() {
        let (cluster, member) = (ClusterId::new(7), MemberId::new(9));
        let said = Heard::Greeting(greeting(Verdict::Welcome));
        let verdict = |heard, cluster, member| Greeting::answer(heard, cluster, member).verdict;
        assert_eq!(verdict(said, cluster, member), Verdict::Welcome);
        assert_eq!(verdict(said, ClusterId::new(8), member), Verdict::Cluster);
        assert_eq!(verdict(said, cluster, MemberId::new(8)), Verdict::Receiver);
        assert_eq!(
            verdict(Heard::OtherVersion, cluster, member),
            Verdict::Version
        );
        let peer = MemberId::new(u64::MAX);
        assert_eq!(Greeting::accept(said, cluster, peer), Verdict::Welcome);
        assert_eq!(Greeting::accept(said, cluster, member), Verdict::Receiver);
        assert_eq!(
            Greeting::accept(said, ClusterId::new(8), peer),
            Verdict::Cluster
        );
        let refused = Heard::Greeting(greeting(Verdict::Cluster));
        assert_eq!(Greeting::accept(refused, cluster, peer), Verdict::Cluster);
    }
}
