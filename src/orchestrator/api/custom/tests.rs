//! Definitions and their objects, through requests.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::orchestrator::api::authorize::Identity;
use crate::orchestrator::api::barrier::Barrier;
use crate::orchestrator::api::http::{Server, router};
use crate::orchestrator::api::panics::Panics;
use crate::orchestrator::api::places::{Place, Users};
use crate::orchestrator::api::registry::Registry;
use crate::orchestrator::api::registry::tests::registry;
use crate::orchestrator::api::tokens::Tokens;
use crate::orchestrator::api::tunnels::Tunnels;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LAMPS: &str = "/apis/example.org/v1/namespaces/default/lamps";
const MERGE: &str = "application/merge-patch+json";

/// A server without sockets, and its administrator.
struct Bench {
    router: Router,
    registry: Arc<Registry>,
    who: Identity,
    place: Arc<Place>,
}

/// An answer.
struct Answer {
    code: u16,
    warnings: Vec<String>,
    body: Value,
}

impl Bench {
    async fn new() -> Self {
        let registry = registry().await;
        let barrier = Arc::new(Barrier::default());
        let users = Arc::new(Users::default());
        let who = Identity {
            user: "admin".to_owned(),
            groups: vec!["system:masters".to_owned()],
        };
        let place = Arc::new(users.admit(&who).expect("there are places"));
        let router = router(Server {
            tunnels: Arc::new(Tunnels::new(registry.clone(), barrier.clone())),
            registry: registry.clone(),
            tokens: Arc::new(Tokens::ephemeral().expect("random bytes")),
            barrier,
            cancel: CancellationToken::new(),
            address: "127.0.0.1:6443".to_owned(),
            panics: Panics::default(),
            users,
        });
        Self {
            router,
            registry,
            who,
            place,
        }
    }

    /// With [`lamps`] defined.
    async fn with_lamps() -> Self {
        let bench = Self::new().await;
        let made = bench.post(CRDS, &lamps()).await;
        assert_eq!(made.code, 201, "{}", made.body);
        bench
    }

    async fn ask(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Body::from(body.to_owned());
        let mut request = request.body(body).expect("a request");
        request.extensions_mut().insert(self.who.clone());
        request.extensions_mut().insert(self.place.clone());
        let response = self.router.clone().oneshot(request).await;
        let response = response.unwrap_or_else(|never| match never {});
        let code = response.status().as_u16();
        let warnings = response
            .headers()
            .get_all(header::WARNING)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let bytes = response.into_body().collect().await.expect("a body");
        let body = serde_json::from_slice(&bytes.to_bytes()).unwrap_or_default();
        Answer {
            code,
            warnings,
            body,
        }
    }

    async fn get(&self, uri: &str) -> Answer {
        self.ask("GET", uri, &[], "").await
    }

    async fn post(&self, uri: &str, object: &Value) -> Answer {
        self.write("POST", uri, "application/json", object).await
    }

    async fn write(&self, method: &str, uri: &str, media: &str, object: &Value) -> Answer {
        let headers = [("content-type", media)];
        self.ask(method, uri, &headers, &object.to_string()).await
    }
}

