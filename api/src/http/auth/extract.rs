//! Extractors that a handler names in its signature: they check the caller's
//! role and rate.

use super::tokens::Caller;
pub(crate) use super::tokens::Role;
use crate::http::{Api, layers::request};
use crate::http::{
    problem::{ApiError, Code},
    state::limits::Limit,
};
use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
};
use exodrive_commands::{context::Actor, digest::sha256_hex};
use exodrive_projections::Identity;
use ipnet::IpNet;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// Any caller, with or without a token.
pub(crate) struct Anyone;

/// A caller who may read email.
pub(crate) struct EmailReader {
    /// The identity with which the views are read.
    pub(crate) identity: Identity,
}

/// The caller: identified by a token, by the link of a booking, or not at all.
#[derive(Clone, Debug)]
pub(crate) struct Requester {
    caller: Option<Caller>,
    /// SHA-256 of the link's token.
    link: Option<String>,
}

impl Requester {
    /// Counts the request and identifies the caller. `books`: the request makes
    /// a booking, which has its own limit.
    pub(crate) async fn check_access(
        parts: &mut Parts,
        api: &Arc<Api>,
        books: bool,
    ) -> Result<Self, ApiError> {
        let link = link_token(parts).map(|token| sha256_hex(token.as_bytes()));
        let caller = check_access(parts, api, books).await?;
        Ok(Self { caller, link })
    }

    /// The role, by a token.
    pub(crate) fn role(&self) -> Option<Role> {
        self.caller.as_ref().map(|caller| caller.role)
    }

    /// Id of the user, if they may operate the system.
    pub(crate) fn operator(&self) -> Result<&str, ApiError> {
        match &self.caller {
            Some(caller) if caller.role == Role::Operator => Ok(&caller.subject),
            Some(caller) => {
                let detail = format!("The role {} may not do that.", caller.role.name());
                Err(ApiError::new(Code::Forbidden, detail))
            }
            None => Err(ApiError::new(Code::Unauthenticated, "Only operators may do that.")),
        }
    }

    /// The actor of the caller's commands.
    pub(crate) fn actor(&self) -> Actor {
        match (&self.caller, &self.link) {
            (Some(caller), _) if caller.role == Role::Admin => Actor::Staff(caller.subject.clone()),
            (_, Some(hash)) => Actor::Guest(hash.clone()),
            (Some(caller), None) => Actor::Customer(caller.subject.clone()),
            (None, None) => Actor::Visitor,
        }
    }

    /// The identity with which bookings are read.
    pub(crate) fn reads_bookings_as(&self) -> Identity {
        let staff = self.role().and_then(Role::reads_email_as);
        match (staff, &self.caller, &self.link) {
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
        Self::check_access(parts, api, false).await
    }
}

/// A caller who may operate the system.
pub(crate) struct Operates;

impl FromRequestParts<Arc<Api>> for Operates {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        Requester::check_access(parts, api, false).await?.operator().map(|_| Self)
    }
}

/// The token of a booking's link: in a header, or as `token` in the query.
fn link_token(parts: &Parts) -> Option<String> {
    let header = parts.headers.get("exodrive-booking-token").and_then(|it| it.to_str().ok());
    let query = || {
        let pairs = parts.uri.query()?.split('&');
        pairs.filter_map(|pair| pair.strip_prefix("token=")).next()
    };
    header.or_else(query).filter(|token| !token.is_empty()).map(str::to_owned)
}

impl FromRequestParts<Arc<Api>> for Anyone {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        check_access(parts, api, false).await.map(|_| Self)
    }
}

impl FromRequestParts<Arc<Api>> for EmailReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let caller = check_access(parts, api, false).await?.ok_or_else(|| {
            ApiError::new(Code::Unauthenticated, "Email is shown to admins and auditors only.")
        })?;
        let identity = caller.role.reads_email_as().ok_or_else(|| {
            let role = caller.role.name();
            ApiError::new(Code::Forbidden, format!("The role {role} may not read email."))
        })?;
        Ok(Self { identity })
    }
}

/// A caller who may audit: read all events, and all reads by staff.
pub(crate) struct Auditor;

impl FromRequestParts<Arc<Api>> for Auditor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        match check_access(parts, api, false).await?.map(|caller| caller.role) {
            Some(Role::Auditor) => Ok(Self),
            Some(role) => {
                let detail = format!("The role {} may not do that, auditors may.", role.name());
                Err(ApiError::new(Code::Forbidden, detail))
            }
            None => Err(ApiError::new(Code::Unauthenticated, "Only auditors may do that.")),
        }
    }
}

/// Counts the request and identifies the caller, if it has a token. A request
/// with an invalid token is counted with those without one.
async fn check_access(parts: &Parts, api: &Api, books: bool) -> Result<Option<Caller>, ApiError> {
    let caller = match bearer(&parts.headers) {
        Some(token) => api.tokens.check(token).await.map(Some),
        None => Ok(None),
    };
    let (limit, who) = match &caller {
        Ok(Some(caller)) if caller.role == Role::Customer => {
            let limit = if books { Limit::Booking } else { Limit::SignedIn };
            (limit, caller.subject.clone())
        }
        Ok(Some(caller)) => (Limit::Admin, caller.subject.clone()),
        _ => {
            let limit = if books { Limit::Booking } else { Limit::Public };
            (limit, network_of(peer(parts, &api.trusted_proxies)))
        }
    };
    let verdict = api.limiter.check(limit, &who).await;
    if let Some(identity) = parts.extensions.get::<request::Identity>() {
        let _ = identity.verdict.set(verdict);
        if let Ok(Some(caller)) = &caller
            && caller.role != Role::Customer
        {
            let _ = identity.staff.set(caller.clone());
        }
    }
    if !verdict.allowed {
        return Err(ApiError::rate_limited(&verdict));
    }
    caller.map_err(|error| ApiError::new(Code::Unauthenticated, format!("Sorry, {error}.")))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Address of the sender: the connection's peer, unless that is a trusted
/// proxy, then the nearest address before it that is not one.
pub(crate) fn peer(parts: &Parts, trusted: &[IpNet]) -> IpAddr {
    let connected = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
    let is_trusted =
        |address: &IpAddr| trusted.iter().any(|network| network.contains(&address.to_canonical()));
    if !is_trusted(&connected) {
        return connected.to_canonical();
    }
    let forwarded: Vec<_> = parts
        .headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|address| address.trim().parse::<IpAddr>())
        .collect();
    let mut nearest = connected;
    for address in forwarded.into_iter().rev() {
        // A trusted proxy did not write an address that cannot be read.
        let Ok(address) = address else { break };
        nearest = address;
        if !is_trusted(&address) {
            break;
        }
    }
    nearest.to_canonical()
}

/// The network that is counted as one caller: an IPv4 address, or the /64 that
/// an IPv6 user has for themselves.
pub(crate) fn network_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn from(connected: &str, forwarded: &[&str]) -> String {
        let mut request = Request::builder();
        for value in forwarded {
            request = request.header("x-forwarded-for", *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let address = SocketAddr::new(connected.parse().unwrap(), 1);
        parts.extensions.insert(ConnectInfo(address));
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        network_of(peer(&parts, &trusted))
    }

    #[test]
    fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
        assert_eq!(from("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(from("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(from("10.0.0.1", &["6.6.6.6, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(from("10.0.0.1", &["6.6.6.6", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(from("10.0.0.1", &["6.6.6.6, garbage"]), "10.0.0.1");
        assert_eq!(from("::ffff:10.0.0.1", &["2001:db8:1:2:3:4:5:6"]), "2001:db8:1:2::/64");
    }
}
