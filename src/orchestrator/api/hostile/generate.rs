//! Requests from a random number generator: right ones of every kind, with something wrong in most of them.

use std::fmt;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

use crate::orchestrator::api::kinds::{self, Kind};
use crate::orchestrator::api::protobuf;

/// Who asks: user and group.
pub(super) const USERS: &[(&str, &str)] = &[
    ("admin", "system:masters"),
    ("system:node:w1", "system:nodes"),
    ("system:kube-proxy:w1", "system:kube-proxies"),
    ("balancer", "system:flightcage:load-balancers"),
    ("stranger", "strangers"),
];
/// How often each of them asks: an administrator gets furthest.
const WEIGHTS: &[usize] = &[0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 4];
const NAMES: &[&str] = &["a", "b", "web", "w1", "default", "kubernetes"];
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-node-lease", "a"];
const PARTS: &[&str] = &[
    "status",
    "scale",
    "binding",
    "log",
    "finalize",
    "exec",
    "é",
    "status/status",
];
const METHODS: &[&str] = &[
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "WATCH",
];
const PATHS: &[&str] = &[
    "/",
    "/api",
    "/apis",
    "/apis/apps",
    "/apis/apps/v1",
    "/apis/example.org/v1",
    "/apis/example.org/v1/namespaces/default/lamps",
    "/apis/example.org/v1/namespaces/default/lamps/a",
    "/apis/example.org/v1/namespaces/default/lamps/a/scale",
    "/apis/example.org/v1/namespaces/default/lamps/a/status",
    "/apis/%C3%A9/v1",
    "/version",
    "/version/",
    "/openapi/v2",
    "/openapi/v3",
    "/healthz",
    "/readyz",
    "/livez",
    "/metrics",
    "//api//v1//pods",
    "/api/v1/namespaces/default/pods/%00",
    "/api/v2/pods",
    "/api/v1/namespaces/%2e%2e/secrets/%2e%2e",
    "/flightcage/v1/nodes/w1/tunnel",
    "/flightcage/v1/nodes/w1/beat",
    "/flightcage/v1/balancer",
    "/flightcage/v1/namespaces/default/pods/a/exec",
    "/api/v1/watch/pods",
    "*",
];
/// What requests may ask for, and odd values of it.
const PARAMETERS: &[(&str, &[&str])] = &[
    ("watch", &["1", "true", "0", "x"]),
    (
        "limit",
        &[
            "1",
            "0",
            "500",
            "-1",
            "18446744073709551615",
            "18446744073709551616",
            "é",
        ],
    ),
    (
        "continue",
        &[
            "",
            "!",
            "MSBh",
            "MTggL3JlZ2lzdHJ5L2NvcmUvcG9kcy9kZWZhdWx0L2E",
            "é",
        ],
    ),
    (
        "resourceVersion",
        &["", "0", "1", "4200", "18446744073709551615", "-1", "x"],
    ),
    ("resourceVersionMatch", &["Exact", "NotOlderThan", "é"]),
    (
        "timeoutSeconds",
        &[
            "0",
            "1",
            "18446744073709551615",
            "9223372036854775807",
            "-1",
            "1e9",
        ],
    ),
    ("sendInitialEvents", &["true", "false"]),
    ("allowWatchBookmarks", &["true"]),
    ("dryRun", &["All", "None", ""]),
    ("fieldValidation", &["Strict", "Warn", "Ignore", "é"]),
    ("fieldManager", &["kubectl", "é", ""]),
    ("force", &["true", "x"]),
    (
        "gracePeriodSeconds",
        &["0", "30", "-1", "9223372036854775807", "x"],
    ),
    (
        "propagationPolicy",
        &["Orphan", "Background", "Foreground", "é"],
    ),
    (
        "labelSelector",
        &[
            "app=web",
            "app in (a,b),!c",
            "(((((",
            "a=b=c",
            ",,,",
            "!",
            "app notin ()",
            "é=é",
            "a in (",
            ")(",
            "x!=y,z",
        ],
    ),
    (
        "fieldSelector",
        &[
            "metadata.name=a",
            "spec.nodeName=w1",
            "metadata.name!=é",
            "=",
            "a",
            ",,",
            "status.phase=Running",
            "spec.color=red",
            "metadata.namespace=",
            "type==Opaque",
        ],
    ),
    ("container", &["c", "é", ""]),
    ("tailLines", &["0", "18446744073709551615", "-1"]),
    ("follow", &["true"]),
    (
        "sinceTime",
        &["2026-11-30T00:00:00Z", "+262143-01-01T00:00:00Z", "x"],
    ),
    ("command", &["sh", "é"]),
];
const CONTENT_TYPES: &[&str] = &[
    "application/json",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "text/plain",
    "é",
    ";;",
];
const ACCEPTS: &[&str] = &[
    "application/json",
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    "application/json;as=PartialObjectMetadata;v=v1",
    "application/vnd.kubernetes.protobuf",
    "application/vnd.kubernetes.protobuf, */*",
    "text/html",
    ";;;,,,",
    "application/json;as=Song",
];

