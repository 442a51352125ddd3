//! Sockets to listen on.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    os::unix::fs::FileTypeExt,
};

use tokio::net::{TcpListener, TcpSocket, UnixListener, lookup_host};

use super::urls::Url;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A TCP socket. It can always be bound again while connections of a former life are not forgotten
/// yet (`--socket-reuse-address`); `shared` lets other processes listen there as well.
pub(super) async fn tcp(url: &Url, shared: bool) -> io::Result<TcpListener> {
    if !shared {
        return TcpListener::bind(&url.address).await;
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(&url.address).await? {
        let socket = match address.ip() {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        match socket.bind(address) {
            Ok(()) => return socket.listen(BACKLOG),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A unix socket, in the place of one that nobody listens on any more.
pub(super) fn unix(url: &Url) -> io::Result<UnixListener> {
    let path = &url.address;
    let is_socket = |found: std::fs::Metadata| found.file_type().is_socket();
    // Any other file is not ours.
    if std::fs::symlink_metadata(path).is_ok_and(is_socket) {
        // If it stays, binding says why.
        let _ = std::fs::remove_file(path);
    }
    UnixListener::bind(path)
}

/// The address of this machine towards the world. Nothing is sent for it.
pub(super) fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Any address far away; it only chooses the route.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_shared_only_when_asked_for() {
        let first = tcp(&Url::parse("http://127.0.0.1:0").unwrap(), true)
            .await
            .unwrap();
        let port = first.local_addr().unwrap().port();
        let url = Url::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        let second = tcp(&url, true).await.unwrap();
        assert_eq!(second.local_addr().unwrap().port(), port);
        assert!(tcp(&url, false).await.is_err());
    }

    #[tokio::test]
    async fn a_left_over_socket_is_replaced_and_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("localhost:2379").display().to_string();
        let url = Url::parse(&format!("unix:{path}")).unwrap();
        drop(unix(&url).unwrap());
        assert!(std::fs::exists(&path).unwrap());
        drop(unix(&url).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(unix(&url).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
