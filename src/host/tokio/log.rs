//! Log lines in etcd's JSON form (or for a human eye), written by a thread of its own.
//!
//! Invariants: a line is one line; writing never makes the event loop wait. When the reader of the
//! log is too slow the queue fills and further lines are dropped; the next one that fits says how
//! many.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    clock::Clock,
    journal_log::{self, Journal},
    rotate::Rotating,
};
use crate::kernel::{
    WallTime,
    effect::{LogLevel, LogLine},
};

pub use super::rotate::Rotation;

/// Lines that may wait for the writer; more are dropped and counted.
const LINES_QUEUED_MAX: usize = 8192;

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// One JSON object per line, as etcd writes it.
    Json,
    /// Tab-separated columns.
    Console,
}

/// Where lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(String),
    /// Appended to a file that begins anew when it is full.
    Rotated(String, Rotation),
    /// The journal of systemd.
    Journal,
}

/// The logger. Clones write to the same outputs, from the same level on.
#[derive(Clone, Debug)]
pub struct Log {
    /// The rank of the lowest level that is written.
    rank_min: Arc<AtomicU8>,
    format: LogFormat,
    lines: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Job {
    Line(String),
    Flush(SyncSender<()>),
}

impl Log {
    /// Opens the outputs and starts the writer.
    pub fn open(level_min: LogLevel, format: LogFormat, outputs: &[LogOutput]) -> io::Result<Self> {
        let sinks: Vec<Box<dyn Write + Send>> =
            outputs.iter().map(open_output).collect::<Result<_, _>>()?;
        Self::to(level_min, format, sinks)
    }

