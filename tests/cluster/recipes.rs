//! The services for locks and elections, on a cluster that loses its leader.

use std::{thread, time::Duration};

use fated::pb::{
    v3electionpb::{CampaignRequest, LeaderRequest, election_client::ElectionClient},
    v3lockpb::{LockRequest, UnlockRequest, lock_client::LockClient},
};

use crate::support::{Client, Cluster, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

fn lock_request(lease: i64) -> LockRequest {
    LockRequest {
        name: "m".into(),
        lease,
    }
}

/// How many keys begin with a prefix, as soon as it is known.
fn count(client: &Client, prefix: &str, wanted: usize) {
    let found = wait_for(PATIENCE, || {
        let answer = client.prefix(prefix, false).ok()?;
        (answer.kvs.len() == wanted).then_some(())
    });
    assert!(found.is_some(), "never {wanted} keys below {prefix}");
}

/// Goal: who waits at one member for what is held through another goes on waiting when the leader
/// dies, is not let in by that, and gets its turn from the next leader's time.
#[test]
fn waits_outlive_the_leader() {
    let mut cluster = Cluster::of(3).start();
    let leader = cluster.leader();
    let (here, there) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = cluster.members[here].client();
    let leases = [1, 2].map(|id| client.grant(600, id).expect("a lease").id);
    let mut service = LockClient::new(client.channel());
    let held = client
        .run(service.lock(lock_request(leases[0])))
        .expect("it is free");
    let mut election = ElectionClient::new(client.channel());
    let campaign = |lease: i64| CampaignRequest {
        name: "e".into(),
        lease,
        value: lease.to_string().into(),
    };
    let won = client
        .run(election.campaign(campaign(leases[0])))
        .expect("the only one");

    let waiting = |name: &'static str| {
        let client = cluster.members[there].client().with_timeout(2 * PATIENCE);
        let lease = leases[1];
        let campaign = campaign(lease);
        thread::spawn(move || match name {
            "m" => {
                let mut service = LockClient::new(client.channel());
                client
                    .run(service.lock(lock_request(lease)))
                    .map(|held| held.key)
            }
            _ => {
                let mut service = ElectionClient::new(client.channel());
                let won = client.run(service.campaign(campaign));
                won.map(|won| won.leader.expect("a key").key)
            }
        })
    };
    let (locker, candidate) = (waiting("m"), waiting("e"));
    count(&client, "m/", 2);
    count(&client, "e/", 2);
    cluster.members[leader].kill();
    // The rest can write again, so that there is another leader.
    let written = wait_for(PATIENCE, || client.put("after", "it").ok());
    assert!(written.is_some(), "no leader again:\n{}", cluster.tails());
    assert!(!locker.is_finished(), "two hold the lock");
    assert!(!candidate.is_finished(), "two lead");

    let unlock = UnlockRequest { key: held.key };
    client.run(service.unlock(unlock)).expect("it was held");
    let next = locker.join().expect("no panic").expect("its turn");
    assert_eq!(next, "m/2");
    // A leader that is lost with its session.
    client.revoke(leases[0]).expect("it was there");
    let next = candidate.join().expect("no panic").expect("its turn");
    assert_eq!(next, "e/2");
    let name = LeaderRequest { name: "e".into() };
    let now = client.run(election.leader(name)).expect("a leader");
    assert_eq!(now.kv.expect("a leader").key, next);
    assert_ne!(won.leader.expect("a key").key, next);
}
