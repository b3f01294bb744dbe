//! Extractors that a handler names in its signature: they check the caller's
//! role and rate. A handler names one before its path, its query and its body:
//! who may not ask is told so, whatever they ask.

pub(crate) use super::tokens::Role;
use super::tokens::{Caller, TokenError};
use super::{
    keys,
    peer::{network_of, peer},
};
use crate::http::{
    Api,
    contract::{check_query, scope_of},
    headers::single,
    layers::{
        load::cost,
        request::{self, Verdicts},
    },
    problem::{ApiError, Code},
    state::limits::Limit,
};
use axum::{
    extract::{FromRequestParts, MatchedPath},
    http::{HeaderMap, request::Parts},
};
use exodrive_commands::{context::Actor, digest::sha256_hex};
use exodrive_projections::Identity;
use std::{borrow::Cow, sync::Arc};

/// Any caller, with or without a token.
pub(crate) struct Anyone;

/// A caller who is neither identified nor counted: a probe of the process.
pub(crate) struct Probe;

/// A caller who may read email.
pub(crate) struct EmailReader {
    /// The identity with which the views are read.
    pub(crate) identity: Identity,
}

/// What the request's token says.
#[derive(Clone, Debug)]
enum Bearer {
    /// There is no token.
    Nobody,
    /// The token is valid, and names no role that is known here.
    WithoutRole,
    Known(Caller),
}

/// The caller: identified by a token, by the link of a booking, or not at all.
/// Someone whose token has no role is a visitor wherever visitors are admitted.
#[derive(Clone, Debug)]
pub(crate) struct Requester {
    bearer: Bearer,
    /// SHA-256 of the link's token.
    link: Option<String>,
    /// Why the link's token cannot be read, if it cannot.
    link_fault: Option<ApiError>,
    /// The network that the request came from.
    network: String,
    /// What the request was counted as so far.
    verdicts: Verdicts,
}

impl Requester {
    /// Counts the request and identifies the caller, once for a request.
    pub(crate) async fn of(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        let network = network_of(peer(parts, &api.trusted_proxies));
        let bearer = check_access(parts, api, &network).await?;
        let (link, link_fault) = match link_token(parts) {
            Ok(token) => (token.map(|token| sha256_hex(token.as_bytes())), None),
            Err(fault) => (None, Some(fault)),
        };
        let identity = parts.extensions.get::<request::Identity>();
        let verdicts = identity.map(|it| it.verdicts.clone()).unwrap_or_default();
        let requester = Self { bearer, link, link_fault, network, verdicts };
        parts.extensions.insert(requester.clone());
        Ok(requester)
    }

    /// The caller, once everything about the request but its body was looked at: a handler names
    /// who may ask before that.
    pub(crate) fn checked(self, parts: &Parts) -> Result<Self, ApiError> {
        if let Some(fault) = self.link_fault {
            return Err(fault);
        }
        check_query(parts)?;
        Ok(self)
    }

    /// The caller, if their role is one of those that `may` do it, and nothing else is wrong with
    /// the head of the request.
    async fn admitted(
        parts: &mut Parts,
        api: &Api,
        may: impl Fn(Role) -> bool,
        whose: &str,
    ) -> Result<Self, ApiError> {
        let who = Self::of(parts, api).await?;
        who.admit(may, whose)?;
        who.checked(parts)
    }

    /// Whose `Idempotency-Key`s are one set, and nobody else's.
    ///
    /// Someone with a token: the user, in their role; with a service key: the key. Of an action on a
    /// booking, the holder of its link. Anybody else is known by nothing but the network that they
    /// are in and the email address that they give: two of them never share a key, and who has
    /// changed the network asks anew. A token that was sent as that of a link proves nothing where
    /// there is no booking yet.
    pub(crate) fn key_scope(&self, of_a_booking: bool, email: Option<&str>) -> Vec<String> {
        let email = email.map(|email| email.trim().to_lowercase()).unwrap_or_default();
        let parts: [&str; 3] = match (self.caller(), &self.link) {
            (Some(Caller { key: Some(_), subject, .. }), _) => ["key", subject, ""],
            (Some(caller), _) => ["user", caller.role.name(), &caller.subject],
            (None, Some(link)) if of_a_booking => ["link", link, ""],
            (None, _) => ["visitor", &self.network, &email],
        };
        parts.map(str::to_owned).into()
    }

