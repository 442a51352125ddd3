//! Servers as processes of their own: members on loopback with fresh data and default flags.

use std::{
    ffi::OsString,
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::{
    client::{Conn, text},
    methods::{RANGE, get},
};

/// How long a server may take to serve.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How often a server that starts is asked whether it serves.
const READY_PAUSE: Duration = Duration::from_millis(5);
/// How long it may take to end when told to.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// What a connection lets the server send ahead, as long-lived clients of etcd come to grant.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// Blocks of a file, as the file system counts them.
const BLOCK_BYTES: u64 = 512;

/// A member. Its process ends with this.
pub struct Member {
    binary: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
    pub endpoint: String,
    pub data: PathBuf,
}

/// The members of a cluster, the first of them first asked.
pub struct Cluster {
    pub members: Vec<Member>,
    _home: TempDir,
}

impl Cluster {
    /// Starts members whose data are below `directory`, and waits until all of them serve.
    pub async fn start(
        binary: &Path,
        directory: &Path,
        count: usize,
        flags: &[String],
    ) -> Result<Self, String> {
        let home = TempDir::new_in(directory).map_err(text)?;
        let mut urls = Vec::new();
        for number in 1..=count {
            let client = format!("http://127.0.0.1:{}", free_port()?);
            let peer = format!("http://127.0.0.1:{}", free_port()?);
            urls.push((format!("m{number}"), client, peer));
        }
        let pairs: Vec<_> = urls
            .iter()
            .map(|(name, _, peer)| format!("{name}={peer}"))
            .collect();
        let founders = pairs.join(",");
        let mut members = Vec::new();
        for (name, client, peer) in &urls {
            let data = home.path().join(name);
            let mut args = vec![
                format!("--name={name}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={founders}"),
            ];
            args.extend(flags.iter().cloned());
            let log = home.path().join(format!("{name}.log"));
            members.push(Member::start(binary, args, (client, data, log))?);
        }
        Self::served(members, home).await
    }

    /// Starts the server that stores nothing.
    pub async fn start_null(directory: &Path) -> Result<Self, String> {
        let home = TempDir::new_in(directory).map_err(text)?;
        let this = std::env::current_exe().map_err(text)?;
        let port = free_port()?;
        let args = vec!["null".to_owned(), format!("--listen=127.0.0.1:{port}")];
        let client = format!("http://127.0.0.1:{port}");
        let (data, log) = (home.path().join("data"), home.path().join("log"));
        let member = Member::start(&this, args, (&client, data, log))?;
        Self::served(vec![member], home).await
    }

    async fn served(mut members: Vec<Member>, home: TempDir) -> Result<Self, String> {
        for member in &mut members {
            member.ready().await?;
        }
        Ok(Self {
            members,
            _home: home,
        })
    }

    /// Where the members serve.
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.endpoint.clone())
            .collect()
    }

    /// Seconds of processor time of all members so far.
    pub fn cpu_seconds(&self) -> Result<f64, String> {
        let ticks: Result<u64, String> = self.members.iter().map(Member::ticks).sum();
        Ok(ticks? as f64 / 100.0)
    }

    /// The greatest memory of any member since it was last forgotten, in MiB.
    pub fn peak_mib(&self) -> Result<f64, String> {
        let mut most = 0.0_f64;
        for member in &self.members {
            most = most.max(member.memory_mib("VmHWM:")?);
        }
        Ok(most)
    }

    /// What the files of the first member take on the disk, in MiB.
    pub fn disk_mib(&self) -> f64 {
        blocks_mib(&self.members[0].data)
    }
}

impl Member {
    fn start(
        binary: &Path,
        args: Vec<String>,
        (client, data, log): (&str, PathBuf, PathBuf),
    ) -> Result<Self, String> {
        let mut member = Self {
            binary: binary.to_owned(),
            args: args.into_iter().map(OsString::from).collect(),
            log,
            child: None,
            endpoint: client.to_owned(),
            data,
        };
        member.spawn()?;
        Ok(member)
    }

    /// Starts the process, for the first time or again.
    pub fn spawn(&mut self) -> Result<(), String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(text)?;
        let child = Command::new(&self.binary)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(text)?)
            .stderr(log)
            .spawn();
        let child =
            child.map_err(|error| format!("cannot start {}: {error}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until a linearizable read is answered.
    pub async fn ready(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let left = READY_LIMIT.saturating_sub(begun.elapsed());
            let asked = timeout(left, served(&self.endpoint)).await;
            if let Ok(Ok(())) = asked {
                return Ok(());
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok())
                .flatten();
            if ended.is_some() || asked.is_err() {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(5).collect();
                return Err(format!(
                    "{} does not serve: {last:?}",
                    self.binary.display()
                ));
            }
            sleep(READY_PAUSE).await;
        }
    }

    /// Sends a signal, and waits for the end of the process.
    pub async fn stop(&mut self, signal: &str) -> Result<(), String> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(child.id().to_string())
            .status();
        sent.map_err(text)?;
        let begun = Instant::now();
        while child.try_wait().map_err(text)?.is_none() {
            if begun.elapsed() > STOP_LIMIT {
                child.kill().map_err(text)?;
                child.wait().map_err(text)?;
                return Err(format!("it does not end by {signal}"));
            }
            sleep(READY_PAUSE).await;
        }
        Ok(())
    }

    /// Forgets the greatest memory so far, so that the next phase shows its own.
    pub fn forget_peak(&self) -> Result<(), String> {
        fs::write(self.proc("clear_refs"), "5").map_err(text)
    }

    /// A figure of memory (`VmHWM:`, `VmRSS:`, `RssAnon:`), in MiB.
    pub fn memory_mib(&self, name: &str) -> Result<f64, String> {
        memory_mib(self.pid(), name)
    }

    /// Processor time used so far, in hundredths of a second.
    pub fn ticks(&self) -> Result<u64, String> {
        cpu_ticks(self.pid())
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself, which the figures have shown already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A figure of memory of a process, in MiB.
pub fn memory_mib(pid: u32, name: &str) -> Result<f64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(text)?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| format!("no {name}"))
}

/// Processor time of a process so far, in hundredths of a second.
pub fn cpu_ticks(pid: u32) -> Result<u64, String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(text)?;
    // The name in brackets may hold anything; behind it the fields are plain.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let field = |at: usize| fields.split_whitespace().nth(at)?.parse::<u64>().ok();
    match (field(11), field(12)) {
        (Some(user), Some(system)) => Ok(user + system),
        _ => Err("no times".to_owned()),
    }
}

/// What the files below a directory take on the disk, in MiB.
pub fn blocks_mib(path: &Path) -> f64 {
    blocks(path) as f64 * BLOCK_BYTES as f64 / f64::from(1 << 20)
}

/// A linearizable read of a connection of its own.
async fn served(endpoint: &str) -> Result<(), String> {
    let mut conn = Conn::open(endpoint).await?;
    conn.ask(&RANGE, &get("?")).await.map(|_| ())
}

fn blocks(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => blocks(&entry.path()),
        Ok(meta) => meta.blocks(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// A connection of its own, by tonic.
pub async fn connect(endpoint: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(text)?;
    let endpoint = endpoint
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(text)
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
    let address = listener.local_addr().map_err(text)?;
    Ok(address.port())
}
