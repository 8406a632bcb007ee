//! Owns the messages of Envoy's secret discovery (SDS, API version 3), and what answers each name that is asked for. The
//! names are those of SPIRE, so that what was written for it works here.

use std::collections::BTreeSet;

use prost::Message;
use tonic::Status;
use zeroize::Zeroize;

use super::messages::crls_fit;
use super::state::{Identity, Snapshot, Standing, Trust, trust};
use crate::identity::KeyError;
use crate::identity::bundle::certificates_to_pem;
use crate::printable::printable;

/// `envoy.service.discovery.v3.DiscoveryRequest`, as far as it matters here.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub(super) error_detail: Option<ErrorDetail>,
}

/// `google.rpc.Status`: why Envoy did not take a secret.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ErrorDetail {
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) resources: Vec<Any>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
}

/// `google.protobuf.Any`. Wiped on drop.
#[derive(PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`: one of the two.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct Secret {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) tls_certificate: Option<TlsCertificate>,
    #[prost(message, optional, tag = "4")]
    pub(super) validation_context: Option<ValidationContext>,
}

/// `TlsCertificate`.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct TlsCertificate {
    #[prost(message, optional, tag = "1")]
    pub(super) certificate_chain: Option<DataSource>,
    #[prost(message, optional, tag = "2")]
    pub(super) private_key: Option<DataSource>,
}

/// `CertificateValidationContext`.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct ValidationContext {
    #[prost(message, optional, tag = "1")]
    pub(super) trusted_ca: Option<DataSource>,
    #[prost(message, optional, tag = "7")]
    pub(super) crl: Option<DataSource>,
    #[prost(message, optional, tag = "12")]
    pub(super) custom_validator_config: Option<TypedExtension>,
    #[prost(bool, tag = "14")]
    pub(super) only_verify_leaf_cert_crl: bool,
}

/// `envoy.config.core.v3.DataSource` with its bytes in place. Wiped on drop.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct DataSource {
    #[prost(bytes = "vec", tag = "2")]
    pub(super) inline_bytes: Vec<u8>,
}

/// `envoy.config.core.v3.TypedExtensionConfig`.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct TypedExtension {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) typed_config: Option<Any>,
}

/// `SPIFFECertValidatorConfig`.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct SpiffeValidator {
    #[prost(message, repeated, tag = "1")]
    pub(super) trust_domains: Vec<ValidatedDomain>,
}

/// `SPIFFECertValidatorConfig.TrustDomain`.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct ValidatedDomain {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) trust_bundle: Option<DataSource>,
}

impl Any {
    pub(super) fn value(&self) -> &[u8] {
        &self.value
    }
}

