//! The configuration of a server, made from flags and checked by etcd's rules in etcd's words.

use std::{path::PathBuf, time::Duration};

use super::{
    args::Args,
    bootstrap::Bootstrap,
    settings::{AutoCompaction, HttpSettings, Settings},
    urls::Url,
    values,
};
use crate::{
    api::EdgeLimits,
    kernel::limits,
    node::{
        NodeConfig,
        upkeep::{self, compaction::REVISION_EVERY},
    },
};

/// The etcd version whose behaviour we follow.
pub const ETCD_VERSION: &str = "3.7.1";

const ELECTION_MILLIS_MAX: u64 = 50_000;
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The answer to a request may take this long, and two elections, before a health check gives up.
const HEALTH_BASE: Duration = Duration::from_secs(5);

/// Whether a cluster is founded or joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterState {
    /// A new cluster.
    New,
    /// One that exists.
    Existing,
}

/// Everything a server needs to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    /// Where data is kept.
    pub data_dir: PathBuf,
    /// Where the log is kept.
    pub wal_dir: PathBuf,
    /// Where to listen for members.
    pub listen_peer: Vec<Url>,
    /// Where to listen for clients.
    pub listen_client: Vec<Url>,
    /// Where members reach this one.
    pub advertise_peer: Vec<Url>,
    /// Where clients reach this member.
    pub advertise_client: Vec<Url>,
    /// Where the founders of a new cluster are named.
    pub bootstrap: Bootstrap,
    /// `name=url,name=url`.
    pub initial_cluster: String,
    /// New or existing.
    pub cluster_state: ClusterState,
    /// Client URLs of a cluster to join; none where `initial_cluster` counts.
    pub join: Vec<Url>,
    /// Goes into the ids of a new cluster.
    pub token: String,
    /// Whether the disk is waited for.
    pub fsync: bool,
    /// What the core is told; ids and members are filled in at boot.
    pub node: NodeConfig,
    /// What the edge is told.
    pub edge: EdgeLimits,
    /// Everything beside the core.
    pub settings: Settings,
}

impl ServerConfig {
    /// Checks what was given. Needs nothing but the arguments, so that every rule can be tested.
    pub fn from_args(args: &Args) -> Result<Self, String> {
        let listen_peer = urls(args, "listen-peer-urls")?;
        let listen_client = urls(args, "listen-client-urls")?;
        for url in listen_peer.iter().chain(&listen_client) {
            url.check_bind()?;
        }
        let advertise_peer = advertised(args, "initial-advertise-peer-urls", "\"host:port\"")?;
        let form = "in the format \"host:port\", \"unix:/path/to/socket\" or \
                    \"unixs:/path/to/socket\"";
        let advertise_client = advertised(args, "advertise-client-urls", form)?;
        let cluster_state = match args.text("initial-cluster-state") {
            "new" => ClusterState::New,
            "existing" => ClusterState::Existing,
            other => return Err(format!("unexpected clusterState {other:?}")),
        };
        let join = join_urls(args)?;
        check_timing(args)?;
        let unadvertised =
            args.is_set("listen-client-urls") && !args.is_set("advertise-client-urls");
        // In a file etcd lets the default stand.
        if unadvertised && args.file.is_none() {
            return Err(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                    .to_owned(),
            );
        }
        let settings = Settings::from_args(args)?;
        let listen_http = &settings.http.listen;
        refuse_shared(&listen_client, listen_http)?;
        let sockets = [
            &listen_peer,
            &listen_client,
            &advertise_peer,
            &join,
            listen_http,
        ];
        refuse_tls(sockets.into_iter().flatten())?;
        let name = args.text("name");
        let data_dir = match args.text("data-dir") {
            "" => PathBuf::from(format!("{name}.fated")),
            given => PathBuf::from(given),
        };
        let wal_dir = match args.text("wal-dir") {
            "" => data_dir.join("member").join("wal"),
            given => PathBuf::from(given),
        };
        let initial_cluster = match args.text("initial-cluster") {
            "" => own_cluster(name, &advertise_peer),
            given => given.to_owned(),
        };
        Ok(Self {
            data_dir,
            wal_dir,
            node: node_config(args, &advertise_client, &settings)?,
            edge: edge_limits(args, &settings.http)?,
            listen_peer,
            listen_client,
            advertise_peer,
            advertise_client,
            bootstrap: Bootstrap::from_args(args)?,
            initial_cluster,
            cluster_state,
            join,
            token: args.text("initial-cluster-token").to_owned(),
            fsync: !args.bool("unsafe-no-fsync"),
            settings,
        })
    }
}

