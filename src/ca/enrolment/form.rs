//! Owns the forms in which a certificate is asked for over the network.

use super::{EnrolmentError, Requester, authorise};
use crate::ca::est::{self, EstOperation};
use crate::ca::request::{self, KeyRequest};
use crate::wire::CsrRequest;

/// A request, whose size has been limited.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form<'a> {
    /// The body of `POST /certificates/csr`.
    Json(&'a [u8]),
    /// EST (RFC 7030).
    Est {
        /// Which of its operations.
        operation: EstOperation,
        /// The worker id that came with the credential.
        claimed: Option<&'a str>,
        /// What was sent.
        body: &'a [u8],
    },
}

impl<'a> Form<'a> {
    /// What may say who asks where no credential does.
    pub(super) fn introduction(self) -> Option<&'a [u8]> {
        match self {
            Self::Json(body) => Some(body),
            Self::Est { .. } => None,
        }
    }

    /// The key and the names that `requester` asks for.
    pub(super) fn read(self, requester: &Requester) -> Result<KeyRequest, EnrolmentError> {
        match self {
            Self::Json(body) => {
                let body: CsrRequest = serde_json::from_slice(body).map_err(|_| EnrolmentError::Body)?;
                authorise::check_worker(requester, &body.service_name)?;
                Ok(request::parse(&body.csr)?)
            }
            Self::Est { operation, claimed, body } => {
                if let Some(claimed) = claimed {
                    authorise::check_worker(requester, claimed)?;
                }
                let request = request::parse_der(&est::decode(body)?)?;
                if operation == EstOperation::Reenroll {
                    authorise::check_same_names(requester, request.names.as_ref())?;
                }
                Ok(request)
            }
        }
    }
}
