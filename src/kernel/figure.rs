//! Figures about the running member: counters, gauges and histograms, in whole numbers.
//!
//! Actors count; nothing they do depends on a count. Durations are nanoseconds until the edge
//! prints them. Invariant: a histogram has counted as many values as its buckets hold.

use std::time::Duration;

/// What a histogram's values mean, and so how the edge prints them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Nanoseconds, printed as seconds.
    Seconds,
    /// Nanoseconds, printed as milliseconds.
    Milliseconds,
    /// Printed as they are.
    Whole,
}

/// The upper bounds of a histogram: the first, and each further one twice the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// The first bound.
    pub first: u64,
    /// How many bounds there are; larger values are counted beyond the last.
    pub bounds: usize,
    /// What the values mean.
    pub unit: Unit,
}

impl Scale {
    /// Bounds in seconds, of which the first is given in microseconds.
    pub const fn seconds(first_micros: u64, bounds: usize) -> Self {
        Self {
            first: first_micros * 1000,
            bounds,
            unit: Unit::Seconds,
        }
    }

    /// Bounds in milliseconds, of which the first is given in microseconds.
    pub const fn milliseconds(first_micros: u64, bounds: usize) -> Self {
        Self {
            first: first_micros * 1000,
            bounds,
            unit: Unit::Milliseconds,
        }
    }

    /// Bounds of plain numbers.
    pub const fn whole(first: u64, bounds: usize) -> Self {
        Self {
            first,
            bounds,
            unit: Unit::Whole,
        }
    }

    /// The upper bound of a bucket.
    pub fn bound(self, bucket: usize) -> u64 {
        let exponent = u32::try_from(bucket).expect("a scale has few bounds");
        self.first.saturating_mul(2_u64.saturating_pow(exponent))
    }
}

/// How often values of each size were seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    scale: Scale,
    /// Values per bucket, the last beyond all bounds.
    counts: Vec<u64>,
    sum: u64,
}

impl Histogram {
    /// A histogram that has seen nothing.
    pub fn new(scale: Scale) -> Self {
        Self {
            scale,
            counts: vec![0; scale.bounds + 1],
            sum: 0,
        }
    }

    /// Counts a value `times` times.
    pub fn add(&mut self, value: u64, times: u64) {
        let bounds = 0..self.scale.bounds;
        let fits = bounds.into_iter().find(|at| value <= self.scale.bound(*at));
        self.counts[fits.unwrap_or(self.scale.bounds)] += times;
        self.sum = self.sum.saturating_add(value.saturating_mul(times));
    }

    /// Counts a span of time.
    pub fn took(&mut self, span: Duration) {
        self.took_each(span, 1);
    }

    /// Counts a span of time that `times` things took each.
    pub fn took_each(&mut self, span: Duration, times: u64) {
        self.add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX), times);
    }

    /// Its bounds.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Values per bucket, the last beyond all bounds.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

/// The value of a metric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Figure {
    /// Only rises.
    Counter(u64),
    /// Rises and falls.
    Gauge(u64),
    /// How often values of each size were seen.
    Histogram(Histogram),
}

/// One metric of the member: a name, labels and what stands behind them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub help: &'static str,
    /// Label pairs.
    pub labels: Vec<(&'static str, String)>,
    /// Its value.
    pub figure: Figure,
}

/// What actors write their figures on.
#[derive(Default, Debug)]
pub struct Sheet {
    metrics: Vec<Metric>,
}

impl Sheet {
    /// A metric without labels that only rises.
    pub fn counter(&mut self, name: &'static str, value: u64, help: &'static str) {
        self.add(name, Vec::new(), Figure::Counter(value), help);
    }

    /// A metric without labels that rises and falls.
    pub fn gauge(&mut self, name: &'static str, value: u64, help: &'static str) {
        self.add(name, Vec::new(), Figure::Gauge(value), help);
    }

    /// A metric without labels that counts sizes.
    pub fn histogram(&mut self, name: &'static str, value: &Histogram, help: &'static str) {
        self.add(name, Vec::new(), Figure::Histogram(value.clone()), help);
    }

    /// A metric with labels.
    pub fn add(
        &mut self,
        name: &'static str,
        labels: Vec<(&'static str, String)>,
        figure: Figure,
        help: &'static str,
    ) {
        self.metrics.push(Metric {
            name,
            help,
            labels,
            figure,
        });
    }

    /// All that was written.
    pub fn finish(self) -> Vec<Metric> {
        self.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_at_the_first_bound_that_is_not_below_it() {
        let mut histogram = Histogram::new(Scale::whole(2, 3));
        assert_eq!([0, 1, 2].map(|at| histogram.scale().bound(at)), [2, 4, 8]);
        for value in [0, 2, 3, 4, 8, 9, 1000] {
            histogram.add(value, 1);
        }
        histogram.add(5, 10);
        assert_eq!(histogram.counts(), [2, 2, 11, 2]);
        assert_eq!(histogram.sum(), 1026 + 50);
    }

    #[test]
    fn a_span_beyond_every_bound_is_not_lost() {
        let mut histogram = Histogram::new(Scale::seconds(1000, 2));
        histogram.took(Duration::MAX);
        histogram.took(Duration::from_millis(2));
        assert_eq!(histogram.counts(), [0, 1, 1]);
        assert_eq!(histogram.sum(), u64::MAX);
    }
}
