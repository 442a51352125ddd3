//! Messages as JSON, by their descriptors and by the rules that etcd's gateway has for both
//! directions.
//!
//! Invariants: what waits to be parsed is bounded; whatever comes in ends as a message or a status.

use std::sync::LazyLock;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor,
    SerializeOptions,
};
use tonic::{
    Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::pb;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(pb::DESCRIPTORS).expect("the compiler made it"));

/// The descriptor of a method.
pub fn method(service: &str, method: &str) -> Option<MethodDescriptor> {
    let service = POOL.get_service_by_name(service)?;
    service.methods().find(|found| found.name() == method)
}

/// Writes a message: names as in the `.proto` files, nothing that is empty.
pub fn encode(message: &DynamicMessage, into: &mut Vec<u8>) {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut serializer = serde_json::Serializer::new(into);
    message
        .serialize_with_options(&mut serializer, &options)
        .expect("a message can be written to memory");
}

/// Reads a message: names as in the `.proto` files or in JSON's style; what is unknown is ignored.
fn decode(text: &[u8], descriptor: &MessageDescriptor) -> Result<DynamicMessage, Status> {
    let refused = |error| Status::invalid_argument(format!("proto: syntax error: {error}"));
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let message =
        DynamicMessage::deserialize_with_options(descriptor.clone(), &mut deserializer, &options)
            .map_err(refused)?;
    deserializer.end().map_err(refused)?;
    Ok(message)
}

/// The messages of a request's body, one after the other.
pub struct Messages {
    body: Body,
    cut: Cut,
    descriptor: MessageDescriptor,
    bytes_max: usize,
    ended: bool,
}

impl Messages {
    /// Of this kind; each of at most so many bytes.
    pub fn new(body: Body, descriptor: MessageDescriptor, bytes_max: usize) -> Self {
        Self {
            body,
            cut: Cut::default(),
            descriptor,
            bytes_max,
            ended: false,
        }
    }

    /// The next message; none at the end of the body.
    pub async fn next(&mut self) -> Result<Option<DynamicMessage>, Status> {
        loop {
            if let Some(text) = self.cut.object()? {
                return decode(&text, &self.descriptor).map(Some);
            }
            let waiting = self.cut.held.len();
            if waiting > self.bytes_max {
                let limit = self.bytes_max;
                let text =
                    format!("grpc: received message larger than max ({waiting} vs. {limit})");
                return Err(Status::resource_exhausted(text));
            }
            if self.ended {
                return match waiting {
                    0 => Ok(None),
                    _ => Err(Status::invalid_argument("unexpected EOF")),
                };
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.cut.held.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Status::invalid_argument(error.to_string())),
                None => self.ended = true,
            }
        }
    }
}