/// One request.
#[derive(Debug)]
pub(super) struct Generated {
    pub(super) user: &'static str,
    pub(super) method: String,
    pub(super) uri: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl fmt::Display for Generated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body[..self.body.len().min(4096)];
        write!(
            formatter,
            "{} asks {} {} {:?}, {} bytes: {}",
            self.user,
            self.method,
            self.uri,
            self.headers,
            self.body.len(),
            String::from_utf8_lossy(body)
        )
    }
}

fn pick<T: Copy>(random: &mut StdRng, from: &[T]) -> T {
    *from.choose(random).expect("the lists are not empty")
}

pub(super) fn generate(random: &mut StdRng) -> Generated {
    let (user, _) = USERS[pick(random, WEIGHTS)];
    let kind = pick(random, kinds::ALL);
    let method = match random.random_range(0..10) {
        0..3 => "POST",
        3..5 => "PATCH",
        5..7 => "PUT",
        _ => pick(random, METHODS),
    };
    let content_type = match method {
        "PATCH" => pick(random, &CONTENT_TYPES[4..8]),
        _ if random.random_bool(0.8) => "application/json",
        _ => pick(random, CONTENT_TYPES),
    };
    let mut headers = vec![("content-type", content_type.to_owned())];
    if random.random_bool(0.3) {
        headers.push(("accept", pick(random, ACCEPTS).to_owned()));
    }
    if random.random_bool(0.02) {
        headers.push(("content-length", "18446744073709551615".to_owned()));
    }
    Generated {
        user,
        method: method.to_owned(),
        uri: uri(random, kind, method),
        headers,
        body: body(random, kind, method, content_type),
    }
}

fn uri(random: &mut StdRng, kind: &Kind, method: &str) -> String {
    let mut uri = if random.random_bool(0.04) {
        pick(random, PATHS).to_owned()
    } else {
        let root = if kind.group.is_empty() {
            format!("/api/{}", kind.version)
        } else {
            format!("/apis/{}/{}", kind.group, kind.version)
        };
        let place = if kind.namespaced && random.random_bool(0.95) {
            format!("/namespaces/{}", pick(random, NAMESPACES))
        } else {
            String::new()
        };
        let mut path = format!("{root}{place}/{}", kind.plural);
        if method != "POST" && random.random_bool(0.85) {
            path.push('/');
            if random.random_bool(0.03) {
                path.push_str(&escaped(&text(random)));
            } else {
                path.push_str(pick(random, NAMES));
            }
            if random.random_bool(0.3) {
                path.push('/');
                path.push_str(&escaped(pick(random, PARTS)));
            }
        }
        path
    };
    let mut separator = '?';
    while random.random_bool(0.35) {
        let (name, values) = pick(random, PARAMETERS);
        let value = if random.random_bool(0.05) {
            text(random)
        } else {
            pick(random, values).to_owned()
        };
        uri.push_str(&format!("{separator}{name}={}", escaped(&value)));
        separator = '&';
    }
    uri.truncate(uri.floor_char_boundary(60_000));
    uri
}

