//! Owns what EST (RFC 7030, clarified by RFC 8951) puts around certificates and CSRs: PKCS#7 and base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use yasna::Tag;
use yasna::models::ObjectIdentifier;

use super::request::CsrRefusal;

/// The two ways to enrol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EstOperation {
    /// `simpleenroll`.
    Enroll,
    /// `simplereenroll`: the same names again.
    Reenroll,
}

/// The DER in a body of base64, whose size has been limited. Lines may be of any length and end in any way.
pub(crate) fn decode(body: &[u8]) -> Result<Vec<u8>, CsrRefusal> {
    let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if text.starts_with(b"-----BEGIN") {
        return Err(CsrRefusal::Malformed(
            "expected the base64 of a PKCS#10 request without the lines of PEM around it",
        ));
    }
    STANDARD.decode(text).map_err(|_| CsrRefusal::Malformed("expected the base64 of a PKCS#10 request"))
}

/// Certificates as base64 of a PKCS#7 that signs nothing: `certs-only` (RFC 5652, section 5.1; RFC 5272, section 4.1).
/// One line without an end (RFC 8951, section 3.2): strongSwan reads nothing else.
pub(crate) fn certs_only(certificates: &[CertificateDer<'_>]) -> String {
    STANDARD.encode(degenerate_signed_data(certificates))
}

fn degenerate_signed_data(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|content_info| {
            content_info.next().write_oid(&ObjectIdentifier::from_slice(SIGNED_DATA));
            content_info.next().write_tagged(Tag::context(0), |writer| {
                writer.write_sequence(|signed_data| {
                    // Version 1: certificates of X.509 alone, and no signers.
                    signed_data.next().write_u8(1);
                    signed_data.next().write_set(|_| {});
                    signed_data.next().write_sequence(|content| {
                        content.next().write_oid(&ObjectIdentifier::from_slice(DATA));
                    });
                    signed_data.next().write_tagged_implicit(Tag::context(0), |writer| {
                        writer.write_set_of(|set| {
                            for certificate in certificates {
                                set.next().write_der(certificate);
                            }
                        });
                    });
                    signed_data.next().write_set(|_| {});
                });
            });
        });
    })
}

const SIGNED_DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 2];

const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bag_of_certificates_is_the_same_whatever_their_order() {
        let certificates = [CertificateDer::from(vec![0x30, 1, 0]), CertificateDer::from(vec![0x30, 2, 5, 0])];
        let [one, two] = &certificates;
        let der = degenerate_signed_data(&certificates);
        assert_eq!(degenerate_signed_data(&[two.clone(), one.clone()]), der);
        // By `openssl crl2pkcs7 -nocrl` but for its empty set of CRLs.
        let expected = [
            &[0x30, 44, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 2, 0xa0, 31, 0x30, 29, 2, 1, 1, 0x31, 0][..],
            &[0x30, 11, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 1, 0xa0, 7, 0x30, 1, 0, 0x30, 2, 5, 0, 0x31, 0],
        ];
        assert_eq!(der, expected.concat());
    }

    #[test]
    fn base64_may_be_in_lines_but_not_in_pem() {
        for text in ["AAEC", "AA\r\nEC\r\n", " AA\tEC\n\n", "A A E C"] {
            assert_eq!(decode(text.as_bytes()), Ok(vec![0, 1, 2]), "{text:?}");
        }
        for text in ["AAE", "AAEC=", "AA-_", "-----BEGIN CERTIFICATE REQUEST-----\nAAEC\n-----END", "\u{e9}", "AAE\0"] {
            assert!(decode(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(decode(b""), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn any_body_is_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
