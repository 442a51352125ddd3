//! The table of flags: etcd's names and defaults, and whether they mean something here yet.

/// What a flag's value looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`; the flag alone means `true`.
    Bool,
    /// A whole number, zero or more.
    Unsigned,
    /// A whole number.
    Signed,
    /// Numbers with units, such as `1m30s`.
    Duration,
    /// URLs, separated by commas.
    Urls,
    /// Texts, separated by commas.
    List,
}

/// What becomes of a flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// It works.
    Works,
    /// It is accepted and named in a warning when it is set to something else than its default.
    Inert,
    /// Setting it to something else than its default is refused, because ignoring it would harm.
    Refused,
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub used: Use,
    pub help: &'static str,
}

const fn works(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default,
        used: Use::Works,
        help,
    }
}

const fn inert(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default,
        used: Use::Inert,
        help: "Accepted; has no effect yet.",
    }
}

const fn refused(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default,
        used: Use::Refused,
        help: "Not supported yet; only the default is accepted.",
    }
}

use Kind::{Bool, Duration, List, Signed, Text, Unsigned, Urls};

/// Every flag, in groups.
pub(super) const GROUPS: &[(&str, &[Flag])] = &[
    (
        "Member",
        &[
            works(
                "name",
                Text,
                "default",
                "Name of this member, as in --initial-cluster.",
            ),
            works(
                "data-dir",
                Text,
                "",
                "Where data is kept; ${name}.fated when not given.",
            ),
            works(
                "wal-dir",
                Text,
                "",
                "Where the log is kept, if not within the data directory.",
            ),
            works(
                "snapshot-count",
                Unsigned,
                "10000",
                "Applied entries between two compactions of the log.",
            ),
            works(
                "snapshot-catchup-entries",
                Unsigned,
                "5000",
                "Entries kept for slow members when the log is compacted.",
            ),
            works(
                "heartbeat-interval",
                Unsigned,
                "100",
                "Time between two heartbeats, in milliseconds.",
            ),
            works(
                "election-timeout",
                Unsigned,
                "1000",
                "Time without a leader until an election, in milliseconds.",
            ),
            works(
                "initial-election-tick-advance",
                Bool,
                "true",
                "Shorten the first election timeout after a start.",
            ),
            works(
                "listen-peer-urls",
                Urls,
                "http://localhost:2380",
                "Where to listen for other members.",
            ),
            works(
                "listen-client-urls",
                Urls,
                "http://localhost:2379",
                "Where to listen for clients, gRPC and HTTP.",
            ),
            inert("listen-client-http-urls", Urls, ""),
            inert("listen-metrics-urls", Urls, ""),
            inert("max-wals", Unsigned, "5"),
            inert("memory-mlock", Bool, "false"),
        ],
    ),
    (
        "Limits",
        &[
            works(
                "quota-backend-bytes",
                Signed,
                "0",
                "Largest size of live data; 0 means 2 GiB, less than 0 no limit.",
            ),
            works(
                "quota-alarm-clear",
                Text,
                "auto",
                "Who clears the NOSPACE alarm: the server when there is space again, or manual.",
            ),
            works(
                "max-txn-ops",
                Unsigned,
                "128",
                "Operations in one transaction.",
            ),
            works(
                "max-request-bytes",
                Unsigned,
                "1572864",
                "Bytes of one request.",
            ),
            works(
                "max-concurrent-streams",
                Unsigned,
                "4294967295",
                "Streams one client connection may hold open.",
            ),
            inert("grpc-keepalive-min-time", Duration, "5s"),
            works(
                "grpc-keepalive-interval",
                Duration,
                "2h",
                "Time after which an idle client is pinged; 0 means never.",
            ),
            works(
                "grpc-keepalive-timeout",
                Duration,
                "20s",
                "Time a pinged client has to answer.",
            ),
            works(
                "max-learners",
                Signed,
                "1",
                "Learners the cluster may have at one time.",
            ),
        ],
    ),
    (
        "Storage",
        &[
            works(
                "backend-batch-interval",
                Duration,
                "0s",
                "Longest time until the backend commits; 0 means 100ms.",
            ),
            works(
                "backend-batch-limit",
                Signed,
                "0",
                "Operations until the backend commits; 0 means 10000.",
            ),
            inert("backend-bbolt-freelist-type", Text, "map"),
            works(
                "compaction-batch-limit",
                Signed,
                "1000",
                "Revisions one slice of a compaction looks at.",
            ),
            works(
                "compaction-sleep-interval",
                Duration,
                "10ms",
                "Pause between two slices of a compaction.",
            ),
            inert("bootstrap-defrag-threshold-megabytes", Unsigned, "0"),
            works(
                "auto-compaction-mode",
                Text,
                "periodic",
                "How the retention is meant: as a time (periodic) or a number of revisions.",
            ),
            works(
                "auto-compaction-retention",
                Text,
                "0",
                "History that is kept by itself; 0 keeps all. A bare number counts hours.",
            ),
        ],
    ),
    (
        "Clustering",
        &[
            works(
                "initial-advertise-peer-urls",
                Urls,
                "http://localhost:2380",
                "Where other members reach this one.",
            ),
            works(
                "advertise-client-urls",
                Urls,
                "http://localhost:2379",
                "Where clients reach this member.",
            ),
            works(
                "initial-cluster",
                Text,
                "",
                "Members of a new cluster: name=url,name=url,...",
            ),
            works("initial-cluster-state", Text, "new", "new or existing."),
            works(
                "initial-cluster-token",
                Text,
                "etcd-cluster",
                "Sets clusters apart whose members have the same URLs.",
            ),
            works(
                "pre-vote",
                Bool,
                "true",
                "Ask whether an election could be won before holding it.",
            ),
            works(
                "strict-reconfig-check",
                Bool,
                "true",
                "Refuse changes of the members that could cost the quorum.",
            ),
            refused("discovery", Text, ""),
            refused("discovery-token", Text, ""),
            refused("discovery-endpoints", List, ""),
            refused("discovery-srv", Text, ""),
            refused("discovery-srv-name", Text, ""),
            inert("discovery-dial-timeout", Duration, "2s"),
            inert("discovery-request-timeout", Duration, "5s"),
            inert("discovery-keepalive-time", Duration, "2s"),
            inert("discovery-keepalive-timeout", Duration, "6s"),
            inert("discovery-insecure-transport", Bool, "true"),
            inert("discovery-insecure-skip-tls-verify", Bool, "false"),
            inert("discovery-cert", Text, ""),
            inert("discovery-key", Text, ""),
            inert("discovery-cacert", Text, ""),
            inert("discovery-user", Text, ""),
            inert("discovery-password", Text, ""),
            inert("discovery-fallback", Text, "exit"),
            inert("discovery-proxy", Text, ""),
        ],
    ),
    (
        "Security",
        &[
            refused("cert-file", Text, ""),
            refused("key-file", Text, ""),
            refused("client-cert-file", Text, ""),
            refused("client-key-file", Text, ""),
            refused("client-cert-auth", Bool, "false"),
            refused("client-crl-file", Text, ""),
            refused("client-cert-allowed-hostname", List, ""),
            refused("trusted-ca-file", Text, ""),
            refused("auto-tls", Bool, "false"),
            refused("peer-cert-file", Text, ""),
            refused("peer-key-file", Text, ""),
            refused("peer-client-cert-file", Text, ""),
            refused("peer-client-key-file", Text, ""),
            refused("peer-client-cert-auth", Bool, "false"),
            refused("peer-trusted-ca-file", Text, ""),
            refused("peer-crl-file", Text, ""),
            refused("peer-cert-allowed-cn", List, ""),
            refused("peer-cert-allowed-hostname", List, ""),
            refused("peer-auto-tls", Bool, "false"),
            inert("peer-skip-client-san-verification", Bool, "false"),
            inert("self-signed-cert-validity", Unsigned, "1"),
            inert("cipher-suites", List, ""),
            inert("tls-min-version", Text, "TLS1.2"),
            inert("tls-max-version", Text, ""),
            inert("cors", List, "*"),
            inert("host-whitelist", List, "*"),
            inert("auth-token", Text, "simple"),
            inert("auth-token-ttl", Unsigned, "300"),
            inert("bcrypt-cost", Unsigned, "10"),
        ],
    ),
    (
        "Logging and monitoring",
        &[
            works(
                "log-level",
                Text,
                "info",
                "debug, info, warn, error, panic or fatal.",
            ),
            works("log-format", Text, "json", "json or console."),
            works(
                "log-outputs",
                List,
                "default",
                "default, stderr, stdout, or files, separated by commas.",
            ),
            inert("logger", Text, "zap"),
            inert("enable-log-rotation", Bool, "false"),
            inert("log-rotation-config-json", Text, ""),
            inert("metrics", Text, "basic"),
            inert("enable-pprof", Bool, "false"),
            inert("enable-grpc-gateway", Bool, "true"),
            inert("warning-apply-duration", Duration, "100ms"),
            inert("warning-unary-request-duration", Duration, "300ms"),
            inert("enable-distributed-tracing", Bool, "false"),
            inert("distributed-tracing-address", Text, "localhost:4317"),
            inert("distributed-tracing-service-name", Text, "etcd"),
            inert("distributed-tracing-instance-id", Text, ""),
            inert("distributed-tracing-sampling-rate", Signed, "0"),
        ],
    ),
    (
        "Features",
        &[
            works(
                "watch-progress-notify-interval",
                Duration,
                "10m",
                "Time between two progress notifications of a watch.",
            ),
            inert("feature-gates", Text, ""),
            inert("corrupt-check-time", Duration, "0s"),
            inert("compact-hash-check-time", Duration, "1m"),
            inert("downgrade-check-time", Duration, "5s"),
            inert("raft-read-timeout", Duration, "5s"),
            inert("raft-write-timeout", Duration, "5s"),
            inert("socket-reuse-port", Bool, "false"),
            inert("socket-reuse-address", Bool, "false"),
        ],
    ),
    (
        "Unsafe",
        &[
            works(
                "unsafe-no-fsync",
                Bool,
                "false",
                "Do not wait for the disk; a power failure then loses data.",
            ),
            refused("force-new-cluster", Bool, "false"),
        ],
    ),
    (
        "Others",
        &[
            refused("config-file", Text, ""),
            works("version", Bool, "false", "Print the version and exit."),
        ],
    ),
];

/// The flag of a name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// Every flag.
pub(super) fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|(_, flags)| flags.iter())
}
