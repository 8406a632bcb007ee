//! Owns the rows of the settings that come once.

use std::time::Duration;

use toml::Value;

use super::{DAY, HOUR, MINUTE, SECOND, YEAR, duration, path, put};
use crate::config::accounts::account;
use crate::config::draft::{KindOfCa, Listen};
use crate::config::parse;
use crate::config::setting::{Fallback, Read, Setting};
use crate::config::{Environment, HttpsUrl, LogFormat, RevokedFiles};
use crate::identity::{KeyType, SpiffeId, TrustDomain, WorkerId};
use crate::serve::AllowedClient;

pub(super) const ROWS: [Setting; 44] = [
    Setting::new(
        "worker_id",
        Fallback::Required,
        "The worker's name: a lower-case RFC 1123 name of at most 64 characters. Common name, DNS name and SPIFFE id follow from it.",
        Read::Text(|draft, text, _| put(&mut draft.worker_id, WorkerId::new(text).map_err(|error| error.reason))),
        |draft| draft.worker_id.as_ref().map(|id| Value::from(id.as_str())),
    )
    .alias(&["SERVICE_NAME"]),
    Setting::new(
        "environment",
        Fallback::Text("production"),
        "`development` or `production`. Security is the same in both; policies may tell them apart.",
        Read::Text(|draft, text, _| put(&mut draft.environment, parse::environment(text))),
        |draft| {
            draft.environment.map(|environment| match environment {
                Environment::Development => Value::from("development"),
                Environment::Production => Value::from("production"),
            })
        },
    ),
    Setting::new(
        "https_only",
        Fallback::Text("true"),
        "May only be `true`: there is no plain HTTP in any mode.",
        Read::Switch(|_, text, _| parse::only_true(text)),
        |_| Some(Value::from(true)),
    )
    .alias(&["HTTPS_ONLY"]),
    Setting::new(
        "require_mtls",
        Fallback::Text("true"),
        "May only be `true`.",
        Read::Switch(|_, text, _| parse::only_true(text)),
        |_| Some(Value::from(true)),
    ),
    Setting::new(
        "verify_certificates",
        Fallback::Text("true"),
        "May only be `true`: there is no switch that turns verification off.",
        Read::Switch(|_, text, _| parse::only_true(text)),
        |_| Some(Value::from(true)),
    ),
    Setting::new(
        "identity.trust_domain",
        Fallback::Text("crank.local"),
        "The SPIFFE trust domain: the certificate names `spiffe://<trust domain>/worker/<worker id>`.",
        Read::Text(|draft, text, _| put(&mut draft.trust_domain, TrustDomain::new(text).map_err(|error| error.reason))),
        |draft| draft.trust_domain.as_ref().map(|domain| Value::from(domain.as_str())),
    ),
    Setting::new(
        "identity.names",
        Fallback::Text(""),
        "Further DNS names and IP addresses for the certificate, besides the worker id and `localhost`.",
        Read::Texts(|draft, texts| put(&mut draft.names, parse::names(texts))),
        |draft| {
            use crate::identity::SubjectAltName::{Dns, Ip, Uri};
            let text = |name: &_| match name {
                Dns(name) => name.to_string(),
                Ip(address) => address.to_string(),
                Uri(id) => id.to_string(),
            };
            draft.names.as_ref().map(|names| Value::from(names.iter().map(text).collect::<Vec<_>>()))
        },
    ),
    Setting::new(
        "identity.key_type",
        Fallback::Text("ecdsa-p256"),
        "`ecdsa-p256`, `ecdsa-p384`, `ed25519`, `rsa-2048`, `rsa-3072` or `rsa-4096`.",
        Read::Text(|draft, text, _| {
            put(&mut draft.key_type, text.parse::<KeyType>().map_err(|error| parse::plain(&error.to_string())))
        }),
        |draft| draft.key_type.map(|key_type| Value::from(key_type.name())),
    ),
    Setting::new(
        "identity.spiffe_id",
        Fallback::Unset,
        "With `ca.kind = \"spiffe-workload-api\"`: the SPIFFE id to have. Not set: the only one that there is.",
        Read::Text(|draft, text, _| put(&mut draft.spiffe_id, SpiffeId::new(text).map_err(|error| error.reason))),
        |draft| draft.spiffe_id.as_ref().map(|id| Value::from(id.as_str())),
    ),
    Setting::new(
        "identity.hint",
        Fallback::Unset,
        "With `ca.kind = \"spiffe-workload-api\"`: the hint of the identity to have, where there are several.",
        Read::Text(|draft, text, _| put(&mut draft.hint, Ok::<_, &str>(text.to_owned()))),
        |draft| draft.hint.clone().map(Value::from),
    ),
    Setting::new(
        "ca.kind",
        Fallback::Text("crank"),
        "The certificate authority: `crank`, or `spiffe-workload-api` for that of a SPIRE agent on this machine, which makes keys and renews by itself.",
        Read::Text(|draft, text, _| put(&mut draft.ca_kind, parse::kind_of_ca(text))),
        |draft| {
            draft.ca_kind.map(|kind| match kind {
                KindOfCa::Crank => Value::from("crank"),
                KindOfCa::WorkloadApi => Value::from("spiffe-workload-api"),
            })
        },
    ),
    Setting::new(
        "ca.socket",
        Fallback::Unset,
        "With `ca.kind = \"spiffe-workload-api\"`: the socket of the Workload API, as `unix:///run/spire/sockets/agent.sock`, or its path.",
        Read::Text(|draft, text, _| put(&mut draft.ca_socket, Ok::<_, &str>(text.to_owned()))),
        |draft| draft.ca_socket.clone().map(Value::from),
    )
    .alias(&["SPIFFE_ENDPOINT_SOCKET"]),
    Setting::new(
        "ca.url",
        Fallback::Text("https://cert-authority:9090"),
        "The certificate authority; `https` only.",
        Read::Text(|draft, text, _| put(&mut draft.ca_url, HttpsUrl::new(text).map_err(parse::plain))),
        |draft| draft.ca_url.as_ref().map(|url| Value::from(url.as_str())),
    )
    .alias(&["CA_SERVICE_URL"]),
    Setting::new(
        "ca.root_file",
        Fallback::Text("/shared/ca-certs/ca.crt"),
        "A PEM file of the roots that verify the authority's TLS connection. Read anew for every request.",
        Read::Text(|draft, text, _| put(&mut draft.root_file, parse::absolute_path(text))),
        |draft| if draft.root_fingerprint.is_some() { None } else { path(draft.root_file.as_ref()) },
    ),
    Setting::new(
        "ca.root_fingerprint",
        Fallback::Unset,
        "In place of `ca.root_file`: `sha256:` and the digest of a root that the authority sends in its TLS chain.",
        Read::Text(|draft, text, _| put(&mut draft.root_fingerprint, parse::fingerprint(text))),
        |draft| draft.root_fingerprint_text().map(Value::from),
    ),
    Setting::new(
        "ca.issued_roots_file",
        Fallback::Unset,
        "A PEM file of the roots that issued certificates must reach, for `ca.crt`. Not set: those of the connection.",
        Read::Text(|draft, text, _| put(&mut draft.issued_roots_file, parse::absolute_path(text))),
        |draft| path(draft.issued_roots_file.as_ref()),
    ),
    Setting::new(
        "ca.follow_roots",
        Fallback::Text("true"),
        "Trust roots that the authority hands out over its verified connection beside those configured, so that it can change its root. `false`: exactly those configured.",
        Read::Boolean(|draft, text, _| put(&mut draft.follow_roots, parse::boolean(text))),
        |draft| draft.follow_roots.map(Value::from),
    ),
    Setting::new(
        "ca.token_file",
        Fallback::Unset,
        "A file with a bearer token for enrolment. Read anew for every request.",
        Read::Text(|draft, text, _| put(&mut draft.token_file, parse::absolute_path(text))),
        |draft| path(draft.token_file.as_ref()),
    ),
    Setting::new(
        "ca.timeout",
        Fallback::Text("30s"),
        "The deadline of one request, connection and reply included.",
        Read::Text(|draft, text, _| put(&mut draft.timeout, parse::duration(text, (SECOND, MINUTE * 10)))),
        |draft| duration(draft.timeout),
    ),
    Setting::new(
        "ca.startup_wait",
        Fallback::Text("60s"),
        "How long to wait at start-up for a first certificate, before giving up with exit code 69.",
        Read::Text(|draft, text, _| put(&mut draft.startup_wait, parse::duration(text, (Duration::ZERO, DAY)))),
        |draft| duration(draft.startup_wait),
    ),
    Setting::new(
        "ca.push",
        Fallback::Text("true"),
        "Whether a connection to the authority is kept, by which it tells at once of a revocation, a CRL or a wish to see the certificate renewed. Else it is asked at each check.",
        Read::Switch(|draft, text, _| put(&mut draft.push, parse::boolean(text))),
        |draft| draft.push.map(Value::from),
    ),
    Setting::new(
        "crl.enabled",
        Fallback::Text("true"),
        "Whether the authority's CRLs are published as `ca.crl`, where it has any.",
        Read::Switch(|draft, text, _| put(&mut draft.crl_enabled, parse::boolean(text))),
        |draft| draft.crl_enabled.map(Value::from),
    ),
    Setting::new(
        "crl.size_limit",
        Fallback::Text("10MiB"),
        "The most bytes of CRLs that are read, as PEM: `4KiB` to `64MiB`.",
        Read::Text(|draft, text, _| put(&mut draft.crl_size_limit, parse::size(text, (4 * 1024, 64 * 1024 * 1024)))),
        |draft| draft.crl_size_limit.map(|size| Value::from(parse::size_text(size))),
    ),
    Setting::new(
        "revocation.files",
        Fallback::Text("keep"),
        "What becomes of key and certificate once the authority has revoked them and until there are others: `keep` or `withdraw`.",
        Read::Text(|draft, text, _| put(&mut draft.revoked_files, parse::revoked_files(text))),
        |draft| {
            draft.revoked_files.map(|files| match files {
                RevokedFiles::Keep => Value::from("keep"),
                RevokedFiles::Withdraw => Value::from("withdraw"),
            })
        },
    ),
    Setting::new(
        "files.directory",
        Fallback::Computed("`/etc/certs` where writable or in a container, else `~/.crank/certs`"),
        "The certificate directory.",
        Read::Text(|draft, text, _| put(&mut draft.directory, parse::absolute_path(text))),
        |draft| path(draft.directory.as_ref()),
    )
    .alias(&["CERT_DIR"]),
    Setting::new(
        "files.owner",
        Fallback::Unset,
        "The user that owns the files: a number, or a name from `/etc/passwd`. Not set: the agent's own.",
        Read::Account(|draft, text, facts| put(&mut draft.owner, account(text, &facts.users))),
        |draft| draft.owner.map(Value::from),
    ),
    Setting::new(
        "files.group",
        Fallback::Unset,
        "The group that owns the files: a number, or a name from `/etc/group`. Not set: the agent's own.",
        Read::Account(|draft, text, facts| put(&mut draft.group, account(text, &facts.groups))),
        |draft| draft.group.map(Value::from),
    ),
    Setting::new(
        "files.key_mode",
        Fallback::Computed("`0600`; `0640` with `files.group`"),
        "The mode of the files that hold the key: `0600`, `0640`, `0400` or `0440`.",
        Read::Text(|draft, text, _| put(&mut draft.key_mode, parse::key_mode(text))),
        |draft| draft.key_mode.map(|mode| Value::from(format!("{mode:04o}"))),
    ),
    Setting::new(
        "files.keep_generations",
        Fallback::Text("60s"),
        "How long earlier generations stay readable.",
        Read::Text(|draft, text, _| put(&mut draft.keep_generations, parse::duration(text, (SECOND, DAY)))),
        |draft| duration(draft.keep_generations),
    ),
    Setting::new(
        "schedule.check_interval",
        Fallback::Text("1h"),
        "How often the certificate is checked; more often where its lifetime asks for it.",
        Read::Text(|draft, text, _| put(&mut draft.check_interval, parse::duration(text, (SECOND, DAY)))),
        |draft| duration(draft.check_interval),
    ),
    Setting::new(
        "schedule.warn_before",
        Fallback::Text("30d"),
        "Time left under which `CERT_EXPIRING_SOON` is emitted.",
        Read::Text(|draft, text, _| put(&mut draft.warn_before, parse::duration(text, (SECOND, YEAR * 10)))),
        |draft| duration(draft.warn_before),
    ),
    Setting::new(
        "schedule.renew_before",
        Fallback::Text("7d"),
        "Time left under which the certificate is renewed; less than `schedule.warn_before`.",
        Read::Text(|draft, text, _| put(&mut draft.renew_before, parse::duration(text, (SECOND, YEAR * 10)))),
        |draft| duration(draft.renew_before),
    ),
    Setting::new(
        "schedule.renew_fraction",
        Fallback::Text("0.5,0.7"),
        "For lifetimes of 30 days and less: the range of parts of the lifetime at which to renew.",
        Read::Numbers(|draft, texts| put(&mut draft.renew_fraction, parse::fraction(texts))),
        |draft| draft.renew_fraction.map(|(from, to, _)| Value::from(vec![from, to])),
    ),
    Setting::new(
        "schedule.min_interval",
        Fallback::Text("10s"),
        "The least time between two attempts, whatever the clock says.",
        Read::Text(|draft, text, _| put(&mut draft.min_interval, parse::duration(text, (SECOND, HOUR)))),
        |draft| duration(draft.min_interval),
    ),
    Setting::new(
        "schedule.max_back_off",
        Fallback::Text("60s"),
        "The longest wait between two attempts while the authority is unavailable; not less than `schedule.min_interval`.",
        Read::Text(|draft, text, _| put(&mut draft.max_back_off, parse::duration(text, (SECOND, DAY)))),
        |draft| duration(draft.max_back_off),
    ),
    Setting::new(
        "schedule.refused_interval",
        Fallback::Text("5m"),
        "The wait after the authority refused.",
        Read::Text(|draft, text, _| put(&mut draft.refused_interval, parse::duration(text, (SECOND, DAY)))),
        |draft| duration(draft.refused_interval),
    ),
    Setting::new(
        "schedule.allowed_skew",
        Fallback::Text("60s"),
        "How far the authority's clock may be ahead before its certificates are refused as not yet valid.",
        Read::Text(|draft, text, _| put(&mut draft.allowed_skew, parse::duration(text, (Duration::ZERO, HOUR)))),
        |draft| duration(draft.allowed_skew),
    ),
    Setting::new(
        "server.listen",
        Fallback::Text("0.0.0.0:9443"),
        "Where probes and metrics are served over TLS; `off` turns the listener off.",
        Read::Text(|draft, text, _| {
            put(&mut draft.listen, parse::listen(text).map(|address| address.map_or(Listen::Off, Listen::At)))
        }),
        |draft| {
            draft.listen.map(|listen| match listen {
                Listen::Off => Value::from("off"),
                Listen::At(address) => Value::from(address.to_string()),
            })
        },
    ),
    Setting::new(
        "server.metrics_allow",
        Fallback::Text(""),
        "Who may read `/metrics`: SPIFFE ids or DNS names of client certificates. Empty: nobody.",
        Read::Texts(|draft, texts| put(&mut draft.metrics_allow, parse::allowed_clients(texts))),
        |draft| {
            let text = |client: &AllowedClient| match client {
                AllowedClient::Spiffe(id) => id.to_string(),
                AllowedClient::Dns(name) => name.to_string(),
            };
            draft.metrics_allow.as_ref().map(|clients| Value::from(clients.iter().map(text).collect::<Vec<_>>()))
        },
    ),
    Setting::new(
        "control.socket",
        Fallback::Computed("`.crank-agent.sock` in the certificate directory"),
        "The Unix socket for `status`, `health` and `renew`; at most 107 bytes.",
        Read::Text(|draft, text, _| put(&mut draft.control_socket, parse::socket_path(text))),
        |draft| path(draft.control_socket.as_ref()),
    ),
    Setting::new(
        "workload_api.socket",
        Fallback::Unset,
        "The Unix socket for the SPIFFE Workload API and Envoy's SDS; at most 107 bytes. Not set: neither is served.",
        Read::Text(|draft, text, _| put(&mut draft.workload_socket, parse::socket_path(text))),
        |draft| path(draft.workload_socket.as_ref()),
    ),
    Setting::new(
        "workload_api.allow",
        Fallback::Text(""),
        "Who may call the Workload API, beside root and the agent's own user: `uid:1000`, or `gid:1000` for a primary group. Each of them gets the key.",
        Read::Texts(|draft, texts| put(&mut draft.workload_allow, parse::allowed_callers(texts))),
        |draft| {
            let callers = draft.workload_allow.as_ref();
            callers.map(|callers| Value::from(callers.iter().map(ToString::to_string).collect::<Vec<_>>()))
        },
    ),
    Setting::new(
        "log.format",
        Fallback::Text("auto"),
        "`json`, `pretty`, or `auto`: pretty on a terminal, JSON elsewhere.",
        Read::Text(|draft, text, _| put(&mut draft.log_format, parse::log_format(text))),
        |draft| {
            draft.log_format.map(|format| match format {
                LogFormat::Auto => Value::from("auto"),
                LogFormat::Json => Value::from("json"),
                LogFormat::Pretty => Value::from("pretty"),
            })
        },
    ),
    Setting::new(
        "log.filter",
        Fallback::Text("info"),
        "What is logged, as `info` or `info,crank_agent=debug`.",
        Read::Text(|draft, text, _| put(&mut draft.log_filter, parse::log_filter(text))),
        |draft| draft.log_filter.as_deref().map(Value::from),
    ),
];