/// A definition with one version of this schema.
fn define(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "lamps.example.org"},
        "spec": {
            "group": "example.org",
            "scope": "Namespaced",
            "names": {"plural": "lamps", "kind": "Lamp", "shortNames": ["lp"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

/// A definition with something of everything.
pub(in crate::orchestrator::api) fn lamps() -> Value {
    let mut crd = define(json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["bulb"], "properties": {
            "bulb": {"type": "string", "enum": ["led", "arc"]},
            "watts": {"type": "integer", "minimum": 1, "maximum": 100, "default": 5},
            "label": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 4},
            "note": {"type": "string", "nullable": true},
            "since": {"type": "string", "format": "date-time"},
            "port": {"x-kubernetes-int-or-string": true},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 3, "items": {"type": "string"}},
            "rooms": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "level": {"type": "integer", "default": 1}}}},
            "sizes": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "number"}},
            "mode": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            "not": {"type": "string", "not": {"enum": ["no"]}},
            "step": {"type": "number", "multipleOf": 0.5},
            "replicas": {"type": "integer"},
        }},
        "status": {"type": "object", "properties": {"lit": {"type": "boolean"}, "replicas": {"type": "integer"}}},
    }}));
    crd["spec"]["versions"][0]["subresources"] = json!({"status": {}, "scale": {
        "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}});
    crd["spec"]["versions"][0]["additionalPrinterColumns"] = json!([
        {"name": "Bulb", "type": "string", "jsonPath": ".spec.bulb"},
        {"name": "Watts", "type": "integer", "jsonPath": ".spec.watts", "priority": 1},
    ]);
    crd
}

fn lamp(spec: Value) -> Value {
    json!({"apiVersion": "example.org/v1", "kind": "Lamp", "metadata": {"name": "a"}, "spec": spec})
}

#[tokio::test]
async fn a_definition_is_served_at_once() {
    let bench = Bench::new().await;
    assert_eq!(bench.get(LAMPS).await.code, 404);
    let made = bench.post(CRDS, &lamps()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let status = &made.body["status"];
    let conditions = status["conditions"].as_array().expect("conditions");
    let of = |kind: &str| conditions.iter().find(|one| one["type"] == kind);
    for kind in ["NamesAccepted", "Established"] {
        assert_eq!(of(kind).expect(kind)["status"], "True", "{kind}");
    }
    assert_eq!(status["storedVersions"], json!(["v1"]));
    assert_eq!(status["acceptedNames"]["listKind"], "LampList");
    assert_eq!(status["acceptedNames"]["singular"], "lamp");
    let listed = bench.get(LAMPS).await;
    assert_eq!(
        (listed.code, &listed.body["kind"]),
        (200, &json!("LampList"))
    );
    let group = bench.get("/apis/example.org/v1").await.body;
    let names: Vec<&str> = group["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["lamps", "lamps/status", "lamps/scale"]);
    assert_eq!(group["resources"][0]["shortNames"], json!(["lp"]));
    assert_eq!(group["resources"][0]["categories"], json!(["all"]));
    let document = bench.get("/openapi/v3/apis/example.org/v1").await.body;
    let schema = &document["components"]["schemas"]["org.example.v1.Lamp"];
    assert_eq!(
        schema["properties"]["spec"]["properties"]["watts"]["maximum"],
        100
    );
    let index = bench.get("/openapi/v3").await.body;
    assert!(index["paths"]["apis/example.org/v1"].is_object());
}

#[tokio::test]
async fn values_are_held_against_the_schema() {
    let bench = Bench::with_lamps().await;
    for (spec, field, message) in [
        (json!({}), "spec.bulb", "Required value"),
        (
            json!({"bulb": "gas"}),
            "spec.bulb",
            "Unsupported value: \"gas\": supported values: \"led\", \"arc\"",
        ),
        (
            json!({"bulb": "led", "watts": "many"}),
            "spec.watts",
            "Invalid value: \"string\": spec.watts in body must be of type integer: \"string\"",
        ),
        (
            json!({"bulb": "led", "watts": 0}),
            "spec.watts",
            "Invalid value: 0: spec.watts in body should be greater than or equal to 1",
        ),
        (
            json!({"bulb": "led", "watts": 101}),
            "spec.watts",
            "Invalid value: 101: spec.watts in body should be less than or equal to 100",
        ),
        (
            json!({"bulb": "led", "label": "AB"}),
            "spec.label",
            "Invalid value: \"AB\": spec.label in body should match '^[a-z]+$'",
        ),
        (
            json!({"bulb": "led", "label": "a"}),
            "spec.label",
            "Invalid value: \"a\": spec.label in body should be at least 2 chars long",
        ),
        (
            json!({"bulb": "led", "label": "abcde"}),
            "spec.label",
            "Too long: may not be more than 4 bytes",
        ),
        (
            json!({"bulb": "led", "since": "once"}),
            "spec.since",
            "Invalid value: \"once\": spec.since in body must be of type date-time: \"once\"",
        ),
        (
            json!({"bulb": "led", "port": true}),
            "spec.port",
            "Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"bulb": "led", "tags": ["x", "x"]}),
            "spec.tags[1]",
            "Duplicate value: \"x\"",
        ),
        (
            json!({"bulb": "led", "tags": ["a", "b", "c", "d"]}),
            "spec.tags",
            "Too many: 4: must have at most 3 items",
        ),
        (
            json!({"bulb": "led", "rooms": [{"name": "r"}, {"name": "r"}]}),
            "spec.rooms[1]",
            "Duplicate value: {\"name\":\"r\"}",
        ),
        (
            json!({"bulb": "led", "sizes": {"a": "x"}}),
            "spec.sizes.a",
            "Invalid value: \"string\": spec.sizes.a in body must be of type number: \"string\"",
        ),
        (
            json!({"bulb": "led", "mode": {"a": "x", "b": "y"}}),
            "spec.mode",
            "Invalid value: \"\": \"spec.mode\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ),
        (
            json!({"bulb": "led", "not": "no"}),
            "spec.not",
            "Invalid value: \"\": \"spec.not\" must not validate the schema (not)",
        ),
        (
            json!({"bulb": "led", "step": 0.3}),
            "spec.step",
            "Invalid value: 0.3: spec.step in body should be a multiple of 0.5",
        ),
        (
            json!({"bulb": null}),
            "spec.bulb",
            "Invalid value: \"null\": spec.bulb in body must be of type string: \"null\"",
        ),
    ] {
        let refused = bench.post(LAMPS, &lamp(spec.clone())).await;
        assert_eq!(refused.code, 422, "{spec}: {}", refused.body);
        let causes = refused.body["details"]["causes"]
            .as_array()
            .expect("causes");
        let found = causes
            .iter()
            .any(|cause| cause["field"] == field && cause["message"] == message);
        assert!(found, "{spec}: {causes:?}");
    }
    let right = json!({"bulb": "led", "note": null, "port": "http", "step": 1.5, "mode": {"a": "x"},
        "tags": ["x", "y"], "sizes": {"a": 1.5}, "since": "2026-11-30T00:00:00Z"});
    let made = bench.post(LAMPS, &lamp(right)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["metadata"]["generation"], 1);
}

#[tokio::test]
async fn unknown_fields_go_and_defaults_come() {
    let bench = Bench::with_lamps().await;
    let written = lamp(
        json!({"bulb": "led", "colour": "red", "any": {"x": {"y": 1}}, "rooms": [{"name": "r"}]}),
    );
    let strict = format!("{LAMPS}?fieldValidation=Strict");
    let refused = bench.post(&strict, &written).await;
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.body["message"],
        "strict decoding error: unknown field \"spec.colour\""
    );
    let made = bench.post(LAMPS, &written).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert!(
        made.warnings
            .iter()
            .any(|told| told.contains("spec.colour")),
        "{:?}",
        made.warnings
    );
    assert_eq!(
        made.body["spec"],
        json!({"bulb": "led", "any": {"x": {"y": 1}}, "rooms": [{"name": "r", "level": 1}], "watts": 5})
    );
}

#[tokio::test]
async fn parts_are_written_apart() {
    let bench = Bench::with_lamps().await;
    let mut written = lamp(json!({"bulb": "led"}));
    written["status"] = json!({"lit": true});
    let made = bench.post(LAMPS, &written).await;
    assert_eq!((made.code, &made.body["status"]), (201, &Value::Null));
    let one = format!("{LAMPS}/a");
    let lit = json!({"status": {"lit": true, "replicas": 2}, "spec": {"watts": 9}});
    let status = bench
        .write("PATCH", &format!("{one}/status"), MERGE, &lit)
        .await;
    assert_eq!(status.code, 200, "{}", status.body);
    assert_eq!(status.body["spec"]["watts"], 5);
    assert_eq!(status.body["metadata"]["generation"], 1);
    let scale = json!({"spec": {"replicas": 3}});
    let scaled = bench
        .write("PATCH", &format!("{one}/scale"), MERGE, &scale)
        .await;
    assert_eq!(scaled.code, 200, "{}", scaled.body);
    assert_eq!(scaled.body["spec"]["replicas"], 3);
    assert_eq!(scaled.body["status"]["replicas"], 2);
    let now = bench.get(&one).await.body;
    assert_eq!(now["spec"]["replicas"], 3);
    assert_eq!(now["metadata"]["generation"], 2);
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(
        bench.write("PATCH", &one, strategic, &json!({})).await.code,
        415
    );
    let protobuf = "application/vnd.kubernetes.protobuf";
    assert_eq!(
        bench.write("POST", LAMPS, protobuf, &written).await.code,
        415
    );
    let only = [("accept", protobuf)];
    assert_eq!(bench.ask("GET", &one, &only, "").await.code, 406);
}

#[tokio::test]
async fn objects_are_applied_watched_and_shown_in_tables() {
    let bench = Bench::with_lamps().await;
    let uri = format!("{LAMPS}/a?fieldManager=me");
    let apply = "application/apply-patch+yaml";
    let made = bench
        .write(
            "PATCH",
            &uri,
            apply,
            &lamp(json!({"bulb": "led", "watts": 7})),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    let less = bench
        .write("PATCH", &uri, apply, &lamp(json!({"bulb": "arc"})))
        .await;
    assert_eq!(less.body["spec"], json!({"bulb": "arc", "watts": 5}));
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let shown = bench.ask("GET", LAMPS, &[("accept", table)], "").await.body;
    let titles: Vec<&Value> = shown["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(titles, ["Name", "Bulb", "Watts"]);
    assert_eq!(shown["rows"][0]["cells"], json!(["a", "arc", 5]));
    let gone = bench.ask("DELETE", LAMPS, &[], "").await;
    assert_eq!(gone.code, 200);
    assert_eq!(bench.get(&format!("{LAMPS}/a")).await.code, 404);
}

#[tokio::test]
async fn elements_of_lists_are_applied_by_their_keys() {
    let bench = Bench::with_lamps().await;
    let apply = "application/apply-patch+yaml";
    let by = |manager: &str| format!("{LAMPS}/a?fieldManager={manager}");
    for (manager, room) in [("one", "hall"), ("two", "attic")] {
        let spec = json!({"bulb": "led", "rooms": [{"name": room, "level": 2}], "tags": [room]});
        let applied = bench.write("PATCH", &by(manager), apply, &lamp(spec)).await;
        assert!(applied.code < 300, "{}", applied.body);
    }
    let both = bench.get(&format!("{LAMPS}/a")).await.body;
    assert_eq!(both["spec"]["tags"], json!(["hall", "attic"]));
    let less = lamp(json!({"bulb": "led"}));
    let applied = bench.write("PATCH", &by("one"), apply, &less).await;
    assert_eq!(
        applied.body["spec"]["rooms"],
        json!([{"name": "attic", "level": 2}])
    );
}

#[tokio::test]
async fn versions_differ_in_nothing_but_their_name() {
    let bench = Bench::with_lamps().await;
    bench.post(LAMPS, &lamp(json!({"bulb": "led"}))).await;
    let mut crd = bench.get(&format!("{CRDS}/lamps.example.org")).await.body;
    let mut second = crd["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    second["storage"] = json!(false);
    second["deprecated"] = json!(true);
    crd["spec"]["versions"]
        .as_array_mut()
        .expect("versions")
        .push(second);
    let uri = format!("{CRDS}/lamps.example.org");
    let written = bench.write("PUT", &uri, "application/json", &crd).await;
    assert_eq!(written.code, 200, "{}", written.body);
    let read = bench
        .get("/apis/example.org/v2/namespaces/default/lamps/a")
        .await;
    assert_eq!(read.body["apiVersion"], "example.org/v2");
    let group = bench.get("/apis/example.org").await.body;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    let patch = json!({"spec": {"watts": 6}});
    let uri = "/apis/example.org/v2/namespaces/default/lamps/a";
    let changed = bench.write("PATCH", uri, MERGE, &patch).await;
    assert!(
        changed
            .warnings
            .iter()
            .any(|told| told.contains("deprecated")),
        "{:?}",
        changed.warnings
    );
    let read = bench.get(&format!("{LAMPS}/a")).await.body;
    assert_eq!(
        (&read["apiVersion"], &read["spec"]["watts"]),
        (&json!("example.org/v1"), &json!(6))
    );
}

#[tokio::test]
async fn definitions_that_cannot_be_kept_are_refused() {
    let bench = Bench::new().await;
    let plain = || define(json!({"type": "object"}));
    let changed = |pointer: &str, value: Value| {
        let mut crd = plain();
        *crd.pointer_mut(pointer).expect("it is there") = value;
        crd
    };
    let spec = |schema: Value| define(json!({"type": "object", "properties": {"spec": schema}}));
    let at = "spec.versions[0].schema.openAPIV3Schema";
    for (crd, field) in [
        (
            changed("/metadata/name", json!("x.example.org")),
            "metadata.name".to_owned(),
        ),
        (
            changed("/spec/group", json!("org")),
            "spec.group".to_owned(),
        ),
        (
            changed("/spec/scope", json!("World")),
            "spec.scope".to_owned(),
        ),
        (
            changed("/spec/names/kind", json!("L_")),
            "spec.names.kind".to_owned(),
        ),
        (
            changed("/spec/versions/0/storage", json!(false)),
            "spec.versions".to_owned(),
        ),
        (changed("/spec/versions/0/schema", json!({})), at.to_owned()),
        (define(json!({"properties": {}})), format!("{at}.type")),
        (define(json!({"type": "string"})), format!("{at}.type")),
        (spec(json!({})), format!("{at}.properties[spec].type")),
        (
            spec(json!({"type": "array"})),
            format!("{at}.properties[spec].items"),
        ),
        (
            spec(json!({"type": "strong"})),
            format!("{at}.properties[spec].type"),
        ),
        (
            spec(json!({"type": "string", "pattern": "(?=a)"})),
            format!("{at}.properties[spec].pattern"),
        ),
        (
            spec(json!({"type": "string", "pattern": "(a{1000}){1000}"})),
            format!("{at}.properties[spec].pattern"),
        ),
        (
            spec(json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true})),
            format!("{at}.properties[spec].uniqueItems"),
        ),
        (
            spec(json!({"type": "integer", "default": "x"})),
            format!("{at}.properties[spec].default"),
        ),
        (
            spec(json!({"type": "string", "anyOf": [{"type": "string"}]})),
            format!("{at}.properties[spec].anyOf[0].type"),
        ),
        (
            spec(json!({"type": "object", "$ref": "#/x"})),
            format!("{at}.properties[spec].$ref"),
        ),
    ] {
        let refused = bench.post(CRDS, &crd).await;
        assert_eq!(refused.code, 422, "{field}: {}", refused.body);
        let causes = refused.body["details"]["causes"]
            .as_array()
            .expect("causes");
        let found = causes.iter().any(|cause| cause["field"] == field.as_str());
        assert!(found, "{field}: {causes:?}");
    }
    let mut rules = spec(json!({"type": "string", "format": "song",
        "x-kubernetes-validations": [{"rule": "self != ''"}]}));
    rules["spec"]["conversion"] = json!({"strategy": "None"});
    let made = bench.post(CRDS, &rules).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert!(
        made.warnings.iter().any(|told| told.contains("CEL")),
        "{:?}",
        made.warnings
    );
    assert!(
        made.warnings
            .iter()
            .any(|told| told.contains("unrecognized format")),
        "{:?}",
        made.warnings
    );
}

#[tokio::test]
async fn names_are_accepted_once_and_are_free_again() {
    let bench = Bench::with_lamps().await;
    let mut other = define(json!({"type": "object"}));
    other["metadata"]["name"] = json!("torches.example.org");
    other["spec"]["names"] = json!({"plural": "torches", "kind": "Torch", "shortNames": ["lp"]});
    let waits = bench.post(CRDS, &other).await.body;
    assert_eq!(
        waits["status"]["conditions"][0]["reason"],
        "ShortNamesConflict"
    );
    assert_eq!(waits["status"]["conditions"][1]["status"], "False");
    let torches = "/apis/example.org/v1/namespaces/default/torches";
    assert_eq!(bench.get(torches).await.code, 404);
    let lamps = format!("{CRDS}/lamps.example.org");
    let going = bench.ask("DELETE", &lamps, &[], "").await;
    assert_eq!(going.code, 200);
    assert!(going.body["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(
        bench.post(LAMPS, &lamp(json!({"bulb": "led"}))).await.code,
        405
    );
    // The garbage collector's part.
    let released = json!({"metadata": {"finalizers": []}});
    assert_eq!(
        bench.write("PATCH", &lamps, MERGE, &released).await.code,
        200
    );
    assert_eq!(bench.get(LAMPS).await.code, 404);
    assert_eq!(bench.get(torches).await.code, 200);
    let served = bench.registry.served();
    assert_eq!(served.custom().len(), 1);
    assert_eq!(served.custom()[0].tag(), "torches.example.org");
}

#[tokio::test]
async fn what_an_update_leaves_alone_is_not_refused() {
    let bench = Bench::with_lamps().await;
    bench
        .post(LAMPS, &lamp(json!({"bulb": "led", "watts": 90})))
        .await;
    let mut crd = bench.get(&format!("{CRDS}/lamps.example.org")).await.body;
    let watts = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/watts/maximum";
    *crd.pointer_mut(watts).expect("it is there") = json!(50);
    let uri = format!("{CRDS}/lamps.example.org");
    let written = bench.write("PUT", &uri, "application/json", &crd).await;
    assert_eq!(written.code, 200, "{}", written.body);
    let one = format!("{LAMPS}/a");
    let label = json!({"spec": {"label": "abc"}});
    assert_eq!(bench.write("PATCH", &one, MERGE, &label).await.code, 200);
    let watts = json!({"spec": {"watts": 80}});
    assert_eq!(bench.write("PATCH", &one, MERGE, &watts).await.code, 422);
}
