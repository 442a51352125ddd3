//! Members that reach each other by unix sockets.

use std::{path::Path, time::Duration};

use crate::support::{
    Server,
    permit::Permit,
    server::{Plan, READY_LIMIT},
    wait_for,
};

const SOON: Duration = Duration::from_secs(20);

/// Goal: two members on one machine need no port for each other; one that was killed finds its
/// socket's file in its way and serves again; one that ends in good order leaves none; and one that
/// lost its data is told so through the socket.
#[test]
fn members_reach_each_other_by_unix_sockets() {
    let _permit = Permit::take(1);
    let home = tempfile::tempdir().unwrap();
    let socket = |name: &str| {
        home.path()
            .join(format!("{name}.sock"))
            .display()
            .to_string()
    };
    let url = |name: &str| format!("unix://{}", socket(name));
    let mut members = ["a", "b"].map(|name| {
        let flags = [
            format!("--listen-peer-urls={}", url(name)),
            format!("--initial-advertise-peer-urls={}", url(name)),
        ];
        let mut plan = Plan::new(name, home.path(), &flags);
        plan.initial_cluster = format!("a={},b={}", url("a"), url("b"));
        Server::new(plan)
    });
    members.iter_mut().for_each(Server::spawn);
    for member in &members {
        member.wait_log("ready to serve client requests", READY_LIMIT);
    }
    members[0].client().put("by", "socket").unwrap();
    let list = members[0].client().members().unwrap().members;
    let mut urls: Vec<_> = list.iter().flat_map(|member| &member.peer_ur_ls).collect();
    urls.sort_unstable();
    assert_eq!(urls, [&url("a"), &url("b")]);

    members[1].kill();
    assert!(Path::new(&socket("b")).exists());
    members[1].start();
    let read = || members[1].client().get("by").ok().flatten();
    assert_eq!(wait_for(SOON, read).as_deref(), Some(&b"socket"[..]));

    assert!(members[1].terminate(SOON).success());
    assert!(!Path::new(&socket("b")).exists());
    std::fs::remove_dir_all(&members[1].plan().data_dir).unwrap();
    members[1].spawn();
    assert_eq!(members[1].wait_exit(SOON).code(), Some(1));
    members[1].wait_log("has already been bootstrapped", SOON);
}
