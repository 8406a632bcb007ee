//! Owns a delivery while its settings are being read, and what must fit together in it.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::{Fault, HttpsUrl};
use crate::deliver::{
    Action, Call, DeliveryConfig, HttpTarget, Method, ProofAddress, ProofConfig, ReloadSignal, StartTls, Target,
};
use crate::identity::WorkerId;

/// Each value that has been read. A field is empty while its setting has no valid value.
#[derive(Debug, Clone, Default)]
pub(super) struct DeliveryDraft {
    pub(super) name: Option<String>,
    pub(super) signal: Option<ReloadSignal>,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) process: Option<String>,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) exec: Option<Vec<String>>,
    pub(super) url: Option<HttpsUrl>,
    pub(super) socket: Option<PathBuf>,
    pub(super) path: Option<String>,
    pub(super) method: Option<Method>,
    pub(super) timeout: Option<Duration>,
    pub(super) attempts: Option<u32>,
    pub(super) crls: Option<bool>,
    pub(super) probe: Option<ProofAddress>,
    pub(super) probe_name: Option<ServerName<'static>>,
    pub(super) probe_starttls: Option<StartTls>,
    pub(super) probes: Option<u32>,
    pub(super) served_within: Option<Duration>,
    pub(super) probe_interval: Option<Duration>,
    pub(super) not_ready: Option<bool>,
}

impl DeliveryDraft {
    /// What is wrong between values that are good one by one.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let given = [
            ("signal", self.signal.is_some()),
            ("exec", self.exec.is_some()),
            ("url", self.url.is_some()),
            ("socket", self.socket.is_some()),
        ];
        let actions: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        let mut faults = Vec::new();
        if let [first, second, ..] = actions[..] {
            faults.push((second, format!("one of `signal`, `exec`, `url` and `socket`; there is `{first}` already")));
        }
        if actions.is_empty() && self.probe.is_none() {
            faults.push(("signal", "a `signal`, an `exec`, a `url`, a `socket` or a `probe`".to_owned()));
        }
        let target = self.pid_file.is_some() || self.process.is_some() || self.cgroup.is_some();
        if self.signal.is_some() && !target {
            faults.push(("signal", "a `pid_file`, a `process` or a `cgroup` to send it to".to_owned()));
        }
        if self.signal.is_none() && target {
            faults.push(("signal", "a signal for what `pid_file`, `process` or `cgroup` names".to_owned()));
        }
        if self.pid_file.is_some() && self.cgroup.is_some() {
            faults.push(("cgroup", "one of `pid_file` and `cgroup`".to_owned()));
        }
        if self.path.is_some() && self.socket.is_none() {
            faults.push(("path", "a `socket`; the path of a `url` is in the URL".to_owned()));
        }
        if self.probe.is_none() {
            let given = [
                ("probe_name", self.probe_name.is_some()),
                ("probe_starttls", self.probe_starttls.is_some()),
                ("not_served", self.not_ready == Some(true)),
            ];
            let given = given.into_iter().filter(|(_, given)| *given);
            faults.extend(given.map(|(name, _)| (name, "a `probe`, without which it means nothing".to_owned())));
        }
        faults
    }

    /// The delivery, or the name of the first value that is missing.
    pub(super) fn assemble(self, worker_id: &WorkerId) -> Result<DeliveryConfig, &'static str> {
        let method = self.method.ok_or("method")?;
        let target = Target { pid_file: self.pid_file, process: self.process, cgroup: self.cgroup };
        let action = match (self.signal, self.exec, self.url, self.socket) {
            (Some(signal), ..) => Some(Action::Signal(signal, target)),
            (_, Some(argv), ..) => Some(Action::Exec(argv)),
            (_, _, Some(url), _) => Some(Action::Call(Call { method, target: HttpTarget::Https(url) })),
            (_, _, _, Some(socket)) => {
                let path = self.path.unwrap_or_else(|| "/".to_owned());
                Some(Action::Call(Call { method, target: HttpTarget::Unix { socket, path } }))
            }
            _ => None,
        };
        let proof = match self.probe {
            None => None,
            Some(address) => {
                let of_worker = || ServerName::try_from(worker_id.as_str().to_owned()).ok();
                let server_name = self.probe_name.or_else(|| address.server_name()).or_else(of_worker);
                Some(ProofConfig {
                    server_name: server_name.ok_or("probe_name")?,
                    address,
                    starttls: self.probe_starttls,
                    in_a_row: self.probes.ok_or("probes")?,
                    served_within: self.served_within.ok_or("served_within")?,
                    interval: self.probe_interval.ok_or("probe_interval")?,
                    not_ready: self.not_ready.ok_or("not_served")?,
                })
            }
        };
        Ok(DeliveryConfig {
            name: self.name.ok_or("name")?,
            action,
            timeout: self.timeout.ok_or("timeout")?,
            attempts: self.attempts.ok_or("attempts")?,
            crls: self.crls.ok_or("crls")?,
            proof,
        })
    }
}
