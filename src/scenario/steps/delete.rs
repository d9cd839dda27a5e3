//! `delete = { kind, name, within }`: an object is deleted, and gone.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Method;

use super::object::ObjectPlace;
use super::{StepAction, StepContext, StepType};
use crate::model::reader::Value;
use crate::scenario::file::{Nodes, positive};

pub(super) const DELETE: StepType = StepType {
    key: "delete",
    read,
};

fn read(value: &Value<'_, '_>, _: &Nodes) -> Option<Arc<dyn StepAction>> {
    let table = &value.table()?;
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

    fn within(&self) -> Option<Duration> {
        Some(self.within)
    }

    fn run<'a>(&'a self, context: &'a StepContext<'a>) -> BoxFuture<'a, Result<(), String>> {
        let client = context.client;
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
