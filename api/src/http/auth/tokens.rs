//! Tokens (JWT), the roles in them, and what each role may read.

use super::token_crypto;
use exodrive_domain::value::UserId;
use exodrive_projections::Identity;
use exodrive_runtime::secret::Secret;
use jsonwebtoken::{
    DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode, jwk::JwkSet,
};
use moka::sync::Cache;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// A person's role in ExoDrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Rents cars.
    Customer,
    /// Manages the business.
    Admin,
    /// Reads everything and changes nothing.
    Auditor,
    /// Operates the system, and reads no mail.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Customer, Self::Admin, Self::Auditor, Self::Operator];

    /// The role's name in a token.
    pub fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Admin => "admin",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
        }
    }

    /// The identity with which the role reads email; `None` if it may not.
    pub fn reads_email_as(self) -> Option<Identity> {
        match self {
            Self::Admin => Some(Identity::Admin),
            Self::Auditor => Some(Identity::Auditor),
            Self::Customer | Self::Operator => None,
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| {
            format!("{text:?} is not a role; the roles are customer, admin, auditor and operator")
        })
    }
}

/// A public-key algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm(jsonwebtoken::Algorithm);

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ES256" => Ok(Self(jsonwebtoken::Algorithm::ES256)),
            "RS256" => Ok(Self(jsonwebtoken::Algorithm::RS256)),
            "EdDSA" => Ok(Self(jsonwebtoken::Algorithm::EdDSA)),
            _ => Err(format!("{text:?} is not one of ES256, RS256, EdDSA")),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A caller, identified by a verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `sub`: the user's id.
    pub subject: String,
    /// The role.
    pub role: Role,
}

/// Reason why a token is rejected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// Signature, issuer, audience, algorithm or form is wrong.
    #[error("the token is not valid for this system")]
    Invalid,
    /// The token has no role that this release knows.
    #[error("the token has no role")]
    NoRole,
}

/// Checks tokens.
pub struct Tokens {
    keys: Keys,
    validation: Validation,
    role_claim: Vec<String>,
    /// Tokens that were verified a moment ago, with their ends.
    believed: Cache<String, (Caller, u64)>,
}

/// Time for which a token is not verified again. A key that the issuer
/// withdraws is honoured for that long.
const BELIEVED: Duration = Duration::from_secs(30);
/// Tokens that are cached.
const REMEMBERED: u64 = 10_000;
/// Seconds by which clocks may differ.
const LEEWAY: u64 = 30;

/// Requirements on a token.
#[derive(Clone, Debug)]
pub struct TokenRules {
    /// The issuer it must name.
    pub issuer: Option<String>,
    /// The audience it must name.
    pub audience: Option<String>,
    /// Claim with the role, with dots between the names of nested claims.
    pub role_claim: String,
}

enum Keys {
    Secret(DecodingKey),
    Published { source: String, cache: RwLock<Published> },
}

/// Keys by id. A set of one key may leave ids out, in the set and in tokens.
type KeySet = HashMap<Option<String>, DecodingKey>;

#[derive(Default)]
struct Published {
    by_id: Arc<KeySet>,
    fetched: Option<Instant>,
}

/// Shortest interval between two fetches of the keys for an unknown key id.
const REFETCH: Duration = Duration::from_secs(30);

impl Tokens {
    /// Tokens signed with a secret that the issuer shares with us (HS256).
    pub fn by_secret(secret: &Secret, rules: TokenRules) -> Self {
        token_crypto::install();
        let keys = Keys::Secret(DecodingKey::from_secret(secret.expose().as_bytes()));
        Self::new(keys, jsonwebtoken::Algorithm::HS256, rules)
    }

    /// Tokens signed with keys that the issuer publishes at a URL, or that are
    /// in a file.
    pub fn by_jwks(source: String, algorithm: Algorithm, rules: TokenRules) -> Self {
        token_crypto::install();
        Self::new(Keys::Published { source, cache: RwLock::default() }, algorithm.0, rules)
    }

