//! What the core sends on streams, as connections take it.

use tokio::sync::mpsc;

use super::*;
use crate::{
    api::{EdgeLimits, Handle},
    kernel::{ApiError, Credentials},
    pb::mvccpb,
};

fn handle() -> (Handle, mpsc::UnboundedReceiver<Event>) {
    let (sender, events) = mpsc::unbounded_channel();
    (Handle::new(sender, EdgeLimits::default()), events)
}

fn opened(handle: &Handle, events: &mut mpsc::UnboundedReceiver<Event>) -> (StreamId, StreamItems) {
    let (_, items) = handle.open_stream(Credentials::default()).unwrap();
    match events.try_recv() {
        Ok(Event::StreamOpened { stream, .. }) => (stream, items),
        other => panic!("a stream begins with its opening: {other:?}"),
    }
}

fn response(value: &[u8]) -> rpc::WatchResponse {
    let kv = mvccpb::KeyValue {
        key: "k".into(),
        value: value.to_vec().into(),
        mod_revision: 1 << 40,
        ..Default::default()
    };
    rpc::WatchResponse {
        header: Some(rpc::ResponseHeader {
            member_id: 1 << 63,
            revision: 1 << 40,
            ..Default::default()
        }),
        events: vec![mvccpb::Event {
            kv: Some(kv),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The messages of a piece.
fn messages(mut piece: &[u8]) -> Vec<rpc::WatchResponse> {
    let mut messages = Vec::new();
    while let Some(([0, length @ ..], rest)) = piece.split_first_chunk::<5>() {
        let (message, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        messages.push(rpc::WatchResponse::decode(message).unwrap());
        piece = rest;
    }
    assert!(piece.is_empty(), "whole messages");
    messages
}

fn take(items: &mut StreamItems) -> Poll<Option<Result<Vec<rpc::WatchResponse>, Status>>> {
    let mut piece = BytesMut::new();
    let mut cx = Context::from_waker(Waker::noop());
    let polled = items.poll_piece(&mut piece, &mut cx);
    polled.map(|taken| taken.map(|ended| ended.map(|()| messages(&piece))))
}

#[tokio::test]
async fn a_stream_credits_what_it_takes_and_closes_when_dropped() {
    let (handle, mut events) = handle();
    let (requests, items) = handle.open_stream(Credentials::default()).unwrap();
    let Some(Event::StreamOpened { stream, .. }) = events.recv().await else {
        panic!("a stream begins with its opening");
    };
    requests.send(rpc::WatchRequest::default());
    assert!(matches!(
        events.recv().await,
        Some(Event::StreamItem { .. })
    ));
    let response = Box::new(rpc::WatchResponse {
        watch_id: 5,
        ..Default::default()
    });
    handle.stream_item(
        stream,
        StreamItem::Watch {
            response,
            bytes: 77,
        },
    );
    handle.stream_item(stream, StreamItem::End(ApiError::NoLeader));
    let mut items = Box::pin(items);
    let mut next = async || std::future::poll_fn(|cx| items.as_mut().poll_next(cx)).await;
    assert_eq!(next().await.unwrap().unwrap().watch_id, 5);
    let credit = events.recv().await;
    assert!(matches!(
        credit,
        Some(Event::StreamCredit { bytes: 77, .. })
    ));
    let end = next().await.unwrap().unwrap_err();
    assert_eq!(end.message(), "etcdserver: no leader");
    assert!(next().await.is_none());
    drop(items);
    let closed = events.recv().await;
    assert!(matches!(closed, Some(Event::StreamClosed { stream: id }) if id == stream));
}

/// Goal: what waits leaves as one piece and is credited at once; the end comes behind it.
#[tokio::test]
async fn all_that_waits_is_one_piece() {
    let (handle, mut events) = handle();
    let (stream, mut items) = opened(&handle, &mut events);
    assert!(take(&mut items).is_pending());
    let shared = Arc::new(response(b"shared"));
    let mut wanted = Vec::new();
    for watch in [0, 1, 127, 128, -1, i64::MAX] {
        let item = StreamItem::Alike {
            watch: WatchId::new(watch),
            response: Arc::clone(&shared),
            bytes: 10,
        };
        wanted.push(rpc::WatchResponse {
            watch_id: watch,
            ..(*shared).clone()
        });
        assert_eq!(
            item.clone().alone(),
            StreamItem::Watch {
                response: Box::new(wanted.last().unwrap().clone()),
                bytes: 10
            }
        );
        handle.stream_item(stream, item);
    }
    let own = response(b"its own");
    wanted.push(own.clone());
    let item = StreamItem::Watch {
        response: Box::new(own),
        bytes: 7,
    };
    handle.stream_item(stream, item);
    handle.stream_item(stream, StreamItem::End(ApiError::NoLeader));
    let Poll::Ready(Some(Ok(taken))) = take(&mut items) else {
        panic!("there is something");
    };
    assert_eq!(taken, wanted);
    let credit = events.try_recv();
    assert!(matches!(credit, Ok(Event::StreamCredit { bytes: 67, .. })));
    let Poll::Ready(Some(Err(end))) = take(&mut items) else {
        panic!("the end is told");
    };
    assert_eq!(end.message(), "etcdserver: no leader");
    assert!(matches!(take(&mut items), Poll::Ready(None)));
    assert!(events.try_recv().is_err(), "an end is not credited");
}

/// Goal: two responses that look alike to nobody but the edge are not taken for each other, and
/// pieces stay small however much waits.
#[tokio::test]
async fn much_is_taken_in_several_pieces() {
    let (handle, mut events) = handle();
    let (stream, mut items) = opened(&handle, &mut events);
    let mut wanted = Vec::new();
    for number in 0..100_u8 {
        let bytes = if number % 10 == 0 { 40_000 } else { 300 };
        let shared = Arc::new(response(&vec![number; bytes]));
        for watch in 1..=3 {
            handle.stream_item(
                stream,
                StreamItem::Alike {
                    watch: WatchId::new(watch),
                    response: Arc::clone(&shared),
                    bytes: 1,
                },
            );
            wanted.push(rpc::WatchResponse {
                watch_id: watch,
                ..(*shared).clone()
            });
        }
    }
    let (mut got, mut pieces) = (Vec::new(), 0);
    while let Poll::Ready(Some(Ok(taken))) = take(&mut items) {
        let bytes: usize = taken.iter().map(Message::encoded_len).sum();
        assert!(bytes < PIECE_BYTES + 41_000, "{bytes}");
        got.extend(taken);
        pieces += 1;
    }
    assert_eq!(got, wanted);
    assert!(pieces > 30, "{pieces}");
    let mut credit = 0;
    while let Ok(Event::StreamCredit { bytes, .. }) = events.try_recv() {
        credit += bytes;
    }
    assert_eq!(credit, 300);
}

/// Goal: a connection that waits is woken, and one that goes away closes its stream.
#[tokio::test]
async fn who_waits_is_woken() {
    let (handle, mut events) = handle();
    let (stream, items) = opened(&handle, &mut events);
    let mut body = StreamBody::new(items);
    let waiting = tokio::spawn(async move {
        let mut frames = Vec::new();
        while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
            frames.push(frame.unwrap());
        }
        frames
    });
    tokio::task::yield_now().await;
    let item = StreamItem::Watch {
        response: Box::new(response(b"late")),
        bytes: 1,
    };
    handle.stream_item(stream, item);
    tokio::task::yield_now().await;
    handle.stream_item(stream, StreamItem::End(ApiError::Compacted));
    let frames = waiting.await.unwrap();
    let data = frames[0].data_ref().expect("a piece comes first");
    assert_eq!(messages(data), [response(b"late")]);
    let trailers = frames[1].trailers_ref().expect("then the end");
    assert_eq!(trailers["grpc-status"], "11");
    assert_eq!(frames.len(), 2);
    assert!(matches!(
        events.recv().await,
        Some(Event::StreamCredit { .. })
    ));
    assert!(matches!(
        events.recv().await,
        Some(Event::StreamClosed { .. })
    ));
}
