//! Members that find each other through DNS, or through another cluster.

use std::{net::UdpSocket, path::Path, thread, time::Duration};

use simple_dns::{CLASS, Name, Packet, RCODE, ResourceRecord, rdata::RData, rdata::SRV};

use crate::support::{
    Server,
    permit::Permit,
    server::{Plan, READY_LIMIT},
    wait_for,
};

const SOON: Duration = Duration::from_secs(20);

fn founder(name: &str, home: &Path, flags: &[String]) -> Server {
    let mut plan = Plan::new(name, home, flags);
    plan.initial_cluster = String::new();
    Server::new(plan)
}

fn assert_one_cluster(members: &[Server]) {
    let mut clusters = Vec::new();
    for member in members {
        member.wait_log("ready to serve client requests", READY_LIMIT);
        let list = member.client().members().unwrap();
        assert_eq!(list.members.len(), members.len());
        clusters.push(list.header.unwrap().cluster_id);
    }
    clusters.dedup();
    assert_eq!(clusters.len(), 1);
    members[0].client().put("from", "here").unwrap();
    let read = members.last().unwrap().client().get("from").unwrap();
    assert_eq!(read.as_deref(), Some(&b"here"[..]));
}

/// Goal: members that know only a token and the discovery service found one cluster, the next one
/// is told that it is full, and a founder that starts again needs no service any more.
#[test]
fn members_found_a_cluster_through_another_one() {
    let mut service = Server::alone(&[]);
    let home = tempfile::tempdir().unwrap();
    let address = service.endpoint().trim_start_matches("http://").to_owned();
    let flags = [
        format!("--discovery-endpoints=127.0.0.1:1,{address}"),
        "--discovery-token=t".to_owned(),
        "--discovery-request-timeout=2s".to_owned(),
    ];
    let mut lost = founder("early", home.path(), &flags);
    lost.spawn();
    assert_eq!(lost.wait_exit(SOON).code(), Some(1));
    lost.wait_log("discovery: size key not found", SOON);

    let client = service.client();
    client.put("/_etcd/registry/t/_config/size", "2").unwrap();
    let mut members = [
        founder("a", home.path(), &flags),
        founder("b", home.path(), &flags),
    ];
    members[0].spawn();
    members[0].wait_log("waiting for peers from discovery service", SOON);
    members[1].spawn();
    assert_one_cluster(&members);
    let registered = client.prefix("/_etcd/registry/t/members/", false).unwrap();
    assert_eq!(registered.kvs.len(), 2);
    let mut registered = registered.kvs.iter();
    assert!(registered.any(|kv| kv.value.starts_with(b"a=http://127.0.0.1:")));

    let mut late = founder("c", home.path(), &flags);
    late.spawn();
    assert_eq!(late.wait_exit(SOON).code(), Some(1));
    late.wait_log(
        "failed to join discovery cluster (discovery: cluster is full)",
        SOON,
    );
    drop(client);
    service.kill();
    members[1].restart();
    assert_one_cluster(&members);
}

/// Answers every question for the members' records, and knows nothing else.
fn name_server(ports: Vec<u16>) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(question) = Packet::parse(&buffer[..length]) else {
                continue;
            };
            let asked = question.questions[0].clone();
            let mut answer = Packet::new_reply(question.id());
            if asked.qname.to_string() == "_etcd-server-blue._tcp.cluster.example" {
                for port in &ports {
                    let srv = SRV {
                        priority: 0,
                        weight: 0,
                        port: *port,
                        target: Name::new_unchecked("127.0.0.1"),
                    };
                    let name = asked.qname.clone();
                    let record = ResourceRecord::new(name, CLASS::IN, 60, RData::SRV(srv));
                    answer.answers.push(record);
                }
            } else {
                *answer.rcode_mut() = RCODE::NameError;
            }
            answer.questions.push(asked);
            let bytes = answer.build_bytes_vec().unwrap();
            socket.send_to(&bytes, from).unwrap();
        }
    });
    address
}

#[test]
fn members_found_a_cluster_by_the_records_of_a_domain() {
    let _permit = Permit::take(1);
    let home = tempfile::tempdir().unwrap();
    let plan = |name: &str, flags: &[String]| founder(name, home.path(), flags);
    let ports = ["a", "b"].map(|name| plan(name, &[]).plan().peer_port);
    let resolver = name_server(ports.to_vec());
    let flags = [
        "--discovery-srv=cluster.example".to_owned(),
        "--discovery-srv-name=blue".to_owned(),
        format!("--discovery-srv-resolver={resolver}"),
    ];
    let mut members = ["a", "b"].map(|name| plan(name, &flags));
    for (member, port) in members.iter_mut().zip(ports) {
        member.plan_mut().peer_port = port;
        member.spawn();
    }
    assert_one_cluster(&members);
    let names = || {
        let list = members[1].client().members().unwrap().members;
        let mut names: Vec<String> = list.into_iter().map(|member| member.name).collect();
        names.sort();
        (names == ["a", "b"]).then_some(())
    };
    wait_for(SOON, names).expect("each member tells its name");

    let mut stranger = plan("c", &flags);
    stranger.spawn();
    assert_eq!(stranger.wait_exit(SOON).code(), Some(1));
    stranger.wait_log(
        "cannot find local etcd member \\\"c\\\" in SRV records",
        SOON,
    );
}

/// Goal: founders may call each other anything; each has the name that it tells of itself. Who has
/// not told it is shown under the name that the asked member was given.
#[test]
fn founders_may_know_each_other_by_other_names() {
    let _permit = Permit::take(1);
    let home = tempfile::tempdir().unwrap();
    let plans = ["a", "b", "c"].map(|name| Plan::new(name, home.path(), &[]));
    let calls = |own: &str, other: &Plan| match other.name == own {
        true => format!("{own}={}", other.peer_url()),
        false => format!("{}-says-{own}={}", other.name, other.peer_url()),
    };
    let mut members = ["a", "b", "c"].map(|name| {
        let known: Vec<String> = plans.iter().map(|other| calls(name, other)).collect();
        let mut plan = plans.iter().find(|plan| plan.name == name).unwrap().clone();
        plan.initial_cluster = known.join(",");
        Server::new(plan)
    });
    let names = |member: &Server| {
        let list = member.client().members().ok()?.members;
        let mut names: Vec<String> = list.into_iter().map(|member| member.name).collect();
        names.sort();
        Some(names)
    };
    members[0].spawn();
    members[1].spawn();
    for (member, unstarted) in members[..2].iter().zip(["c-says-a", "c-says-b"]) {
        let shown = || (names(member)? == ["a", "b", unstarted]).then_some(());
        wait_for(SOON, shown).expect("those who have started are known by their own names");
    }
    members[1].restart();
    let shown = || (names(&members[1])? == ["a", "b", "c-says-b"]).then_some(());
    wait_for(SOON, shown).expect("a restart forgets nothing");
    members[2].spawn();
    for member in &members {
        let shown = || (names(member)? == ["a", "b", "c"]).then_some(());
        wait_for(SOON, shown).expect("all have told their names");
        member
            .client()
            .put(member.plan().name.clone(), "x")
            .unwrap();
    }
    // Members compare their states every tick, and one that differs takes no write.
    for member in members.iter().cycle().take(30) {
        member.client().put("all", "agree").unwrap();
        thread::sleep(Duration::from_millis(50));
    }
}
