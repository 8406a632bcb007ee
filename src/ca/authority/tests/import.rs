//! Issuers that others made: what is taken over, and every reason that one is not.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
};

use super::*;
use crate::ca::sign::{CertifiableKey, LeafPlan, Serial, Subject, sign};
use crate::identity::{PrivateKey, RequestedIdentity, WorkerId};

type Corporate = CertifiedIssuer<'static, KeyPair>;

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A root of some corporation, and a data directory with a request for an intermediate below it.
struct World {
    directory: TempDir,
    root: Corporate,
}

impl World {
    fn new() -> Self {
        let root = CertifiedIssuer::self_signed(ca_params("Corporate Root"), KeyPair::generate().unwrap()).unwrap();
        let world = Self { directory: TempDir::new().unwrap(), root };
        Authority::request(&world.data(), &options()).unwrap();
        world.write("root.pem", &world.root.pem());
        world
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        self.path(name)
    }

    /// The intermediate that was requested, signed by `by` with `change` made.
    fn signed(&self, by: &Corporate, change: impl FnOnce(&mut CertificateParams)) -> String {
        let request = fs::read_to_string(self.data().join("request/issuing.csr")).unwrap();
        let mut request = CertificateSigningRequestParams::from_pem(&request).unwrap();
        request.params.not_before = OffsetDateTime::now_utc() - time::Duration::HOUR;
        request.params.not_after = OffsetDateTime::now_utc() + time::Duration::days(90);
        request.params.use_authority_key_identifier_extension = true;
        change(&mut request.params);
        request.signed_by(by).unwrap().pem()
    }

    fn import_with(
        &self,
        certificate: &str,
        change: impl FnOnce(&mut ImportOptions),
    ) -> Result<Imported, AuthorityError> {
        let mut import = ImportOptions {
            certificate: self.write("issuing.pem", certificate),
            chain: Vec::new(),
            root: Some(self.path("root.pem")),
            key: ImportKey::OfRequest,
            trust_domain: TrustDomain::new("crank.local").unwrap(),
            name: "Crank".to_owned(),
            key_type: KeyType::EcdsaP256,
            keys: KeySettings::default(),
        };
        change(&mut import);
        Authority::import(&self.data(), &import, OffsetDateTime::now_utc())
    }

    fn import(&self, certificate: &str) -> Result<Imported, AuthorityError> {
        self.import_with(certificate, |_| {})
    }

    /// What is said against the intermediate with `change` made.
    fn refusal(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        let error = self.import(&self.signed(&self.root, change)).unwrap_err();
        assert!(matches!(error, AuthorityError::Unfit { .. }), "{error}");
        assert!(matches!(load(&self.data()), Err(AuthorityError::AwaitsImport { .. })), "nothing was imported");
        error.to_string()
    }
}

/// A worker's certificate from the CA under `data`, verified to `root` as an agent does.
fn assert_issues(data: &Path, root: &CertificateDer<'static>) {
    let authority = load(data).unwrap();
    let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
    let worker = WorkerId::new("streaming").unwrap();
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let plan = LeafPlan {
        serial: Serial::random().unwrap(),
        subject: Subject::Worker(worker.clone()),
        names: RequestedIdentity::new(worker, authority.trust_domain(), []).names,
        key: CertifiableKey::new(&key.public_key_der(), KeyType::EcdsaP256).unwrap(),
        not_before: now,
        not_after: now + time::Duration::HOUR,
    };
    let leaf = sign(&authority, &plan).unwrap();
    let chain: Vec<_> = [leaf].into_iter().chain(authority.chain().iter().cloned()).collect();
    assert!(!chain.contains(root), "the root is not sent");
    crate::identity::verify_certificate_chain(&chain, std::slice::from_ref(root), now).unwrap();
}

#[test]
fn an_intermediate_that_was_requested_and_signed_elsewhere_signs_from_then_on() {
    let world = World::new();
    let message = load(&world.data()).unwrap_err().to_string();
    assert!(message.contains("request/issuing.csr signed") && message.contains("crank-ca import --data-dir"));
    assert!(matches!(generate(&world.directory), Err(AuthorityError::AwaitsImport { .. })));
    let imported = world.import(&world.signed(&world.root, |_| {})).unwrap();
    assert_eq!((imported.state, imported.dns_names), (IssuerState::Issuing, Vec::new()));
    assert!(!world.data().join("request").exists());
    assert_issues(&world.data(), world.root.der());
    // A second time it has nothing to import.
    let again = fs::read_to_string(world.path("issuing.pem")).unwrap();
    assert!(matches!(world.import(&again), Err(AuthorityError::Option { what: "key", .. })));
}