fn urls(args: &Args, name: &str) -> Result<Vec<Url>, String> {
    values::urls(args.text(name)).map_err(|reason| format!("--{name}: {reason}"))
}

/// Where to join. What else would say who the members are contradicts it.
fn join_urls(args: &Args) -> Result<Vec<Url>, String> {
    if args.text("join").is_empty() {
        return Ok(Vec::new());
    }
    if args.bool("force-new-cluster") {
        let text = "--join and --force-new-cluster exclude each other: a member goes on alone with \
                    the data it has, or joins others without any; remove one of the two flags";
        return Err(text.to_owned());
    }
    let others = [
        "initial-cluster",
        "initial-cluster-state",
        "discovery-srv",
        "discovery-endpoints",
    ];
    for other in others {
        if args.is_set(other) {
            return Err(format!(
                "--join and --{other} exclude each other: whom to join is asked of the members at \
                 the URLs of --join; remove one of the two flags"
            ));
        }
    }
    let join = urls(args, "join")?;
    match join.iter().find(|url| !url.is_tcp()) {
        None => Ok(join),
        Some(url) => Err(format!("--join: {url}: members are asked by http:// only")),
    }
}

fn advertised(args: &Args, name: &str, form: &str) -> Result<Vec<Url>, String> {
    let urls = urls(args, name)?;
    for url in &urls {
        url.check_advertised().map_err(|reason| {
            let given = args.text(name);
            format!("--{name} {given:?} must be {form} ({reason})")
        })?;
    }
    Ok(urls)
}

/// `name=url,name=url` of this member alone, as etcd makes it up when nothing was given.
pub(super) fn own_cluster(name: &str, advertise_peer: &[Url]) -> String {
    let parts: Vec<String> = advertise_peer
        .iter()
        .map(|url| format!("{name}={url}"))
        .collect();
    parts.join(",")
}

fn check_timing(args: &Args) -> Result<(), String> {
    let heartbeat = args.unsigned("heartbeat-interval");
    let election = args.unsigned("election-timeout");
    for (name, value) in [
        ("heartbeat-interval", heartbeat),
        ("election-timeout", election),
    ] {
        if value == 0 {
            return Err(format!("--{name} must be >0 (set to {value}ms)"));
        }
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as \
             --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > ELECTION_MILLIS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than \
             {ELECTION_MILLIS_MAX}ms"
        ));
    }
    Ok(())
}

/// Serving plain text where TLS was asked for would be worse than not serving.
fn refuse_tls<'a>(mut urls: impl Iterator<Item = &'a Url>) -> Result<(), String> {
    match urls.find(|url| url.is_secure()) {
        None => Ok(()),
        Some(url) => Err(format!(
            "{url}: TLS is not supported by this version; use http://"
        )),
    }
}

/// One socket serves all or HTTP alone.
fn refuse_shared(clients: &[Url], http: &[Url]) -> Result<(), String> {
    let same = |url: &&Url| clients.iter().any(|client| client.address == url.address);
    match http.iter().find(same) {
        None => Ok(()),
        Some(url) => Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url \
             {url}"
        )),
    }
}

fn node_config(
    args: &Args,
    advertise_client: &[Url],
    settings: &Settings,
) -> Result<NodeConfig, String> {
    let standard = NodeConfig::default();
    let batch_interval = match args.duration("backend-batch-interval") {
        Duration::ZERO => standard.batch_interval,
        given => given,
    };
    let batch_operations_max = match args.signed("backend-batch-limit") {
        0 => standard.batch_operations_max,
        given => positive("backend-batch-limit", given)?,
    };
    let quota_bytes = match args.signed("quota-backend-bytes") {
        0 => standard.quota_bytes,
        given => given,
    };
    Ok(NodeConfig {
        name: args.text("name").to_owned(),
        client_urls: advertise_client.iter().map(Url::to_string).collect(),
        heartbeat: Duration::from_millis(args.unsigned("heartbeat-interval")),
        election: Duration::from_millis(args.unsigned("election-timeout")),
        pre_vote: args.bool("pre-vote"),
        strict_reconfig: args.bool("strict-reconfig-check"),
        force_new_cluster: args.bool("force-new-cluster"),
        promote_itself: !args.text("join").is_empty(),
        learners_max: positive("max-learners", args.signed("max-learners"))?,
        advance_ticks: args.bool("initial-election-tick-advance"),
        snapshot_count: args.unsigned("snapshot-count"),
        catchup_entries: args.unsigned("snapshot-catchup-entries"),
        request_bytes_max: request_bytes(args)?,
        txn_ops_max: size("max-txn-ops", args.unsigned("max-txn-ops"))?,
        batch_interval,
        batch_operations_max,
        compaction_slice: positive(
            "compaction-batch-limit",
            args.signed("compaction-batch-limit"),
        )?,
        compaction_pause: args.duration("compaction-sleep-interval"),
        slow_apply: args.duration("warning-apply-duration"),
        progress_interval: progress_interval(args.duration("watch-progress-notify-interval")),
        quota_bytes,
        quota_alarm_clears: quota_alarm_clears(args)?,
        auto_compaction: auto_compaction(settings.auto_compaction),
        version: ETCD_VERSION.to_owned(),
        ..standard
    })
}

