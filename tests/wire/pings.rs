//! Clients that ping too often.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::gateway::address_of;
use crate::support::Server;

const PATIENCE: Duration = Duration::from_secs(10);
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingping";
const PONG: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0pingping";

/// Goal: three pings are answered; the fourth within two hours, with no call open, is one too many,
/// and the client is told so before the end.
#[tokio::test]
async fn who_pings_too_often_is_sent_away() {
    let server = Server::alone(&[]);
    let endpoint = server.endpoint();
    let mut socket = TcpStream::connect(address_of(&endpoint)).await.unwrap();
    socket.write_all(BEGIN).await.unwrap();
    let mut heard = Vec::new();
    for count in 1..=3 {
        socket.write_all(PING).await.unwrap();
        let answered = async {
            while heard
                .windows(PONG.len())
                .filter(|part| *part == PONG)
                .count()
                < count
            {
                assert!(socket.read_buf(&mut heard).await.unwrap() > 0, "the end");
            }
        };
        tokio::time::timeout(PATIENCE, answered)
            .await
            .expect("an answer");
    }
    socket.write_all(PING).await.unwrap();
    let rest = socket.read_to_end(&mut heard);
    tokio::time::timeout(PATIENCE, rest)
        .await
        .expect("the end")
        .unwrap();
    let away = b"\0\0\x16\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo_many_pings";
    assert!(heard.ends_with(away), "{heard:?}");
}
