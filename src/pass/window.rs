//! The byte budget: a job under way holds a permit for the memory it takes.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that may be under way.
#[derive(Debug)]
pub struct Window {
    total: usize,
    free: Mutex<usize>,
    returned: Condvar,
}

/// A share of a [`Window`], given back when dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    window: &'a Window,
    bytes: usize,
}

impl Window {
    pub fn new(bytes: usize) -> Self {
        Self { total: bytes, free: Mutex::new(bytes), returned: Condvar::new() }
    }

    /// Waits until `bytes` are free. A job larger than the window gets the whole of it, alone.
    pub fn take(&self, bytes: usize) -> Permit<'_> {
        let bytes = bytes.min(self.total);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.returned.wait_while(free, |free| *free < bytes).unwrap_or_else(PoisonError::into_inner);
        *free -= bytes;
        Permit { window: self, bytes }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.window.free.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.window.returned.notify_one();
    }
}
