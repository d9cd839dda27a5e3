//! What Secrets hold, so that it can be taken out of every text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use tokio::time::timeout;

use super::{ANSWER_WITHIN, Sources};
use crate::kubernetes::client::ListParams;

/// A shorter value would be found in words that have nothing to do with it.
const VALUE_BYTES_MIN: usize = 6;
/// A line of a longer value, such as a key in PEM, from this length on.
const LINE_BYTES_MIN: usize = 16;

/// Values, each with the name of the Secret's key that holds it; longer ones first.
#[derive(Debug, Default)]
pub(super) struct Redaction(Vec<(String, String)>);

impl Redaction {
    /// Asks for the Secrets.
    pub(super) async fn read(sources: &Sources<'_>) -> Result<Self, String> {
        let mut known = Self::default();
        let everywhere = [String::new()];
        let namespaces = if sources.namespaces.is_empty() {
            &everywhere[..]
        } else {
            &sources.namespaces
        };
        for namespace in namespaces {
            let all = ListParams::all();
            let asked = sources.client.list::<Secret>(namespace, &all);
            let listed = timeout(ANSWER_WITHIN, asked).await;
            let listed = listed.map_err(|_| "the API does not answer".to_owned())?;
            let listed = listed.map_err(|error| error.to_string())?;
            listed.items.iter().for_each(|secret| known.add(secret));
        }
        known
            .0
            .sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        known.0.dedup();
        Ok(known)
    }

    pub(super) fn add(&mut self, secret: &Secret) {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        for (key, value) in secret.data.iter().flatten() {
            let label = format!("(Secret {name}, {key})");
            let mut note = |text: String, least: usize| {
                if text.len() >= least {
                    self.0.push((text, label.clone()));
                }
            };
            note(STANDARD.encode(&value.0), VALUE_BYTES_MIN);
            let Ok(text) = std::str::from_utf8(&value.0) else {
                continue;
            };
            note(text.trim().to_owned(), VALUE_BYTES_MIN);
            if text.trim().contains('\n') {
                // Logs and YAML break it into lines; those that only frame a key are no secret.
                let lines = text.lines().map(str::trim);
                let lines = lines.filter(|line| !line.starts_with("-----"));
                lines.for_each(|line| note(line.to_owned(), LINE_BYTES_MIN));
            }
        }
    }

    /// A text without any of the values.
    pub(super) fn without_secrets(&self, mut text: String) -> String {
        for (value, label) in &self.0 {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), label);
            }
        }
        text
    }
}
