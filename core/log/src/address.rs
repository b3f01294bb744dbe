//! The address of the log's servers, with all that a connection to them needs: who connects, whose
//! certificates are believed, and where answers are received.
//!
//! `tls://host:4222,tls://other:4222?sslrootcert=FILE&creds=FILE`: several servers with commas
//! between them, and parameters, which apply to all of them.

use async_nats::{Auth, AuthError, ConnectOptions, ServerAddr};
use nkeys::KeyPair;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The file of the authorities whose certificates are believed, in PEM.
pub const ROOTS: &str = "sslrootcert";
/// The file of the certificate that the client shows, in PEM.
pub const CERTIFICATE: &str = "sslcert";
/// The file of that certificate's key, in PEM.
pub const CERTIFICATE_KEY: &str = "sslkey";
/// The file with a user's JWT and the seed of its nkey, as `nsc` writes it.
pub const CREDENTIALS: &str = "creds";
/// The file with the seed of a user's nkey.
pub const NKEY: &str = "nkey";
/// What follows `_INBOX.` in the subjects on which this user receives answers.
pub const INBOX: &str = "inbox";

const PARAMETERS: [&str; 6] = [ROOTS, CERTIFICATE, CERTIFICATE_KEY, CREDENTIALS, NKEY, INBOX];
/// What a parameter's value shows as it is: a path without spaces and commas.
const SHOWN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');
/// What the subjects for answers begin with if no user has others.
const ORDINARY_INBOX: &str = "_INBOX";
/// Permission bits of a file that others than its owner and its group may use.
const OTHERS: u32 = 0o007;

/// The reason why an address cannot be used. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It cannot be parsed.
    #[error("it is no address of a NATS server")]
    Invalid(#[source] io::Error),
    /// It has another scheme.
    #[error("'{0}' is no scheme of a NATS address: nats or tls")]
    Scheme(String),
    /// It has a parameter that does not exist.
    #[error("'{0}' is no parameter of a NATS address: {known}", known = PARAMETERS.join(", "))]
    UnknownParameter(String),
    /// It has a parameter twice, with different values.
    #[error("its servers have different values of '{0}'")]
    Different(&'static str),
    /// A certificate without its key, or a key without its certificate.
    #[error("a client's certificate and its key belong together: one of them is missing")]
    HalfCertificate,
    /// More than one of password, credentials file and nkey.
    #[error("it says more than once who connects: by a password, a credentials file or an nkey")]
    SeveralUsers,
    /// The part of the subjects for answers is not one token.
    #[error("'{0}' is no token of a subject: letters, digits, '-' and '_'")]
    Inbox(String),
    /// A file that it names cannot be read.
    #[error("cannot read {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// A file of a secret can be read by anybody on this machine.
    #[error("{file} can be read by others: take that from them (chmod o= {file})", file = .0.display())]
    Readable(PathBuf),
    /// A file is not what it should be.
    #[error("{} holds no {}", .0.display(), .1)]
    Content(PathBuf, &'static str),
}

/// Who connects.
#[derive(Clone)]
enum Identity {
    /// Nobody, or whoever the certificate names.
    Unnamed,
    Password(String, Zeroizing<String>),
    Credentials(PathBuf),
    Nkey(PathBuf),
}

/// The parsed address of the log's servers.
#[derive(Clone)]
pub struct NatsAddress {
    servers: Vec<ServerAddr>,
    tls: bool,
    roots: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    identity: Identity,
    user: Option<String>,
    inbox: String,
}

/// Host and port of each server, fit for a log line.
impl fmt::Display for NatsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, server) in self.servers.iter().enumerate() {
            let before = if n == 0 { "" } else { ", " };
            let host = server.host();
            let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
            write!(f, "{before}{open}{host}{close}:{}", server.port())?;
        }
        Ok(())
    }
}

impl fmt::Debug for NatsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `address` with a parameter that names a file or a token, unless it has that parameter.
#[must_use]
pub fn with_parameter(address: &str, name: &str, value: &str) -> String {
    if has_parameter(address, name) {
        return address.to_owned();
    }
    let last = address.rsplit(',').next().unwrap_or_default();
    let separator = if last.contains('?') { '&' } else { '?' };
    format!("{address}{separator}{name}={}", utf8_percent_encode(value, SHOWN))
}

