//! Tokens (JWT), the roles in them, and what each role may read.

use super::{
    jwks::{NoKey, PublishedKeys},
    token_crypto,
};
use exodrive_domain::{credential::ServiceKey, value::UserId};
use exodrive_projections::Identity;
use exodrive_runtime::secret::Secret;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use moka::sync::Cache;
use serde_json::{Value, json};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};

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

/// A caller, identified by a verified token or a service key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `sub`: the user's id. The key's id, if it is one.
    pub subject: String,
    /// The role; of a key, that in which it does what it asks for.
    pub role: Role,
    /// The time at which the token ends, in seconds since 1970.
    pub ends: u64,
    /// The time at which it says that it was issued, likewise.
    pub issued_at: Option<u64>,
    /// The service key, if it is one.
    pub key: Option<Arc<ServiceKey>>,
}

impl Caller {
    /// As the audit names them: `admin:<user id>`, `key:<id>`, ….
    pub fn audit_name(&self) -> String {
        match &self.key {
            Some(key) => format!("key:{}", key.id),
            None => format!("{}:{}", self.role.name(), self.subject),
        }
    }
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
    /// Its end is too far away.
    #[error("the token is valid for longer than this system accepts")]
    LongLived,
    /// No key is believed: the issuer's keys cannot be read.
    #[error("the token cannot be checked now: the issuer's keys cannot be read")]
    NoKeys,
}

/// Checks tokens.
pub struct Tokens {
    keys: Keys,
    validation: Validation,
    role_claim: Vec<String>,
    /// Tokens that were verified a moment ago, with their ends.
    believed: Cache<String, Believed>,
    greatest_lifetime: Duration,
}

/// The bearer of a token that was verified.
#[derive(Clone)]
struct Believed {
    caller: Caller,
    /// The token's end, in Unix seconds.
    ends: u64,
    /// The generation of keys by which it was verified.
    generation: u64,
}

/// Time for which a token is not verified again, while the keys are the same.
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
    /// The longest time between its begin, or now, and its end.
    pub greatest_lifetime: Duration,
    /// Claim with the role, with dots between the names of nested claims.
    pub role_claim: String,
}

enum Keys {
    Secret(DecodingKey),
    Published(PublishedKeys),
}

impl Keys {
    /// The present generation of keys; `None` while none is believed.
    fn generation(&self) -> Option<u64> {
        match self {
            Self::Secret(_) => Some(0),
            Self::Published(keys) => keys.generation(),
        }
    }

    /// The key with this id, and its generation.
    async fn find(&self, id: &Option<String>) -> Result<(DecodingKey, u64), TokenError> {
        match self {
            Self::Secret(key) => Ok((key.clone(), 0)),
            Self::Published(keys) => keys.key(id).await.map_err(|none| match none {
                NoKey::Unknown => TokenError::Invalid,
                NoKey::Unavailable => TokenError::NoKeys,
            }),
        }
    }
}

impl Tokens {
    /// Tokens signed with a secret that the issuer shares with us (HS256).
    pub fn by_secret(secret: &Secret, rules: TokenRules) -> Self {
        token_crypto::install();
        let keys = Keys::Secret(DecodingKey::from_secret(secret.expose().as_bytes()));
        Self::new(keys, jsonwebtoken::Algorithm::HS256, rules)
    }

    /// Tokens signed with keys that the issuer publishes.
    pub fn by_jwks(keys: PublishedKeys, algorithm: Algorithm, rules: TokenRules) -> Self {
        token_crypto::install();
        Self::new(Keys::Published(keys), algorithm.0, rules)
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
        Self { keys, validation, role_claim, believed, greatest_lifetime: rules.greatest_lifetime }
    }

