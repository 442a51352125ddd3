//! The two servers: one member each, on loopback, with fresh data.
//!
//! Both are told the same peer address, which nobody dials, so their member and cluster ids are
//! equal and need no translation.

use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// What both servers say when they serve.
const READY: &str = "ready to serve client requests";
/// How long a server may take to serve.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// The peer address both advertise.
const PEER: &str = "http://127.0.0.1:1";

/// A running server. Its process ends with this.
pub struct Server {
    child: Child,
    home: TempDir,
    port: u16,
}

impl Server {
    /// Starts a member on fresh data and waits until it serves.
    pub fn start(binary: &Path) -> Result<Self, String> {
        let home = tempfile::tempdir().map_err(|error| error.to_string())?;
        let port = free_port()?;
        let peer = free_port()?;
        let log = File::create(home.path().join("log")).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(binary);
        let ours = |name: &str| name.starts_with("ETCD") || name.starts_with("FATED");
        for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
            command.env_remove(name);
        }
        let child = command
            .arg("--name=m1")
            .arg(format!("--data-dir={}", home.path().join("data").display()))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{port}"))
            .arg("--advertise-client-urls=http://127.0.0.1:2")
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls={PEER}"))
            .arg(format!("--initial-cluster=m1={PEER}"))
            // Nothing here is about losing power, and it is a hundred thousand writes.
            .arg("--unsafe-no-fsync")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let mut server = Self { child, home, port };
        server.wait_ready(binary)?;
        Ok(server)
    }

    fn wait_ready(&mut self, binary: &Path) -> Result<(), String> {
        let end = Instant::now() + READY_LIMIT;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            if self.log().contains(READY) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!(
            "{} does not serve:\n{}",
            binary.display(),
            self.log()
        ))
    }

    /// Where clients reach it.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it has said.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.home.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; both ways it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    Ok(address.port())
}
