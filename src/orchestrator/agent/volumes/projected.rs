//! Volumes that show several things side by side, and those that show something of their own pod.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, Pod, SecretVolumeSource,
    ServiceAccountTokenProjection, Volume,
};

use super::{DEFAULT_FILE_MODE, Objects, Projection, VolumeError, fs_group, projection, safe_path};
use crate::orchestrator::agent::downward;
use crate::orchestrator::agent::tokens::Wanted;

/// The files of a `projected` or `downwardAPI` volume. Certificates, which nobody issues here, are left out.
pub(super) fn files(
    volume: &Volume,
    pod: &Pod,
    objects: &Objects<'_>,
) -> Result<Projection, VolumeError> {
    if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        return of_pod(volume, pod, items, source.default_mode, objects);
    }
    let mut files = Projection::new();
    let Some(source) = &volume.projected else {
        return Ok(files);
    };
    for part in source.sources.iter().flatten() {
        if let Some(secret) = &part.secret {
            let alone = Volume {
                name: volume.name.clone(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(secret.name.clone()),
                    items: secret.items.clone(),
                    optional: secret.optional,
                    default_mode: source.default_mode,
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            };
            files.extend(projection(&alone, objects.secrets, objects.config_maps)?);
        }
        if let Some(map) = &part.config_map {
            let alone = Volume {
                name: volume.name.clone(),
                config_map: Some(ConfigMapVolumeSource {
                    name: map.name.clone(),
                    items: map.items.clone(),
                    optional: map.optional,
                    default_mode: source.default_mode,
                    ..ConfigMapVolumeSource::default()
                }),
                ..Volume::default()
            };
            files.extend(projection(&alone, objects.secrets, objects.config_maps)?);
        }
        if let Some(shown) = &part.service_account_token {
            let (path, file) = token(volume, pod, shown, source.default_mode, objects)?;
            files.insert(path, file);
        }
        if let Some(shown) = &part.downward_api {
            let items = shown.items.as_deref().unwrap_or_default();
            files.extend(of_pod(volume, pod, items, source.default_mode, objects)?);
        }
    }
    Ok(files)
}

/// The file of a token. Of a pod with a group nobody but that may read it, as in the kubelet (`pkg/volume/projected`).
fn token(
    volume: &Volume,
    pod: &Pod,
    shown: &ServiceAccountTokenProjection,
    default_mode: Option<i32>,
    objects: &Objects<'_>,
) -> Result<(String, (Vec<u8>, u32)), VolumeError> {
    let refused = |what: String| VolumeError::Refused {
        volume: volume.name.clone(),
        what,
    };
    if !safe_path(&shown.path) {
        return Err(refused(format!(
            "path `{}` is absolute, starts with `..` or leaves the volume",
            shown.path
        )));
    }
    let token = objects.tokens.get(&Wanted::of(shown).key());
    let token = token.ok_or_else(|| refused("its token has not been issued yet".to_owned()))?;
    let mode = match fs_group(pod) {
        Some(_) => 0o600,
        None => default_mode.unwrap_or(DEFAULT_FILE_MODE),
    };
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    Ok((shown.path.clone(), (token.text.clone().into_bytes(), mode)))
}

fn of_pod(
    volume: &Volume,
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    objects: &Objects<'_>,
) -> Result<Projection, VolumeError> {
    let refused = |what: String| VolumeError::Refused {
        volume: volume.name.clone(),
        what,
    };
    if let Some(wrong) = items.iter().find(|item| !safe_path(&item.path)) {
        return Err(refused(format!(
            "path `{}` is absolute, starts with `..` or leaves the volume",
            wrong.path
        )));
    }
    let made = downward::files(pod, items, objects.node_memory_bytes).map_err(refused)?;
    let file = |(path, contents, mode): downward::File| {
        let mode = mode.or(default_mode).unwrap_or(DEFAULT_FILE_MODE);
        (
            path,
            (contents, u32::try_from(mode).unwrap_or(0o644) & 0o777),
        )
    };
    Ok(made.into_iter().map(file).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::orchestrator::agent::tokens::Token;

    #[test]
    fn everything_stands_in_one_folder() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "resources": {"limits": {"memory": "8Mi"}}}]}}),
        )
        .unwrap();
        let secrets = BTreeMap::from([(
            "s".to_owned(),
            serde_json::from_value(json!({"metadata": {"name": "s"}, "data": {"k": "MQ=="}}))
                .unwrap(),
        )]);
        let config_maps = BTreeMap::from([(
            "m".to_owned(),
            serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"x": "y"}})).unwrap(),
        )]);
        let token = Token {
            text: "signed".to_owned(),
            asked: 0,
            ends: 3600,
        };
        let tokens = BTreeMap::from([("3600 ".to_owned(), token)]);
        let objects = Objects {
            secrets: &secrets,
            config_maps: &config_maps,
            tokens: &tokens,
            node_memory_bytes: 0,
        };
        let volume: Volume = serde_json::from_value(json!({"name": "all", "projected": {"defaultMode": 256, "sources": [
            {"secret": {"name": "s", "items": [{"key": "k", "path": "keys/k", "mode": 288}]}},
            {"configMap": {"name": "m"}}, {"configMap": {"name": "none", "optional": true}},
            {"serviceAccountToken": {"path": "token"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "memory", "mode": 292, "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"}}]}}]}}))
        .unwrap();
        let found: Vec<(String, String, u32)> = files(&volume, &pod, &objects)
            .unwrap()
            .into_iter()
            .map(|(path, (contents, mode))| (path, String::from_utf8(contents).unwrap(), mode))
            .collect();
        let expected = [
            ("keys/k", "1", 0o440),
            ("labels", "a=\"b\"", 0o400),
            ("memory", "8", 0o444),
            ("token", "signed", 0o400),
            ("x", "y", 0o400),
        ];
        let expected = expected.map(|(path, text, mode)| (path.to_owned(), text.to_owned(), mode));
        assert_eq!(found, expected);
        let missing: Volume = serde_json::from_value(
            json!({"name": "all", "projected": {"sources": [{"secret": {"name": "none"}}]}}),
        )
        .unwrap();
        assert!(files(&missing, &pod, &objects).is_err());
        let foreign: Volume =
            serde_json::from_value(json!({"name": "all", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "audience": "vault"}}]}}))
            .unwrap();
        assert!(files(&foreign, &pod, &objects).is_err());
        let leaves: Volume = serde_json::from_value(
            json!({"name": "d", "downwardAPI": {"items": [{"path": "../x", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
        )
        .unwrap();
        assert!(
            files(&leaves, &pod, &objects)
                .unwrap_err()
                .to_string()
                .contains("../x")
        );
    }
}
