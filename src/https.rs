//! Owns how requests are made: verified, without proxies, without redirects. Times are for each caller to say.

use std::path::Path;

use reqwest::{Client, ClientBuilder, redirect};
use rustls::ClientConfig;

/// A client of HTTPS, and of nothing else, with these TLS settings.
pub(crate) fn client_builder(tls: ClientConfig, user_agent: &str) -> ClientBuilder {
    builder(tls, user_agent).https_only(true)
}

/// A client of the program that listens on a Unix socket of this machine, whatever its URLs say.
pub(crate) fn socket_builder(tls: ClientConfig, user_agent: &str, socket: &Path) -> ClientBuilder {
    builder(tls, user_agent).unix_socket(socket)
}

fn builder(tls: ClientConfig, user_agent: &str) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .user_agent(user_agent)
}

/// What the agent calls itself.
pub(crate) const AGENT: &str = concat!("crank-agent/", env!("CARGO_PKG_VERSION"));

/// What the CA calls itself.
#[cfg(feature = "ca")]
pub(crate) const CA: &str = concat!("crank-ca/", env!("CARGO_PKG_VERSION"));
