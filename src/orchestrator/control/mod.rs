//! Controllers: pure functions of a snapshot.
