//! Containers run for real: as root, in namespaces of their own.
