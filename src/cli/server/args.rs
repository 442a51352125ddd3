//! Reads flags and `ETCD_*` variables by etcd's rules: one dash or two, `--flag value` or
//! `--flag=value`, bare booleans, the last of repeated flags wins, and a flag that is also set by
//! its variable is an error.

use std::{collections::BTreeMap, time::Duration};

use super::{
    file,
    flags::{self, Flag, GROUPS, Kind, Use},
    values::{check, parse_bool, parse_duration, signed, unsigned},
};

/// What was given, checked for its form.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Args {
    given: BTreeMap<&'static str, String>,
    /// Variables that set a flag, with their values.
    pub used_variables: Vec<(String, String)>,
    /// Variables that look like ours and are not.
    pub unknown_variables: Vec<String>,
    /// Flags of former versions that were given, and what became of each.
    pub former: Vec<(&'static str, String)>,
    /// The configuration file, if everything comes from one.
    pub file: Option<String>,
    /// Keys of the file that mean nothing.
    pub unknown_keys: Vec<String>,
}

/// Why the command line ends the program before it starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Print on standard output and exit with 0.
    Print(String),
    /// Print on standard error and exit with 2.
    Usage(String),
    /// Log and exit with 1.
    Fatal(String),
}

impl Args {
    /// Reads arguments, without the program's name, and variables.
    pub fn parse(
        arguments: impl IntoIterator<Item = String>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Stop> {
        let mut args = Self::default();
        args.read_arguments(arguments.into_iter())?;
        if args.bool("version") {
            return Err(Stop::Print(version_text()));
        }
        let variables: Vec<(String, String)> = variables.into_iter().collect();
        match args.config_file(&variables) {
            Some(path) => args = Self::from_file(path)?,
            None => args.read_variables(variables)?,
        }
        args.translate_former();
        args.refuse_what_would_harm()?;
        Ok(args)
    }

    /// The flag counts before the variable.
    fn config_file(&self, variables: &[(String, String)]) -> Option<String> {
        let flag = self.given.get("config-file").cloned();
        let variable = || {
            let found = variables
                .iter()
                .find(|(name, _)| name == "ETCD_CONFIG_FILE");
            found.map(|(_, path)| path.clone())
        };
        flag.filter(|path| !path.is_empty())
            .or_else(variable)
            .filter(|path| !path.is_empty())
    }

    fn from_file(path: String) -> Result<Self, Stop> {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Stop::Fatal(format!("open {path}: {error}")))?;
        let content = file::parse(&text)
            .map_err(|reason| Stop::Fatal(format!("failed to verify flags: {path}: {reason}")))?;
        Ok(Self {
            given: content.given,
            file: Some(path),
            unknown_keys: content.unknown,
            ..Self::default()
        })
    }

    /// Whether the flag was set, by argument or variable.
    pub fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value of any flag, or its default.
    pub fn text(&self, name: &str) -> &str {
        let flag = flags::find(name).expect("flags are asked for by names of the table");
        self.given.get(name).map_or(flag.default, String::as_str)
    }

    /// The parts of a list, without empty ones and repetitions.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let mut parts = Vec::new();
        for part in self.text(name).split(',').map(str::trim) {
            if !part.is_empty() && !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts
    }

    /// The value of a boolean flag.
    pub fn bool(&self, name: &str) -> bool {
        parse_bool(self.text(name)).expect("checked when it was read")
    }

    /// The value of a flag that counts.
    pub fn unsigned(&self, name: &str) -> u64 {
        unsigned(self.text(name)).expect("checked when it was read")
    }

    /// The value of a flag that may be negative.
    pub fn signed(&self, name: &str) -> i64 {
        signed(self.text(name)).expect("checked when it was read")
    }

    /// The value of a flag that spans time.
    pub fn duration(&self, name: &str) -> Duration {
        parse_duration(self.text(name)).expect("checked when it was read")
    }