    /// Identifies the bearer of a token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn check(&self, token: &str) -> Result<Caller, TokenError> {
        let now = jsonwebtoken::get_current_timestamp();
        if let Some(believed) = self.believed.get(token)
            && believed.ends + LEEWAY > now
            && self.keys.generation() == Some(believed.generation)
        {
            return Ok(believed.caller);
        }
        let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
        // Who does not understand what is critical must refuse it (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        let (key, generation) = self.keys.find(&header.kid).await?;
        let claims = decode::<Value>(token, &key, &self.validation);
        let claims = claims.map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::ExpiredSignature => TokenError::Expired,
            _ => TokenError::Invalid,
        })?;
        self.check_lifetime(&claims.claims, now)?;
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
        // Its end is not over, and not far away.
        let ends = claims.claims["exp"].as_f64().map_or(0, |ends| ends as u64);
        let issued_at =
            claims.claims.get("iat").and_then(Value::as_f64).map(|issued| issued as u64);
        let caller = Caller { subject: subject.to_owned(), role, ends, issued_at, key: None };
        if let Some(ends) = claims.claims.get("exp").and_then(Value::as_u64) {
            let believed = Believed { caller: caller.clone(), ends, generation };
            self.believed.insert(token.to_owned(), believed);
        }
        Ok(caller)
    }

    /// A token that somebody has taken must end soon: by its own times, and by
    /// our clock, whatever it says about its begin.
    fn check_lifetime(&self, claims: &Value, now: u64) -> Result<(), TokenError> {
        let seconds = |claim: &Value| claim.as_f64().ok_or(TokenError::Invalid);
        let ends = seconds(&claims["exp"])?;
        let most = self.greatest_lifetime.as_secs_f64();
        let left = ends - Duration::from_secs(now).as_secs_f64();
        let issued = claims.get("iat").map(seconds).transpose()?;
        let too_long = left > most + Duration::from_secs(LEEWAY).as_secs_f64()
            || issued.is_some_and(|issued| ends - issued > most);
        if too_long { Err(TokenError::LongLived) } else { Ok(()) }
    }
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
        let role_claim = role_claim.into();
        TokenRules { issuer: None, audience: None, greatest_lifetime: 24 * HOUR, role_claim }
    }

    /// The key of a system, and one of another.
    const KEY: &str = "a secret of a test, of 32 bytes!";
    const OTHER: &str = "another one, of 32 bytes and more";

    fn in_an_hour() -> u64 {
        jsonwebtoken::get_current_timestamp() + 3_600
    }

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
        let caller = check(&tokens, &good).unwrap();
        assert_eq!((caller.subject.as_str(), caller.role), ("u1", Role::Auditor));
        assert!((in_an_hour() - 5..=in_an_hour()).contains(&caller.ends), "{caller:?}");
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
            ..rules(CLAIM)
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
                "sub": "u1", "exp": in_an_hour(), "iss": iss, "aud": aud,
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
                json!({"sub": nobody, "exp": in_an_hour(), "app_metadata": {"role": "admin"}});
            let key = EncodingKey::from_secret(KEY.as_bytes());
            let token = encode(&Header::default(), &claims, &key).unwrap();
            assert_eq!(check(&tokens(), &token), Err(TokenError::Invalid), "{nobody}");
        }
    }

    #[test]
    fn a_token_ends_within_the_greatest_lifetime() {
        token_crypto::install();
        let now = i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap();
        let day = 24 * 3_600;
        let times = |iat: Value, exp: Value| {
            let mut claims = json!({"sub": "u1", "exp": exp, "app_metadata": {"role": "admin"}});
            if !iat.is_null() {
                claims["iat"] = iat;
            }
            let key = EncodingKey::from_secret(KEY.as_bytes());
            check(&tokens(), &encode(&Header::default(), &claims, &key).unwrap()).err()
        };
        for (iat, exp, refused) in [
            (json!(now), json!(now + day), None),
            (json!(now), json!(now + day + 1), Some(TokenError::LongLived)),
            (json!(now - day), json!(now + 1), Some(TokenError::LongLived)),
            (json!(null), json!(now + day), None),
            (json!(null), json!(now + day + 60), Some(TokenError::LongLived)),
            // A begin in the future makes no later end.
            (json!(now + 10 * day), json!(now + 10 * day + 60), Some(TokenError::LongLived)),
            (json!(now), json!(u64::MAX), Some(TokenError::LongLived)),
            (json!(0.5), json!(now + 60), Some(TokenError::LongLived)),
            (json!("now"), json!(now + 60), Some(TokenError::Invalid)),
        ] {
            assert_eq!(times(iat.clone(), exp.clone()), refused, "{iat} {exp}");
        }
    }

    #[test]
    fn a_token_with_a_critical_header_is_refused() {
        token_crypto::install();
        let claims = json!({"sub": "u1", "exp": in_an_hour(), "app_metadata": {"role": "admin"}});
        let key = EncodingKey::from_secret(KEY.as_bytes());
        for (crit, accepted) in
            [(None, true), (Some(vec!["exp".to_owned()]), false), (Some(Vec::new()), false)]
        {
            let header = Header { crit, ..Header::default() };
            let token = encode(&header, &claims, &key).unwrap();
            assert_eq!(check(&tokens(), &token).is_ok(), accepted, "{:?}", header.crit);
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

    #[tokio::test]
    async fn published_keys_are_believed_for_their_algorithm_only() {
        use super::super::jwks::JwksTimes;
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as B64};
        use ring::signature::{Ed25519KeyPair, KeyPair};
        use tokio_util::sync::CancellationToken;
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = B64.encode(pair.public_key());
        let folder = std::env::temp_dir().join(format!("jwks-{}.json", rand::random::<u64>()));
        let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": public}]});
        std::fs::write(&folder, jwks.to_string()).unwrap();
        let token = |kid: &str, algorithm: &str| {
            let head = B64.encode(json!({"alg": algorithm, "kid": kid}).to_string());
            let claims =
                json!({"sub": "u1", "exp": in_an_hour(), "app_metadata": {"role": "admin"}});
            let signed = format!("{head}.{}", B64.encode(claims.to_string()));
            let signature = B64.encode(pair.sign(signed.as_bytes()));
            format!("{signed}.{signature}")
        };
        let source = folder.display().to_string();
        let times = JwksTimes { refresh: HOUR, greatest_age: HOUR, unknown_key: HOUR };
        let by_jwks = |algorithm: &str| {
            let keys = PublishedKeys::new(source.clone(), times);
            tokio::spawn(keys.clone().follow(CancellationToken::new()));
            Tokens::by_jwks(keys, algorithm.parse().unwrap(), rules(CLAIM))
        };
        let tokens = by_jwks("EdDSA");
        let believed = tokens.check(&token("k1", "EdDSA")).await.unwrap();
        assert_eq!(believed.role, Role::Admin);
        assert_eq!(tokens.check(&token("k2", "EdDSA")).await, Err(TokenError::Invalid));
        assert_eq!(tokens.check(&token("k1", "HS256")).await, Err(TokenError::Invalid));
        // The public key, used as if it were a shared secret.
        let hmac = issue(&secret(&public), "u1", Role::Admin, HOUR, &rules(CLAIM)).unwrap();
        assert_eq!(tokens.check(&hmac).await, Err(TokenError::Invalid));
        let other = by_jwks("ES256");
        assert_eq!(other.check(&token("k1", "EdDSA")).await, Err(TokenError::Invalid));
        std::fs::remove_file(folder).unwrap();
    }
}
