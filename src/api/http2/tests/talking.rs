//! Streams whose messages are answered in turn.

use std::sync::Mutex;

use bytes::BytesMut;

use super::{super::frame::*, raw::*, *};
use crate::{
    api::handle::{Answer, Listen},
    kernel::{ApiError, Response},
};

/// What was asked and has no answer yet.
pub type Asked = Arc<Mutex<Vec<(Vec<u8>, Arc<dyn Listen>)>>>;

/// Says each message again, when the test has it answered.
#[derive(Debug)]
pub struct Parrot {
    _counted: Counted,
    asked: Asked,
    last: Vec<u8>,
}

impl Parrot {
    pub fn new(waiting: &Arc<AtomicUsize>, asked: &Asked) -> Self {
        Self {
            _counted: Counted::new(waiting),
            asked: Arc::clone(asked),
            last: Vec::new(),
        }
    }
}

fn trailers(text: &'static str, rest: &[u8]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("end", http::HeaderValue::from_static(text));
    trailers.insert("rest", rest.len().into());
    trailers
}

impl Talk for Parrot {
    fn bytes_max(&self) -> usize {
        2_000_000
    }

    fn ask(&mut self, message: &[u8], listener: &Arc<dyn Listen>) -> Result<(), HeaderMap> {
        if message == b"refused" {
            return Err(trailers("refused", b""));
        }
        self.last = message.to_vec();
        let mut asked = self.asked.lock().unwrap();
        asked.push((message.to_vec(), Arc::clone(listener)));
        Ok(())
    }

    fn tell(&mut self, answer: Answer, out: &mut BytesMut) -> Result<(), HeaderMap> {
        out.extend_from_slice(b"what a failure leaves");
        answer.map_err(|_| trailers("failed", b""))?;
        out.truncate(out.len() - b"what a failure leaves".len());
        out.extend_from_slice(&super::framed(&self.last));
        Ok(())
    }

    fn end(&mut self, rest: &[u8]) -> HeaderMap {
        trailers("over", rest)
    }
}

