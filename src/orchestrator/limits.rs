//! Every bound on what comes from outside: sizes, numbers, depths, times. `docs/limits.md` tells users of them.
//!
//! A number of Kubernetes' own names its source; the others are this server's, chosen for a machine of 512 MiB.

use std::time::Duration;

// Requests.

/// Longest body of a request (apiserver/pkg/server/config.go: `MaxRequestBodyBytes`).
pub const BODY_BYTES: usize = 3 << 20;
/// A body up to this length is read and handled without waiting for a place.
pub const SMALL_BODY_BYTES: usize = 16 << 10;
/// Long bodies that one user may send at once.
pub const LONG_BODIES: usize = 4;
/// The same for administrators.
pub const LONG_BODIES_OF_ADMINISTRATORS: usize = 16;
/// How long a body may take, from the request's headers to its last byte.
pub const BODY_TIME: Duration = Duration::from_secs(30);
/// Patches and long bodies of one user that are handled at once; more wait for [`TURN_TIME`].
pub const TURNS: usize = 16;
/// The same for administrators.
pub const TURNS_OF_ADMINISTRATORS: usize = 64;
/// What answers of one user that are being sent may weigh together; another one is refused with 429.
pub const ANSWERS_BYTES: usize = 8 << 20;
/// The same for administrators.
pub const ANSWERS_OF_ADMINISTRATORS_BYTES: usize = 64 << 20;
/// What an answer weighs at least: one whose length nobody knows, as a watch, so much.
pub const ANSWER_BYTES: usize = 16 << 10;
/// A long answer to a client that takes nothing but protobuf stays JSON, which is rendered while it is read.
pub const PROTOBUF_BYTES: usize = 1 << 20;
/// How long a request waits for a place among its user's own; then 429.
pub const TURN_TIME: Duration = Duration::from_secs(30);
/// Longest head of a request (net/http: `DefaultMaxHeaderBytes` is 1 MiB; no client of ours sends a thousandth).
pub const HEAD_BYTES: u32 = 64 << 10;
/// Longest single warning (apiserver/pkg/endpoints/filters/warning.go: `truncateItemRunes`).
pub const WARNING_CHARACTERS: usize = 256;
/// All warnings of an answer together (the same file: `truncateAtTotalRunes`).
pub const WARNINGS_CHARACTERS: usize = 4 << 10;
/// Unknown or wrong fields that one message lists; what it leaves out is counted.
pub const FIELDS_IN_MESSAGE: usize = 32;
/// What a message shows of a wrong value, a name or a path.
pub const VALUE_CHARACTERS: usize = 256;

// Objects.

/// Longest stored object, as JSON (etcd: `--max-request-bytes`, 1.5 MiB).
pub const OBJECT_BYTES: usize = 3 << 19;
/// Deepest object: lists of it and events about it stay below the 128 levels that JSON parsers take; Kubernetes' own types
/// reach about 15.
pub const OBJECT_DEPTH: usize = 64;
/// Values in one JSON document: each takes much more memory than text.
pub const JSON_VALUES: usize = 200_000;

/// Keys and values of an object's annotations together (apimachinery/pkg/api/validation/objectmeta.go:
/// `TotalAnnotationSizeLimitB`).
pub const ANNOTATIONS_BYTES: usize = 256 << 10;
/// Longest Event, as JSON.
pub const EVENT_BYTES: usize = 16 << 10;
/// Longest message of an Event that has an `eventTime` (pkg/apis/core/validation/events.go: `NoteLengthLimit`).
pub const EVENT_NOTE_BYTES: usize = 1024;
/// Longest action, reason and instance of such an Event (the same file).
pub const EVENT_WORD_BYTES: usize = 128;
/// Longest Event of a node, as JSON.
pub const EVENT_OF_NODE_BYTES: usize = 4 << 10;
/// Events of one node that are there at once: they stay for an hour.
pub const EVENTS_OF_NODE: usize = 2048;

// Patches.

/// Operations in one JSON patch (apiserver/pkg/endpoints/handlers/patch.go: `maxJSONPatchOperations`).
pub const JSON_PATCH_OPERATIONS: usize = 10_000;
/// What the `copy` operations of one JSON patch may add (apiserver/pkg/server/config.go: `JSONPatchMaxCopyBytes`).
pub const JSON_PATCH_COPIED_BYTES: usize = 3 << 20;
/// Values that one JSON patch may visit or move up: about a second of work.
pub const JSON_PATCH_WORK: usize = 8 << 20;

// Server-side apply.

/// Managers of one object that write in another way than by applying; the oldest of more become one
/// (apimachinery/pkg/util/managedfields: `DefaultMaxUpdateManagers`).
pub const UPDATE_MANAGERS: usize = 10;
/// Longest name of a manager (apimachinery/pkg/apis/meta/v1/validation: `FieldManagerMaxLength`).
pub const MANAGER_CHARACTERS: usize = 128;

// Custom kinds.

/// CustomResourceDefinitions that are there at once.
pub const CUSTOM_DEFINITIONS: usize = 512;
/// Kinds of theirs, each version by itself, that a server has known since it started: their names stay in memory, a few hundred
/// bytes each.
pub const CUSTOM_KINDS: usize = 8192;
/// Different patterns in the schemas of one definition.
pub const PATTERNS: usize = 512;
/// What a pattern may take compiled.
pub const PATTERN_BYTES: usize = 64 << 10;
/// So many of them may take more, up to [`PATTERN_LARGE_BYTES`].
pub const PATTERNS_LARGE: usize = 16;
/// What a large one may take.
pub const PATTERN_LARGE_BYTES: usize = 1 << 20;
/// Values that are held against schemas for one write: about a second of work.
pub const SCHEMA_WORK: usize = 2_000_000;

