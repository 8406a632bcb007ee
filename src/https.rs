//! Owns how requests are made: verified, without proxies, without redirects, within a time.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect};
use rustls::ClientConfig;

/// A client of HTTPS, and of nothing else, with these TLS settings, each of whose requests ends within `timeout`.
pub(crate) fn client_builder(tls: ClientConfig, timeout: Duration) -> ClientBuilder {
    builder(tls, timeout).https_only(true)
}

/// A client of the program that listens on a Unix socket of this machine, whatever its URLs say.
pub(crate) fn socket_builder(tls: ClientConfig, timeout: Duration, socket: &Path) -> ClientBuilder {
    builder(tls, timeout).unix_socket(socket)
}

fn builder(tls: ClientConfig, timeout: Duration) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(timeout)
        .timeout(timeout)
        .user_agent(concat!("crank-agent/", env!("CARGO_PKG_VERSION")))
}