#[test]
fn a_chain_of_several_is_sent_whole_and_put_in_order() {
    let world = World::new();
    let middle = |name: &str, by: &Corporate| {
        CertifiedIssuer::signed_by(ca_params(name), KeyPair::generate().unwrap(), by).unwrap()
    };
    let upper = middle("Corporate Upper", &world.root);
    let lower = middle("Corporate Lower", &upper);
    let issuing = world.signed(&lower, |_| {});
    let chain = world.write("chain.pem", &(upper.pem() + &lower.pem()));
    let error = world.import(&issuing).unwrap_err().to_string();
    assert!(error.contains("does not lead to the root") && error.contains("CN=Corporate Lower"), "{error}");
    world.import_with(&issuing, |import| import.chain = vec![chain]).unwrap();
    assert_eq!(load(&world.data()).unwrap().chain().len(), 3);
    assert_issues(&world.data(), world.root.der());
}

#[test]
fn everything_that_is_wrong_with_an_intermediate_is_told() {
    let world = World::new();
    let now = OffsetDateTime::now_utc();
    for (told, change) in [
        ("is no CA certificate", (|params| params.is_ca = IsCa::ExplicitNoCa) as fn(&mut CertificateParams)),
        ("keyCertSign and cRLSign", |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
        ("keyCertSign and cRLSign", |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ("excludes serverAuth or clientAuth", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
    ] {
        let refusal = world.refusal(change);
        assert!(refusal.contains(told), "{told}: {refusal}");
    }
    let day = time::Duration::DAY;
    assert!(world.refusal(|params| params.not_before = now + day).contains("is not valid before"));
    assert!(world.refusal(|params| params.not_after = now - time::Duration::MINUTE).contains("expired at"));
    assert!(world.refusal(|params| params.not_after = now + day / 2).contains("less than a day from now"));
    let several = world.refusal(|params| {
        params.is_ca = IsCa::NoCa;
        params.key_usages = Vec::new();
        params.not_after = now + day / 2;
    });
    assert_eq!(several.matches("; ").count(), 2, "all at once: {several}");
}

#[test]
fn a_path_length_above_that_leaves_no_room_is_told() {
    let world = World::new();
    let mut params = ca_params("Corporate Lower");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let lower = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &world.root).unwrap();
    let error = world.import(&(world.signed(&lower, |_| {}) + &lower.pem())).unwrap_err().to_string();
    assert!(error.contains("`CN=Corporate Lower`: its path length allows fewer"), "{error}");
}

#[test]
fn name_constraints_that_exclude_what_every_worker_has_are_told() {
    let world = World::new();
    let constrained = |permitted: &[&str], excluded: &[&str]| {
        let subtrees =
            |names: &[&str]| names.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned())).collect::<Vec<_>>();
        let constraints =
            NameConstraints { permitted_subtrees: subtrees(permitted), excluded_subtrees: subtrees(excluded) };
        move |params: &mut CertificateParams| params.name_constraints = Some(constraints)
    };
    let refusal = world.refusal(constrained(&["mesh.example"], &[]));
    assert!(refusal.contains("its name constraints exclude DNS:localhost, as every worker"), "{refusal}");
    assert!(world.refusal(constrained(&[], &["localhost"])).contains("exclude DNS:localhost"));
    // Those that leave room are kept to.
    let imported = world.import(&world.signed(&world.root, constrained(&["localhost", "mesh.example"], &[]))).unwrap();
    assert_eq!(imported.dns_names, ["localhost", "mesh.example"]);
    let authority = load(&world.data()).unwrap();
    let names: Vec<SubjectAltName> =
        ["a.mesh.example", "a.other.example", "10.0.0.7"].map(|name| name.parse().unwrap()).into();
    assert_eq!(authority.excluded(&names), [&names[1]]);
}