impl Raw {
    /// What is asked, which is one message.
    async fn asked(&self) -> (Vec<u8>, Arc<dyn Listen>) {
        let asked = async {
            loop {
                if let Some(asked) = self.echo.asked.lock().unwrap().pop() {
                    return asked;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        let asked = asked.expect("a question");
        assert!(self.echo.asked.lock().unwrap().is_empty(), "one at a time");
        asked
    }

    /// This is asked, and answered.
    async fn answers(&self, message: &[u8]) {
        let (asked, listener) = self.asked().await;
        assert_eq!(asked, message);
        listener.answered(Ok(Response::Health));
    }

    async fn talks(said: &[(u16, u32)]) -> Self {
        let mut raw = Self::begin(said).await;
        raw.says(&open(1, "/talk", false)).await;
        let head = raw.hears().await;
        assert_eq!((head.kind, head.flags), (HEADERS, END_HEADERS));
        raw.decoder.read(&head.payload, 1 << 16).unwrap();
        raw
    }

    async fn hears_over(&mut self, text: &str, rest: usize) {
        let end = self.hears().await;
        assert_eq!((end.kind, end.flags), (HEADERS, END_HEADERS | END_STREAM));
        let fields = self.decoder.read(&end.payload, 1 << 16).unwrap().list;
        let values = fields.into_iter().map(|field| field.value.unwrap());
        let expected: Vec<http::HeaderValue> = vec![text.parse().unwrap(), rest.into()];
        assert_eq!(values.collect::<Vec<_>>(), expected);
    }
}

/// Goal: messages are found however they are cut, and each is asked when the one before is
/// answered. Method: three messages and the end, cut at every place, some frames padded.
#[tokio::test]
async fn messages_are_answered_in_turn() {
    let messages = [&b"one"[..], b"", b"three"];
    let words = messages.map(framed).concat();
    for cut in 0..=words.len() {
        let mut raw = Raw::talks(&[]).await;
        raw.says(&frame(DATA, 0, 1, &words[..cut])).await;
        if cut > framed(b"one").len() {
            raw.answers(b"one").await;
            assert_eq!(raw.hears().await, came(DATA, 0, 1, &framed(b"one")));
        }
        let padded = [&[2][..], &words[cut..], &[0; 2]].concat();
        raw.says(&frame(DATA, END_STREAM | PADDED, 1, &padded))
            .await;
        let answered = usize::from(cut > framed(b"one").len());
        for message in &messages[answered..] {
            raw.answers(message).await;
            assert_eq!(raw.hears().await, came(DATA, 0, 1, &framed(message)));
        }
        raw.hears_over("over", 0).await;
        raw.hears_nothing().await;
        raw.until_waiting(0).await;
    }
}

#[tokio::test]
async fn answers_wait_for_the_window_and_questions_for_answers() {
    let mut raw = Raw::talks(&[(setting::INITIAL_WINDOW_SIZE, 10)]).await;
    let words = [framed(b"first"), framed(b"second")].concat();
    raw.says(&frame(DATA, END_STREAM, 1, &words)).await;
    raw.answers(b"first").await;
    assert_eq!(raw.hears().await, came(DATA, 0, 1, &framed(b"first")));
    raw.answers(b"second").await;
    raw.hears_nothing().await;
    raw.says(&window(1, 4)).await;
    assert_eq!(raw.hears().await.payload, framed(b"second")[..4]);
    raw.says(&window(1, 100)).await;
    assert_eq!(raw.hears().await.payload, framed(b"second")[4..]);
    raw.hears_over("over", 0).await;
}

/// Goal: what waits for its turn fills the window and no more; one long message may be longer.
#[tokio::test]
async fn what_waits_for_its_turn_is_not_given_back() {
    let mut raw = Raw::talks(&[]).await;
    raw.says(&window(1, 1 << 24)).await;
    raw.says(&window(0, 1 << 24)).await;
    let long = framed(&[7; 1_500_000]);
    let mut given = STREAM_WINDOW_BYTES as usize;
    let mut updates = 0;
    for piece in long.chunks(16_000) {
        while given < piece.len() {
            let more = raw.hears().await;
            assert_eq!((more.kind, more.stream), (WINDOW_UPDATE, 1));
            given += u32::from_be_bytes(more.payload[..].try_into().unwrap()) as usize;
            updates += 1;
        }
        given -= piece.len();
        raw.says(&frame(DATA, 0, 1, piece)).await;
    }
    assert!(updates > 0);
    let (_, listener) = raw.asked().await;
    // It is busy with that one now.
    while given >= 16_000 {
        given -= 16_000;
        raw.says(&frame(DATA, 0, 1, &[0; 16_000])).await;
    }
    let mut before = 0;
    loop {
        raw.says(&frame(PING, 0, 0, b"anythin?")).await;
        let next = raw.hears().await;
        if next.kind == PING {
            break;
        }
        assert_eq!(next.kind, WINDOW_UPDATE);
        before += 1;
    }
    assert!(before <= 1, "only what belongs to the long message");
    listener.answered(Ok(Response::Health));
    let mut came = 0;
    while came < long.len() {
        let next = raw.hears().await;
        came += if next.kind == DATA {
            next.payload.len()
        } else {
            0
        };
    }
    raw.asked().await; // the next, which has no bytes
    raw.leaves().await;
}

/// Goal: a stream ends once, for whatever reason, and what was asked on it is given up.
#[tokio::test]
async fn streams_end_by_errors_and_by_their_clients() {
    let mut raw = Raw::talks(&[]).await;
    let words = [&framed(b"one")[..], &[1, 0, 0, 0, 1, 9]].concat();
    raw.says(&frame(DATA, 0, 1, &words)).await;
    raw.answers(b"one").await;
    assert_eq!(raw.hears().await.kind, DATA);
    raw.hears_over("over", 6).await; // a compressed one
    raw.hears_reset(1, Reason::NoError).await;

    for (at, (said, text, rest)) in [
        (framed(b"refused"), "refused", 0),
        (Bytes::from_static(&[0, 0, 0, 0, 3, 1]), "over", 6), // cut
        (Bytes::from_static(&[0, 9, 0, 0, 0, 1]), "over", 6), // too long
    ]
    .into_iter()
    .enumerate()
    {
        let stream = at as u32 * 2 + 3;
        raw.says(&open(stream, "/talk", false)).await;
        let head = raw.hears().await;
        raw.decoder.read(&head.payload, 1 << 16).unwrap();
        raw.says(&frame(DATA, END_STREAM, stream, &said)).await;
        raw.hears_over(text, rest).await;
    }
    raw.until_waiting(0).await;

    raw.says(&open(9, "/talk", false)).await;
    let head = raw.hears().await;
    raw.decoder.read(&head.payload, 1 << 16).unwrap();
    let words = [framed(b"one"), framed(b"two")].concat();
    raw.says(&frame(DATA, 0, 9, &words)).await;
    let (_, listener) = raw.asked().await;
    listener.answered(Err(ApiError::NoLeader));
    raw.hears_over("failed", 0).await;
    raw.hears_reset(9, Reason::NoError).await;

    raw.says(&open(11, "/talk", false)).await;
    assert_eq!(raw.hears().await.kind, HEADERS);
    raw.says(&frame(DATA, 0, 11, &framed(b"one"))).await;
    let (_, listener) = raw.asked().await;
    raw.says(&frame(RST_STREAM, 0, 11, &[0, 0, 0, 8])).await;
    raw.until_waiting(0).await;
    listener.answered(Ok(Response::Health));
    raw.hears_nothing().await;
    // Trailers end a stream as the last of its data does; one without messages is not one.
    raw.says(&open(13, "/talk", false)).await;
    assert_eq!(raw.hears().await.kind, HEADERS);
    raw.says(&frame(HEADERS, 5, 13, b"\x00\x01a\x01b")).await;
    assert_eq!(raw.hears().await.flags, END_HEADERS | END_STREAM);
    raw.says(&open(15, "/talk", true)).await;
    assert_eq!(raw.hears_answer(15).await, b"");
    raw.leaves().await;
}
