//! Values of flags, read by Go's rules and refused in Go's words.

use std::time::Duration;

use super::{
    flags::{Flag, Kind, Use},
    gates::FeatureGates,
    urls::Url,
};

/// Whether a flag may have this value; if not, why not.
pub(super) fn check(flag: &Flag, value: &str) -> Result<(), String> {
    if flag.used == Use::Gone {
        return Ok(());
    }
    let parsed = |fits: bool| if fits { Ok(()) } else { Err("parse error") };
    let checked = match flag.kind {
        Kind::Text | Kind::List => Ok(()),
        Kind::Bool => parsed(parse_bool(value).is_some()),
        Kind::Duration => parsed(parse_duration(value).is_some()),
        Kind::Unsigned => unsigned(value).map(drop),
        Kind::Signed => signed(value).map(drop),
        Kind::Unsigned32 => return unsigned32(value).map(drop),
        Kind::Urls if value.is_empty() => Ok(()), // the default stays, as in etcd
        Kind::Urls => return urls(value).map(drop),
        Kind::Origins if value == "*" => Ok(()),
        Kind::Origins => return urls(value).map(drop),
        Kind::Gates => return FeatureGates::parse(value).map(drop),
        Kind::State => choice(value, &["new", "existing"]),
        Kind::Fallback => choice(value, &["exit", "proxy"]),
    };
    checked.map_err(str::to_owned)
}

fn choice(value: &str, of: &[&str]) -> Result<(), &'static str> {
    of.contains(&value).then_some(()).ok_or("invalid value")
}

/// URLs between commas, in the order of their text; an empty part is an error.
pub(super) fn urls(value: &str) -> Result<Vec<Url>, String> {
    let parts: Vec<&str> = value.split(',').collect();
    let mut urls = Url::parse_all(&parts)?;
    urls.sort_by_key(ToString::to_string);
    urls.dedup();
    Ok(urls)
}

/// Go's words for true and false.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A number of Go's base 0: decimal, or with `0x`, `0o`, `0b` or `0` in front.
pub(super) fn unsigned(text: &str) -> Result<u64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0o") => (&lower[2..], 8),
        Some("0b") => (&lower[2..], 2),
        Some(two) if two.starts_with('0') => (&lower[1..], 8),
        Some(_) | None => (&*lower, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err("parse error");
    }
    u64::from_str_radix(digits, radix).map_err(|_| "value out of range")
}

/// The same with a sign.
pub(super) fn signed(text: &str) -> Result<i64, &'static str> {
    const RANGE: &str = "value out of range";
    match text.strip_prefix('-') {
        Some(rest) => 0_i64.checked_sub_unsigned(unsigned(rest)?).ok_or(RANGE),
        None => {
            let value = unsigned(text.strip_prefix('+').unwrap_or(text))?;
            i64::try_from(value).map_err(|_| RANGE)
        }
    }
}

/// A number of 32 bits; its flag tells more about what is wrong than others.
pub(super) fn unsigned32(text: &str) -> Result<u32, String> {
    let story = |reason| format!("strconv.ParseUint: parsing {text:?}: {reason}");
    match unsigned(text) {
        Ok(value) => u32::try_from(value).map_err(|_| story("value out of range")),
        Err("parse error") => Err(story("invalid syntax")),
        Err(reason) => Err(story(reason)),
    }
}

/// Go's form: one or more numbers, each with a unit and perhaps a fraction; a bare `0` is allowed.
/// Nothing of ours can last a negative time.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        nanos = nanos.checked_add(scaled(number, scale)?)?;
        rest = tail;
    }
    let nanos = i64::try_from(nanos).ok()?; // Go's durations end there, and so do ours
    (!text.is_empty()).then(|| Duration::from_nanos(nanos.unsigned_abs()))
}

fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let parse = |digits: &str| match digits {
        "" => Some(0),
        digits => digits.parse::<u128>().ok(),
    };
    let digits = u32::try_from(fraction.len()).ok()?;
    let part = parse(fraction)?.checked_mul(scale)? / 10_u128.pow(digits);
    parse(whole)?.checked_mul(scale)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let cases = [
            ("0", 0),
            ("300ms", 300_000_000),
            ("1.5s", 1_500_000_000),
            ("1h2m3s", 3_723_000_000_000),
            (".5us", 500),
            ("10µs", 10_000),
            ("+7ns", 7),
        ];
        for (text, nanos) in cases {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            "1x",
            "-1s",
            "1..2s",
            ".s",
            "9999999999h",
            "1s2",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_gos() {
        let cases = [("0", 0), ("17", 17), ("0x1F", 31), ("010", 8), ("0b11", 3)];
        for (text, value) in cases {
            assert_eq!(unsigned(text), Ok(value), "{text}");
        }
        assert_eq!(signed("-0x10"), Ok(-16));
        assert_eq!(signed("-9223372036854775808"), Ok(i64::MIN));
        for text in ["", "-", "1e3", "0x", "08", "1 ", "--1", "é"] {
            assert_eq!(signed(text), Err("parse error"), "{text}");
        }
        assert_eq!(unsigned("18446744073709551616"), Err("value out of range"));
        assert_eq!(signed("9223372036854775808"), Err("value out of range"));
    }

    #[test]
    fn urls_are_sorted_and_each_stands_once() {
        let urls = urls("http://b:1, http://a:2,http://b:1").unwrap();
        let texts: Vec<String> = urls.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["http://a:2", "http://b:1"]);
        assert!(super::urls("http://a:1,").is_err());
    }
}
