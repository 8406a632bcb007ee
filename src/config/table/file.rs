//! Owns the rows of `[[file]]`.

use toml::Value;

use super::{path, put};
use crate::config::accounts::account;
use crate::config::parse;
use crate::config::setting::{Fallback, Read, Setting};
use crate::identity::TrustDomain;
use crate::store::{ContentKind, FileName};

pub(super) const ROWS: [Setting; 8] = [
    Setting::new(
        "file.name",
        Fallback::Required,
        "Of a table `[[file]]`, a further file of each generation: its name in the certificate directory; letters, digits, `.`, `-` and `_`.",
        Read::Text(|draft, text, _| put(&mut draft.file().name, FileName::new(text))),
        |draft| draft.shown_file()?.name.as_ref().map(|name| Value::from(name.as_str())),
    ),
    Setting::new(
        "file.content",
        Fallback::Required,
        "What is in it. As PEM: `key`, `leaf`, `intermediates`, `certificate` (leaf and intermediates), `roots`, `crl`, `credential-bundle` (key, then certificate), `certificate-and-key`, `federated-roots`. Keystores: `pkcs12`, `jks`, and of the roots `pkcs12-roots`, `jks-roots`.",
        Read::Text(|draft, text, _| put(&mut draft.file().content, text.parse::<ContentKind>())),
        |draft| draft.shown_file()?.content.map(|content| Value::from(content.name())),
    ),
    Setting::new(
        "file.password_file",
        Fallback::Unset,
        "Of a keystore: the file with its password. Read anew for every publication; another password makes another generation.",
        Read::Text(|draft, text, _| put(&mut draft.file().password_file, parse::absolute_path(text))),
        |draft| path(draft.shown_file()?.password_file.as_ref()),
    ),
    Setting::new(
        "file.alias",
        Fallback::Computed("the worker id"),
        "Of a keystore: the name of the entry in it; of several roots with a number.",
        Read::Text(|draft, text, _| put(&mut draft.file().alias, parse::label(text))),
        |draft| draft.shown_file()?.alias.as_deref().map(Value::from),
    ),
    Setting::new(
        "file.trust_domain",
        Fallback::Unset,
        "Of `federated-roots`: whose roots.",
        Read::Text(|draft, text, _| {
            put(&mut draft.file().trust_domain, TrustDomain::new(text).map_err(|error| error.reason))
        }),
        |draft| draft.shown_file()?.trust_domain.as_ref().map(|domain| Value::from(domain.as_str())),
    ),
    Setting::new(
        "file.mode",
        Fallback::Computed("`files.key_mode` with a key in it (`0640` with `file.group`), else `0644`"),
        "The mode: `0600`, `0640`, `0400` or `0440`; without a key in it also `0644` or `0444`.",
        Read::Text(|draft, text, _| put(&mut draft.file().mode, parse::file_mode(text))),
        |draft| draft.shown_file()?.mode.map(|mode| Value::from(format!("{mode:04o}"))),
    ),
    Setting::new(
        "file.owner",
        Fallback::Computed("`files.owner`"),
        "The user that owns it: a number, or a name from `/etc/passwd`.",
        Read::Account(|draft, text, facts| put(&mut draft.file().owner, account(text, &facts.users))),
        |draft| draft.shown_file()?.owner.map(Value::from),
    ),
    Setting::new(
        "file.group",
        Fallback::Computed("`files.group`"),
        "The group that owns it: a number, or a name from `/etc/group`.",
        Read::Account(|draft, text, facts| put(&mut draft.file().group, account(text, &facts.groups))),
        |draft| draft.shown_file()?.group.map(Value::from),
    ),
];
