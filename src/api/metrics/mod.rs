//! What `/metrics` shows: the figures of the core, of the host and of the edge, in one text.
//!
//! Host and edge count into one registry; the core hands its figures out when it is asked. A core
//! that does not answer leaves its figures out and holds back nothing else. Invariant: a name
//! stands once in the text, whoever counts under it.

mod families;
mod rpc;
mod watch;

use std::{fmt, sync::Arc, time::Duration};

use prometheus::{
    Encoder, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

pub use self::{
    rpc::{Counted, Rpcs, Short},
    watch::WatchMeter,
};
use crate::kernel::figure::Metric;

/// The form of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How much is counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Detail {
    /// What costs next to nothing.
    #[default]
    Basic,
    /// Also how long each RPC took.
    Extensive,
}

/// How long the disk has not answered an operation that clients wait for.
pub type Stalled = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Everything the edge counts, and the registry it shares with the host. Clones are the same.
#[derive(Clone)]
pub struct Instruments {
    shared: Arc<Shared>,
}

struct Shared {
    registry: Registry,
    stalled: Stalled,
    rpcs: Rpcs,
    watch: WatchMeter,
    health: HealthMeter,
    build: IntGaugeVec,
}

/// Outcomes of health checks.
#[derive(Clone, Debug)]
pub struct HealthMeter {
    /// `/health` said yes.
    pub success: IntCounter,
    /// `/health` said no.
    pub failures: IntCounter,
    last: IntGaugeVec,
    checks: IntCounterVec,
}

impl fmt::Debug for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instruments").finish_non_exhaustive()
    }
}

impl Default for Instruments {
    /// Instruments of an edge without a host.
    fn default() -> Self {
        Self::new(Registry::new(), Detail::Basic, Arc::new(|| Duration::ZERO))
    }
}

impl Instruments {
    /// Instruments that count into a registry; each registry takes one set.
    pub fn new(registry: Registry, detail: Detail, stalled: Stalled) -> Self {
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            let registered = registry.register(Box::new(process));
            registered.expect("a registry takes one set");
        }
        let build = IntGaugeVec::new(
            Opts::new("etcd_server_version", "1 for the version of this server."),
            &["server_version"],
        );
        let shared = Shared {
            rpcs: Rpcs::new(&registry, detail),
            watch: WatchMeter::new(&registry),
            health: HealthMeter::new(&registry),
            build: register(&registry, build.expect("the names are plain")),
            registry,
            stalled,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The calls of the client port.
    pub fn rpcs(&self) -> &Rpcs {
        &self.shared.rpcs
    }

    /// The responses of watch streams.
    pub fn watch(&self) -> &WatchMeter {
        &self.shared.watch
    }

    /// The health checks.
    pub fn health(&self) -> &HealthMeter {
        &self.shared.health
    }

    /// How long the disk has not answered an operation that clients wait for.
    pub fn stalled(&self) -> Duration {
        (self.shared.stalled)()
    }

    /// What is running here.
    pub fn set_build(&self, version: &str, features: &[Feature]) {
        self.shared.build.with_label_values(&[version]).set(1);
        let options = Opts::new(
            "etcd_server_feature_enabled",
            "1 for each gate that is open.",
        );
        let gates = IntGaugeVec::new(options, &["name", "stage"]).expect("the names are plain");
        for Feature { name, stage, open } in features {
            let gate = gates.with_label_values(&[*name, *stage]);
            gate.set(i64::from(*open));
        }
        // A second call would change nothing that is known already.
        let _ = self.shared.registry.register(Box::new(gates));
    }

    /// The text, with the figures of the core as they are now.
    pub fn text(&self, core: &[Metric]) -> String {
        let mut families = self.shared.registry.gather();
        families::add_descriptors(&mut families);
        families::add_core(&mut families, core);
        let mut out = Vec::new();
        // It fails only for a family without metrics, and those are left out above.
        let encoded = TextEncoder::new().encode(&families, &mut out);
        encoded.expect("every family has a metric");
        String::from_utf8(out).expect("the encoder writes text")
    }
}

/// A feature gate of etcd's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// `ALPHA` or `BETA`.
    pub stage: &'static str,
    /// Whether it is open.
    pub open: bool,
}

/// The gates of etcd 3.7, as they stand when nobody moves them.
pub const FEATURES: [Feature; 9] = {
    const fn gate(name: &'static str, stage: &'static str, open: bool) -> Feature {
        Feature { name, stage, open }
    }
    [
        gate("StopGRPCServiceOnDefrag", "ALPHA", false),
        gate("InitialCorruptCheck", "ALPHA", false),
        gate("CompactHashCheck", "ALPHA", false),
        gate("TxnModeWriteWithSharedBuffer", "BETA", true),
        gate("LeaseCheckpoint", "ALPHA", false),
        gate("LeaseCheckpointPersist", "ALPHA", false),
        gate("SetMemberLocalAddr", "ALPHA", false),
        gate("FastLeaseKeepAlive", "BETA", true),
        gate("PriorityRequest", "ALPHA", false),
    ]
};

impl HealthMeter {
    fn new(registry: &Registry) -> Self {
        let counter = |name, help| {
            let made = IntCounter::new(name, help);
            register(registry, made.expect("the name is plain"))
        };
        let last = IntGaugeVec::new(
            Opts::new(
                "etcd_server_healthcheck",
                "1 if a check went well last, else 0.",
            ),
            &["type", "name"],
        );
        let checks = IntCounterVec::new(
            Opts::new(
                "etcd_server_healthchecks_total",
                "Health checks by their outcome.",
            ),
            &["type", "name", "status"],
        );
        Self {
            success: counter("etcd_server_health_success", "Times /health said yes."),
            failures: counter("etcd_server_health_failures", "Times /health said no."),
            last: register(registry, last.expect("the names are plain")),
            checks: register(registry, checks.expect("the names are plain")),
        }
    }

    /// A check of a page was made.
    pub fn checked(&self, page: &str, check: &str, well: bool) {
        self.last
            .with_label_values(&[page, check])
            .set(i64::from(well));
        let status = if well { "success" } else { "error" };
        self.checks.with_label_values(&[page, check, status]).inc();
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    let registered = registry.register(Box::new(collector.clone()));
    registered.expect("a registry takes one set of instruments");
    collector
}
