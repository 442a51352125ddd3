//! What a member said on its standard error and output, over all its lives.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Lines shown when a test fails.
const TAIL: usize = 30;
/// Stands where an output ended, which is when its process has.
const END: &str = "--- end ---";
/// The first line of a panic, and how many lines of its story are shown.
const PANIC: (&str, usize) = ("panicked at", 30);

/// Collected lines. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LogLines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl LogLines {
    /// Reads lines until the end of `source` in a thread of its own.
    pub fn collect(&self, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
            lines.push(END.to_owned());
        })
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

    /// Waits for a line from `mark` on that contains `needle`, or for the end of the process.
    pub fn wait(&self, mark: usize, needle: &str, limit: Duration) -> Option<String> {
        let open = |lines: &mut Vec<String>| {
            let mut lines = lines.iter().skip(mark);
            lines.all(|line| line != END && !line.contains(needle))
        };
        let waited = self.0.1.wait_timeout_while(self.lock(), limit, open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.find(mark, needle)
    }

    /// The last lines, indented, and the first panic.
    pub fn tail(&self) -> String {
        let lines = self.lock();
        let panic = lines.iter().position(|line| line.contains(PANIC.0));
        let panic = panic.map_or(&[][..], |at| &lines[at..lines.len().min(at + PANIC.1)]);
        let last = &lines[lines.len().saturating_sub(TAIL)..];
        panic
            .iter()
            .chain(last)
            .map(|line| format!("    {line}\n"))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