/// As clients escape it; a few bytes stay as they are.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/!()*,=".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn body(random: &mut StdRng, kind: &Kind, method: &str, content_type: &str) -> Vec<u8> {
    if random.random_bool(0.005) {
        let (open, close) = pick(random, &[("[", "]"), ("{\"a\":", "}"), ("- ", "")]);
        let depth = pick(random, &[60, 64, 120, 1_000, 20_000]);
        return format!("{}1{}", open.repeat(depth), close.repeat(depth)).into_bytes();
    }
    if random.random_bool(0.001) {
        return vec![b' '; pick(random, &[16 << 10, 1 << 20, 3 << 20, (3 << 20) + 1])];
    }
    let mut object = sample(random, kind);
    if method == "DELETE" && random.random_bool(0.9) {
        object = json!({"propagationPolicy": "Background", "gracePeriodSeconds": 0, "preconditions": {"uid": "x"}});
    }
    for _ in 0..pick(random, &[0, 0, 1, 1, 1, 2, 3, 8]) {
        spoil(random, &mut object);
    }
    match content_type {
        "application/json-patch+json" => operations(random, &object).to_string().into_bytes(),
        "application/strategic-merge-patch+json" => {
            directives(random, &mut object);
            object.to_string().into_bytes()
        }
        "application/vnd.kubernetes.protobuf" => {
            let mut bytes = protobuf::encode(&object).unwrap_or_else(|| b"k8s\0".to_vec());
            spoil_bytes(random, &mut bytes);
            bytes
        }
        "application/yaml" | "application/apply-patch+yaml" => {
            let mut bytes = match random.random_range(0..4) {
                0 => b"a: &a [1, *a]\nb: *a\n<<: *a\nc: !!binary x\nd: .inf\n".to_vec(),
                _ => serde_saphyr::to_string(&object)
                    .unwrap_or_default()
                    .into_bytes(),
            };
            spoil_bytes(random, &mut bytes);
            bytes
        }
        _ => {
            let mut bytes = object.to_string().into_bytes();
            if random.random_bool(0.05) {
                spoil_bytes(random, &mut bytes);
            }
            bytes
        }
    }
}

