//! A server as a process of its own: one member on loopback with fresh data and default flags.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// How long a server may take to serve.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// What a connection lets the server send ahead, as long-lived clients of etcd come to grant.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// A running server. Its process ends with this.
pub struct Server {
    child: Child,
    pub endpoint: String,
    _home: TempDir,
}

impl Server {
    /// Starts a member whose data are below `directory`, and waits until its port is open.
    pub async fn start(binary: &Path, directory: &Path, flags: &[String]) -> Result<Self, String> {
        let home = TempDir::new_in(directory).map_err(|error| error.to_string())?;
        let log = File::create(home.path().join("log")).map_err(|error| error.to_string())?;
        let client = format!("http://127.0.0.1:{}", free_port()?);
        let peer = format!("http://127.0.0.1:{}", free_port()?);
        let child = Command::new(binary)
            .arg("--name=m1")
            .arg(format!("--data-dir={}", home.path().join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=m1={peer}"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let server = Self {
            child,
            endpoint: client,
            _home: home,
        };
        let begun = Instant::now();
        while let Err(error) = connect(&server.endpoint).await {
            if begun.elapsed() > READY_LIMIT {
                return Err(format!("{} does not serve: {error}", binary.display()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    /// Forgets the greatest memory so far, so that the next phase shows its own.
    pub fn forget_peak(&self) -> Result<(), String> {
        fs::write(self.proc("clear_refs"), "5").map_err(|error| error.to_string())
    }

    /// The greatest memory since then (`VmHWM`), in MiB.
    pub fn peak_mib(&self) -> Result<u64, String> {
        let status = fs::read_to_string(self.proc("status")).map_err(|error| error.to_string())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib / 1024)
            .ok_or_else(|| "no VmHWM".to_owned())
    }

    /// Processor time used so far, in hundredths of a second.
    pub fn ticks(&self) -> Result<u64, String> {
        let stat = fs::read_to_string(self.proc("stat")).map_err(|error| error.to_string())?;
        // The name in brackets may hold anything; behind it the fields are plain.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let field = |at: usize| fields.split_whitespace().nth(at)?.parse::<u64>().ok();
        match (field(11), field(12)) {
            (Some(user), Some(system)) => Ok(user + system),
            _ => Err("no times".to_owned()),
        }
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the figures have shown already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection of its own.
pub async fn connect(endpoint: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| error.to_string())?;
    let endpoint = endpoint
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(|error| error.to_string())
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    Ok(address.port())
}
