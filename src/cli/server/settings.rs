//! Settings beside the core: what HTTP serves, what is checked and compacted by itself, traces.

use std::time::Duration;

use super::{
    args::Args,
    gates::FeatureGates,
    urls::Url,
    values::{parse_duration, urls},
};
use crate::api::trace;

const SAMPLES_PER_MILLION_MAX: i64 = 1_000_000;
const HOUR: Duration = Duration::from_secs(3600);
/// The least a connection to a member may take to read or write.
const RAFT_TIMEOUT_MIN: Duration = Duration::from_secs(5);

/// What is compacted without being asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoCompaction {
    /// Nothing.
    Off,
    /// What is older than this.
    Periodic(Duration),
    /// What is further back than this many revisions.
    Revision(u64),
}

/// What the HTTP side serves, and to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpSettings {
    /// `--listen-client-http-urls`; when there are any, the client URLs speak gRPC only.
    pub listen: Vec<Url>,
    /// `--listen-metrics-urls`.
    pub listen_metrics: Vec<Url>,
    /// `--cors`: origins, or `*`.
    pub cors: Vec<String>,
    /// `--host-whitelist`: host names, or `*`; empty means all.
    pub host_whitelist: Vec<String>,
    /// `--enable-grpc-gateway`.
    pub gateway: bool,
    /// `--enable-pprof`.
    pub pprof: bool,
    /// `--metrics=extensive`.
    pub extensive_metrics: bool,
}

/// When members are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckTimes {
    /// `--corrupt-check-time`; zero means never.
    pub corrupt: Duration,
    /// `--compact-hash-check-time`.
    pub compact_hash: Duration,
    /// `--downgrade-check-time`.
    pub downgrade: Duration,
}

/// Tokens and passwords.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthSettings {
    /// `--auth-token`.
    pub token: String,
    /// `--auth-token-ttl`.
    pub token_ttl: Duration,
    /// `--bcrypt-cost`.
    pub bcrypt_cost: u32,
}

/// Settings beside the core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `--feature-gates`.
    pub gates: FeatureGates,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// HTTP.
    pub http: HttpSettings,
    /// Checks.
    pub checks: CheckTimes,
    /// Traces, if they are wanted.
    pub tracing: Option<trace::Settings>,
    /// Tokens and passwords.
    pub auth: AuthSettings,
    /// `--force-new-cluster`.
    pub force_new_cluster: bool,
    /// `--memory-mlock`.
    pub memory_lock: bool,
    /// `--bootstrap-defrag-threshold-megabytes`; zero means never.
    pub bootstrap_defrag_megabytes: u64,
    /// `--socket-reuse-port`.
    pub shared_ports: bool,
    /// `--warning-apply-duration`.
    pub slow_apply: Duration,
    /// `--warning-unary-request-duration`.
    pub slow_request: Duration,
    /// `--raft-read-timeout`, at least five seconds.
    pub raft_read_timeout: Duration,
    /// `--raft-write-timeout`, at least five seconds.
    pub raft_write_timeout: Duration,
}

impl Settings {
    /// Checks what was given, in etcd's words.
    pub fn from_args(args: &Args) -> Result<Self, String> {
        if args.text("discovery-fallback") == "proxy" {
            return Err(
                "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\""
                    .to_owned(),
            );
        }
        check_tls_versions(args)?;
        let slow_request = match args.duration("warning-unary-request-duration") {
            Duration::ZERO => Duration::from_millis(300),
            given => given,
        };
        Ok(Self {
            gates: gates(args)?,
            auto_compaction: auto_compaction(args)?,
            http: http(args)?,
            checks: checks(args)?,
            tracing: tracing(args)?,
            auth: auth(args)?,
            force_new_cluster: args.bool("force-new-cluster"),
            memory_lock: args.bool("memory-mlock"),
            bootstrap_defrag_megabytes: args.unsigned("bootstrap-defrag-threshold-megabytes"),
            shared_ports: args.bool("socket-reuse-port"),
            slow_apply: args.duration("warning-apply-duration"),
            slow_request,
            raft_read_timeout: args.duration("raft-read-timeout").max(RAFT_TIMEOUT_MIN),
            raft_write_timeout: args.duration("raft-write-timeout").max(RAFT_TIMEOUT_MIN),
        })
    }
}

fn gates(args: &Args) -> Result<FeatureGates, String> {
    let gates = FeatureGates::parse(args.text("feature-gates"))?;
    if gates.enabled("LeaseCheckpointPersist") && !gates.enabled("LeaseCheckpoint") {
        return Err(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
             LeaseCheckpoint"
                .to_owned(),
        );
    }
    Ok(gates)
}

