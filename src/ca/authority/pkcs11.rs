//! Owns keys in hardware security modules: found or made on a token, used through PKCS#11 by one thread of their own.

mod uri;

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, digest};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType as TokenKeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use zeroize::Zeroizing;

use super::AuthorityError;
use super::key::secret_line;
use crate::crypto::sha256;
use crate::identity::KeyType;
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

pub(crate) use uri::TokenUri;

/// A private key on a token. It never leaves that; a thread signs with it, and ends when this is dropped.
#[derive(Debug)]
pub(crate) struct TokenKey {
    uri: TokenUri,
    point: Vec<u8>,
    curve: Curve,
    orders: SyncSender<Order>,
}

/// Something to be signed, and where the outcome goes.
type Order = (Vec<u8>, SyncSender<Result<Vec<u8>, AuthorityError>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl TokenKey {
    /// Opens the key that is there.
    pub(crate) fn open(uri: &TokenUri) -> Result<Self, AuthorityError> {
        let login = Login::open(uri, Access::Read)?;
        match login.find(ObjectClass::PRIVATE_KEY)? {
            Some(key) => login.serve(key),
            None => Err(login.failed("there is no such private key on the token")),
        }
    }

    /// Opens the key that is there, or else makes one that can never be taken off the token.
    pub(crate) fn find_or_make(uri: &TokenUri, key_type: KeyType) -> Result<Self, AuthorityError> {
        let login = Login::open(uri, Access::Write)?;
        let key = match login.find(ObjectClass::PRIVATE_KEY)? {
            Some(key) => key,
            None => login.make(key_type)?,
        };
        login.serve(key)
    }

    /// The URI that it was opened by.
    pub(crate) fn uri(&self) -> &str {
        self.uri.as_str()
    }
}

impl PublicKeyData for TokenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.curve {
            Curve::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl SigningKey for TokenKey {
    /// Waits for the module, but not for ever.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let (reply, outcome) = sync_channel(1);
        let told = |reason: &str| {
            let (token, object) = (printable(&self.uri.token, 64), printable(&self.uri.object, 64));
            tracing::error!(token, object, reason, "the security module has not signed");
            rcgen::Error::RemoteKeyError
        };
        if self.orders.try_send((message.to_vec(), reply)).is_err() {
            return Err(told("too many signatures are waited for already"));
        }
        match outcome.recv_timeout(DEADLINE) {
            Ok(signed) => signed.map_err(|error| told(&error.to_string())),
            Err(RecvTimeoutError::Timeout) => Err(told("no answer within 10 s")),
            Err(RecvTimeoutError::Disconnected) => Err(told("its thread has ended")),
        }
    }
}

/// A session in which the user is logged in.
struct Login {
    uri: TokenUri,
    session: Session,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Login {
    fn open(uri: &TokenUri, access: Access) -> Result<Self, AuthorityError> {
        let failed = |reason: &str| failure(uri, reason);
        let module = Pkcs11::new(&uri.module).map_err(|error| failed(&format!("cannot load it: {error}")))?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // By another key of this process.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(failed(&format!("cannot initialize it: {error}"))),
        }
        let slot = slot_of(&module, uri)?;
        let session = match access {
            Access::Read => module.open_ro_session(slot),
            Access::Write => module.open_rw_session(slot),
        };
        let session = session.map_err(|error| failed(&format!("cannot open a session: {error}")))?;
        log_in(&session, uri)?;
        Ok(Self { uri: uri.clone(), session })
    }

    /// The object of this class that the URI names; `None` where there is none.
    fn find(&self, class: ObjectClass) -> Result<Option<ObjectHandle>, AuthorityError> {
        let mut wanted = vec![Attribute::Class(class), Attribute::Label(self.uri.object.clone().into_bytes())];
        wanted.extend(self.uri.id.clone().map(Attribute::Id));
        let found = self.session.find_objects(&wanted).map_err(|error| self.failed(&error.to_string()))?;
        match found.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(*only)),
            _ => Err(self.failed("there are several such keys: name one by its id")),
        }
    }

    fn make(&self, key_type: KeyType) -> Result<ObjectHandle, AuthorityError> {
        let parameters = match key_type {
            KeyType::EcdsaP256 => P256_PARAMETERS,
            KeyType::EcdsaP384 => P384_PARAMETERS,
            _ => return Err(AuthorityError::Option { what: "key type", reason: "expected ecdsa-p256 or ecdsa-p384" }),
        };
        let label = Attribute::Label(self.uri.object.clone().into_bytes());
        let id = self.uri.id.clone().unwrap_or_else(|| sha256(self.uri.object.as_bytes())[..8].to_vec());
        let public = [
            Attribute::Token(true),
            Attribute::Verify(true),
            Attribute::EcParams(parameters.to_vec()),
            label.clone(),
            Attribute::Id(id.clone()),
        ];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            label,
            Attribute::Id(id),
        ];
        let made = self.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
        made.map(|(_, key)| key).map_err(|error| self.failed(&format!("cannot make a key: {error}")))
    }

    /// Hands the session to a thread that signs with `key`.
    fn serve(self, key: ObjectHandle) -> Result<TokenKey, AuthorityError> {
        let (curve, point) = self.public_key()?;
        let (orders, received) = sync_channel(WAITING);
        let uri = self.uri.clone();
        let signing = Signing { uri: uri.clone(), curve, open: Some((self, key)) };
        let spawned = std::thread::Builder::new().name("pkcs11".to_owned()).spawn(move || signing.run(&received));
        spawned.map_err(|error| failure(&uri, &format!("no thread can be had: {error}")))?;
        Ok(TokenKey { uri, point, curve, orders })
    }

    fn public_key(&self) -> Result<(Curve, Vec<u8>), AuthorityError> {
        let key = self.find(ObjectClass::PUBLIC_KEY)?;
        let key = key.ok_or_else(|| self.failed("there is no public key of that name beside the private one"))?;
        let wanted = [AttributeType::KeyType, AttributeType::EcParams, AttributeType::EcPoint];
        let read = self.session.get_attributes(key, &wanted).map_err(|error| self.failed(&error.to_string()))?;
        let (mut curve, mut point, mut is_ec) = (None, None, false);
        for attribute in read {
            match attribute {
                Attribute::KeyType(kind) => is_ec = kind == TokenKeyType::EC,
                Attribute::EcParams(parameters) if parameters == P256_PARAMETERS => curve = Some(Curve::P256),
                Attribute::EcParams(parameters) if parameters == P384_PARAMETERS => curve = Some(Curve::P384),
                Attribute::EcPoint(bytes) => point = uncompressed(&bytes),
                _ => {}
            }
        }
        let (Some(curve), Some(point), true) = (curve, point, is_ec) else {
            return Err(self.failed("it is no ECDSA key on P-256 or P-384"));
        };
        let size = match curve {
            Curve::P256 => 65,
            Curve::P384 => 97,
        };
        if point.len() == size { Ok((curve, point)) } else { Err(self.failed("its public key has a wrong length")) }
    }

    fn failed(&self, reason: &str) -> AuthorityError {
        failure(&self.uri, reason)
    }
}