// Connections.

/// Handshakes under way; for another one the oldest is given up.
pub const HANDSHAKES: usize = 256;
/// A handshake that takes longer is given up: a node under load takes a second.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(20);
/// Connections with a certificate, those of all users together.
pub const CONNECTIONS: usize = 1024;
/// Of these, so many are only for administrators.
pub const CONNECTIONS_FOR_ADMINISTRATORS: usize = 128;
/// And so many more for the first [`FIRST_CONNECTIONS`] of everybody else.
pub const CONNECTIONS_FOR_FIRST: usize = 128;
/// A user with fewer connections than this may have one of those that are kept for it.
pub const FIRST_CONNECTIONS: usize = 4;
/// Connections of one user.
pub const CONNECTIONS_OF_USER: usize = 64;
/// Connections of one administrator.
pub const CONNECTIONS_OF_ADMINISTRATOR: usize = 512;
/// A connection whose first request has not come by then is closed.
pub const FIRST_REQUEST_TIME: Duration = Duration::from_secs(10);
/// A connection without a request for so long is closed (net/http's `IdleTimeout` as kube-apiserver sets it: 90 s).
pub const IDLE_TIME: Duration = Duration::from_secs(90);
/// A dead peer is noticed after about two of these.
pub const KEEP_ALIVE_TIME: Duration = Duration::from_secs(20);
/// Requests at once on one HTTP/2 connection (kube-apiserver's `--http2-max-streams-per-connection` with client-go: 250).
pub const STREAMS: u32 = 250;
/// HTTP/2 flow control: what a client may send of one body ahead of its reader.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// The same for all bodies of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// One message on a node's or a balancer's stream: output comes in pieces of 32 KiB.
pub const MESSAGE_BYTES: usize = 256 << 10;

// Tokens.

/// Longest token of a ServiceAccount; ours have about 1 KiB.
pub const TOKEN_BYTES: usize = 16 << 10;
/// Audiences of one token.
pub const TOKEN_AUDIENCES: usize = 32;
/// Connections without a certificate whose first token has not been seen; for another one the oldest is given up.
pub const STRANGERS: usize = 64;
/// How long such a connection may take to show a token.
pub const STRANGER_TIME: Duration = Duration::from_secs(5);
/// How long it may take to read that it was refused.
pub const STRANGER_DRAIN_TIME: Duration = Duration::from_secs(1);
/// How often a connection's last token is looked at while nothing is asked: a watch ends with the token that began it.
pub const TOKEN_LOOK_TIME: Duration = Duration::from_mins(1);
/// Connections by tokens, those of all ServiceAccounts together; they are among [`CONNECTIONS`].
pub const CONNECTIONS_BY_TOKEN: usize = 256;

// Roles.

/// Single permissions, a verb on a resource of a name each, of a role that is given away by who is no administrator: each is looked
/// for among its own.
pub const ROLE_PERMISSIONS: usize = 5_000;

// Streams to and from pods.

/// Longest message of a client's WebSocket. Such a client may send all its standard input in one.
pub const STREAM_MESSAGE_BYTES: usize = 4 << 20;
/// Bytes that are handed on together.
pub const STREAM_PIECE_BYTES: usize = 32 << 10;
/// Pieces of one direction that wait for their reader; then the writer waits.
pub const STREAM_PIECES: usize = 4;
/// Streams of one node's pods that are open at once: each is a connection of the node, which has [`CONNECTIONS_OF_USER`].
pub const STREAMS_OF_NODE: usize = 48;
/// Longest control frame of a SPDY client.
pub const SPDY_FRAME_BYTES: usize = 64 << 10;
/// All headers of one SPDY stream.
pub const SPDY_HEADERS_BYTES: usize = 16 << 10;
/// SPDY streams of one client that are open at once: a forwarded connection has two.
pub const SPDY_STREAMS: usize = 256;
/// Ports that one WebSocket forwards.
pub const FORWARDED_PORTS: usize = 32;
/// How long a client may take to open its streams (apiserver's `DefaultStreamCreationTimeout`).
pub const STREAM_CREATION_TIME: Duration = Duration::from_secs(30);
/// How long a node may take to dial back.
pub const STREAM_DIAL_TIME: Duration = Duration::from_secs(15);
/// Pause between pings: a host that answers with a reset is noticed by the next ones, one that does not answer at all when TCP gives
/// up (`net.ipv4.tcp_retries2`, about 15 minutes).
pub const STREAM_PING_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to read the rest and hang up when everything has been said: what reads its output may be paused.
pub const STREAM_LINGER_TIME: Duration = Duration::from_mins(5);

// Watches and lists.

/// Longest watch, whatever its client asks for.
pub const WATCH_TIME: Duration = Duration::from_hours(24);
/// How long a watch lasts when the client does not say (apiserver: `--min-request-timeout`, 30 to 60 minutes).
pub const DEFAULT_WATCH_TIME: Duration = Duration::from_mins(50);
/// A list is sent in pieces of about this size.
pub const PIECE_BYTES: usize = 32 << 10;

// The store.

/// Changes kept for watches that resume.
pub const RING_EVENTS: usize = 2048;
/// And what they weigh in memory: newer ones push older ones out. What a change replaced may weigh as much again.
pub const RING_BYTES: usize = 32 << 20;
/// Writes that may wait for the writer; more are refused with 429.
pub const QUEUE_WRITES: usize = 4096;