impl Drop for Any {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl Drop for DataSource {
    fn drop(&mut self) {
        self.inline_bytes.zeroize();
    }
}

/// What answers `names`; without any, all there is. `None`: it is not there yet.
pub(super) fn secrets(names: &[String], snapshot: &Snapshot) -> Result<Option<Vec<Any>>, Status> {
    let Some(first) = snapshot.identities.first() else {
        return match snapshot.svid {
            Standing::Refused(reason) => Err(Status::permission_denied(reason)),
            _ => Ok(None),
        };
    };
    let all: Vec<&Identity> = snapshot.identities.iter().collect();
    let trust = trust(&all);
    let mut every: Vec<String> = all.iter().map(|identity| identity.spiffe_id.to_string()).collect();
    every.extend(all.iter().map(|identity| identity.trust_domain_id()));
    let mut wanted: Vec<&String> = names.iter().filter(|name| !name.is_empty()).collect();
    if wanted.is_empty() {
        wanted = every.iter().collect();
    }
    wanted.sort_unstable();
    wanted.dedup();
    let mut secrets = Vec::with_capacity(wanted.len());
    for name in wanted {
        let secret = match name.as_str() {
            DEFAULT_CERTIFICATE => certificate(name, first, snapshot)?,
            DEFAULT_ROOTS => roots(name, first.trust_domain(), &all, &trust),
            ALL_ROOTS => spiffe_roots(name, &trust),
            other => {
                // By its id, or where several have the same by its hint.
                let called = |identity: &&&Identity| identity.spiffe_id.as_str() == other || identity.hint == other;
                let domain = other.strip_prefix("spiffe://").filter(|domain| trust.contains_key(domain));
                match (all.iter().find(called), domain) {
                    (Some(identity), _) => certificate(name, identity, snapshot)?,
                    (None, Some(domain)) => roots(name, domain, &all, &trust),
                    (None, None) => {
                        let other = printable(other, 200);
                        let has = "default, ROOTCA, ALL, the SPIFFE ids and the trust domains' ids";
                        return Err(Status::invalid_argument(format!("there is no secret `{other}`; there are {has}")));
                    }
                }
            }
        };
        secrets.push(any(SECRET_TYPE, &secret));
    }
    Ok(Some(secrets))
}

fn certificate(name: &str, identity: &Identity, snapshot: &Snapshot) -> Result<Secret, Status> {
    if let Standing::Refused(reason) = snapshot.svid {
        return Err(Status::permission_denied(reason));
    }
    if identity.withdrawn {
        return Err(Status::permission_denied("the certificate is revoked, and there is no other yet"));
    }
    let bundle = &identity.bundle;
    let unreadable = |_: KeyError| Status::internal("the private key cannot be encoded");
    let mut key = bundle.key_pem().map_err(unreadable)?;
    // Moved, not copied: what is left behind is empty.
    let private_key = Some(DataSource { inline_bytes: std::mem::take(&mut *key).into_bytes() });
    let certificate_chain = Some(source(bundle.chain_pem()));
    let tls_certificate = Some(TlsCertificate { certificate_chain, private_key });
    Ok(Secret { name: name.to_owned(), tls_certificate, validation_context: None })
}

/// The roots of a trust domain, and where it is one of ours the CRLs: by those the leaf is checked alone, since there is none
/// of the root.
fn roots(name: &str, domain: &str, all: &[&Identity], trust: &Trust<'_>) -> Secret {
    let own = all.iter().filter(|identity| identity.trust_domain() == domain && crls_fit(&identity.bundle));
    let crls: BTreeSet<String> =
        own.map(|identity| identity.bundle.crls_pem()).filter(|crls| !crls.is_empty()).collect();
    let crl = (!crls.is_empty()).then(|| source(crls.into_iter().collect()));
    trusting(name, trust.get(domain).map(|roots| certificates_to_pem(roots)).unwrap_or_default(), crl)
}

fn trusting(name: &str, roots: String, crl: Option<DataSource>) -> Secret {
    let validation_context = ValidationContext {
        trusted_ca: Some(source(roots)),
        only_verify_leaf_cert_crl: crl.is_some(),
        crl,
        custom_validator_config: None,
    };
    Secret { name: name.to_owned(), tls_certificate: None, validation_context: Some(validation_context) }
}

/// The roots by trust domain, for Envoy's validator of SPIFFE ids. That one takes no CRLs.
fn spiffe_roots(name: &str, trust: &Trust<'_>) -> Secret {
    let domain = |(name, roots): (&&str, &Vec<_>)| {
        let trust_bundle = Some(source(certificates_to_pem(roots)));
        ValidatedDomain { name: (*name).to_owned(), trust_bundle }
    };
    let trust_domains = trust.iter().map(domain).collect();
    let validator = any(VALIDATOR_TYPE, &SpiffeValidator { trust_domains });
    let extension = TypedExtension { name: VALIDATOR.to_owned(), typed_config: Some(validator) };
    let validation_context = ValidationContext {
        trusted_ca: None,
        crl: None,
        custom_validator_config: Some(extension),
        only_verify_leaf_cert_crl: false,
    };
    Secret { name: name.to_owned(), tls_certificate: None, validation_context: Some(validation_context) }
}

fn source(pem: String) -> DataSource {
    DataSource { inline_bytes: pem.into_bytes() }
}

fn any(type_url: &str, message: &impl Message) -> Any {
    // Sized in advance, so that no copy of a key is left behind by growing.
    let mut value = Vec::with_capacity(message.encoded_len());
    message.encode_raw(&mut value);
    Any { type_url: type_url.to_owned(), value }
}

/// The one type of resource that there is.
pub(super) const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

const VALIDATOR_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

const DEFAULT_CERTIFICATE: &str = "default";

const DEFAULT_ROOTS: &str = "ROOTCA";

const ALL_ROOTS: &str = "ALL";
