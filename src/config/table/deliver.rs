//! Owns the rows of `[[deliver]]`.

use toml::Value;

use super::{DAY, HOUR, MINUTE, SECOND, duration, path, put};
use crate::config::HttpsUrl;
use crate::config::parse;
use crate::config::setting::{Fallback, Read, Setting};
use crate::deliver::{Method, ProofAddress, ReloadSignal, StartTls};

pub(super) const ROWS: [Setting; 20] = [
    Setting::new(
        "deliver.name",
        Fallback::Required,
        "Of a table `[[deliver]]`, which is done after each publication: its name in events, metrics and `status`; lower-case letters, digits and `-`.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().name, parse::label(text))),
        |draft| draft.shown_delivery()?.name.as_deref().map(Value::from),
    ),
    Setting::new(
        "deliver.signal",
        Fallback::Unset,
        "Send a signal: `HUP`, `USR1`, `USR2`, `INT`, `QUIT`, `TERM` or `WINCH`. In place of it `exec`, `url`, `socket`, or none where the worker needs no reload.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().signal, text.parse::<ReloadSignal>())),
        |draft| draft.shown_delivery()?.signal.map(|signal| Value::from(signal.name())),
    ),
    Setting::new(
        "deliver.pid_file",
        Fallback::Unset,
        "The process to signal, by its pid file. One that started after the file was written is another, and is not signalled.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().pid_file, parse::absolute_path(text))),
        |draft| path(draft.shown_delivery()?.pid_file.as_ref()),
    ),
    Setting::new(
        "deliver.process",
        Fallback::Unset,
        "The processes to signal, by the name of their program: of a tree, the topmost. With `pid_file` or `cgroup`: what the process there must be called.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().process, parse::process_name(text))),
        |draft| draft.shown_delivery()?.process.as_deref().map(Value::from),
    ),
    Setting::new(
        "deliver.cgroup",
        Fallback::Unset,
        "The processes to signal, by the directory of their control group below `/sys/fs/cgroup`: of a tree, the topmost.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().cgroup, parse::absolute_path(text))),
        |draft| path(draft.shown_delivery()?.cgroup.as_ref()),
    ),
    Setting::new(
        "deliver.exec",
        Fallback::Unset,
        "Run a program: its absolute path and its arguments. There is no shell, and no environment but `PATH` and facts of the publication.",
        Read::Texts(|draft, texts| put(&mut draft.delivery().exec, parse::argv(texts))),
        |draft| draft.shown_delivery()?.exec.clone().map(Value::from),
    ),
    Setting::new(
        "deliver.url",
        Fallback::Unset,
        "Call this `https` URL by mTLS with the published certificate; any 2xx is success.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().url, HttpsUrl::new(text).map_err(parse::plain))),
        |draft| draft.shown_delivery()?.url.as_ref().map(|url| Value::from(url.as_str())),
    ),
    Setting::new(
        "deliver.socket",
        Fallback::Unset,
        "Call by HTTP on this Unix socket; any 2xx is success.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().socket, parse::socket_path(text))),
        |draft| path(draft.shown_delivery()?.socket.as_ref()),
    ),
    Setting::new(
        "deliver.path",
        Fallback::Computed("`/`"),
        "What to call on `socket`.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().path, parse::http_path(text))),
        |draft| draft.shown_delivery()?.path.as_deref().map(Value::from),
    ),
    Setting::new(
        "deliver.method",
        Fallback::Text("POST"),
        "The method of the call: `POST`, `PUT` or `GET`.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().method, text.parse::<Method>())),
        |draft| draft.shown_delivery()?.method.map(|method| Value::from(method.name())),
    ),
    Setting::new(
        "deliver.timeout",
        Fallback::Text("10s"),
        "The deadline of one attempt, and of one probe.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().timeout, parse::duration(text, (SECOND, MINUTE * 10)))),
        |draft| duration(draft.shown_delivery()?.timeout),
    ),
    Setting::new(
        "deliver.attempts",
        Fallback::Text("5"),
        "How often it is tried, with back-off, before `CERT_DELIVERY_FAILED` or `CERT_NOT_SERVED`.",
        Read::Number(|draft, text, _| put(&mut draft.delivery().attempts, parse::count(text, (1, 100)))),
        |draft| draft.shown_delivery()?.attempts.map(Value::from),
    ),
    Setting::new(
        "deliver.crls",
        Fallback::Text("false"),
        "Whether it is done also when only `ca.crl` has changed: for a worker that has read CRLs.",
        Read::Boolean(|draft, text, _| put(&mut draft.delivery().crls, parse::boolean(text))),
        |draft| draft.shown_delivery()?.crls.map(Value::from),
    ),
    Setting::new(
        "deliver.probe",
        Fallback::Unset,
        "Look what the worker serves: `host:port`, or the path of a Unix socket. The certificate that it presents must be the published one.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().probe, text.parse::<ProofAddress>())),
        |draft| draft.shown_delivery()?.probe.as_ref().map(|address| Value::from(address.to_string())),
    ),
    Setting::new(
        "deliver.probe_name",
        Fallback::Computed("the host of `probe`; the worker id on an address, `localhost` or a socket"),
        "The server name that the probe asks for (SNI).",
        Read::Text(|draft, text, _| put(&mut draft.delivery().probe_name, parse::server_name(text))),
        |draft| draft.shown_delivery()?.probe_name.as_ref().map(|name| Value::from(name.to_str().into_owned())),
    ),
    Setting::new(
        "deliver.probe_starttls",
        Fallback::Unset,
        "What to say before TLS: `postgres`. Not set: TLS from the first byte.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().probe_starttls, text.parse::<StartTls>())),
        |draft| draft.shown_delivery()?.probe_starttls.map(|protocol| Value::from(protocol.name())),
    ),
    Setting::new(
        "deliver.probes",
        Fallback::Text("3"),
        "How many probes in a row, 50 ms apart, have to see the published certificate until it counts as served: one proves one process of the worker.",
        Read::Number(|draft, text, _| put(&mut draft.delivery().probes, parse::count(text, (1, 100)))),
        |draft| draft.shown_delivery()?.probes.map(Value::from),
    ),
    Setting::new(
        "deliver.served_within",
        Fallback::Text("30s"),
        "How long the worker may take from an attempt until it serves the published certificate; then comes the next.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().served_within, parse::duration(text, (SECOND, HOUR)))),
        |draft| duration(draft.shown_delivery()?.served_within),
    ),
    Setting::new(
        "deliver.probe_interval",
        Fallback::Text("1m"),
        "How often it is probed between publications.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().probe_interval, parse::duration(text, (SECOND, DAY)))),
        |draft| duration(draft.shown_delivery()?.probe_interval),
    ),
    Setting::new(
        "deliver.not_served",
        Fallback::Text("report"),
        "What a worker that serves another certificate means: `report` by event, metric and `status`, or also `not-ready`.",
        Read::Text(|draft, text, _| put(&mut draft.delivery().not_ready, parse::not_served(text))),
        |draft| {
            draft
                .shown_delivery()?
                .not_ready
                .map(|not_ready| Value::from(if not_ready { "not-ready" } else { "report" }))
        },
    ),
];
