//! `delete = { kind, name, within }`: an object is deleted, and gone.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Method;

use super::object::ObjectPlace;
use super::{StepAction, StepType};
use crate::kubernetes::client::Client;
use crate::model::reader::Table;
use crate::scenario::file::positive;

pub(super) const DELETE: StepType = StepType {
    key: "delete",
    read,
};

fn read(table: &Table<'_, '_>) -> Option<Arc<dyn StepAction>> {
    table.allow(&["kind", "name", "within"]);
    let object = ObjectPlace::read(table, &[]);
    let within = table.require("within").and_then(|value| positive(&value));
    Some(Arc::new(Delete {
        object: object?,
        within: within?,
    }))
}

#[derive(Debug)]
struct Delete {
    object: ObjectPlace,
    within: Duration,
}

impl StepAction for Delete {
    fn plan(&self) -> String {
        format!(
            "delete {}, gone within {} s",
            self.object,
            self.within.as_secs_f64()
        )
    }

    fn run<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let deleted = client.raw(Method::DELETE, &self.object.path(), None).await;
            deleted.map_err(|error| format!("delete {}: {error}", self.object))?;
            self.object
                .wait_until(client, self.within, "gone", |object| match object {
                    None => Ok(()),
                    Some(_) => Err("it is there".to_owned()),
                })
                .await
        })
    }
}
