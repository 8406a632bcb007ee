//! Owns what all verifiers do alike: the signatures of handshakes are as webpki has them, whoever judges the certificates.

use std::fmt::Debug;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::ClientDemand;
use crate::crypto::crypto_provider;

/// Leaves certificates to a judge, and verifies signatures as webpki does.
#[derive(Debug)]
pub(crate) struct Verifier<J> {
    judge: Arc<J>,
    provider: Arc<CryptoProvider>,
}

/// What a server presents, under which name it was asked for, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Presented<'a> {
    pub(crate) leaf: &'a CertificateDer<'a>,
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    pub(crate) name: &'a ServerName<'a>,
    pub(crate) ocsp: &'a [u8],
    pub(crate) now: UnixTime,
}

impl Presented<'_> {
    /// Leaves it to one of rustls's verifiers.
    pub(crate) fn verify(&self, verifier: &dyn ServerCertVerifier) -> Result<ServerCertVerified, Error> {
        verifier.verify_server_cert(self.leaf, self.intermediates, self.name, self.ocsp, self.now)
    }
}

/// Judges the certificates of servers.
pub(crate) trait ServerJudge: Debug + Send + Sync {
    /// As [`ServerCertVerifier::verify_server_cert`].
    fn judge_server(&self, presented: &Presented<'_>) -> Result<ServerCertVerified, Error>;
}

/// Judges the certificates of clients.
pub(crate) trait ClientJudge: Debug + Send + Sync {
    /// As [`ClientCertVerifier::verify_client_cert`].
    fn judge_client(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error>;

    /// Whether there has to be a certificate.
    fn demand(&self) -> ClientDemand;

    /// As [`ClientCertVerifier::root_hint_subjects`].
    fn root_hints(&self) -> &[DistinguishedName];
}

impl<J> Verifier<J> {
    /// Leaves certificates to `judge`.
    pub(crate) fn new(judge: Arc<J>) -> Arc<Self> {
        Arc::new(Self { judge, provider: crypto_provider() })
    }
}

/// The same methods in both of rustls's traits, as webpki has them.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl<J: ServerJudge> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge.judge_server(&Presented { leaf, intermediates, name, ocsp, now })
    }

    signatures!();
}

impl<J: ClientJudge> ClientCertVerifier for Verifier<J> {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.judge.demand() == ClientDemand::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.judge.root_hints()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge.judge_client(end_entity, intermediates, now)
    }

    signatures!();
}
