//! What members reach each other by: TCP, or a unix socket on one machine.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

/// Where a member listens or is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Address<'a> {
    /// `host:port`.
    Tcp(&'a str),
    /// The file of a unix socket.
    Unix(&'a str),
}

impl<'a> Address<'a> {
    /// The address in a peer URL, if it is one we can dial.
    pub fn of(url: &'a str) -> Option<Self> {
        if let Some(path) = url.strip_prefix("unix://") {
            return (!path.is_empty()).then_some(Self::Unix(path));
        }
        let address = url.strip_prefix("http://")?.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':')?;
        port.parse::<u16>().ok()?;
        (!host.is_empty() && !host.contains('/')).then_some(Self::Tcp(address))
    }
}

/// Where other members come in.
#[derive(Debug)]
pub enum PeerListener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

impl PeerListener {
    /// The next connection, and whom it comes from.
    pub(super) async fn accept(&self) -> io::Result<(Socket, String)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (socket, from) = listener.accept().await?;
                (Socket::tcp(socket), from.to_string())
            }
            Self::Unix(listener) => {
                let (socket, _) = listener.accept().await?;
                (Socket::unix(socket), "unix".to_owned())
            }
        })
    }
}

/// A connection, both ways.
pub(super) struct Socket {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Socket {
    pub(super) async fn connect(address: Address<'_>) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => Self::tcp(TcpStream::connect(address).await?),
            Address::Unix(path) => Self::unix(UnixStream::connect(path).await?),
        })
    }

    fn tcp(socket: TcpStream) -> Self {
        // It fails only for a connection that is broken, as the greeting will find.
        let _ = socket.set_nodelay(true);
        let (reader, writer) = socket.into_split();
        Self {
            reader: Box::new(reader),
            writer: Box::new(writer),
        }
    }

    fn unix(socket: UnixStream) -> Self {
        let (reader, writer) = socket.into_split();
        Self {
            reader: Box::new(reader),
            writer: Box::new(writer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_peer_urls_have_an_address() {
        let tcp = [
            ("http://localhost:2380", "localhost:2380"),
            ("http://[::1]:2380/", "[::1]:2380"),
        ];
        for (url, address) in tcp {
            assert_eq!(Address::of(url), Some(Address::Tcp(address)));
        }
        for (url, path) in [
            ("unix:///run/m0.sock", "/run/m0.sock"),
            ("unix://localhost:m0", "localhost:m0"),
        ] {
            assert_eq!(Address::of(url), Some(Address::Unix(path)));
        }
        for url in [
            "https://localhost:2380",
            "http://localhost",
            "http://localhost:port",
            "http://:2380",
            "http://localhost/x:1",
            "unix://",
            "unixs:///run/m0.sock",
            "",
        ] {
            assert_eq!(Address::of(url), None, "{url}");
        }
    }
}
