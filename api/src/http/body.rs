//! Bodies of requests: read whole, within bounds of size and time.

use super::{MAX_BODY, layers::load::overloaded, problem::ApiError};
use axum::{
    body::{Body, HttpBody},
    http::StatusCode,
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Time limit for receiving a body.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that the bodies of one kind of request may have together, while they are read and used.
pub const BODY_BYTES: usize = 64 << 20;

/// A body, and the room that it takes.
pub(super) struct Buffered<'a> {
    pub(super) bytes: Bytes,
    _room: SemaphorePermit<'a>,
}

/// Reads the whole body, if it is not too large, arrives in time, and there is `room` for its bytes.
/// A body that is announced as too large is refused before the sender is asked for it (RFC 9110,
/// section 10.1.1).
pub(super) async fn read_body(body: Body, room: &Semaphore) -> Result<Buffered<'_>, ApiError> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let read = tokio::time::timeout(BODY_READ_TIMEOUT, collect(body, room)).await;
    read.unwrap_or_else(|_| Err(ApiError::of_status(StatusCode::REQUEST_TIMEOUT)))
}

/// Only what has arrived takes room: nobody keeps any by an announcement.
async fn collect(body: Body, room: &Semaphore) -> Result<Buffered<'_>, ApiError> {
    let full = |_| overloaded("Too many bodies are being received.");
    let mut taken = room.try_acquire_many(0).map_err(full)?;
    let (mut body, mut bytes) = (Limited::new(body, MAX_BODY), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unreadable(&*error))?;
        let Some(data) = frame.data_ref() else { continue };
        let size = u32::try_from(data.len())
            .map_err(|_| ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE))?;
        taken.merge(room.try_acquire_many(size).map_err(full)?);
        // A copy: a part of the connection's buffer would keep all of it.
        bytes.extend_from_slice(data);
    }
    Ok(Buffered { bytes: bytes.freeze(), _room: taken })
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> ApiError {
    let status = match error.is::<LengthLimitError>() {
        true => StatusCode::PAYLOAD_TOO_LARGE,
        false => StatusCode::BAD_REQUEST,
    };
    ApiError::of_status(status).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Code;

    async fn status_of(body: Body) -> StatusCode {
        let room = Semaphore::new(BODY_BYTES);
        read_body(body, &room).await.map_or_else(|error| error.code.status(), |_| StatusCode::OK)
    }

    #[tokio::test]
    async fn bodies_have_room_together_and_leave_it() {
        let room = Semaphore::new(1_000);
        let body = || Body::from(vec![b'a'; 600]);
        let first = read_body(body(), &room).await.ok().unwrap();
        let refused = read_body(body(), &room).await.err().unwrap();
        assert_eq!((refused.code, refused.retry_after), (Code::Overloaded, Some(1)));
        drop(first);
        assert!(read_body(body(), &room).await.is_ok());
        assert_eq!(room.available_permits(), 1_000);
    }

    /// A body whose sender does not say how long it is.
    fn streamed(parts: Vec<Result<Bytes, std::io::Error>>) -> Body {
        Body::from_stream(futures::stream::iter(parts))
    }

    #[tokio::test]
    async fn a_body_one_byte_over_the_limit_is_too_large() {
        let (fits, over) = (vec![b'a'; MAX_BODY], vec![b'a'; MAX_BODY + 1]);
        assert_eq!(status_of(Body::from(fits.clone())).await, StatusCode::OK);
        assert_eq!(status_of(Body::from(over)).await, StatusCode::PAYLOAD_TOO_LARGE);
        let parts = vec![Ok(Bytes::from(fits)), Ok(Bytes::from_static(b"a"))];
        assert_eq!(status_of(streamed(parts)).await, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_not_too_large_whatever_it_says() {
        let broken = std::io::Error::other("length limit exceeded");
        assert_eq!(status_of(streamed(vec![Err(broken)])).await, StatusCode::BAD_REQUEST);
    }
}
