//! Owns taking over an issuer that others have made or signed: everything that could go wrong with it later is found now.

use std::path::{Path, PathBuf};

use rcgen::Issuer;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::X509Certificate;

use super::constraints::NameConstraints;
use super::content::{Content, ISSUER, ISSUER_KEY, ISSUER_URI, IssuerFiles, ROOT};
use super::files::{self, Settings};
use super::generate::{self, Generation};
use super::issuing::{IssuerState, Issuing, is_signed_by, parse, read_certificates, read_key};
use super::key::{IssuerKey, KeySettings};
use super::{Authority, AuthorityError, CaCertificate, IssuerFacts, Lineup, rotation};
use crate::ca::sign;
use crate::identity::bundle::{CHAIN_LIMIT, ROOTS_LIMIT, certificates_to_pem};
use crate::identity::{KeyType, PrivateKey, SubjectAltName, TrustDomain, WorkerId};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// What is to be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// A PEM file with an issuing certificate, or with a root; others may follow it.
    pub certificate: PathBuf,
    /// PEM files with the certificates between it and the root, where they do not follow it.
    pub chain: Vec<PathBuf>,
    /// A PEM file with the root. May be left out for an issuer below a root of this CA.
    pub root: Option<PathBuf>,
    /// The certificate's key.
    pub key: ImportKey,
    /// The trust domain, where there is neither a CA nor a request under the data directory.
    pub trust_domain: TrustDomain,
    /// Begins the name of the intermediate that is made below an imported root.
    pub name: String,
    /// The kind of that intermediate's key.
    pub key_type: KeyType,
    /// How the keys are opened and protected.
    pub keys: KeySettings,
}

/// Where the key of an imported certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportKey {
    /// In the data directory, where the request for the certificate was made.
    OfRequest,
    /// In this PEM file; encrypted ones are opened with the passphrase of the CA's keys.
    File(PathBuf),
    /// In a hardware security module: a `pkcs11:` URI (RFC 7512).
    Uri(String),
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The issuer's id.
    pub id: String,
    /// Whether it signs from now on, or has to be activated.
    pub state: IssuerState,
    /// The DNS names that its certificates permit; empty where they permit all.
    pub dns_names: Vec<String>,
    /// The public side of the CA.
    pub certificate: CaCertificate,
}

/// An issuer on its way into the data directory.
struct Candidate {
    path: PathBuf,
    root: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: IssuerKey,
    files: IssuerFiles,
}

impl Authority {
    /// The issuer of the CA under `data_dir` that the first certificate in `file` is of: its own, or its root's.
    pub(crate) fn issuer_of(data_dir: &Path, file: &Path) -> Result<Option<IssuerFacts>, AuthorityError> {
        let first = read_certificates(file, CHAIN_LIMIT)?.remove(0);
        let lineup = Lineup::load(data_dir)?;
        Ok(lineup.issuers.iter().find(|issuer| issuer.chain[0] == first || issuer.root == first).map(rotation::facts))
    }

    /// Takes over an issuer: as the one that signs, or else beside it, to be activated.
    pub(crate) fn import(
        data_dir: &Path,
        options: &ImportOptions,
        now: OffsetDateTime,
    ) -> Result<Imported, AuthorityError> {
        let lineup = if files::exists(data_dir) { Some(Lineup::load(data_dir)?) } else { None };
        let request = data_dir.join(files::REQUEST);
        let settings = match &lineup {
            Some(lineup) => lineup.settings.clone(),
            None if request.exists() => files::read_settings(&request)?,
            None => {
                Settings { trust_domain: options.trust_domain.clone(), name: Some(options.name.clone()), generation: 1 }
            }
        };
        let candidate = Candidate::read(data_dir, options, lineup.as_ref(), now)?;
        let checked = candidate.check(&settings.trust_domain, now)?;
        let (id, dns_names) = (checked.id.clone(), checked.constraints.permitted_dns());
        let state = if let Some(lineup) = lineup {
            files::change(data_dir, |content| {
                if lineup.issuers.iter().any(|issuer| issuer.id == id) || content.next.contains_key(&id) {
                    return Err(AuthorityError::Issuer { id: id.clone(), reason: "is one of this CA already" });
                }
                let directory = data_dir.join(files::DIRECTORY);
                let crosses = rotation::crosses(&directory, &checked.root, None, None, &options.keys, now)?;
                content.cross.extend_from_slice(certificates_to_pem(&crosses).as_bytes());
                content.next.insert(id.clone(), candidate.files);
                Ok(())
            })?;
            if options.key == ImportKey::OfRequest {
                files::remove_request(data_dir)?;
            }
            IssuerState::Next
        } else {
            files::publish(data_dir, &Content::new(settings, candidate.files))?;
            IssuerState::Issuing
        };
        Ok(Imported { id, state, dns_names, certificate: Self::public_of(data_dir)? })
    }
}

