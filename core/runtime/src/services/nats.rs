//! The private nats-server.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::folder::{self, NatsServer, SavedSettings};
use super::supervisor::ProcessSpec;
use super::{Options, ServiceError, SyncMode, process};

/// Older servers order the checks of a repeated append differently, or store a batch without its guards.
const OLDEST: (u32, u32, u32) = (2, 12, 3);

/// The permissions of the server's users: the same as on a production server.
const PERMISSIONS: &str = include_str!("../../../../docs/nats-permissions.conf");
const PERMISSIONS_FILE: &str = "nats-permissions.conf";

/// Path of a nats-server that is new enough.
///
/// # Errors
/// [`ServiceError::Missing`] when there is none.
pub fn binary() -> Result<PathBuf, ServiceError> {
    let candidates = match std::env::var_os("EXODRIVE_NATS_SERVER") {
        Some(named) if !named.is_empty() => vec![PathBuf::from(named)],
        _ => candidates(),
    };
    let mut found = Vec::new();
    for candidate in candidates.iter().filter(|path| path.is_file()) {
        let answer = Command::new(candidate).arg("--version").output();
        let text = answer.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
        match text.as_deref().ok().and_then(version) {
            Some(version) if version >= OLDEST => return Ok(candidate.clone()),
            Some((major, minor, patch)) => {
                found.push(format!("{} is {major}.{minor}.{patch}", candidate.display()))
            }
            None => found.push(format!("{} does not report its version", candidate.display())),
        }
    }
    let (major, minor, patch) = OLDEST;
    Err(ServiceError::Missing {
        what: format!("nats-server {major}.{minor}.{patch} or newer"),
        found: if found.is_empty() { "none".to_owned() } else { found.join(", ") },
    })
}

fn candidates() -> Vec<PathBuf> {
    let tools = |folder: &Path| folder.join(".tools/bin/nats-server");
    let here = std::env::current_dir().ok();
    let program = std::env::current_exe().ok();
    process::in_path("nats-server")
        .into_iter()
        .chain(here.as_deref().map(tools))
        .chain(program.iter().flat_map(|path| path.ancestors().skip(1).map(tools)))
        .collect()
}

