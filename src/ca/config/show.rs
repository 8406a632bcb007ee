//! Owns how settings are printed: as the TOML that would give them.

use std::fmt;

use serde::Serialize;

use super::CaConfig;
use crate::ca::anonymous::{AnonymousRule, AnonymousSettings};
use crate::ca::kubernetes::{KubernetesSettings, KubernetesSigner};
use crate::ca::limits::LimitSettings;
use crate::ca::oidc::{IssuerSettings, TokenIssuer};
use crate::ca::revocation::RevocationConfig;
use crate::ca::state::Database;
use crate::config::Environment;
use crate::duration::format_duration;

impl fmt::Display for CaConfig {
    /// The file that would give these settings; secrets are in files of their own and not among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.names.iter().map(|name| quoted(untyped(&name.to_string()))).collect();
        let environment = match self.environment {
            Environment::Development => "development",
            Environment::Production => "production",
        };
        writeln!(f, "data_dir = {}", quoted(&self.data_dir.display().to_string()))?;
        writeln!(f, "listen = {}", quoted(&self.listen.to_string()))?;
        writeln!(f, "names = [{}]", names.join(", "))?;
        writeln!(f, "lifetime = {}", quoted(&format_duration(self.lifetime)))?;
        writeln!(f, "environment = {}", quoted(environment))?;
        writeln!(f, "max_connections = {}", self.max_connections)?;
        writeln!(f, "retention = {}", quoted(&format_duration(self.retention)))?;
        writeln!(f, "renewal_grace = {}", quoted(&format_duration(self.renewal_grace)))?;
        if let Some(path) = &self.keys.passphrase_file {
            writeln!(f, "\n[keys]\npassphrase_file = {}", quoted(&path.display().to_string()))?;
        }
        if let Database::Postgres(server) = &self.database {
            writeln!(f, "\n[database]\nurl = {}", quoted(&server.url))?;
            for (key, path) in [("password_file", &server.password_file), ("root_file", &server.root_file)] {
                if let Some(path) = path {
                    writeln!(f, "{key} = {}", quoted(&path.display().to_string()))?;
                }
            }
            writeln!(f, "max_connections = {}", server.max_connections)?;
        }
        let RevocationConfig { crl_lifetime, admins, max_waiting, explanation_url } = &self.revocation;
        writeln!(f, "\n[crl]\nlifetime = {}", quoted(&format_duration(*crl_lifetime)))?;
        let admins: Vec<String> = admins.identities().map(|identity| quoted(&identity)).collect();
        writeln!(f, "\n[admin]\nidentities = [{}]", admins.join(", "))?;
        if max_waiting.is_some() || explanation_url.is_some() {
            writeln!(f, "\n[renewal]")?;
        }
        if let Some(max_waiting) = max_waiting {
            writeln!(f, "max_waiting = {max_waiting}")?;
        }
        if let Some(url) = explanation_url {
            writeln!(f, "explanation_url = {}", quoted(url))?;
        }
        let policy = self.policy.settings();
        if !policy.is_empty() {
            writeln!(f, "\n[policy]")?;
        }
        policy.iter().try_for_each(|(key, value)| writeln!(f, "{key} = {}", quoted(value)))?;
        let tables = Tables {
            limits: LimitSettings::of(&self.limits),
            issuers: self.issuers.iter().map(TokenIssuer::settings).collect(),
            anonymous: self.anonymous.iter().map(AnonymousRule::settings).collect(),
            kubernetes: self.kubernetes.as_ref().map(KubernetesSigner::settings),
        };
        write!(f, "\n{}", toml::to_string(&tables).map_err(|_| fmt::Error)?)
    }
}

/// The sections that are written as they are read.
#[derive(Serialize)]
struct Tables<'a> {
    limits: LimitSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<&'a KubernetesSettings>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    issuers: Vec<&'a IssuerSettings>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    anonymous: Vec<AnonymousSettings>,
}

/// A name without its type in front, as it stands in the file.
fn untyped(name: &str) -> &str {
    name.split_once(':').map_or(name, |(_, name)| name)
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
