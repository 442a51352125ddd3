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
    /// A whole number of 32 bits, zero or more.
    Unsigned32,
    /// A whole number.
    Signed,
    /// Numbers with units, such as `1m30s`.
    Duration,
    /// URLs, separated by commas.
    Urls,
    /// URLs, separated by commas, or `*`.
    Origins,
    /// Texts, separated by commas.
    List,
    /// `Name=true,Name=false`.
    Gates,
    /// `new` or `existing`.
    State,
    /// `exit`, or what was `proxy` once.
    Fallback,
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
    /// A name of former versions for another flag.
    Alias(&'static str),
    /// A flag of former versions that became a feature gate.
    Gate(&'static str),
    /// A flag of former versions that asks for nothing any more.
    Gone,
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

impl Flag {
    /// Whether it is a name of former versions only.
    pub fn is_former(&self) -> bool {
        matches!(self.used, Use::Alias(_) | Use::Gate(_) | Use::Gone)
    }
}

use Kind::{
    Bool, Duration, Fallback, Gates, List, Origins, Signed, State, Text, Unsigned, Unsigned32, Urls,
};
use Use::{Alias, Gate, Gone, Inert, Refused, Works};

/// Rows of the table, one a line.
macro_rules! table {
    ($($group:literal { $($used:expr, $kind:ident, $name:literal, $default:literal, $help:literal;)* })*) => {
        /// Every flag, in groups.
        pub(super) const GROUPS: &[(&str, &[Flag])] = &[$(($group, &[$(
            Flag { name: $name, kind: $kind, default: $default, used: $used, help: $help },
        )*])),*];
    };
}

table! {
    "Member" {
        Works, Text, "name", "default", "Name of this member, as in --initial-cluster.";
        Works, Text, "data-dir", "", "Where data is kept; ${name}.fated when not given.";
        Works, Text, "wal-dir", "", "Where the log is kept, if not within the data directory.";
        Works, Unsigned, "snapshot-count", "10000", "Applied entries between two compactions of the log.";
        Works, Unsigned, "snapshot-catchup-entries", "5000", "Entries kept for slow members when the log is compacted.";
        Works, Unsigned, "heartbeat-interval", "100", "Time between two heartbeats, in milliseconds.";
        Works, Unsigned, "election-timeout", "1000", "Time without a leader until an election, in milliseconds.";
        Works, Bool, "initial-election-tick-advance", "true", "Shorten the first election timeout after a start.";
        Works, Urls, "listen-peer-urls", "http://localhost:2380", "Where to listen for other members.";
        Works, Urls, "listen-client-urls", "http://localhost:2379", "Where to listen for clients, gRPC and HTTP.";
        Works, Urls, "listen-client-http-urls", "", "Where to listen for HTTP alone; --listen-client-urls then speak gRPC only.";
        Works, Urls, "listen-metrics-urls", "", "Where else to listen for /metrics and the health checks.";
        Inert, Unsigned, "max-wals", "5", "Log files to keep; here the log keeps what it needs.";
        Works, Bool, "memory-mlock", "false", "Keep the store's pages in memory.";
    }
    "Limits" {
        Works, Signed, "quota-backend-bytes", "0", "Largest size of live data; 0 means 2 GiB, less than 0 no limit.";
        Works, Text, "quota-alarm-clear", "auto", "Who clears the NOSPACE alarm: auto (when there is space again) or manual.";
        Works, Unsigned, "max-txn-ops", "128", "Operations in one transaction.";
        Works, Unsigned, "max-request-bytes", "1572864", "Bytes of one request.";
        Works, Unsigned32, "max-concurrent-streams", "4294967295", "Streams one client connection may hold open.";
        Works, Duration, "grpc-keepalive-min-time", "5s", "Shortest time between two pings of a client; 0 means 5m.";
        Works, Duration, "grpc-keepalive-interval", "2h", "Time after which an idle client is pinged; 0 means never.";
        Works, Duration, "grpc-keepalive-timeout", "20s", "Time a pinged client has to answer.";
        Works, Signed, "max-learners", "1", "Learners the cluster may have at one time.";
    }
    "Storage" {
        Works, Duration, "backend-batch-interval", "0s", "Longest time until the backend commits; 0 means 100ms.";
        Works, Signed, "backend-batch-limit", "0", "Operations until the backend commits; 0 means 10000.";
        Inert, Text, "backend-bbolt-freelist-type", "map", "There is no bbolt here.";
        Works, Signed, "compaction-batch-limit", "1000", "Revisions one slice of a compaction looks at.";
        Works, Duration, "compaction-sleep-interval", "10ms", "Pause between two slices of a compaction.";
        Works, Unsigned, "bootstrap-defrag-threshold-megabytes", "0", "Defragment at the start if this much would be freed.";
        Works, Text, "auto-compaction-mode", "periodic", "periodic or revision.";
        Works, Text, "auto-compaction-retention", "0", "History to keep: a time (a bare number counts hours) or revisions; 0 means all.";
    }
    "Clustering" {
        Works, Urls, "initial-advertise-peer-urls", "http://localhost:2380", "Where other members reach this one.";
        Works, Urls, "advertise-client-urls", "http://localhost:2379", "Where clients reach this member.";
        Works, Text, "initial-cluster", "", "Members of a new cluster: name=url,name=url,...";
        Works, State, "initial-cluster-state", "new", "new or existing.";
        Works, Text, "initial-cluster-token", "etcd-cluster", "Sets clusters apart whose members have the same URLs.";
        Works, List, "join", "", "Client URLs of members of a running cluster: has this member added as a learner, which votes once it has caught up.";
        Works, Bool, "pre-vote", "true", "Ask whether an election could be won before holding it.";
        Works, Bool, "strict-reconfig-check", "true", "Refuse changes of the members that could cost the quorum.";
        Works, Text, "discovery-token", "", "The cluster's token at the discovery service.";
        Works, List, "discovery-endpoints", "", "Client URLs of the discovery service, which is another cluster.";
        Works, Duration, "discovery-dial-timeout", "2s", "Time to connect to the discovery service.";
        Works, Duration, "discovery-request-timeout", "5s", "Time for a request to the discovery service.";
        Works, Duration, "discovery-keepalive-time", "2s", "Time between pings to the discovery service.";
        Works, Duration, "discovery-keepalive-timeout", "6s", "Time the discovery service has to answer a ping.";
        Refused, Bool, "discovery-insecure-transport", "true", "Speak plain text to the discovery service.";
        Inert, Bool, "discovery-insecure-skip-tls-verify", "false", "Do not verify the discovery service.";
        Refused, Text, "discovery-cert", "", "Certificate for the discovery service.";
        Refused, Text, "discovery-key", "", "Key for the discovery service.";
        Refused, Text, "discovery-cacert", "", "CA of the discovery service.";
        Works, Text, "discovery-user", "", "User at the discovery service: name[:password].";
        Works, Text, "discovery-password", "", "Password at the discovery service.";
        Works, Fallback, "discovery-fallback", "exit", "exit.";
        Works, Text, "discovery-srv", "", "Domain whose SRV records name the members of a new cluster.";
        Works, Text, "discovery-srv-name", "", "Suffix of the service's name in the SRV records.";
        Works, Text, "discovery-srv-resolver", "", "DNS server to ask, host:port; those of the system when not given.";
    }
    "Security" {
        Refused, Text, "cert-file", "", "Certificate shown to clients.";
        Refused, Text, "key-file", "", "Key of --cert-file.";
        Refused, Text, "client-cert-file", "", "Certificate shown as a client.";
        Refused, Text, "client-key-file", "", "Key of --client-cert-file.";
        Refused, Bool, "client-cert-auth", "false", "Ask clients for certificates.";
        Refused, Text, "client-crl-file", "", "Revoked certificates of clients.";
        Refused, List, "client-cert-allowed-hostname", "", "Names that certificates of clients may carry.";
        Refused, Text, "trusted-ca-file", "", "CA of the clients.";
        Refused, Bool, "auto-tls", "false", "Make a certificate for clients.";
        Refused, Text, "peer-cert-file", "", "Certificate shown to members.";
        Refused, Text, "peer-key-file", "", "Key of --peer-cert-file.";
        Refused, Text, "peer-client-cert-file", "", "Certificate shown to members as a client.";
        Refused, Text, "peer-client-key-file", "", "Key of --peer-client-cert-file.";
        Refused, Bool, "peer-client-cert-auth", "false", "Ask members for certificates.";
        Refused, Text, "peer-trusted-ca-file", "", "CA of the members.";
        Refused, Text, "peer-crl-file", "", "Revoked certificates of members.";
        Refused, List, "peer-cert-allowed-cn", "", "Common names that certificates of members may carry.";
        Refused, List, "peer-cert-allowed-hostname", "", "Names that certificates of members may carry.";
        Refused, Bool, "peer-auto-tls", "false", "Make a certificate for members.";
        Inert, Bool, "peer-skip-client-san-verification", "false", "Do not check names in certificates of members.";
        Inert, Unsigned, "self-signed-cert-validity", "1", "Years a certificate made here is valid.";
        Inert, List, "cipher-suites", "", "Ciphers of TLS.";
        Inert, Text, "tls-min-version", "TLS1.2", "TLS1.2 or TLS1.3.";
        Inert, Text, "tls-max-version", "", "TLS1.2 or TLS1.3.";
        Works, Origins, "cors", "*", "Origins whose pages may read answers.";
        Works, List, "host-whitelist", "*", "Host names by which HTTP clients may call.";
        Inert, Text, "auth-token", "simple", "simple, or jwt with its options.";
        Inert, Unsigned, "auth-token-ttl", "300", "Seconds a simple token lives.";
        Inert, Unsigned, "bcrypt-cost", "10", "Cost of hashing a password.";
    }
    "Logging and monitoring" {
        Works, Text, "logger", "zap", "zap.";
        Works, Text, "log-level", "info", "debug, info, warn, error, panic or fatal.";
        Works, Text, "log-format", "json", "json or console.";
        Works, List, "log-outputs", "default", "default, stderr, stdout, systemd/journal, or files, separated by commas.";
        Works, Bool, "enable-log-rotation", "false", "Begin the file of --log-outputs anew as --log-rotation-config-json says.";
        Works, Text, "log-rotation-config-json", r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, "MiB of a file, days and number of old ones, local time in their names, gzip.";
        Works, Text, "metrics", "basic", "basic, or extensive for the durations of RPCs as well.";
        Inert, Bool, "enable-pprof", "false", "There is no Go runtime to profile here.";
        Works, Bool, "enable-grpc-gateway", "true", "Serve the JSON gateway.";
        Works, Duration, "warning-apply-duration", "100ms", "Steps that take longer to apply what they bring are logged.";
        Works, Duration, "warning-unary-request-duration", "300ms", "Requests that take longer to answer are logged.";
        Works, Bool, "enable-distributed-tracing", "false", "Send traces by OpenTelemetry.";
        Works, Text, "distributed-tracing-address", "localhost:4317", "Where traces go.";
        Works, Text, "distributed-tracing-service-name", "etcd", "Name of the service in traces.";
        Works, Text, "distributed-tracing-instance-id", "", "Name of this member in traces.";
        Works, Signed, "distributed-tracing-sampling-rate", "0", "Requests traced out of a million.";
    }
    "Features" {
        Works, Gates, "feature-gates", "", "Name=true,Name=false,...";
        Works, Duration, "watch-progress-notify-interval", "10m", "Time between two progress notifications of a watch.";
        Inert, Duration, "corrupt-check-time", "0s", "Time between two checks of all members for corruption.";
        Inert, Duration, "compact-hash-check-time", "1m", "Time between two comparisons of the members' hashes.";
        Inert, Duration, "downgrade-check-time", "5s", "Time between two looks at a downgrade.";
        Inert, Duration, "raft-read-timeout", "5s", "Time to read from a member.";
        Inert, Duration, "raft-write-timeout", "5s", "Time to write to a member.";
        Works, Bool, "socket-reuse-port", "false", "Let other processes listen on the same ports.";
        Works, Bool, "socket-reuse-address", "false", "Listen on addresses whose connections are not forgotten yet.";
    }
    "Unsafe" {
        Works, Bool, "unsafe-no-fsync", "false", "Do not wait for the disk; a power failure then loses data.";
        Works, Bool, "force-new-cluster", "false", "Be a cluster of one with the data of this member: all others are removed. Only when they are lost for ever.";
    }
    "Others" {
        Works, Text, "config-file", "", "Read all this from a file; other flags and variables are ignored then.";
        Works, Bool, "version", "false", "Print the version and exit.";
    }
    "Of former versions" {
        Gate("InitialCorruptCheck"), Bool, "experimental-initial-corrupt-check", "false", "";
        Gate("CompactHashCheck"), Bool, "experimental-compact-hash-check-enabled", "false", "";
        Gate("LeaseCheckpoint"), Bool, "experimental-enable-lease-checkpoint", "false", "";
        Gate("LeaseCheckpointPersist"), Bool, "experimental-enable-lease-checkpoint-persist", "false", "";
        Gate("StopGRPCServiceOnDefrag"), Bool, "experimental-stop-grpc-service-on-defrag", "false", "";
        Gate("TxnModeWriteWithSharedBuffer"), Bool, "experimental-txn-mode-write-with-shared-buffer", "true", "";
        Gate("SetMemberLocalAddr"), Bool, "experimental-set-member-localaddr", "false", "";
        Alias("corrupt-check-time"), Duration, "experimental-corrupt-check-time", "0s", "";
        Alias("compact-hash-check-time"), Duration, "experimental-compact-hash-check-time", "1m", "";
        Alias("compaction-batch-limit"), Signed, "experimental-compaction-batch-limit", "1000", "";
        Alias("compaction-sleep-interval"), Duration, "experimental-compaction-sleep-interval", "10ms", "";
        Alias("watch-progress-notify-interval"), Duration, "experimental-watch-progress-notify-interval", "10m", "";
        Alias("downgrade-check-time"), Duration, "experimental-downgrade-check-time", "5s", "";
        Alias("warning-apply-duration"), Duration, "experimental-warning-apply-duration", "100ms", "";
        Alias("warning-unary-request-duration"), Duration, "experimental-warning-unary-request-duration", "300ms", "";
        Alias("memory-mlock"), Bool, "experimental-memory-mlock", "false", "";
        Alias("bootstrap-defrag-threshold-megabytes"), Unsigned, "experimental-bootstrap-defrag-threshold-megabytes", "0", "";
        Alias("max-learners"), Signed, "experimental-max-learners", "1", "";
        Alias("snapshot-catchup-entries"), Unsigned, "experimental-snapshot-catchup-entries", "5000", "";
        Alias("peer-skip-client-san-verification"), Bool, "experimental-peer-skip-client-san-verification", "false", "";
        Alias("backend-bbolt-freelist-type"), Text, "experimental-backend-bbolt-freelist-type", "map", "";
        Alias("enable-distributed-tracing"), Bool, "experimental-enable-distributed-tracing", "false", "";
        Alias("distributed-tracing-address"), Text, "experimental-distributed-tracing-address", "localhost:4317", "";
        Alias("distributed-tracing-service-name"), Text, "experimental-distributed-tracing-service-name", "etcd", "";
        Alias("distributed-tracing-instance-id"), Text, "experimental-distributed-tracing-instance-id", "", "";
        Alias("distributed-tracing-sampling-rate"), Signed, "experimental-distributed-tracing-sampling-rate", "0", "";
        Refused, Bool, "enable-v2", "false", "The API of version 2 is gone.";
        Refused, Text, "discovery", "", "Discovery of version 2 is gone.";
        Gone, Text, "discovery-proxy", "", "";
        Gone, Text, "v2-deprecation", "", "";
        Gone, Text, "proxy", "off", "";
        Gone, Unsigned, "proxy-failure-wait", "5000", "";
        Gone, Unsigned, "proxy-refresh-interval", "30000", "";
        Gone, Unsigned, "proxy-dial-timeout", "1000", "";
        Gone, Unsigned, "proxy-write-timeout", "5000", "";
        Gone, Unsigned, "proxy-read-timeout", "0", "";
        Gone, Bool, "cluster-active-size", "", "";
        Gone, Bool, "cluster-remove-delay", "", "";
        Gone, Bool, "cluster-sync-interval", "", "";
        Gone, Bool, "config", "", "";
        Gone, Bool, "force", "", "";
        Gone, Bool, "max-result-buffer", "", "";
        Gone, Bool, "max-retry-attempts", "", "";
        Gone, Bool, "peer-heartbeat-interval", "", "";
        Gone, Bool, "peer-election-timeout", "", "";
        Gone, Bool, "retry-interval", "", "";
        Gone, Bool, "snapshot", "", "";
        Gone, Bool, "v", "", "";
        Gone, Bool, "vv", "", "";
    }
}

/// The flag of a name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// Every flag.
pub(super) fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|(_, flags)| flags.iter())
}
