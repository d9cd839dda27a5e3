//! The kinds whose types are known, in one list.

use k8s_openapi::api::{
    apps::v1 as apps, autoscaling::v2 as autoscaling, batch::v1 as batch,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use serde_json::Value;

use super::trace::{self, TypeFields};
use super::walk::{self, Finding};

/// A kind and what its type can be asked.
pub(super) struct Root {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) walk: fn(&Value) -> Vec<Finding>,
    pub(super) trace: fn() -> Vec<TypeFields>,
}

macro_rules! roots {
    ($($module:ident::$type:ident),* $(,)?) => {
        &[$(Root {
            api_version: <$module::$type as k8s_openapi::Resource>::API_VERSION,
            kind: <$module::$type as k8s_openapi::Resource>::KIND,
            walk: walk::walk::<$module::$type>,
            trace: trace::trace::<$module::$type>,
        }),*]
    };
}

static ROOTS: &[Root] = roots![
    core::Namespace,
    core::Node,
    core::Pod,
    core::ReplicationController,
    core::Service,
    core::Endpoints,
    core::Secret,
    core::ConfigMap,
    core::ServiceAccount,
    core::Event,
    core::LimitRange,
    core::ResourceQuota,
    core::PersistentVolume,
    core::PersistentVolumeClaim,
    discovery::EndpointSlice,
    coordination::Lease,
    apps::Deployment,
    apps::ReplicaSet,
    apps::DaemonSet,
    apps::StatefulSet,
    apps::ControllerRevision,
    batch::Job,
    batch::CronJob,
    autoscaling::HorizontalPodAutoscaler,
    networking::Ingress,
    networking::IngressClass,
    networking::NetworkPolicy,
    policy::PodDisruptionBudget,
    rbac::Role,
    rbac::RoleBinding,
    rbac::ClusterRole,
    rbac::ClusterRoleBinding,
    storage::StorageClass,
    scheduling::PriorityClass,
    apiextensions::CustomResourceDefinition,
];

pub(super) fn find(api_version: &str, kind: &str) -> Option<&'static Root> {
    ROOTS
        .iter()
        .find(|root| root.api_version == api_version && root.kind == kind)
}
