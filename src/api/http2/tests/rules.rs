//! What a client may not do, and what it hears then.

use super::{super::frame::*, raw::*, *};

/// Goal: each thing that must not be there ends the connection with the reason of the rule.
#[tokio::test]
async fn connections_end_for_the_right_reason() {
    let huge = [0, 0, 0x40, 0, 0xff];
    let setting = |name: u16, value: u32| settings(&[(name, value)]);
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        (
            "data on no stream",
            frame(DATA, 0, 0, b"x"),
            Reason::Protocol,
        ),
        (
            "data on an idle stream",
            frame(DATA, 0, 1, b"x"),
            Reason::Protocol,
        ),
        (
            "more padding than data",
            { [open(1, "/wait", false), frame(DATA, PADDED, 1, b"\x05abc")].concat() },
            Reason::Protocol,
        ),
        ("a stream of ours", open(2, "/", true), Reason::Protocol),
        ("no stream", open(0, "/", true), Reason::Protocol),
        (
            "a stream of before",
            { [open(5, "/wait", true), open(3, "/", true)].concat() },
            Reason::StreamClosed,
        ),
        (
            "an unreadable block",
            frame(HEADERS, END_HEADERS, 1, &[0x80]),
            Reason::Compression,
        ),
        (
            "something within a block",
            { [frame(HEADERS, 0, 1, &[0x83]), frame(PING, 0, 0, &[0; 8])].concat() },
            Reason::Protocol,
        ),
        (
            "the rest of another block",
            {
                [
                    frame(HEADERS, 0, 1, &[0x83]),
                    frame(CONTINUATION, 4, 3, &[]),
                ]
                .concat()
            },
            Reason::Protocol,
        ),
        (
            "the rest of no block",
            frame(CONTINUATION, 4, 1, &[]),
            Reason::Protocol,
        ),
        (
            "empty rests",
            {
                [
                    frame(HEADERS, 0, 1, &[0x83]),
                    frame(CONTINUATION, 0, 1, &[]),
                ]
                .concat()
            },
            Reason::EnhanceYourCalm,
        ),
        (
            "an endless block",
            {
                let rest = frame(CONTINUATION, 0, 1, &[0; 16_000]);
                [frame(HEADERS, 0, 1, &[0x83]), rest.repeat(5)].concat()
            },
            Reason::EnhanceYourCalm,
        ),
        (
            "a priority of no stream",
            frame(PRIORITY, 0, 0, &[0; 5]),
            Reason::Protocol,
        ),
        (
            "a stream that depends on itself",
            {
                let block = [&[0, 0, 0, 1, 0][..], &block("/")].concat();
                frame(HEADERS, END_HEADERS | PRIORITIZED, 1, &block)
            },
            Reason::Protocol,
        ),
        (
            "a reset of an idle stream",
            frame(RST_STREAM, 0, 1, &[0; 4]),
            Reason::Protocol,
        ),
        (
            "a short reset",
            { [open(1, "/wait", true), frame(RST_STREAM, 0, 1, &[0; 3])].concat() },
            Reason::FrameSize,
        ),
        (
            "settings of a stream",
            frame(SETTINGS, 0, 1, &[]),
            Reason::Protocol,
        ),
        (
            "odd settings",
            frame(SETTINGS, 0, 0, &[0; 5]),
            Reason::FrameSize,
        ),
        (
            "taken settings",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Reason::FrameSize,
        ),
        ("a push", setting(setting::ENABLE_PUSH, 2), Reason::Protocol),
        (
            "short frames",
            setting(setting::MAX_FRAME_SIZE, 16_383),
            Reason::Protocol,
        ),
        (
            "long frames",
            setting(setting::MAX_FRAME_SIZE, 1 << 24),
            Reason::Protocol,
        ),
        (
            "a wide window",
            { setting(setting::INITIAL_WINDOW_SIZE, 1 << 31) },
            Reason::FlowControl,
        ),
        (
            "a flood of settings",
            settings(&[]).repeat(1000),
            Reason::EnhanceYourCalm,
        ),
        (
            "a promise",
            frame(PUSH_PROMISE, 4, 1, &[0; 4]),
            Reason::Protocol,
        ),
        (
            "a ping of a stream",
            frame(PING, 0, 1, &[0; 8]),
            Reason::Protocol,
        ),
        (
            "a short ping",
            frame(PING, 0, 0, &[0; 7]),
            Reason::FrameSize,
        ),
        (
            "a short farewell",
            frame(GOAWAY, 0, 0, &[0; 7]),
            Reason::FrameSize,
        ),
        (
            "a farewell of a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            Reason::Protocol,
        ),
        ("no more window", window(0, 0), Reason::Protocol),
        (
            "too much window",
            window(0, 0x7fff_ffff),
            Reason::FlowControl,
        ),
        ("window of an idle stream", window(1, 1), Reason::Protocol),
        (
            "a short window",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Reason::FrameSize,
        ),
        (
            "a frame that is too long",
            [&huge[2..], &[0; 20]].concat(),
            Reason::FrameSize,
        ),
    ];
    for (what, bytes, reason) in cases {
        let mut raw = Raw::begin(&[]).await;
        let bytes = match what {
            "a frame that is too long" => frame(DATA, 0, 1, &[0; 16_385]),
            _ => bytes,
        };
        println!("{what}");
        raw.says(&bytes).await;
        raw.hears_end(reason).await;
        raw.until_waiting(0).await;
        raw.server.await.unwrap();
    }
}