    /// Flags that were set to something and mean nothing yet.
    pub fn inert(&self) -> Vec<&'static str> {
        let unusual = |flag: &&Flag| {
            let given = self.given.get(flag.name);
            flag.used == Use::Inert && given.is_some_and(|value| value != flag.default)
        };
        flags::all().filter(unusual).map(|flag| flag.name).collect()
    }

    /// The port of the first peer URL, if it listens everywhere while the URL that is told to
    /// others is only the default one.
    pub(super) fn advertises_nowhere(&self) -> Option<&str> {
        let advertised = flags::find("initial-advertise-peer-urls").expect("it is in the table");
        if self.text(advertised.name) != advertised.default {
            return None;
        }
        self.list("listen-peer-urls")
            .first()?
            .strip_prefix("http://0.0.0.0:")
    }

    /// Sets the URL that is told to others.
    pub(super) fn advertise_peer(&mut self, url: String) {
        self.given.insert("initial-advertise-peer-urls", url);
    }

    fn read_arguments(&mut self, mut arguments: impl Iterator<Item = String>) -> Result<(), Stop> {
        while let Some(argument) = arguments.next() {
            let Some(body) = flag_body(&argument) else {
                if argument == "--" {
                    return match arguments.next() {
                        Some(rest) => Err(positional(&rest)),
                        None => Ok(()),
                    };
                }
                return Err(positional(&argument));
            };
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            if name.is_empty() || name.starts_with('-') {
                return Err(usage(&format!("bad flag syntax: {argument}")));
            }
            if name == "help" || name == "h" {
                return Err(Stop::Print(help_text()));
            }
            let Some(flag) = flags::find(name) else {
                return Err(usage(&format!("flag provided but not defined: -{name}")));
            };
            let value = match inline {
                Some(value) => value,
                None if flag.kind == Kind::Bool => "true".to_owned(),
                None => match arguments.next() {
                    Some(value) => value,
                    None => return Err(usage(&format!("flag needs an argument: -{name}"))),
                },
            };
            check(flag, &value).map_err(|reason| {
                let (what, by) = match flag.kind {
                    Kind::Bool => ("boolean value", "for"),
                    _ => ("value", "for flag"),
                };
                usage(&format!("invalid {what} {value:?} {by} -{name}: {reason}"))
            })?;
            self.set(flag, value);
        }
        Ok(())
    }

    fn read_variables(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Stop> {
        let mut conflict = None;
        for (name, value) in variables {
            if !name.starts_with("ETCD_") {
                continue;
            }
            let flag = flags::all().find(|flag| variable_name(flag) == name);
            match flag {
                Some(flag) if self.given.contains_key(flag.name) => {
                    conflict = conflict.or(Some(name));
                }
                Some(_) if value.is_empty() => {}
                Some(flag) => {
                    check(flag, &value).map_err(|reason| {
                        Stop::Fatal(format!("invalid value {value:?} for {name}: {reason}"))
                    })?;
                    self.used_variables.push((name, value));
                }
                None => self.unknown_variables.push(format!("{name}={value}")),
            }
        }
        if let Some(name) = conflict {
            return Err(Stop::Fatal(format!(
                "conflicting environment variable is shadowed by corresponding command-line flag \
                 (either unset environment variable or disable flag)): {name}"
            )));
        }
        for flag in flags::all() {
            let name = variable_name(flag);
            if let Some((_, value)) = self.used_variables.iter().find(|used| used.0 == name) {
                let value = value.clone();
                self.set(flag, value);
            }
        }
        Ok(())
    }

    fn set(&mut self, flag: &'static Flag, value: String) {
        let value = match flag.kind {
            // An empty list of URLs leaves the default, as in etcd.
            Kind::Urls if value.is_empty() => flag.default.to_owned(),
            _ => value,
        };
        self.given.insert(flag.name, value);
    }

    /// Names of former versions set what they are called now, unless that is set itself.
    fn translate_former(&mut self) {
        for flag in flags::all().filter(|flag| flag.is_former()) {
            let Some(value) = self.given.get(flag.name).cloned() else {
                continue;
            };
            let story = match flag.used {
                Use::Alias(name) => {
                    self.given.entry(name).or_insert(value);
                    format!("use --{name}")
                }
                Use::Gate(gate) => {
                    let on = parse_bool(&value).expect("checked when it was read");
                    let gates = self.given.entry("feature-gates").or_default();
                    let named = |part: &str| part.split('=').next().map(str::trim) == Some(gate);
                    if !gates.split(',').any(named) {
                        *gates = format!("{gates},{gate}={on}");
                    }
                    format!("use --feature-gates={gate}={on}")
                }
                Use::Gone => "it has no effect".to_owned(),
                Use::Works | Use::Inert | Use::Refused => continue,
            };
            self.former.push((flag.name, story));
        }
    }

    fn refuse_what_would_harm(&self) -> Result<(), Stop> {
        for flag in flags::all().filter(|flag| flag.used == Use::Refused) {
            if self.text(flag.name) != flag.default {
                let name = flag.name;
                let text = format!("--{name} is not supported by this version; remove it");
                return Err(Stop::Fatal(text));
            }
        }
        Ok(())
    }
}

