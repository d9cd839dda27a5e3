//! The local route of the service network.

use std::net::Ipv4Addr;

use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteScope, RouteType};

use crate::model::addresses;

/// The loopback device has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// The kernel's table of local addresses.
const LOCAL_TABLE: u32 = 255;

/// Makes `local 10.79.0.0/16 dev lo table local`; there already is fine.
pub(super) async fn ensure() -> Result<(), String> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(addresses::SERVICE_NETWORK, addresses::SERVICE_PREFIX)
        .output_interface(LOOPBACK_INDEX)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .table_id(LOCAL_TABLE)
        .build();
    let made = handle.route().add(route).replace().execute().await;
    connection.abort();
    made.map_err(|error| error.to_string())
}