/// Who clears the NOSPACE alarm: this member when there is space again, or an operator.
fn quota_alarm_clears(args: &Args) -> Result<bool, String> {
    match args.text("quota-alarm-clear") {
        "auto" => Ok(true),
        "manual" => Ok(false),
        other => Err(format!(
            "--quota-alarm-clear is \"auto\" or \"manual\" (set to {other:?})"
        )),
    }
}

fn auto_compaction(given: AutoCompaction) -> Option<upkeep::AutoCompaction> {
    match given {
        AutoCompaction::Off => None,
        AutoCompaction::Periodic(keep) => Some(upkeep::AutoCompaction::Periodic { keep }),
        AutoCompaction::Revision(keep) => Some(upkeep::AutoCompaction::Revision {
            keep: i64::try_from(keep).unwrap_or(i64::MAX),
            every: REVISION_EVERY,
        }),
    }
}

/// etcd lifts shorter intervals to its minimum, and takes zero for its default.
fn progress_interval(given: Duration) -> Duration {
    match given {
        Duration::ZERO => Duration::from_secs(600),
        given => given.max(PROGRESS_INTERVAL_MIN),
    }
}

fn edge_limits(args: &Args, http: &HttpSettings) -> Result<EdgeLimits, String> {
    let election = Duration::from_millis(args.unsigned("election-timeout"));
    let streams = args.unsigned("max-concurrent-streams");
    let interval = args.duration("grpc-keepalive-interval");
    let timeout = args.duration("grpc-keepalive-timeout");
    let pings = !interval.is_zero() && !timeout.is_zero();
    Ok(EdgeLimits {
        request_bytes_max: request_bytes(args)?,
        txn_ops_max: size("max-txn-ops", args.unsigned("max-txn-ops"))?,
        streams_max: u32::try_from(streams).expect("checked when it was read"),
        keepalive_min_time: match args.duration("grpc-keepalive-min-time") {
            Duration::ZERO => Duration::from_secs(5 * 60),
            given => given,
        },
        keepalive_interval: pings.then_some(interval),
        keepalive_timeout: timeout,
        health_timeout: HEALTH_BASE + 2 * election,
        version: ETCD_VERSION.to_owned(),
        gateway: http.gateway,
        cors: http.cors.clone(),
        host_whitelist: http.host_whitelist.clone(),
    })
}

/// A request must fit into one frame between members.
fn request_bytes(args: &Args) -> Result<usize, String> {
    let most = limits::FRAME_BYTES_MAX - limits::REQUEST_OVERHEAD_BYTES - 1;
    let given = size("max-request-bytes", args.unsigned("max-request-bytes"))?;
    if given > most {
        return Err(format!(
            "--max-request-bytes must be at most {most} (set to {given})"
        ));
    }
    Ok(given)
}

fn positive(name: &str, value: i64) -> Result<usize, String> {
    match usize::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        Ok(_) | Err(_) => Err(format!("--{name} must be >0 (set to {value})")),
    }
}