/// A flag without its dashes. `--` alone, `-` alone and anything else is no flag.
fn flag_body(argument: &str) -> Option<&str> {
    let body = argument.strip_prefix('-')?;
    let body = body.strip_prefix('-').unwrap_or(body);
    (!body.is_empty()).then_some(body)
}

fn positional(argument: &str) -> Stop {
    Stop::Fatal(format!("{argument:?} is not a valid flag"))
}

fn usage(problem: &str) -> Stop {
    Stop::Usage(format!(
        "{problem}\n\
         Usage:\n\n  \
         fated [flags]\n    Start a member.\n\n  \
         fated --version\n    Show the version.\n\n  \
         fated -h | --help\n    Show all flags.\n"
    ))
}

fn variable_name(flag: &Flag) -> String {
    format!("ETCD_{}", flag.name.replace('-', "_").to_uppercase())
}

fn version_text() -> String {
    format!(
        "etcd Version: {}\nfated Version: {}\nGit SHA: {}\nRust Version: {}\nOS/Arch: {}/{}\n",
        super::config::ETCD_VERSION,
        env!("CARGO_PKG_VERSION"),
        option_env!("FATED_GIT_SHA").unwrap_or("not built from a checkout"),
        env!("CARGO_PKG_RUST_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

fn help_text() -> String {
    let mut text = "Usage: fated [flags]\n\n\
        Each flag can also be given as a variable: --some-flag is ETCD_SOME_FLAG.\n"
        .to_owned();
    for (group, flags) in GROUPS {
        if flags.iter().all(Flag::is_former) {
            continue;
        }
        text += &format!("\n{group}:\n");
        for flag in flags.iter().filter(|flag| !flag.is_former()) {
            let help = flag.help;
            let effect = match flag.used {
                Use::Works | Use::Alias(_) | Use::Gate(_) | Use::Gone => "",
                Use::Inert => " Accepted; has no effect yet.",
                Use::Refused => " Not supported yet; only the default is accepted.",
            };
            text += &format!("  --{} '{}'\n    {help}{effect}\n", flag.name, flag.default);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::gates::FeatureGates, *};

    fn parse(arguments: &[&str]) -> Result<Args, Stop> {
        Args::parse(arguments.iter().map(|text| (*text).to_owned()), [])
    }

    fn with_variables(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Args, Stop> {
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Args::parse(arguments, variables)
    }

    #[test]
    fn the_table_is_consistent() {
        let names: Vec<&str> = flags::all().map(|flag| flag.name).collect();
        let distinct: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(names.len(), distinct.len(), "a flag stands twice");
        for flag in flags::all() {
            assert_eq!(
                check(flag, flag.default),
                Ok(()),
                "default of {}",
                flag.name
            );
        }
    }

    #[test]
    fn every_form_of_a_flag_is_understood() {
        let forms: [&[&str]; 6] = [
            &["--name=a"],
            &["--name", "a"],
            &["-name=a"],
            &["-name", "a"],
            &["--name=b", "--name=a"],
            &["--name", "-x", "-name", "a", "--"],
        ];
        for form in forms {
            assert_eq!(parse(form).unwrap().text("name"), "a", "{form:?}");
        }
        assert_eq!(
            parse(&["--initial-cluster=a=b"])
                .unwrap()
                .text("initial-cluster"),
            "a=b"
        );
        assert!(parse(&["--pre-vote"]).unwrap().bool("pre-vote"));
        assert!(!parse(&["--pre-vote=false"]).unwrap().bool("pre-vote"));
        assert!(
            !parse(&["--pre-vote", "--pre-vote=0"])
                .unwrap()
                .bool("pre-vote")
        );
        let defaults = parse(&[]).unwrap();
        assert_eq!(defaults.unsigned("election-timeout"), 1000);
        assert!(!defaults.is_set("name"));
    }

    #[test]
    fn wrong_arguments_end_with_etcds_words() {
        let cases: [(&[&str], &str); 11] = [
            (
                &["--initial-cluster-state=old"],
                "invalid value \"old\" for flag -initial-cluster-state: invalid value\n",
            ),
            (
                &["--feature-gates=Nope=true"],
                "invalid value \"Nope=true\" for flag -feature-gates: unrecognized feature gate: \
                 Nope\n",
            ),
            (
                &["--listen-peer-urls", "ftp://a:1"],
                "invalid value \"ftp://a:1\" for flag -listen-peer-urls: URL scheme must be http, \
                 https, unix, or unixs: ftp://a:1\n",
            ),
            (&["--nope"], "flag provided but not defined: -nope\n"),
            (&["--name"], "flag needs an argument: -name\n"),
            (&["---name=a"], "bad flag syntax: ---name=a\n"),
            (&["--=a"], "bad flag syntax: --=a\n"),
            (
                &["--pre-vote=maybe"],
                "invalid boolean value \"maybe\" for -pre-vote: parse error\n",
            ),
            (
                &["--snapshot-count=-1"],
                "invalid value \"-1\" for flag -snapshot-count: parse error\n",
            ),
            (
                &["--max-concurrent-streams", "4294967296"],
                "invalid value \"4294967296\" for flag -max-concurrent-streams: strconv.ParseUint: \
                 parsing \"4294967296\": value out of range\n",
            ),
            (
                &["--grpc-keepalive-interval=5"],
                "invalid value \"5\" for flag -grpc-keepalive-interval: parse error\n",
            ),
        ];
        for (arguments, expected) in cases {
            match parse(arguments) {
                Err(Stop::Usage(text)) => assert!(text.starts_with(expected), "{text}"),
                other => panic!("{arguments:?} gave {other:?}"),
            }
        }
        let stray = Stop::Fatal("\"false\" is not a valid flag".to_owned());
        assert_eq!(parse(&["--pre-vote", "false"]), Err(stray));
        assert!(
            parse(&["--force-new-cluster"])
                .unwrap()
                .bool("force-new-cluster")
        );
    }

    #[test]
    fn version_and_help_print_and_end() {
        for arguments in [["--version"], ["-version"]] {
            match parse(&arguments) {
                Err(Stop::Print(text)) => {
                    let first = text.lines().next().unwrap();
                    let number = first.strip_prefix("etcd Version: ").unwrap();
                    assert_eq!(number.split('.').count(), 3);
                    assert!(text.contains("\nfated Version: "));
                }
                other => panic!("{other:?}"),
            }
        }
        let Err(Stop::Print(help)) = parse(&["-h"]) else {
            panic!("-h prints");
        };
        let inert = "Log files to keep; here the log keeps what it needs. Accepted; has no effect";
        assert!(help.contains(inert));
        let now = flags::all().filter(|flag| !flag.is_former());
        assert!(now.count() > 100);
        for flag in flags::all() {
            let named = help.contains(&format!("\n  --{} '", flag.name));
            assert_eq!(named, !flag.is_former(), "{}", flag.name);
        }
    }

    #[test]
    fn variables_set_flags_and_must_not_contradict_them() {
        let variables = [
            ("ETCD_NAME", "v"),
            ("ETCD_PRE_VOTE", "false"),
            ("ETCD_DATA_DIR", ""),
            ("ETCD_UNSUPPORTED_ARCH", "arm64"),
            ("HOME", "x"),
        ];
        let args = with_variables(&[], &variables).unwrap();
        assert_eq!(args.text("name"), "v");
        assert!(args.is_set("name") && !args.bool("pre-vote"));
        assert!(!args.is_set("data-dir"));
        assert_eq!(args.unknown_variables, ["ETCD_UNSUPPORTED_ARCH=arm64"]);
        let both = with_variables(&["--name=a"], &[("ETCD_NAME", "a")]);
        assert!(matches!(both, Err(Stop::Fatal(text)) if text.contains("ETCD_NAME")));
        let wrong = with_variables(&[], &[("ETCD_SNAPSHOT_COUNT", "many")]);
        assert!(matches!(wrong, Err(Stop::Fatal(text)) if text.contains("ETCD_SNAPSHOT_COUNT")));
    }

    #[test]
    fn inert_flags_are_named_only_when_they_ask_for_something() {
        let args = parse(&["--cors=*", "--tls-min-version=TLS1.3", "--max-wals=9"]);
        let mut inert = args.unwrap().inert();
        inert.sort_unstable();
        assert_eq!(inert, ["max-wals", "tls-min-version"]);
    }

    #[test]
    fn former_names_set_what_they_are_called_now() {
        let args = parse(&[
            "--experimental-watch-progress-notify-interval=5s",
            "--experimental-compaction-batch-limit=7",
            "--compaction-batch-limit=8",
            "--experimental-initial-corrupt-check",
            "--experimental-enable-lease-checkpoint=true",
            "--feature-gates=LeaseCheckpointPersist=true,LeaseCheckpoint=false",
            "--force=whatever",
        ])
        .unwrap();
        assert_eq!(
            args.duration("watch-progress-notify-interval"),
            Duration::from_secs(5)
        );
        assert_eq!(args.signed("compaction-batch-limit"), 8);
        let gates = FeatureGates::parse(args.text("feature-gates")).unwrap();
        assert_eq!(
            gates.unusual(),
            ["InitialCorruptCheck=true", "LeaseCheckpointPersist=true"]
        );
        assert_eq!(args.former.len(), 5);
        for flag in flags::all() {
            if let Use::Alias(name) = flag.used {
                let target = flags::find(name).expect("an alias stands for a flag");
                assert_eq!((target.kind, target.default), (flag.kind, flag.default));
            }
        }
    }

    #[test]
    fn a_file_replaces_all_other_flags_and_variables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.yml").display().to_string();
        std::fs::write(
            &path,
            "snapshot-count: 5\nwhat: 1\nexperimental-max-learners: 3",
        )
        .unwrap();
        let flag = format!("--config-file={path}");
        let variables = [("ETCD_NAME", "v"), ("ETCD_NONSENSE", "x")];
        for (arguments, variables) in [
            (vec!["--name=a", &flag], variables.to_vec()),
            (
                vec!["--name=a"],
                vec![("ETCD_CONFIG_FILE", &*path), variables[0]],
            ),
        ] {
            let args = with_variables(&arguments, &variables).unwrap();
            assert_eq!(args.unsigned("snapshot-count"), 5);
            assert_eq!(args.signed("max-learners"), 3);
            assert_eq!(args.text("name"), "default");
            assert_eq!(args.file.as_deref(), Some(&*path));
            assert_eq!(args.unknown_keys, ["what"]);
            assert!(args.used_variables.is_empty() && args.unknown_variables.is_empty());
        }
        let wrong = parse(&["--config-file=/nowhere", "--name=a"]);
        assert!(matches!(wrong, Err(Stop::Fatal(text)) if text.starts_with("open /nowhere: ")));
        std::fs::write(&path, "peer-transport-security: {auto-tls: true}").unwrap();
        assert!(
            matches!(parse(&[&flag]), Err(Stop::Fatal(text)) if text.contains("peer-auto-tls"))
        );
    }

    #[test]
    fn who_listens_everywhere_must_not_advertise_its_loopback() {
        let listens = |flag: &str| {
            let args = parse(&["--listen-peer-urls=http://0.0.0.0:77", flag]).unwrap();
            args.advertises_nowhere().map(str::to_owned)
        };
        assert_eq!(listens("--name=a").as_deref(), Some("77"));
        assert_eq!(listens("--initial-advertise-peer-urls=http://a:77"), None);
        assert_eq!(parse(&[]).unwrap().advertises_nowhere(), None);
    }

    /// What kubeadm gives to every member must be understood.
    #[test]
    fn kubeadms_flags_are_read() {
        let args = parse(&[
            "--feature-gates=InitialCorruptCheck=true",
            "--watch-progress-notify-interval=5s",
            "--listen-metrics-urls=http://127.0.0.1:2381",
            "--snapshot-count=10000",
        ]);
        let args = args.unwrap();
        assert!(args.is_set("feature-gates") && args.is_set("listen-metrics-urls"));
    }

    /// Plain text where somebody asked for TLS would be a promise broken in silence.
    #[test]
    fn flags_that_ask_for_tls_are_refused() {
        for flag in [
            "--cert-file=c",
            "--auto-tls",
            "--client-cert-auth",
            "--peer-auto-tls",
        ] {
            assert!(matches!(parse(&[flag]), Err(Stop::Fatal(_))), "{flag}");
        }
    }

    #[test]
    fn lists_lose_repetitions() {
        let args = parse(&["--log-outputs=a, b,,a"]).unwrap();
        assert_eq!(args.list("log-outputs"), ["a", "b"]);
    }
}