/// Cuts objects out of a text that comes in pieces. Looks at each byte once.
#[derive(Debug, Default)]
struct Cut {
    held: BytesMut,
    /// How much of what is held has been looked at.
    seen: usize,
    /// How many braces and brackets are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Cut {
    /// The next whole object.
    fn object(&mut self) -> Result<Option<Bytes>, Status> {
        if self.depth == 0 {
            let blank = |byte: &&u8| b" \t\r\n".contains(byte);
            let blanks = self.held.iter().take_while(blank).count();
            self.held.advance(blanks);
            match self.held.first() {
                None | Some(b'{') => {}
                Some(byte) => {
                    let found = char::from(*byte).escape_default();
                    let text =
                        format!("invalid character '{found}' looking for beginning of value");
                    return Err(Status::invalid_argument(text));
                }
            }
        }
        while let Some(byte) = self.held.get(self.seen) {
            self.seen += 1;
            self.look(*byte);
            if self.depth == 0 {
                let text = self.held.split_to(self.seen).freeze();
                self.seen = 0;
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    fn look(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            // The first byte opens the object, so that there is one to close.
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
    }
}

/// Any message as gRPC carries it.
#[derive(Clone, Debug)]
pub struct AnyCodec(pub MessageDescriptor);

impl Codec for AnyCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for AnyCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = item.encode(into);
        encoded.map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for AnyCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let decoded = DynamicMessage::decode(self.0.clone(), from);
        let decoded = decoded.map_err(|error| Status::internal(error.to_string()));
        decoded.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use proptest::{collection::vec, prelude::*, sample::select};
    use prost_reflect::Kind;
    use serde_json::{Value, json};
    use tonic::Code;

    use super::*;

    fn input(service: &str, name: &str) -> MessageDescriptor {
        method(service, name).unwrap().input()
    }

    fn round_trip(service: &str, name: &str, text: &str) -> Result<String, Status> {
        let message = decode(text.as_bytes(), &input(service, name))?;
        let mut out = Vec::new();
        encode(&message, &mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn both_ways_of_names_and_numbers_come_in_and_one_goes_out() {
        let range = |text| round_trip("etcdserverpb.KV", "Range", text).unwrap();
        let expected = r#"{"key":"YQ==","range_end":"Yg==","limit":"5","sort_order":"DESCEND"}"#;
        for text in [
            r#"{"key":"YQ==","range_end":"Yg==","limit":"5","sort_order":"DESCEND"}"#,
            r#"{"key":"YQ","rangeEnd":"Yg==","limit":5,"sortOrder":2,"count_only":false}"#,
            r#"{"key":"YQ==","range_end":"Yg","limit":5.0,"sort_order":2,"what":[{"is":{}}],
                "sort_target":"NONSENSE","revision":null,"min_mod_revision":"0"}"#,
        ] {
            assert_eq!(range(text), expected, "{text}");
        }
        assert_eq!(
            range(r#"{"key":"-_8=","limit":"-1"}"#),
            r#"{"key":"+/8=","limit":"-1"}"#
        );
        assert_eq!(range(r#"{"sort_order":77}"#), r#"{"sort_order":77}"#);
        assert_eq!(range("{}"), "{}");
    }

    #[test]
    fn names_in_capitals_and_choices_are_as_in_the_proto_files() {
        let grant = r#"{"TTL":"10","ID":"9223372036854775807"}"#;
        let written = round_trip("etcdserverpb.Lease", "LeaseGrant", grant);
        assert_eq!(written.unwrap(), grant);
        let add = r#"{"peerURLs":["http://a:1"],"isLearner":true}"#;
        let written = round_trip("etcdserverpb.Cluster", "MemberAdd", add);
        assert_eq!(written.unwrap(), add);
        let compare = r#"{"result":"NOT_EQUAL","target":"MOD","key":"YQ==","mod_revision":"0"}"#;
        let txn = format!(r#"{{"compare":[{compare}],"success":[{{"request_put":{{}}}}]}}"#);
        let written = round_trip("etcdserverpb.KV", "Txn", &txn);
        assert_eq!(written.unwrap(), txn);
        let watch = r#"{"create_request":{"key":"YQ==","filters":["NODELETE"]}}"#;
        let written = round_trip("etcdserverpb.Watch", "Watch", watch);
        assert_eq!(written.unwrap(), watch);
    }

    #[test]
    fn what_is_no_message_is_an_invalid_argument() {
        for text in [
            r#"{"key":"!"}"#,
            r#"{"key":1}"#,
            r#"{"limit":"x"}"#,
            r#"{"limit":1.5}"#,
            r#"{"limit":"99999999999999999999"}"#,
            r#"{"key":"YQ==""#,
            r#"{"key" "YQ=="}"#,
            r#"{"serializable":1}"#,
            "[]",
            "{}{}",
        ] {
            let refused = round_trip("etcdserverpb.KV", "Range", text).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        }
        let two = r#"{"create_request":{},"cancel_request":{}}"#;
        assert!(round_trip("etcdserverpb.Watch", "Watch", two).is_err());
        let deep = r#"{"success":[{"request_txn":"#.repeat(200);
        assert!(round_trip("etcdserverpb.KV", "Txn", &deep).is_err());
    }

    async fn all(text: &'static [u8], bytes_max: usize) -> (Vec<String>, Result<(), Status>) {
        let body = Body::new(Full::new(Bytes::from_static(text)));
        let descriptor = input("etcdserverpb.Lease", "LeaseKeepAlive");
        let mut messages = Messages::new(body, descriptor, bytes_max);
        let mut read = Vec::new();
        loop {
            match messages.next().await {
                Ok(Some(message)) => {
                    let mut out = Vec::new();
                    encode(&message, &mut out);
                    read.push(String::from_utf8(out).unwrap());
                }
                Ok(None) => return (read, Ok(())),
                Err(status) => return (read, Err(status)),
            }
        }
    }

    #[tokio::test]
    async fn a_body_is_cut_where_its_objects_end() {
        let text = br#" {"ID":"1"}{"ID":2,"a}\"":["{",{}]}
            {} "#;
        let (read, end) = all(text, 100).await;
        assert_eq!(read, [r#"{"ID":"1"}"#, r#"{"ID":"2"}"#, "{}"]);
        end.unwrap();
        let (read, end) = all(br#"{"ID":"1"} x"#, 100).await;
        assert_eq!(read.len(), 1);
        let text = "invalid character 'x' looking for beginning of value";
        assert_eq!(end.unwrap_err().message(), text);
        let (_, end) = all(br#"{"ID":"1""#, 100).await;
        assert_eq!(end.unwrap_err().message(), "unexpected EOF");
        let (_, end) = all(br#"{"ID":"12345678901"#, 10).await;
        assert_eq!(end.unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(all(b"", 10).await.0.len(), 0);
    }

    /// Every name that a field of any message has.
    fn names() -> Vec<String> {
        let fields = POOL.all_messages().flat_map(|message| {
            let fields: Vec<_> = message.fields().collect();
            fields
        });
        let mut names: Vec<String> = fields.map(|field| field.name().to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-2_i64..9).prop_map(Value::from),
            (-2_i64..9).prop_map(|number| Value::from(number.to_string())),
            "[A-Za-z0-9+/=_-]{0,8}".prop_map(Value::from),
            select(&["PUT", "NONE", "EQUAL", "NOPUT", "VALUE", "GET"][..]).prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            let fields = vec((select(names()), inner.clone()), 0..6);
            prop_oneof![
                1 => vec(inner, 0..4).prop_map(Value::from),
                3 => fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// What a message of this kind can make of a value, most often an object with its own fields.
    fn shaped(message: &MessageDescriptor, mut value: Value) -> Value {
        let Value::Object(fields) = &mut value else {
            return value;
        };
        let own: Vec<_> = message.fields().collect();
        if own.is_empty() {
            return value;
        }
        let given = std::mem::take(fields).into_iter().enumerate();
        for (at, (_, inner)) in given {
            let field = &own[at % own.len()];
            let inner = match field.kind() {
                Kind::Message(message) => shaped(&message, inner),
                // Now and then something else than what belongs there.
                _ if at % 4 == 3 => inner,
                Kind::Bytes => json!("YWI="),
                Kind::Bool => json!(true),
                Kind::String => json!(inner.to_string()),
                Kind::Enum(_) => json!(at % 3),
                _ => json!((at * 1_000_003).to_string()),
            };
            let inner = if field.is_list() {
                json!([inner])
            } else {
                inner
            };
            fields.insert(field.name().to_owned(), inner);
        }
        value
    }

    proptest! {
        /// Goal: nothing that comes in does harm, and what goes out means the same when it comes
        /// in. Method: JSON with the names of all fields, loose and in the shape of a message, for
        /// every call.
        #[test]
        fn any_json_is_read_or_refused(value in any_json()) {
            for method in POOL.services().flat_map(|service| {
                let methods: Vec<_> = service.methods().collect();
                methods
            }) {
                let input = method.input();
                for value in [value.clone(), shaped(&input, value.clone())] {
                    let Ok(message) = decode(value.to_string().as_bytes(), &input) else {
                        continue;
                    };
                    let mut text = Vec::new();
                    encode(&message, &mut text);
                    let again = decode(&text, &input).unwrap();
                    prop_assert_eq!(again.encode_to_vec(), message.encode_to_vec());
                }
            }
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same_objects() {
        let text = br#"{"a":"\\","b":[1,{"c":"}"}]} {"d":"\"{"}"#;
        for size in 1..text.len() {
            let mut cut = Cut::default();
            let mut found = Vec::new();
            for piece in text.chunks(size) {
                cut.held.extend_from_slice(piece);
                while let Some(object) = cut.object().unwrap() {
                    found.push(object);
                }
            }
            assert_eq!(found.len(), 2, "pieces of {size}");
            assert_eq!(found[1], &br#"{"d":"\"{"}"#[..]);
        }
    }
}