/// The thread of one key.
struct Signing {
    uri: TokenUri,
    curve: Curve,
    /// `None` after a failure: opened anew for the next signature.
    open: Option<(Login, ObjectHandle)>,
}

impl Signing {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok((message, reply)) = orders.recv() {
            let mut signed = self.sign(&message);
            if signed.is_err() {
                // The session may have been lost: a token that was restarted, a network in between.
                self.open = None;
                signed = self.sign(&message);
            }
            if signed.is_err() {
                self.open = None;
            }
            // Whoever waited may have gone.
            let _ = reply.try_send(signed);
        }
    }

    fn sign(&mut self, message: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        if self.open.is_none() {
            let login = Login::open(&self.uri, Access::Read)?;
            let key = login.find(ObjectClass::PRIVATE_KEY)?;
            let key = key.ok_or_else(|| login.failed("there is no such private key on the token any longer"))?;
            self.open = Some((login, key));
        }
        let Some((login, key)) = &self.open else { return Err(failure(&self.uri, "no session")) };
        let digest_algorithm: &Algorithm = match self.curve {
            Curve::P256 => &SHA256,
            Curve::P384 => &SHA384,
        };
        let digested = digest(digest_algorithm, message);
        let signature = login.session.sign(&Mechanism::Ecdsa, *key, digested.as_ref());
        let signature = signature.map_err(|error| login.failed(&error.to_string()))?;
        encode_signature(&signature, self.curve).ok_or_else(|| login.failed("its signature has a wrong length"))
    }
}

fn slot_of(module: &Pkcs11, uri: &TokenUri) -> Result<Slot, AuthorityError> {
    let failed = |error: Error| failure(uri, &format!("cannot list the tokens: {error}"));
    let mut found = Vec::new();
    for slot in module.get_slots_with_token().map_err(failed)? {
        // One that cannot be asked is not the one.
        if module.get_token_info(slot).is_ok_and(|info| info.label() == uri.token) {
            found.push(slot);
        }
    }
    match found.as_slice() {
        [only] => Ok(*only),
        [] => Err(failure(uri, "the module has no such token")),
        _ => Err(failure(uri, "the module has several tokens of that name")),
    }
}

