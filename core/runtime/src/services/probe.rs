//! Does a server answer?

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) enum Probe {
    Nats { host: Ipv4Addr, port: u16, monitor: u16 },
    Postgres { port: u16, pid_file: PathBuf },
    Redis { port: u16, password: String },
}

impl Probe {
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Nats { port, .. } | Self::Postgres { port, .. } | Self::Redis { port, .. } => {
                *port
            }
        }
    }

    /// What a nats-server says of a write to its disk that has failed; `None` if none has. The stream
    /// takes nothing afterwards, until the server is restarted.
    pub(super) async fn failed_write(&self) -> Option<String> {
        let Self::Nats { host, monitor, .. } = self else { return None };
        let question = ask((*host, *monitor), "GET /healthz HTTP/1.0\r\n\r\n", "}");
        let answer = tokio::time::timeout(Duration::from_secs(1), question).await.ok()?.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let health: serde_json::Value = serde_json::from_str(body).ok()?;
        let error = health["error"].as_str()?;
        error.contains("write error").then(|| error.to_owned())
    }

    /// True if the server, which runs as `pid`, is ready for work.
    pub(super) async fn answers(&self, pid: u32) -> bool {
        let attempt = async {
            match self {
                // Healthy includes JetStream, which is ready later than the port.
                Self::Nats { host, port, monitor } => {
                    TcpStream::connect((*host, *port)).await?;
                    let answer =
                        ask((*host, *monitor), "GET /healthz HTTP/1.0\r\n\r\n", "\r\n").await?;
                    Ok::<_, io::Error>(answer.contains(" 200 "))
                }
                Self::Postgres { port, pid_file } => {
                    // A killed server leaves its file behind, so the pid must match.
                    let file = fs::read_to_string(pid_file)?;
                    let mut lines = file.lines();
                    let same = lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid);
                    let ready = lines.nth(6).is_some_and(|line| line.trim() == "ready");
                    if !same || !ready {
                        return Ok(false);
                    }
                    // A request for TLS is answered by one letter, and only by a server that is not stopped.
                    let mut stream = TcpStream::connect(("127.0.0.1", *port)).await?;
                    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
                    let answer = stream.read_u8().await?;
                    Ok(answer == b'N' || answer == b'S')
                }
                Self::Redis { port, password } => {
                    let answer = ask(
                        (Ipv4Addr::LOCALHOST, *port),
                        &format!("AUTH {password}\r\nPING\r\n"),
                        "PONG",
                    )
                    .await?;
                    Ok(answer.contains("+PONG"))
                }
            }
        };
        matches!(tokio::time::timeout(Duration::from_secs(1), attempt).await, Ok(Ok(true)))
    }
}

async fn ask(place: (Ipv4Addr, u16), question: &str, until: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(place).await?;
    stream.write_all(question.as_bytes()).await?;
    let mut answer = String::new();
    let mut chunk = [0; 256];
    while !answer.contains(until) && answer.len() < 4096 {
        match stream.read(&mut chunk).await? {
            0 => break,
            length => answer.push_str(&String::from_utf8_lossy(&chunk[..length])),
        }
    }
    Ok(answer)
}
