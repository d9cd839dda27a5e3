//! The fabric: a userspace layer-2 switch with rules on directed links, and a gateway for the host.