    /// Who bookings are counted for; `None` for staff.
    fn books_as(&self) -> Option<&str> {
        match self.caller() {
            Some(caller) if caller.role != Role::Customer => None,
            Some(caller) => Some(&caller.subject),
            None => Some(&self.network),
        }
    }

    /// Counts a booking that is about to be made. Staff may make any number of them.
    ///
    /// # Errors
    /// 429 if there were too many.
    pub(crate) async fn count_booking(&self, api: &Api) -> Result<(), ApiError> {
        let Some(who) = self.books_as() else { return Ok(()) };
        let verdict = api.limiter.check(Limit::Booking, who).await;
        self.verdicts.add(verdict);
        if verdict.allowed { Ok(()) } else { Err(ApiError::rate_limited(&verdict)) }
    }

    /// Takes that back: no booking was made.
    pub(crate) async fn count_no_booking(&self, api: &Api) {
        let Some(who) = self.books_as() else { return };
        api.limiter.give_back(Limit::Booking, who).await;
        self.verdicts.remove(Limit::Booking);
    }

    fn caller(&self) -> Option<&Caller> {
        match &self.bearer {
            Bearer::Known(caller) => Some(caller),
            Bearer::Nobody | Bearer::WithoutRole => None,
        }
    }

    /// The role, by a token.
    pub(crate) fn role(&self) -> Option<Role> {
        self.caller().map(|caller| caller.role)
    }

    /// The caller, if their role is one of those that `may` do it.
    ///
    /// # Errors
    /// 401 without a token, 403 with another one; `whose` says who may do it.
    pub(crate) fn admit(
        &self,
        may: impl Fn(Role) -> bool,
        whose: &str,
    ) -> Result<&Caller, ApiError> {
        let forbidden = |detail: String| ApiError::new(Code::Forbidden, detail);
        match &self.bearer {
            Bearer::Known(caller) if may(caller.role) => Ok(caller),
            Bearer::Known(caller) => {
                let role = caller.role.name();
                Err(forbidden(format!("The role {role} may not do that, only {whose} may.")))
            }
            Bearer::WithoutRole => {
                Err(forbidden(format!("The token has no role; only {whose} may do that.")))
            }
            Bearer::Nobody => {
                Err(ApiError::new(Code::Unauthenticated, format!("Only {whose} may do that.")))
            }
        }
    }

    /// Id of the user, if they may operate the system.
    pub(crate) fn operator(&self) -> Result<&str, ApiError> {
        let caller = self.admit(|role| role == Role::Operator, "operators")?;
        Ok(&caller.subject)
    }

    /// The actor of the caller's commands.
    pub(crate) fn actor(&self) -> Actor {
        match (self.caller(), &self.link) {
            (Some(Caller { key: Some(key), .. }), _) => Actor::Key(key.id),
            (Some(caller), _) if caller.role == Role::Admin => Actor::Staff(caller.subject.clone()),
            (_, Some(hash)) => Actor::Guest(hash.clone()),
            (Some(caller), None) => Actor::Customer(caller.subject.clone()),
            (None, None) => Actor::Visitor,
        }
    }

    /// The identity with which bookings are read.
    pub(crate) fn reads_bookings_as(&self) -> Identity {
        let staff = self.role().and_then(Role::reads_email_as);
        match (staff, self.caller(), &self.link) {
            (Some(identity), _, _) => identity,
            (None, _, Some(hash)) => Identity::Guest(hash.clone()),
            (None, Some(caller), None) => Identity::Customer(caller.subject.clone()),
            (None, None, None) => Identity::Public,
        }
    }
}

impl FromRequestParts<Arc<Api>> for Requester {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        Self::of(parts, api).await?.checked(parts)
    }
}

/// A caller who may manage the business.
pub(crate) struct Manages;

impl FromRequestParts<Arc<Api>> for Manages {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let admin = |role| role == Role::Admin;
        Requester::admitted(parts, api, admin, "admins").await.map(|_| Self)
    }
}

/// A caller who may operate the system.
pub(crate) struct Operates;

impl FromRequestParts<Arc<Api>> for Operates {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let operator = |role| role == Role::Operator;
        Requester::admitted(parts, api, operator, "operators").await.map(|_| Self)
    }
}

