//! Owns the settings of a trusted issuer: as an operator writes them, and checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::jws::Algorithm;
use super::kubernetes::PodBinding;
use super::template::{ClaimPath, Template};
use crate::ca::config::CaProblem;
use crate::config::HttpsUrl;
use crate::duration::parse_duration;

/// A trusted issuer as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// What kind of tokens it makes.
    #[serde(default)]
    pub kind: IssuerKind,
    /// The exact text of the claim `iss`.
    pub issuer: String,
    /// What the claim `aud` must hold.
    pub audience: String,
    /// A file with the issuer's keys, read again when it changes.
    pub jwks_file: Option<PathBuf>,
    /// Where the issuer's keys are; `https` only.
    pub jwks_url: Option<String>,
    /// The roots that the server of `jwks_url` is verified against, as PEM.
    pub root_file: Option<PathBuf>,
    /// A bearer token for `jwks_url`, read again for each request.
    pub token_file: Option<PathBuf>,
    /// The algorithms that count; all that are supported when left out.
    pub algorithms: Option<Vec<String>>,
    /// How far its clock may be off.
    #[serde(default = "default_leeway")]
    pub leeway: String,
    /// The longest life of a token.
    #[serde(default = "default_longest_life")]
    pub longest_life: String,
    /// The template of the worker id; `{namespace}.{serviceaccount}` for Kubernetes when left out.
    pub identity: Option<String>,
    /// Templates of DNS names and addresses that the worker may have beside its own.
    #[serde(default)]
    pub names: Vec<String>,
    /// Claims that must have exactly these values.
    #[serde(default)]
    pub require: BTreeMap<String, Value>,
    /// Kubernetes: whether a token must be bound to a pod.
    pub require_pod_binding: Option<bool>,
}

/// What kind of tokens an issuer makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerKind {
    /// OIDC tokens of any issuer.
    #[default]
    Oidc,
    /// Service-account tokens of a Kubernetes cluster.
    Kubernetes,
}

impl IssuerKind {
    /// A fixed label, which is also the kind of authentication.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Oidc => "oidc",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// The path of a claim that has a short name.
    pub(super) fn long_form(self, short: &str) -> Option<&'static str> {
        match (self, short) {
            (Self::Kubernetes, "namespace") => Some("kubernetes.io.namespace"),
            (Self::Kubernetes, "serviceaccount") => Some("kubernetes.io.serviceaccount.name"),
            (Self::Kubernetes, "pod") => Some("kubernetes.io.pod.name"),
            (Self::Kubernetes, "node") => Some("kubernetes.io.node.name"),
            _ => None,
        }
    }
}

/// A trusted issuer, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuer {
    written: IssuerSettings,
    pub(super) kind: IssuerKind,
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) keys: KeySource,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) leeway: Duration,
    pub(super) longest_life: Duration,
    pub(super) identity: Template,
    pub(super) names: Vec<Template>,
    pub(super) require: Vec<(ClaimPath, Value)>,
    pub(super) pod_binding: PodBinding,
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeySource {
    File(PathBuf),
    Url(KeyUrl),
}

/// Keys over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyUrl {
    pub(super) url: HttpsUrl,
    pub(super) root_file: PathBuf,
    pub(super) token_file: Option<PathBuf>,
}

impl TokenIssuer {
    /// The exact text of the claim `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The settings as they were written.
    #[must_use]
    pub fn settings(&self) -> &IssuerSettings {
        &self.written
    }
}

