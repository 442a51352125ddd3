//! Tests of the log. `disk` is a disk and a driver that keeps the caller's duties, `damage` harms
//! what is on it in every place, `model` compares random histories with a naive log.

mod damage;
mod disk;
mod model;

/// Goal: of the segments only those are taken for durable behind which another one was begun.
#[test]
fn from_the_last_begun_segment_on_nothing_is_settled() {
    use super::first_unsettled;
    use crate::kernel::SegmentId;

    let from = |begun: &[bool]| {
        let segments = (7..).map(SegmentId::new).zip(begun.iter().copied());
        first_unsettled(&segments.collect::<Vec<_>>()).map(SegmentId::get)
    };
    assert_eq!(from(&[]), None);
    assert_eq!(from(&[true]), Some(7));
    assert_eq!(from(&[true, true, false]), Some(8));
    assert_eq!(from(&[true, false, true]), Some(9));
    assert_eq!(from(&[false, false]), Some(7), "nothing was ever whole");
}