    /// Pins the algorithm: it is never taken from a token.
    fn new(keys: Keys, algorithm: jsonwebtoken::Algorithm, rules: TokenRules) -> Self {
        let mut validation = Validation::new(algorithm);
        // A claim that is compared only if it is there is no requirement (RFC 7519, sections
        // 4.1.1 and 4.1.3).
        let issuer = rules.issuer.as_ref().map(|_| "iss");
        let audience = rules.audience.as_ref().map(|_| "aud");
        let required: Vec<_> = ["exp", "sub"].into_iter().chain(issuer).chain(audience).collect();
        validation.set_required_spec_claims(&required);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        match rules.audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = rules.issuer {
            validation.set_issuer(&[issuer]);
        }
        let role_claim = rules.role_claim.split('.').map(str::to_owned).collect();
        let believed = Cache::builder().max_capacity(REMEMBERED).time_to_live(BELIEVED).build();
        Self { keys, validation, role_claim, believed }
    }

    /// Identifies the bearer of a token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn check(&self, token: &str) -> Result<Caller, TokenError> {
        if let Some((caller, ends)) = self.believed.get(token)
            && ends + LEEWAY > jsonwebtoken::get_current_timestamp()
        {
            return Ok(caller);
        }
        let claims = match &self.keys {
            Keys::Secret(key) => decode::<Value>(token, key, &self.validation),
            Keys::Published { source, cache } => {
                let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
                let key = published(source, cache, &header.kid).await;
                let key = key.ok_or(TokenError::Invalid)?;
                decode::<Value>(token, &key, &self.validation)
            }
        };
        let claims = claims.map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::ExpiredSignature => TokenError::Expired,
            _ => TokenError::Invalid,
        })?;
        let mut role = &claims.claims;
        for step in &self.role_claim {
            role = role.get(step).ok_or(TokenError::NoRole)?;
        }
        let role = role.as_str().and_then(|role| role.parse().ok()).ok_or(TokenError::NoRole)?;
        // A caller without an id would be any other caller without one. The id goes
        // into events and rows.
        let subject = claims.claims.get("sub").and_then(Value::as_str);
        let kept = |it: &&str| UserId::parse(it).is_ok_and(|id| *id == **it);
        let subject = subject.filter(kept).ok_or(TokenError::Invalid)?;
        let caller = Caller { subject: subject.to_owned(), role };
        if let Some(ends) = claims.claims.get("exp").and_then(Value::as_u64) {
            self.believed.insert(token.to_owned(), (caller.clone(), ends));
        }
        Ok(caller)
    }
}

async fn published(
    source: &str,
    cache: &RwLock<Published>,
    id: &Option<String>,
) -> Option<DecodingKey> {
    let known = |by_id: &KeySet| by_id.get(id).cloned();
    {
        let cache = cache.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = known(&cache.by_id) {
            return Some(key);
        }
        if cache.fetched.is_some_and(|fetched| fetched.elapsed() < REFETCH) {
            return None;
        }
    }
    let keys = match fetch(source).await {
        Ok(keys) => Some(keys),
        Err(error) => {
            tracing::warn!(error, "Cannot read the token issuer's keys (EXODRIVE_JWT_JWKS)");
            None
        }
    };
    let mut cache = cache.write().unwrap_or_else(PoisonError::into_inner);
    cache.fetched = Some(Instant::now());
    if let Some(keys) = keys {
        cache.by_id = Arc::new(keys);
    }
    known(&cache.by_id)
}

async fn fetch(source: &str) -> Result<KeySet, String> {
    let text = if source.starts_with("http://") || source.starts_with("https://") {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build();
        let get = async { client?.get(source).send().await?.error_for_status()?.text().await };
        get.await.map_err(|error| exodrive_runtime::error_chain(&error))?
    } else {
        tokio::fs::read_to_string(source).await.map_err(|error| error.to_string())?
    };
    read_keys(&text)
}

fn read_keys(text: &str) -> Result<KeySet, String> {
    let set: JwkSet = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let (mut keys, mut nameless) = (KeySet::new(), 0);
    for jwk in &set.keys {
        // A set may hold keys for others, of kinds that are not known here (RFC 7517, section 5).
        let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
        nameless += usize::from(jwk.common.key_id.is_none());
        keys.insert(jwk.common.key_id.clone(), key);
    }
    // A token without an id cannot say which of them it means.
    if nameless > 1 {
        tracing::warn!(nameless, "Keys of the token issuer without an id are not used");
        keys.remove(&None);
    }
    if keys.is_empty() {
        return Err("it has no key that is known here and that a token can name".to_owned());
    }
    Ok(keys)
}

