//! The link protocol of `host::wire` over a socket. What is read is taken in steps, so that a
//! length somebody claims costs nothing until its bytes arrive.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::host::wire::{GREETING_BYTES, HEADER_BYTES, Header};
pub(super) use crate::host::wire::{Greeting, Heard, Verdict, header};

/// Room taken at once for a payload; a longer one gets more only as its bytes arrive.
const READ_STEP_BYTES: usize = 1024 * 1024;

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

/// Sends one frame.
pub(super) async fn write_frame<W: AsyncWrite + Unpin>(
    to: &mut W,
    payload: &[u8],
) -> Result<(), String> {
    to.write_all(&header(payload)).await.map_err(text)?;
    to.write_all(payload).await.map_err(text)?;
    to.flush().await.map_err(text)
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
    let header = Header::decode(&head)?;
    let length = header.length();
    let mut payload = BytesMut::new();
    while payload.len() < length {
        let left = length - payload.len();
        payload.reserve(left.min(READ_STEP_BYTES));
        let step = payload.capacity() - payload.len();
        let mut part = (&mut *from).take(left.min(step) as u64);
        if part.read_buf(&mut payload).await.map_err(text)? == 0 {
            break; // The link ended within the frame, as the check finds.
        }
    }
    header.check(&payload)?;
    Ok(Some(payload.freeze()))
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

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
