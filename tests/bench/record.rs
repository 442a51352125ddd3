//! What a load did: operations, delays, seconds, failures.
//!
//! Invariant: only what ends between `open` and `close` counts, so warming up and coming to rest
//! show in no figure.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

/// Delays above this count as this much.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// Whole seconds from which on the worst of them says something.
const SECONDS_MIN: usize = 3;
/// Seconds of which less than so many percent of the processors' time was stolen are whole ones.
const STOLEN_MAX: f64 = 1.0;

/// Figures by name.
pub type Figures = Map<String, Value>;

/// The recorder of one run; its clients share it.
pub struct Record {
    inner: Mutex<Inner>,
}

struct Inner {
    open: Option<Instant>,
    closed: Option<Instant>,
    micros: Histogram<u64>,
    done: u64,
    by_second: Vec<u64>,
    failed: u64,
    first_failure: Option<String>,
}

impl Record {
    /// A recorder that counts nothing yet.
    pub fn new() -> Self {
        let longest = u64::try_from(DELAY_MAX.as_micros()).expect("a minute");
        let inner = Inner {
            open: None,
            closed: None,
            micros: Histogram::new_with_bounds(1, longest, 3).expect("sound bounds"),
            done: 0,
            by_second: Vec::new(),
            failed: 0,
            first_failure: None,
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// Counts from now on.
    pub fn open(&self) {
        self.lock().open = Some(Instant::now());
    }

    /// Counts nothing more.
    pub fn close(&self) {
        self.lock().closed = Some(Instant::now());
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Operations so far.
    pub fn done(&self) -> u64 {
        self.lock().done
    }

    /// Notes an operation that began then and ends now.
    pub fn note(&self, begun: Instant) {
        let mut inner = self.lock();
        let Some(open) = inner.open.filter(|_| inner.closed.is_none()) else {
            return;
        };
        let now = Instant::now();
        let second = usize::try_from((now - open).as_secs()).expect("runs are short");
        if inner.by_second.len() <= second {
            inner.by_second.resize(second + 1, 0);
        }
        inner.by_second[second] += 1;
        inner.done += 1;
        let micros = u64::try_from((now - begun).as_micros()).unwrap_or(u64::MAX);
        inner.micros.saturating_record(micros);
    }

    /// Notes a failure. It counts whenever it happens: a run with failures proves nothing.
    pub fn fail(&self, why: String) {
        let mut inner = self.lock();
        if inner.closed.is_none() {
            inner.failed += 1;
            inner.first_failure.get_or_insert(why);
        }
    }

    /// Seconds that were counted.
    pub fn seconds(&self) -> f64 {
        let inner = self.lock();
        let open = inner.open.expect("it was opened");
        let end = inner.closed.unwrap_or_else(Instant::now);
        (end - open).as_secs_f64()
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        let seconds = self.seconds();
        let inner = self.lock();
        let millis = |quantile| rounded(inner.micros.value_at_quantile(quantile) as f64 / 1000.0);
        let mut figures = Figures::new();
        let rate = inner.done as f64 / seconds;
        figures.insert("ops".into(), inner.done.into());
        figures.insert("seconds".into(), rounded(seconds));
        figures.insert("rate".into(), rounded(rate));
        figures.insert("p50_ms".into(), millis(0.5));
        figures.insert("p99_ms".into(), millis(0.99));
        figures.insert("p999_ms".into(), millis(0.999));
        figures.insert("max_ms".into(), rounded(inner.micros.max() as f64 / 1000.0));
        let whole = seconds as usize;
        if whole >= SECONDS_MIN {
            let by_second = inner.by_second(whole);
            let worst = by_second.iter().min().copied().unwrap_or(0);
            figures.insert("worst_second".into(), rounded(worst as f64 / rate));
            figures.insert("by_second".into(), by_second.into());
        }
        figures.insert("errors".into(), inner.failed.into());
        if let Some(why) = &inner.first_failure {
            figures.insert("first_error".into(), why.clone().into());
        }
        figures
    }

    /// The worst second over the mean of those in which next to nothing of the processors' time was
    /// stolen, and how many they are; nothing if they are few.
    pub fn worst_whole_second(&self, stolen: &[f64]) -> Option<(f64, usize)> {
        let by_second = self.lock().by_second(stolen.len());
        let kept = by_second.iter().zip(stolen);
        let kept: Vec<u64> = kept
            .filter(|(_, percent)| **percent < STOLEN_MAX)
            .map(|(done, _)| *done)
            .collect();
        let worst = *kept.iter().min()?;
        let mean = kept.iter().sum::<u64>() as f64 / kept.len() as f64;
        (kept.len() >= SECONDS_MIN && mean > 0.0).then(|| (worst as f64 / mean, kept.len()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding it")
    }
}

impl Inner {
    /// What was done in each of the first seconds.
    fn by_second(&self, seconds: usize) -> Vec<u64> {
        let of = |second: usize| self.by_second.get(second).copied().unwrap_or(0);
        (0..seconds).map(of).collect()
    }
}

/// A figure to five digits, which is more than any of them is good for.
pub fn rounded(figure: f64) -> Value {
    if figure == 0.0 || !figure.is_finite() {
        return 0.0.into();
    }
    let scale = 10_f64.powi(4 - figure.abs().log10().floor() as i32);
    ((figure * scale).round() / scale).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_whole_second_is_one_of_which_nothing_was_stolen() {
        let record = Record::new();
        record.lock().by_second = vec![10, 2, 30, 20];
        let of = |stolen: &[f64]| record.worst_whole_second(stolen);
        assert_eq!(of(&[0.0, 5.0, 0.9, 0.0]), Some((0.5, 3)));
        assert_eq!(of(&[0.0, 0.0, 0.0, 9.0]), Some((2.0 / 14.0, 3)));
        assert_eq!(of(&[0.0, 5.0, 1.0, 0.0]), None, "two seconds say nothing");
    }
}
