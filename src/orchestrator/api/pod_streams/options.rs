//! Parameters of `exec` and `attach`: Kubernetes' `PodExecOptions` and `PodAttachOptions`.

use axum::extract::Query;
use http::Uri;

use super::super::http::call::is_true;
use super::super::status::Status;

/// What a client wants of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) container: Option<String>,
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Options {
    /// Output is wanted unless the client says otherwise (pkg/apis/core/v1/defaults.go: `SetDefaults_PodExecOptions`); a terminal has one
    /// stream of output (kubelet: `remotecommand.NewOptions`).
    pub(super) fn parse(uri: &Uri, attach: bool) -> Result<Self, Status> {
        let pairs = pairs(uri)?;
        let of = |name: &str| {
            pairs
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        let flag = |name: &str, absent: bool| of(name).map_or(absent, is_true);
        let command = pairs
            .iter()
            .filter(|(key, _)| key == "command")
            .map(|(_, value)| value.clone());
        let tty = flag("tty", false);
        let options = Self {
            container: of("container")
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            command: command.collect(),
            stdin: flag("stdin", false),
            stdout: flag("stdout", true),
            stderr: flag("stderr", true) && !tty,
            tty,
        };
        if !attach && options.command.is_empty() {
            return Err(Status::bad_request(
                "you must specify at least 1 command for the container",
            ));
        }
        if !(options.stdin || options.stdout || options.stderr) {
            return Err(Status::bad_request(
                "you must specify at least 1 of stdin, stdout, stderr",
            ));
        }
        Ok(options)
    }
}

/// The ports that a WebSocket forwards: `ports=80,443`, or several of it.
pub(super) fn ports(uri: &Uri) -> Result<Vec<u16>, Status> {
    let pairs = pairs(uri)?;
    let texts = pairs
        .iter()
        .filter(|(key, _)| key == "ports")
        .flat_map(|(_, value)| value.split(','));
    let mut ports = Vec::new();
    for text in texts {
        match text.trim().parse() {
            Ok(port @ 1..) => ports.push(port),
            _ => {
                return Err(Status::bad_request(format!(
                    "port `{text}` is not a number from 1 to 65535"
                )));
            }
        }
    }
    if ports.is_empty() {
        return Err(Status::bad_request("query parameter \"ports\" is required"));
    }
    Ok(ports)
}

fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, Status> {
    Query::try_from_uri(uri)
        .map(|query| query.0)
        .map_err(|_| Status::bad_request("the query cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(query: &str) -> Uri {
        format!("/?{query}").parse().unwrap()
    }

    fn refused(query: &str) -> String {
        let status = Options::parse(&uri(query), false).unwrap_err();
        assert_eq!(status.code, 400);
        status.message
    }

    #[test]
    fn options_are_taken_with_kubernetes_defaults() {
        let options = Options::parse(
            &uri("command=sh&command=-c&command=a%20b&container=c&stdin=true&stdout=True&tty=1&stderr=true"),
            false,
        )
        .unwrap();
        let expected = Options {
            container: Some("c".to_owned()),
            command: ["sh", "-c", "a b"].map(str::to_owned).to_vec(),
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        assert_eq!(options, expected);
        let plain = Options::parse(&uri("command=x&stdin=false"), false).unwrap();
        assert!(plain.stdout && plain.stderr && !plain.stdin && !plain.tty);
        assert!(Options::parse(&uri(""), true).unwrap().command.is_empty());
    }

    #[test]
    fn wrong_ones_are_refused() {
        assert!(refused("stdout=true").contains("at least 1 command"));
        assert!(refused("command=x&stdout=0&stderr=false").contains("at least 1 of stdin"));
        for wrong in ["", "ports=", "ports=0", "ports=80,x", "ports=65536"] {
            assert_eq!(ports(&uri(wrong)).unwrap_err().code, 400, "{wrong}");
        }
        assert_eq!(
            ports(&uri("ports=80,443&ports=8080")).unwrap(),
            [80, 443, 8080]
        );
    }
}