/// Goal: what is wrong with one stream leaves the others as they are.
#[tokio::test]
async fn streams_end_for_the_right_reason() {
    let pseudo = [&block("/")[..], &[0x84]].concat();
    let long = [&block("/")[..], b"\x00\x0econtent-length\x014"].concat();
    let with_length = |data: &[u8]| {
        let head = frame(HEADERS, END_HEADERS, 1, &long);
        [head, frame(DATA, END_STREAM, 1, data)].concat()
    };
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        (
            "no method",
            frame(HEADERS, 5, 1, &[0x86, 0x84]),
            Reason::Protocol,
        ),
        ("two paths", frame(HEADERS, 5, 1, &pseudo), Reason::Protocol),
        ("less than was said", with_length(b"abc"), Reason::Protocol),
        (
            "more than was said",
            with_length(b"abcde"),
            Reason::Protocol,
        ),
        (
            "a short priority",
            { [open(1, "/wait", true), frame(PRIORITY, 0, 1, &[0; 4])].concat() },
            Reason::FrameSize,
        ),
        (
            "no more window",
            [open(1, "/wait", true), window(1, 0)].concat(),
            Reason::Protocol,
        ),
        (
            "too much window",
            { [open(1, "/wait", true), window(1, 0x7fff_ffff)].concat() },
            Reason::FlowControl,
        ),
        (
            "data behind the end",
            { [open(1, "/wait", true), frame(DATA, 0, 1, b"x")].concat() },
            Reason::StreamClosed,
        ),
        (
            "trailers behind the end",
            { [open(1, "/wait", true), open(1, "/", true)].concat() },
            Reason::StreamClosed,
        ),
        (
            "trailers that do not end",
            { [open(1, "/wait", false), frame(HEADERS, 4, 1, &[])].concat() },
            Reason::Protocol,
        ),
        (
            "trailers of a request",
            { [open(1, "/wait", false), open(1, "/", true)].concat() },
            Reason::Protocol,
        ),
    ];
    for (what, bytes, reason) in cases {
        let mut raw = Raw::begin(&[]).await;
        println!("{what}");
        raw.says(&bytes).await;
        raw.hears_reset(1, reason).await;
        raw.until_waiting(0).await;
        raw.says(&call(3, "/short", b"more")).await;
        assert_eq!(raw.hears_answer(3).await, framed(b"more"));
    }
}

#[tokio::test]
async fn what_is_no_beginning_ends_at_once() {
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nXX"[..],
        &[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
    ] {
        let mut raw = Raw::silent(rules());
        raw.says(bytes).await;
        raw.hears_end(Reason::Protocol).await;
    }
}

#[tokio::test]
async fn fields_beyond_the_limit_are_answered() {
    let mut raw = Raw::begin(&[]).await;
    // An entry of the table of 4,000 bytes, named again and again.
    let name = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4000]].concat();
    let bomb = [&block("/")[..], &name, &[0xbe; 100]].concat();
    raw.says(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb))
        .await;
    let answer = raw.hears().await;
    assert_eq!(
        (answer.kind, answer.flags),
        (HEADERS, END_HEADERS | END_STREAM)
    );
    assert!(answer.payload.ends_with(b"431"));
    raw.says(&call(3, "/short", b"")).await;
    raw.hears_answer(3).await;
}

