//! The examples of the rule, a model that knows what it encoded, and blocks that are no blocks.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const LIST_MAX: usize = 1 << 16;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|digit| (digit as char).to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
}

/// The fields as text.
fn shown(fields: &[Field]) -> Vec<(String, String)> {
    let name = |name: &Name| match name {
        Name::Method => ":method".to_owned(),
        Name::Scheme => ":scheme".to_owned(),
        Name::Authority => ":authority".to_owned(),
        Name::Path => ":path".to_owned(),
        Name::Header(name) => name.as_str().to_owned(),
        Name::Odd => "?".to_owned(),
    };
    let value = |value: &Option<HeaderValue>| match value {
        Some(value) => value.to_str().unwrap().to_owned(),
        None => "?".to_owned(),
    };
    let both = |field: &Field| (name(&field.name), value(&field.value));
    fields.iter().map(both).collect()
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    fields.iter().map(owned).collect()
}

// Three requests on one connection, without Huffman's code and with it: RFC 7541 C.3 and C.4.
#[test]
fn the_requests_of_the_rule_are_read() {
    let first = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];
    let second = [&first[..], &[("cache-control", "no-cache")]].concat();
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    let plain = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ];
    let coded = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new();
        for (block, expected) in blocks.iter().zip([&first[..], &second, &third]) {
            let fields = decoder.read(&hex(block), LIST_MAX).unwrap();
            assert_eq!(shown(&fields.list), pairs(expected));
            assert!(fields.changed && !fields.over);
        }
        assert_eq!(decoder.bytes, 164, "as the rule counts it");
    }
}

#[test]
fn the_table_is_as_large_as_the_client_says() {
    let mut decoder = Decoder::new();
    // Three entries of 34 bytes, of which two are kept.
    let block = hex("3f25 40016101 31 40016201 32 40016301 33");
    assert!(decoder.read(&block, LIST_MAX).is_ok());
    assert_eq!((decoder.table.len(), decoder.bytes), (2, 68));
    let fields = decoder.read(&hex("bebf"), LIST_MAX).unwrap();
    assert_eq!(shown(&fields.list), pairs(&[("c", "3"), ("b", "2")]));
    assert!(!fields.changed);
    assert!(decoder.read(&hex("20"), LIST_MAX).unwrap().changed);
    assert!(decoder.table.is_empty());
    // An entry that is larger than the table empties it and is no error.
    assert!(decoder.read(&hex("400161 0131"), LIST_MAX).is_ok());
    assert!(decoder.table.is_empty());
}

#[test]
fn what_is_no_block_is_refused() {
    let blocks = [
        "80",           // no entry has this index
        "be",           // none of the client's is there
        "ff80808001",   // far beyond
        "ffffffffff7f", // a number without an end
        "4001",         // a name is missing
        "400161",       // a value is missing
        "4001610561",   // a value is too short
        "40016181ff",   // padding of a whole byte
        "3fe21f",       // a table larger than we have: 4097 bytes
        "8220",         // a size that does not come first
        "7e",           // a number is missing
    ];
    for block in blocks {
        let read = Decoder::new().read(&hex(block), LIST_MAX);
        assert_eq!(read.err(), Some(Unreadable), "{block}");
    }
}

#[test]
fn odd_fields_change_the_table_all_the_same() {
    let mut decoder = Decoder::new();
    // A capital letter in a name, a line feed in a value, an unknown pseudo header.
    let block = hex("40014101 31 40016101 0a 40023a7801 31");
    let fields = decoder.read(&block, LIST_MAX).unwrap();
    let expected = [("?", "1"), ("a", "?"), ("?", "1")];
    assert_eq!(shown(&fields.list), pairs(&expected));
    // The name behind an odd value is still the name.
    let again = decoder.read(&hex("7f000132"), LIST_MAX).unwrap();
    assert_eq!(shown(&again.list), pairs(&[("a", "2")]));
}

#[test]
fn fields_beyond_the_limit_are_left_out() {
    let mut decoder = Decoder::new();
    let block = hex("40016101 31 40016201 32");
    let fields = decoder.read(&block, 67).unwrap();
    assert!(fields.over);
    assert_eq!(shown(&fields.list), pairs(&[("a", "1")]));
    assert_eq!(decoder.table.len(), 2);
    assert!(!decoder.read(&hex("bebf"), 68).unwrap().over);
}