#[test]
fn constraints_on_uris_are_refused_whatever_they_permit() {
    let world = World::new();
    // permittedSubtrees with the URI host crank.local, which rcgen does not write.
    let der = [0x30, 0x11, 0xa0, 0x0f, 0x30, 0x0d, 0x86, 0x0b].iter().copied().chain(*b"crank.local").collect();
    let refusal = world.refusal(|params| {
        let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], der);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    });
    assert!(refusal.contains("name constraints on URIs: rustls"), "{refusal}");
    let der = [0x30, 0x11, 0xa0, 0x0f, 0x30, 0x0d, 0x86, 0x0b].iter().copied().chain(*b"other.local").collect();
    let refusal = world.refusal(|params| {
        params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], der));
    });
    assert!(refusal.contains("exclude URI:spiffe://crank.local/worker/trial"), "{refusal}");
}

#[test]
fn another_key_and_another_root_are_told() {
    let world = World::new();
    let other = World::new();
    let refusal = world.import(&other.signed(&world.root, |_| {})).unwrap_err().to_string();
    assert!(refusal.ends_with("the key is not that of the certificate"), "{refusal}");
    let refusal = world.import(&world.signed(&other.root, |_| {})).unwrap_err().to_string();
    assert!(refusal.contains("does not lead to the root"), "{refusal}");
    let error = world.import_with(&world.signed(&world.root, |_| {}), |import| import.root = None).unwrap_err();
    assert!(matches!(error, AuthorityError::Option { what: "root", .. }), "{error}");
}

#[test]
fn a_subject_that_cannot_be_repeated_is_found_before_it_is_too_late() {
    let world = World::new();
    let refusal = world.refusal(|params| {
        params.distinguished_name.push(DnType::OrganizationName, rcgen::DnValue::BmpString("Ä".try_into().unwrap()));
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 97]), "x");
        params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![1]);
        params.key_usages.push(KeyUsagePurpose::DigitalSignature);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // An extension that is critical and that nobody knows.
        let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    });
    assert!(refusal.contains("does not verify"), "{refusal}");
}

#[test]
fn an_existing_root_gets_an_intermediate_and_keeps_its_key_to_itself() {
    let world = World::new();
    fs::remove_dir_all(world.data()).unwrap();
    let key = world.write("root.key", &world.root.key().serialize_pem());
    let imported = world.import_with(&world.root.pem(), |import| import.key = ImportKey::File(key.clone())).unwrap();
    assert_eq!(imported.state, IssuerState::Issuing);
    assert!(!world.data().join("authority/root.key").exists());
    assert_issues(&world.data(), world.root.der());
    // Not with the key of another, and not with one that others can read.
    let data = world.path("second");
    let refused = |change: &dyn Fn(&mut ImportOptions)| {
        let mut import = None;
        let _ = world.import_with(&world.root.pem(), |options| {
            change(options);
            import = Some(options.clone());
        });
        Authority::import(&data, &import.unwrap(), OffsetDateTime::now_utc()).unwrap_err().to_string()
    };
    let other = world.write("other.key", &KeyPair::generate().unwrap().serialize_pem());
    assert!(refused(&|import| import.key = ImportKey::File(other.clone())).contains("the key is not that"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&|import| import.key = ImportKey::File(key.clone())).contains("open to other users"));
    assert!(!data.exists());
}

#[test]
fn an_existing_intermediate_with_its_key_is_taken_over_encrypted() {
    let world = World::new();
    fs::remove_dir_all(world.data()).unwrap();
    let issuing =
        CertifiedIssuer::signed_by(ca_params("Corporate Issuing"), KeyPair::generate().unwrap(), &world.root).unwrap();
    let key = world.write("issuing.key", &issuing.key().serialize_pem());
    // As a volume of secrets has it.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o440)).unwrap();
    let keys = KeySettings { passphrase_file: Some(world.write("passphrase", "open sesame\n")) };
    world
        .import_with(&issuing.pem(), |import| {
            import.key = ImportKey::File(key);
            import.keys = keys.clone();
        })
        .unwrap();
    let kept = fs::read_to_string(world.data().join("authority/issuing.key")).unwrap();
    assert!(kept.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    assert!(matches!(load(&world.data()), Err(AuthorityError::Locked { .. })));
    assert!(Authority::load(&world.data(), &keys).is_ok());
    assert!(Authority::public_of(&world.data()).is_ok(), "its public side needs no passphrase");
}
