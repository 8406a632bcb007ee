//! Owns the commands that make and change the CA's keys and certificates.

use std::fs;
use std::path::Path;

use crank_agent::ca::{
    CaCertificate, CertificateAuthorityManager, ImportKey, ImportOptions, InitOptions, IssuerState, RotateOptions,
    Unexpired,
};
use crank_agent::clock::SystemClock;
use time::format_description::well_known::Rfc3339;

use super::authority_arguments::{Import, Init, Root};
use super::failure::{CANNOT_WRITE, CONFIGURATION, Failure};
use super::{PUBLIC, say, write_whole};

/// `crank-ca init`.
pub(crate) fn initialize(init: Init) -> Result<(), Failure> {
    let Init { place, keys, if_missing, roots_out, csr_out, key_uri, key_type, trust_domain, name } = init;
    let (data_dir, _, keys) = place.resolve_with(keys)?;
    let options = InitOptions { key_type, trust_domain, name, keys, key_uri };
    if let Some(csr_out) = csr_out {
        return request(&data_dir, &options, &csr_out);
    }
    if if_missing && CertificateAuthorityManager::is_initialized(&data_dir) {
        return keep(&data_dir, &options, roots_out.as_deref());
    }
    let made = CertificateAuthorityManager::generate_ca_certificate(&data_dir, &options, &SystemClock)?;
    hand_out(&made, roots_out.as_deref())?;
    let directory = data_dir.display();
    say(&format!(
        "root certificate  {}\n\
         fingerprint       {}\n\
         trust domain      {}\n\
         \n\
         next:\n  \
         give agents the root file or its fingerprint: either lets them verify this CA\n  \
         move {directory}/authority/root.key to a safe place: serving does not need it\n  \
         crank-ca serve --data-dir {directory} --dns cert-authority\n  \
         crank-ca token create --data-dir {directory} --worker WORKER --ttl 10m\n",
        made.root_path.display(),
        made.root_fingerprint,
        options.trust_domain,
    ))
}

/// `crank-ca init --if-missing` where there is one.
fn keep(data_dir: &Path, options: &InitOptions, roots_out: Option<&Path>) -> Result<(), Failure> {
    let found = CertificateAuthorityManager::trust_domain_of(data_dir)?;
    let (directory, wanted) = (data_dir.display(), &options.trust_domain);
    if found != *wanted {
        let message = format!("the CA under {directory} is of the trust domain {found}, not {wanted}");
        return Err(Failure { code: CONFIGURATION, message });
    }
    let kept = CertificateAuthorityManager::ca_certificate(data_dir)?;
    hand_out(&kept, roots_out)?;
    say(&format!(
        "there is a CA under {directory} already; nothing was changed\n\
         root certificate  {}\n\
         fingerprint       {}\n\
         trust domain      {found}\n",
        kept.root_path.display(),
        kept.root_fingerprint,
    ))
}

/// Writes the roots where agents read them.
fn hand_out(ca: &CaCertificate, roots_out: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = roots_out else { return Ok(()) };
    write_whole(path, &ca.roots_pem, PUBLIC).map_err(|error| Failure {
        code: CANNOT_WRITE,
        message: format!("cannot write the roots to {}: {error}", path.display()),
    })
}

/// `crank-ca import`.
pub(crate) fn import(import: Import) -> Result<(), Failure> {
    let Import { place, keys, certificate, chain, root, key, if_missing, activate, key_type, trust_domain, name } =
        import;
    let (data_dir, _, keys) = place.resolve_with(keys)?;
    if if_missing
        && CertificateAuthorityManager::is_initialized(&data_dir)
        && let Some(issuer) = CertificateAuthorityManager::issuer_of(&data_dir, &certificate)?
    {
        let (file, directory) = (certificate.display(), data_dir.display());
        let turn = if activate && issuer.state != IssuerState::Issuing {
            CertificateAuthorityManager::activate_issuer(&data_dir, Some(&issuer.id), &keys)?;
            ", and signs from now on"
        } else {
            ""
        };
        return say(&format!("{file} is an issuer of the CA under {directory} already{turn}\n"));
    }
    let key = match key {
        None => ImportKey::OfRequest,
        Some(uri) if uri.starts_with("pkcs11:") => ImportKey::Uri(uri),
        Some(path) => ImportKey::File(path.into()),
    };
    let options = ImportOptions { certificate, chain, root, key, trust_domain, name, key_type, keys };
    let mut imported = CertificateAuthorityManager::import_issuer(&data_dir, &options, &SystemClock)?;
    if activate && imported.state != IssuerState::Issuing {
        CertificateAuthorityManager::activate_issuer(&data_dir, Some(&imported.id), &options.keys)?;
        imported.state = IssuerState::Issuing;
    }
    let directory = data_dir.display();
    let limits = if imported.dns_names.is_empty() {
        String::new()
    } else {
        format!("DNS names limited to  {}\n", imported.dns_names.join(", "))
    };
    let next = if imported.state == IssuerState::Issuing {
        format!("crank-ca serve --data-dir {directory} --dns cert-authority")
    } else {
        format!("when every agent has checked once: crank-ca root activate --data-dir {directory} {}", imported.id)
    };
    say(&format!(
        "issuer            {} ({})\n\
         root certificate  {}\n\
         fingerprint       {}\n\
         {limits}\n\
         next:\n  {next}\n",
        imported.id,
        imported.state.name(),
        imported.certificate.root_path.display(),
        imported.certificate.root_fingerprint,
    ))
}

