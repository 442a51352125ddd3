//! Clients that ask for much and read nothing.
//!
//! Goal: nobody else notices: a healthy watcher sees every event once and in order, puts stay
//! quick, and what the server holds for the silent client is bounded. Method: one silent client
//! per test, kept alive to the end, beside a healthy one; the memory is what /proc says of the
//! process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fated::pb::etcdserverpb::{PutRequest, RangeRequest, SnapshotRequest, WatchCreateRequest};

use super::{
    server::{Client, Server},
    watches::{Stream, of},
};

/// The slowest put of a healthy client, in a debug build on a machine that does much else.
const PUT_PATIENCE: Duration = Duration::from_secs(3);
const MIB: u64 = 1024 * 1024;

/// Puts this many values of this size to one key; gives the slowest put.
async fn write(client: &mut Client, key: &str, rounds: usize, bytes: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let mut value = vec![b'x'; bytes];
        value[..8].copy_from_slice(&u64::try_from(round).expect("few").to_be_bytes());
        let request = PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.into(),
            ..Default::default()
        };
        let begun = Instant::now();
        client.kv.put(request).await.expect("a put");
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

/// Reads the events of `rounds` writes; each exactly once, in order.
async fn read(watch: &mut Stream, rounds: usize) {
    let mut expected = 0;
    while expected < u64::try_from(rounds).expect("few") {
        for event in watch.next().await.events {
            let value = event.kv.expect("a key").value;
            let round = u64::from_be_bytes(value[..8].try_into().expect("eight bytes"));
            assert_eq!(round, expected, "an event is missing, or came twice");
            expected += 1;
        }
    }
}

async fn healthy_watch(server: &Server, key: &str) -> Stream {
    let mut stream = Stream::open(&server.connect().await);
    stream.create(of(key)).await;
    assert!(stream.next().await.created);
    stream
}

/// Writes beside whatever is silent, and asserts that nobody healthy notices. `growth_max` bounds
/// the memory the process gained since `before`.
async fn assert_unnoticed(server: &mut Server, key: &str, before: u64, growth_max: u64) {
    const ROUNDS: usize = 150;
    let mut healthy = healthy_watch(server, key).await;
    let mut client = server.connect().await;
    let work = async {
        let (slowest, ()) = tokio::join!(
            write(&mut client, key, ROUNDS, 4096),
            read(&mut healthy, ROUNDS)
        );
        slowest
    };
    let slowest = tokio::time::timeout(Duration::from_secs(60), work).await;
    let slowest = slowest.expect("the healthy watcher gets everything in time");
    let growth = server.memory_bytes().saturating_sub(before);
    println!("{key}: slowest put {slowest:?}, {} MiB more", growth / MIB);
    assert!(slowest < PUT_PATIENCE, "a put took {slowest:?}");
    assert!(growth < growth_max, "{} MiB more", growth / MIB);
    server.assert_healthy(key).await;
}

/// One stream with ten thousand watches of the key that is written, never read. Ten thousand
/// responses of four KiB per write would be 40 MiB per write, 6 GiB in all; the stream's window
/// ends that.
#[tokio::test]
async fn ten_thousand_silent_watches_on_one_stream() {
    let mut server = Server::start_own().await;
    let before = server.memory_bytes();
    let mut silent = Stream::open(&server.connect().await);
    for _ in 0..10_000 {
        silent.create(of("flood/one")).await;
    }
    assert_unnoticed(&mut server, "flood/one", before, 256 * MIB).await;
    // It was silent, not gone: all its watches had been taken.
    let mut created = 0;
    while created < 10_000 {
        created += usize::from(silent.next().await.created);
    }
}

/// A thousand streams with one watch each. Values are shared between streams, so what each may
/// hold is some hundred bytes per event, and what HTTP/2 has taken over for it.
#[tokio::test]
async fn a_thousand_silent_streams() {
    let mut server = Server::start_own().await;
    let before = server.memory_bytes();
    let client = server.connect().await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        let stream = Stream::open(&client);
        stream.create(of("flood/many")).await;
        silent.push(stream);
        tokio::task::yield_now().await;
    }
    assert_unnoticed(&mut server, "flood/many", before, 512 * MIB).await;
    assert_eq!(silent.len(), 1000);
}

/// Five thousand streams on one connection that ask for nothing.
#[tokio::test]
async fn five_thousand_idle_streams() {
    let mut server = Server::start_own().await;
    let before = server.memory_bytes();
    let client = server.connect().await;
    let mut silent = Vec::new();
    for _ in 0..5000 {
        silent.push(Stream::open(&client));
        tokio::task::yield_now().await;
    }
    assert_unnoticed(&mut server, "flood/idle", before, 256 * MIB).await;
    assert_eq!(silent.len(), 5000);
}

/// Ten downloads of 50 MiB that begin and are never read: each may hold a few chunks.
#[tokio::test]
async fn ten_silent_downloads() {
    let mut server = Server::start_own().await;
    let mut client = server.connect().await;
    for at in 0..800 {
        write(&mut client, &format!("bulk/{at:04}"), 1, 64 * 1024).await;
    }
    // What the load itself left behind is not the downloads' doing.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = server.memory_bytes();
    let mut ranges = Vec::new();
    let mut images = Vec::new();
    for _ in 0..5 {
        let mut client = server.connect().await;
        let request = RangeRequest {
            key: "bulk/".into(),
            range_end: "bulk0".into(),
            ..Default::default()
        };
        ranges.push(client.kv.range_stream(request).await.expect("a stream"));
        let image = client.maintenance.snapshot(SnapshotRequest {}).await;
        images.push(image.expect("a stream"));
    }
    assert_unnoticed(&mut server, "flood/bulk", before, 160 * MIB).await;
    // One of them wakes up, and gets all of it as it was.
    let mut late = ranges.remove(0).into_inner();
    let mut keys = 0;
    while let Some(chunk) = late.message().await.expect("no error") {
        keys += chunk.range_response.expect("a range").kvs.len();
    }
    assert_eq!(keys, 800);
    let mut image = images.remove(0).into_inner();
    let mut bytes = 0;
    while let Some(part) = image.message().await.expect("no error") {
        bytes += part.blob.len();
    }
    assert!(bytes > 50_000_000, "{bytes}");
}

/// A client that opens watches and goes, again and again, leaves nothing behind.
#[tokio::test]
async fn watches_that_come_and_go_leave_no_memory() {
    let mut server = Server::start_own().await;
    let before = server.memory_bytes();
    for _ in 0..20 {
        let client = server.connect().await;
        let mut streams = Vec::new();
        for _ in 0..50 {
            let mut stream = Stream::open(&client);
            for _ in 0..20 {
                let prefix = WatchCreateRequest {
                    range_end: "\0".into(),
                    ..of("a")
                };
                stream.create(prefix).await;
            }
            assert!(stream.next().await.created);
            streams.push(stream);
        }
    }
    assert_unnoticed(&mut server, "flood/gone", before, 128 * MIB).await;
}