impl IssuerSettings {
    /// The issuer, checked. No file is read.
    ///
    /// # Errors
    /// Every setting that cannot be used.
    pub fn resolve(&self) -> Result<TokenIssuer, Vec<CaProblem>> {
        let mut problems = Vec::new();
        for (key, value) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if value.is_empty() || value.len() > TEXT_LIMIT || value.chars().any(char::is_control) {
                problems.push(CaProblem::unfit(key, &value, "a text of 1 to 512 bytes, as it stands in the tokens"));
            }
        }
        let keys = self.keys(&mut problems);
        let algorithms = self.algorithms(&mut problems);
        let leeway = within("leeway", &self.leeway, Duration::ZERO, Duration::from_mins(5), &mut problems);
        let (shortest, longest) = (Duration::from_mins(1), Duration::from_hours(30 * 24));
        let longest_life = within("longest_life", &self.longest_life, shortest, longest, &mut problems);
        let default = (self.kind == IssuerKind::Kubernetes).then_some("{namespace}.{serviceaccount}");
        let identity = self.identity.as_deref().or(default);
        if identity.is_none() {
            problems.push(CaProblem::missing("identity", "a template of the worker id, such as {sub}"));
        }
        let identity = identity.and_then(|text| self.template("identity", text, &mut problems));
        let names = self.names.iter().filter_map(|text| self.template("names", text, &mut problems)).collect();
        let require = self.requirements(&mut problems);
        if self.require_pod_binding.is_some() && self.kind != IssuerKind::Kubernetes {
            problems.push(CaProblem::unfit(
                "require_pod_binding",
                &self.require_pod_binding.unwrap_or_default(),
                "no such setting but with kind = \"kubernetes\"",
            ));
        }
        let (Some(keys), Some(identity), true) = (keys, identity, problems.is_empty()) else { return Err(problems) };
        Ok(TokenIssuer {
            written: self.clone(),
            kind: self.kind,
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            keys,
            algorithms,
            leeway,
            longest_life,
            identity,
            names,
            require,
            pod_binding: match self.require_pod_binding {
                Some(false) => PodBinding::Optional,
                _ => PodBinding::Required,
            },
        })
    }

    fn keys(&self, problems: &mut Vec<CaProblem>) -> Option<KeySource> {
        let of_url = [("root_file", &self.root_file), ("token_file", &self.token_file)];
        match (&self.jwks_file, &self.jwks_url) {
            (Some(file), None) => {
                for (key, value) in of_url {
                    if let Some(value) = value {
                        problems.push(CaProblem::unfit(key, &value.display(), "no such setting but with jwks_url"));
                    }
                }
                Some(KeySource::File(file.clone()))
            }
            (None, Some(text)) => {
                let url = HttpsUrl::new(text)
                    .map_err(|expected| problems.push(CaProblem::new("jwks_url", Some(text), expected)));
                let Some(root_file) = self.root_file.clone() else {
                    problems.push(CaProblem::missing("root_file", "the file with the roots of jwks_url's server"));
                    return None;
                };
                Some(KeySource::Url(KeyUrl { url: url.ok()?, root_file, token_file: self.token_file.clone() }))
            }
            (Some(file), Some(_)) => {
                problems.push(CaProblem::unfit("jwks_file", &file.display(), "either jwks_file or jwks_url"));
                None
            }
            (None, None) => {
                problems.push(CaProblem::missing("jwks_file", "the issuer's keys by jwks_file or jwks_url"));
                None
            }
        }
    }

    fn algorithms(&self, problems: &mut Vec<CaProblem>) -> Vec<Algorithm> {
        let Some(names) = &self.algorithms else { return Algorithm::ALL.to_vec() };
        let supported = Algorithm::ALL.map(Algorithm::name).join(", ");
        if names.is_empty() {
            problems.push(CaProblem::missing("algorithms", format!("some of {supported}")));
        }
        let mut known = Vec::new();
        for name in names {
            match Algorithm::find(name) {
                Some(algorithm) => known.push(algorithm),
                None => problems.push(CaProblem::unfit("algorithms", name, format!("some of {supported}"))),
            }
        }
        known
    }

    fn template(&self, key: &str, text: &str, problems: &mut Vec<CaProblem>) -> Option<Template> {
        let parsed = Template::parse(text, self.kind);
        parsed.map_err(|expected| problems.push(CaProblem::unfit(key, text, expected))).ok()
    }

    fn requirements(&self, problems: &mut Vec<CaProblem>) -> Vec<(ClaimPath, Value)> {
        let mut required = Vec::new();
        for (path, value) in &self.require {
            let path = self.kind.long_form(path).unwrap_or(path);
            match ClaimPath::parse(path) {
                Ok(path) if value.is_string() || value.is_boolean() || value.is_i64() => {
                    required.push((path, value.clone()));
                }
                Ok(_) => problems.push(CaProblem::unfit("require", value, "a text, a number or true and false")),
                Err(expected) => problems.push(CaProblem::unfit("require", path, expected)),
            }
        }
        required
    }
}

