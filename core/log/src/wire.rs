//! The envelope as message headers: CloudEvents 1.0, binary mode
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/nats-protocol-binding.md>).

use crate::event::StoredMessage;
use async_nats::HeaderMap;
use bytes::Bytes;
use exodrive_domain::{Envelope, Recorded, time};

const SPEC_VERSION: &str = "ce-specversion";
const ID: &str = "ce-id";
const TYPE: &str = "ce-type";
const SOURCE: &str = "ce-source";
const TIME: &str = "ce-time";
const SCHEMA: &str = "ce-dataschema";
const CAUSATION: &str = "ce-causationid";
const CORRELATION: &str = "ce-correlationid";
const ACTOR: &str = "ce-actor";
const TRACEPARENT: &str = "traceparent";

/// Headers of a delivery that are stored as received, beside the envelope.
const PROVIDER_PREFIXES: [&str; 3] = ["svix-", "webhook-", "content-type"];

pub(crate) fn headers(envelope: &Envelope, provider_headers: &[(String, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(SPEC_VERSION, "1.0");
    headers.insert(ID, envelope.id.as_str());
    headers.insert(TYPE, envelope.kind.as_str());
    headers.insert(SOURCE, envelope.source.as_str());
    headers.insert(TIME, time::format(&envelope.time).as_str());
    headers.insert(SCHEMA, format!("urn:exodrive:{}:{}", envelope.kind, envelope.version).as_str());
    let optional = [
        (CAUSATION, &envelope.causation),
        (CORRELATION, &envelope.correlation),
        (ACTOR, &envelope.actor),
        (TRACEPARENT, &envelope.traceparent),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            headers.insert(name, value.as_str());
        }
    }
    for (name, value) in provider_headers {
        headers.append(name.as_str(), value.as_str());
    }
    headers
}

/// A message with its headers sorted by name.
pub(crate) fn stored(
    position: u64,
    subject: &str,
    stored_at_nanos: i64,
    headers: &HeaderMap,
    body: Bytes,
) -> StoredMessage {
    let mut headers: Vec<_> = headers
        .iter()
        .flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name.to_owned(), value.as_str().to_owned()))
        })
        .collect();
    // Stable: the values of one name keep their order.
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    StoredMessage { position, stored_at_nanos, subject: subject.to_owned(), headers, body }
}

/// The event in a message. A message that we did not write (it has no envelope)
/// is an event of the empty type: it is part of the log, and changes nothing.
pub(crate) fn recorded(message: StoredMessage) -> Recorded {
    let stored_at = message.stored_at();
    let StoredMessage { position, subject, headers, body, .. } = message;
    let text = |name| headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone());
    let version =
        text(SCHEMA).and_then(|schema| schema.rsplit(':').next()?.parse().ok()).unwrap_or(0);
    // A message that we did not write has none of them.
    let own = |name| text(name).unwrap_or_default();
    let envelope = Envelope {
        id: own(ID),
        kind: own(TYPE),
        version,
        source: own(SOURCE),
        time: text(TIME).and_then(|it| time::parse(&it)).unwrap_or(stored_at),
        traceparent: text(TRACEPARENT),
        causation: text(CAUSATION),
        correlation: text(CORRELATION),
        actor: text(ACTOR),
    };
    let mut provider_headers: Vec<_> = headers
        .into_iter()
        .filter(|(name, _)| PROVIDER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    provider_headers.sort_unstable();
    Recorded { position, subject, stored_at, envelope, provider_headers, body, protection: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let at = time::parse("2026-11-20T09:15:05.118Z").unwrap();
        let envelope = Envelope {
            id: "msg_1".into(),
            kind: "exodrive.webhook.received".into(),
            version: 7,
            source: "resend".into(),
            time: at,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            causation: Some("cause".into()),
            correlation: None,
            actor: Some("provider:resend".into()),
        };
        let provider_headers = vec![
            ("svix-id".to_owned(), "msg_1".to_owned()),
            ("svix-signature".to_owned(), "v1,abc v1,def".to_owned()),
        ];
        let headers = headers(&envelope, &provider_headers);
        let body = Bytes::from_static(b"{ \"odd\":  1 }\r\n");
        let nanos = crate::clock::unix(at);
        let event = recorded(stored(9, "exo.provider.resend", nanos, &headers, body.clone()));
        assert_eq!(event.envelope, envelope);
        assert_eq!(event.provider_headers, provider_headers);
        assert_eq!((event.position, event.body), (9, body));
    }
}
