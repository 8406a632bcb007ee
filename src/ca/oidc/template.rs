//! Owns the templates by which claims become names, and the paths that lead to claims. Both come from the
//! configuration; a claim is put in as it is, and never read as either.

use std::fmt;

use serde_json::{Map, Value};

use super::refusal::TokenRefusal;
use super::settings::IssuerKind;

/// A name with claims in it, such as `{namespace}.{serviceaccount}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ca) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Claim(ClaimPath),
}

/// Where a claim is: names of members with dots between them. A name may have dots in it too, as `kubernetes.io` has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimPath(String);

impl Template {
    /// Parses a template. The error says what was expected.
    pub(in crate::ca) fn parse(text: &str, kind: IssuerKind) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('{') {
                let (path, tail) = inner.split_once('}').ok_or("a `}` for every `{`")?;
                if matches!(parts.last(), Some(Part::Claim(_))) {
                    return Err("a character between two claims, so that their values cannot run together");
                }
                parts.push(Part::Claim(ClaimPath::parse(kind.long_form(path).unwrap_or(path))?));
                rest = tail;
            } else {
                let length = rest.find('{').unwrap_or(rest.len());
                let (text, tail) = rest.split_at(length);
                let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
                if !text.bytes().all(allowed) {
                    return Err("lower-case letters, digits, `-` and `.` around claims in braces");
                }
                parts.push(Part::Text(text.to_owned()));
                rest = tail;
            }
        }
        if parts.is_empty() { Err("a name with claims in braces, such as {sub}") } else { Ok(Self(parts)) }
    }

    /// The name that `claims` give. Different values give different names: a value that holds what follows it in the
    /// template is refused, as `a.b` for the first of `{x}.{y}`.
    pub(in crate::ca) fn render(&self, claims: &Map<String, Value>) -> Result<String, TokenRefusal> {
        let mut name = String::new();
        for (index, part) in self.0.iter().enumerate() {
            let path = match part {
                Part::Text(text) => {
                    name.push_str(text);
                    continue;
                }
                Part::Claim(path) => path,
            };
            let refused = || TokenRefusal::Claim(path.to_string());
            let value = path.resolve(claims)?.as_str().ok_or_else(refused)?;
            if value.is_empty() || value.len() > VALUE_LIMIT {
                return Err(refused());
            }
            if let [Part::Text(text), _, ..] = &self.0[index + 1..]
                && format!("{value}{text}").find(text) != Some(value.len())
            {
                return Err(refused());
            }
            name.push_str(value);
        }
        Ok(name)
    }
}

impl ClaimPath {
    /// Parses a path. The error says what was expected.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '{' | '}');
        if text.is_empty() || text.len() > PATH_LIMIT || text.contains(forbidden) {
            return Err("the name of a claim, such as sub or kubernetes.io.namespace");
        }
        Ok(Self(text.to_owned()))
    }

    /// The one claim that the path leads to. Where it leads to several (`a.b` both to a member `a.b` and to a member `b`
    /// of `a`), to none of them.
    pub(super) fn resolve<'a>(&self, claims: &'a Map<String, Value>) -> Result<&'a Value, TokenRefusal> {
        let mut found = Vec::new();
        walk(claims, &self.0, &mut found);
        match found[..] {
            [value] => Ok(value),
            _ => Err(TokenRefusal::Claim(self.0.clone())),
        }
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn walk<'a>(object: &'a Map<String, Value>, path: &str, found: &mut Vec<&'a Value>) {
    found.extend(object.get(path));
    for (dot, _) in path.match_indices('.') {
        if let Some(Value::Object(inner)) = object.get(&path[..dot]) {
            walk(inner, &path[dot + 1..], found);
        }
    }
}

/// A DNS name has no more.
const VALUE_LIMIT: usize = 253;

const PATH_LIMIT: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("expected an object") };
        object
    }

    fn render(template: &str, claims: Value) -> Result<String, TokenRefusal> {
        Template::parse(template, IssuerKind::Oidc).unwrap().render(&object(claims))
    }

    #[test]
    fn claims_are_put_where_the_template_says() {
        let claims = json!({ "sub": "a", "kubernetes.io": { "namespace": "n", "serviceaccount": { "name": "s" } } });
        assert_eq!(render("{sub}", claims.clone()).unwrap(), "a");
        assert_eq!(render("x-{sub}.y", claims.clone()).unwrap(), "x-a.y");
        let template = "{kubernetes.io.namespace}.{kubernetes.io.serviceaccount.name}";
        assert_eq!(render(template, claims.clone()).unwrap(), "n.s");
        let short = Template::parse("{namespace}.{serviceaccount}", IssuerKind::Kubernetes).unwrap();
        assert_eq!(short.render(&object(claims)).unwrap(), "n.s");
        assert_eq!(render("{https://x.example/worker}", json!({ "https://x.example/worker": "w" })).unwrap(), "w");
        assert_eq!(render("runner", json!({})).unwrap(), "runner");
    }

    #[test]
    fn a_claim_is_never_a_template_itself() {
        assert_eq!(render("{a}", json!({ "a": "{b}", "b": "c" })).unwrap(), "{b}");
    }

    #[test]
    fn a_claim_that_is_missing_ambiguous_or_no_text_refuses() {
        for claims in [
            json!({}),
            json!({ "a": null }),
            json!({ "a": { "b": 1 } }),
            json!({ "a": { "b": ["x"] } }),
            json!({ "a": { "b": "" } }),
            json!({ "a": { "b": "x" }, "a.b": "y" }),
            json!({ "a": { "b": "x".repeat(254) } }),
        ] {
            assert_eq!(render("{a.b}", claims.clone()), Err(TokenRefusal::Claim("a.b".to_owned())), "{claims}");
        }
    }

    #[test]
    fn templates_that_do_not_parse_are_told() {
        for bad in ["", "{", "{}", "{a", "a}", "{a}{b}", "{a b}", "A{a}", "{a}/{b}", "{a}_{b}", "*.{a}", "{{a}}", "é"]
        {
            assert!(Template::parse(bad, IssuerKind::Oidc).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn different_claims_give_different_names(
            one in ("[ab.-]{1,4}", "[ab.-]{1,4}", "[ab.-]{1,4}"), other in ("[ab.-]{1,4}", "[ab.-]{1,4}", "[ab.-]{1,4}"),
        ) {
            for template in ["{x}.{y}", "{x}.{y}-{z}.a", "a{x}-a-{y}", "{x}aa{y}"] {
                let name = |(x, y, z): &(String, String, String)| render(template, json!({ "x": x, "y": y, "z": z })).ok();
                let used = |(x, y, z): &(String, String, String)| {
                    (x.clone(), y.clone(), if template.contains('z') { z.clone() } else { String::new() })
                };
                if let (Some(first), Some(second)) = (name(&one), name(&other)) {
                    prop_assert_eq!(first == second, used(&one) == used(&other));
                }
            }
        }

        #[test]
        fn any_text_is_taken_without_panic(text in any::<String>()) {
            let _ = Template::parse(&text, IssuerKind::Kubernetes);
        }
    }
}
