//! The rows of the comparison: what is run, and what must come of it.
//!
//! Targets are ratios against a server that ran on the same machine at the same time, or figures of
//! fated alone where the row says so.

use crate::workload::{Spec, Workload};

/// A server that is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    Etcd,
    Fated,
    Null,
}

impl Side {
    /// Its name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Fated => "fated",
            Self::Null => "null",
        }
    }
}

/// What a target compares with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    Etcd,
    Null,
    Itself,
}

/// Where a figure has to be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    /// Whether a figure is there.
    pub fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
        }
    }

    /// The figure itself.
    pub fn figure(self) -> f64 {
        match self {
            Self::AtLeast(bound) | Self::AtMost(bound) => bound,
        }
    }
}

/// What must hold of a row.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub figure: &'static str,
    pub against: Against,
    pub bound: Bound,
}

/// How a row is measured.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A load on a new cluster
    Load(Workload, Spec),
    /// Many keys by transactions, and what can be asked of them
    Many,
    /// Many keys by single puts
    ManyPuts,
    /// Many leases at once
    LeasesHeld,
    /// Leases that end at the same time
    LeasesEnding,
    /// Puts beside the compaction of a large history
    Compaction,
    /// Puts beside large ranges and watchers that do not read
    Beside,
    /// Puts for a long time
    Steady,
    /// Random puts into little and into much
    Big,
    /// A new member that nobody asks
    Idle,
}

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub members: usize,
    pub kind: Kind,
    pub targets: Vec<Target>,
    /// Takes minutes; run when it is named.
    pub long: bool,
}

impl Row {
    /// The servers it needs, in the order in which they take turns.
    pub fn sides(&self) -> Vec<Side> {
        let needs = |wanted| self.targets.iter().any(|target| target.against == wanted);
        let mut sides = Vec::new();
        if needs(Against::Etcd) {
            sides.push(Side::Etcd);
        }
        sides.push(Side::Fated);
        if needs(Against::Null) {
            sides.push(Side::Null);
        }
        sides
    }

    /// With a target more.
    fn must(mut self, figure: &'static str, against: Against, bound: Bound) -> Self {
        self.targets.push(Target {
            figure,
            against,
            bound,
        });
        self
    }

    fn rate(self, least: f64) -> Self {
        self.must("rate", Against::Etcd, Bound::AtLeast(least))
    }

    fn null(self, least: f64) -> Self {
        self.must("rate", Against::Null, Bound::AtLeast(least))
    }

    fn cpu(self, most: f64) -> Self {
        self.must("cpu_us_per_op", Against::Etcd, Bound::AtMost(most))
    }

    fn p99(self, most: f64) -> Self {
        self.must("p99_ms", Against::Etcd, Bound::AtMost(most))
    }

    fn own(self, figure: &'static str, bound: Bound) -> Self {
        self.must(figure, Against::Itself, bound)
    }

    fn etcd(self, figure: &'static str, bound: Bound) -> Self {
        self.must(figure, Against::Etcd, bound)
    }

    fn three(mut self) -> Self {
        self.members = 3;
        self
    }

    fn long(mut self) -> Self {
        self.long = true;
        self
    }
}

fn row(name: &'static str, what: &'static str, kind: Kind) -> Row {
    Row {
        name,
        what,
        members: 1,
        kind,
        targets: Vec::new(),
        long: false,
    }
}

/// A load by so many clients, ten to a connection.
fn load(name: &'static str, what: &'static str, workload: Workload, clients: usize) -> Row {
    let spec = Spec::new(clients, clients.div_ceil(10));
    row(name, what, Kind::Load(workload, spec))
}

/// Ranges read what is there; fewer keys are filled sooner.
fn range(name: &'static str, what: &'static str, workload: Workload, clients: usize) -> Row {
    let spec = Spec {
        keys: 10_000,
        ..Spec::new(clients, clients.div_ceil(10))
    };
    row(name, what, Kind::Load(workload, spec))
}

/// Watchers over ten connections.
fn watch(name: &'static str, what: &'static str, workload: Workload, writers: usize) -> Row {
    row(name, what, Kind::Load(workload, Spec::new(writers, 10)))
}