/// A bare number counts hours, or revisions; with a unit it is a time, whatever the mode says, and
/// the mode `revision` takes its nanoseconds for revisions, as etcd does.
fn auto_compaction(args: &Args) -> Result<AutoCompaction, String> {
    let retention = args.text("auto-compaction-retention");
    let bare = bare_number(retention);
    let by_revisions = match args.text("auto-compaction-mode") {
        "periodic" => false,
        "revision" => true,
        "" => return Err("undefined auto-compaction-mode".to_owned()),
        other => return Err(format!("unknown auto-compaction-mode {other:?}")),
    };
    let given = match bare {
        Some(count) if by_revisions => Duration::from_nanos(count),
        Some(count) => u32::try_from(count)
            .ok()
            .and_then(|hours| HOUR.checked_mul(hours))
            .ok_or_else(|| format!("error parsing CompactionRetention: {retention} is too long"))?,
        None => parse_duration(retention).ok_or_else(|| {
            format!("error parsing CompactionRetention: time: invalid duration {retention:?}")
        })?,
    };
    Ok(match (given, by_revisions) {
        (Duration::ZERO, _) => AutoCompaction::Off,
        (given, true) => {
            AutoCompaction::Revision(u64::try_from(given.as_nanos()).unwrap_or(u64::MAX))
        }
        (given, false) => AutoCompaction::Periodic(given),
    })
}

/// A number without any prefix or unit.
fn bare_number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    decimal.then(|| text.parse().ok()).flatten()
}

fn http(args: &Args) -> Result<HttpSettings, String> {
    let listen = optional_urls(args, "listen-client-http-urls")?;
    let listen_metrics = optional_urls(args, "listen-metrics-urls")?;
    for url in listen.iter().chain(&listen_metrics) {
        url.check_bind()?;
    }
    if let Some(url) = listen_metrics.iter().find(|url| url.is_secure()) {
        return Err(format!(
            "--listen-metrics-urls: {url}: TLS is not supported by this version; use http://"
        ));
    }
    let owned = |name: &str| args.list(name).into_iter().map(str::to_owned).collect();
    Ok(HttpSettings {
        listen,
        listen_metrics,
        cors: owned("cors"),
        host_whitelist: owned("host-whitelist"),
        gateway: args.bool("enable-grpc-gateway"),
        pprof: args.bool("enable-pprof"),
        extensive_metrics: args.text("metrics") == "extensive",
    })
}

fn optional_urls(args: &Args, name: &str) -> Result<Vec<Url>, String> {
    match args.text(name) {
        "" => Ok(Vec::new()),
        given => urls(given).map_err(|reason| format!("--{name}: {reason}")),
    }
}

fn checks(args: &Args) -> Result<CheckTimes, String> {
    let compact_hash = args.duration("compact-hash-check-time");
    if compact_hash.is_zero() {
        return Err("--compact-hash-check-time must be >0 (set to 0s)".to_owned());
    }
    Ok(CheckTimes {
        corrupt: args.duration("corrupt-check-time"),
        compact_hash,
        downgrade: args.duration("downgrade-check-time"),
    })
}

fn tracing(args: &Args) -> Result<Option<trace::Settings>, String> {
    if !args.bool("enable-distributed-tracing") {
        return Ok(None);
    }
    let rate = args.signed("distributed-tracing-sampling-rate");
    let wrong =
        |reason: &str| format!("distributed tracing configurition is not valid: ({reason})");
    if rate < 0 {
        return Err(wrong("tracing sampling rate must be positive"));
    }
    if rate > SAMPLES_PER_MILLION_MAX {
        return Err(wrong("tracing sampling rate must be less than 1000000"));
    }
    Ok(Some(trace::Settings {
        address: args.text("distributed-tracing-address").to_owned(),
        service: args.text("distributed-tracing-service-name").to_owned(),
        instance: args.text("distributed-tracing-instance-id").to_owned(),
        samples_per_million: u32::try_from(rate).expect("checked just now"),
    }))
}

fn auth(args: &Args) -> Result<AuthSettings, String> {
    let cost = args.unsigned("bcrypt-cost");
    Ok(AuthSettings {
        token: args.text("auth-token").to_owned(),
        token_ttl: Duration::from_secs(args.unsigned("auth-token-ttl")),
        // etcd takes its default where bcrypt would not have the cost.
        bcrypt_cost: match u32::try_from(cost) {
            Ok(cost @ 4..=31) => cost,
            Ok(_) | Err(_) => 10,
        },
    })
}

