//! `run`, `plan`, `lint`, `undo`: scenario files and their verdicts.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::File;
use super::cluster::{bring_up, connect, interrupted, open_home};
use super::environment::{ForeignCluster, OwnCluster};
use super::failure::Failure;
use super::terminal::{Live, complain, say};
use crate::cluster::file::{self, ClusterFileError};
use crate::cluster::life::{self, Cluster, Lifetime};
use crate::kubernetes::client::Client;
use crate::model::cluster::ClusterSpec;
use crate::model::diagnostic::Refusal;
use crate::model::names::ClusterName;
use crate::scenario::file::ScenarioFileError;
use crate::scenario::report::Verdict;
use crate::scenario::spec::Scenario;
use crate::scenario::{self, Environment, Report};
