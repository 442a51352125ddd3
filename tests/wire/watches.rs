//! Watches that are refused or ended: in the stream, with etcd's exact texts.

use bytes::Bytes;
use fated::pb::etcdserverpb::{
    CompactionRequest, WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::server::{Client, Server};

/// Both halves of one stream.
pub struct Stream {
    pub requests: mpsc::Sender<WatchRequest>,
    answers: Answers,
}

/// A server may send its headers with the first response only, so nobody waits for them before.
enum Answers {
    Awaited(JoinHandle<Result<Response<Streaming<WatchResponse>>, Status>>),
    Open(Box<Streaming<WatchResponse>>),
}

impl Stream {
    /// Opens one.
    pub fn open(client: &Client) -> Self {
        Self::open_with(client, |_| {})
    }

    /// Opens one with metadata.
    pub fn open_with(client: &Client, adorn: impl FnOnce(&mut MetadataMap)) -> Self {
        let (requests, receiver) = mpsc::channel(1024);
        let mut request = Request::new(ReceiverStream::new(receiver));
        adorn(request.metadata_mut());
        let mut client = client.watch.clone();
        let answers = tokio::spawn(async move { client.watch(request).await });
        Self {
            requests,
            answers: Answers::Awaited(answers),
        }
    }

    /// Asks for a watch.
    pub async fn create(&self, create: WatchCreateRequest) {
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        self.requests.send(request).await.expect("an open stream");
    }

    /// The next response.
    pub async fn next(&mut self) -> WatchResponse {
        self.message().await.expect("no error").expect("no end")
    }

    /// The next response, or how the stream ended.
    pub async fn message(&mut self) -> Result<Option<WatchResponse>, Status> {
        if let Answers::Awaited(awaited) = &mut self.answers {
            let opened = awaited.await.expect("no panic")?;
            self.answers = Answers::Open(Box::new(opened.into_inner()));
        }
        match &mut self.answers {
            Answers::Open(answers) => answers.message().await,
            Answers::Awaited(_) => unreachable!("it was opened just now"),
        }
    }
}

/// A watch of one key.
pub fn of(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    }
}

/// Goal: a create that cannot be served is refused in the stream, under the id -1, and the stream
/// lives on. Method: one row per reason, then a watch that works on the same stream.
#[tokio::test]
async fn refused_watches_are_created_and_canceled_at_once() {
    let server = Server::start().await;
    let rejects_negative = server.version().await >= (3, 6);
    let mut client = server.connect().await;
    let mut stream = Stream::open(&client);
    stream
        .create(WatchCreateRequest {
            watch_id: 7,
            ..of("w")
        })
        .await;
    assert_eq!(stream.next().await.watch_id, 7);

    let empty = "mvcc: watcher range is empty";
    let duplicate = "mvcc: duplicate watch ID provided on the WatchStream";
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let end = |key: &str, end: &str| WatchCreateRequest {
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        ..of(key)
    };
    let mut rows = vec![
        (end("b", "a"), empty),
        (end("b", "b"), empty),
        (
            WatchCreateRequest {
                watch_id: 7,
                ..of("x")
            },
            duplicate,
        ),
        (
            WatchCreateRequest {
                watch_id: 7,
                ..end("b", "a")
            },
            empty,
        ),
    ];
    if rejects_negative {
        rows.push((
            WatchCreateRequest {
                start_revision: -1,
                ..of("w")
            },
            compacted,
        ));
        rows.push((
            WatchCreateRequest {
                start_revision: i64::MIN,
                ..end("b", "a")
            },
            compacted,
        ));
    }
    for (create, reason) in rows {
        let shown = format!("{create:?}");
        stream.create(create).await;
        let answer = stream.next().await;
        let told = (
            answer.watch_id,
            answer.created,
            answer.canceled,
            &answer.cancel_reason[..],
        );
        assert_eq!(told, (-1, true, true, reason), "{shown}");
        assert_eq!(answer.compact_revision, 0, "{shown}");
        assert!(
            answer.header.is_some_and(|header| header.revision > 0),
            "{shown}"
        );
    }

    let legal = [
        WatchCreateRequest {
            start_revision: i64::MAX,
            ..of("w")
        },
        WatchCreateRequest {
            watch_id: -5,
            ..of("w")
        },
        end("a", "\0"),
        end("", "\0"),
        of(""),
    ];
    for create in legal {
        let shown = format!("{create:?}");
        stream.create(create).await;
        let answer = stream.next().await;
        assert!(answer.created && !answer.canceled, "{shown}: {answer:?}");
    }
    client.put("w", "v").await.expect("a put");
    let mut seen = Vec::new();
    // The first watch, the one with a negative id, and the two of a range that holds the key.
    for _ in 0..4 {
        let answer = stream.next().await;
        assert_eq!(answer.events.len(), 1, "{answer:?}");
        seen.push(answer.watch_id);
    }
    assert!(seen.contains(&7) && seen.contains(&-5), "{seen:?}");
}

/// Goal: a watch from a revision that is gone is created, then cancelled with the compact
/// revision.
#[tokio::test]
async fn a_watch_of_compacted_history_is_told_where_history_begins() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for at in 0..6 {
        client.put("gone", &at.to_string()).await.expect("a put");
    }
    let revision = client.revision().await;
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    client.kv.compact(request).await.expect("a compaction");
    let mut stream = Stream::open(&client);
    for start_revision in [1, revision - 1] {
        stream
            .create(WatchCreateRequest {
                start_revision,
                ..of("gone")
            })
            .await;
        let created = stream.next().await;
        assert!(created.created && !created.canceled, "{created:?}");
        let canceled = stream.next().await;
        assert_eq!(canceled.watch_id, created.watch_id);
        assert!(canceled.canceled && !canceled.created);
        assert_eq!(canceled.compact_revision, revision);
        assert!(canceled.events.is_empty());
    }
    // From the compacted revision on, everything is there.
    stream
        .create(WatchCreateRequest {
            start_revision: revision,
            ..of("gone")
        })
        .await;
    assert!(stream.next().await.created);
    let first = stream.next().await;
    assert_eq!(
        first.events[0].kv.as_ref().expect("a key").mod_revision,
        revision
    );
}

/// Goal: bytes that are no request end the stream with an error, and only this stream.
#[tokio::test]
async fn one_broken_stream_does_not_touch_another() {
    let mut server = Server::start().await;
    let mut client = server.connect().await;
    let mut healthy = Stream::open(&client);
    healthy.create(of("beside")).await;
    assert!(healthy.next().await.created);
    let mut broken = super::raw::Connection::open(&server.address()).await;
    let (code, text) = broken
        .call("/etcdserverpb.Watch/Watch", &[0x0a, 0xff])
        .await;
    assert_eq!(code, tonic::Code::Internal, "{text}");
    client.put("beside", "v").await.expect("a put");
    assert_eq!(healthy.next().await.events.len(), 1);
    server.assert_healthy("a broken stream").await;
}
