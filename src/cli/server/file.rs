//! The configuration file: YAML whose keys are the names of flags, as etcd has it.
//!
//! It becomes the same table of given flags that arguments and variables make, so every rule behind
//! it is the same. Invariant: whatever the file holds, the answer is a table or a reason.

use std::collections::BTreeMap;

use yaml_rust2::{Yaml, YamlLoader};

use super::{
    flags::{self, Flag, Kind, Use},
    values::check,
};

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct FileContent {
    /// Values by flag.
    pub given: BTreeMap<&'static str, String>,
    /// Keys that mean nothing, in the order of the file.
    pub unknown: Vec<String>,
}

/// Keys below a section, and the flags they stand for.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

const SECTIONS: &[Section] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-cn", "client-cert-allowed-hostname"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
            ("skip-client-san-verification", ""),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            (
                "skip-client-san-verification",
                "peer-skip-client-san-verification",
            ),
        ],
    ),
    (
        "socket-options",
        &[
            ("reuse-port", "socket-reuse-port"),
            ("reuse-address", "socket-reuse-address"),
        ],
    ),
    ("discovery-config", &[("token", "discovery-token")]),
    (
        "discovery-config/client",
        &[
            ("endpoints", "discovery-endpoints"),
            ("request-timeout", "discovery-request-timeout"),
            ("dial-timeout", "discovery-dial-timeout"),
            ("keepalive-time", "discovery-keepalive-time"),
            ("keepalive-timeout", "discovery-keepalive-timeout"),
        ],
    ),
    (
        "discovery-config/client/secure",
        &[
            ("cert", "discovery-cert"),
            ("key", "discovery-key"),
            ("cacert", "discovery-cacert"),
            ("insecure-transport", "discovery-insecure-transport"),
            (
                "insecure-skip-tls-verify",
                "discovery-insecure-skip-tls-verify",
            ),
        ],
    ),
    (
        "discovery-config/client/auth",
        &[
            ("username", "discovery-user"),
            ("password", "discovery-password"),
        ],
    ),
];

/// Reads the text of a configuration file.
pub(super) fn parse(text: &str) -> Result<FileContent, String> {
    let documents = YamlLoader::load_from_str(text)
        .map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))?;
    let mut content = FileContent::default();
    match documents.first() {
        None | Some(Yaml::Null) => {}
        Some(document) => content.read_section("", document)?,
    }
    Ok(content)
}

impl FileContent {
    fn read_section(&mut self, path: &str, section: &Yaml) -> Result<(), String> {
        let Yaml::Hash(entries) = section else {
            let place = if path.is_empty() { "the file" } else { path };
            return Err(format!(
                "invalid {place}: it must consist of keys and values"
            ));
        };
        for (key, value) in entries {
            let key = match key {
                Yaml::String(key) => key.clone(),
                other => scalar(other).ok_or_else(|| format!("a key is no text: {other:?}"))?,
            };
            let place = match path {
                "" => key.clone(),
                path => format!("{path}/{key}"),
            };
            if matches!(value, Yaml::Null) {
                continue;
            }
            if SECTIONS.iter().any(|(section, _)| *section == place) {
                self.read_section(&place, value)?;
                continue;
            }
            match flag_at(path, &key) {
                Some(flag) => self.read_flag(flag, &place, value)?,
                None => self.unknown.push(place),
            }
        }
        Ok(())
    }

    fn read_flag(&mut self, flag: &'static Flag, place: &str, value: &Yaml) -> Result<(), String> {
        let text = text_of(flag, value)
            .ok_or_else(|| format!("{place}: the value must be {}", form(flag.kind)))?;
        // An empty text leaves the default, as etcd has it.
        if text.is_empty() {
            return Ok(());
        }
        check(flag, &text)
            .map_err(|reason| format!("{place}: invalid value {text:?}: {reason}"))?;
        self.given.insert(flag.name, text);
        Ok(())
    }
}

fn flag_at(path: &str, key: &str) -> Option<&'static Flag> {
    if path.is_empty() {
        // What only makes sense on a command line is no key.
        return flags::find(key).filter(|flag| !["config-file", "version"].contains(&flag.name));
    }
    let (_, keys) = SECTIONS.iter().find(|(section, _)| *section == path)?;
    let (_, name) = keys.iter().find(|(of, _)| *of == key)?;
    flags::find(name)
}

