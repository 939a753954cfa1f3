//! An allocator that counts what each thread holds, and refuses more than a limit.

#![allow(unsafe_code, reason = "an allocator cannot be made without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// What is being run: its name, the input.
    static INPUT: Cell<(&'static str, *const [u8])> = const { Cell::new(("", &[])) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` returns, and the most that this thread held meanwhile beyond what it held before. Beyond `limit` bytes
/// the input is kept, allocations fail, and the process ends.
pub fn counted<T>(limit: usize, name: &'static str, input: &[u8], work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    INPUT.set((name, input));
    MOST.set(before);
    LIMIT.set(before.saturating_add(limit));
    let done = work();
    LIMIT.set(usize::MAX);
    (done, MOST.get().saturating_sub(before))
}

/// Whether the thread may hold so much more.
fn take(bytes: usize) -> bool {
    let held = HELD.get().wrapping_add(bytes);
    // What other threads allocated may be freed here: the sum can fall below 0.
    if held.cast_signed() > 0 && held > LIMIT.get() {
        LIMIT.set(usize::MAX);
        let (name, input) = INPUT.get();
        // SAFETY: `counted` holds the input while the limit is set.
        crate::keep(name, unsafe { &*input });
        return false;
    }
    HELD.set(held);
    if held.cast_signed() > MOST.get().cast_signed() {
        MOST.set(held);
    }
    true
}

// SAFETY: every call goes on to the system's allocator; counting touches no memory that is allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        if take(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        if take(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.set(HELD.get().wrapping_sub(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        if bytes > layout.size() && !take(bytes - layout.size()) {
            return std::ptr::null_mut();
        }
        if bytes < layout.size() {
            HELD.set(HELD.get().wrapping_sub(layout.size() - bytes));
        }
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, bytes) }
    }
}
