#!/usr/bin/env python3
"""Writes the seeds of the target csr_body: requests good and hostile, each named by what becomes of it.

The part of a file's name before the first `-` is the kind of the refusal, `good`, or `names` for a CSR that is well
formed and asks for what the credential of worker `streaming` does not permit. Needs the package `cryptography`.
Keys and signatures are fresh on each run.
"""

import base64
import hashlib
import json
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519

OUT = Path(__file__).parent / "csr_body"


# DER


def tlv(tag, *contents):
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*contents):
    return tlv(0x30, *contents)


def set_of(*contents):
    return tlv(0x31, *contents)


def integer(value):
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def oid(text):
    first, second, *rest = map(int, text.split("."))
    out = bytearray([40 * first + second])
    for arc in rest:
        part = [arc & 0x7F]
        while arc := arc >> 7:
            part.append(0x80 | arc & 0x7F)
        out += bytes(reversed(part))
    return tlv(0x06, bytes(out))


def octets(content):
    return tlv(0x04, content)


def bits(content, unused=0):
    return tlv(0x03, bytes([unused]), content)


def utf8(text):
    return tlv(0x0C, text.encode())


NULL = b"\x05\x00"
TRUE = b"\x01\x01\xff"
SAN, KEY_USAGE, EXTENDED, CONSTRAINTS = "2.5.29.17", "2.5.29.15", "2.5.29.37", "2.5.29.19"
CN, O, OU, COUNTRY = "2.5.4.3", "2.5.4.10", "2.5.4.11", "2.5.4.6"
EXTENSION_REQUEST, CHALLENGE = "1.2.840.113549.1.9.14", "1.2.840.113549.1.9.7"
ECDSA_SHA256, ECDSA_SHA1 = sequence(oid("1.2.840.10045.4.3.2")), sequence(oid("1.2.840.10045.4.1"))
RSA_SHA256, RSA_MD5 = sequence(oid("1.2.840.113549.1.1.11"), NULL), sequence(oid("1.2.840.113549.1.1.4"), NULL)
ED25519 = sequence(oid("1.3.101.112"))
EC, P256, P384 = "1.2.840.10045.2.1", "1.2.840.10045.3.1.7", "1.3.132.0.34"


# Names and extensions


def rdn(kind, value):
    return set_of(sequence(oid(kind), value))


def name(*rdns):
    return sequence(*rdns)


SUBJECT = name(rdn(CN, utf8("streaming")))
WHOLE_SUBJECT = name(rdn(CN, utf8("streaming")), rdn(O, utf8("Crank Platform")), rdn(OU, utf8("Worker Services")))


def dns(text):
    return tlv(0x82, text if isinstance(text, bytes) else text.encode())


def uri(text):
    return tlv(0x86, text.encode())


def address(*parts):
    return tlv(0x87, bytes(parts))


def extension(kind, value, critical=False):
    return sequence(oid(kind), TRUE if critical else b"", octets(value))


def san(*names):
    return extension(SAN, sequence(*names))


def request(*extensions):
    return sequence(oid(EXTENSION_REQUEST), set_of(sequence(*extensions)))


# Keys


class EcKey:
    def __init__(self, curve=None):
        self.key = ec.generate_private_key(curve or ec.SECP256R1())
        self.algorithm = ECDSA_SHA256

    def public(self):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.DER, form)

    def point(self, form=serialization.PublicFormat.UncompressedPoint):
        return self.key.public_key().public_bytes(serialization.Encoding.X962, form)

    def sign(self, data):
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))


class EdKey(EcKey):
    def __init__(self):
        self.key = ed25519.Ed25519PrivateKey.generate()
        self.algorithm = ED25519

    def sign(self, data):
        return self.key.sign(data)


class DsaKey(EcKey):
    def __init__(self):
        self.key = dsa.generate_private_key(2048)
        self.algorithm = sequence(oid("2.16.840.1.101.3.4.3.2"))

    def sign(self, data):
        return self.key.sign(data, hashes.SHA256())


