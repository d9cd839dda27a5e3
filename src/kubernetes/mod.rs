//! Speaking Kubernetes: client, manifests, rolling updates.
