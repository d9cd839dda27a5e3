//! Kubernetes' protobuf, which typed Go clients and kubectl send: translated from and to JSON at the edge, so that nothing else
//! knows of it.
//!
//! A body is `k8s\0` and a `runtime.Unknown`, which names the object's type and holds its bytes. The messages are described in
//! `protobuf/messages.txt`: a line each, `NAME: NUMBER FIELD TYPE|…`, with the numbers and names that Kubernetes' API fixes for
//! ever. A type is `s` (text), `i` (integer), `b` (boolean), `y` (bytes), `q` (quantity), `time`, `micro`, `intstr`, `raw` (JSON),
//! `extra` (a list in a message), `f` (a number with a fraction), `schema` (a schema or a boolean), or a message; `?` before it marks a scalar whose zero is not the same as its absence, `[` a list
//! and `{` a map by text. A field called `~` is a message whose fields stand beside it in JSON.

mod read;
pub(super) mod schema;
mod wire;
mod write;

pub(super) use read::decode;
pub(super) use write::{encode, encode_message};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// How every body begins.
const MAGIC: &[u8] = b"k8s\0";
/// Messages in messages; Kubernetes' own types need less than half of it, schemas in definitions two for each level of a list.
const DEPTH: usize = 64;

/// Whether a client takes protobuf and nothing else that is served.
pub(super) fn only(accept: &str) -> bool {
    let media: Vec<&str> = accept
        .split(',')
        .map(|choice| choice.split(';').next().unwrap_or_default().trim())
        .collect();
    let json = ["application/json", "application/*", "*/*"];
    media.contains(&MEDIA_TYPE) && !media.iter().any(|choice| json.contains(choice))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_survive_the_journey() {
        let deployment = json!({"kind": "Deployment", "apiVersion": "apps/v1",
            "metadata": {"name": "d", "namespace": "default", "labels": {"a": "b"}, "creationTimestamp": "2026-11-30T00:00:00Z"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}],
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                    "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "resources": {"limits": {"cpu": "100m"}},
                    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}}]}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}}}});
        let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "data": {"k": "dg=="}, "type": "Opaque"});
        let definition = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "d"},
            "spec": {"group": "g.example", "names": {"plural": "ds", "kind": "D"}, "scope": "Namespaced", "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "a": {"type": "number", "minimum": 0.5, "default": {"x": [1]}},
                    "b": {"type": "array", "items": {"type": "string", "enum": ["y"]}},
                    "c": {"type": "object", "additionalProperties": {"type": "integer"}},
                    "d": {"type": "object", "additionalProperties": true}}}}}]}});
        for object in [deployment, secret, definition] {
            let bytes = encode(&object).expect("its type is known");
            assert_eq!(decode(&bytes).expect("its own bytes"), object);
        }
    }

    #[test]
    fn a_zero_that_means_absence_is_left_out() {
        // v1 ConfigMap: metadata.name "m" and an empty generateName, as Go writes them.
        let object = [
            b"\x0a\x05\x0a\x01m\x12\x00".as_slice(),
            b"\x12\x06\x0a\x01k\x12\x01v",
        ]
        .concat();
        let mut bytes = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
        bytes.push(u8::try_from(object.len()).expect("short"));
        bytes.extend(object);
        let expected = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "data": {"k": "v"}});
        assert_eq!(decode(&bytes).expect("decodes"), expected);
    }

    #[test]
    fn a_list_is_written_with_its_items() {
        let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
            "items": [{"metadata": {"name": "m"}}]});
        let bytes = encode(&list).expect("known");
        let found = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(found(b"ConfigMapList") && found(b"\x12\x05\x0a\x03\x0a\x01m"));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in [
            b"".as_slice(),
            b"k8s\0",
            b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"{}",
        ] {
            assert!(decode(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn only_protobuf_is_only_protobuf() {
        assert!(only("application/vnd.kubernetes.protobuf"));
        assert!(!only(
            "application/vnd.kubernetes.protobuf, application/json"
        ));
        assert!(!only("application/vnd.kubernetes.protobuf,*/*"));
        assert!(!only(""));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".as_slice(), &bytes].concat());
        }
    }
}