/// All rows.
pub fn all() -> Vec<Row> {
    use Bound::{AtLeast, AtMost};
    let mut rows = vec![
        load("put-1", "put, 1 client", Workload::Put, 1)
            .rate(1.4)
            .cpu(0.5)
            .p99(0.5)
            // 0.35 ms where a sync takes 0.16.
            .own("p50_less_sync_ms", AtMost(0.19)),
        load("put-100", "put, 100 clients", Workload::Put, 100)
            .rate(2.5)
            .null(0.65)
            .cpu(0.35)
            .p99(0.5),
        load("put-1000", "put, 1,000 clients", Workload::Put, 1000)
            .rate(1.6)
            .null(0.75)
            .cpu(0.35)
            .p99(0.5),
        load(
            "put3-100",
            "put, three members, 100 clients",
            Workload::Put,
            100,
        )
        .three()
        .rate(2.5)
        .cpu(0.35)
        .p99(0.5),
        load(
            "put3-1000",
            "put, three members, 1,000 clients",
            Workload::Put,
            1000,
        )
        .three()
        .rate(2.5)
        .cpu(0.35)
        .p99(0.5),
    ];
    rows.extend(ranges());
    rows.extend(mixes());
    rows.extend(watches());
    rows.extend([
        load(
            "lease-100",
            "lease grant and keep-alive, 100 clients",
            Workload::Lease,
            100,
        )
        .rate(1.5)
        .null(0.85)
        .cpu(0.5),
        row("lease-held", "1,000,000 live leases", Kind::LeasesHeld)
            .own("held_share", AtLeast(1.0)),
        row(
            "lease-ending",
            "50,000 leases that end at once",
            Kind::LeasesEnding,
        )
        .own("late_max_s", AtMost(1.0)),
        row("many", "1,000,000 keys of 8 + 256 bytes", Kind::Many)
            .rate(2.5)
            .cpu(0.35)
            .etcd("loaded_rss_mib", AtMost(0.35))
            .etcd("restarted_rss_mib", AtMost(0.2))
            .etcd("restart_s", AtMost(0.15))
            .etcd("restart_killed_s", AtMost(0.15))
            .etcd("range_s", AtMost(0.35))
            .own("range_adds_mib", AtMost(30.0))
            .own("range_stream_adds_mib", AtMost(4.0))
            .etcd("snapshot_mib_per_s", AtLeast(4.0)),
        row(
            "many-puts",
            "load of 1,000,000 keys by single puts, 100 clients",
            Kind::ManyPuts,
        )
        .rate(2.5)
        .cpu(0.35),
        row(
            "compaction",
            "puts while a large history is compacted",
            Kind::Compaction,
        )
        .own("rate_ratio", AtLeast(0.95)),
        row(
            "beside",
            "puts beside ten ranges of 100,000 keys and silent watchers",
            Kind::Beside,
        )
        .own("p99_ratio", AtMost(1.5)),
        row("steady", "ten minutes of puts, 100 clients", Kind::Steady)
            .own("worst_second", AtLeast(0.7))
            .long(),
        row("big", "random puts into 10 GB against 100 MB", Kind::Big)
            .own("p99_ratio", AtMost(2.0))
            .long(),
        row("idle", "data directory of an idle new member", Kind::Idle)
            .own("disk_mib", AtMost(20.0)),
    ]);
    rows
}

fn ranges() -> Vec<Row> {
    vec![
        range(
            "range-100",
            "range of one key, linearizable, 100 clients",
            Workload::Range,
            100,
        )
        .rate(1.7)
        .null(0.9)
        .cpu(0.45),
        range(
            "range-1000",
            "range of one key, linearizable, 1,000 clients",
            Workload::Range,
            1000,
        )
        .rate(1.4)
        .null(0.9)
        .cpu(0.45),
        range(
            "range3-100",
            "range of one key, three members, 100 clients",
            Workload::Range,
            100,
        )
        .three()
        .rate(1.8)
        .cpu(0.45),
        range(
            "range-serial-100",
            "range of one key, serializable, 100 clients",
            Workload::RangeSerializable,
            100,
        )
        .rate(1.7)
        .null(0.95)
        .cpu(0.4),
        range(
            "range-serial-1000",
            "range of one key, serializable, 1,000 clients",
            Workload::RangeSerializable,
            1000,
        )
        .rate(1.4)
        .null(0.95)
        .cpu(0.4),
        range(
            "range-keys",
            "range of 1,000 keys, 10 clients",
            Workload::RangeMany,
            10,
        )
        .rate(4.0)
        .cpu(0.25),
    ]
}

fn mixes() -> Vec<Row> {
    let mixed = |row: Row, rate| row.rate(rate).cpu(0.4).p99(0.5);
    vec![
        mixed(
            load(
                "cas-100",
                "compare-and-swap, 100 clients",
                Workload::Cas,
                100,
            ),
            2.0,
        ),
        mixed(
            range(
                "txn-mixed-100",
                "mixed transactions, 100 clients",
                Workload::TxnMixed,
                100,
            ),
            4.0,
        ),
        mixed(
            range(
                "mixed-90-10",
                "90 % ranges, 10 % puts, 100 clients",
                Workload::Mixed,
                100,
            ),
            2.0,
        ),
        mixed(
            load(
                "kubernetes",
                "Kubernetes-shaped, 100 clients",
                Workload::Kubernetes,
                100,
            ),
            2.0,
        ),
    ]
}

fn watches() -> Vec<Row> {
    vec![
        // One put on its way: with more, etcd's watchers fall behind and wait for its next pass
        // over them, a tenth of a second later, and the row would compare with its worst case.
        watch("watch-one", "1,000 watchers on one key", Workload::Watch, 1)
            .rate(3.0)
            .cpu(0.35),
        watch(
            "watch-latency",
            "the same at 20 puts/s, from put to event",
            Workload::WatchLatency,
            1,
        )
        .p99(0.4),
        watch(
            "watch-many",
            "1,000 watch streams on own keys",
            Workload::WatchMany,
            10,
        )
        .rate(3.0)
        .cpu(0.35),
    ]
}
