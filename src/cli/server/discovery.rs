//! A new cluster whose members find each other through another cluster, etcd or ours:
//!
//! ```text
//! /_etcd/registry/<token>/_config/size     how many members there will be
//! /_etcd/registry/<token>/members/<id>     name=url,name=url of one that came
//! ```
//!
//! The first of them, in the order in which they came, are the cluster; whoever comes later is told
//! that it is full. Invariant: all members of one token get the same list, because the order is
//! that of revisions and no member takes its word back.
//!
//! Nothing else runs in this process yet, so this may block.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

use super::joining::aside;
use crate::{
    host::tokio::log::Log,
    kernel::{Fault, MemberId},
    pb::etcdserverpb::{
        AuthenticateRequest, PutRequest, RangeRequest, auth_client::AuthClient, kv_client::KvClient,
    },
};

const CALLER: &str = "server/discovery.rs:0";
const PREFIX: &str = "/_etcd/registry";
/// Pause between two looks at who has come.
const PAUSE: Duration = Duration::from_millis(500);
/// A failed request is repeated after 2 s, 4 s, ... and at most this many doublings.
const DOUBLINGS_MAX: u32 = 8;
/// The service sends away who pings more often; Go's clients keep to the same.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// Where the others are found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Discovery {
    /// `--discovery-endpoints`.
    pub endpoints: Vec<String>,
    /// `--discovery-token`.
    pub token: String,
    /// `--discovery-dial-timeout`.
    pub dial_timeout: Duration,
    /// `--discovery-request-timeout`.
    pub request_timeout: Duration,
    /// `--discovery-keepalive-time`.
    pub keepalive_time: Duration,
    /// `--discovery-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// `--discovery-user` and `--discovery-password`.
    pub user: Option<(String, String)>,
}

/// Why it ends.
enum End {
    /// No repetition would help.
    Final(&'static str),
    /// The service did not answer as it should.
    Unanswered(String),
}

/// Tells the service that this member is there, waits for the others, and returns all of them as
/// `name=url,name=url`.
pub(super) fn join(
    discovery: &Discovery,
    member: MemberId,
    own: &str,
    log: &Log,
) -> Result<String, Fault> {
    aside(async {
        let mut service = Service {
            channels: channels(discovery)?,
            at: 0,
            discovery,
            pass: None,
            log,
        };
        let found = service.join(member, own).await;
        found.map_err(|reason| {
            let fields = [
                ("discovery-token", json!(discovery.token)),
                ("discovery-endpoints", json!(discovery.endpoints)),
                ("error", json!(reason)),
            ];
            log.warn(
                CALLER,
                "failed to bootstrap; discovery token was already used",
                &fields,
            );
            let advice = "do not reuse discovery token; generate a new one to bootstrap a cluster";
            log.warn(CALLER, advice, &[]);
            Fault::State(format!("failed to join discovery cluster ({reason})"))
        })
    })
}

/// One way to each endpoint; it connects when it is used.
fn channels(discovery: &Discovery) -> Result<Vec<Channel>, Fault> {
    let mut channels = Vec::new();
    for text in &discovery.endpoints {
        let url = match text.contains("://") {
            true => text.clone(),
            false => format!("http://{text}"),
        };
        let endpoint = Endpoint::from_shared(url)
            .ok()
            .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"));
        let endpoint = endpoint.ok_or_else(|| {
            let reason = "it must be host:port or http://host:port";
            Fault::State(format!("--discovery-endpoints: {text}: {reason}"))
        })?;
        channels.push(
            endpoint
                .connect_timeout(discovery.dial_timeout)
                .timeout(discovery.request_timeout)
                .http2_keep_alive_interval(discovery.keepalive_time.max(PING_INTERVAL_MIN))
                .keep_alive_timeout(discovery.keepalive_timeout)
                .connect_lazy(),
        );
    }
    Ok(channels)
}

struct Service<'a> {
    channels: Vec<Channel>,
    /// The endpoint that is asked until it fails.
    at: usize,
    discovery: &'a Discovery,
    /// What the service knows us by.
    pass: Option<AsciiMetadataValue>,
    log: &'a Log,
}

/// One member that has come.
struct Registered {
    key: String,
    urls: String,
    revision: i64,
}