/// A wrong PIN is tried once and no more, since a token locks itself after a few.
fn log_in(session: &Session, uri: &TokenUri) -> Result<(), AuthorityError> {
    let failed = |reason: &str| failure(uri, reason);
    let Some(path) = &uri.pin_file else {
        return Err(failed("expected pin-source=file:… in the URI: without a PIN there is no private key"));
    };
    let pin = secret_line(path, "expected a PIN of one line")?;
    let attempt = [uri.module.as_os_str().as_encoded_bytes(), uri.token.as_bytes(), &pin].join(&0);
    let attempt = sha256(&Zeroizing::new(attempt));
    let refused = || REFUSED_PINS.lock().unwrap_or_else(PoisonError::into_inner);
    if refused().contains(&attempt) {
        return Err(failed(&format!("the PIN in {} was refused, and is not tried again", path.display())));
    }
    let text = std::str::from_utf8(&pin).map_err(|_| failed("expected a PIN of UTF-8"))?;
    match session.login(UserType::User, Some(&AuthPin::from(text.to_owned()))) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(Error::Pkcs11(RvError::PinIncorrect, _)) => {
            refused().insert(attempt);
            Err(failed(&format!("the PIN in {} is wrong", path.display())))
        }
        Err(Error::Pkcs11(RvError::PinLocked, _)) => {
            refused().insert(attempt);
            Err(failed("the token is locked after too many wrong PINs"))
        }
        Err(error) => Err(failed(&format!("cannot log in: {error}"))),
    }
}

/// Tokens count wrong PINs over everything in the process, and so does this.
static REFUSED_PINS: Mutex<BTreeSet<[u8; 32]>> = Mutex::new(BTreeSet::new());

/// `CKA_EC_POINT` is the point in an OCTET STRING; some modules leave that out.
fn uncompressed(bytes: &[u8]) -> Option<Vec<u8>> {
    let point = match bytes {
        [0x04, length, point @ ..] if usize::from(*length) == point.len() && point.first() == Some(&0x04) => point,
        whole => whole,
    };
    (point.first() == Some(&0x04)).then(|| point.to_vec())
}

/// From two numbers side by side to DER (RFC 3279, section 2.2.3).
fn encode_signature(signature: &[u8], curve: Curve) -> Option<Vec<u8>> {
    let size = match curve {
        Curve::P256 => 64,
        Curve::P384 => 96,
    };
    if signature.len() != size {
        return None;
    }
    let (r, s) = signature.split_at(size / 2);
    Some(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_bigint_bytes(r, true);
            writer.next().write_bigint_bytes(s, true);
        });
    }))
}

fn failure(uri: &TokenUri, reason: &str) -> AuthorityError {
    let (token, object) = (printable(&uri.token, 64), printable(&uri.object, 64));
    let reason = printable(reason, FOREIGN_TEXT_LIMIT);
    AuthorityError::Locked { path: uri.module.clone(), reason: format!("token `{token}`, object `{object}`: {reason}") }
}

/// The OID of the curve, DER.
const P256_PARAMETERS: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

const P384_PARAMETERS: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// How long a signature may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// The most signatures that wait for a module.
const WAITING: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_encoded_with_numbers_that_are_positive_and_short() {
        let mut raw = vec![0; 64];
        raw[0] = 0x80;
        raw[63] = 1;
        let der = encode_signature(&raw, Curve::P256).unwrap();
        assert_eq!(der[..5], [0x30, 38, 0x02, 33, 0]);
        assert_eq!(der[37..], [0x02, 1, 1]);
        assert_eq!(encode_signature(&raw, Curve::P384), None);
    }

    #[test]
    fn a_point_is_read_with_and_without_its_wrapping() {
        let point: Vec<u8> = [4].into_iter().chain(std::iter::repeat_n(7, 64)).collect();
        let wrapped: Vec<u8> = [4, 65].into_iter().chain(point.iter().copied()).collect();
        assert_eq!(uncompressed(&wrapped).as_ref(), Some(&point));
        assert_eq!(uncompressed(&point).as_ref(), Some(&point));
        assert_eq!(uncompressed(&[2; 33]), None);
        assert_eq!(uncompressed(&[]), None);
    }
}
