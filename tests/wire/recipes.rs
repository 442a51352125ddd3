//! Locks and elections as services: who waits, who is next, and what is said to those who are
//! nobody.

use std::time::Duration;

use bytes::Bytes;
use fated::pb::{
    etcdserverpb::{
        LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
        RangeRequest,
    },
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
    },
    v3lockpb::{LockRequest, LockResponse, UnlockRequest},
};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::server::{Client, Server, told};

const PATIENCE: Duration = Duration::from_secs(10);

async fn lease(client: &Client) -> i64 {
    let request = LeaseGrantRequest { ttl: 600, id: 0 };
    let granted = client.lease.clone().lease_grant(request).await;
    granted.expect("a lease").into_inner().id
}

async fn revoke(client: &Client, id: i64) {
    let request = LeaseRevokeRequest { id };
    let revoked = client.lease.clone().lease_revoke(request).await;
    revoked.expect("it was there");
}

async fn lock(client: &Client, name: &str, lease: i64) -> Result<LockResponse, Status> {
    let request = LockRequest {
        name: Bytes::copy_from_slice(name.as_bytes()),
        lease,
    };
    let answer = client.lock.clone().lock(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn unlock(client: &Client, key: Bytes) {
    let request = UnlockRequest { key };
    let answer = client.lock.clone().unlock(request).await;
    assert!(answer.expect("no error").into_inner().header.is_some());
}

fn campaign(
    client: &Client,
    name: &'static str,
    lease: i64,
    value: &'static str,
) -> JoinHandle<Result<CampaignResponse, Status>> {
    let request = CampaignRequest {
        name: name.into(),
        lease,
        value: value.into(),
    };
    let mut client = client.election.clone();
    tokio::spawn(async move {
        let answer = client.campaign(request).await;
        answer.map(tonic::Response::into_inner)
    })
}

/// The keys below a name, in the order of their creation.
async fn keys(client: &Client, name: &str) -> Vec<Bytes> {
    let request = RangeRequest {
        key: format!("{name}/").into(),
        range_end: format!("{name}0").into(),
        sort_target: 2,
        sort_order: 1,
        ..Default::default()
    };
    let answer = client.kv.clone().range(request).await.expect("a read");
    let kvs = answer.into_inner().kvs;
    kvs.into_iter().map(|kv| kv.key).collect()
}

/// Waits until so many keys are below a name.
async fn until(client: &Client, name: &str, count: usize) -> Vec<Bytes> {
    let looking = async {
        loop {
            let keys = keys(client, name).await;
            if keys.len() == count {
                return keys;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("never {count} keys below {name}"))
}

async fn soon<T>(waiting: JoinHandle<T>) -> T {
    let ended = tokio::time::timeout(PATIENCE, waiting).await;
    ended.expect("its turn has come").expect("no panic")
}

/// Goal: a lock goes from its holder to the one that has waited longest, and one lease holds it
/// once.
#[tokio::test]
async fn a_lock_goes_on_in_the_order_of_asking() {
    let server = Server::start().await;
    let client = server.connect().await;
    let leases = [
        lease(&client).await,
        lease(&client).await,
        lease(&client).await,
    ];
    let first = lock(&client, "order", leases[0]).await.expect("it is free");
    assert_eq!(first.key, format!("order/{:x}", leases[0]));
    let again = lock(&client, "order", leases[0]).await;
    assert_eq!(again.expect("its own").key, first.key);
    let mut waiting = Vec::new();
    for (at, lease) in leases.into_iter().enumerate().skip(1) {
        let other = server.connect().await;
        waiting.push(tokio::spawn(
            async move { lock(&other, "order", lease).await },
        ));
        until(&client, "order", at + 1).await;
    }
    let third = waiting.pop().expect("two wait");
    let second = waiting.pop().expect("two wait");
    unlock(&client, first.key).await;
    let second = soon(second).await.expect("its turn");
    assert_eq!(second.key, format!("order/{:x}", leases[1]));
    assert_eq!(keys(&client, "order").await[0], second.key);
    assert!(!third.is_finished(), "two hold the lock");
    // A session that is lost gives back what it held.
    revoke(&client, leases[1]).await;
    let third = soon(third).await.expect("its turn");
    let revision = third.header.expect("a header").revision;
    assert!(revision > second.header.expect("a header").revision);
    unlock(&client, third.key).await;
    until(&client, "order", 0).await;
}

/// Goal: who brings no lease gets one of a minute that nobody keeps alive.
#[tokio::test]
async fn a_lock_without_a_lease_ends_by_itself() {
    let server = Server::start().await;
    let client = server.connect().await;
    let held = lock(&client, "own", 0).await.expect("it is free");
    let hex = std::str::from_utf8(&held.key[4..]).expect("hex");
    let id = i64::from_str_radix(hex, 16).expect("hex");
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let told = client.lease.clone().lease_time_to_live(request).await;
    let told = told.expect("an answer").into_inner();
    assert_eq!(told.granted_ttl, 60);
    assert!(told.ttl > 0 && told.ttl <= 60, "{told:?}");
    assert_eq!(told.keys, [held.key]);
    revoke(&client, id).await;
}

/// Goal: who waits and goes away leaves no key behind, however it went.
#[tokio::test]
async fn who_stops_waiting_leaves_no_key() {
    let server = Server::start().await;
    let client = server.connect().await;
    let (holder, waiter) = (lease(&client).await, lease(&client).await);
    let held = lock(&client, "gone", holder).await.expect("it is free");
    let won = campaign(&client, "gone-too", holder, "a");
    soon(won).await.expect("the only one");

    let other = server.connect().await;
    let waiting = tokio::spawn(async move { lock(&other, "gone", waiter).await });
    until(&client, "gone", 2).await;
    waiting.abort();
    assert_eq!(until(&client, "gone", 1).await.first(), Some(&held.key));

    let waiting = campaign(&client, "gone-too", waiter, "b");
    until(&client, "gone-too", 2).await;
    waiting.abort();
    until(&client, "gone-too", 1).await;

    // A lease that was made for the call goes with it.
    if !server.is_foreign() {
        let leases = async || {
            let request = LeaseLeasesRequest {};
            let answer = client.lease.clone().lease_leases(request).await;
            answer.expect("an answer").into_inner().leases.len()
        };
        let before = leases().await;
        let other = server.connect().await;
        let waiting = tokio::spawn(async move { lock(&other, "gone", 0).await });
        until(&client, "gone", 2).await;
        assert_eq!(leases().await, before + 1);
        waiting.abort();
        until(&client, "gone", 1).await;
        let gone = async {
            while leases().await > before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let gone = tokio::time::timeout(PATIENCE, gone).await;
        gone.expect("the lease is gone");
    }

    // With a deadline, which the server keeps as well.
    let mut request = tonic::Request::new(LockRequest {
        name: "gone".into(),
        lease: waiter,
    });
    request.set_timeout(Duration::from_millis(300));
    let late = client.lock.clone().lock(request).await.unwrap_err();
    assert!(
        matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{late}"
    );
    assert_eq!(until(&client, "gone", 1).await.first(), Some(&held.key));

    // One whose lease ends in the queue hears so when its turn comes.
    let other = server.connect().await;
    let waiting = tokio::spawn(async move { lock(&other, "gone", waiter).await });
    until(&client, "gone", 2).await;
    revoke(&client, waiter).await;
    until(&client, "gone", 1).await;
    unlock(&client, held.key).await;
    let lost = soon(waiting).await.unwrap_err();
    assert_eq!(
        told(&lost),
        (Code::Unknown, "mutex: session is expired".to_owned())
    );
    revoke(&client, holder).await;
}

/// Goal: one leads at a time, everybody hears who and what, and a leader that resigns is followed
/// by the next.
#[tokio::test]
async fn an_election_is_won_told_and_given_back() {
    let server = Server::start().await;
    let client = server.connect().await;
    let (one, two) = (lease(&client).await, lease(&client).await);
    let name = LeaderRequest {
        name: "seat".into(),
    };
    let mut election = client.election.clone();
    let nobody = election.leader(name.clone()).await.unwrap_err();
    assert_eq!(
        told(&nobody),
        (Code::Unknown, "election: no leader".to_owned())
    );

    // A server may send its headers with the first leader only.
    let mut watching = client.election.clone();
    let observed = name.clone();
    let observing = tokio::spawn(async move { watching.observe(observed).await });
    let first = soon(campaign(&client, "seat", one, "a"))
        .await
        .expect("the only one");
    let leader = first.leader.clone().expect("a key");
    assert_eq!(leader.key, format!("seat/{one:x}"));
    assert_eq!((leader.name.as_ref(), leader.lease), (&b"seat"[..], one));
    assert_eq!(leader.rev, first.header.expect("a header").revision);
    let mut seen = soon(observing).await.expect("a stream").into_inner();
    let mut next = async || {
        let message = tokio::time::timeout(PATIENCE, seen.message()).await;
        let kv = message
            .expect("in time")
            .expect("no error")
            .expect("no end")
            .kv;
        String::from_utf8(kv.expect("a leader").value.to_vec()).expect("text")
    };
    assert_eq!(next().await, "a");

    let proclaim = |leader: &LeaderKey, value: &'static str| ProclaimRequest {
        leader: Some(leader.clone()),
        value: value.into(),
    };
    election
        .proclaim(proclaim(&leader, "b"))
        .await
        .expect("it leads");
    assert_eq!(next().await, "b");
    // To campaign again changes the value and nothing else.
    let again = soon(campaign(&client, "seat", one, "c"))
        .await
        .expect("it leads");
    assert_eq!(again.leader.as_ref().expect("a key").rev, leader.rev);
    assert_eq!(next().await, "c");

    let waiting = campaign(&client, "seat", two, "d");
    until(&client, "seat", 2).await;
    let now = election
        .leader(name.clone())
        .await
        .expect("a leader")
        .into_inner();
    assert_eq!(now.kv.expect("a leader").key, leader.key);
    assert!(!waiting.is_finished(), "two lead");
    let resign = ResignRequest {
        leader: Some(leader.clone()),
    };
    election.resign(resign.clone()).await.expect("it leads");
    let second = soon(waiting)
        .await
        .expect("its turn")
        .leader
        .expect("a key");
    assert_eq!(next().await, "d");

    // Who has resigned may do so again, but may not proclaim.
    election.resign(resign).await.expect("nothing to do");
    let deposed = election.proclaim(proclaim(&leader, "e")).await.unwrap_err();
    assert_eq!(
        told(&deposed),
        (Code::Unknown, "election: not leader".to_owned())
    );
    let now = election.leader(name).await.expect("a leader").into_inner();
    assert_eq!(now.kv.expect("a leader").key, second.key);
    revoke(&client, one).await;
    revoke(&client, two).await;
}

/// Goal: errors have etcd's texts, and the code that all errors of these services have.
#[tokio::test]
async fn what_cannot_be_is_told_in_etcds_words() {
    let server = Server::start().await;
    let client = server.connect().await;
    let unknown = |text: &str| (Code::Unknown, text.to_owned());
    let no_lease = "etcdserver: requested lease not found";
    let no_key = "etcdserver: key is not provided";
    let no_leader = "\"leader\" field must be provided";
    let refused = lock(&client, "no", 4711).await.unwrap_err();
    assert_eq!(told(&refused), unknown(no_lease));
    let refused = soon(campaign(&client, "no", 4711, "a")).await.unwrap_err();
    assert_eq!(told(&refused), unknown(no_lease));
    let refused = client.lock.clone().unlock(UnlockRequest::default()).await;
    assert_eq!(told(&refused.unwrap_err()), unknown(no_key));
    // A key that nobody holds is unlocked already.
    unlock(&client, "no/such".into()).await;
    let mut election = client.election.clone();
    let refused = election.proclaim(ProclaimRequest::default()).await;
    assert_eq!(told(&refused.unwrap_err()), unknown(no_leader));
    let refused = election.resign(ResignRequest::default()).await;
    assert_eq!(told(&refused.unwrap_err()), unknown(no_leader));
    let keyless = LeaderKey {
        lease: 4711,
        ..Default::default()
    };
    let refused = election.resign(ResignRequest {
        leader: Some(keyless),
    });
    assert_eq!(told(&refused.await.unwrap_err()), unknown(no_key));
}
