//! `[[step]]`: an id, when it begins, and one of the actions that the reader knows.

use serde_json::{Value as Json, json};

use super::super::file::actions;
use super::fault::fault;
use super::load::texts;
use super::shapes::{closed, map, named, text, variable, word, words};

pub(super) fn step() -> Json {
    let actions = actions();
    let mut properties = vec![("id", id()), ("when", when())];
    properties.extend(actions.iter().map(|action| (*action, of(action))));
    let mut step = closed(&properties, &["id"]);
    let one: Vec<Json> = actions
        .iter()
        .map(|action| json!({ "required": [action] }))
        .collect();
    step["oneOf"] = json!(one);
    step
}

/// A name, or one with a variable in it.
fn id() -> Json {
    json!({ "anyOf": [word(), variable()] })
}

fn when() -> Json {
    let mut when = closed(
        &[
            ("step", text()),
            ("plus", named("duration")),
            ("replaced", named("count")),
        ],
        &["step"],
    );
    when["not"] = json!({ "required": ["plus", "replaced"] });
    when
}

fn of(action: &str) -> Json {
    match action {
        "fault" => fault(),
        "wait" => wait(),
        "rolling_update" => closed(
            &[
                ("from", text()),
                ("to", text()),
                ("update_period", named("duration")),
                ("within", named("positive")),
                ("ends", words(&["done", "stopped"])),
            ],
            &["from", "to"],
        ),
        "rollback" => closed(
            &[
                ("old", text()),
                ("new", text()),
                ("within", named("positive")),
            ],
            &["old", "new", "within"],
        ),
        "delete_pod" => closed(
            &[("rc", text()), ("grace", named("duration"))],
            &["rc", "grace"],
        ),
        "exec" => {
            let mut command = texts();
            command["minItems"] = json!(1);
            closed(
                &[
                    ("rc", text()),
                    ("command", command),
                    ("pods", words(&["one", "all"])),
                    ("contains", text()),
                    ("within", named("positive")),
                ],
                &["rc", "command", "within"],
            )
        }
        "apply" => closed(&[("file", text())], &["file"]),
        "http" => closed(
            &[
                ("url", named("url")),
                ("status", named("status")),
                ("within", named("positive")),
            ],
            &["url", "status", "within"],
        ),
        "scale" => closed(
            &[
                ("kind", text()),
                ("name", name()),
                ("replicas", named("count")),
                ("within", named("positive")),
            ],
            &["kind", "name", "replicas", "within"],
        ),
        "delete" => closed(
            &[
                ("kind", text()),
                ("name", name()),
                ("within", named("positive")),
            ],
            &["kind", "name", "within"],
        ),
        _ => json!(true),
    }
}

fn wait() -> Json {
    let replicas = closed(
        &[
            ("rc", text()),
            ("count", named("count")),
            ("avoiding", text()),
        ],
        &["rc", "count"],
    );
    let within = || ("within", named("positive"));
    let mut object = vec![("kind", text()), ("name", name()), within()];
    object.extend(wanted());
    let mut object = closed(&object, &["kind", "name", "within"]);
    object["oneOf"] = one_wanted();
    json!({ "oneOf": [
        closed(&[("replicas_ready", replicas), within()], &["replicas_ready", "within"]),
        closed(&[("nodes_ready", named("count")), within()], &["nodes_ready", "within"]),
        object,
    ] })
}

/// The name of an object.
pub(super) fn name() -> Json {
    json!({ "type": "string", "pattern": "^[^/?#%]+$" })
}

/// How an object should be.
pub(super) fn wanted() -> [(&'static str, Json); 3] {
    let mut fields = map(&json!(true), &named("scalar"));
    fields["minProperties"] = json!(1);
    [
        ("condition", text()),
        ("where", fields),
        ("exists", json!({ "type": "boolean" })),
    ]
}

/// That it is said once.
pub(super) fn one_wanted() -> Json {
    json!([{ "required": ["condition"] }, { "required": ["where"] }, { "required": ["exists"] }])
}
