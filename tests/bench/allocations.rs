//! Counts allocations, in builds with the feature `count-allocations` only: counting costs time.

#[cfg(feature = "count-allocations")]
mod counting {
    use std::{
        alloc::{GlobalAlloc, Layout},
        sync::atomic::{AtomicU64, Ordering},
    };

    pub static MADE: AtomicU64 = AtomicU64::new(0);

    use crate::ALLOCATOR;

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    // SAFETY: every call goes on unchanged to an allocator that keeps the contract.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            MADE.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the caller's promise is passed on.
            unsafe { ALLOCATOR.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            MADE.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the caller's promise is passed on.
            unsafe { ALLOCATOR.alloc_zeroed(layout) }
        }

        unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
            MADE.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the caller's promise is passed on.
            unsafe { ALLOCATOR.realloc(at, layout, bytes) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise is passed on.
            unsafe { ALLOCATOR.dealloc(at, layout) }
        }
    }
}

/// Allocations so far, where they are counted.
pub fn count() -> Option<u64> {
    #[cfg(feature = "count-allocations")]
    return Some(counting::MADE.load(std::sync::atomic::Ordering::Relaxed));
    #[cfg(not(feature = "count-allocations"))]
    None
}
