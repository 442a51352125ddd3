//! A member that is told everything by a file, and serves on a unix socket.

use std::{fs, process::Stdio, time::Duration};

use crate::support::{Client, permit::Permit, ports::free_port, server::command, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// Goal: the file alone counts, also beside flags; clients come through the socket, in the place of
/// one that was left behind; what takes longer than the limit is told without its value, in a file
/// of its own.
#[test]
fn a_file_says_where_to_serve_and_what_to_log() {
    let _permit = Permit::take(1);
    let home = tempfile::tempdir().unwrap();
    let place = |name: &str| home.path().join(name).display().to_string();
    let (socket, log) = (place("socket"), place("log/fated.log"));
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let peer = format!("http://127.0.0.1:{}", free_port());
    let text = format!(
        "name: filed\n\
         data-dir: {}\n\
         listen-client-urls: unix:{socket}\n\
         advertise-client-urls: unix:{socket}\n\
         listen-peer-urls: {peer}\n\
         initial-advertise-peer-urls: {peer}\n\
         warning-unary-request-duration: 1\n\
         log-outputs: [{log}]\n\
         enable-log-rotation: true\n",
        place("data"),
    );
    fs::write(place("fated.yml"), text).unwrap();
    let flags = [
        format!("--config-file={}", place("fated.yml")),
        "--name=ignored".to_owned(),
    ];
    let mut command = command(&flags);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let client = Client::new(&format!("unix:{socket}"));
    let served = wait_for(SOON, || client.put("some-key", "some-value").ok());
    let members = client.members();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(served.is_some());
    let members = members.unwrap().members;
    assert_eq!(members[0].name, "filed");
    assert_eq!(members[0].client_ur_ls, [format!("unix:{socket}")]);
    let log = fs::read_to_string(log).unwrap();
    let told = log.lines().find(|line| line.contains("request stats"));
    let told = told.expect("every request is slow here");
    assert!(told.contains("/etcdserverpb.KV/Put") && told.contains("value_size:10"));
    assert!(!log.contains("some-value"));
    assert!(log.contains("loaded server configuration"));
}