/// `crank-ca root …`.
pub(crate) async fn change_roots(root: Root) -> Result<(), Failure> {
    match root {
        Root::List { place } => {
            let (data_dir, database) = place.resolve()?;
            let issuers = CertificateAuthorityManager::issuers(&data_dir, &database, &SystemClock).await?;
            let mut lines = vec![format!("{:<14}{:<10}{:<24}{:>12}  ROOT\n", "ID", "STATE", "ENDS", "UNEXPIRED")];
            for (issuer, unexpired) in issuers {
                let ends = issuer.not_after.format(&Rfc3339).unwrap_or_default();
                let (id, state, root) = (issuer.id, issuer.state.name(), issuer.root_fingerprint);
                lines.push(format!("{id:<14}{state:<10}{ends:<24}{unexpired:>12}  {root}\n"));
            }
            say(&lines.concat())
        }
        Root::Show { place } => {
            let (data_dir, _) = place.resolve()?;
            say(&CertificateAuthorityManager::ca_certificate(&data_dir)?.roots_pem)
        }
        Root::Rotate { place, keys, csr_out, root_key, key_uri, key_type, name } => {
            let (data_dir, _, keys) = place.resolve_with(keys)?;
            if let Some(csr_out) = csr_out {
                let trust_domain = CertificateAuthorityManager::trust_domain_of(&data_dir)?;
                let made = InitOptions::new(trust_domain);
                let name = name.unwrap_or_else(|| made.name.clone());
                return request(&data_dir, &InitOptions { key_type, name, keys, key_uri, ..made }, &csr_out);
            }
            let options = RotateOptions { key_type, name, keys, key_uri, root_key };
            let rotated = CertificateAuthorityManager::rotate_root(&data_dir, &options, &SystemClock)?;
            let certified = if rotated.cross_certified {
                "by the old root: agents that know only the old one can follow at any time"
            } else {
                "no: the old root's key is not here (--root-key). Agents that know only the old root have to meet this CA \
                 before `root activate`"
            };
            let (directory, id) = (data_dir.display(), &rotated.id);
            say(&format!(
                "issuer           {id} (next)\n\
                 fingerprint      {}\n\
                 cross-certified  {certified}\n\
                 \n\
                 next:\n  \
                 wait until every agent has checked once (schedule.check_interval, 1h by default)\n  \
                 crank-ca root activate --data-dir {directory} {id}\n  \
                 move {directory}/authority/next/{id}/root.key to a safe place: serving does not need it\n",
                rotated.root_fingerprint,
            ))
        }
        Root::Activate { place, keys, id } => {
            let (data_dir, _, keys) = place.resolve_with(keys)?;
            let id = CertificateAuthorityManager::activate_issuer(&data_dir, id.as_deref(), &keys)?;
            let directory = data_dir.display();
            say(&format!(
                "issuer  {id} (issuing)\n\
                 \n\
                 next:\n  \
                 when no certificate of the former issuer is left (crank-ca root list --data-dir {directory}):\n  \
                 crank-ca root retire --data-dir {directory}\n"
            ))
        }
        Root::Retire { place, force, id } => {
            let (data_dir, database) = place.resolve()?;
            let unexpired = if force { Unexpired::Ignore } else { Unexpired::Refuse };
            let (id, clock) = (id.as_deref(), SystemClock);
            let retired =
                CertificateAuthorityManager::retire_issuer(&data_dir, &database, id, unexpired, &clock).await?;
            say(&format!("retired issuer {}, root {}\n", retired.id, retired.root_fingerprint))
        }
    }
}

fn request(data_dir: &Path, options: &InitOptions, csr_out: &Path) -> Result<(), Failure> {
    let (pem, kept) = CertificateAuthorityManager::request_issuer(data_dir, options)?;
    let (directory, file) = (data_dir.display(), csr_out.display());
    fs::write(csr_out, pem).map_err(|error| Failure {
        code: CANNOT_WRITE,
        message: format!("cannot write {file}: {error}; the request is kept as {}", kept.display()),
    })?;
    say(&format!(
        "request  {file}\n\
         \n\
         next:\n  \
         have it signed as an intermediate: CA:TRUE, path length 0, keyCertSign and cRLSign\n  \
         crank-ca import --data-dir {directory} --certificate FILE --root FILE\n"
    ))
}
