//! Owns the arguments of what makes, replaces and shows the keys and roots of the CA.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use crank_agent::ca::DEFAULT_TRUST_DOMAIN;
use crank_agent::identity::{KeyType, TrustDomain};

use super::arguments::{Keys, Place};

#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) keys: Keys,
    /// Also write every root that is handed out to this file (mode 0644), for agents
    #[arg(long, value_name = "FILE", conflicts_with = "csr_out")]
    pub(crate) roots_out: Option<PathBuf>,
    /// Make a key and a request for an intermediate only: write the request to this file, to be signed by another CA
    #[arg(long, value_name = "FILE")]
    pub(crate) csr_out: Option<PathBuf>,
    /// Where there is a CA of the same trust domain already, succeed and change nothing
    #[arg(long, conflicts_with = "csr_out")]
    pub(crate) if_missing: bool,
    /// Where to make or find the issuing key in a hardware security module, as `pkcs11:token=NAME;object=NAME?…`
    #[arg(long = "key", value_name = "URI")]
    pub(crate) key_uri: Option<String>,
    /// The kind of the CA's keys: ecdsa-p256 or ecdsa-p384
    #[arg(long, env = "CRANK_CA_KEY_TYPE", default_value = "ecdsa-p256")]
    pub(crate) key_type: KeyType,
    /// The trust domain of the SPIFFE ids the CA will issue
    #[arg(long, env = "CRANK_TRUST_DOMAIN", default_value = DEFAULT_TRUST_DOMAIN)]
    pub(crate) trust_domain: TrustDomain,
    /// Begins the names of root and intermediate
    #[arg(long, env = "CRANK_CA_NAME", default_value = "Crank")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) keys: Keys,
    /// The issuing certificate, or a root; those above it may follow in the same file (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: PathBuf,
    /// Certificates between it and the root (PEM); may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) chain: Vec<PathBuf>,
    /// The root (PEM); not needed below a root of this CA
    #[arg(long, value_name = "FILE")]
    pub(crate) root: Option<PathBuf>,
    /// The certificate's key: a PEM file or a `pkcs11:` URI; not needed after `init --csr-out`
    #[arg(long, value_name = "FILE|URI")]
    pub(crate) key: Option<String>,
    /// Where this issuer is one of the CA's already, succeed and change nothing; not for a root with its key
    #[arg(long)]
    pub(crate) if_missing: bool,
    /// Let it sign at once, as `root activate` does; the issuer before becomes a former one
    #[arg(long)]
    pub(crate) activate: bool,
    /// The kind of the issuing key that is made below an imported root: ecdsa-p256 or ecdsa-p384
    #[arg(long, default_value = "ecdsa-p256")]
    pub(crate) key_type: KeyType,
    /// The trust domain of the SPIFFE ids the CA will issue
    #[arg(long, env = "CRANK_TRUST_DOMAIN", default_value = DEFAULT_TRUST_DOMAIN)]
    pub(crate) trust_domain: TrustDomain,
    /// Begins the name of the intermediate that is made below an imported root
    #[arg(long, env = "CRANK_CA_NAME", default_value = "Crank")]
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Root {
    /// List the issuers with their roots, and how many certificates of each have not expired
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Print every root that is handed out, as PEM
    Show {
        #[command(flatten)]
        place: Place,
    },
    /// Make a new root and an issuer below it; the root is handed out beside the old one, which signs until `activate`
    Rotate {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        keys: Keys,
        /// Make a key and a request for another intermediate only, to be signed by another CA and imported
        #[arg(long, value_name = "FILE")]
        csr_out: Option<PathBuf>,
        /// The key of the root in force, where it is kept elsewhere: certifies the new root
        #[arg(long, value_name = "FILE", conflicts_with = "csr_out")]
        root_key: Option<PathBuf>,
        /// Where to make or find the issuing key in a hardware security module
        #[arg(long = "key", value_name = "URI")]
        key_uri: Option<String>,
        /// The kind of the new keys: ecdsa-p256 or ecdsa-p384
        #[arg(long, default_value = "ecdsa-p256")]
        key_type: KeyType,
        /// Begins the names of root and intermediate; by default as before
        #[arg(long)]
        name: Option<String>,
    },
    /// Let the next issuer sign; the one before becomes a former one, whose root is still handed out
    Activate {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        keys: Keys,
        /// The issuer's id, as `list` shows it; by default the only one that is next
        id: Option<String>,
    },
    /// Take a former issuer away with its key, and its root from those that are handed out
    Retire {
        #[command(flatten)]
        place: Place,
        /// Even when certificates of it have not expired: nobody will trust them any longer
        #[arg(long)]
        force: bool,
        /// The issuer's id, as `list` shows it; by default the only former one
        id: Option<String>,
    },
}
