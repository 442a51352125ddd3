//! Calls and requests that are as they should be.

use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::duplex;

use super::{super::frame::*, raw::*, *};

#[tokio::test]
async fn calls_go_the_short_way_if_they_are_plain() {
    let mut raw = Raw::begin(&[]).await;
    for (at, message) in [&b"abc"[..], b"", &[1; 5000], b"abc"].iter().enumerate() {
        let stream = at as u32 * 2 + 1;
        raw.says(&call(stream, "/short", message)).await;
        assert_eq!(raw.hears_answer(stream).await, framed(message));
    }
    assert_eq!(raw.echo.short.load(Ordering::Relaxed), 4);
    // One that the service does not want, one that is cut, one that is too long, one without data.
    raw.says(&call(9, "/short", b"odd")).await;
    assert_eq!(raw.hears_answer(9).await, framed(b"odd"));
    raw.says(&open(11, "/short", false)).await;
    raw.says(&frame(DATA, END_STREAM, 11, &[0, 0, 0, 0, 9, 1]))
        .await;
    assert_eq!(raw.hears_answer(11).await, [0, 0, 0, 0, 9, 1]);
    raw.says(&open(13, "/short", false)).await;
    let long = framed(&[3; 300_000]);
    let mut pieces = long.chunks(16_000).peekable();
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() {
            END_STREAM
        } else {
            0
        };
        raw.says(&frame(DATA, end, 13, piece)).await;
    }
    raw.says(&window(0, 1 << 20)).await;
    raw.says(&window(13, 1 << 20)).await;
    assert_eq!(raw.hears_answer(13).await, long);
    raw.says(&open(15, "/short", true)).await;
    assert_eq!(raw.hears_answer(15).await, b"");
    assert_eq!(raw.echo.short.load(Ordering::Relaxed), 4);
    assert_eq!(raw.echo.general.load(Ordering::Relaxed), 4);
}

/// Goal: frames are found however they are cut. Method: the same words, cut at every place.
#[tokio::test]
async fn frames_are_found_in_any_pieces() {
    let padded = {
        let data = [&[3][..], &framed(b"padded"), &[0; 3]].concat();
        let priority = [&[0, 0, 0, 0, 7][..], &block("/short")].concat();
        let head = frame(HEADERS, END_HEADERS | PRIORITIZED, 3, &priority);
        [head, frame(DATA, END_STREAM | PADDED, 3, &data)].concat()
    };
    let words = [
        PREFACE.to_vec(),
        settings(&[]),
        call(1, "/short", b"one"),
        frame(77, 255, 9, b"unknown"),
        padded,
        open(5, "/short", false),
        frame(DATA, 0, 5, &[0, 0]),
        frame(DATA, 0, 5, &[0, 0, 2, 8]),
        frame(DATA, 0, 5, &[9]),
        frame(HEADERS, END_HEADERS | END_STREAM, 5, b"\x00\x01a\x01b"),
    ]
    .concat();
    for cut in 0..words.len() {
        let mut raw = Raw::silent(rules());
        raw.says(&words[..cut]).await;
        tokio::task::yield_now().await;
        raw.says(&words[cut..]).await;
        for _ in 0..3 {
            raw.hears().await;
        }
        let mut answers = [(1, &b"one"[..]), (3, b"padded"), (5, &[8, 9])].into_iter();
        for (stream, message) in answers.by_ref() {
            assert_eq!(
                raw.hears_answer(stream).await,
                framed(message),
                "cut at {cut}"
            );
        }
        assert_eq!(raw.echo.short.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test]
async fn answers_keep_within_the_windows() {
    let small = [(setting::INITIAL_WINDOW_SIZE, 10)];
    for (path, head) in [("/short/large", 5), ("/large", 0)] {
        let mut raw = Raw::begin(&small).await;
        raw.says(&call(1, path, b"x")).await;
        assert_eq!(raw.hears().await.kind, HEADERS);
        assert_eq!(raw.hears().await.payload.len(), 10);
        raw.hears_nothing().await;
        raw.says(&window(1, 5)).await;
        assert_eq!(raw.hears().await.payload.len(), 5);
        // A smaller first window takes back what was given.
        raw.says(&settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]))
            .await;
        assert_eq!(raw.hears().await.kind, SETTINGS);
        raw.says(&window(1, 9)).await;
        raw.hears_nothing().await;
        raw.says(&window(1, 2)).await;
        assert_eq!(raw.hears().await.payload.len(), 1);
        raw.says(&window(1, 1 << 30)).await;
        let mut bytes = 16;
        while bytes < WINDOW_DEFAULT as usize {
            let next = raw.hears().await;
            assert_eq!(next.kind, DATA);
            assert!(next.payload[head..].iter().all(|byte| *byte == 7));
            bytes += next.payload.len();
        }
        assert_eq!(bytes, WINDOW_DEFAULT as usize, "{path}");
        raw.hears_nothing().await;
        // A call whose answer needs no window passes by.
        raw.says(&frame(
            HEADERS,
            5,
            3,
            &[&block("/early")[..], b"\x00\x01a\x01b"].concat(),
        ))
        .await;
        raw.says(&window(0, 3)).await;
        let mut kinds = [raw.hears().await, raw.hears().await];
        kinds.sort_by_key(|came| came.kind);
        assert_eq!((kinds[0].kind, kinds[0].payload.len()), (DATA, 3));
        assert_eq!((kinds[1].kind, kinds[1].stream), (HEADERS, 3));
    }
}

