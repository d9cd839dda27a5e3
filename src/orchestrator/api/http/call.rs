//! A request, taken apart: its parameters, its body, the form in which its client wants the answer.

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use super::super::authorize::Identity;
use super::super::kinds::Kind;
use super::super::registry::Run;
use super::super::status::Status;
use super::super::strict::FieldValidation;
use super::super::tables::Form;
use super::super::{bounds, limits, protobuf};
use crate::orchestrator::store::Revision;

/// A request, taken apart.
pub(super) struct Call {
    pub(super) who: Identity,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.parameter(name).is_some_and(is_true)
    }

    pub(super) fn run(&self) -> Result<Run, Status> {
        match self.parameter("dryRun") {
            None | Some("") => Ok(Run::Real),
            Some("All") => Ok(Run::Dry),
            Some(other) => Err(Status::bad_request(format!(
                "dryRun `{other}` is not one of All"
            ))),
        }
    }

    pub(super) fn content_type(&self) -> &str {
        let value = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim()
    }

    pub(super) fn accept(&self) -> &str {
        let value = self.headers.get(header::ACCEPT);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    pub(super) fn form(&self) -> Result<Form, Status> {
        Form::from_accept(self.accept()).ok_or_else(|| {
            Status::not_acceptable("only the following media types are accepted: application/json, application/json;stream=watch")
        })
    }

    /// The body as an object of this kind: what a definition defines is never protobuf.
    pub(super) fn object_of(&self, kind: &Kind) -> Result<Value, Status> {
        if kind.custom.is_some() && self.content_type() == protobuf::MEDIA_TYPE {
            return Err(Status::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml",
            ));
        }
        self.object()
    }

    pub(super) fn object(&self) -> Result<Value, Status> {
        match self.content_type() {
            "" | "application/json" | "*/*" => self.json("body"),
            "application/yaml" => self.yaml(),
            protobuf::MEDIA_TYPE => {
                let object = protobuf::decode(&self.body)
                    .map_err(|error| Status::bad_request(error.to_string()))?;
                bounds::check_object(&object)?;
                Ok(object)
            }
            other => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf; not `{other}`"
            ))),
        }
    }

    pub(super) fn yaml(&self) -> Result<Value, Status> {
        let text = std::str::from_utf8(&self.body)
            .map_err(|_| Status::bad_request("the body is not UTF-8"))?;
        let object = serde_saphyr::from_str(text).map_err(|error| {
            // Its own words quote the lines around, a Secret's values among them.
            let place = error.location().map_or_else(String::new, |place| {
                format!(": line {}, column {}", place.line(), place.column())
            });
            Status::bad_request(format!("the body is not YAML{place}"))
        })?;
        bounds::check_object(&object)?;
        Ok(object)
    }

    /// Who writes, as owners of fields are called: as it says, or as its program is called.
    pub(super) fn manager(&self) -> String {
        let named = self
            .parameter("fieldManager")
            .filter(|name| !name.is_empty());
        let agent = self.headers.get(header::USER_AGENT);
        let program = || {
            agent
                .and_then(|agent| agent.to_str().ok()?.split('/').next())
                .unwrap_or("unknown")
        };
        let name = named.unwrap_or_else(program);
        name.chars().take(limits::MANAGER_CHARACTERS).collect()
    }

    pub(super) fn json(&self, what: &str) -> Result<Value, Status> {
        bounds::check_text(&self.body)?;
        serde_json::from_slice(&self.body)
            .map_err(|error| Status::bad_request(format!("the {what} is not JSON: {error}")))
    }
}

pub(super) fn field_validation(call: &Call) -> Result<FieldValidation, Status> {
    FieldValidation::parse(call.parameter("fieldValidation").unwrap_or_default())
}

pub(super) fn requested_revision(call: &Call) -> Result<Option<Revision>, Status> {
    match call.parameter("resourceVersion") {
        None | Some("" | "0") => Ok(None),
        Some(text) => {
            let number = text.parse().map_err(|_| {
                Status::bad_request(format!("resourceVersion `{text}` is not a number"))
            })?;
            Ok(Some(Revision(number)))
        }
    }
}

/// Whether a parameter says yes (apimachinery/pkg/runtime/conversion.go): everything does but `false`, in any case, and `0`.
/// Python's client writes `True`.
pub(in crate::orchestrator::api) fn is_true(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_say_yes_as_in_kubernetes() {
        for yes in ["", "1", "true", "True", "yes"] {
            assert!(is_true(yes), "{yes}");
        }
        for no in ["0", "false", "False"] {
            assert!(!is_true(no), "{no}");
        }
    }
}
