//! Owns what a Kubernetes service-account token has to hold beside what every token has.

use serde_json::{Map, Value};

use super::claims::Claims;
use super::refusal::TokenRefusal;

/// Whether a token must be bound to a pod, and so end with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PodBinding {
    /// It must.
    Required,
    /// It may.
    Optional,
}

/// Checks that the token is a projected one: of a service account by name and uid, with the subject of that account, and
/// bound to a pod by name and uid.
pub(super) fn check(claims: &Claims, binding: PodBinding) -> Result<(), TokenRefusal> {
    let missing = |claim: &str| TokenRefusal::Claim(format!("{ROOT}.{claim}"));
    let root = root(claims).ok_or_else(|| TokenRefusal::Claim(ROOT.to_owned()))?;
    let namespace = text(root, "namespace").ok_or_else(|| missing("namespace"))?;
    let (account, _uid) = reference(root, "serviceaccount").ok_or_else(|| missing("serviceaccount"))?;
    if claims.text("sub") != Some(format!("system:serviceaccount:{namespace}:{account}").as_str()) {
        return Err(TokenRefusal::Claim("sub".to_owned()));
    }
    match (pod(claims), binding) {
        (Some(_), _) => Ok(()),
        // Half a binding is none.
        (None, PodBinding::Optional) if !root.contains_key("pod") => Ok(()),
        (None, _) => Err(TokenRefusal::NoPod),
    }
}

/// Name and uid of the pod that the token is bound to.
pub(super) fn pod(claims: &Claims) -> Option<(&str, &str)> {
    reference(root(claims)?, "pod")
}

fn root(claims: &Claims) -> Option<&Map<String, Value>> {
    claims.object().get(ROOT)?.as_object()
}

fn reference<'a>(root: &'a Map<String, Value>, name: &str) -> Option<(&'a str, &'a str)> {
    let object = root.get(name)?.as_object()?;
    Some((text(object, "name")?, text(object, "uid")?))
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str().filter(|text| !text.is_empty())
}

const ROOT: &str = "kubernetes.io";