/// An object of this kind that the server would take, if the same name is not there already.
fn sample(random: &mut StdRng, kind: &Kind) -> Value {
    let name = pick(random, NAMES);
    let containers = json!([{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}],
        "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}}, "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "readinessProbe": {"httpGet": {"port": 80, "path": "/"}}}]);
    let spec = json!({"containers": containers, "volumes": [{"name": "v", "emptyDir": {}}]});
    let labels = json!({"app": "web"});
    let template = json!({"metadata": {"labels": labels}, "spec": spec});
    let mut object = match kind.kind {
        "Pod" => json!({"spec": spec, "status": {"podIP": "10.78.1.2"}}),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => {
            json!({"spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}})
        }
        "ReplicationController" => {
            json!({"spec": {"replicas": 2, "selector": labels, "template": template}})
        }
        "Job" => json!({"spec": {"completions": 1, "template": template}}),
        "Service" => {
            json!({"spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http", "name": "http"}], "type": "NodePort"}})
        }
        "Secret" => json!({"data": {"k": "dmFsdWU="}, "stringData": {"s": "t"}}),
        "ConfigMap" => json!({"data": {"k": "v"}, "binaryData": {"b": "dg=="}}),
        "Node" => {
            json!({"spec": {"podCIDR": "10.78.1.0/24", "taints": [{"key": "x", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.77.0.12"}]}})
        }
        "Event" => {
            json!({"involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"}, "type": "Normal", "reason": "R",
            "message": "m", "count": 1, "source": {"host": "w1"}, "lastTimestamp": "2026-11-30T00:00:00Z"})
        }
        "Endpoints" => {
            json!({"subsets": [{"addresses": [{"ip": "10.78.1.2"}], "ports": [{"port": 80}]}]})
        }
        "EndpointSlice" => {
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.78.1.2"], "conditions": {"ready": true}}], "ports": [{"port": 80}]})
        }
        "Lease" => {
            json!({"spec": {"holderIdentity": "w1", "leaseDurationSeconds": 40, "renewTime": "2026-11-30T00:00:00.000000Z"}})
        }
        _ => {
            json!({"spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}})
        }
    };
    object["kind"] = json!(kind.kind);
    object["apiVersion"] = json!(kind.api_version());
    object["metadata"] = json!({"name": name, "labels": labels, "annotations": {"a/b": "c"}});
    object
}

/// A text that is wrong in most places: letters of several bytes at every length that has a bound.
fn text(random: &mut StdRng) -> String {
    let length = pick(
        random,
        &[
            0, 1, 14, 15, 16, 57, 58, 59, 62, 63, 64, 252, 253, 254, 255, 256, 257,
        ],
    );
    let plain = "a".repeat(length);
    match random.random_range(0..12) {
        0 => plain,
        1 => format!("{plain}é"),
        2 => format!("{plain}🐦"),
        3 => "é".repeat(length),
        4 => format!("{plain}/{plain}"),
        5 => format!("é/{plain}"),
        6 => format!("{plain}\u{0}\n\"\\"),
        7 => pick(
            random,
            &[
                "..",
                ".",
                "-",
                "/",
                "*",
                "$patch",
                "~",
                "\u{202e}",
                "=",
                "system:masters",
            ],
        )
        .to_owned(),
        8 => pick(
            random,
            &[
                "10.0.0.0/33",
                "10.78.1.2",
                "::",
                "0.0.0.0/0",
                "999.1.1.1",
                "10.79.0.1",
            ],
        )
        .to_owned(),
        9 => pick(
            random,
            &[
                "1e400",
                "9223372036854775808",
                "-1",
                "0x1p5",
                "1Ei",
                "100Z",
                "1.5m",
                "٣",
                "99999999999999999999Gi",
            ],
        )
        .to_owned(),
        10 => pick(
            random,
            &[
                "2026-11-30T00:00:00Z",
                "-262144-01-01T00:00:00Z",
                "9999-12-31T23:59:60Z",
                "2026-13-01T00:00:00Z",
            ],
        )
        .to_owned(),
        _ => "x".repeat(pick(random, &[1_000, 4_000, 20_000])),
    }
}

/// Any value at all.
fn value(random: &mut StdRng, depth: usize) -> Value {
    match random.random_range(0..if depth > 3 { 8 } else { 12 }) {
        0 => Value::Null,
        1 => json!(random.random_bool(0.5)),
        2 => json!(pick(
            random,
            &[
                0_i64,
                -1,
                1,
                65_535,
                65_536,
                i64::from(i32::MAX),
                i64::from(i32::MAX) + 1,
                i64::MAX,
                i64::MIN
            ]
        )),
        3 => json!(u64::MAX),
        4 => json!(pick(
            random,
            &[0.5, -0.0, 1e308, 5e-324, 9_007_199_254_740_993.0]
        )),
        5..8 => json!(text(random)),
        8 => Value::Array(
            (0..random.random_range(0..4))
                .map(|_| value(random, depth + 1))
                .collect(),
        ),
        9 => {
            let levels = pick(random, &[5, 60, 64, 65, 120]);
            (0..levels).fold(json!(1), |inner, _| json!([inner]))
        }
        10 => {
            // Of plain ones: of lists of lists it would be without an end.
            let plain = random.random_range(0..i32::MAX);
            Value::Array(vec![json!(plain); pick(random, &[10, 100, 1_000])])
        }
        _ => {
            let fields =
                (0..random.random_range(0..4)).map(|_| (key(random), value(random, depth + 1)));
            Value::Object(fields.collect())
        }
    }
}

fn key(random: &mut StdRng) -> String {
    const KEYS: &[&str] = &[
        "metadata",
        "name",
        "namespace",
        "spec",
        "status",
        "kind",
        "apiVersion",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "uid",
        "resourceVersion",
        "generateName",
        "containers",
        "ports",
        "data",
        "stringData",
        "type",
        "replicas",
        "selector",
        "template",
        "conditions",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "clusterIP",
        "nodePort",
        "externalName",
        "hostNetwork",
        "nodeName",
        "podCIDR",
        "eventTime",
    ];
    if random.random_bool(0.2) {
        text(random)
    } else {
        pick(random, KEYS).to_owned()
    }
}

/// Makes one place of it wrong.
fn spoil(random: &mut StdRng, object: &mut Value) {
    let mut here = object;
    // A random way down; objects and lists end it now and then.
    loop {
        let inner = match here {
            Value::Object(map) if !map.is_empty() => map.len(),
            Value::Array(list) if !list.is_empty() => list.len(),
            _ => break,
        };
        if random.random_bool(0.2) {
            break;
        }
        let at = random.random_range(0..inner);
        here = match here {
            Value::Object(map) => match map.values_mut().nth(at) {
                Some(inner) => inner,
                None => return,
            },
            Value::Array(list) => &mut list[at],
            _ => return,
        };
    }
    match (random.random_range(0..4), here) {
        (0, Value::Object(map)) => {
            map.insert(key(random), value(random, 0));
        }
        (1, Value::Object(map)) => {
            let gone = map.keys().next().cloned().unwrap_or_default();
            map.shift_remove(&gone);
        }
        (0, Value::Array(list)) => list.push(value(random, 0)),
        (1, Value::Array(list)) => {
            let twice = list.clone();
            list.extend(twice);
        }
        (_, here) => *here = value(random, 0),
    }
}

fn spoil_bytes(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(0..4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes[at] = random.random(),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, random.random()),
            _ => {
                let twice = bytes[at..].to_vec();
                bytes.extend(twice);
            }
        }
    }
}

/// Paths into an object.
fn pointer(random: &mut StdRng, object: &Value) -> String {
    let mut path = String::new();
    let mut here = object;
    while random.random_bool(0.75) {
        let (step, inner) = match here {
            Value::Object(map) => match map.iter().nth(random.random_range(0..map.len().max(1))) {
                Some((key, inner)) => (key.replace('~', "~0").replace('/', "~1"), inner),
                None => break,
            },
            Value::Array(list) if !list.is_empty() => {
                let at = random.random_range(0..list.len());
                (at.to_string(), &list[at])
            }
            _ => break,
        };
        path.push('/');
        path.push_str(&step);
        here = inner;
    }
    match random.random_range(0..12) {
        0 => path + "/-",
        1 => {
            path + pick(
                random,
                &[
                    "/é",
                    "/~2",
                    "/01",
                    "/-1",
                    "/18446744073709551616",
                    "x",
                    "//",
                ],
            )
        }
        _ => path,
    }
}

fn operations(random: &mut StdRng, object: &Value) -> Value {
    if random.random_bool(0.05) {
        return value(random, 0);
    }
    let count = pick(random, &[1, 1, 2, 5, 30]);
    let operations = (0..count).map(|_| {
        let operation = pick(
            random,
            &["add", "replace", "remove", "copy", "move", "test", "jump"],
        );
        let (path, from) = (pointer(random, object), pointer(random, object));
        json!({"op": operation, "path": path, "from": from, "value": value(random, 0)})
    });
    Value::Array(operations.collect())
}

fn directives(random: &mut StdRng, object: &mut Value) {
    let mut add = |map: &mut Map<String, Value>| {
        let (key, value) = match random.random_range(0..6) {
            0 => (
                "$patch",
                json!(pick(random, &["replace", "delete", "merge", "é"])),
            ),
            1 => ("$retainKeys", value(random, 0)),
            2 => (
                "$setElementOrder/containers",
                json!([{"name": "c"}, value(random, 0)]),
            ),
            3 => ("$setElementOrder/finalizers", value(random, 0)),
            4 => ("$deleteFromPrimitiveList/finalizers", value(random, 0)),
            _ => return,
        };
        map.insert(key.to_owned(), value);
    };
    for at in [
        "",
        "/metadata",
        "/spec",
        "/spec/containers/0",
        "/spec/template/spec",
    ] {
        if let Some(Value::Object(map)) = object.pointer_mut(at) {
            add(map);
        }
    }
}
