//! One member: its process, its directory and its log.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use tempfile::TempDir;

use super::{client::Client, log::LogLines, permit::Permit, ports::free_port, wait_for};

/// How long a member may take from its start until it serves.
pub const READY_LIMIT: Duration = Duration::from_secs(30);
/// What a member logs when it serves.
pub const READY_LINE: &str = "ready to serve client requests";

/// Where a member lives and what it is told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name in the cluster.
    pub name: String,
    /// Its client port.
    pub client_port: u16,
    /// Its peer port.
    pub peer_port: u16,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// The value of `--initial-cluster`.
    pub initial_cluster: String,
    /// Whether it joins a cluster that runs.
    pub joins: bool,
    /// The value of `--join`; where there is one, the flags of the initial cluster are left out.
    pub join: Option<String>,
    /// Further flags.
    pub flags: Vec<String>,
}

impl Plan {
    /// A member in `home` with ports of its own, alone in its cluster until told otherwise.
    pub fn new(name: &str, home: &Path, flags: &[String]) -> Self {
        let peer_port = free_port();
        Self {
            name: name.to_owned(),
            client_port: free_port(),
            peer_port,
            data_dir: home.join(name),
            initial_cluster: format!("{name}=http://127.0.0.1:{peer_port}"),
            joins: false,
            join: None,
            flags: flags.to_vec(),
        }
    }

    /// Where members reach it.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// The flags of a usual Compose file.
    pub fn arguments(&self) -> Vec<String> {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut arguments = vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data_dir.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ];
        let state = match self.joins {
            true => "existing",
            false => "new",
        };
        arguments.extend(match &self.join {
            Some(urls) => vec![format!("--join={urls}")],
            None => vec![
                format!("--initial-cluster={}", self.initial_cluster),
                format!("--initial-cluster-state={state}"),
                "--initial-cluster-token=test".to_owned(),
            ],
        });
        arguments.extend(self.flags.iter().cloned());
        arguments
    }
}

/// A member. Its process is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    plan: Plan,
    child: Option<Child>,
    log: LogLines,
    readers: Vec<JoinHandle<()>>,
    /// Where the log of the present life begins.
    born: usize,
    /// Only a member alone owns these; a cluster owns them for its members.
    _home: Option<TempDir>,
    _permit: Option<Permit>,
}

impl Server {
    /// Starts a cluster of one and waits until it serves.
    pub fn alone(flags: &[&str]) -> Self {
        let permit = Permit::take(1);
        let home = tempfile::tempdir().expect("a directory for the member");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut server = Self::new(Plan::new("m0", home.path(), &flags));
        server._home = Some(home);
        server._permit = Some(permit);
        server.start();
        server
    }

    /// A member that does not run yet.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            child: None,
            log: LogLines::default(),
            readers: Vec::new(),
            born: 0,
            _home: None,
            _permit: None,
        }
    }

    /// Starts the process and waits until it serves.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts the process.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.plan.name);
        self.born = self.log.mark();
        self.log.push("--- start ---".to_owned());
        let mut child = command(&self.plan.arguments())
            .spawn()
            .expect("the binary was built with this test");
        let errors = self.log.collect(child.stderr.take().expect("it is piped"));
        let output = self.log.collect(child.stdout.take().expect("it is piped"));
        self.readers = vec![errors, output];
        self.child = Some(child);
    }

    /// Waits until this life serves clients.
    pub fn wait_ready(&self) {
        self.wait_log(READY_LINE, READY_LIMIT);
    }

    /// Waits for a line of this life that contains `needle`, and returns it.
    pub fn wait_log(&self, needle: &str, limit: Duration) -> String {
        self.log.wait(self.born, needle, limit).unwrap_or_else(|| {
            panic!(
                "{} did not say {needle:?} in {limit:?}:\n{}",
                self.plan.name,
                self.log.tail()
            )
        })
    }

    /// Ends the process as `kill -9` does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        self.log.push("--- kill -9 ---".to_owned());
        child.kill().expect("our own process can be killed");
        child.wait().expect("our own process can be waited for");
        self.read_rest();
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal("TERM");
        self.wait_exit(limit)
    }

    /// Waits until the process ends by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("it runs");
        let status = wait_for(limit, || child.try_wait().expect("our own process"));
        let status = status.unwrap_or_else(|| {
            panic!(
                "{} did not end in {limit:?}:\n{}",
                self.plan.name,
                self.log.tail()
            )
        });
        self.child = None;
        self.read_rest();
        status
    }

    /// Stops the process in its tracks (SIGSTOP).
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets a stopped process go on (SIGCONT).
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Kills and starts again, and waits until it serves.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Whether a process runs (or is stopped), and has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().expect("our own process").is_none(),
            None => false,
        }
    }

    /// A new connection to this member.
    pub fn client(&self) -> Client {
        Client::new(&self.endpoint())
    }

    /// Its client URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.plan.client_port)
    }

    /// Its plan, to change what it is told at its next start.
    pub fn plan_mut(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// Its plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its log.
    pub fn log(&self) -> &LogLines {
        &self.log
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Takes in the last words, so that they cannot be mistaken for those of the next life.
    fn read_rest(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("reading lines does not panic");
        }
    }

    fn signal(&self, name: &str) {
        self.log.push(format!("--- SIG{name} ---"));
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(
            sent.expect("there is a kill command").success(),
            "SIG{name} to {pid}"
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Nothing more can be done about a process that cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
            self.read_rest();
        }
        if thread::panicking() {
            eprintln!("last lines of {}:\n{}", self.plan.name, self.log.tail());
        }
    }
}

/// The binary with arguments, piped output and no surprising variables.
pub fn command(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fated"));
    command
        .args(arguments)
        .env_clear()
        .env("RUST_BACKTRACE", "1");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}
