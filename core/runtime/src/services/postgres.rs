//! The private Postgres. Postgres does not start as root, so a root user starts
//! it as `postgres` or `nobody`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use super::folder::{self, SavedSettings};
use super::supervisor::ProcessSpec;
use super::{ServiceError, process};

/// The folder of the data when its user cannot enter the data folder.
const ELSEWHERE: &str = "/var/lib/exodrive";

/// The superuser of the private server.
const SUPERUSER: &str = "exodrive";
/// The roles of the logins: the same as on a production server.
const ROLES: &str = include_str!("../../../../docs/postgres.sql");

/// The address of a database of the private server, as one of its logins.
pub(super) fn url(saved: &SavedSettings, login: &str, password: &str, database: &str) -> String {
    format!("postgres://{login}:{password}@127.0.0.1:{}/{database}", saved.postgres_port)
}

/// The address of a database of the private server, as its superuser.
pub(super) fn superuser_url(saved: &SavedSettings) -> String {
    url(saved, SUPERUSER, &saved.postgres_password, "exodrive")
}

/// The folder with initdb and postgres of one version.
pub(super) fn binaries() -> Result<PathBuf, ServiceError> {
    let complete =
        |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    // Distributions link single programs into PATH; the others are beside the real file.
    let linked = process::in_path("initdb")
        .and_then(|path| path.canonicalize().ok())
        .and_then(|path| path.parent().map(Path::to_owned))
        .filter(|folder| complete(folder));
    if let Some(folder) = linked {
        return Ok(folder);
    }
    fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, folder)| complete(folder))
        .max_by_key(|(version, _)| *version)
        .map(|(_, folder)| folder)
        .ok_or_else(|| ServiceError::Missing {
            what: "Postgres (initdb and postgres)".to_owned(),
            found: "none in PATH or under /usr/lib/postgresql".to_owned(),
        })
}

/// User and group that Postgres must run as; `None` for those of this process.
pub(super) fn user() -> Result<Option<(u32, u32)>, ServiceError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        let user = User::from_name(name)
            .map_err(|error| ServiceError::io(format!("look up the user {name}"), error.into()))?;
        if let Some(user) = user.filter(|user| !user.uid.is_root()) {
            return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    Err(ServiceError::Missing {
        what: "an unprivileged user for Postgres, which does not start as root".to_owned(),
        found: "neither postgres nor nobody".to_owned(),
    })
}

/// True if the user may pass through the folder and all above it. A folder that does not exist yet is left out.
pub(super) fn reachable(folder: &Path, (user, group): (u32, u32)) -> bool {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let resolved = absolute.canonicalize().unwrap_or(absolute);
    resolved.ancestors().all(|ancestor| {
        let Ok(meta) = ancestor.metadata() else {
            return true;
        };
        let shift = if meta.uid() == user {
            6
        } else if meta.gid() == group {
            3
        } else {
            0
        };
        meta.mode() >> shift & 0o1 == 1
    })
}

pub(super) fn pid_file(data: &Path) -> PathBuf {
    data.join("postmaster.pid")
}

/// Chooses the folder of the data, and records it before any file is made there.
pub(super) fn choose_folder(
    data_dir: &Path,
    saved: &mut SavedSettings,
) -> Result<(), ServiceError> {
    if saved.postgres_folder.is_some() {
        return Ok(());
    }
    let inside = data_dir.join("postgres");
    let is_link = inside.is_symlink();
    if !is_link && inside.exists() {
        return Err(ServiceError::io(
            format!(
                "use {}: it holds data, but the services.json with its password is gone; move it away",
                inside.display()
            ),
            std::io::ErrorKind::AlreadyExists.into(),
        ));
    }
    let outside = matches!(user()?, Some(user) if !reachable(data_dir, user));
    if is_link {
        fs::remove_file(&inside)
            .map_err(|error| ServiceError::io("remove the old postgres link", error))?;
    }
    saved.postgres_folder = Some(if outside {
        Path::new(ELSEWHERE).join(format!("postgres-{}", folder::random_hex()))
    } else {
        inside
    });
    saved.postgres_made = false;
    Ok(())
}

