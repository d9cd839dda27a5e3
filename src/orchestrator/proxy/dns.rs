//! Cluster DNS over UDP and TCP: hickory's server around a [`Zone`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use super::zone::{Answer, Zone};

/// DNS' port.
pub(super) const PORT: u16 = 53;
/// How long a question may wait for the first picture of the cluster, so that a pod that starts early is not told lies.
const FIRST_ZONE_WAIT: Duration = Duration::from_secs(2);
/// A TCP connection without a question for so long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that may wait on one TCP connection.
const TCP_RESPONSES: usize = 32;

/// What the answers come from; `None` until the cluster is known.
type ZoneReceiver = watch::Receiver<Option<Arc<Zone>>>;

/// A running DNS server. It ends when dropped.
pub(super) struct Dns {
    _server: Server<Handler>,
}

impl Dns {
    /// Binds UDP and TCP and answers from the newest zone.
    pub(super) async fn start(addr: SocketAddr, zone: ZoneReceiver) -> io::Result<Self> {
        let mut server = Server::new(Handler { zone });
        server.register_socket(UdpSocket::bind(addr).await?);
        server.register_listener(TcpListener::bind(addr).await?, TCP_IDLE, TCP_RESPONSES);
        Ok(Self { _server: server })
    }
}

struct Handler {
    zone: ZoneReceiver,
}

impl Handler {
    async fn answer(&self, request: &Request) -> Answer {
        if request.metadata.op_code != OpCode::Query {
            return Answer::error(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return Answer::error(ResponseCode::FormErr);
        };
        let mut zone = self.zone.clone();
        let known = tokio::time::timeout(FIRST_ZONE_WAIT, zone.wait_for(Option::is_some)).await;
        let zone = known
            .ok()
            .and_then(Result::ok)
            .and_then(|zone| zone.as_ref().map(Arc::clone));
        let query = info.query.original();
        zone.map_or_else(
            || Answer::error(ResponseCode::ServFail),
            |zone| zone.answer(query.name(), query.query_type()),
        )
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let answer = self.answer(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;
        // Some resolvers complain about servers that do not recurse; what is not in the cluster does not exist here.
        metadata.recursion_available = true;
        let message = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &answer.records,
            [],
            &answer.authority,
            [],
        );
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "send a DNS answer");
                metadata.response_code = ResponseCode::ServFail;
                Header {
                    metadata,
                    counts: HeaderCounts::default(),
                }
                .into()
            }
        }
    }
}