    fn to(
        level_min: LogLevel,
        format: LogFormat,
        sinks: Vec<Box<dyn Write + Send>>,
    ) -> io::Result<Self> {
        let (lines, jobs) = sync_channel(LINES_QUEUED_MAX);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&jobs, sinks))?;
        Ok(Self {
            rank_min: Arc::new(AtomicU8::new(rank(level_min))),
            format,
            lines,
            dropped: Arc::default(),
        })
    }

    /// Writes lines from this level on from now on.
    pub fn set_level(&self, level_min: LogLevel) {
        self.rank_min.store(rank(level_min), Ordering::Relaxed);
    }

    /// Whether lines of this level are written.
    pub fn writes(&self, level: LogLevel) -> bool {
        rank(level) >= self.rank_min.load(Ordering::Relaxed)
    }

    /// Writes a line of the core.
    pub fn line(&self, line: &LogLine) {
        let fields: Vec<(&str, Value)> = line
            .fields
            .iter()
            .map(|(name, value)| (*name, Value::from(value.as_str())))
            .collect();
        self.write(line.level, line.caller, &line.message, &fields);
    }

    /// Something that only somebody who looks for it wants to know.
    pub fn debug(&self, caller: &str, message: &str, fields: &[(&str, Value)]) {
        self.write(LogLevel::Debug, caller, message, fields);
    }

    /// Something worth knowing in normal life.
    pub fn info(&self, caller: &str, message: &str, fields: &[(&str, Value)]) {
        self.write(LogLevel::Info, caller, message, fields);
    }

    /// Something the operator may want to change.
    pub fn warn(&self, caller: &str, message: &str, fields: &[(&str, Value)]) {
        self.write(LogLevel::Warn, caller, message, fields);
    }

    /// Something that must not happen in normal life.
    pub fn error(&self, caller: &str, message: &str, fields: &[(&str, Value)]) {
        self.write(LogLevel::Error, caller, message, fields);
    }

    /// Waits until everything said so far is written, but not for ever.
    pub fn flush(&self) {
        // A blocked terminal must not keep a stopped member alive, so both steps have an end.
        let (done, wait) = sync_channel(1);
        for _ in 0..100 {
            if self.lines.try_send(Job::Flush(done.clone())).is_ok() {
                let _ = wait.recv_timeout(Duration::from_secs(1));
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn write(&self, level: LogLevel, caller: &str, message: &str, fields: &[(&str, Value)]) {
        if !self.writes(level) {
            return;
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let mut text = String::new();
        let wall = Clock::wall();
        if dropped > 0 {
            let lost = [("dropped", Value::from(dropped))];
            let warn = LogLevel::Warn;
            let story = "log lines were dropped because the log was read too slowly";
            render(
                &mut text,
                self.format,
                wall,
                warn,
                "tokio/log.rs:0",
                story,
                &lost,
            );
        }
        render(&mut text, self.format, wall, level, caller, message, fields);
        if self.lines.try_send(Job::Line(text)).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }
}

fn open_output(output: &LogOutput) -> io::Result<Box<dyn Write + Send>> {
    Ok(match output {
        LogOutput::Stderr => Box::new(io::stderr()),
        LogOutput::Stdout => Box::new(io::stdout()),
        LogOutput::File(path) => Box::new(open_append(path)?),
        LogOutput::Rotated(path, rotation) => {
            let opened = Rotating::open(path, *rotation);
            Box::new(opened.map_err(|error| cannot_open(path, &error))?)
        }
        LogOutput::Journal => Box::new(Journal::connect(journal_log::SOCKET)?),
    })
}

fn open_append(path: &str) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| cannot_open(path, &error))
}

fn cannot_open(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot open log {path}: {error}"))
}

fn write_lines(jobs: &Receiver<Job>, mut sinks: Vec<Box<dyn Write + Send>>) {
    while let Ok(job) = jobs.recv() {
        // A log that cannot be written must not stop the store, so failures end here.
        match job {
            Job::Line(text) => {
                for sink in &mut sinks {
                    let _ = sink.write_all(text.as_bytes());
                }
            }
            Job::Flush(done) => {
                for sink in &mut sinks {
                    let _ = sink.flush();
                }
                let _ = done.send(());
            }
        }
    }
}

fn rank(level: LogLevel) -> u8 {
    match level {
        LogLevel::Debug => 0,
        LogLevel::Info => 1,
        LogLevel::Warn => 2,
        LogLevel::Error => 3,
    }
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}

fn render(
    out: &mut String,
    format: LogFormat,
    wall: WallTime,
    level: LogLevel,
    caller: &str,
    message: &str,
    fields: &[(&str, Value)],
) {
    let name = level_name(level);
    let time = timestamp(wall);
    let caller = with_line_number(caller);
    match format {
        LogFormat::Json => {
            let message = Value::from(message);
            let caller = Value::from(caller);
            let _ = write!(
                out,
                r#"{{"level":"{name}","ts":"{time}","caller":{caller},"msg":{message}"#
            );
            for (key, value) in fields {
                let _ = write!(out, ",{}:{value}", Value::from(*key));
            }
            out.push_str("}\n");
        }
        LogFormat::Console => {
            let message = message.replace('\n', "\\n");
            let _ = write!(out, "{time}\t{name}\t{caller}\t{message}");
            for (index, (key, value)) in fields.iter().enumerate() {
                let open = if index == 0 { "\t{" } else { ", " };
                let _ = write!(out, "{open}{}: {value}", Value::from(*key));
            }
            out.push_str(if fields.is_empty() { "\n" } else { "}\n" });
        }
    }
}

/// Tools that read etcd's logs expect `file:line`; the core knows files only.
fn with_line_number(caller: &str) -> String {
    if caller.contains(':') {
        caller.to_owned()
    } else {
        format!("{caller}:0")
    }
}

/// Microseconds in UTC, as `2006-01-02T15:04:05.999999Z`: trailing zeros of the fraction are not
/// written, and no dot when nothing follows it, which is what etcd's layout means.
pub fn timestamp(wall: WallTime) -> String {
    let seconds = wall.as_secs();
    let micros = wall.as_nanos() / 1000 % 1_000_000;
    let (year, month, day) = civil_date(seconds / 86_400);
    let rest = seconds % 86_400;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if micros > 0 {
        let _ = write!(text, ".{micros:06}");
        text.truncate(text.trim_end_matches('0').len());
    }
    text.push('Z');
    text
}

/// The proleptic Gregorian date of a day counted from 1970-01-01: eras of 400 years that begin in
/// March, so that the leap day is the last of its year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat, act: impl FnOnce(&Log)) -> String {
        let sink = Sink::default();
        let log = Log::to(level, format, vec![Box::new(sink.clone())]).unwrap();
        act(&log);
        log.flush();
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_one_json_object_with_etcds_names_in_order() {
        let text = logged(LogLevel::Info, LogFormat::Json, |log| {
            log.line(&LogLine {
                level: LogLevel::Warn,
                caller: "node/frontend.rs",
                message: "a \"quoted\"\nmessage".to_owned(),
                fields: vec![("reason", "tab\there".to_owned())],
            });
            log.line(&LogLine {
                level: LogLevel::Debug,
                caller: "node/frontend.rs",
                message: "not shown".to_owned(),
                fields: Vec::new(),
            });
            log.info("cli/start.rs:0", "numbers", &[("count", Value::from(1000))]);
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        let first: Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!(first["level"], "warn");
        assert_eq!(first["caller"], "node/frontend.rs:0");
        assert_eq!(first["msg"], "a \"quoted\"\nmessage");
        assert_eq!(first["reason"], "tab\there");
        let order: Vec<usize> = ["level", "ts", "caller", "msg", "reason"]
            .iter()
            .map(|name| lines[0].find(&format!("\"{name}\":")).unwrap())
            .collect();
        assert!(order.is_sorted());
        assert!(lines[1].ends_with(r#""msg":"numbers","count":1000}"#));
    }

    #[test]
    fn the_console_form_keeps_one_line() {
        let text = logged(LogLevel::Debug, LogFormat::Console, |log| {
            log.error("a.rs:1", "two\nlines", &[("k", Value::from("v"))]);
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("\terror\ta.rs:1\ttwo\\nlines\t{\"k\": \"v\"}\n"));
    }

    #[test]
    fn timestamps_follow_the_calendar() {
        let at = |seconds: u64, nanos: u64| {
            timestamp(WallTime::from_nanos(seconds * 1_000_000_000 + nanos))
        };
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400, 120_000_999), "2000-02-29T00:00:00.12Z");
        assert_eq!(
            at(1_709_251_199, 999_999_999),
            "2024-02-29T23:59:59.999999Z"
        );
        assert_eq!(at(4_107_542_400, 1_000), "2100-03-01T00:00:00.000001Z");
    }
}
