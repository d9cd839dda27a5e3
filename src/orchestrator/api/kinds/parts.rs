//! What the strategies of several kinds share.

pub(in crate::orchestrator::api) mod causes;
pub(in crate::orchestrator::api) mod cells;
pub(in crate::orchestrator::api) mod container;
pub(in crate::orchestrator::api) mod data;
pub(in crate::orchestrator::api) mod decode;
pub(in crate::orchestrator::api) mod fields;
pub(in crate::orchestrator::api) mod job_spec;
pub(in crate::orchestrator::api) mod label_selector;
pub(in crate::orchestrator::api) mod names;
pub(in crate::orchestrator::api) mod numbers;
pub(in crate::orchestrator::api) mod pod_defaults;
pub(in crate::orchestrator::api) mod pod_spec;
pub(in crate::orchestrator::api) mod quantities;
pub(in crate::orchestrator::api) mod rbac;
pub(in crate::orchestrator::api) mod selector;
pub(in crate::orchestrator::api) mod template;
pub(in crate::orchestrator::api) mod volumes;
pub(in crate::orchestrator::api) mod warnings;
