//! Runs a server from its command line to its end.

use std::{io::Write, net::IpAddr, process::ExitCode, sync::Arc, time::Duration};

use prometheus::Registry;
use prost::Message;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use super::{
    args::{Args, Stop},
    boot::{self, Booted},
    config::{self, ServerConfig},
    listen, logging, telling,
    urls::Url,
};
use crate::{
    api::{
        Handle,
        metrics::{Detail, FEATURES, Feature, Instruments},
        serve::{Listener, Service, Traffic},
    },
    host::tokio::{
        Answers, TokioHost, events,
        links::{Directory, Identity, Links},
        log::Log,
        meter::Meter,
        signal,
        socket::PeerListener,
    },
    kernel::{ApiError, CallId, Credentials, Fault, Request, Response, StreamId, StreamItem},
    pb::etcdserverpb::MemberListRequest,
    reactor,
};

/// How long clients get to take their last answers. One that has gone to sleep uses all of it, and
/// the whole end must not take more than two seconds.
const GOODBYE: Duration = Duration::from_secs(1);
const CALLER: &str = "server/start.rs:0";

/// The whole program.
pub fn main() -> ExitCode {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let args = match Args::parse(arguments, variables) {
        Ok(args) => args,
        Err(Stop::Print(text)) => {
            // A reader that went away is no failure of ours.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(Stop::Usage(text)) => {
            eprint!("{text}");
            return ExitCode::from(2);
        }
        Err(Stop::Fatal(text)) => return refuse(&text),
    };
    #[cfg(feature = "failpoints")]
    if let Err(text) = super::failing::start() {
        return refuse(&text);
    }
    let opened = logging::log_config(&args).and_then(|log| {
        let opened = Log::open(log.level_min, log.format, &log.outputs);
        opened.map_err(|error| error.to_string())
    });
    let log = match opened {
        Ok(log) => log,
        Err(text) => return refuse(&text),
    };
    let code = match run(&args, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            log.error(CALLER, &text, &[]);
            ExitCode::FAILURE
        }
    };
    log.flush();
    code
}

/// Before there is a log, standard error is it.
fn refuse(text: &str) -> ExitCode {
    eprintln!("fated: {text}");
    ExitCode::FAILURE
}

