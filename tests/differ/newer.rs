//! What the reference cannot be asked as it stands, because its version does not know it or does
//! not survive it, and what it is asked instead.

use fated::pb::etcdserverpb::{
    MemberAddRequest, RangeRequest, WatchCreateRequest, WatchRequest,
    range_request::{SortOrder, SortTarget},
    watch_request::RequestUnion,
};

use crate::ask::{Answer, Ask, Refusal};

/// How the reference's answer comes about.
pub enum Question {
    /// It is asked this.
    Send(Ask),
    /// It would panic; this is what etcd 3.7 says.
    Known(Answer),
}

/// Options that do not exist. etcd 3.5.1 ends with a panic on them, newer ones refuse them.
pub fn has_bad_sort(request: &RangeRequest) -> bool {
    SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
}

/// A start below zero. etcd refuses it since 3.5.24; older ones search history for it.
pub fn has_negative_start(request: &WatchRequest) -> bool {
    match &request.request_union {
        Some(RequestUnion::CreateRequest(create)) => create.start_revision < 0,
        _ => false,
    }
}

/// Addresses that etcd takes although nobody can be reached there.
pub fn has_useless_url(request: &MemberAddRequest) -> bool {
    let useless = |url: &String| url.contains("//:") || url.contains('@');
    request.peer_ur_ls.iter().any(useless)
}

/// What the reference is asked for this.
pub fn question(ask: &Ask) -> Question {
    match ask {
        Ask::Range(request) | Ask::RangeStream(request) if has_bad_sort(request) => {
            let text = match request.key.is_empty() {
                true => "etcdserver: key is not provided",
                false => "etcdserver: invalid sort option",
            };
            let text = text.to_owned();
            Question::Known(Err(Refusal { code: 3, text }))
        }
        // What is said to the same Range must be what is streamed, where a target without an order
        // does not count.
        Ask::RangeStream(request) => {
            let mut request = request.clone();
            if request.sort_order == SortOrder::None as i32 {
                request.sort_target = SortTarget::Key as i32;
            }
            Question::Send(Ask::Range(request))
        }
        Ask::MemberAdd(request) if has_useless_url(request) => {
            // Otherwise the two would have other members from here on.
            let peer_ur_ls = vec![String::new()];
            let refused = MemberAddRequest {
                peer_ur_ls,
                ..request.clone()
            };
            Question::Send(Ask::MemberAdd(refused))
        }
        Ask::Watch(number, request) if has_negative_start(request) => {
            // Refused in the same way, with another reason.
            let create = WatchCreateRequest {
                key: bytes::Bytes::from_static(b"b"),
                range_end: bytes::Bytes::from_static(b"a"),
                ..Default::default()
            };
            let request_union = Some(RequestUnion::CreateRequest(create));
            Question::Send(Ask::Watch(*number, WatchRequest { request_union }))
        }
        ask => Question::Send(ask.clone()),
    }
}