/// Removes data that is outside the data folder.
pub(super) fn remove_outside(saved: &SavedSettings) -> Result<(), ServiceError> {
    let Some(data) = &saved.postgres_folder else {
        return Ok(());
    };
    // Accept only a folder that `choose_folder` can have named, regardless of
    // the file.
    let named =
        data.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres-"));
    if !named || data.parent() != Some(Path::new(ELSEWHERE)) {
        return Ok(());
    }
    match fs::remove_dir_all(data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ServiceError::io(format!("remove {}", data.display()), error))
        }
        _ => Ok(()),
    }
}

/// Makes the database if it does not exist yet, and returns the command.
pub(super) fn prepare(
    data_dir: &Path,
    saved: &mut SavedSettings,
    fast: bool,
    binaries: &Path,
) -> Result<ProcessSpec, ServiceError> {
    choose_folder(data_dir, saved)?;
    let data = saved.postgres_folder.clone().unwrap_or_else(|| data_dir.join("postgres"));
    let user = user()?;
    if !saved.postgres_made {
        saved.write(data_dir)?;
        make(data_dir, &data, &saved.postgres_password, fast, user, binaries)?;
        saved.postgres_made = true;
        saved.write(data_dir)?;
    }
    if !saved.postgres_logins_made {
        make_logins(&data, saved, fast, user, binaries)?;
        saved.postgres_logins_made = true;
        saved.write(data_dir)?;
    }
    let mut spec = ProcessSpec::new("postgres", binaries.join("postgres")).arg("-D").arg(&data);
    for setting in settings(saved.postgres_port, fast) {
        spec = spec.arg("-c").arg(setting);
    }
    spec.folder = Some(data);
    spec.user = user;
    spec.stop_signal = Signal::SIGINT;
    Ok(spec)
}

fn settings(port: u16, fast: bool) -> Vec<String> {
    let mut settings = vec![
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        // Two processes of ours hold 48 at most, an erasure two more and each rebuild three. Tests run several systems on one server.
        format!("max_connections={}", if fast { 500 } else { 100 }),
        "max_wal_size=4GB".to_owned(),
        "jit=off".to_owned(),
        "logging_collector=off".to_owned(),
        format!("shared_buffers={}MB", if fast { 64 } else { cache_mib(memory_mib()) }),
    ];
    if fast {
        settings.extend(
            ["fsync=off", "full_page_writes=off", "synchronous_commit=off"].map(str::to_owned),
        );
    }
    settings
}

/// Postgres's own cache, of so much memory of the machine: a quarter is what its documentation
/// recommends ("Resource Consumption", `shared_buffers`); a machine that is also used for something
/// else keeps the rest.
fn cache_mib(memory: u64) -> u64 {
    (memory / 4).clamp(128, 2_048)
}

/// The machine's memory; 1 GiB if it does not say.
fn memory_mib() -> u64 {
    let said = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = said.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|it| it.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(1_024, |kib| kib >> 10)
}