#[tokio::test]
async fn no_more_calls_than_allowed_are_open() {
    let mut raw = Raw::begin(&[]).await;
    for at in 0..rules().streams_max {
        raw.says(&open(at * 2 + 1, "/wait", true)).await;
    }
    raw.until_waiting(100).await;
    raw.says(&open(201, "/wait", true)).await;
    raw.hears_reset(201, Reason::Refused).await;
    raw.says(&frame(RST_STREAM, 0, 7, &[0, 0, 0, 8])).await;
    raw.says(&call(203, "/short", b"x")).await;
    raw.hears_answer(203).await;
    raw.until_waiting(99).await;
    raw.leaves().await;
}

#[tokio::test]
async fn who_sends_more_than_the_windows_is_stopped() {
    let mut raw = Raw::begin(&[]).await;
    raw.says(&open(1, "/wait", false)).await;
    for _ in 0..STREAM_WINDOW_BYTES / 16_384 {
        raw.says(&frame(DATA, 0, 1, &[0; 16_384])).await;
    }
    raw.hears_nothing().await;
    raw.says(&frame(DATA, 0, 1, &[0; 1])).await;
    raw.hears_reset(1, Reason::FlowControl).await;
    // What nobody reads any more is told at times only, and until then it counts for all.
    let full = frame(DATA, 0, 0, &[0; 16_384]);
    for (stream, frames) in [(3, 64), (5, 64), (7, 63)] {
        raw.says(&open(stream, "/wait", false)).await;
        let mut full = full.clone();
        full[5..9].copy_from_slice(&u32::to_be_bytes(stream));
        for _ in 0..frames {
            raw.says(&full).await;
        }
    }
    raw.hears_nothing().await;
    raw.says(&frame(DATA, 0, 7, &[0; 16_384])).await;
    raw.hears_end(Reason::FlowControl).await;
}

/// Goal: a client that does not read is not read from, and what waits for it is bounded.
#[tokio::test]
async fn who_does_not_read_is_not_read_from() {
    let mut raw = Raw::begin(&[(setting::INITIAL_WINDOW_SIZE, 1 << 30)]).await;
    raw.says(&window(0, 1 << 30)).await;
    raw.says(&open(1, "/large", true)).await;
    raw.says(&open(3, "/wait", false)).await;
    // The answer of three megabytes fills the pipe and then our own bound.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let data = frame(DATA, 0, 3, &[0; 16_000]);
    let mut said = 0;
    let stuck = async {
        let mut socket = &mut raw.socket;
        while tokio::io::AsyncWriteExt::write_all(&mut socket, &data)
            .await
            .is_ok()
        {
            said += data.len();
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_millis(300), stuck)
            .await
            .is_err()
    );
    assert!(
        said <= PIPE_BYTES,
        "{said} bytes went further than the pipe"
    );
}

/// Goal: a client that pings too often is told so and sent away, unless it is spoken to.
#[tokio::test]
async fn who_pings_too_often_is_sent_away() {
    let mut raw = Raw::begin(&[]).await;
    let ping = frame(PING, 0, 0, b"12345678");
    for round in 0..10 {
        raw.says(&call(round * 2 + 1, "/short", b"x")).await;
        raw.hears_answer(round * 2 + 1).await;
        for _ in 0..3 {
            raw.says(&ping).await;
            assert_eq!(raw.hears().await.flags, ACK);
        }
    }
    raw.says(&ping).await;
    let last = raw.hears().await;
    assert_eq!(last.kind, GOAWAY);
    assert_eq!(last.payload[4..], *b"\0\0\0\x0btoo_many_pings");
    assert_eq!(raw.next().await, None);
}

#[tokio::test]
async fn a_silent_client_is_asked_and_then_left() {
    let brief = Rules {
        ping_after: Some(Duration::from_millis(100)),
        ping_patience: Duration::from_millis(100),
        ..rules()
    };
    let mut raw = Raw::silent(brief);
    raw.says(&[PREFACE.to_vec(), settings(&[])].concat()).await;
    for _ in 0..3 {
        raw.hears().await;
    }
    for _ in 0..3 {
        let ping = raw.hears().await;
        assert_eq!((ping.kind, ping.flags), (PING, 0));
        raw.says(&frame(PING, ACK, 0, &ping.payload)).await;
    }
    assert_eq!(raw.hears().await.kind, PING);
    assert_eq!(raw.next().await, None, "nobody answered");
    raw.server.await.unwrap();
}
