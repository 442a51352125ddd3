//! The core's figures among those of the registry, in the form the encoder takes.
//!
//! Invariant: families stay in the order of their names; where core and host count the same thing
//! for the same labels, the sum is shown.

use std::collections::{BTreeMap, btree_map::Entry};

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Row, MetricFamily, MetricType,
};

use crate::kernel::figure::{self, Figure, Metric, Unit};

/// Adds the figures of the core.
pub(super) fn add_core(families: &mut Vec<MetricFamily>, core: &[Metric]) {
    let mut all: BTreeMap<String, MetricFamily> = families
        .drain(..)
        .map(|family| (family.name().to_owned(), family))
        .collect();
    for metric in core {
        match all.entry(metric.name.to_owned()) {
            Entry::Vacant(place) => {
                let mut family = MetricFamily::default();
                family.set_name(metric.name.to_owned());
                family.set_help(metric.help.to_owned());
                family.set_field_type(kind(&metric.figure));
                family.set_metric(vec![row(metric)]);
                place.insert(family);
            }
            Entry::Occupied(mut place) => merge(place.get_mut(), row(metric)),
        }
    }
    families.extend(all.into_values());
}

/// etcd counts descriptors under names of its own as well.
pub(super) fn add_descriptors(families: &mut Vec<MetricFamily>) {
    let value = |name: &str| {
        let family = families.iter().find(|family| family.name() == name)?;
        Some(family.get_metric().first()?.get_gauge().get_value())
    };
    let pairs = [
        ("process_open_fds", "os_fd_used", "File descriptors in use."),
        (
            "process_max_fds",
            "os_fd_limit",
            "File descriptors the process may use.",
        ),
    ];
    let known = pairs.map(|(from, to, help)| (value(from), to, help));
    for (value, name, help) in known {
        let Some(value) = value else { continue };
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(vec![Row::from_gauge(gauge)]);
        families.push(family);
    }
}

fn kind(figure: &Figure) -> MetricType {
    match figure {
        Figure::Counter(_) => MetricType::COUNTER,
        Figure::Gauge(_) => MetricType::GAUGE,
        Figure::Histogram(_) => MetricType::HISTOGRAM,
    }
}

fn row(metric: &Metric) -> Row {
    let labels = metric.labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    });
    let mut labels: Vec<LabelPair> = labels.collect();
    // As the registry has them, so that equal labels are equal.
    labels.sort_by(|one, other| one.name().cmp(other.name()));
    let mut row = Row::from_label(labels);
    match &metric.figure {
        Figure::Counter(value) => {
            let mut counter = Counter::default();
            counter.set_value(float(*value));
            row.set_counter(counter);
        }
        Figure::Gauge(value) => {
            let mut gauge = Gauge::default();
            gauge.set_value(float(*value));
            row.set_gauge(gauge);
        }
        Figure::Histogram(histogram) => row.set_histogram(buckets(histogram)),
    }
    row
}

fn buckets(histogram: &figure::Histogram) -> Histogram {
    let scale = histogram.scale();
    let shown = |value: u64| match scale.unit {
        Unit::Seconds => float(value) / 1e9,
        Unit::Milliseconds => float(value) / 1e6,
        Unit::Whole => float(value),
    };
    let mut count = 0;
    let mut buckets = Vec::new();
    for (at, values) in histogram.counts().iter().enumerate() {
        count += values;
        if at < scale.bounds {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(shown(scale.bound(at)));
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
    }
    let mut out = Histogram::default();
    out.set_sample_count(count);
    out.set_sample_sum(shown(histogram.sum()));
    out.set_bucket(buckets);
    out
}

/// Adds a row, or its count to that of the row with the same labels.
fn merge(family: &mut MetricFamily, row: Row) {
    let counts = family.get_field_type() == MetricType::COUNTER;
    let rows = family.mut_metric();
    let same = rows
        .iter_mut()
        .find(|known| known.get_label() == row.get_label());
    match same {
        Some(known) if counts => {
            let mut sum = Counter::default();
            sum.set_value(known.get_counter().get_value() + row.get_counter().get_value());
            known.set_counter(sum);
        }
        // Two gauges of one name and labels would contradict each other; the core's holds.
        Some(known) => *known = row,
        None => rows.push(row),
    }
}

/// Exact up to 2^53, as far as the text form goes.
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, IntCounterVec, Opts, Registry, TextEncoder};

    use super::*;
    use crate::kernel::figure::{Scale, Sheet};

    fn text(families: &[MetricFamily]) -> String {
        let mut out = Vec::new();
        TextEncoder::new().encode(families, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn core_and_host_share_a_name_and_their_counts_add_up() {
        let registry = Registry::new();
        let counts = IntCounterVec::new(Opts::new("b_total", "Help."), &["To"]).unwrap();
        registry.register(Box::new(counts.clone())).unwrap();
        counts.with_label_values(&["1"]).inc_by(2);
        let mut sheet = Sheet::default();
        let to = |id: &str| vec![("To", id.to_owned())];
        sheet.add("b_total", to("1"), Figure::Counter(3), "Help.");
        sheet.add("b_total", to("2"), Figure::Counter(4), "Help.");
        sheet.gauge("a", 1, "One \"quoted\"\nhelp.");
        sheet.add(
            "c",
            vec![("k", "x\"y\\".to_owned())],
            Figure::Gauge(5),
            "C.",
        );
        let mut families = registry.gather();
        add_core(&mut families, &sheet.finish());
        let expected = "# HELP a One \"quoted\"\\nhelp.\n# TYPE a gauge\na 1\n\
            # HELP b_total Help.\n# TYPE b_total counter\n\
            b_total{To=\"1\"} 5\nb_total{To=\"2\"} 4\n\
            # HELP c C.\n# TYPE c gauge\nc{k=\"x\\\"y\\\\\"} 5\n";
        assert_eq!(text(&families), expected);
    }

    #[test]
    fn a_histogram_is_cumulative_and_in_its_unit() {
        let mut seen = figure::Histogram::new(Scale::seconds(1000, 3));
        for millis in [1, 2, 3, 100] {
            seen.took(std::time::Duration::from_millis(millis));
        }
        let mut sheet = Sheet::default();
        sheet.histogram("h", &seen, "H.");
        let mut families = Vec::new();
        add_core(&mut families, &sheet.finish());
        let expected = "# HELP h H.\n# TYPE h histogram\n\
            h_bucket{le=\"0.001\"} 1\nh_bucket{le=\"0.002\"} 2\nh_bucket{le=\"0.004\"} 3\n\
            h_bucket{le=\"+Inf\"} 4\nh_sum 0.106\nh_count 4\n";
        assert_eq!(text(&families), expected);
    }
}
