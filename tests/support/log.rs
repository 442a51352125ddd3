//! What a member said on its standard error and output, over all its lives.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Lines shown when a test fails.
const TAIL: usize = 40;

/// Collected lines. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LogLines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl LogLines {
    /// Reads lines until the end of `source` in a thread of its own.
    pub fn collect(&self, source: impl Read + Send + 'static) {
        let lines = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n') {
                let Ok(line) = line else { return };
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }

    /// Adds a line of the test itself.
    pub fn push(&self, line: String) {
        self.lock().push(line);
        self.0.1.notify_all();
    }

    /// The place after the last line, to look from there on later.
    pub fn mark(&self) -> usize {
        self.lock().len()
    }

    /// The first line from `mark` on that contains `needle`.
    pub fn find(&self, mark: usize, needle: &str) -> Option<String> {
        let lines = self.lock();
        let found = lines.iter().skip(mark).find(|line| line.contains(needle));
        found.cloned()
    }

    /// Waits for a line from `mark` on that contains `needle`.
    pub fn wait(&self, mark: usize, needle: &str, limit: Duration) -> Option<String> {
        let found = |lines: &mut Vec<String>| {
            let mut lines = lines.iter().skip(mark);
            lines.all(|line| !line.contains(needle))
        };
        let waited = self.0.1.wait_timeout_while(self.lock(), limit, found);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.find(mark, needle)
    }

    /// The last lines, indented.
    pub fn tail(&self) -> String {
        let lines = self.lock();
        let first = lines.len().saturating_sub(TAIL);
        lines[first..]
            .iter()
            .map(|line| format!("    {line}\n"))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