/// The token of a booking's link: in a header, or as `token` in the query.
fn link_token(parts: &Parts) -> Result<Option<String>, ApiError> {
    let header = single(&parts.headers, "ExoDrive-Booking-Token")?;
    let header = header.and_then(|it| it.to_str().ok());
    let query = || {
        let pairs = parts.uri.query()?.split('&');
        pairs.filter_map(|pair| pair.strip_prefix("token=")).next()
    };
    Ok(header.or_else(query).filter(|token| !token.is_empty()).map(str::to_owned))
}

impl FromRequestParts<Arc<Api>> for Anyone {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        Requester::of(parts, api).await?.checked(parts).map(|_| Self)
    }
}

impl FromRequestParts<Arc<Api>> for Probe {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, ApiError> {
        check_query(parts).map(|()| Self)
    }
}

/// A caller who may read bookings: customers their own, admins and auditors all of them. A link
/// shows one booking only.
pub(crate) struct BookingReader(pub(crate) Requester);

impl FromRequestParts<Arc<Api>> for BookingReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let reads = |role| role != Role::Operator;
        let whose = "customers, admins and auditors";
        Requester::admitted(parts, api, reads, whose).await.map(Self)
    }
}

impl FromRequestParts<Arc<Api>> for EmailReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let reads = |role: Role| role.reads_email_as().is_some();
        let who = Requester::admitted(parts, api, reads, "admins and auditors").await?;
        let identity = who.role().and_then(Role::reads_email_as).ok_or_else(|| {
            ApiError::new(Code::Forbidden, "Only admins and auditors may do that.")
        })?;
        Ok(Self { identity })
    }
}

/// A caller who may audit: read all events, and all reads by staff.
pub(crate) struct Auditor;

impl FromRequestParts<Arc<Api>> for Auditor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let auditor = |role| role == Role::Auditor;
        Requester::admitted(parts, api, auditor, "auditors").await.map(|_| Self)
    }
}

/// Counts the request and identifies the caller, if it has a token or a service key. A request
/// with an invalid one, or one without a role, is counted with those without
/// one.
async fn check_access(parts: &Parts, api: &Api, network: &str) -> Result<Bearer, ApiError> {
    let bearer = identify(parts, api).await;
    let (limit, who) = match &bearer {
        Ok(Bearer::Known(caller)) if caller.key.is_some() => {
            (Limit::Admin, Cow::Owned(caller.audit_name()))
        }
        Ok(Bearer::Known(caller)) if caller.role == Role::Customer => {
            (Limit::SignedIn, Cow::Borrowed(caller.subject.as_str()))
        }
        Ok(Bearer::Known(caller)) => (Limit::Admin, Cow::Borrowed(caller.subject.as_str())),
        _ => (Limit::Public, Cow::Borrowed(network)),
    };
    let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let verdict = api.limiter.check_as(limit, &who, cost(route)).await;
    if let Some(identity) = parts.extensions.get::<request::Identity>() {
        identity.verdicts.add(verdict);
        if let Ok(Bearer::Known(caller)) = &bearer
            && caller.role != Role::Customer
        {
            let _ = identity.staff.set(caller.clone());
        }
    }
    if !verdict.allowed {
        return Err(ApiError::rate_limited(&verdict));
    }
    if let Ok(Bearer::Known(Caller { key: Some(key), .. })) = &bearer {
        keys::admit(key, scope_of(parts))?;
    }
    bearer
}

async fn identify(parts: &Parts, api: &Api) -> Result<Bearer, ApiError> {
    let Some(token) = bearer(&parts.headers)? else { return Ok(Bearer::Nobody) };
    if keys::is_key(token) {
        return keys::identify(token, scope_of(parts), api).map(Bearer::Known);
    }
    match api.tokens.check(token).await {
        Ok(caller) => {
            api.credentials.check_signed_in(&caller)?;
            Ok(Bearer::Known(caller))
        }
        Err(TokenError::NoRole) => Ok(Bearer::WithoutRole),
        Err(error @ TokenError::NoKeys) => {
            Err(ApiError::new(Code::IdentityUnavailable, format!("Sorry, {error}.")))
        }
        Err(error) => Err(ApiError::new(Code::Unauthenticated, format!("Sorry, {error}."))),
    }
}

/// The token of a request (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = single(headers, "Authorization")? else { return Ok(None) };
    let parts = value.to_str().ok().and_then(|value| value.split_once(' '));
    let token = parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Ok(token.map(|(_, token)| token.trim()))
}
