//! What a cluster of three answers when the wrong member is asked, and when most of it is gone.

use std::time::{Duration, Instant};

use fated::pb::etcdserverpb::{MemberListRequest, MoveLeaderRequest, RangeRequest, StatusRequest};
use tonic::{Code, Request, Status};

use super::{
    server::{Client, Plan, Server, told},
    watches::{Stream, of},
};

/// Longer than three election timeouts of a member that has lost its leader, on a busy machine.
const NOTICE: Duration = Duration::from_secs(10);

fn with_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = "true".parse().expect("plain text");
    request.metadata_mut().insert("hasleader", value);
    request
}

fn range(serializable: bool) -> RangeRequest {
    RangeRequest {
        key: "started".into(),
        serializable,
        ..Default::default()
    }
}

fn timed_out(status: &Status) -> bool {
    let text = status.message();
    status.code() == Code::Unavailable && text.starts_with("etcdserver: request timed out")
}

/// The member that leads, by its own word, and the member ids.
async fn leader_of(servers: &[Server]) -> (usize, Vec<u64>) {
    let begun = Instant::now();
    loop {
        let mut ids = Vec::new();
        let mut leads = None;
        for (at, server) in servers.iter().enumerate() {
            let mut client = server.connect().await;
            let status = client.maintenance.status(StatusRequest {}).await;
            let status = status.expect("a status").into_inner();
            let id = status.header.expect("a header").member_id;
            if status.leader == id {
                leads = Some(at);
            }
            ids.push(id);
        }
        if let Some(leads) = leads {
            return (leads, ids);
        }
        assert!(begun.elapsed() < NOTICE, "nobody leads");
    }
}

/// Goal: exact answers of followers, and of a member without quorum. Method: three members; ask a
/// follower for what only the leader does; kill two; ask the one that is left.
#[tokio::test]
async fn followers_and_the_last_member_say_what_is_missing() {
    let mut servers: Vec<Server> = Plan::of_cluster(3).iter().map(Server::spawn).collect();
    for server in &servers {
        server.until_serving().await;
    }
    let (leads, ids) = leader_of(&servers).await;
    let follows = (leads + 1) % 3;
    let mut client = servers[follows].connect().await;
    for target_id in [ids[follows], ids[leads], 0, 12345] {
        let request = MoveLeaderRequest { target_id };
        let refused = client.maintenance.move_leader(request).await;
        let refused = told(&refused.expect_err("only the leader moves leadership"));
        let expected = (
            Code::FailedPrecondition,
            "etcdserver: not leader".to_owned(),
        );
        assert_eq!(refused, expected);
    }
    let mut leader = servers[leads].connect().await;
    let refused = leader
        .maintenance
        .move_leader(MoveLeaderRequest { target_id: 12345 })
        .await;
    let refused = told(&refused.expect_err("nobody by that id"));
    assert_eq!(refused.1, "etcdserver: bad leader transferee");
    let answer = client.kv.range(with_leader(range(false))).await;
    answer.expect("there is a leader");

    let mut demanding = open_watch(&client, true).await;
    let mut patient = open_watch(&client, false).await;
    for (at, server) in servers.iter_mut().enumerate() {
        if at != follows {
            server.kill();
        }
    }
    let ended = tokio::time::timeout(NOTICE, demanding.message()).await;
    let ended = ended
        .expect("the watch is told in time")
        .expect_err("and ends");
    let no_leader = (Code::Unavailable, "etcdserver: no leader".to_owned());
    assert_eq!(told(&ended), no_leader);

    let refused = client.kv.range(with_leader(range(true))).await;
    assert_eq!(told(&refused.expect_err("no leader")), no_leader);
    let refused = client
        .watch
        .watch(with_leader(tokio_stream::pending()))
        .await;
    let refused = match refused {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.expect_err("no leader"),
    };
    assert_eq!(told(&refused), no_leader);
    client
        .kv
        .range(range(true))
        .await
        .expect("a local read needs nobody");
    let local = MemberListRequest {
        linearizable: false,
    };
    client
        .cluster
        .member_list(local)
        .await
        .expect("a local list needs nobody");
    let status = client
        .maintenance
        .status(StatusRequest {})
        .await
        .expect("a status");
    let status = status.into_inner();
    assert_eq!(status.leader, 0);
    assert!(
        status.errors.contains(&"etcdserver: no leader".to_owned()),
        "{status:?}"
    );

    // The rest waits for a leader until its time is over; all wait side by side.
    let (mut reading, mut listing) = (client.clone(), client.clone());
    let lists = MemberListRequest { linearizable: true };
    let (put, read, list) = tokio::join!(
        client.put("late", "v"),
        reading.kv.range(range(false)),
        listing.cluster.member_list(lists),
    );
    for status in [
        put.expect_err("a put"),
        read.expect_err("a read"),
        list.expect_err("a list"),
    ] {
        assert!(timed_out(&status), "{status}");
    }
    let nothing = tokio::time::timeout(Duration::from_millis(1), patient.message()).await;
    assert!(
        nothing.is_err(),
        "a watch that demands no leader stays: {nothing:?}"
    );
}

async fn open_watch(client: &Client, demanding: bool) -> Stream {
    let mut stream = Stream::open_with(client, |metadata| {
        if demanding {
            metadata.insert("hasleader", "true".parse().expect("plain text"));
        }
    });
    stream.create(of("watched")).await;
    assert!(stream.next().await.created);
    stream
}
