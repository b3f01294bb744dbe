//! Connections. hyper refuses a head that it cannot parse by itself, with a bare status, before any
//! layer sees a request. Here such an answer gets the shape of every other error.
//!
//! hyper has no hook for it, so that it is recognised where it is written: at the beginning of a
//! message, and with no header but those of [`OF_A_REFUSAL`]. No answer of ours is like that: each
//! has a `Request-Id`.

use super::{layers::request::new_request_id, problem::ApiError};
use axum::http::StatusCode;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// The header names of an answer that hyper gives by itself; its body is empty.
const OF_A_REFUSAL: [&str; 3] = ["connection", "content-length", "date"];

/// What a connection has received since its next request is waited for. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Reads(Arc<Received>);

#[derive(Default)]
struct Received {
    any: AtomicBool,
    /// A request was waited for before.
    waited: AtomicBool,
}

impl Reads {
    /// True if anything was received.
    pub(crate) fn any(&self) -> bool {
        self.0.any.load(Ordering::Relaxed)
    }

    /// Begins to wait for a request; true for the first one of the connection.
    pub(crate) fn take_beginning(&self) -> bool {
        self.0.any.store(false, Ordering::Relaxed);
        !self.0.waited.swap(true, Ordering::Relaxed)
    }
}

/// A stream that looks at the beginning of each message that is written to it, notes what is
/// read, and fails if nobody takes what is written.
pub(crate) struct Connection<S> {
    stream: S,
    reads: Reads,
    /// The time for which nothing that is written may be taken.
    write_limit: Duration,
    /// Nothing was taken since this began.
    stalled: Option<Pin<Box<Sleep>>>,
    /// All that was written before is sent: hyper flushes at the end of each message, and does not
    /// begin another one before that.
    at_rest: bool,
    /// A problem that replaces an answer, and how much of it is sent.
    problem: Option<(Vec<u8>, usize)>,
}

