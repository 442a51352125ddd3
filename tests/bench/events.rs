//! Reads what a load needs of a watch's answers, without making messages of them.
//!
//! The puts that watchers are measured by carry their number in the first eight bytes of the value.

/// Fields of `WatchResponse`, `Event` and `KeyValue` that are read.
const CREATED: u64 = 3;
const CANCELED: u64 = 4;
const EVENTS: u64 = 11;
const EVENT_KV: u64 = 2;
const KV_VALUE: u64 = 5;

/// What an answer said.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Answer {
    pub created: bool,
    pub canceled: bool,
    /// The number of the put behind each event.
    pub numbers: Vec<u64>,
}

/// Reads an answer; `None` if it is not one.
pub fn read(message: &[u8]) -> Option<Answer> {
    let mut answer = Answer::default();
    for field in Fields(message) {
        match field? {
            (CREATED, Value::Number(set)) => answer.created = set != 0,
            (CANCELED, Value::Number(set)) => answer.canceled = set != 0,
            (EVENTS, Value::Bytes(event)) => answer.numbers.push(number(event)?),
            _ => {}
        }
    }
    Some(answer)
}

/// The number of the put behind an event; 0 if its value has none.
fn number(event: &[u8]) -> Option<u64> {
    let Some(kv) = inner(event, EVENT_KV)? else {
        return Some(0);
    };
    let value = inner(kv, KV_VALUE)?.unwrap_or_default();
    Some(
        value
            .first_chunk::<8>()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes)),
    )
}

/// The bytes of a field, if it is there.
fn inner(message: &[u8], wanted: u64) -> Option<Option<&[u8]>> {
    for field in Fields(message) {
        if let (number, Value::Bytes(bytes)) = field?
            && number == wanted
        {
            return Some(Some(bytes));
        }
    }
    Some(None)
}

/// A value of a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; `None` within it where it is cut off.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.0.split_off(..length)?)
            }
            1 => Value::Bytes(self.0.split_off(..8)?),
            5 => Value::Bytes(self.0.split_off(..4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.0.split_off_first()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use fated::pb::{etcdserverpb::WatchResponse, mvccpb};
    use prost::Message;

    use super::*;

    /// What is read is what an encoder of the real messages wrote.
    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let event = |number: u64| mvccpb::Event {
            kv: Some(mvccpb::KeyValue {
                key: "k".into(),
                mod_revision: 7,
                value: [&number.to_be_bytes()[..], b"rest"].concat().into(),
                ..mvccpb::KeyValue::default()
            }),
            ..mvccpb::Event::default()
        };
        let response = WatchResponse {
            watch_id: 3,
            created: true,
            events: vec![event(5), event(1 << 40)],
            ..WatchResponse::default()
        };
        let bytes = response.encode_to_vec();
        let read_back = read(&bytes).expect("it is whole");
        assert_eq!(read_back.numbers, [5, 1 << 40]);
        assert!(read_back.created && !read_back.canceled);
        assert_eq!(read(&bytes[..bytes.len() - 1]), None, "it was cut off");
    }
}
