//! A client that reads all the time, and what the longest time was in which nobody answered it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{Client, Cluster};

/// A member that does not answer is left for the next one after this.
const PATIENCE: Duration = Duration::from_millis(700);

/// Reads linearizably, one member after the other, and remembers the longest time without success.
pub struct Reader {
    stop: Arc<AtomicBool>,
    endpoints: Arc<Mutex<Vec<String>>>,
    thread: thread::JoinHandle<Duration>,
}

impl Reader {
    /// Begins to read.
    pub fn start(endpoints: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let endpoints = Arc::new(Mutex::new(endpoints));
        let (over, known) = (Arc::clone(&stop), Arc::clone(&endpoints));
        let thread = thread::spawn(move || {
            let (mut gap, mut last) = (Duration::ZERO, Instant::now());
            let mut turn = 0;
            while !over.load(Ordering::Relaxed) {
                turn += 1;
                let endpoint = {
                    let known = known.lock().unwrap();
                    known[turn % known.len()].clone()
                };
                let client = Client::new(&endpoint).with_timeout(PATIENCE);
                if client.get("read").is_ok() {
                    gap = gap.max(last.elapsed());
                    last = Instant::now();
                }
                thread::sleep(Duration::from_millis(10));
            }
            gap.max(last.elapsed())
        });
        Self {
            stop,
            endpoints,
            thread,
        }
    }

    /// Reads from all members of the cluster from now on.
    pub fn use_also(&self, cluster: &Cluster) {
        let endpoints = cluster.members.iter().map(|member| member.endpoint());
        *self.endpoints.lock().unwrap() = endpoints.collect();
    }

    /// The longest time without an answer.
    pub fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("reading does not panic")
    }
}