/// A token for a system that trusts `secret` and has these rules, as its issuer
/// would sign it.
///
/// # Errors
/// When it cannot be signed.
pub fn issue(
    secret: &Secret,
    subject: &str,
    role: Role,
    lifetime: Duration,
    rules: &TokenRules,
) -> Result<String, jsonwebtoken::errors::Error> {
    token_crypto::install();
    let now = Duration::from_secs(jsonwebtoken::get_current_timestamp());
    let role =
        rules.role_claim.rsplit('.').fold(json!(role.name()), |inner, step| json!({ step: inner }));
    let mut claims = json!({
        "sub": subject,
        "iat": now.as_secs(),
        "exp": (now + lifetime).as_secs(),
    });
    if let (Some(claims), Value::Object(role)) = (claims.as_object_mut(), role) {
        claims.extend(role);
        let named = [("iss", &rules.issuer), ("aud", &rules.audience)];
        claims.extend(
            named
                .into_iter()
                .filter_map(|(claim, value)| Some((claim.to_owned(), value.clone()?.into()))),
        );
    }
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    encode(&Header::new(jsonwebtoken::Algorithm::HS256), &claims, &key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const CLAIM: &str = "app_metadata.role";

    fn rules(role_claim: &str) -> TokenRules {
        TokenRules { issuer: None, audience: None, role_claim: role_claim.into() }
    }

    /// The key of a system, and one of another.
    const KEY: &str = "a secret of a test, of 32 bytes!";
    const OTHER: &str = "another one, of 32 bytes and more";

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    fn tokens() -> Tokens {
        Tokens::by_secret(&secret(KEY), rules(CLAIM))
    }

    fn check(tokens: &Tokens, token: &str) -> Result<Caller, TokenError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tokens.check(token))
    }

    #[test]
    fn a_token_is_believed_by_its_signature_time_and_role() {
        let tokens = tokens();
        let good = issue(&secret(KEY), "u1", Role::Auditor, HOUR, &rules(CLAIM)).unwrap();
        let caller = Caller { subject: "u1".into(), role: Role::Auditor };
        assert_eq!(check(&tokens, &good), Ok(caller));
        let forged = issue(&secret(OTHER), "u1", Role::Admin, HOUR, &rules(CLAIM)).unwrap();
        assert_eq!(check(&tokens, &forged), Err(TokenError::Invalid));
        assert_eq!(check(&tokens, "garbage"), Err(TokenError::Invalid));
        // A user may be able to write any claim except the issuer's claim for
        // the role.
        let elsewhere =
            issue(&secret(KEY), "u1", Role::Admin, HOUR, &rules("user_metadata.role")).unwrap();
        assert_eq!(check(&tokens, &elsewhere), Err(TokenError::NoRole));
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1IiwiZXhwIjo5OTk5OTk5OTk5fQ.";
        assert_eq!(check(&tokens, unsigned), Err(TokenError::Invalid));
    }

    #[test]
    fn issuer_and_audience_are_required_when_they_are_configured() {
        let named = |issuer: Option<&str>, audience: Option<&str>| TokenRules {
            issuer: issuer.map(str::to_owned),
            audience: audience.map(str::to_owned),
            role_claim: CLAIM.into(),
        };
        let all = [
            (None, None),
            (Some("us"), None),
            (None, Some("api")),
            (Some("us"), Some("api")),
            (Some("them"), Some("api")),
            (Some("us"), Some("other")),
        ];
        for (issuer, audience) in &all[..4] {
            let tokens = Tokens::by_secret(&secret(KEY), named(*issuer, *audience));
            for (iss, aud) in &all {
                let rules = named(*iss, *aud);
                let token = issue(&secret(KEY), "u1", Role::Admin, HOUR, &rules).unwrap();
                // What is not configured may be there.
                let fits =
                    (issuer.is_none() || issuer == iss) && (audience.is_none() || audience == aud);
                let outcome = check(&tokens, &token);
                let what = format!("{iss:?} {aud:?} by {issuer:?} {audience:?}");
                assert_eq!(outcome.is_ok(), fits, "{what}");
                assert!(fits || outcome == Err(TokenError::Invalid), "{what}");
            }
        }
        // One of several audiences does, and nothing that only looks like a name.
        let tokens = Tokens::by_secret(&secret(KEY), named(Some("us"), Some("api")));
        let with = |iss: Value, aud: Value| {
            let claims = json!({
                "sub": "u1", "exp": 9_999_999_999_u64, "iss": iss, "aud": aud,
                "app_metadata": {"role": "admin"},
            });
            let key = EncodingKey::from_secret(KEY.as_bytes());
            check(&tokens, &encode(&Header::default(), &claims, &key).unwrap())
        };
        assert!(with(json!("us"), json!(["other", "api"])).is_ok());
        for (iss, aud) in [
            (json!("us"), json!([])),
            (json!("us"), json!(null)),
            (json!("us"), json!("")),
            (json!("us"), json!({"api": true})),
            (json!(null), json!("api")),
            (json!(7), json!("api")),
            (json!("us "), json!("api")),
        ] {
            assert_eq!(with(iss.clone(), aud.clone()), Err(TokenError::Invalid), "{iss} {aud}");
        }
    }

    #[test]
    fn a_token_of_nobody_is_not_believed() {
        token_crypto::install();
        let long = "u".repeat(256);
        for nobody in [
            json!(7),
            json!(""),
            json!(null),
            json!({"id": "u1"}),
            json!(" u1"),
            json!("u\0"),
            json!(long),
        ] {
            let claims =
                json!({"sub": nobody, "exp": 9_999_999_999_u64, "app_metadata": {"role": "admin"}});
            let key = EncodingKey::from_secret(KEY.as_bytes());
            let token = encode(&Header::default(), &claims, &key).unwrap();
            assert_eq!(check(&tokens(), &token), Err(TokenError::Invalid), "{nobody}");
        }
    }

    #[test]
    fn an_expired_token_says_so() {
        token_crypto::install();
        let claims = json!({"sub": "u1", "exp": 1_000, "app_metadata": {"role": "admin"}});
        let key = EncodingKey::from_secret(KEY.as_bytes());
        let token = encode(&Header::default(), &claims, &key).unwrap();
        assert_eq!(check(&tokens(), &token), Err(TokenError::Expired));
    }

    #[test]
    fn keys_without_ids_do_not_hide_each_other() {
        token_crypto::install();
        let key = |x: &str| json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        let one = key("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        let other = key("PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw");
        let mut named = one.clone();
        named["kid"] = json!("k1");
        let read = |keys: &[&Value]| read_keys(&json!({ "keys": keys }).to_string());
        assert!(read(&[&one]).unwrap().contains_key(&None));
        assert!(read(&[&one, &other]).is_err());
        let kept = read(&[&one, &other, &named]).unwrap();
        assert_eq!(kept.keys().collect::<Vec<_>>(), [&Some("k1".to_owned())]);
        assert!(read(&[]).is_err());
    }

    #[test]
    fn published_keys_are_believed_for_their_algorithm_only() {
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as B64};
        use ring::signature::{Ed25519KeyPair, KeyPair};
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = B64.encode(pair.public_key());
        let folder = std::env::temp_dir().join(format!("jwks-{}.json", rand::random::<u64>()));
        let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": public}]});
        std::fs::write(&folder, jwks.to_string()).unwrap();
        let token = |kid: &str, algorithm: &str| {
            let head = B64.encode(json!({"alg": algorithm, "kid": kid}).to_string());
            let claims =
                json!({"sub": "u1", "exp": 9_999_999_999_u64, "app_metadata": {"role": "admin"}});
            let signed = format!("{head}.{}", B64.encode(claims.to_string()));
            let signature = B64.encode(pair.sign(signed.as_bytes()));
            format!("{signed}.{signature}")
        };
        let source = folder.display().to_string();
        let tokens = Tokens::by_jwks(source.clone(), "EdDSA".parse().unwrap(), rules(CLAIM));
        assert_eq!(check(&tokens, &token("k1", "EdDSA")).unwrap().role, Role::Admin);
        assert_eq!(check(&tokens, &token("k2", "EdDSA")), Err(TokenError::Invalid));
        assert_eq!(check(&tokens, &token("k1", "HS256")), Err(TokenError::Invalid));
        // The public key, used as if it were a shared secret.
        let hmac = issue(&secret(&public), "u1", Role::Admin, HOUR, &rules(CLAIM)).unwrap();
        assert_eq!(check(&tokens, &hmac), Err(TokenError::Invalid));
        let other = Tokens::by_jwks(source, "ES256".parse().unwrap(), rules(CLAIM));
        assert_eq!(check(&other, &token("k1", "EdDSA")), Err(TokenError::Invalid));
        std::fs::remove_file(folder).unwrap();
    }
}