impl Candidate {
    fn read(
        data_dir: &Path,
        options: &ImportOptions,
        lineup: Option<&Lineup>,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let path = options.certificate.clone();
        let mut given = read_certificates(&path, CHAIN_LIMIT)?;
        let first = given.remove(0);
        let key = read_import_key(data_dir, options)?;
        let is_root = {
            let parsed = parse(&path, &first)?;
            is_signed_by(&parsed, &parsed)
        };
        if is_root {
            return Self::below(path, first, &key, options, now);
        }
        let mut pool = given;
        for file in &options.chain {
            pool.extend(read_certificates(file, CHAIN_LIMIT)?);
        }
        let roots = match &options.root {
            Some(file) => read_certificates(file, ROOTS_LIMIT)?,
            None => lineup.map(Lineup::roots).unwrap_or_default(),
        };
        if roots.is_empty() {
            return Err(AuthorityError::Option { what: "root", reason: "expected --root FILE with the root above" });
        }
        let (chain, root) = chain_to(&path, first, &pool, &roots)?;
        let files = IssuerFiles::default()
            .with(ROOT, certificates_to_pem(std::slice::from_ref(&root)).as_bytes())
            .with(ISSUER, certificates_to_pem(&chain).as_bytes());
        let files = match (&key, &options.key) {
            (_, ImportKey::Uri(uri)) => files.with(ISSUER_URI, uri.as_bytes()),
            (IssuerKey::Local(key), _) => files.with(ISSUER_KEY, options.keys.encode(key)?.as_bytes()),
            #[cfg(feature = "pkcs11")]
            (IssuerKey::Token(key), _) => files.with(ISSUER_URI, key.uri().as_bytes()),
        };
        Ok(Self { path, root, chain, key, files })
    }

    /// A fresh intermediate below an imported root, whose key is used for this and not kept.
    fn below(
        path: PathBuf,
        root: CertificateDer<'static>,
        root_key: &IssuerKey,
        options: &ImportOptions,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let reason = "expected a file: a root in a module signs an intermediate that is imported with its chain";
        let root_key = root_key.local().ok_or(AuthorityError::Option { what: "key", reason })?;
        if parse(&path, &root)?.public_key().raw != root_key.public_key_der() {
            let problems = vec!["the key is not that of the certificate".to_owned()];
            return Err(AuthorityError::Unfit { path, problems });
        }
        let key = generate::key(options.key_type)?;
        let issuer = generate::issuing(&options.name, Generation(1), key.pair(), &root, root_key, now)?;
        let files = IssuerFiles::default()
            .with(ROOT, certificates_to_pem(std::slice::from_ref(&root)).as_bytes())
            .with(ISSUER, certificates_to_pem(std::slice::from_ref(&issuer)).as_bytes())
            .with(ISSUER_KEY, options.keys.encode(&key)?.as_bytes());
        Ok(Self { path, root, chain: vec![issuer], key: IssuerKey::Local(key), files })
    }

    /// Every reason not to issue with it; then a trial.
    fn check(&self, trust_domain: &TrustDomain, now: OffsetDateTime) -> Result<Issuing, AuthorityError> {
        let unfit = |problems| AuthorityError::Unfit { path: self.path.clone(), problems };
        let root = parse(&self.path, &self.root)?;
        let chain: Vec<_> = self.chain.iter().map(|der| parse(&self.path, der)).collect::<Result<_, _>>()?;
        let mut problems = Vec::new();
        if chain[0].public_key().raw != self.key.public_key_der() {
            problems.push("the key is not that of the certificate".to_owned());
        }
        for (below, certificate) in chain.iter().chain([&root]).enumerate() {
            problems.extend(problems_of(certificate, below, now));
        }
        problems.extend(problems_of_names(&chain, &root, trust_domain));
        if !problems.is_empty() {
            return Err(unfit(problems));
        }
        let issuing = Issuing::of(IssuerState::Next, Path::new(""), self.root.clone(), self.chain.clone())
            .map_err(|error| unfit(vec![error.to_string()]))?;
        try_out(&issuing, &self.key, trust_domain, now).map_err(|problem| unfit(vec![problem]))?;
        Ok(issuing)
    }
}