/// The value as it would stand on the command line.
fn text_of(flag: &Flag, value: &Yaml) -> Option<String> {
    if flag.used == Use::Gone {
        return Some(String::new());
    }
    match (flag.kind, value) {
        (Kind::Duration, Yaml::Integer(nanos)) => Some(format!("{nanos}ns")),
        (Kind::Bool, Yaml::String(word)) => match word.to_ascii_lowercase().as_str() {
            "on" | "yes" => Some("true".to_owned()),
            "off" | "no" => Some("false".to_owned()),
            _ => None,
        },
        (Kind::Bool, Yaml::Boolean(on)) => Some(on.to_string()),
        (Kind::Bool, _) => None,
        (Kind::Unsigned | Kind::Unsigned32 | Kind::Signed, Yaml::Integer(number)) => {
            Some(number.to_string())
        }
        (Kind::Unsigned | Kind::Unsigned32 | Kind::Signed, _) => None,
        (Kind::List, Yaml::Array(parts)) => {
            let parts: Option<Vec<String>> = parts.iter().map(scalar).collect();
            Some(parts?.join(","))
        }
        (_, other) => scalar(other),
    }
}

fn scalar(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        Yaml::Boolean(on) => Some(on.to_string()),
        _ => None,
    }
}

fn form(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Unsigned | Kind::Unsigned32 | Kind::Signed => "a whole number",
        Kind::Duration => "a number of nanoseconds, or a text such as \"5s\"",
        Kind::List => "a list, or a text with commas",
        Kind::Text | Kind::Urls | Kind::Origins | Kind::Gates | Kind::State | Kind::Fallback => {
            "a text"
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_arrive_as_flags() {
        let content = parse(
            "name: 'a'\n\
             data-dir:\n\
             snapshot-count: 7\n\
             pre-vote: off\n\
             watch-progress-notify-interval: 5000000000\n\
             grpc-keepalive-interval: 1m\n\
             log-outputs: [stdout, /x]\n\
             host-whitelist: a,b\n\
             auto-compaction-retention: 1\n\
             discovery-fallback: 'proxy'\n\
             peer-transport-security:\n  \
               auto-tls: false\n  \
               cert-file:\n\
             socket-options:\n  \
               reuse-port: true\n\
             discovery-config:\n  \
               token: t\n  \
               client:\n    \
                 endpoints: [a:1, b:2]\n    \
                 dial-timeout: 7000000000\n    \
                 auth: {username: u}\n",
        );
        let content = content.unwrap();
        let expected = [
            ("auto-compaction-retention", "1"),
            ("discovery-dial-timeout", "7000000000ns"),
            ("discovery-endpoints", "a:1,b:2"),
            ("discovery-fallback", "proxy"),
            ("discovery-token", "t"),
            ("discovery-user", "u"),
            ("grpc-keepalive-interval", "1m"),
            ("host-whitelist", "a,b"),
            ("log-outputs", "stdout,/x"),
            ("name", "a"),
            ("peer-auto-tls", "false"),
            ("pre-vote", "false"),
            ("snapshot-count", "7"),
            ("socket-reuse-port", "true"),
            ("watch-progress-notify-interval", "5000000000ns"),
        ];
        let given: Vec<(&str, &str)> = content
            .given
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        assert_eq!(given, expected);
        assert!(content.unknown.is_empty());
    }

    #[test]
    fn every_key_of_a_section_is_a_flag() {
        for (section, keys) in SECTIONS {
            for (key, name) in *keys {
                let known = name.is_empty() || flags::find(name).is_some();
                assert!(known, "{section}/{key}");
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_what_is_unknown_is_told() {
        for (text, reason) in [
            ("- a", "the file"),
            ("name: [a]", "name: the value must be a text"),
            (
                "pre-vote: maybe",
                "pre-vote: the value must be true or false",
            ),
            (
                "snapshot-count: '7'",
                "snapshot-count: the value must be a whole number",
            ),
            (
                "snapshot-count: -7",
                "snapshot-count: invalid value \"-7\": parse error",
            ),
            (
                "peer-transport-security: x",
                "invalid peer-transport-security",
            ),
            ("listen-peer-urls: ftp://x", "URL scheme must be"),
            ("a: [", "error converting YAML to JSON: yaml: "),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        let content = parse("nonsense: 1\nclient-transport-security: {nope: 2}\nversion: true");
        let unknown = content.unwrap().unknown;
        assert_eq!(
            unknown,
            ["nonsense", "client-transport-security/nope", "version"]
        );
        for empty in ["", "# only words\n", "---\n"] {
            assert!(parse(empty).unwrap().given.is_empty());
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z:\\[\\]{}&*!|>'\"% \\n-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
