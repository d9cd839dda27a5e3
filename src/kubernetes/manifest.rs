//! Manifests: files of YAML and JSON to objects, and applying them.
//!
//! Everything that is wrong in all files is reported at once, each with its file, line and column. What kubectl reads is read:
//! `---` followed by spaces, JSON objects one after another, YAML as Kubernetes' library resolves it, lists of any kind inside of
//! each other, folders, standard input.

mod apply;
mod defined;
mod json;
mod objects;
mod place;
mod scalar;
mod sources;
#[cfg(test)]
mod spoiled;
mod yaml;

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use super::client::{ClientError, ResourceKind};
use crate::model::image_policy::ImagePolicy;
use place::Place;

pub use apply::{Applied, LAST_APPLIED, Outcome, apply};
pub(in crate::kubernetes) use defined::{DEFINITION, of as kinds_defined};
pub use objects::{parse, parse_for, parse_next};
pub use sources::{Folders, STANDARD_INPUT, load, load_checked};

/// One object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The object as it was written.
    pub value: Value,
    /// Its kind.
    pub kind: ResourceKind,
    /// Where it was written.
    pub source: PathBuf,
    /// The line on which it begins.
    pub line: u64,
    /// What it sets without any effect.
    pub not_applied: Vec<NotApplied>,
    place: Place,
}

/// One thing that is wrong in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestProblem {
    /// The file.
    pub source: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// What is wrong and what to do.
    pub problem: String,
}

impl fmt::Display for ManifestProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}:{}: {}",
            self.source.display(),
            self.line,
            self.column,
            self.problem
        )
    }
}

/// What a server would say about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Path of the field, for instance `spec.ports[0].port`; empty when it is the whole object.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// What the server would do.
    pub weight: Weight,
}

/// What a server would do about a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Refuse the object.
    Wrong,
    /// Refuse the object, which asks for protection that it would not get, unless its cluster accepts that.
    Unenforced,
    /// Take the object, and do nothing about the field.
    NotApplied,
}

/// What becomes of objects that ask for protection which they would not get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unenforced {
    /// They are refused.
    #[default]
    Refused,
    /// The cluster's file accepts them.
    Accepted,
}

/// What the cluster that objects are for says about them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules<'a> {
    /// What becomes of objects that ask for protection which they would not get.
    pub unenforced: Unenforced,
    /// Which images may run; `None` where that is not known.
    pub images: Option<&'a ImagePolicy>,
}

/// A field that an object sets without any effect, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotApplied {
    /// The file.
    pub source: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// Kind and name of the object.
    pub object: String,
    /// Path of the field.
    pub field: String,
    /// What happens instead.
    pub instead: String,
}

impl fmt::Display for NotApplied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            line,
            column,
            object,
            field,
            instead,
        } = self;
        let file = source.display();
        write!(
            formatter,
            "{file}:{line}:{column}: {object}: `{field}` is not applied here: {instead}"
        )
    }
}

/// Finds everything that a server would refuse about an object of this kind, or not apply, without asking one.
pub type Check = fn(&ResourceKind, &Value) -> Vec<FieldProblem>;

/// Why manifests could not be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The files are wrong; here is everything that is.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<ManifestProblem>),
    /// The API server refused an object.
    #[error("apply {object} ({}:{line})", path.display())]
    Apply {
        /// Kind and name.
        object: String,
        /// The file it is in.
        path: PathBuf,
        /// The line it begins on.
        line: u64,
        /// What the server said.
        #[source]
        source: Box<ClientError>,
    },
    /// The API server took a definition, and does not serve what it defines.
    #[error("wait for the kinds of {object} ({}:{line}): they are not served after {after_s} s: {why}", path.display())]
    NotServed {
        /// Kind and name.
        object: String,
        /// The file it is in.
        path: PathBuf,
        /// The line it begins on.
        line: u64,
        /// How long was waited, in seconds.
        after_s: u64,
        /// What its conditions say.
        why: String,
    },
}

impl Manifest {
    /// Line and column of a field (`spec.ports[0].port`), or of the nearest thing around it that was written.
    pub fn locate(&self, field: &str) -> (u64, u64) {
        let at = self.place.find(field);
        (at.line, at.column)
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// `metadata.namespace`, or the default; empty for kinds without one.
    pub fn namespace<'a>(&'a self, default: &'a str) -> &'a str {
        if !self.kind.namespaced {
            return "";
        }
        self.value["metadata"]["namespace"]
            .as_str()
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or(default)
    }
}
