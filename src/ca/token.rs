//! Owns join tokens: one use, bound to a worker and its names, lapsing, kept as a digest only.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::authority::{Authority, AuthorityError};
use super::state::{Database, NewToken, State, StateError, TokenRecord};
use crate::clock::Clock;
use crate::crypto::sha256;
use crate::identity::{SubjectAltName, WorkerId};
use crate::printable::hex;

/// The join tokens of one CA. Cheap to clone. Works beside a serving CA, in the same process or another.
#[derive(Debug, Clone)]
pub struct Tokens {
    state: State,
    clock: Arc<dyn Clock>,
}

/// A token that was made: the only time that its secret is to be had.
#[derive(Debug)]
pub struct CreatedToken {
    /// The public id, for `token list` and `token revoke`.
    pub id: String,
    /// What the agent sends.
    pub secret: TokenSecret,
    /// When it lapses.
    pub expires_at: OffsetDateTime,
}

/// A token's text. Wiped on drop; its `Debug` shows nothing.
pub struct TokenSecret(Zeroizing<String>);

impl TokenSecret {
    /// The text, for the header `Authorization: Bearer …` or a token file.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Takes what a client sent. `None` when it cannot be a token of ours.
    pub(crate) fn from_client(text: &str) -> Option<Self> {
        let fits = text.len() == TOKEN_LENGTH && text.starts_with(PREFIX);
        fits.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// SHA-256 of the text. Of 256 random bits no slower hash is needed.
    pub(crate) fn digest(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(redacted)")
    }
}

/// A token that cannot be made, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The time to live is out of range.
    #[error("time to live: expected 1s to 30d")]
    TimeToLive,
    /// More names than a certificate should carry.
    #[error("names: expected at most {NAMES_LIMIT}")]
    TooManyNames,
    /// The random source failed.
    #[error("cannot draw a random token")]
    Random,
    /// There is no CA to make it for.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The record failed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl TokenError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TimeToLive | Self::TooManyNames => "token_option",
            Self::Random => "token_random",
            Self::Authority(error) => error.kind(),
            Self::State(error) => error.kind(),
        }
    }
}

impl Tokens {
    /// The tokens of the CA under `data_dir`.
    ///
    /// # Errors
    /// When there is no CA, its files are open to others, or its database does not open.
    pub async fn open(data_dir: &Path, database: &Database, clock: Arc<dyn Clock>) -> Result<Self, TokenError> {
        Authority::public_of(data_dir)?;
        Ok(Self::new(State::open(data_dir, database).await?, clock))
    }

    pub(crate) fn new(state: State, clock: Arc<dyn Clock>) -> Self {
        Self { state, clock }
    }

    /// Makes a token for one certificate of `worker_id`, good for `time_to_live` (1 s to 30 days). `names` are
    /// permitted beside the worker's own (its id, `localhost`, its SPIFFE id).
    ///
    /// # Errors
    /// When an argument is out of range or the record fails.
    pub async fn create(
        &self,
        worker_id: WorkerId,
        time_to_live: Duration,
        names: impl IntoIterator<Item = SubjectAltName>,
    ) -> Result<CreatedToken, TokenError> {
        if !(SHORTEST_TTL..=LONGEST_TTL).contains(&time_to_live) {
            return Err(TokenError::TimeToLive);
        }
        let names: BTreeSet<SubjectAltName> = names.into_iter().collect();
        if names.len() > NAMES_LIMIT {
            return Err(TokenError::TooManyNames);
        }
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| TokenError::Random)?;
        let mut id = [0; 8];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| TokenError::Random)?;
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_LENGTH));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(*bytes, &mut text);
        let secret = TokenSecret(text);
        let created_at = self.clock.now().wall;
        let token = NewToken {
            id: format!("tok_{}", hex(&id)),
            digest: secret.digest(),
            worker_id,
            names,
            created_at,
            expires_at: created_at + time_to_live,
        };
        self.state.add_token(&token).await?;
        Ok(CreatedToken { id: token.id, secret, expires_at: token.expires_at })
    }

    /// The newest tokens first, at most 1,000.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn list(&self) -> Result<Vec<TokenRecord>, TokenError> {
        Ok(self.state.tokens(LIST_LIMIT).await?)
    }

    /// Makes an unused token useless. `false` when there is no such token, or it was used or revoked before.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn revoke(&self, id: &str) -> Result<bool, TokenError> {
        Ok(self.state.revoke_token(id, self.clock.now().wall).await?)
    }

    /// Closes the database.
    pub async fn close(self) {
        self.state.close().await;
    }
}

/// Begins each token, so that scanners for leaked secrets find it.
const PREFIX: &str = "crank_";

/// The prefix and 43 characters of base64url for 32 bytes.
const TOKEN_LENGTH: usize = 49;

const SHORTEST_TTL: Duration = Duration::from_secs(1);

const LONGEST_TTL: Duration = Duration::from_hours(30 * 24);

const NAMES_LIMIT: usize = 100;

const LIST_LIMIT: u32 = 1_000;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::clock::SystemClock;

    async fn tokens(directory: &TempDir) -> Tokens {
        Tokens::new(State::open(directory.path(), &Database::Sqlite).await.unwrap(), Arc::new(SystemClock))
    }

    #[tokio::test]
    async fn a_token_is_random_and_its_text_is_not_in_the_database_nor_in_its_debug() {
        let directory = TempDir::new().unwrap();
        let tokens = tokens(&directory).await;
        let worker = WorkerId::new("streaming").unwrap();
        let one = tokens.create(worker.clone(), Duration::from_mins(10), []).await.unwrap();
        let two = tokens.create(worker, Duration::from_mins(10), []).await.unwrap();
        assert_eq!(one.secret.expose().len(), TOKEN_LENGTH);
        assert_ne!(one.secret.expose(), two.secret.expose());
        assert!(!format!("{one:?}").contains(one.secret.expose()));
        assert!(TokenSecret::from_client(one.secret.expose()).is_some());
        tokens.close().await;
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let content = std::fs::read(entry.unwrap().path()).unwrap();
            let secret = one.secret.expose().as_bytes();
            assert!(!content.windows(secret.len()).any(|window| window == secret));
        }
    }

    #[tokio::test]
    async fn a_token_lives_from_a_second_to_thirty_days() {
        let directory = TempDir::new().unwrap();
        let tokens = tokens(&directory).await;
        for bad in [Duration::ZERO, Duration::from_millis(999), LONGEST_TTL + Duration::from_secs(1)] {
            let result = tokens.create(WorkerId::new("a").unwrap(), bad, []).await;
            assert!(matches!(result, Err(TokenError::TimeToLive)));
        }
        let many = (0..101).map(|number| format!("a{number}").parse().unwrap());
        let result = tokens.create(WorkerId::new("a").unwrap(), SHORTEST_TTL, many).await;
        assert!(matches!(result, Err(TokenError::TooManyNames)));
        assert_eq!(tokens.list().await.unwrap().len(), 0);
    }
}
