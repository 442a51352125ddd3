//! Texts and codes of the checks, against a core that answers as it is told to.

use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::*;
use crate::{
    api::{
        EdgeLimits,
        metrics::{Detail, Instruments},
    },
    kernel::Event,
    pb::etcdserverpb::RangeResponse,
};

/// What the core says.
#[derive(Clone, Default)]
struct Core {
    status: StatusResponse,
    /// How a linearizable and a serializable read end; none is no answer at all.
    reads: [Option<Result<(), ApiError>>; 2],
    stalled: Duration,
}

fn well() -> Core {
    Core {
        status: StatusResponse {
            leader: 1,
            ..StatusResponse::default()
        },
        reads: [Some(Ok(())); 2],
        stalled: Duration::ZERO,
    }
}

fn start(core: Core) -> Handle {
    let (sender, mut events) = mpsc::unbounded_channel();
    let stalled = core.stalled;
    let registry = prometheus::Registry::new();
    let instruments = Instruments::new(
        registry,
        Detail::Basic,
        std::sync::Arc::new(move || stalled),
    );
    let limits = EdgeLimits {
        health_timeout: Duration::from_millis(50),
        ..EdgeLimits::default()
    };
    let handle = Handle::measured(sender, limits, instruments);
    let desk = handle.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let Event::Call { call, request, .. } = event else {
                continue;
            };
            match request {
                Request::Status(_) => desk.reply(call, Ok(Response::Status(core.status.clone()))),
                Request::Range(range) => {
                    let answer = core.reads[usize::from(range.serializable)];
                    if let Some(answer) = answer {
                        let answer = answer.map(|()| Response::Range(RangeResponse::default()));
                        desk.reply(call, answer);
                    }
                }
                other => panic!("a health check asks for {other:?}"),
            }
        }
    });
    handle
}

async fn ask(handle: &Handle, path: &str) -> (u16, String) {
    let request = Incoming::builder().uri(path).body(()).unwrap();
    let page = answer(handle, &request).await.expect("a known path");
    let code = page.status().as_u16();
    let body = page.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_healthy_member_says_what_etcd_says() {
    let handle = start(well());
    let told = async |path| ask(&handle, path).await;
    let yes = r#"{"health":"true","reason":""}"#.to_owned();
    assert_eq!(told("/health").await, (200, yes));
    assert_eq!(told("/livez").await, (200, "ok\n".to_owned()));
    let story = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
        [+]non_learner ok\nok\n";
    assert_eq!(told("/readyz?verbose").await, (200, story.to_owned()));
    let part = "[+]linearizable_read ok\nok\n".to_owned();
    assert_eq!(
        told("/readyz/linearizable_read?verbose=1").await,
        (200, part)
    );
    let less = "[+]data_corruption ok\n[+]serializable_read ok\nok\n".to_owned();
    let path = "/readyz?verbose&exclude=linearizable_read&exclude=non_learner&exclude=what";
    assert_eq!(told(path).await, (200, less));
    for path in [
        "/livez/linearizable_read",
        "/readyz/",
        "/livezz",
        "/readyz/a/b",
    ] {
        let request = Incoming::builder().uri(path).body(()).unwrap();
        assert!(answer(&handle, &request).await.is_none(), "{path}");
    }
    let text = handle.instruments().text(&[]);
    for line in [
        "etcd_server_health_success 1",
        "etcd_server_health_failures 0",
        "etcd_server_healthcheck{name=\"non_learner\",type=\"readyz\"} 1",
        "etcd_server_healthchecks_total\
         {name=\"linearizable_read\",status=\"success\",type=\"readyz\"} 2",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn without_a_quorum_a_member_is_alive_and_not_ready() {
    let mut core = well();
    core.status.leader = 0;
    core.reads[0] = None;
    let handle = start(core);
    let no = "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n".to_owned();
    assert_eq!(ask(&handle, "/health").await, (503, no));
    assert_eq!(ask(&handle, "/health?serializable=true").await.0, 200);
    assert_eq!(ask(&handle, "/livez").await.0, 200);
    let story = "[+]data_corruption ok\n[+]serializable_read ok\n\
        [-]linearizable_read failed: context deadline exceeded\n[+]non_learner ok\n\n";
    assert_eq!(ask(&handle, "/readyz").await, (503, story.to_owned()));
}

#[tokio::test]
async fn alarms_learners_and_failed_reads_are_told_apart() {
    let mut core = well();
    core.status.errors = vec!["memberID:17 alarm:NOSPACE ".to_owned()];
    let handle = start(core.clone());
    let no = "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n".to_owned();
    assert_eq!(ask(&handle, "/health").await, (503, no));
    assert_eq!(ask(&handle, "/health?exclude=NOSPACE").await.0, 200);
    assert_eq!(
        ask(&handle, "/readyz").await.0,
        200,
        "a full store is ready"
    );
    core.status
        .errors
        .push("memberID:18 alarm:CORRUPT ".to_owned());
    core.status.is_learner = true;
    core.reads[0] = Some(Err(ApiError::Timeout));
    core.reads[1] = Some(Err(ApiError::TooManyRequests));
    let handle = start(core);
    let story = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
        [-]linearizable_read failed: etcdserver: request timed out\n\
        [-]non_learner failed: not supported for learner\n\n";
    assert_eq!(ask(&handle, "/readyz").await, (503, story.to_owned()));
    let no = "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: request timed out\"}\n";
    let path = "/health?exclude=NOSPACE&exclude=CORRUPT";
    assert_eq!(ask(&handle, path).await, (503, no.to_owned()));
}

#[tokio::test]
async fn a_disk_that_hangs_fails_livez_only_after_the_bound() {
    let mut core = well();
    core.stalled = WRITE_STALL_MAX - Duration::from_secs(1);
    assert_eq!(ask(&start(core.clone()), "/livez").await.0, 200);
    core.stalled = WRITE_STALL_MAX;
    let handle = start(core);
    let story = "[+]serializable_read ok\n\
        [-]write_path failed: the disk has not answered a write for 60 seconds\n\n";
    assert_eq!(ask(&handle, "/livez").await, (503, story.to_owned()));
    assert_eq!(ask(&handle, "/livez?exclude=write_path").await.0, 200);
}

#[tokio::test]
async fn a_cluster_without_a_version_says_so() {
    let request = Incoming::builder().uri("/version").body(()).unwrap();
    let page = crate::api::http::endpoints::version(&start(well()), &request).await;
    let body = page.into_body().collect().await.unwrap().to_bytes();
    let text = r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#;
    assert_eq!(body, text);
}

#[tokio::test]
async fn only_get_is_answered() {
    let handle = start(well());
    for path in ["/health", "/livez", "/readyz/non_learner"] {
        let request = Incoming::builder()
            .method("POST")
            .uri(path)
            .body(())
            .unwrap();
        let page = answer(&handle, &request).await.unwrap();
        assert_eq!(page.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(page.headers()[header::ALLOW], "GET");
    }
}