fn version(text: &str) -> Option<(u32, u32, u32)> {
    let (_, numbers) = text.rsplit_once('v')?;
    // A pre-release such as 2.14.0-RC.1 counts as its release.
    let numbers = numbers.split('-').next()?;
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// The folder of a server's configuration and data.
pub(super) fn home(data_dir: &Path, saved: &SavedSettings, node: u16) -> PathBuf {
    data_dir.join(match saved.nats_servers.len() {
        0 | 1 => "nats".to_owned(),
        _ => format!("nats-{node}"),
    })
}

pub(super) fn pid_file(home: &Path) -> PathBuf {
    home.join("nats.pid")
}

/// The name that a user has in the account of a neighbour.
pub(super) fn neighbour(user: &str, number: u16) -> String {
    format!("{user}-{number}")
}

/// A line of the configuration; the permissions are a variable of the included file.
fn user(name: &str, number: Option<u16>, password: &str) -> String {
    let permissions = name.to_uppercase();
    let user = format!("exodrive-{name}");
    let user = number.map_or(user.clone(), |number| neighbour(&user, number));
    format!(
        "    {{ user: {user}, password: {password:?}, permissions: $EXODRIVE_{permissions} }}\n"
    )
}

/// Where a nats-server runs: in a network namespace, with an address for its clients and one for
/// the other servers of its cluster.
#[derive(Clone, Debug)]
pub struct NatsPlace {
    /// The namespace; `None`: that of this process.
    pub namespace: Option<String>,
    /// Where clients reach it.
    pub clients: Ipv4Addr,
    /// Where the other servers reach it.
    pub servers: Ipv4Addr,
}

/// The place of a server, numbered from 1.
pub(super) fn place(options: &Options, node: u16) -> NatsPlace {
    let local =
        NatsPlace { namespace: None, clients: Ipv4Addr::LOCALHOST, servers: Ipv4Addr::LOCALHOST };
    options.nats_places.get(usize::from(node) - 1).cloned().unwrap_or(local)
}

/// The part of the configuration that makes servers a cluster; empty if there is one.
fn cluster(saved: &SavedSettings, options: &Options, node: u16) -> String {
    if saved.nats_servers.len() < 2 {
        return String::new();
    }
    let password = &saved.nats_cluster_password;
    let route = |(node, server): (u16, &NatsServer)| {
        let host = place(options, node).servers;
        format!("    \"nats-route://exodrive:{password}@{host}:{}\"\n", server.cluster_port)
    };
    let routes: String = (1..).zip(&saved.nats_servers).map(route).collect();
    let host = place(options, node).servers;
    let own = saved.nats_servers.get(usize::from(node) - 1).map_or(0, |it| it.cluster_port);
    // Clients have every address already.
    format!(
        "cluster {{\n  name: exodrive\n  listen: \"{host}:{own}\"\n  no_advertise: true\n  \
         authorization {{ user: exodrive, password: {password:?} }}\n  routes: [\n{routes}  ]\n}}\n"
    )
}

/// Writes the configuration of a server, numbered from 1, and returns the command.
pub(super) fn prepare(
    data_dir: &Path,
    saved: &SavedSettings,
    options: &Options,
    binary: &Path,
    node: u16,
) -> Result<ProcessSpec, ServiceError> {
    let home = home(data_dir, saved, node);
    let server = saved.nats_servers.get(usize::from(node) - 1).cloned().unwrap_or_default();
    let NatsPlace { namespace, clients: host, .. } = place(options, node);
    let name = match saved.nats_servers.len() {
        0 | 1 => String::new(),
        _ => format!("-{node}"),
    };
    folder::create(&home, 0o700)?;
    let sync = match options.sync {
        SyncMode::Always | SyncMode::Unchecked => "  sync_interval: always\n",
        SyncMode::Default => "",
    };
    let users = |number: Option<u16>| {
        let users = [
            ("operator", &saved.nats_operator_password),
            ("api", &saved.nats_api_password),
            ("worker", &saved.nats_worker_password),
        ]
        .map(|(name, password)| user(name, number, password));
        format!("  users: [\n{}  ]\n", users.concat())
    };
    let accounts: String = (1..=options.neighbours)
        .map(|number| {
            format!("  NEIGHBOUR-{number} {{\n  jetstream: enabled\n{}  }}\n", users(Some(number)))
        })
        .collect();
    let text = format!(
        "server_name: exodrive{name}\nlisten: \"{host}:{}\"\nhttp: \"{host}:{}\"\npid_file: {:?}\nmax_payload: 2MB\n\
         include {PERMISSIONS_FILE:?}\nauthorization {{\n{}}}\naccounts {{\n{accounts}}}\n\
         {}jetstream {{\n  store_dir: {:?}\n{sync}}}\n",
        server.port,
        server.monitor_port,
        pid_file(&home),
        users(None),
        cluster(saved, options, node),
        home.join("store"),
    );
    folder::write_private(&home.join(PERMISSIONS_FILE), PERMISSIONS)?;
    let file = home.join("nats.conf");
    folder::write_private(&file, &text)?;
    let spec = match namespace {
        None => ProcessSpec::new(format!("nats-server{name}"), binary),
        Some(namespace) => ProcessSpec::new(format!("nats-server{name}"), "ip")
            .arg("netns")
            .arg("exec")
            .arg(namespace)
            .arg(binary),
    };
    Ok(spec.arg("-c").arg(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("nats-server: v2.15.1"), Some((2, 15, 1)));
        assert_eq!(version("nats-server: v2.14.0-RC.1"), Some((2, 14, 0)));
        assert_eq!(version("nats-server"), None);
        assert!(version("nats-server: v2.9.10") < Some(OLDEST));
    }
}
