//! Traffic in the shape of a Kubernetes control plane.
//!
//! Of a hundred operations 45 update a pod and 15 the lease object of a node (a transaction that
//! puts if the mod revision is what the writer knows, and reads otherwise), 35 read a pod and 5
//! list up to 500 pods. Beside them two API servers watch a prefix for each kind of object, with
//! the value before and with progress, and a lease of etcd per node is kept alive each second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fated::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, RangeRequest, WatchCreateRequest,
    response_op::Response,
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    client::{Conn, frame},
    fill,
    methods::{GRANT, KEEP_ALIVE, RANGE, TXN, WATCH, get, range, swap, watch},
    record::Record,
    workload::value,
};

const PODS: u64 = 5000;
const NODES: u64 = 200;
const NAMESPACES: u64 = 50;
const VALUE_BYTES: usize = 1024;
const LIST_LIMIT: i64 = 500;
const API_SERVERS: usize = 2;
/// Kinds of objects that are watched; most of them hardly change.
const KINDS: [&str; 25] = [
    "pods",
    "leases",
    "nodes",
    "services",
    "endpoints",
    "endpointslices",
    "configmaps",
    "secrets",
    "events",
    "deployments",
    "replicasets",
    "daemonsets",
    "statefulsets",
    "jobs",
    "cronjobs",
    "namespaces",
    "serviceaccounts",
    "roles",
    "rolebindings",
    "clusterroles",
    "ingresses",
    "networkpolicies",
    "persistentvolumes",
    "persistentvolumeclaims",
    "storageclasses",
];
const NODE_LEASE_SECONDS: i64 = 40;

/// What the writers know of the objects: their mod revisions, 0 for unknown.
pub struct Known {
    revisions: Vec<AtomicI64>,
    value: Bytes,
}

impl Known {
    /// Nothing is known.
    pub fn new() -> Self {
        let unknown = || AtomicI64::new(0);
        Self {
            revisions: std::iter::repeat_with(unknown)
                .take((PODS + NODES) as usize)
                .collect(),
            value: value(VALUE_BYTES),
        }
    }
}

/// The key of an object: pods first, then nodes.
fn object(number: u64) -> Bytes {
    let key = match number.checked_sub(PODS) {
        None => format!(
            "/registry/pods/ns-{:02}/pod-{number:04}",
            number % NAMESPACES
        ),
        Some(node) => format!("/registry/leases/kube-node-lease/node-{node:03}"),
    };
    key.into()
}

/// Puts all objects.
pub async fn fill(conn: &Conn) -> Result<(), String> {
    fill::numbered(conn, PODS + NODES, &value(VALUE_BYTES), object).await
}

/// One operation.
pub async fn once(conn: &mut Conn, known: &Known, drawn: u64) -> Result<(), String> {
    let which = drawn / 100;
    match drawn % 100 {
        0..45 => update(conn, known, which % PODS).await,
        45..60 => update(conn, known, PODS + which % NODES).await,
        60..95 => {
            let request = frame(&get(object(which % PODS)));
            conn.count(&RANGE, request).await.map(|_| ())
        }
        _ => {
            let from = format!("/registry/pods/ns-{:02}/", which % NAMESPACES);
            let request = RangeRequest {
                limit: LIST_LIMIT,
                ..range(from, "/registry/pods0")
            };
            conn.count(&RANGE, frame(&request)).await.map(|_| ())
        }
    }
}

/// Updates an object; whoever knows an old revision learns of the new one and tries again.
async fn update(conn: &mut Conn, known: &Known, number: u64) -> Result<(), String> {
    let revision = &known.revisions[number as usize];
    loop {
        let request = swap(
            object(number),
            &known.value,
            revision.load(Ordering::Relaxed),
        );
        let answer = conn.ask(&TXN, &request).await?;
        let now = match answer.succeeded {
            true => answer.header.unwrap_or_default().revision,
            false => match answer
                .responses
                .into_iter()
                .next()
                .and_then(|one| one.response)
            {
                Some(Response::ResponseRange(read)) => {
                    read.kvs.first().map_or(0, |kv| kv.mod_revision)
                }
                _ => return Err("a swap that failed without telling the object".to_owned()),
            },
        };
        revision.fetch_max(now, Ordering::Relaxed);
        if answer.succeeded {
            return Ok(());
        }
    }
}

/// Starts what runs beside the operations.
pub async fn background(conns: &[Conn], record: &Arc<Record>) -> Result<JoinSet<()>, String> {
    let mut tasks = JoinSet::new();
    let kinds = std::iter::repeat_n(KINDS, API_SERVERS).flatten();
    for (kind, conn) in kinds.zip(conns.iter().cycle()) {
        let create = watch(WatchCreateRequest {
            key: format!("/registry/{kind}/").into(),
            range_end: format!("/registry/{kind}0").into(),
            progress_notify: true,
            prev_kv: true,
            ..WatchCreateRequest::default()
        });
        let mut stream = conn.clone().stream(&WATCH, frame(&create)).await?;
        if !stream.next().await?.created {
            return Err("an event before the watch".to_owned());
        }
        let record = Arc::clone(record);
        tasks.spawn(async move {
            loop {
                if let Err(why) = stream.raw().await {
                    return record.fail(why);
                }
            }
        });
    }
    let mut conn = conns[0].clone();
    let mut leases = Vec::new();
    for _ in 0..NODES {
        let asked = LeaseGrantRequest {
            ttl: NODE_LEASE_SECONDS,
            id: 0,
        };
        leases.push(conn.ask(&GRANT, &asked).await?.id);
    }
    let record = Arc::clone(record);
    tasks.spawn(async move {
        if let Err(why) = keep(conn, leases).await {
            record.fail(why);
        }
    });
    Ok(tasks)
}

/// Keeps the leases alive.
async fn keep(mut conn: Conn, leases: Vec<i64>) -> Result<(), String> {
    let first = LeaseKeepAliveRequest { id: leases[0] };
    let mut stream = conn.stream(&KEEP_ALIVE, frame(&first)).await?;
    stream.next().await?;
    loop {
        for id in &leases {
            stream.send(&LeaseKeepAliveRequest { id: *id })?;
        }
        for _ in &leases {
            if stream.next().await?.ttl <= 0 {
                return Err("the lease of a node is gone".to_owned());
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
}
