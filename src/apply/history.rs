//! The store as watches read it.

use super::StateMachine;
use crate::{
    backend::Backend,
    kernel::DiskError,
    mvcc::{HistoryQuery, ReadError},
    pb::mvccpb::{Event, KeyValue},
    watch::History,
};

impl<B: Backend> History for StateMachine<B> {
    fn revision(&self) -> i64 {
        self.store.revision()
    }

    fn compact_revision(&self) -> i64 {
        self.store.compact_revision()
    }

    fn at(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, DiskError> {
        match self.store.get(&self.view, key, revision) {
            Ok(kv) => Ok(kv),
            // A previous value that is compacted away is simply not shown.
            Err(ReadError::Compacted | ReadError::FutureRevision) => Ok(None),
            Err(ReadError::Disk(error)) => Err(error),
        }
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<(i64, Vec<Event>)>, i64), DiskError> {
        let query = HistoryQuery {
            from,
            to,
            key: &[0],
            range_end: &[0],
            revisions_max,
            bytes_max,
        };
        match self.store.history(&self.view, &query) {
            Ok(history) => Ok((history.events, history.next)),
            // The hub asks only for what its compact revision allows.
            Err(ReadError::Compacted | ReadError::FutureRevision) => Ok((Vec::new(), from)),
            Err(ReadError::Disk(error)) => Err(error),
        }
    }
}