/// Goal: who gives a call up ends the work on it.
#[tokio::test]
async fn calls_that_are_given_up_end() {
    let mut raw = Raw::begin(&[]).await;
    raw.says(&call(1, "/short/wait", b"x")).await;
    raw.says(&open(3, "/wait", false)).await;
    raw.until_waiting(2).await;
    raw.says(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).await;
    raw.until_waiting(1).await;
    raw.says(&frame(RST_STREAM, 0, 3, &[0, 0, 0, 8])).await;
    raw.until_waiting(0).await;
    raw.says(&window(1, 5)).await; // one that crossed it
    raw.says(&call(5, "/short/wait", b"x")).await;
    raw.until_waiting(1).await;
    raw.leaves().await;
}

/// Goal: a client that is answered early need not finish, and may.
#[tokio::test]
async fn an_early_answer_lets_the_rest_be() {
    let mut raw = Raw::begin(&[]).await;
    raw.says(&open(1, "/early", false)).await;
    assert_eq!(raw.hears().await.kind, HEADERS);
    assert_eq!(raw.hears().await, came(DATA, END_STREAM, 1, b"early"));
    raw.hears_reset(1, Reason::NoError).await;
    raw.says(&frame(DATA, 0, 1, b"more")).await;
    raw.says(&open(1, "/", true)).await;
    raw.hears_nothing().await;
    raw.says(&open(3, "/broken", true)).await;
    assert_eq!(raw.hears().await.kind, HEADERS);
    raw.hears_reset(3, Reason::Internal).await;
}

#[tokio::test]
async fn a_stop_lets_calls_end() {
    let mut raw = Raw::begin(&[]).await;
    raw.says(&open(1, "/echo", false)).await;
    assert_eq!(raw.hears().await.kind, HEADERS);
    raw.stop.send_replace(true);
    let away = raw.hears().await;
    assert_eq!(
        (away.kind, &away.payload[..]),
        (GOAWAY, &[0, 0, 0, 1, 0, 0, 0, 0][..])
    );
    raw.says(&open(3, "/echo", true)).await;
    raw.hears_reset(3, Reason::Refused).await;
    raw.says(&frame(DATA, END_STREAM, 1, b"rest")).await;
    assert_eq!(raw.hears().await, came(DATA, 0, 1, b"rest"));
    assert_eq!(raw.hears().await.flags, END_STREAM | END_HEADERS);
    assert_eq!(raw.next().await, None);
    raw.server.await.unwrap();
}

/// Goal: a library's client gets whole answers, many at a time, whatever their size.
#[tokio::test]
async fn a_client_of_a_library_is_content() {
    let (near, far) = duplex(1 << 16);
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(serve(near, Vec::new(), Echo::default(), rules(), stopped));
    let begun = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(far));
    let (sender, connection) = begun.await.unwrap();
    tokio::spawn(connection);
    let mut calls = tokio::task::JoinSet::new();
    for at in 0..60_usize {
        let mut sender = sender.clone();
        calls.spawn(async move {
            let sent = Bytes::from(vec![at as u8; at * at * 200]);
            let method = if at % 7 == 6 { "HEAD" } else { "POST" };
            let body = Full::new(sent.clone()).map_err(|error: Infallible| error);
            let request = Request::builder()
                .method(method)
                .uri("http://somewhere/echo")
                .header("x", "y".repeat(at * 100))
                .body(body)
                .unwrap();
            sender.ready().await.unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.headers()["a"], "b");
            let answer = response.into_body().collect().await.unwrap();
            if method == "POST" {
                assert_eq!(answer.trailers().unwrap()["end"], "yes");
                assert_eq!(answer.to_bytes(), sent);
            }
        });
    }
    let all = tokio::time::timeout(PATIENCE, calls.join_all()).await;
    assert_eq!(all.expect("all are answered").len(), 60);
}