/// True if an address has a parameter.
pub fn has_parameter(address: &str, name: &str) -> bool {
    address.split(',').filter_map(|server| server.split_once('?')).any(|(_, parameters)| {
        parameters.split('&').any(|it| it.split_once('=').is_some_and(|(found, _)| found == name))
    })
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// An address that was written wrong may have a password where a parameter should be.
fn unknown(pair: &str) -> AddressError {
    let name = pair.split('=').next().unwrap_or_default();
    AddressError::UnknownParameter(if is_token(name) { name } else { "…" }.to_owned())
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'_')
}

impl NatsAddress {
    /// Parses an address. No file is looked at.
    ///
    /// # Errors
    /// [`AddressError`]
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (mut servers, mut password) = (Vec::new(), None);
        let mut found: BTreeMap<&'static str, String> = BTreeMap::new();
        for address in text.split(',').map(str::trim) {
            let server: ServerAddr = address.parse().map_err(AddressError::Invalid)?;
            if !matches!(server.scheme(), "nats" | "tls") {
                return Err(AddressError::Scheme(server.scheme().to_owned()));
            }
            if let (None, Some(user)) = (&password, server.username()) {
                let secret = Zeroizing::new(decoded(server.password().unwrap_or_default()));
                password = Some((decoded(user), secret));
            }
            let mut url = server.into_inner();
            for pair in url.query().unwrap_or_default().split('&').filter(|it| !it.is_empty()) {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                let name = PARAMETERS.into_iter().find(|known| *known == name);
                let name = name.ok_or_else(|| unknown(pair))?;
                let value = decoded(value);
                if *found.entry(name).or_insert_with(|| value.clone()) != value {
                    return Err(AddressError::Different(name));
                }
            }
            // The client ignores the password of an address, and writes addresses into its log
            // lines. These calls fail for addresses without a host only.
            let bare = url.set_password(None).and_then(|()| url.set_username(""));
            bare.map_err(|()| AddressError::Invalid(io::ErrorKind::InvalidInput.into()))?;
            url.set_query(None);
            servers.push(ServerAddr::from_url(url).map_err(AddressError::Invalid)?);
        }
        let mut file = |name: &str| found.remove(name).map(PathBuf::from);
        let roots = file(ROOTS);
        let certificate = match (file(CERTIFICATE), file(CERTIFICATE_KEY)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(AddressError::HalfCertificate),
        };
        let user = password.as_ref().map(|(user, _)| user.clone());
        let identity = match (password, file(CREDENTIALS), file(NKEY)) {
            (None, None, None) => Identity::Unnamed,
            (Some((user, password)), None, None) => Identity::Password(user, password),
            (None, Some(file), None) => Identity::Credentials(file),
            (None, None, Some(file)) => Identity::Nkey(file),
            _ => return Err(AddressError::SeveralUsers),
        };
        let inbox = match found.remove(INBOX) {
            Some(name) if !is_token(&name) => return Err(AddressError::Inbox(name)),
            Some(name) => Some(name),
            None => user.clone().filter(|name| is_token(name)),
        };
        let inbox =
            inbox.map_or(ORDINARY_INBOX.to_owned(), |name| format!("{ORDINARY_INBOX}.{name}"));
        let tls = roots.is_some()
            || certificate.is_some()
            || servers.iter().any(|server| server.scheme() == "tls");
        Ok(Self { servers, tls, roots, certificate, identity, user, inbox })
    }

    /// True if nobody between here and the servers can read along or stand in for them: they are on
    /// this machine, or their certificates are verified.
    pub fn is_reached_safely(&self) -> bool {
        self.tls || self.servers.iter().all(|it| crate::redis::is_this_machine(it.host()))
    }

    /// The servers, without passwords and parameters.
    pub fn servers(&self) -> &[ServerAddr] {
        &self.servers
    }

    /// The name of the user, if the address has it.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// True if it says who connects, other than by a certificate.
    pub fn names_user(&self) -> bool {
        !matches!(self.identity, Identity::Unnamed)
    }

    /// True if it names a certificate that the client shows.
    pub fn shows_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// What the subjects begin with on which this user receives answers.
    pub fn inbox(&self) -> &str {
        &self.inbox
    }

    /// The file of the authorities whose certificates are believed; without it those that the
    /// machine believes.
    pub fn roots(&self) -> Option<&Path> {
        self.roots.as_deref()
    }

    /// Options of a connection. A credentials file and a seed are read again for each connection:
    /// they may be replaced while a process runs.
    ///
    /// # Errors
    /// When a file cannot be read, is not what it should be, or (with a secret) can be read by
    /// others.
    pub fn options(&self) -> Result<ConnectOptions, AddressError> {
        let options = match self.identity.clone() {
            Identity::Unnamed => ConnectOptions::new(),
            Identity::Password(user, password) => {
                ConnectOptions::with_user_and_password(user, password.to_string())
            }
            Identity::Credentials(file) => signing(move |nonce| as_user(&file, nonce))?,
            Identity::Nkey(file) => signing(move |nonce| as_nkey(&file, nonce))?,
        };
        let mut options = options.custom_inbox_prefix(&self.inbox).require_tls(self.tls);
        if let Some(roots) = &self.roots {
            if !read(roots)?.contains("-----BEGIN CERTIFICATE-----") {
                return Err(AddressError::Content(roots.clone(), "certificate in PEM"));
            }
            options = options.add_root_certificates(roots.clone());
        }
        if let Some((certificate, key)) = &self.certificate {
            read(certificate)?;
            read_secret(key)?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }
}