impl<S: AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(stream: S, reads: Reads, write_limit: Duration) -> Self {
        Self { stream, reads, write_limit, stalled: None, at_rest: true, problem: None }
    }

    /// What became of a write: an error, if none has come on for too long.
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.write_limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        metrics::counter!("exodrive_http_stalled_total").increment(1);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sends what is left of a problem.
    fn send_problem(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((bytes, sent)) = &mut self.problem {
            if *sent == bytes.len() {
                self.problem = None;
                break;
            }
            let written = Pin::new(&mut self.stream).poll_write(cx, &bytes[*sent..]);
            match ready!(self.in_time(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.problem.iter_mut().for_each(|(_, sent)| *sent += written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Replaces an answer of hyper's own; gives its length.
    fn replace(&mut self, message: &[u8]) -> Option<usize> {
        let starts = std::mem::replace(&mut self.at_rest, false);
        let problem = starts.then(|| problem_for(message))??;
        self.problem = Some((problem, 0));
        Some(message.len())
    }
}

/// The problem to send instead of this message, if it is an answer that hyper gives by itself.
fn problem_for(message: &[u8]) -> Option<Vec<u8>> {
    let head = message.strip_prefix(b"HTTP/1.1 4")?.strip_suffix(b"\r\n\r\n")?;
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let status = format!("4{}", lines.next()?.get(..2)?);
    let status: StatusCode = status.parse().ok()?;
    let headers: Vec<_> = lines.map(|line| line.split_once(": ")).collect::<Option<_>>()?;
    let is_his = |(name, value): &(&str, &str)| {
        let known = OF_A_REFUSAL.iter().any(|known| name.eq_ignore_ascii_case(known));
        known && (!name.eq_ignore_ascii_case("content-length") || *value == "0")
    };
    if !headers.iter().all(is_his) {
        return None;
    }
    let date = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("date"));
    // An answer without a date keeps none.
    let date = date.map(|(_, date)| format!("date: {date}\r\n")).unwrap_or_default();
    let request_id = new_request_id();
    let error = ApiError::of_status(status);
    tracing::info!(request_id, status = status.as_u16(), "Malformed request rejected");
    let status = error.code.status();
    let body = serde_json::to_string(&error.into_problem(&request_id)).ok()?;
    let length = body.len();
    let kind = super::problem::PROBLEM_JSON;
    Some(
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
             request-id: {request_id}\r\nconnection: close\r\n{date}\r\n{body}"
        )
        .into_bytes(),
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.reads.0.any.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        message: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.send_problem(cx))?;
        match self.replace(message) {
            Some(length) => Poll::Ready(Ok(length)),
            None => {
                let written = Pin::new(&mut self.stream).poll_write(cx, message);
                self.in_time(cx, written)
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.send_problem(cx))?;
        let replaced = match parts {
            [message] => self.replace(message),
            _ => {
                self.at_rest = false;
                None
            }
        };
        match replaced {
            Some(length) => Poll::Ready(Ok(length)),
            None => {
                let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
                self.in_time(cx, written)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send_problem(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.at_rest = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send_problem(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const REFUSAL: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
        content-length: 0\r\ndate: Mon, 30 Nov 2026 23:00:00 GMT\r\n\r\n";

    /// What arrives of these messages; each is flushed where it says so.
    async fn sent(messages: &[(&str, bool)]) -> String {
        let (near, mut far) = tokio::io::duplex(7);
        let reader = tokio::spawn(async move {
            let mut arrived = String::new();
            far.read_to_string(&mut arrived).await.unwrap();
            arrived
        });
        let mut connection = Connection::new(near, Reads::default(), Duration::from_secs(10));
        for (message, flushed) in messages {
            connection.write_all(message.as_bytes()).await.unwrap();
            if *flushed {
                connection.flush().await.unwrap();
            }
        }
        connection.shutdown().await.unwrap();
        drop(connection);
        reader.await.unwrap()
    }

    #[tokio::test]
    async fn a_bare_refusal_becomes_a_problem() {
        let arrived =
            sent(&[("HTTP/1.1 200 OK\r\nrequest-id: a\r\n\r\nbody", true), (REFUSAL, true)]).await;
        let problem = arrived.strip_prefix("HTTP/1.1 200 OK\r\nrequest-id: a\r\n\r\nbody").unwrap();
        let (head, body) = problem.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["code"], &body["status"]), (&"headers_too_large".into(), &431.into()));
        let id = body["request_id"].as_str().unwrap();
        for line in [
            "content-type: application/problem+json".to_owned(),
            format!("content-length: {}", problem.len() - head.len() - 4),
            format!("request-id: {id}"),
            "connection: close".to_owned(),
            "date: Mon, 30 Nov 2026 23:00:00 GMT".to_owned(),
        ] {
            assert!(head.split("\r\n").any(|found| found == line), "{line} in {head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_takes_a_little_is_not() {
        const LIMIT: Duration = Duration::from_secs(30);
        let (near, mut far) = tokio::io::duplex(7);
        let mut connection = Connection::new(near, Reads::default(), LIMIT);
        let began = tokio::time::Instant::now();
        let slow = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
                far.read_exact(&mut [0; 3]).await.unwrap();
            }
            far
        });
        let error = connection.write_all(&[b'a'; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let took = began.elapsed();
        assert!(took > LIMIT * 5 && took < LIMIT * 6, "{took:?}");
        drop(slow.await);
    }

    #[tokio::test]
    async fn no_answer_of_ours_is_taken_for_one() {
        for messages in [
            // In the middle of a body.
            &[("HTTP/1.1 200 OK\r\nrequest-id: a\r\n\r\n", false), (REFUSAL, true)][..],
            &[("HTTP/1.1 404 Not Found\r\nrequest-id: a\r\ncontent-length: 0\r\n\r\n", true)],
            &[("HTTP/1.1 304 Not Modified\r\n\r\n", true)],
            &[("HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nabc", true)],
            &[("HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\n", true)],
            &[("HTTP/1.1 100 Continue\r\n\r\n", true)],
            &[("4", true), ("", true)],
        ] {
            let written: String = messages.iter().map(|(message, _)| *message).collect();
            assert_eq!(sent(messages).await, written);
        }
    }
}