/// Goal: what we write is what was meant, however often, whatever table the client keeps.
#[test]
fn our_own_blocks_are_read_back() {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(GRPC));
    headers.insert("grpc-status", HeaderValue::from_static("5"));
    let long = "x".repeat(300);
    headers.insert("grpc-message", HeaderValue::from_str(&long).unwrap());
    headers.insert("connection", HeaderValue::from_static("close"));
    let well = crate::api::grpc::unary::well();
    for small in [None, Some(0), Some(4096), Some(100)] {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new());
        let mut read = |out: &BytesMut| {
            let fields = decoder.read(out, LIST_MAX).unwrap();
            shown(&fields.list)
        };
        for round in 0..4 {
            if let (1, Some(bytes)) = (round, small) {
                encoder.on_table_size(bytes);
            }
            let mut out = BytesMut::new();
            encoder.put_well_head(&mut out);
            // A pseudo header of an answer is none of a request.
            assert_eq!(read(&out), pairs(&[("?", "200"), ("content-type", GRPC)]));
            let trailers: [fn(&mut Encoder, &mut BytesMut, &HeaderMap); 2] = [
                |encoder, out, _| encoder.put_well_trailers(out),
                Encoder::put_trailers,
            ];
            for put in trailers {
                let mut out = BytesMut::new();
                put(&mut encoder, &mut out, &well);
                assert_eq!(read(&out), pairs(&[("grpc-status", "0")]));
            }
            let mut out = BytesMut::new();
            encoder.put_head(&mut out, StatusCode::OK, &headers);
            let expected = [
                ("?", "200"),
                ("content-type", GRPC),
                ("grpc-status", "5"),
                ("grpc-message", &long),
            ];
            assert_eq!(read(&out), pairs(&expected));
            let mut out = BytesMut::new();
            encoder.put_head(&mut out, StatusCode::NOT_FOUND, &HeaderMap::new());
            assert_eq!(read(&out), pairs(&[("?", "404")]));
        }
    }
}

/// What a client writes, by a table of its own.
#[derive(Default)]
struct Client {
    table: VecDeque<(String, String)>,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Indexed,
    Added,
    Plain,
    Secret,
}

impl Client {
    fn size(&self) -> usize {
        let entry = |(name, value): &(String, String)| name.len() + value.len() + 32;
        self.table.iter().map(entry).sum()
    }

    fn write(&mut self, form: Form, name: &str, value: &str, block: &mut BytesMut) {
        let known = |(n, v): &(String, String)| n == name && v == value;
        if let (Form::Indexed, Some(at)) = (form, self.table.iter().position(known)) {
            put_integer(block, 0x80, 7, 62 + at);
            return;
        }
        let (mark, bits) = match form {
            Form::Indexed | Form::Added => (0x40, 6),
            Form::Plain => (0, 4),
            Form::Secret => (0x10, 4),
        };
        match self.table.iter().position(|(known, _)| known == name) {
            Some(at) => put_integer(block, mark, bits, 62 + at),
            None => {
                block.put_u8(mark);
                put_string(block, name.as_bytes());
            }
        }
        put_string(block, value.as_bytes());
        if mark == 0x40 {
            self.table.push_front((name.to_owned(), value.to_owned()));
            while self.size() > TABLE_BYTES {
                self.table.pop_back();
            }
        }
    }
}

fn forms() -> impl Strategy<Value = Form> {
    select(vec![Form::Indexed, Form::Added, Form::Plain, Form::Secret])
}

proptest! {
    /// Goal: both sides have the same table, whatever is put into it. Method: a client that keeps
    /// its own, with values that fill it many times over.
    #[test]
    fn blocks_are_read_as_they_were_meant(
        blocks in vec(vec((forms(), 0..6_usize, 0..4_usize, 0..900_usize), 0..8), 1..30)
    ) {
        let (mut client, mut decoder) = (Client::default(), Decoder::new());
        for fields in blocks {
            let (mut block, mut expected) = (BytesMut::new(), Vec::new());
            for (form, name, letter, length) in fields {
                let name = format!("name-{name}");
                let value = ["a", "b", "c", "d"][letter].repeat(length / 300 * 300 + 1);
                client.write(form, &name, &value, &mut block);
                expected.push((name, value));
            }
            let read = decoder.read(&block, LIST_MAX).unwrap();
            prop_assert_eq!(shown(&read.list), expected);
            prop_assert_eq!(decoder.bytes, client.size());
        }
    }

    #[test]
    fn no_bytes_do_harm(blocks in vec(vec(any::<u8>(), 0..200), 1..10)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let _ = decoder.read(&block, 1000);
            let counted: usize = decoder.table.iter().map(|field| field.bytes).sum();
            prop_assert_eq!(counted, decoder.bytes);
            prop_assert!(decoder.bytes <= decoder.bytes_max);
        }
    }
}