/// Has the server's question answered by `answer` for each connection; asks it once now, so that a
/// wrong file is found at the start.
fn signing(
    answer: impl Fn(&[u8]) -> Result<Auth, AddressError> + Clone + Send + Sync + 'static,
) -> Result<ConnectOptions, AddressError> {
    answer(&[])?;
    let callback = move |nonce: Vec<u8>| {
        let answer = answer.clone();
        async move { answer(&nonce).map_err(AuthError::new) }
    };
    Ok(ConnectOptions::with_auth_callback(callback))
}

/// The answer of the user of a credentials file: its JWT, and the server's nonce signed.
fn as_user(file: &Path, nonce: &[u8]) -> Result<Auth, AddressError> {
    let text = read_secret(file)?;
    // Each part is the line, or lines, between a line of dashes that begins it and one that ends it.
    let mut parts = Vec::new();
    let mut part: Option<String> = None;
    for line in text.lines().map(str::trim) {
        match &mut part {
            None if line.starts_with("-----BEGIN ") => part = Some(String::new()),
            Some(_) if line.starts_with("---") => parts.extend(part.take()),
            Some(part) => part.push_str(line),
            None => {}
        }
    }
    let parts: Vec<_> = parts.into_iter().map(Zeroizing::new).collect();
    let content = || AddressError::Content(file.to_owned(), "JWT and seed of a NATS user");
    let [jwt, seed] = parts.as_slice() else { return Err(content()) };
    let keys = KeyPair::from_seed(seed).map_err(|_| content())?;
    let mut auth = Auth::new();
    auth.jwt = Some(jwt.to_string());
    auth.signature = Some(keys.sign(nonce).map_err(|_| content())?);
    Ok(auth)
}

/// The answer of the user of an nkey: its public key, and the server's nonce signed.
fn as_nkey(file: &Path, nonce: &[u8]) -> Result<Auth, AddressError> {
    let text = read_secret(file)?;
    let content = || AddressError::Content(file.to_owned(), "seed of an nkey");
    let keys = KeyPair::from_seed(text.trim()).map_err(|_| content())?;
    let mut auth = Auth::new();
    auth.nkey = Some(keys.public_key());
    auth.signature = Some(keys.sign(nonce).map_err(|_| content())?);
    Ok(auth)
}

