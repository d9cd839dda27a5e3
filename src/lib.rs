//! Flightcage boots a small cluster, deploys a stack, breaks things on purpose, and says whether the stack survived.
//!
//! # The map
//! ```text
//! cli            one file per family of commands; the only place that prints; errors become exit codes here
//!  testing       a cluster for Rust tests: drives the binary, shares one cluster, resets it between tests
//!  scenario      a scenario file: plan, load, faults, verdict, report
//!   cluster      composes: up, down, install over SSH, the daemon, certificates
//!    orchestrator  a Kubernetes API, its store, controllers, the node agent, the service proxy and DNS
//!    machines      providers of machines, boxes, and the fabric between machines
//!    images        OCI images: built from Debian packages, served by the registry mirror
//!     kubernetes   API client, manifests, rolling update of ReplicationControllers
//!     balancer     layer-4 balancing over a dial seam: the proxies' and the host's
//!      shell       running commands and copying files: here, and over SSH
//!       transport  the seam between a connection and the network that carries it
//!        model     names, units, addresses, specifications: plain data
//! ```
//! The same binary is the command line on the host; `daemon`, one per cluster, which holds its machines and their network; and in
//! the machines `server` (control plane), `agent`, `proxy`, and one helper process per pod.
//!
//! # Invariants
//! - Imports run downward only; modules side by side do not know each other. `tests/imports.rs` holds it.
//! - `cluster` and `scenario` know the orchestrator only as a Kubernetes API; `scenario` knows machines only through its fault
//!   seam; balancing and failure detection never read what injects faults.
//! - Nothing below `cli` prints. Roles log through `tracing`; commands report through channels and callbacks.
//! - Every connection is mutually authenticated; only where the cluster's file takes `tokens`, a ServiceAccount's stands for a client's
//!   certificate. Secrets are not in arguments, logs or reports; files that hold them are 0600.
//! - What a process owns dies with it: machines with the daemon, an owned daemon with the command that started it.
//! - There is no `unsafe` code, no global state beyond TLS and logging, and no name resolution through libc (the binary is static).

pub mod balancer;
pub mod cli;
pub mod cluster;
pub mod images;
pub mod kubernetes;
pub mod machines;
pub mod model;
pub mod orchestrator;
pub mod scenario;
pub mod shell;
pub mod testing;
pub mod transport;
