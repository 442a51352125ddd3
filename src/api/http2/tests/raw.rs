//! A client that writes frames by hand.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
    task::JoinHandle,
};

use super::{
    super::{
        frame::{Head, *},
        hpack::Decoder,
    },
    *,
};

pub const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that may be on the way, each way.
pub const PIPE_BYTES: usize = 1 << 20;

/// A frame as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Came {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub struct Raw {
    pub socket: DuplexStream,
    pub echo: Echo,
    pub stop: watch::Sender<bool>,
    pub server: JoinHandle<()>,
    pub decoder: Decoder,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head[..], payload].concat()
}

pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let one = |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(
        SETTINGS,
        0,
        0,
        &settings.iter().flat_map(one).collect::<Vec<_>>(),
    )
}

pub fn window(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// The block of a POST, without any table.
pub fn block(path: &str) -> Vec<u8> {
    let string = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    [&[0x83, 0x86, 0x04][..], &string(path)].concat()
}

pub fn open(stream: u32, path: &str, ends: bool) -> Vec<u8> {
    let end = if ends { END_STREAM } else { 0 };
    frame(HEADERS, END_HEADERS | end, stream, &block(path))
}

/// A call with one message.
pub fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let data = frame(DATA, END_STREAM, stream, &super::framed(message));
    [open(stream, path, false), data].concat()
}

impl Raw {
    /// A client that has said nothing yet.
    pub fn silent(rules: Rules) -> Self {
        let (near, far) = duplex(PIPE_BYTES);
        let (stop, stopped) = watch::channel(false);
        let echo = Echo::default();
        let server = serve(near, Vec::new(), echo.clone(), rules, stopped);
        Self {
            socket: far,
            echo,
            stop,
            server: tokio::spawn(server),
            decoder: Decoder::new(),
        }
    }

    /// A client that has begun with these settings, and has heard the server begin.
    pub async fn begin(said: &[(u16, u32)]) -> Self {
        let mut raw = Self::silent(rules());
        raw.says(&[PREFACE.to_vec(), settings(said)].concat()).await;
        assert_eq!(raw.hears().await.kind, SETTINGS);
        let more = raw.hears().await;
        assert_eq!((more.kind, more.stream), (WINDOW_UPDATE, 0));
        assert_eq!(raw.hears().await, came(SETTINGS, ACK, 0, &[]));
        raw
    }

    pub async fn says(&mut self, bytes: &[u8]) {
        let wrote = tokio::time::timeout(PATIENCE, self.socket.write_all(bytes)).await;
        wrote.expect("it is read").unwrap();
    }

    /// The next frame; none at the end.
    pub async fn next(&mut self) -> Option<Came> {
        let read = async {
            let mut head = [0; HEAD_BYTES];
            self.socket.read_exact(&mut head).await.ok()?;
            let head = Head::read(&head).unwrap();
            let mut payload = vec![0; head.length];
            self.socket.read_exact(&mut payload).await.unwrap();
            Some(came(head.kind, head.flags, head.stream, &payload))
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.expect("a frame or the end")
    }

    pub async fn hears(&mut self) -> Came {
        self.next().await.expect("not the end yet")
    }

    /// Nothing more comes; the answer to a ping, and only it.
    pub async fn hears_nothing(&mut self) {
        self.says(&frame(PING, 0, 0, b"anythin?")).await;
        assert_eq!(self.hears().await, came(PING, ACK, 0, b"anythin?"));
    }

    /// The answer to a call: head, data, trailers.
    pub async fn hears_answer(&mut self, stream: u32) -> Vec<u8> {
        let head = self.hears().await;
        assert_eq!(
            (head.kind, head.flags, head.stream),
            (HEADERS, END_HEADERS, stream)
        );
        self.decoder.read(&head.payload, 1 << 16).unwrap();
        let mut data = Vec::new();
        loop {
            let next = self.hears().await;
            assert_eq!(next.stream, stream);
            if next.kind == HEADERS {
                assert_eq!(next.flags, END_HEADERS | END_STREAM);
                let fields = self.decoder.read(&next.payload, 1 << 16).unwrap();
                assert_eq!(fields.list.len(), 1);
                return data;
            }
            assert_eq!((next.kind, next.flags), (DATA, 0));
            data.extend_from_slice(&next.payload);
        }
    }

    /// The connection ends, with this reason.
    pub async fn hears_end(&mut self, reason: Reason) {
        let mut last = None;
        while let Some(next) = self.next().await {
            last = Some(next);
        }
        let last = last.expect("a last word");
        assert_eq!(last.kind, GOAWAY, "{last:?}");
        assert_eq!(
            last.payload[4..8],
            (reason as u32).to_be_bytes(),
            "{last:?}"
        );
    }

    /// A stream ends with this reason.
    pub async fn hears_reset(&mut self, stream: u32, reason: Reason) {
        let expected = came(RST_STREAM, 0, stream, &(reason as u32).to_be_bytes());
        assert_eq!(self.hears().await, expected);
    }

    /// The client goes, and with it all that it asked for.
    pub async fn leaves(self) {
        drop(self.socket);
        self.server.await.unwrap();
        let waiting = async {
            while self.echo.waiting.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, waiting).await;
        done.expect("nothing is left");
    }

    /// Waits until so many calls are on their way.
    pub async fn until_waiting(&self, count: usize) {
        let waiting = async {
            while self.echo.waiting.load(Ordering::Relaxed) != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, waiting).await;
        done.expect("as many as expected");
    }
}

pub fn came(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Came {
    Came {
        kind,
        flags,
        stream,
        payload: payload.to_vec(),
    }
}
