//! Service proxy and cluster DNS.
