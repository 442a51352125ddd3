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

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::kernel::{ClusterId, MemberId, limits};

const MAGIC: &[u8; 8] = b"fatedlnk";
const VERSION: u32 = 1;
const GREETING_BYTES: usize = 44;
/// Bytes in front of each payload.
pub(super) const HEADER_BYTES: usize = 8;
/// Room taken at once for a payload; a longer one gets more only as its bytes arrive.
const READ_STEP_BYTES: usize = 1024 * 1024;

/// Who speaks to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
    pub verdict: Verdict,
    pub cluster: ClusterId,
    pub sender: MemberId,
    pub receiver: MemberId,
}

/// What the side that was dialled says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Verdict {
    Welcome = 0,
    Version = 1,
    Cluster = 2,
    Receiver = 3,
}

impl Verdict {
    fn from_number(number: u32) -> Option<Self> {
        [Self::Welcome, Self::Version, Self::Cluster, Self::Receiver]
            .into_iter()
            .find(|verdict| *verdict as u32 == number)
    }

    /// Why the link was refused, for the log.
    pub(super) fn reason(self) -> &'static str {
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
pub(super) enum Heard {
    Greeting(Greeting),
    OtherVersion,
}

impl Greeting {
    pub(super) fn encode(&self) -> [u8; GREETING_BYTES] {
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

    pub(super) fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Heard, String> {
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
}

/// Reads the other side's greeting.
pub(super) async fn read_greeting<R: AsyncRead + Unpin>(from: &mut R) -> Result<Heard, String> {
    let mut bytes = [0; GREETING_BYTES];
    from.read_exact(&mut bytes).await.map_err(text)?;
    Greeting::decode(&bytes)
}

/// Sends a greeting.
pub(super) async fn write_greeting<W: AsyncWrite + Unpin>(
    to: &mut W,
    greeting: &Greeting,
) -> Result<(), String> {
    to.write_all(&greeting.encode()).await.map_err(text)?;
    to.flush().await.map_err(text)
}

/// The eight bytes in front of a payload.
pub(super) fn header(payload: &[u8]) -> [u8; HEADER_BYTES] {
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

/// Reads one frame; `None` when the other side ended the link between two frames.
pub(super) async fn read_frame<R: AsyncRead + Unpin>(
    from: &mut R,
) -> Result<Option<Bytes>, String> {
    let mut head = [0; HEADER_BYTES];
    if from.read(&mut head[..1]).await.map_err(text)? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..]).await.map_err(text)?;
    let length = word(&head[..4]) as usize;
    if length == 0 || length > limits::FRAME_BYTES_MAX {
        return Err(format!("a frame of {length} bytes is not allowed"));
    }
    let mut payload = BytesMut::new();
    while payload.len() < length {
        let left = length - payload.len();
        payload.reserve(left.min(READ_STEP_BYTES));
        let step = payload.capacity() - payload.len();
        let mut part = (&mut *from).take(left.min(step) as u64);
        if part.read_buf(&mut payload).await.map_err(text)? == 0 {
            return Err("the link ended within a frame".to_owned());
        }
    }
    if crc32fast::hash(&payload) != word(&head[4..]) {
        return Err("a frame arrived damaged".to_owned());
    }
    Ok(Some(payload.freeze()))
}

fn text(error: std::io::Error) -> String {
    error.to_string()
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

    async fn read_all(mut bytes: &[u8]) -> Result<Vec<Bytes>, String> {
        let mut frames = Vec::new();
        while let Some(frame) = read_frame(&mut bytes).await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn frames_are_cut_back_and_every_damage_or_cut_is_refused() {
        let payloads: [&[u8]; 3] = [b"a", b"second frame", &[7; 5000]];
        let mut stream = Vec::new();
        for payload in payloads {
            stream.extend_from_slice(&header(payload));
            stream.extend_from_slice(payload);
        }
        let frames = read_all(&stream).await.unwrap();
        assert_eq!(frames, payloads.map(Bytes::copy_from_slice).to_vec());
        for at in (0..stream.len()).step_by(7).chain(0..30) {
            let mut damaged = stream.clone();
            damaged[at] ^= 1;
            assert!(read_all(&damaged).await.is_err(), "byte {at}");
        }
        for cut in [3, 8, 9 + 4, 9 + 10, stream.len() - 1] {
            assert!(read_all(&stream[..cut]).await.is_err(), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_length_beyond_the_bound_is_refused_before_room_is_taken() {
        let mut stream = u32::MAX.to_le_bytes().to_vec();
        stream.extend_from_slice(&[0; 4]);
        assert!(read_all(&stream).await.unwrap_err().contains("not allowed"));
        assert!(read_all(&[0; 8]).await.is_err(), "an empty frame");
    }
}