fn make(
    data_dir: &Path,
    data: &Path,
    password: &str,
    fast: bool,
    user: Option<(u32, u32)>,
    binaries: &Path,
) -> Result<(), ServiceError> {
    let failed =
        |error| ServiceError::io(format!("make the Postgres folder {}", data.display()), error);
    // The folder holds an unfinished initdb: its name was recorded, its success was not.
    if data.exists() {
        fs::remove_dir_all(data).map_err(failed)?;
    }
    if data.parent() == Some(Path::new(ELSEWHERE)) {
        folder::create(Path::new(ELSEWHERE), 0o755)?;
        let link = data_dir.join("postgres");
        let _ = fs::remove_file(&link);
        symlink(data, link).map_err(failed)?;
    }
    let password_file = data.with_extension("password");
    let result = (|| {
        create_owned(data, user)?;
        folder::write_private(&password_file, password)?;
        if let Some((user, group)) = user {
            chown(&password_file, Some(user), Some(group)).map_err(failed)?;
        }
        let init = |locale: &str| {
            let mut command = as_user(binaries.join("initdb"), data, user);
            command
                .arg(format!("--username={SUPERUSER}"))
                .args(["--auth=scram-sha-256", "--encoding=UTF8"])
                .arg(format!("--locale={locale}"))
                .arg(format!("--pwfile={}", password_file.display()))
                .args(fast.then_some("--no-sync"))
                .arg("-D")
                .arg(data)
                .stdin(Stdio::null());
            run("initdb", command.output())
        };
        init("C.UTF-8").or_else(|_| {
            fs::remove_dir_all(data).map_err(failed)?;
            create_owned(data, user)?;
            init("C")
        })?;
        create_database(data, fast, user, binaries)
    })();
    let _ = fs::remove_file(&password_file);
    result
}

fn create_owned(data: &Path, user: Option<(u32, u32)>) -> Result<(), ServiceError> {
    folder::create(data, 0o700)?;
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))
        .and_then(|()| user.map_or(Ok(()), |(user, group)| chown(data, Some(user), Some(group))))
        .map_err(|error| ServiceError::io(format!("hand over {}", data.display()), error))
}

fn create_database(
    data: &Path,
    fast: bool,
    user: Option<(u32, u32)>,
    binaries: &Path,
) -> Result<(), ServiceError> {
    let sql = "CREATE DATABASE exodrive;\n\n";
    alone("create the database", sql, "postgres", data, fast, user, binaries)
}

/// Makes the logins of the API, the worker and the operator, who owns the database.
fn make_logins(
    data: &Path,
    saved: &SavedSettings,
    fast: bool,
    user: Option<(u32, u32)>,
    binaries: &Path,
) -> Result<(), ServiceError> {
    let passwords = [
        ("api", &saved.postgres_api_password),
        ("worker", &saved.postgres_worker_password),
        ("migrate", &saved.postgres_operator_password),
    ];
    let passwords = passwords.map(|(login, password)| {
        format!("alter role exodrive_{login} login password '{password}';\n\n")
    });
    let sql = format!("{ROLES}\n{}", passwords.concat());
    alone("make the logins of the database", &sql, "exodrive", data, fast, user, binaries)
}

/// Executes statements, each of which ends with a semicolon and an empty line, while no server
/// runs. Single-user mode needs no port, no password and no client program.
fn alone(
    what: &str,
    sql: &str,
    database: &str,
    data: &Path,
    fast: bool,
    user: Option<(u32, u32)>,
    binaries: &Path,
) -> Result<(), ServiceError> {
    let mut command = as_user(binaries.join("postgres"), data, user);
    command.args(["--single", "-j"]).arg("-D").arg(data);
    // A statement may hold a password.
    command.args(["-c", "log_min_error_statement=panic"]);
    if fast {
        command.arg("-F");
    }
    command.arg(database).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().and_then(|mut child| {
        if let Some(mut input) = child.stdin.take() {
            input.write_all(sql.as_bytes())?;
        }
        child.wait_with_output()
    });
    let text = run(what, output)?;
    if text.contains("ERROR:") {
        return Err(ServiceError::Failed { command: what.to_owned(), output: text });
    }
    Ok(())
}

fn as_user(program: PathBuf, data: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    // Postgres programs complain about a working folder that they cannot enter.
    command.current_dir(data).process_group(0);
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
    command
}

fn run(name: &str, output: std::io::Result<Output>) -> Result<String, ServiceError> {
    let output = output.map_err(|error| ServiceError::io(format!("run {name}"), error))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        Ok(text)
    } else {
        Err(ServiceError::Failed { command: name.to_owned(), output: text })
    }
}
