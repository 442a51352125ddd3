//! Real servers on loopback, and typed clients for them.

use std::{
    fs::File,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fated::pb::{
    etcdserverpb::{
        PutRequest, RangeRequest, StatusRequest, cluster_client::ClusterClient,
        kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
        watch_client::WatchClient,
    },
    v3electionpb::election_client::ElectionClient,
    v3lockpb::lock_client::LockClient,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// How long a server may take until it serves.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long one request of a healthy client may take on a machine that does much else.
const HEALTHY_PATIENCE: Duration = Duration::from_secs(10);

/// One server, ours or the one named by the environment.
pub struct Server {
    child: Option<Child>,
    directory: Option<tempfile::TempDir>,
    pub endpoint: String,
    pub peer_port: u16,
}

/// Every typed client over one connection.
#[derive(Clone)]
pub struct Client {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub lock: LockClient<Channel>,
    pub election: ElectionClient<Channel>,
}

/// What one member of a cluster is started with.
pub struct Plan {
    name: String,
    client_port: u16,
    peer_port: u16,
    initial_cluster: String,
}

impl Server {
    /// A server of its own process, or the one of `FATED_WIRE_ENDPOINT`.
    pub async fn start() -> Self {
        if let Ok(endpoint) = std::env::var("FATED_WIRE_ENDPOINT") {
            let server = Self {
                child: None,
                directory: None,
                endpoint,
                peer_port: 0,
            };
            server.until_serving().await;
            return server;
        }
        Self::start_own().await
    }

    /// A server of its own process, whatever the environment says.
    pub async fn start_own() -> Self {
        let server = Self::spawn(&Plan::of_cluster(1)[0]);
        server.until_serving().await;
        server
    }

    /// Starts a member and does not wait for it.
    pub fn spawn(plan: &Plan) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log = File::create(directory.path().join("log")).expect("a log file");
        let client = format!("http://127.0.0.1:{}", plan.client_port);
        let peer = format!("http://127.0.0.1:{}", plan.peer_port);
        let child = Command::new(env!("CARGO_BIN_EXE_fated"))
            .env_clear()
            .arg(format!("--name={}", plan.name))
            .arg(format!(
                "--data-dir={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", plan.initial_cluster))
            .args(["--heartbeat-interval=50", "--election-timeout=500"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary was built with this test");
        Self {
            child: Some(child),
            directory: Some(directory),
            endpoint: client,
            peer_port: plan.peer_port,
        }
    }

    /// Waits until the server writes and reads.
    pub async fn until_serving(&self) {
        let begun = Instant::now();
        loop {
            let failure = match self.try_connect().await {
                Ok(mut client) => match client.put("started", "yes").await {
                    Ok(()) => return,
                    Err(status) => status.to_string(),
                },
                Err(error) => error,
            };
            if begun.elapsed() > START_PATIENCE {
                panic!("no service: {failure}\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_connect(&self) -> Result<Client, String> {
        let endpoint = Endpoint::from_shared(self.endpoint.clone()).expect("an address");
        let channel = endpoint.connect_timeout(HEALTHY_PATIENCE).connect().await;
        Ok(Client::new(channel.map_err(|error| format!("{error:?}"))?))
    }

    /// A client over a connection of its own.
    pub async fn connect(&self) -> Client {
        match self.try_connect().await {
            Ok(client) => client,
            Err(error) => panic!("no connection: {error}\n{}", self.log_tail()),
        }
    }

    /// `host:port` of the client port.
    pub fn address(&self) -> String {
        let address = self.endpoint.strip_prefix("http://");
        address
            .expect("plain http")
            .trim_end_matches('/')
            .to_owned()
    }

    /// Whether this is not our own binary.
    pub fn is_foreign(&self) -> bool {
        self.child.is_none()
    }

    /// The first two numbers of the version the server reports.
    pub async fn version(&self) -> (u32, u32) {
        let mut client = self.connect().await;
        let status = client.maintenance.status(StatusRequest {}).await;
        let version = status.expect("a status").into_inner().version;
        let mut numbers = version
            .split('.')
            .map(|part| part.parse().expect("a number"));
        let mut next = || numbers.next().expect("two numbers at least");
        (next(), next())
    }

    /// Bytes of memory that belong to the process alone: heap and stacks, without mapped files.
    pub fn memory_bytes(&self) -> u64 {
        let id = self.child.as_ref().expect("our own process").id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.expect("a figure").split_whitespace().next();
        number.expect("a figure").parse::<u64>().expect("a number") * 1024
    }

    /// The process lives, has not panicked, and serves a new client at once.
    pub async fn assert_healthy(&mut self, after: &str) {
        self.assert_alive(after);
        let work = async {
            let mut client = self.try_connect().await?;
            let value = format!("after {after}");
            client
                .put("healthy", &value)
                .await
                .map_err(|e| e.to_string())?;
            let got = client.get("healthy").await.map_err(|e| e.to_string())?;
            if got.as_deref() == Some(value.as_bytes()) {
                Ok(())
            } else {
                Err(format!("read {got:?}"))
            }
        };
        match tokio::time::timeout(HEALTHY_PATIENCE, work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("not healthy after {after}: {error}\n{}", self.log_tail()),
            Err(_) => panic!("no answer after {after}\n{}", self.log_tail()),
        }
        self.assert_alive(after);
    }

    fn assert_alive(&mut self, after: &str) {
        let tail = self.log_tail();
        let Some(child) = &mut self.child else { return };
        let ended = child.try_wait().expect("our own process");
        assert!(ended.is_none(), "{ended:?} after {after}\n{tail}");
        assert!(!tail.contains("panicked"), "a panic after {after}\n{tail}");
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log_path(&self) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.path().join("log"))
    }

    fn log_tail(&self) -> String {
        let text = self.log_path().and_then(|path| std::fs::read(path).ok());
        let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Plan {
    /// Members of a new cluster on free ports.
    pub fn of_cluster(members: usize) -> Vec<Self> {
        // All ports are held until all are known, so that no two are equal.
        let held: Vec<TcpListener> = (0..members * 2)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let port = |index: usize| held[index].local_addr().expect("bound").port();
        let peers = (0..members).map(|at| format!("m{at}=http://127.0.0.1:{}", port(at * 2)));
        let initial_cluster = peers.collect::<Vec<_>>().join(",");
        (0..members)
            .map(|at| Self {
                name: format!("m{at}"),
                client_port: port(at * 2 + 1),
                peer_port: port(at * 2),
                initial_cluster: initial_cluster.clone(),
            })
            .collect()
    }
}

impl Client {
    fn new(channel: Channel) -> Self {
        let of = channel;
        Self {
            kv: KvClient::new(of.clone()).max_decoding_message_size(usize::MAX),
            watch: WatchClient::new(of.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(of.clone()),
            cluster: ClusterClient::new(of.clone()),
            maintenance: MaintenanceClient::new(of.clone()),
            lock: LockClient::new(of.clone()),
            election: ElectionClient::new(of),
        }
    }

    /// Puts one value.
    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), Status> {
        let request = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        self.kv.put(request).await.map(|_| ())
    }

    /// Reads one value.
    pub async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Status> {
        let request = RangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        let answer = self.kv.range(request).await?.into_inner();
        Ok(answer.kvs.first().map(|kv| kv.value.to_vec()))
    }

    /// The revision of the store.
    pub async fn revision(&mut self) -> i64 {
        let request = RangeRequest {
            key: "started".into(),
            ..Default::default()
        };
        let answer = self.kv.range(request).await.expect("a read").into_inner();
        answer.header.expect("a header").revision
    }
}

/// A status as the tables write it.
pub fn told(status: &Status) -> (Code, String) {
    (status.code(), status.message().to_owned())
}