/// There is no TLS yet, but a wrong wish is wrong today.
fn check_tls_versions(args: &Args) -> Result<(), String> {
    let version = |name: &str| match args.text(name) {
        "" => Ok(0),
        "TLS1.2" => Ok(12),
        "TLS1.3" => Ok(13),
        other => Err(format!(
            "unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)"
        )),
    };
    let (min, max) = (version("tls-min-version")?, version("tls-max-version")?);
    if max != 0 && min > max {
        return Err(format!(
            "min version ({}) is greater than max version ({})",
            args.text("tls-min-version"),
            args.text("tls-max-version")
        ));
    }
    if min == 13 && !args.list("cipher-suites").is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        Settings::from_args(&Args::parse(arguments, []).unwrap())
    }

    #[test]
    fn retention_is_read_by_etcds_rules() {
        let cases: [(&[&str], AutoCompaction); 8] = [
            (&[], AutoCompaction::Off),
            (&["--auto-compaction-retention=0"], AutoCompaction::Off),
            (
                &["--auto-compaction-retention=5"],
                AutoCompaction::Periodic(5 * HOUR),
            ),
            (
                &["--auto-compaction-retention=90m"],
                AutoCompaction::Periodic(Duration::from_secs(5400)),
            ),
            (
                &[
                    "--auto-compaction-mode=revision",
                    "--auto-compaction-retention=1000",
                ],
                AutoCompaction::Revision(1000),
            ),
            (
                &[
                    "--auto-compaction-mode=revision",
                    "--auto-compaction-retention=1us",
                ],
                AutoCompaction::Revision(1000),
            ),
            (&["--auto-compaction-mode=revision"], AutoCompaction::Off),
            (&["--auto-compaction-retention=0s"], AutoCompaction::Off),
        ];
        for (arguments, expected) in cases {
            let given = settings(arguments).unwrap().auto_compaction;
            assert_eq!(given, expected, "{arguments:?}");
        }
    }

    #[test]
    fn wrong_settings_are_refused_in_etcds_words() {
        let cases: [(&[&str], &str); 11] = [
            (
                &["--auto-compaction-mode=never"],
                "unknown auto-compaction-mode \"never\"",
            ),
            (
                &["--auto-compaction-mode="],
                "undefined auto-compaction-mode",
            ),
            (
                &["--auto-compaction-retention=x"],
                "error parsing CompactionRetention: time: invalid duration \"x\"",
            ),
            (
                &["--compact-hash-check-time=0"],
                "--compact-hash-check-time must be >0 (set to 0s)",
            ),
            (
                &[
                    "--enable-distributed-tracing",
                    "--distributed-tracing-sampling-rate=-1",
                ],
                "distributed tracing configurition is not valid: (tracing sampling rate must be \
                 positive)",
            ),
            (
                &[
                    "--enable-distributed-tracing",
                    "--distributed-tracing-sampling-rate=1000001",
                ],
                "distributed tracing configurition is not valid: (tracing sampling rate must be \
                 less than 1000000)",
            ),
            (
                &["--feature-gates=LeaseCheckpointPersist=true"],
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
                 LeaseCheckpoint",
            ),
            (
                &["--discovery-fallback=proxy"],
                "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
            ),
            (
                &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
                "min version (TLS1.3) is greater than max version (TLS1.2)",
            ),
            (
                &["--tls-min-version=TLS1.3", "--cipher-suites=X"],
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
            (
                &["--listen-metrics-urls=http://example.com:1"],
                "expected IP in URL for binding (http://example.com:1)",
            ),
        ];
        for (arguments, expected) in cases {
            assert_eq!(settings(arguments).unwrap_err(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn what_is_given_arrives() {
        let given = settings(&[
            "--listen-client-http-urls=http://127.0.0.1:8080",
            "--cors=http://a:1,http://b:2",
            "--host-whitelist=x,y,x",
            "--metrics=extensive",
            "--enable-grpc-gateway=false",
            "--bcrypt-cost=99",
            "--raft-read-timeout=1s",
            "--warning-unary-request-duration=0",
            "--enable-distributed-tracing",
            "--distributed-tracing-sampling-rate=7",
        ]);
        let given = given.unwrap();
        assert_eq!(given.http.listen.len(), 1);
        assert_eq!(given.http.cors, ["http://a:1", "http://b:2"]);
        assert_eq!(given.http.host_whitelist, ["x", "y"]);
        assert!(given.http.extensive_metrics && !given.http.gateway);
        assert_eq!(given.auth.bcrypt_cost, 10);
        assert_eq!(given.raft_read_timeout, RAFT_TIMEOUT_MIN);
        assert_eq!(given.slow_request, Duration::from_millis(300));
        assert_eq!(given.tracing.unwrap().samples_per_million, 7);
    }
}
