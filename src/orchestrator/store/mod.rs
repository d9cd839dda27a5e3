//! The store seam and the embedded store.
