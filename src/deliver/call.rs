//! Owns the delivery by an HTTP request: to a server by mTLS with the published certificate, or to a Unix socket.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Response;
use rustls::ClientConfig;

use super::action::{Failure, Occasion};
use super::settings::{Call, HttpTarget, Method};
use crate::https;
use crate::printable::{FOREIGN_TEXT_LIMIT, error_chain, printable};
use crate::tls::{ServerTrust, client_config};

/// Makes the request. Success is any 2xx; what the answer says otherwise is in the error.
pub(super) async fn call(call: &Call, occasion: &Occasion, deadline: Duration) -> Result<(), Failure> {
    let tls = tls(occasion)?;
    let (builder, url) = match &call.target {
        HttpTarget::Https(url) => (https::client_builder(tls, https::AGENT), url.join("")),
        HttpTarget::Unix { socket, path } => {
            // The host is of no meaning on a socket.
            let url = reqwest::Url::parse(&format!("http://localhost{path}"));
            (https::socket_builder(tls, https::AGENT, socket), url.map_err(|error| failed(&error))?)
        }
    };
    let builder = builder.connect_timeout(deadline).timeout(deadline).pool_max_idle_per_host(0);
    let client = builder.build().map_err(|error| failed(&error))?;
    let method = match call.method {
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Get => reqwest::Method::GET,
    };
    let request = client.request(method, url).header("x-correlation-id", &occasion.correlation_id);
    match request.send().await {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => {
            let status = response.status();
            let said = head(response).await;
            Err(Failure::Failed(if said.is_empty() {
                format!("answered {status}")
            } else {
                format!("answered {status}: {said}")
            }))
        }
        Err(error) if nobody_listens(&error) => Err(Failure::Nobody(error_chain(&error))),
        Err(error) => Err(failed(&error)),
    }
}

/// Presents the published certificate, and takes a server of its roots.
fn tls(occasion: &Occasion) -> Result<ClientConfig, Failure> {
    let bundle = &occasion.bundle;
    let trust = ServerTrust::Peers { roots: bundle.roots().to_vec(), crls: bundle.crls().to_vec() };
    client_config(&trust, Some(bundle), Arc::clone(&occasion.clock)).map_err(|error| failed(&error))
}

fn failed(error: &dyn Error) -> Failure {
    Failure::Failed(error_chain(error))
}

/// The beginning of the answer, printable.
async fn head(mut response: Response) -> String {
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        text.extend_from_slice(&chunk);
        if text.len() >= FOREIGN_TEXT_LIMIT {
            break;
        }
    }
    printable(String::from_utf8_lossy(&text).trim(), FOREIGN_TEXT_LIMIT)
}

/// Whether there is no server: its port is closed, or its socket is not there.
fn nobody_listens(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
        }
        cause = error.source();
    }
    false
}