fn run(args: &Args, log: &Log) -> Result<(), String> {
    tell_about_arguments(args, log);
    let args = &with_own_address(args, log);
    let config = ServerConfig::from_args(args)
        .map_err(|reason| format!("failed to verify flags: {reason}"))?;
    if config.settings.memory_lock {
        lock_memory()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    match runtime.block_on(serve(&config, log)) {
        Fault::Stopped => {
            log.info(CALLER, "closed the server", &[]);
            Ok(())
        }
        // What the operator asked for, and nothing that a restart would mend.
        Fault::Removed => {
            log.warn(CALLER, &Fault::Removed.to_string(), &[]);
            Ok(())
        }
        fault @ (Fault::Disk(_) | Fault::Log(_) | Fault::State(_)) => Err(fault.to_string()),
    }
}

/// Keeps every page that was touched in memory, those of the store among them.
fn lock_memory() -> Result<(), String> {
    use rustix::mm::{MlockAllFlags, mlockall};
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(all).map_err(|error| {
        format!(
            "--memory-mlock: cannot lock memory: {error}; raise the limit of locked memory \
             (ulimit -l, or LimitMEMLOCK=infinity), or remove the flag"
        )
    })
}

/// Who listens everywhere and says nothing else tells the others the address of this machine.
fn with_own_address(args: &Args, log: &Log) -> Args {
    let mut args = args.clone();
    let Some(port) = args.advertises_nowhere() else {
        return args;
    };
    match listen::own_address() {
        Some(host) => {
            let url = match host {
                IpAddr::V4(host) => format!("http://{host}:{port}"),
                IpAddr::V6(host) => format!("http://[{host}]:{port}"),
            };
            let host = json!(host.to_string());
            log.info(
                CALLER,
                "detected default host for advertise",
                &[("host", host)],
            );
            args.advertise_peer(url);
        }
        None => log.info(CALLER, "failed to detect default host", &[]),
    }
    args
}

fn tell_about_arguments(args: &Args, log: &Log) {
    if let Some(path) = &args.file {
        let story = "loaded server configuration, other configuration command line flags and \
                     environment variables will be ignored if provided";
        log.info(CALLER, story, &[("path", json!(path))]);
    }
    for key in &args.unknown_keys {
        log.warn(
            CALLER,
            "this key of the configuration file means nothing",
            &[("key", json!(key))],
        );
    }
    for (name, value) in &args.used_variables {
        let fields = [
            ("variable-name", json!(name)),
            ("variable-value", json!(value)),
        ];
        log.info(CALLER, "recognized and used environment variable", &fields);
    }
    for variable in &args.unknown_variables {
        let fields = [("environment-variable", json!(variable))];
        log.warn(CALLER, "unrecognized environment variable", &fields);
    }
    for (flag, story) in &args.former {
        let fields = [("flag-name", json!(flag)), ("instead", json!(story))];
        log.warn(CALLER, "flag of a former version", &fields);
    }
    let inert = args.inert();
    if !inert.is_empty() {
        let fields = [("flags", json!(inert))];
        log.warn(CALLER, "these flags have no effect yet", &fields);
    }
}

/// Serves until the member halts, and says why it did.
async fn serve(config: &ServerConfig, log: &Log) -> Fault {
    match start(config, log).await {
        Ok(fault) => fault,
        Err(fault) => fault,
    }
}

async fn start(config: &ServerConfig, log: &Log) -> Result<Fault, Fault> {
    log.info(CALLER, "starting a server", &summary(config));
    let peer_listeners = bind_peers(&config.listen_peer, config.settings.shared_ports).await?;
    let client_listeners = bind_all_clients(config).await?;
    let registry = Registry::new();
    let meter = Meter::new(&registry);
    let booted = boot::boot(config, log, &meter)?;
    let Booted {
        mut node,
        config: node_config,
        lanes,
        lock,
    } = booted;
    let queue = events();
    signal::listen(queue.0.clone(), log.clone())
        .map_err(|error| Fault::State(format!("cannot listen for signals: {error}")))?;
    let identity = Identity {
        cluster: node_config.cluster,
        member: node_config.member,
        patience: node_config.election,
    };
    let instruments = instruments(config, registry, &meter);
    let handle = Handle::measured(queue.0.clone(), config.edge.clone(), instruments);
    telling::begin(&handle, &config.settings, log)?;
    let directory = directory(handle.clone());
    let links = Links::open(
        identity,
        peer_listeners,
        queue.0.clone(),
        directory,
        log.clone(),
        meter.clone(),
    );
    let desk = Desk {
        handle: handle.clone(),
        log: log.clone(),
        addresses: served(config),
    };
    let (stop, stopped) = watch::channel(false);
    let service = Service::new(handle.clone());
    let mut serving = JoinSet::new();
    for (listener, traffic) in client_listeners {
        serving.spawn(service.only(traffic).serve(listener, stopped.clone()));
    }
    let host = TokioHost::new(queue, lanes, links, Box::new(desk), log.clone(), &meter)
        .map_err(|error| Fault::State(format!("cannot start the disk lanes: {error}")))?;
    let host = host.tell_slow_steps(config.settings.slow_apply);
    #[cfg(feature = "failpoints")]
    let host = super::failing::FailingHost::new(host);
    let mut host = host;
    let fault = reactor::run(&mut node, &mut host).await;
    handle.close();
    drop(stopped);
    stop.send_replace(true);
    // Each connection holds a receiver until it has said its last word.
    let farewell = async {
        while serving.join_next().await.is_some() {}
        drop(service);
        stop.closed().await;
    };
    let _ = tokio::time::timeout(GOODBYE, farewell).await;
    telling::end(handle).await;
    for url in config.listen_peer.iter().filter(|url| !url.is_tcp()) {
        // Someone may have removed it already, which is what we want.
        let _ = std::fs::remove_file(&url.address);
    }
    drop(lock);
    Ok(fault)
}

/// What the client edge counts with.
fn instruments(config: &ServerConfig, registry: Registry, meter: &Meter) -> Instruments {
    let meter = meter.clone();
    let stalled = Arc::new(move || meter.stalled());
    let detail = match config.settings.http.extensive_metrics {
        true => Detail::Extensive,
        false => Detail::Basic,
    };
    let instruments = Instruments::new(registry, detail, stalled);
    let gates = &config.settings.gates;
    let features = FEATURES.map(|gate| Feature {
        open: gates.enabled(gate.name),
        ..gate
    });
    instruments.set_build(&config.edge.version, &features);
    instruments
}

/// What members that want to join are told: the members, as this one knows them.
fn directory(handle: Handle) -> Directory {
    Arc::new(move || {
        let request = MemberListRequest::default();
        let answer = handle.call(Credentials::default(), Request::MemberList(request));
        Box::pin(async move {
            match answer.await {
                Ok(Response::MemberList(list)) => Some(list.encode_to_vec().into()),
                Ok(_) | Err(_) => None,
            }
        })
    })
}

/// What an operator looks for first when something is odd.
fn summary(config: &ServerConfig) -> Vec<(&'static str, Value)> {
    let list = |urls: &[Url]| json!(urls.iter().map(Url::to_string).collect::<Vec<_>>());
    let node = &config.node;
    vec![
        ("etcd-version", json!(config::ETCD_VERSION)),
        ("fated-version", json!(env!("CARGO_PKG_VERSION"))),
        ("name", json!(node.name)),
        ("data-dir", json!(config.data_dir)),
        ("wal-dir", json!(config.wal_dir)),
        ("heartbeat-interval", json!(format!("{:?}", node.heartbeat))),
        ("election-timeout", json!(format!("{:?}", node.election))),
        ("snapshot-count", json!(node.snapshot_count)),
        ("snapshot-catchup-entries", json!(node.catchup_entries)),
        ("initial-advertise-peer-urls", list(&config.advertise_peer)),
        ("listen-peer-urls", list(&config.listen_peer)),
        ("advertise-client-urls", list(&config.advertise_client)),
        ("listen-client-urls", list(&config.listen_client)),
        ("initial-cluster", json!(config.initial_cluster)),
        ("initial-cluster-token", json!(config.token)),
        ("quota-backend-bytes", json!(node.quota_bytes)),
        ("max-request-bytes", json!(node.request_bytes_max)),
        ("max-concurrent-streams", json!(config.edge.streams_max)),
        ("pre-vote", json!(node.pre_vote)),
        ("unsafe-no-fsync", json!(!config.fsync)),
    ]
}

async fn bind_peers(urls: &[Url], shared: bool) -> Result<Vec<PeerListener>, Fault> {
    let mut listeners = Vec::new();
    for url in urls {
        let bound = match url.is_tcp() {
            true => listen::tcp(url, shared).await.map(PeerListener::Tcp),
            false => listen::unix(url).map(PeerListener::Unix),
        };
        listeners.push(bound.map_err(|error| cannot_listen(url, &error))?);
    }
    Ok(listeners)
}

/// What the client URLs serve: all, unless plain HTTP has URLs of its own.
fn traffic(config: &ServerConfig) -> Traffic {
    match config.settings.http.listen.is_empty() {
        true => Traffic::Both,
        false => Traffic::Grpc,
    }
}

/// Every address for clients, and what it serves.
fn served(config: &ServerConfig) -> Vec<(String, Traffic)> {
    let clients = config.listen_client.iter();
    let clients = clients.map(|url| (url.to_string(), traffic(config)));
    let http = config.settings.http.listen.iter();
    let http = http.map(|url| (url.to_string(), Traffic::Http));
    clients.chain(http).collect()
}

async fn bind_all_clients(config: &ServerConfig) -> Result<Vec<(Listener, Traffic)>, Fault> {
    let mut bound = Vec::new();
    let shared = config.settings.shared_ports;
    for listener in bind_clients(&config.listen_client, shared).await? {
        bound.push((listener, traffic(config)));
    }
    for listener in bind_clients(&config.settings.http.listen, shared).await? {
        bound.push((listener, Traffic::Http));
    }
    for listener in bind_clients(&config.settings.http.listen_metrics, shared).await? {
        bound.push((listener, Traffic::Figures));
    }
    Ok(bound)
}

async fn bind_clients(urls: &[Url], shared: bool) -> Result<Vec<Listener>, Fault> {
    let mut listeners = Vec::new();
    for url in urls {
        let listener = if url.is_tcp() {
            listen::tcp(url, shared).await.map(Listener::Tcp)
        } else {
            let path = url.address.clone().into();
            listen::unix(url).map(|listener| Listener::Unix(listener, path))
        };
        listeners.push(listener.map_err(|error| cannot_listen(url, &error))?);
    }
    Ok(listeners)
}

fn cannot_listen(url: &Url, error: &std::io::Error) -> Fault {
    Fault::State(format!("cannot listen on {url}: {error}"))
}

/// Where the host hands in answers for clients.
struct Desk {
    handle: Handle,
    log: Log,
    addresses: Vec<(String, Traffic)>,
}

impl Answers for Desk {
    fn reply(&self, call: CallId, result: Result<Response, ApiError>) {
        self.handle.reply(call, result);
    }

    fn stream(&self, stream: StreamId, item: StreamItem) {
        self.handle.stream_item(stream, item);
    }

    fn ready(&self) {
        for (address, traffic) in &self.addresses {
            let story = "serving client traffic insecurely; this is strongly discouraged!";
            let traffic = match traffic {
                Traffic::Both => "grpc+http",
                Traffic::Grpc => "grpc",
                Traffic::Http => "http",
                Traffic::Figures => "metrics",
            };
            let fields = [("traffic", json!(traffic)), ("address", json!(address))];
            self.log.info(CALLER, story, &fields);
        }
        self.handle.set_ready();
        self.log.info(CALLER, "ready to serve client requests", &[]);
    }
}