fn size(name: &str, value: u64) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| format!("--{name} is too large (set to {value})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<ServerConfig, String> {
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        ServerConfig::from_args(&Args::parse(arguments, []).unwrap())
    }

    #[test]
    fn joining_excludes_what_would_contradict_it() {
        let joins = config(&["--join=http://a:1,http://b:2"]).unwrap();
        assert_eq!(joins.join.len(), 2);
        assert!(joins.node.promote_itself);
        assert!(!config(&[]).unwrap().node.promote_itself);
        for (arguments, reason) in [
            (
                &["--join=http://a:1", "--initial-cluster=default=http://h:1"][..],
                "--join and --initial-cluster exclude each other",
            ),
            (
                &["--join=http://a:1", "--initial-cluster-state=existing"],
                "--join and --initial-cluster-state exclude each other",
            ),
            (
                &["--join=http://a:1", "--force-new-cluster"],
                "--join and --force-new-cluster exclude each other",
            ),
            (&["--join=a:1"], "--join: URL scheme must be"),
            (&["--join=unix:///s"], "by http:// only"),
        ] {
            let refused = config(arguments).unwrap_err();
            assert!(refused.contains(reason), "{arguments:?}: {refused}");
        }
    }

    #[test]
    fn defaults_are_etcds() {
        let config = config(&[]).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("default.fated"));
        assert_eq!(config.wal_dir, PathBuf::from("default.fated/member/wal"));
        assert_eq!(config.initial_cluster, "default=http://localhost:2380");
        assert_eq!(config.node.client_urls, ["http://localhost:2379"]);
        assert!(config.fsync);
        let standard = NodeConfig {
            client_urls: vec!["http://localhost:2379".to_owned()],
            ..Default::default()
        };
        assert_eq!(config.node, standard);
        assert_eq!(config.edge, EdgeLimits::default());
    }

    #[test]
    fn what_is_given_arrives() {
        let config = config(&[
            "--name=a",
            "--data-dir=/d",
            "--initial-advertise-peer-urls=http://h1:1,http://h2:2",
            "--listen-client-urls=unix:///s,http://0.0.0.0:9",
            "--advertise-client-urls=http://h1:9",
            "--quota-backend-bytes=-1",
            "--quota-alarm-clear=manual",
            "--auto-compaction-mode=revision",
            "--auto-compaction-retention=1000",
            "--heartbeat-interval=10",
            "--election-timeout=50",
            "--watch-progress-notify-interval=10ms",
            "--grpc-keepalive-timeout=0",
            "--max-request-bytes=10485760",
            "--unsafe-no-fsync",
            "--initial-cluster-state=existing",
        ])
        .unwrap();
        assert_eq!(config.initial_cluster, "a=http://h1:1,a=http://h2:2");
        assert_eq!(config.wal_dir, PathBuf::from("/d/member/wal"));
        assert_eq!(config.node.quota_bytes, -1);
        assert!(!config.node.quota_alarm_clears);
        let every = REVISION_EVERY;
        let kept = upkeep::AutoCompaction::Revision { keep: 1000, every };
        assert_eq!(config.node.auto_compaction, Some(kept));
        assert_eq!(config.node.election, Duration::from_millis(50));
        assert_eq!(config.node.progress_interval, PROGRESS_INTERVAL_MIN);
        assert_eq!(config.edge.keepalive_interval, None);
        assert_eq!(config.edge.request_bytes_max, 10 * 1024 * 1024);
        assert!(!config.fsync);
        assert_eq!(config.cluster_state, ClusterState::Existing);
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_reason() {
        let cases: [(&[&str], &str); 13] = [
            (
                &["--heartbeat-interval=0"],
                "--heartbeat-interval must be >0 (set to 0ms)",
            ),
            (
                &["--election-timeout=0"],
                "--election-timeout must be >0 (set to 0ms)",
            ),
            (
                &["--heartbeat-interval=201"],
                "--election-timeout[1000ms] should be at least as 5 times as \
                 --heartbeat-interval[201ms]",
            ),
            (
                &["--election-timeout=50001"],
                "should be set less than 50000ms",
            ),
            (
                &["--listen-client-urls=http://localhost:1"],
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            ),
            (
                &["--listen-peer-urls=http://example.com:1"],
                "expected IP in URL for binding",
            ),
            (
                &["--listen-peer-urls=https://localhost:1"],
                "TLS is not supported",
            ),
            (&["--listen-peer-urls=unixs:///s"], "TLS is not supported"),
            (
                &["--advertise-client-urls=http://:1"],
                "unexpected empty host",
            ),
            (&["--quota-alarm-clear=never"], "\"auto\" or \"manual\""),
            (
                &["--backend-batch-limit=-3"],
                "--backend-batch-limit must be >0",
            ),
            (
                &["--compaction-batch-limit=0"],
                "--compaction-batch-limit must be >0",
            ),
            (
                &["--max-request-bytes=99999999999"],
                "--max-request-bytes must be at most",
            ),
        ];
        for (arguments, expected) in cases {
            let refused = config(arguments).unwrap_err();
            assert!(refused.contains(expected), "{arguments:?}: {refused}");
        }
    }
}
