//! The rules by hand-made frames at hand-made times, and whole connections through a pipe.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let head = [
        &length.to_be_bytes()[1..],
        &[kind, flags],
        &stream.to_be_bytes(),
    ];
    [&head.concat()[..], payload].concat()
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"12345678")
}

struct Client {
    police: Police,
    now: Instant,
}

impl Client {
    fn new(apart_min_ms: u64) -> Self {
        let mut police = Police::new(Duration::from_millis(apart_min_ms));
        let now = Instant::now();
        assert!(police.follow_client(PREFACE, now));
        Self { police, now }
    }

    fn says(&mut self, frame: &[u8]) {
        assert!(self.police.follow_client(frame, self.now));
    }

    /// How many pings it takes until the end, so far apart; at most ten.
    fn pings(&mut self, apart_ms: u64) -> Option<usize> {
        (1..=10).find(|_| {
            self.now += Duration::from_millis(apart_ms);
            self.says(&ping());
            self.police.farewell.is_some()
        })
    }
}

#[test]
fn who_has_a_stream_open_may_ping_as_often_as_is_allowed() {
    let mut client = Client::new(100);
    client.says(&frame(HEADERS, END_STREAM, 1, b"x"));
    assert_eq!(client.pings(100), None);
    assert_eq!(
        client.pings(99),
        Some(3),
        "the first of these is a strike as well"
    );
}

#[test]
fn who_has_none_open_may_ping_every_two_hours() {
    assert_eq!(Client::new(100).pings(2 * 60 * 60 * 1000), None);
    assert_eq!(Client::new(100).pings(60 * 60 * 1000), Some(4));
    for end in [
        frame(HEADERS, END_STREAM, 1, b"trailers"),
        frame(DATA, END_STREAM, 1, b"last"),
        frame(RST_STREAM, 0, 1, b"why!"),
    ] {
        let mut client = Client::new(100);
        client.says(&frame(HEADERS, 0, 1, b"x"));
        client.police.follow_server(&end);
        // Trailers of the client begin nothing.
        client.says(&frame(HEADERS, END_STREAM, 1, b"x"));
        assert_eq!(client.pings(1000), Some(4), "{end:?}");
    }
    let mut client = Client::new(100);
    client.says(&frame(HEADERS, 0, 1, b"x"));
    client.says(&frame(RST_STREAM, 0, 1, b"why!"));
    assert_eq!(client.pings(1000), Some(4));
}

#[test]
fn what_is_sent_between_two_pings_forgives() {
    let mut client = Client::new(100);
    client.says(&frame(HEADERS, 0, 1, b"x"));
    for _ in 0..20 {
        client.police.follow_server(&frame(DATA, 0, 1, b"an event"));
        client.says(&ping());
        client.says(&ping());
        client.says(&ping());
        client.says(&frame(PING, ACK, 0, b"12345678"));
    }
    assert_eq!(client.police.strikes, 2);
    // Answers to pings, windows and settings are no speech.
    client
        .police
        .follow_server(&frame(PING, ACK, 0, b"12345678"));
    assert_eq!(client.pings(1), Some(1));
}

#[test]
fn frames_are_found_in_any_pieces() {
    let stream = [frame(DATA, 0, 1, b"abc"), ping(), frame(HEADERS, 4, 5, b"")].concat();
    for one in 0..=stream.len() {
        for two in one..=stream.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for mut piece in [&stream[..one], &stream[one..two], &stream[two..]] {
                while let Some(head) = frames.next(&mut piece) {
                    found.push((head.kind, head.flags, head.stream));
                }
            }
            assert_eq!(found, [(DATA, 0, 1), (PING, 0, 0), (HEADERS, 4, 5)]);
            assert!(frames.is_between());
        }
    }
}

/// Goal: the last word stands between two frames, though the library was in the middle of one.
#[tokio::test]
async fn the_last_word_waits_for_the_frame_that_has_begun() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let mut near = Policed::new(near, Duration::from_secs(5));
    far.write_all(PREFACE).await.unwrap();
    for _ in 0..4 {
        far.write_all(&ping()).await.unwrap();
    }
    let settings = frame(4, 0, 0, b"123456");
    near.write_all(&settings[..11]).await.unwrap();
    let mut came = vec![0; PREFACE.len() + 4 * ping().len()];
    near.read_exact(&mut came).await.unwrap();
    let more = [&settings[11..], b"another frame"].concat();
    assert_eq!(near.write(&more).await.unwrap(), 4);
    let refused = near.write(b"another frame").await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
    assert!(near.read(&mut came).await.is_err());
    drop(near);
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    let last = [
        &[0, 0, 22, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11],
        REASON,
    ]
    .concat();
    assert_eq!(heard, [settings, last].concat());
}

#[tokio::test]
async fn what_is_not_http2_is_not_followed() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let mut near = Policed::new(near, Duration::from_secs(5));
    far.write_all(b"PRI /version HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut came = [0; 25];
    near.read_exact(&mut came).await.unwrap();
    assert!(near.police.is_none());
    near.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
    let mut heard = [0; 17];
    far.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"HTTP/1.1 200 OK\r\n");
}