fn read_import_key(data_dir: &Path, options: &ImportOptions) -> Result<IssuerKey, AuthorityError> {
    match &options.key {
        ImportKey::OfRequest => {
            let found = read_key(&data_dir.join(files::REQUEST), &options.keys)?;
            let reason = "expected --key, as no request was made here (`crank-ca init --csr-out FILE`)";
            found.map(|(_, key)| key).ok_or(AuthorityError::Option { what: "key", reason })
        }
        ImportKey::File(path) => {
            files::check_secret(path)?;
            options.keys.decode(path, &files::read_private(path)?).map(IssuerKey::Local)
        }
        #[cfg(feature = "pkcs11")]
        ImportKey::Uri(uri) => {
            super::pkcs11::TokenKey::open(&super::pkcs11::TokenUri::parse(uri)?).map(IssuerKey::Token)
        }
        #[cfg(not(feature = "pkcs11"))]
        ImportKey::Uri(_) => Err(AuthorityError::Option { what: "key", reason: super::NO_PKCS11 }),
    }
}

/// From `first` upwards to one of `roots`, by names and signatures.
fn chain_to(
    path: &Path,
    first: CertificateDer<'static>,
    pool: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Result<(Vec<CertificateDer<'static>>, CertificateDer<'static>), AuthorityError> {
    let unfit = |problem: String| AuthorityError::Unfit { path: path.to_owned(), problems: vec![problem] };
    let signer = |of: &CertificateDer<'_>, among: &[CertificateDer<'static>]| {
        let of = parse(path, of)?;
        for candidate in among {
            if is_signed_by(&of, &parse(path, candidate)?) {
                return Ok(Some(candidate.clone()));
            }
        }
        Ok::<_, AuthorityError>(None)
    };
    let mut chain = vec![first];
    loop {
        let last = &chain[chain.len() - 1];
        if let Some(root) = signer(last, roots)? {
            let parsed = parse(path, &root)?;
            if !is_signed_by(&parsed, &parsed) {
                return Err(unfit("the certificate given as the root is not self-signed".to_owned()));
            }
            return Ok((chain, root));
        }
        match signer(last, pool)? {
            Some(next) if chain.len() < CHAIN_LIMIT - 1 && !chain.contains(&next) => chain.push(next),
            _ => {
                let issuer = printable(&parse(path, last)?.issuer().to_string(), FOREIGN_TEXT_LIMIT);
                return Err(unfit(format!(
                    "the chain does not lead to the root: neither the root nor any certificate given is `{issuer}` and has \
                     signed what is below it (--chain FILE adds some)"
                )));
            }
        }
    }
}

/// What is wrong with one certificate that has `below` CA certificates below it.
fn problems_of(certificate: &X509Certificate<'_>, below: usize, now: OffsetDateTime) -> Vec<String> {
    let mut problems = Vec::new();
    let subject = printable(&certificate.subject().to_string(), 100);
    let mut problem = |what: &str| problems.push(format!("`{subject}`: {what}"));
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => {
            let most = constraints.value.path_len_constraint;
            if most.is_some_and(|most| usize::try_from(most).is_ok_and(|most| most < below)) {
                problem(&format!("its path length allows fewer CA certificates below it than the {below} there are"));
            }
        }
        _ => problem("is no CA certificate (basicConstraints CA:TRUE is missing)"),
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() && (usage.value.crl_sign() || below > 0) => {}
        Ok(None) if below > 0 => {}
        _ => problem("its key usage must be keyCertSign and cRLSign"),
    }
    match certificate.extended_key_usage() {
        Ok(None) => {}
        Ok(Some(usage)) if usage.value.any || (usage.value.server_auth && usage.value.client_auth) => {}
        _ => problem("its extended key usage excludes serverAuth or clientAuth, which every worker needs"),
    }
    let (from, to) = (certificate.validity().not_before.to_datetime(), certificate.validity().not_after.to_datetime());
    if now < from {
        problem(&format!("is not valid before {from}"));
    } else if now >= to {
        problem(&format!("expired at {to}"));
    } else if to - now < SHORTEST_REST {
        problem(&format!("ends at {to}, less than a day from now"));
    }
    if WEAK_SIGNATURES.contains(&certificate.signature_algorithm.algorithm.to_id_string().as_str()) {
        problem("is signed with MD5 or SHA-1");
    }
    problems
}

