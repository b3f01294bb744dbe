//! Programs of this workspace as child processes of a test.

use exodrive_runtime::services::{PortClaim, Signal, signal_process};
use std::{
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

/// A program of this workspace, beside the running test.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this test");
    own.ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("there is no program `{name}` yet: run `make test`"))
}

/// An address of this machine on which no process listens, and that no other
/// test gets while this process runs: its program may start later, and again.
pub fn free_address() -> SocketAddr {
    static CLAIMS: Mutex<Vec<PortClaim>> = Mutex::new(Vec::new());
    // Apart from those that private services choose.
    let (port, claim) = PortClaim::within(10_000..20_000).expect("a free port");
    CLAIMS.lock().expect("no thread panics with it").push(claim);
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A child that is killed when dropped, and when the test itself is killed.
pub struct Process(Child);

impl Process {
    /// Starts a program. Of our own settings, its environment has only `env`. Its
    /// output is appended to `output`.
    pub fn start(program: &Path, args: &[&str], env: &[(String, String)], output: &Path) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(output).unwrap();
        let child = bare(program, args, env)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        Self(child)
    }

    /// Sends a signal. After a stop it stands still.
    pub fn signal(&self, signal: Signal) {
        signal_process(self.0.id(), signal).expect("the process runs");
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Its exit status; `None` while it runs.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that ends with this process and inherits none of our settings.
pub(crate) fn bare(program: &Path, args: &[&str], env: &[(String, String)]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
    for (name, _) in std::env::vars_os() {
        // Where the test finds nats-server, `exodrive up` must too.
        let own = name.to_string_lossy().starts_with("EXODRIVE_");
        if own && name != "EXODRIVE_NATS_SERVER" {
            command.env_remove(name);
        }
    }
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command
}
