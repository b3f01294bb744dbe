//! Bodies of requests: read whole, within bounds of size and time.

use super::{MAX_BODY, problem::ApiError};
use axum::{
    body::{Body, HttpBody, to_bytes},
    http::StatusCode,
};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use std::time::Duration;

/// Time limit for receiving a body.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the whole body, if it is not too large and arrives in time. A body that is announced as too
/// large is refused before the sender is asked for it (RFC 9110, section 10.1.1).
pub(super) async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    match tokio::time::timeout(BODY_READ_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let status = match is_over_limit(&error) {
                true => StatusCode::PAYLOAD_TOO_LARGE,
                false => StatusCode::BAD_REQUEST,
            };
            Err(ApiError::of_status(status).caused_by(&error))
        }
        Err(_) => Err(ApiError::of_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

/// True if a body could not be read because it is larger than the limit.
fn is_over_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        Router,
        extract::Request,
        response::{IntoResponse, Response},
        routing::post,
    };
    use tower::ServiceExt;

    async fn status_of(body: Body) -> StatusCode {
        async fn read(request: Request) -> Response {
            match read_body(request.into_body()).await {
                Ok(_) => StatusCode::OK.into_response(),
                Err(error) => error.into_response(),
            }
        }
        let request = axum::http::Request::post("/").body(body).unwrap();
        Router::new().route("/", post(read)).oneshot(request).await.unwrap().status()
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
