//! Who sends a request: tokens and ingest keys, and where none is needed.
//!
//! A token is `bk_ID_SECRET`; the store has the SHA-256 of the secret, which is 256 random bits, so a slow hash would add
//! nothing. It comes as `Authorization: Bearer …`, or as a cookie that `POST /api/session` sets for the page. An ingest key is
//! `bi_EXPERIMENT_SECRET` and opens the intake of that experiment only. On a loopback address without
//! `--require-token`, a request without a token is from the person at the machine and may do everything, unless a proxy says
//! that it passed it on; a token that is sent all the same must be right.

use crate::store::{Store, StoreError, StoredToken};
use axum::http::{HeaderMap, header};
use beckon_shared::control::access::{Need, Role, Sender};
use beckon_shared::digest::{hex, sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Name of the cookie that carries the page's token.
pub const COOKIE: &str = "beckon_token";
/// Name in the audit log of who needs no token.
pub const LOCAL: &str = "local";

/// What a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The token is not known, or its secret is wrong.
    #[error("the token is not known; ask an admin for one (`beckon token add`)")]
    Unknown,
    /// It was right once.
    #[error("the token has expired; ask an admin for a new one (`beckon token add`)")]
    Expired,
    /// More than one, or not a token at all.
    #[error("the Authorization header is not `Bearer TOKEN`")]
    Malformed,
}

/// Why a sender could not be found.
#[derive(Debug, thiserror::Error)]
pub enum IdentifyError {
    /// What it sent is not right.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A fresh token: the text for its holder, and what the store keeps.
///
/// # Errors
/// The system gives no randomness.
pub fn new_token(
    name: &str,
    role: Role,
    now_millis: i64,
    expires_millis: Option<i64>,
) -> Result<(String, StoredToken), getrandom::Error> {
    let mut id = [0; 8];
    getrandom::fill(&mut id)?;
    let (id, (secret, hash)) = (hex(&id), new_secret()?);
    let token =
        StoredToken { id: id.clone(), name: name.to_owned(), role, hash, created_millis: now_millis, expires_millis };
    Ok((format!("bk_{id}_{secret}"), token))
}

/// A fresh ingest key of an experiment and the hash to keep.
///
/// # Errors
/// The system gives no randomness.
pub fn new_ingest_key(experiment: &str) -> Result<(String, [u8; 32]), getrandom::Error> {
    let (secret, hash) = new_secret()?;
    Ok((format!("bi_{experiment}_{secret}"), hash))
}

fn new_secret() -> Result<(String, [u8; 32]), getrandom::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    let secret = hex(&secret);
    let hash = sha256(secret.as_bytes());
    Ok((secret, hash))
}

/// The token that a request carries, if any.
///
/// # Errors
/// [`AccessError::Malformed`].
pub fn token_of(headers: &HeaderMap) -> Result<Option<String>, AccessError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    if let Some(value) = values.next() {
        let text = value.to_str().map_err(|_| AccessError::Malformed)?;
        let (scheme, token) = text.split_once(' ').ok_or(AccessError::Malformed)?;
        let one = scheme.eq_ignore_ascii_case("bearer") && values.next().is_none() && !token.trim().is_empty();
        return if one { Ok(Some(token.trim().to_owned())) } else { Err(AccessError::Malformed) };
    }
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    Ok(pairs.find(|(name, _)| *name == COOKIE).map(|(_, token)| token.to_owned()))
}

/// Whose token it is at `now_millis`.
///
/// # Errors
/// [`IdentifyError`].
pub fn identify(store: &Store, token: &str, now_millis: i64) -> Result<Sender, IdentifyError> {
    let mut parts = token.splitn(3, '_');
    let (kind, id, secret) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let hash = sha256(secret.as_bytes());
    match kind {
        Some("bk") => {
            let stored = store.token(id)?;
            // compared also where there is none, so that the time does not tell which ids exist
            let (stored_hash, known) = stored.as_ref().map_or(([0; 32], false), |token| (token.hash, true));
            let same = bool::from(hash.ct_eq(&stored_hash)) && known;
            match stored.filter(|_| same) {
                None => Err(AccessError::Unknown.into()),
                Some(token) if token.expires_millis.is_some_and(|end| end <= now_millis) => {
                    Err(AccessError::Expired.into())
                }
                Some(token) => Ok(Sender::Holder { role: token.role, name: token.name }),
            }
        }
        Some("bi") => {
            let stored = store.ingest_hash(id)?;
            let same = bool::from(hash.ct_eq(&stored.unwrap_or_default())) && stored.is_some();
            if same { Ok(Sender::Ingest { experiment: id.to_owned() }) } else { Err(AccessError::Unknown.into()) }
        }
        _ => Err(AccessError::Unknown.into()),
    }
}

/// The token that opened a stream, to be looked at again for as long as the stream lasts.
pub struct Pass {
    store: Arc<Store>,
    /// `None`: none was needed.
    token: Option<String>,
    need: Need,
}

impl Pass {
    /// Of a request with `headers` that was let in where `need` was asked for.
    pub fn new(store: Arc<Store>, headers: &HeaderMap, need: Need) -> Self {
        Self { store, token: token_of(headers).ok().flatten(), need }
    }

    /// Whether the token is still known, has not expired and may still do this. Where the store does not answer, it stays so
    /// until the next look.
    pub async fn is_good(&self) -> bool {
        let Some(token) = self.token.clone() else { return true };
        let store = Arc::clone(&self.store);
        let found = tokio::task::spawn_blocking(move || identify(&store, &token, crate::now_millis())).await;
        match found {
            Ok(Ok(sender)) => sender.may(self.need, None),
            Ok(Err(IdentifyError::Access(_))) => false,
            // the latter is a runtime that is shutting down
            Ok(Err(IdentifyError::Store(_))) | Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests;
