//! Owns the control socket, by which `status`, `health` and `renew` speak to a running agent: the protocol, and in the
//! modules below its two sides.
//!
//! A Unix stream socket; one request and one reply a connection, each one line of JSON. The request is
//! `{"command":"status"}`, `{"command":"health"}` or `{"command":"renew"}`; the reply is a [`Reply`]. The caller keeps
//! its side open until the reply has come. Only root and the user that the agent runs as are answered.

pub mod client;
mod server;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::events::EventError;
use crate::identity::CertificateMetadata;
use crate::status::AgentStatus;

pub use server::ControlServer;

/// The mode of the socket: its owner alone.
pub const SOCKET_MODE: u32 = 0o600;

/// The largest request, in bytes.
pub const REQUEST_LIMIT: usize = 4 * 1024;

/// The largest reply, in bytes.
pub const REPLY_LIMIT: usize = 256 * 1024;

/// How long either side waits for the other to speak or to listen; a renewal takes longer.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The longest that the agent keeps a connection waiting for the outcome of a renewal.
pub const RENEWAL_DEADLINE: Duration = Duration::from_mins(10);

/// The most connections at a time; more are told to come again.
pub const CONNECTION_LIMIT: usize = 16;

/// What the server needs of the agent.
#[derive(Clone)]
pub struct ControlState {
    /// What `status` shows.
    pub status: watch::Receiver<AgentStatus>,
    /// The same of further certificates, by name.
    pub further: Vec<(String, watch::Receiver<AgentStatus>)>,
    /// Tells whether a usable certificate is on disk now. May read files: it is called off the async threads.
    pub readiness: ReadinessCheck,
    /// Where wishes to renew go. Should hold few; when it is full, the caller is told to come again.
    pub renew: mpsc::Sender<RenewRequest>,
}

/// Ready, or why not.
pub type ReadinessCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A wish to renew now.
#[derive(Debug)]
pub struct RenewRequest {
    /// Gets the outcome. Dropping it says that the agent is stopping.
    pub reply: oneshot::Sender<RenewOutcome>,
}

/// The certificate that a renewal has put on disk, or why there is none.
pub type RenewOutcome = Result<CertificateMetadata, EventError>;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `status`.
    Status(Box<StatusReport>),
    /// To `health`.
    Health(Readiness),
    /// To `renew`, when the new certificate is on disk.
    Renewed {
        /// The new certificate.
        certificate: CertificateMetadata,
    },
    /// To any request that failed.
    Failed {
        /// What failed. Of the protocol itself: `bad_request`, `busy`, `stopping`, `timeout`, `internal`.
        error: EventError,
    },
}

/// What `status --json` prints: the agent's state and whether it is ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The agent's state.
    #[serde(flatten)]
    pub status: AgentStatus,
    /// Whether a usable certificate is on disk now.
    pub readiness: Readiness,
}

/// Whether a usable certificate is on disk now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether there is one.
    pub ready: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Status,
    Health,
    Renew,
}

impl Command {
    const ALL: [Self; 3] = [Self::Status, Self::Health, Self::Renew];

    fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Health => "health",
            Self::Renew => "renew",
        }
    }
}

/// A request as it is sent. Fields that we do not know are ignored.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    command: String,
}