fn within(key: &str, text: &str, shortest: Duration, longest: Duration, problems: &mut Vec<CaProblem>) -> Duration {
    use crate::duration::format_duration;
    let expected = match parse_duration(text) {
        Ok(duration) if (shortest..=longest).contains(&duration) => return duration,
        Ok(_) => format!("{} to {}", format_duration(shortest), format_duration(longest)),
        Err(expected) => expected.trim_start_matches("expected ").to_owned(),
    };
    problems.push(CaProblem::unfit(key, text, expected));
    Duration::ZERO
}

fn default_leeway() -> String {
    "30s".to_owned()
}

fn default_longest_life() -> String {
    "24h".to_owned()
}

const TEXT_LIMIT: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> IssuerSettings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_cluster_needs_three_lines() {
        let issuer = settings(
            "kind = \"kubernetes\"\nissuer = \"https://kubernetes.default.svc\"\naudience = \"crank-ca\"\n\
             jwks_file = \"/keys.json\"",
        );
        let issuer = issuer.resolve().unwrap();
        assert_eq!(issuer.pod_binding, PodBinding::Required);
        assert_eq!(issuer.algorithms, Algorithm::ALL);
        assert_eq!((issuer.leeway, issuer.longest_life), (Duration::from_secs(30), Duration::from_hours(24)));
        assert_eq!(Ok(issuer.identity), Template::parse("{namespace}.{serviceaccount}", IssuerKind::Kubernetes));
    }

    #[test]
    fn every_setting_that_does_not_fit_is_told_at_once() {
        let problems = settings(
            "issuer = \"\"\naudience = \"\\u0007\"\njwks_url = \"http://keys.example\"\nleeway = \"6m\"\n\
             longest_life = \"1s\"\nalgorithms = [\"RS256\", \"HS256\", \"none\"]\nidentity = \"{a}{b}\"\nnames = [\"*.{a}\"]\n\
             require_pod_binding = true\n[require]\na = [1]\n\"b c\" = \"x\"",
        );
        let problems = problems.resolve().unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "issuer",
                "audience",
                "jwks_url",
                "root_file",
                "algorithms",
                "algorithms",
                "leeway",
                "longest_life",
                "identity",
                "names",
                "require",
                "require",
                "require_pod_binding"
            ]
        );
        assert_eq!(problems[1].value.as_deref(), Some("\\u{7}"));
    }

    #[test]
    fn keys_come_from_one_place_and_the_identity_from_a_template() {
        let base = "issuer = \"i\"\naudience = \"a\"\n";
        for (text, key) in [
            ("identity = \"{sub}\"", "jwks_file"),
            ("jwks_file = \"/f\"", "identity"),
            ("jwks_file = \"/f\"\njwks_url = \"https://x\"\nidentity = \"{sub}\"", "jwks_file"),
            ("jwks_file = \"/f\"\nroot_file = \"/r\"\nidentity = \"{sub}\"", "root_file"),
            ("jwks_url = \"https://x/keys\"\nidentity = \"{sub}\"", "root_file"),
        ] {
            let problems = settings(&format!("{base}{text}")).resolve().unwrap_err();
            assert_eq!(problems.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), [key], "{text}");
        }
        let good = "jwks_url = \"https://x/keys\"\nroot_file = \"/r\"\ntoken_file = \"/t\"\nidentity = \"{sub}\"";
        assert!(settings(&format!("{base}{good}")).resolve().is_ok());
        assert!(toml::from_str::<IssuerSettings>(&format!("{base}jwks_fil = \"/f\"")).is_err());
    }
}
