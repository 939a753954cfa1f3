//! The embedded model family and the small network that scores its merges.
