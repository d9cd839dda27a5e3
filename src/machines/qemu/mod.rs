//! The `qemu` provider.