class RsaKey:
    """RSA by arithmetic, so that nothing is too weak."""

    algorithm = RSA_SHA256
    PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")

    def __init__(self, modulus, exponent, private=None):
        self.modulus, self.exponent, self.private = modulus, exponent, private

    @classmethod
    def generate(cls, size):
        numbers = rsa.generate_private_key(65537, size).private_numbers()
        return cls(numbers.public_numbers.n, 65537, numbers.d)

    def public(self):
        key = sequence(integer(self.modulus), integer(self.exponent))
        return sequence(sequence(oid("1.2.840.113549.1.1.1"), NULL), bits(key))

    def sign(self, data):
        size = max((self.modulus.bit_length() + 7) // 8, 64)
        digest = self.PREFIX + hashlib.sha256(data).digest()
        padded = b"\x00\x01" + b"\xff" * (size - len(digest) - 3) + b"\x00" + digest
        value = int.from_bytes(padded, "big")
        if self.private:
            value = pow(value, self.private, self.modulus)
        return value.to_bytes(size, "big")


class RawKey(EcKey):
    """A `SubjectPublicKeyInfo` as given, and a signature by a key that it does not hold."""

    def __init__(self, info):
        super().__init__()
        self.info = info

    def public(self):
        return self.info


def weak_rsa(size):
    """A modulus of two primes, of any size."""

    def prime(length):
        while True:
            candidate = int.from_bytes(os.urandom(length // 8), "big") | 1 | 3 << length - 2
            if all(pow(base, candidate - 1, candidate) == 1 for base in (2, 3, 5, 7)) and (candidate - 1) % 65537:
                return candidate

    p, q = prime(size // 2), prime(size // 2)
    return RsaKey(p * q, 65537, pow(65537, -1, (p - 1) * (q - 1)))


# CSRs


def csr(key=None, subject=SUBJECT, attributes=(), version=b"\x02\x01\x00", algorithm=None, signature=None):
    key = key or EcKey()
    info = sequence(version, subject, key.public(), tlv(0xA0, *attributes))
    signature = key.sign(info) if signature is None else signature
    return sequence(info, algorithm or key.algorithm, bits(signature))


def pem(der, label="CERTIFICATE REQUEST", end="\n"):
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return end.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def write(kind, content, **further):
    if isinstance(content, bytes) and content[:1] == b"\x30":
        content = pem(content)
    if isinstance(content, str):
        content = json.dumps({"service_name": "streaming", "csr": content, **further}).encode()
    (OUT / f"{kind}.json").write_bytes(content)


def asks(*extensions, **further):
    return csr(attributes=[request(*extensions)], **further)


def good():
    full = [
        san(dns("streaming"), dns("localhost"), uri("spiffe://crank.local/worker/streaming")),
        extension(KEY_USAGE, bits(b"\x80", 7), True),
        extension(EXTENDED, sequence(oid("1.3.6.1.5.5.7.3.1"), oid("1.3.6.1.5.5.7.3.2"))),
        extension(CONSTRAINTS, sequence(), True),
    ]
    write("good-p256", asks(*full, subject=WHOLE_SUBJECT))
    write("good-p384", csr(EcKey(ec.SECP384R1())))
    write("good-ed25519", csr(EdKey()))
    write("good-rsa-2048", csr(RsaKey.generate(2048)))
    write("good-nothing-but-a-key", csr(subject=name()))
    write("good-crlf", pem(csr(), end="\r\n"))
    write("good-text-around-the-block", "Certificate Request:\n" + pem(csr()) + "\n(end)\n")
    write("good-further-fields", pem(csr()), validity_days=9999, names=["other"])
    deep = b'{"service_name":"streaming","x":' + b"[" * 5000 + b"]" * 5000
    write("good-deep-field", deep + b',"csr":' + json.dumps(pem(csr())).encode() + b"}")


def hostile_requests():
    write("csr_asks-ca-true", asks(extension(CONSTRAINTS, sequence(TRUE), True)))
    write("csr_asks-path-length", asks(extension(CONSTRAINTS, sequence(TRUE, integer(3)))))
    write("csr_asks-key-cert-sign", asks(extension(KEY_USAGE, bits(b"\x04", 2), True)))
    write("csr_asks-crl-sign", asks(extension(KEY_USAGE, bits(b"\x82", 1), True)))
    write("csr_asks-any-usage", asks(extension(EXTENDED, sequence(oid("2.5.29.37.0")))))
    write("csr_asks-code-signing", asks(extension(EXTENDED, sequence(oid("1.3.6.1.5.5.7.3.3")))))
    write("csr_asks-ocsp-signing", asks(extension(EXTENDED, sequence(oid("1.3.6.1.5.5.7.3.9")))))
    write("csr_asks-unknown-usage", asks(extension(EXTENDED, sequence(oid("1.3.6.1.4.1.311.20.2.2")))))
    write("csr_asks-unknown-critical-extension", asks(extension("1.2.3.4.5", NULL, True)))
    write("csr_asks-unknown-extension", asks(extension("1.2.3.4.5", NULL)))
    subtree = tlv(0xA0, sequence(dns("streaming")))
    write("csr_asks-name-constraints", asks(extension("2.5.29.30", sequence(subtree), True)))
    write("csr_asks-subject-key-identifier", asks(extension("2.5.29.14", octets(b"x" * 20))))
    write("csr_asks-challenge-password", csr(attributes=[sequence(oid(CHALLENGE), set_of(utf8("secret")))]))
    write("csr_asks-unknown-attribute", csr(attributes=[sequence(oid("1.2.3.4.5"), set_of(NULL))]))
    write("csr_asks-country", csr(subject=name(rdn(CN, utf8("streaming")), rdn(COUNTRY, tlv(0x13, b"AQ")))))
    write("csr_asks-another-organization", csr(subject=name(rdn(O, utf8("Other")))))
    write("csr_asks-two-common-names", csr(subject=name(rdn(CN, utf8("streaming")), rdn(CN, utf8("admin")))))
    write("csr_asks-two-values-in-one-rdn", csr(subject=name(set_of(sequence(oid(CN), utf8("streaming")), sequence(oid(CN), utf8("admin"))))))
    write("csr_asks-nul-in-organization", csr(subject=name(rdn(O, utf8("Crank Platform\0Other")))))


def foreign_names():
    for kind, *names in [
        ("wildcard", dns("*.streaming")),
        ("foreign", dns("foreign.example")),
        ("one-of-three-foreign", dns("streaming"), dns("localhost"), dns("other")),
        ("address", address(127, 0, 0, 1)),
        ("address-of-five-bytes", address(127, 0, 0, 1, 1)),
        ("network", address(10, 0, 0, 0, 255, 0, 0, 0)),
        ("mail", tlv(0x81, b"admin@example.org")),
        ("other-name", tlv(0xA0, oid("1.3.6.1.4.1.311.20.2.3"), tlv(0xA0, utf8("admin@example.org")))),
        ("directory-name", tlv(0xA4, name(rdn(CN, utf8("admin"))))),
        ("registered-id", tlv(0x88, oid("1.2.3.4")[2:])),
        ("nul", dns(b"streaming\0.example.org")),
        ("nul-at-the-end", dns(b"streaming\0")),
        ("punycode", dns("xn--strming-4ve.example")),
        ("trailing-dot", dns("streaming.")),
        ("empty-label", dns("streaming..example")),
        ("empty", dns("")),
        ("long-label", dns("a" * 64)),
        ("beyond-ascii", dns("str\u00e9aming".encode())),
        ("space", dns("streaming other")),
        ("spiffe-of-another", uri("spiffe://crank.local/worker/other")),
        ("spiffe-of-another-domain", uri("spiffe://other.local/worker/streaming")),
        ("spiffe-that-climbs", uri("spiffe://crank.local/worker/x/../streaming")),
        ("spiffe-with-a-query", uri("spiffe://crank.local/worker/streaming?admin")),
        ("spiffe-in-capitals", uri("SPIFFE://crank.local/worker/streaming")),
        ("spiffe-percent", uri("spiffe://crank.local/worker/stre%61ming")),
        ("https", uri("https://crank.local/worker/streaming")),
    ]:
        write(f"names-{kind}", asks(san(*names)))
    write("names-another-common-name", csr(subject=name(rdn(CN, utf8("admin")))))
    write("names-nul-in-common-name", csr(subject=name(rdn(CN, utf8("streaming\0admin")))))
    write("names-homoglyph-in-common-name", csr(subject=name(rdn(CN, utf8("str\u0435aming")))))
    write("names-teletex-common-name", csr(subject=name(rdn(CN, tlv(0x14, b"str\xe9aming")))))
    write("names-universal-common-name", csr(subject=name(rdn(CN, tlv(0x1C, "streaming".encode("utf-32-be"))))))
    write("names-three-hundred", asks(san(*(dns(f"a{number}") for number in range(300)))))


def malformed():
    whole = csr()
    write("csr_malformed-empty", "")
    write("csr_malformed-no-block", "hello")
    write("csr_malformed-two-blocks", pem(whole) + pem(csr()))
    write("csr_malformed-a-certificate", pem(whole, "CERTIFICATE"))
    write("csr_malformed-new-label", pem(whole, "NEW CERTIFICATE REQUEST"))
    write("csr_malformed-headers", pem(whole).replace("REQUEST-----\n", "REQUEST-----\nProc-Type: 4,ENCRYPTED\n\n", 1))
    write("csr_malformed-no-end", pem(whole).rsplit("-----END", 1)[0])
    write("csr_malformed-nul-in-base64", pem(whole).replace("\nM", "\n\0M", 1))
    write("csr_malformed-empty-block", pem(b""))
    write("csr_malformed-cut", whole[: len(whole) // 2])
    write("csr_malformed-trailing-byte", whole + b"\0")
    write("csr_malformed-second-request", whole + csr())
    write("csr_malformed-indefinite-length", b"\x30\x80" + whole[4:] + b"\0\0")
    body = whole[3:] if whole[1] == 0x81 else whole[4:]
    write("csr_malformed-length-of-four-gigabytes", b"\x30\x84\xff\xff\xff\xff" + body)
    write("csr_malformed-version-2", csr(version=integer(1)))
    write("csr_malformed-negative-version", csr(version=integer(-1)))
    write("csr_malformed-version-of-nine-bytes", csr(version=integer(1 << 64)))
    write("csr_malformed-deep-nesting", sequence(pack_deep(2000)))
    write("csr_malformed-deep-attribute", csr(attributes=[sequence(oid(EXTENSION_REQUEST), set_of(pack_deep(2000)))]))
    write("csr_malformed-extension-twice", asks(san(dns("streaming")), san(dns("streaming"))))
    two = [request(san(dns("streaming"))), request(extension(CONSTRAINTS, sequence(TRUE), True))]
    write("csr_malformed-extension-request-twice", csr(attributes=two))
    one = sequence(san(dns("streaming")))
    write("csr_malformed-extension-request-of-two-values", csr(attributes=[sequence(oid(EXTENSION_REQUEST), set_of(one, one))]))
    write("csr_malformed-no-names", asks(san()))
    write("csr_malformed-san-of-null", asks(extension(SAN, NULL)))
    write("csr_malformed-constraints-of-text", asks(extension(CONSTRAINTS, utf8("CA:TRUE"))))


def pack_deep(depth):
    value = NULL
    for _ in range(depth):
        value = sequence(value)
    return value


def bad_keys():
    write("csr_key-rsa-512", csr(weak_rsa(512)))
    write("csr_key-rsa-1024", csr(weak_rsa(1024)))
    write("csr_key-rsa-2047", csr(RsaKey((1 << 2046) + 15, 65537)))
    write("csr_key-rsa-16384", csr(RsaKey((1 << 16383) + 15, 65537)))
    modulus = RsaKey.generate(2048).modulus
    for kind, exponent in [("1", 1), ("3", 3), ("even", 65536), ("negative", -65537), ("zero", 0), ("huge", 1 << 256 | 1)]:
        write(f"csr_key-rsa-exponent-{kind}", csr(RsaKey(modulus, exponent)))
    info = sequence(oid("1.2.840.113549.1.1.1"), NULL)
    write("csr_key-rsa-zero-modulus", csr(RawKey(sequence(info, bits(sequence(integer(0), integer(65537)))))))
    write("csr_key-rsa-negative-modulus", csr(RawKey(sequence(info, bits(sequence(integer(-modulus), integer(65537)))))))
    padded = tlv(0x02, b"\0\0" + modulus.to_bytes(256, "big"))
    write("csr_key-rsa-modulus-not-minimal", csr(RawKey(sequence(info, bits(sequence(padded, integer(65537)))))))
    write("csr_key-rsa-trailing-bytes", csr(RawKey(sequence(info, bits(sequence(integer(modulus), integer(65537)) + NULL)))))
    write("csr_key-rsa-no-key", csr(RawKey(sequence(info, bits(b"")))))
    write("csr_key-p521", csr(EcKey(ec.SECP521R1())))
    write("csr_key-secp256k1", csr(EcKey(ec.SECP256K1())))
    write("csr_key-dsa", csr(DsaKey()))
    key = EcKey()
    on_p256 = sequence(oid(EC), oid(P256))
    compressed = key.point(serialization.PublicFormat.CompressedPoint)
    write("csr_key-compressed-point", csr(RawKey(sequence(on_p256, bits(compressed)))))
    write("csr_key-point-at-infinity", csr(RawKey(sequence(on_p256, bits(b"\0")))))
    write("csr_key-point-of-another-curve", csr(RawKey(sequence(sequence(oid(EC), oid(P384)), bits(key.point())))))
    write("csr_key-no-curve", csr(RawKey(sequence(sequence(oid(EC)), bits(key.point())))))
    write("csr_malformed-unused-bits-in-the-key", csr(RawKey(sequence(on_p256, bits(key.point()[:-1] + b"\xff", 1)))))
    write("csr_key-ed25519-short", csr(RawKey(sequence(ED25519, bits(b"x" * 31)))))
    write("csr_key-ed25519-with-parameters", csr(RawKey(sequence(sequence(oid("1.3.101.112"), NULL), bits(b"x" * 32)))))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    agreement = x25519.X25519PrivateKey.generate().public_key().public_bytes(serialization.Encoding.DER, form)
    write("csr_key-x25519", csr(RawKey(agreement)))
    write("csr_key-unknown", csr(RawKey(sequence(sequence(oid("1.2.3.4.5")), bits(b"x")))))


def bad_proofs():
    key = EcKey()
    write("csr_proof-another-key", csr(RawKey(key.public())))
    on_p256 = sequence(oid(EC), oid(P256))
    write("csr_proof-point-not-on-curve", csr(RawKey(sequence(on_p256, bits(b"\x04" + b"\x01" * 64)))))
    write("csr_proof-point-of-zeros", csr(RawKey(sequence(on_p256, bits(b"\x04" + b"\0" * 64)))))
    write("csr_proof-empty", csr(signature=b""))
    # Zero passed for a proof in Java 15 to 18 (CVE-2022-21449).
    write("csr_proof-zeros", csr(signature=sequence(integer(0), integer(0))))
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    write("csr_proof-of-the-order", csr(signature=sequence(integer(order), integer(order))))
    write("csr_proof-negative", csr(signature=sequence(integer(-1), integer(1))))
    write("csr_proof-oversized", csr(signature=sequence(integer(1 << 4000), integer(1 << 4000))))
    write("csr_proof-sha1", csr(algorithm=ECDSA_SHA1))
    write("csr_proof-md5", csr(RsaKey.generate(2048), algorithm=RSA_MD5))
    write("csr_proof-of-another-algorithm", csr(algorithm=ED25519))
    write("csr_proof-rsa-of-ones", csr(RsaKey.generate(2048), signature=b"\xff" * 256))
    write("csr_proof-rsa-of-zeros", csr(RsaKey.generate(2048), signature=b"\0" * 256))
    write("csr_proof-rsa-of-a-gram-too-much", csr(RsaKey.generate(2048), signature=b"\x01" * 257))
    write("csr_proof-unknown-algorithm", csr(algorithm=sequence(oid("1.2.3.4.5"))))


def bad_bodies():
    whole = json.dumps(pem(csr())).encode()
    field = b'"service_name":"streaming"'
    for kind, body in [
        ("empty", b""),
        ("null", b"null"),
        ("array", b"[]"),
        ("no-csr", b"{" + field + b"}"),
        ("no-name", b'{"csr":' + whole + b"}"),
        ("csr-of-number", b'{"csr":1,' + field + b"}"),
        ("csr-twice", b'{"csr":' + whole + b',"csr":' + whole + b"," + field + b"}"),
        ("trailing", b'{"csr":' + whole + b"," + field + b"}{}"),
        ("lone-surrogate", b'{"csr":"\\ud800",' + field + b"}"),
        ("not-utf8", b'{"csr":"\xff",' + field + b"}"),
        ("deep", b"[" * 10000),
        ("byte-order-mark", b'\xef\xbb\xbf{"csr":' + whole + b"," + field + b"}"),
    ]:
        write(f"body-{kind}", body)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.json"):
        old.unlink()
    for part in [good, hostile_requests, foreign_names, malformed, bad_keys, bad_proofs, bad_bodies]:
        part()
    print(f"{len(list(OUT.iterdir()))} seeds in {OUT}", file=sys.stderr)


if __name__ == "__main__":
    main()