fn read(file: &Path) -> Result<Zeroizing<String>, AddressError> {
    let text = fs::read_to_string(file);
    text.map(Zeroizing::new).map_err(|error| AddressError::File(file.to_owned(), error))
}

/// The content of a file that others may not read.
fn read_secret(file: &Path) -> Result<Zeroizing<String>, AddressError> {
    let about = fs::metadata(file).map_err(|error| AddressError::File(file.to_owned(), error))?;
    if about.permissions().mode() & OTHERS != 0 {
        return Err(AddressError::Readable(file.to_owned()));
    }
    read(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> NatsAddress {
        NatsAddress::parse(text).unwrap()
    }

    #[test]
    fn an_address_shows_no_password() {
        for (text, shown) in [
            ("nats://me:secret@127.0.0.1:4222", "127.0.0.1:4222"),
            ("nats://me:secret@a:1,nats://me:secret@b:2", "a:1, b:2"),
            ("tls://me:s@cret@nats.example", "nats.example:4222"),
            ("me:secret@[::1]:4222?inbox=me", "[::1]:4222"),
        ] {
            let address = parsed(text);
            assert_eq!(address.to_string(), shown);
            let servers = format!("{address:?} {:?}", address.servers());
            assert!(!servers.contains("cret"), "{servers}");
        }
        for wrong in ["nats://me:secret@a:port", "http://me:secret@a", "nats://me:1?secret@a"] {
            let error = NatsAddress::parse(wrong).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn the_password_of_an_address_may_have_any_character() {
        for (text, expected) in [("p%40ss%2Cword", "p@ss,word"), ("p@ss", "p@ss"), ("pass", "pass")]
        {
            let Identity::Password(user, password) =
                parsed(&format!("nats://me:{text}@a")).identity
            else {
                panic!("no password")
            };
            assert_eq!((&*user, &**password), ("me", expected));
        }
    }

    #[test]
    fn servers_elsewhere_are_safe_by_tls_only() {
        for safe in [
            "nats://127.0.0.1:4222",
            "nats://localhost,nats://[::1]:4222",
            "tls://nats.example",
            "nats://nats.example?sslrootcert=/ca.pem",
            "tls://one.example,tls://two.example",
        ] {
            assert!(parsed(safe).is_reached_safely(), "{safe}");
        }
        for unsafe_ in ["nats://nats.example", "10.0.0.1:4222", "nats://localhost,nats://b.example"]
        {
            assert!(!parsed(unsafe_).is_reached_safely(), "{unsafe_}");
        }
    }

    #[test]
    fn parameters_are_of_all_servers_and_are_added_once() {
        let one = with_parameter("tls://a,tls://b", CREDENTIALS, "/a folder/x,y.creds");
        assert_eq!(one, "tls://a,tls://b?creds=/a%20folder/x%2Cy.creds");
        assert_eq!(with_parameter(&one, CREDENTIALS, "/other"), one);
        let two = with_parameter(&one, INBOX, "exodrive-api");
        let Identity::Credentials(file) = parsed(&two).identity else { panic!("no file") };
        assert_eq!(file, Path::new("/a folder/x,y.creds"));
        assert_eq!(parsed(&two).inbox(), "_INBOX.exodrive-api");
        for wrong in [
            "tls://me:secret@a?creds=/x",
            "tls://a?creds=/x&nkey=/y",
            "tls://a?sslcert=/x",
            "tls://a?creds=/x,tls://b?creds=/y",
            "tls://a?cred=/x",
            "tls://a?inbox=a.b",
        ] {
            NatsAddress::parse(wrong).unwrap_err();
        }
    }

    #[test]
    fn answers_to_each_user_come_on_subjects_of_its_own() {
        assert_eq!(parsed("nats://exodrive-api:x@a").inbox(), "_INBOX.exodrive-api");
        assert_eq!(
            parsed("nats://exodrive-api-3:x@a?inbox=exodrive-api").inbox(),
            "_INBOX.exodrive-api"
        );
        for none in ["nats://a", "nats://a.b:x@a", "nats://%3E:x@a"] {
            assert_eq!(parsed(none).inbox(), "_INBOX");
        }
    }
}