impl Service<'_> {
    async fn join(&mut self, member: MemberId, own: &str) -> Result<String, &'static str> {
        let key = format!("{}/{:x}", self.members_key(), member.get());
        self.patiently(member, &key, own, Step::Look).await?;
        self.patiently(member, &key, own, Step::Register).await?;
        self.log.info(
            CALLER,
            "register member itself successfully",
            &[("memberKey", json!(key)), ("memberInfo", json!(own))],
        );
        let mut told = usize::MAX;
        loop {
            let (size, members) = self.patiently(member, &key, own, Step::Look).await?;
            if members.len() >= size {
                let urls: Vec<String> =
                    members.into_iter().take(size).map(|one| one.urls).collect();
                self.log
                    .info(CALLER, "found all needed peers from discovery service", &[]);
                return Ok(urls.join(","));
            }
            if told != members.len() {
                told = members.len();
                let fields = [("clusterSize", json!(size)), ("found-peers", json!(told))];
                self.log
                    .info(CALLER, "waiting for peers from discovery service", &fields);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Repeats a step until the service answers; it may be starting as well.
    async fn patiently(
        &mut self,
        member: MemberId,
        key: &str,
        own: &str,
        step: Step,
    ) -> Result<(usize, Vec<Registered>), &'static str> {
        let mut failed = 0;
        let mut rounds = 0;
        loop {
            let done = match step {
                Step::Look => self.look(key).await,
                Step::Register => self.register(key, own).await,
            };
            match done {
                Ok(found) => return Ok(found),
                Err(End::Final(reason)) => return Err(reason),
                Err(End::Unanswered(reason)) => {
                    self.pass = None;
                    self.at = (self.at + 1) % self.channels.len();
                    failed += 1;
                    if failed % self.channels.len() != 0 {
                        continue; // another endpoint may be better
                    }
                    rounds = (rounds + 1).min(DOUBLINGS_MAX);
                    let backoff = Duration::from_secs(1 << rounds);
                    let fields = [
                        ("backoff", json!(format!("{backoff:?}"))),
                        ("local-member-id", json!(format!("{:x}", member.get()))),
                        ("reason", json!(reason)),
                    ];
                    self.log
                        .warn(CALLER, "retry connecting to discovery service", &fields);
                    tokio::time::sleep(backoff).await;
                }
            }
        }
    }

    fn client(&self) -> KvClient<Channel> {
        KvClient::new(self.channels[self.at].clone())
    }

    fn members_key(&self) -> String {
        format!("{PREFIX}/{}/members", self.discovery.token)
    }

    /// The size of the cluster, and who has come, in that order.
    async fn look(&mut self, own_key: &str) -> Result<(usize, Vec<Registered>), End> {
        let size_key = format!("{PREFIX}/{}/_config/size", self.discovery.token);
        let size = self.range(size_key, false).await?;
        let size = size
            .first()
            .ok_or(End::Final("discovery: size key not found"))?;
        let size = size.urls.parse::<usize>().ok().filter(|size| *size > 0);
        let size = size.ok_or(End::Final("discovery: size key is bad"))?;
        let mut members = self.range(self.members_key(), true).await?;
        members.retain(|member| member.urls.contains('='));
        members.sort_by_key(|member| member.revision);
        let among_first = members
            .iter()
            .take(size)
            .any(|member| member.key == own_key);
        if members.len() >= size && !among_first {
            return Err(End::Final("discovery: cluster is full"));
        }
        Ok((size, members))
    }

    async fn register(&mut self, key: &str, own: &str) -> Result<(usize, Vec<Registered>), End> {
        let request = PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(own.as_bytes()),
            ..Default::default()
        };
        let request = self.signed(request).await?;
        self.client().put(request).await.map_err(unanswered)?;
        Ok((0, Vec::new()))
    }

    async fn range(&mut self, key: String, prefix: bool) -> Result<Vec<Registered>, End> {
        let range_end = match prefix {
            true => end_of_prefix(&key),
            false => Bytes::new(),
        };
        let request = RangeRequest {
            key: key.into(),
            range_end,
            ..Default::default()
        };
        let request = self.signed(request).await?;
        let answer = self.client().range(request).await.map_err(unanswered)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let found = answer.into_inner().kvs.into_iter().map(|kv| Registered {
            key: text(&kv.key),
            urls: text(&kv.value),
            revision: kv.create_revision,
        });
        Ok(found.collect())
    }

    /// A request under the name we were given, if any.
    async fn signed<T>(&mut self, request: T) -> Result<Request<T>, End> {
        let mut request = Request::new(request);
        if let Some((name, password)) = &self.discovery.user {
            if self.pass.is_none() {
                let mut client = AuthClient::new(self.channels[self.at].clone());
                let who = AuthenticateRequest {
                    name: name.clone(),
                    password: password.clone(),
                };
                let answer = client.authenticate(who).await.map_err(unanswered)?;
                let pass = AsciiMetadataValue::try_from(answer.into_inner().token);
                self.pass = pass.ok();
            }
            if let Some(pass) = &self.pass {
                request.metadata_mut().insert("token", pass.clone());
            }
        }
        Ok(request)
    }
}

#[derive(Clone, Copy)]
enum Step {
    Look,
    Register,
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn unanswered(status: Status) -> End {
    End::Unanswered(status.message().to_owned())
}

/// The first key behind all keys that begin so.
fn end_of_prefix(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("a prefix is not empty");
    *last += 1; // a letter, so there is no carry
    end.into()
}