/// What name constraints keep every worker from getting a certificate.
fn problems_of_names(
    chain: &[X509Certificate<'_>],
    root: &X509Certificate<'_>,
    trust_domain: &TrustDomain,
) -> Vec<String> {
    let all: Vec<&X509Certificate<'_>> = chain.iter().chain([root]).collect();
    let constraints = match NameConstraints::of(&all) {
        Ok(constraints) => constraints,
        Err(problem) => return vec![problem.to_owned()],
    };
    let mut problems = Vec::new();
    for name in trial_names(trust_domain) {
        if !constraints.permit(&name) {
            problems.push(format!("its name constraints exclude {name}, as every worker of this CA has"));
        }
    }
    if problems.is_empty() && constraints.are_on_uris() {
        problems.push(
            "it has name constraints on URIs: rustls, and so every agent, refuses whatever has a URI below them; leave \
             them to the trust domain"
                .to_owned(),
        );
    }
    problems
}

/// Signs a certificate that nobody gets, and verifies it as an agent would.
fn try_out(issuing: &Issuing, key: &IssuerKey, trust_domain: &TrustDomain, now: OffsetDateTime) -> Result<(), String> {
    let failed = |_| "cannot make a key for a trial".to_owned();
    let leaf_key = PrivateKey::generate(KeyType::EcdsaP256).map_err(failed)?;
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let plan = sign::LeafPlan {
        serial: sign::Serial::random().map_err(|()| "cannot draw a serial for a trial".to_owned())?,
        subject: sign::Subject::Worker(WorkerId::new(TRIAL_WORKER).map_err(|error| error.to_string())?),
        names: trial_names(trust_domain).into_iter().collect(),
        key: sign::CertifiableKey::new(&leaf_key.public_key_der(), KeyType::EcdsaP256)
            .ok_or_else(|| "cannot make a key for a trial".to_owned())?,
        not_before: now - sign::BACKDATE,
        not_after: now + time::Duration::HOUR,
    };
    let issuer =
        Issuer::from_ca_cert_der(issuing.certificate(), key).map_err(|error| format!("a trial failed: {error}"))?;
    let leaf = sign::sign_with(issuing, &issuer, &plan).map_err(|error| match error {
        sign::SignError::Mismatch { what: "issuer", .. } => {
            "its subject cannot be repeated as it is in the certificates it signs: an attribute occurs twice, or has a \
             kind of text that is out of use"
                .to_owned()
        }
        other => format!("a trial failed: {other}"),
    })?;
    let chain: Vec<_> = [leaf].into_iter().chain(issuing.chain.iter().cloned()).collect();
    crate::identity::verify_certificate_chain(&chain, std::slice::from_ref(&issuing.root), now)
        .map_err(|error| format!("what it signs does not verify: {error}"))
}

fn trial_names(trust_domain: &TrustDomain) -> Vec<SubjectAltName> {
    let worker = WorkerId::new(TRIAL_WORKER).map(|worker| SubjectAltName::Uri(trust_domain.worker(&worker)));
    "localhost".parse().into_iter().chain(worker).collect()
}

const TRIAL_WORKER: &str = "trial";

const SHORTEST_REST: time::Duration = time::Duration::DAY;

/// MD2, MD5 and SHA-1 with RSA, SHA-1 with ECDSA and DSA.
const WEAK_SIGNATURES: [&str; 6] = [
    "1.2.840.113549.1.1.2",
    "1.2.840.113549.1.1.4",
    "1.2.840.113549.1.1.5",
    "1.3.14.3.2.29",
    "1.2.840.10045.4.1",
    "1.2.840.10040.4.3",
];
