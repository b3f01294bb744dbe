//! The address that a request comes from, through trusted proxies: `X-Forwarded-For`, and
//! `Forwarded` (RFC 7239).

use crate::http::headers::split;
use axum::{
    extract::ConnectInfo,
    http::{HeaderMap, request::Parts},
};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Address of the sender: the connection's peer, unless that is a trusted proxy, then the nearest
/// address before it that is not one.
///
/// Each proxy adds the address of its own peer at the end, so the fields are read from there, and
/// only as far as trusted proxies have written them. What is no address (`unknown`, an obfuscated
/// identifier, nonsense) ends that: the request then counts for the proxy that wrote it. If both
/// fields are there, they must name the same address. Else the request counts for the connection's
/// peer: a proxy that writes one of them leaves the other as the sender wrote it.
pub(crate) fn peer(parts: &Parts, trusted: &[IpNet]) -> IpAddr {
    let connected = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip())
        .to_canonical();
    if !is_trusted(trusted, connected) {
        return connected;
    }
    let nearest = |hops: Option<Vec<Option<IpAddr>>>| hops.map(|it| walk(connected, &it, trusted));
    match (nearest(x_forwarded_for(&parts.headers)), nearest(forwarded(&parts.headers))) {
        (None, None) => connected,
        (Some(address), None) | (None, Some(address)) => address,
        (Some(one), Some(other)) if one == other => one,
        (Some(_), Some(_)) => connected,
    }
}

/// True if one of the networks has the address.
pub(crate) fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    trusted.iter().any(|network| match (network, address) {
        // A network of IPv4 addresses may be written as one of IPv6.
        (IpNet::V6(network), IpAddr::V4(address)) => network.contains(&address.to_ipv6_mapped()),
        _ => network.contains(&address),
    })
}

/// Goes back from the connection's peer, which is trusted, over the hops: the nearest is the last.
fn walk(connected: IpAddr, hops: &[Option<IpAddr>], trusted: &[IpNet]) -> IpAddr {
    let mut nearest = connected;
    for hop in hops.iter().rev() {
        let Some(address) = hop else { break };
        nearest = *address;
        if !is_trusted(trusted, nearest) {
            break;
        }
    }
    nearest
}

/// The addresses of `X-Forwarded-For`, `None` in place of what is none. Some proxies write the port
/// as well.
fn x_forwarded_for(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    hops(headers, "x-forwarded-for", node)
}

/// The addresses of `for=` in `Forwarded`, `None` in place of what is none.
fn forwarded(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    hops(headers, "forwarded", |element| {
        let mut found = None;
        for pair in split(element, ';')? {
            let (name, value) = pair.split_once('=')?;
            // No parameter may be there twice (RFC 7239, section 4).
            if name.eq_ignore_ascii_case("for") && found.replace(unquoted(value)?).is_some() {
                return None;
            }
        }
        node(&found?)
    })
}

/// The elements of all lines of a field; `None` if there is no line.
fn hops(
    headers: &HeaderMap,
    name: &str,
    read: impl Fn(&str) -> Option<IpAddr>,
) -> Option<Vec<Option<IpAddr>>> {
    let mut hops = Vec::new();
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    for line in lines {
        match line.to_str().ok().and_then(|line| split(line, ',')) {
            Some(elements) => hops.extend(elements.into_iter().map(&read)),
            None => hops.push(None),
        }
    }
    Some(hops)
}

/// A token, or what is in a quoted string (RFC 9110, section 5.6.4).
fn unquoted(value: &str) -> Option<String> {
    let Some(quoted) = value.strip_prefix('"') else { return Some(value.to_owned()) };
    let (mut text, mut chars) = (String::new(), quoted.strip_suffix('"')?.chars());
    while let Some(char) = chars.next() {
        text.push(if char == '\\' { chars.next()? } else { char });
    }
    Some(text)
}

/// The address of a node (RFC 7239, section 6): IPv4, or IPv6 in brackets, and a port that may be
/// obfuscated. IPv6 without brackets is read as well, as `X-Forwarded-For` has it.
fn node(text: &str) -> Option<IpAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        let address: Ipv6Addr = address.parse().ok()?;
        return port_fits.then(|| address.to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = text.split_once(':')?;
    let address: Ipv4Addr = address.parse().ok()?;
    is_port(port).then_some(IpAddr::V4(address))
}

fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => {
            let fits =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !name.is_empty() && name.bytes().all(fits)
        }
        None => (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The network that is counted as one caller: an IPv4 address, or the /64 that an IPv6 user has for
/// themselves.
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
    use proptest::prelude::*;

    fn from(connected: &str, headers: &[(&str, &str)]) -> String {
        let request =
            headers.iter().fold(Request::builder(), |it, (name, value)| it.header(*name, *value));
        let mut parts = request.body(()).unwrap().into_parts().0;
        let address = SocketAddr::new(connected.parse().unwrap(), 1);
        parts.extensions.insert(ConnectInfo(address));
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "::ffff:172.16.0.0/108", "fd00::/8"]
            .map(|it| it.parse().unwrap())
            .into();
        network_of(peer(&parts, &trusted))
    }

    fn with(name: &str, lines: &[&str]) -> String {
        let headers: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
        from("10.0.0.1", &headers)
    }

    #[test]
    fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
        for (name, value) in
            [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")]
        {
            let headers = [(name, value)];
            assert_eq!(from("203.0.113.9", &headers), "203.0.113.9");
            for proxy in ["10.0.0.1", "::ffff:10.0.0.1", "172.16.0.1", "fd00::1"] {
                assert_eq!(from(proxy, &headers), "198.51.100.1", "{proxy}");
            }
        }
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(from("::ffff:203.0.113.9", &[]), "203.0.113.9");
    }

    #[test]
    fn x_forwarded_for_has_addresses_with_and_without_ports() {
        for (lines, expected) in [
            (&["198.51.100.1"][..], "198.51.100.1"),
            (&["203.0.113.7:4711"], "203.0.113.7"),
            (&["[2001:db8:1:2::1]:4711"], "2001:db8:1:2::/64"),
            (&["[2001:db8:1:2::1]"], "2001:db8:1:2::/64"),
            (&["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            (&["[::ffff:203.0.113.7]:80"], "203.0.113.7"),
            (&["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            (&["6.6.6.6, 198.51.100.1:1 ,, [::ffff:10.0.0.2]:2,"], "198.51.100.1"),
            (&["6.6.6.6", "198.51.100.1", "10.0.0.2"], "198.51.100.1"),
            (&["10.0.0.9"], "10.0.0.9"),
            // What is no address ends the way back.
            (&["6.6.6.6, garbage"], "10.0.0.1"),
            (&["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["6.6.6.6, \"open"], "10.0.0.1"),
            (&["203.0.113.7:"], "10.0.0.1"),
            (&["203.0.113.7:port"], "10.0.0.1"),
            (&["203.0.113.07"], "10.0.0.1"),
            (&["[203.0.113.7]:80"], "10.0.0.1"),
            (&["[2001:db8::1"], "10.0.0.1"),
            (&["[2001:db8::1]x"], "10.0.0.1"),
            (&["fe80::1%eth0"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
        ] {
            assert_eq!(with("x-forwarded-for", lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_by_rfc_7239() {
        for (lines, expected) in [
            (&["for=203.0.113.7"][..], "203.0.113.7"),
            (&["For=\"203.0.113.7:4711\";proto=http;by=203.0.113.43"], "203.0.113.7"),
            (&["proto=https; FOR=\"[2001:db8:1:2::17]:4711\""], "2001:db8:1:2::/64"),
            (&["for=\"[2001:db8:1:2::17]\""], "2001:db8:1:2::/64"),
            (&["for=\"203.0.113.7:_https\""], "203.0.113.7"),
            (&["for=\"\\203.0.113.7\""], "203.0.113.7"),
            (
                &["for=6.6.6.6, for=198.51.100.1;by=\"a,b;for=6.6.6.6\", for=10.0.0.2"],
                "198.51.100.1",
            ),
            (&["for=6.6.6.6", "for=198.51.100.1", "for=10.0.0.2"], "198.51.100.1"),
            (&["for=\"[::ffff:203.0.113.7]\""], "203.0.113.7"),
            // Identifiers that are no addresses.
            (&["for=6.6.6.6, for=unknown"], "10.0.0.1"),
            (&["for=6.6.6.6, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
            (&["for=\"_gazonk:47011\""], "10.0.0.1"),
            (&["for=6.6.6.6, proto=http"], "10.0.0.1"),
            (&["for=6.6.6.6;for=198.51.100.1"], "10.0.0.1"),
            (&["203.0.113.7"], "10.0.0.1"),
            (&["for=\"203.0.113.7"], "10.0.0.1"),
            (&["for="], "10.0.0.1"),
        ] {
            assert_eq!(with("forwarded", lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn of_both_fields_each_must_say_the_same() {
        let both = |x: &str, standard: &str| {
            from("10.0.0.1", &[("x-forwarded-for", x), ("forwarded", standard)])
        };
        assert_eq!(both("203.0.113.7:4711", "for=\"203.0.113.7:9\""), "203.0.113.7");
        assert_eq!(both("6.6.6.6, 203.0.113.7", "for=203.0.113.7, for=10.0.0.3"), "203.0.113.7");
        // The sender wrote one of them.
        assert_eq!(both("203.0.113.7", "for=6.6.6.6"), "10.0.0.1");
        assert_eq!(both("6.6.6.6", "for=203.0.113.7"), "10.0.0.1");
        assert_eq!(both("203.0.113.7", "for=_hidden"), "10.0.0.1");
    }

    proptest! {
        #[test]
        fn any_address_with_any_port_is_that_address(address in any::<IpAddr>(), port in any::<u16>()) {
            let with_port = SocketAddr::new(address, port).to_string();
            prop_assert_eq!(node(&with_port), Some(address.to_canonical()));
            prop_assert_eq!(node(&address.to_string()), Some(address.to_canonical()));
            let quoted = format!("proto=https;for=\"{with_port}\"");
            let headers = HeaderMap::from_iter([("forwarded".parse().unwrap(), quoted.parse().unwrap())]);
            prop_assert_eq!(forwarded(&headers), Some(vec![Some(address.to_canonical())]));
        }

        #[test]
        fn no_sender_poses_as_another_behind_a_proxy(before in "[0-9a-z.:,;=\\[\\]_ -]{0,30}") {
            prop_assert_eq!(with("x-forwarded-for", &[&before, "203.0.113.7"]), "203.0.113.7");
            prop_assert_eq!(with("forwarded", &[&before, "for=203.0.113.7"]), "203.0.113.7");
        }
    }
}
