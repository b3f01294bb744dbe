//! An authority of a test's own, which signs certificates.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

/// An authority, whose certificates are files of a folder.
pub struct Authority {
    folder: PathBuf,
    roots: String,
    key: String,
}

impl Authority {
    /// A new authority.
    pub fn new(folder: &Path, name: &str) -> Self {
        let extensions = "basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign";
        let [roots, key] = make(folder, name, extensions, &[]);
        Self { folder: folder.to_owned(), roots, key }
    }

    /// The file with its own certificate.
    pub fn roots(&self) -> &str {
        &self.roots
    }

    /// Signs a certificate for a host, such as `IP:127.0.0.1`, or for a client, such as
    /// `DNS:client`; gives its file and that of its key.
    pub fn issue(&self, name: &str, host: &str) -> [String; 2] {
        let extensions = format!(
            "basicConstraints = CA:FALSE\nextendedKeyUsage = serverAuth,clientAuth\n\
             subjectAltName = {host}"
        );
        make(&self.folder, name, &extensions, &["-CA", &self.roots, "-CAkey", &self.key])
    }
}

/// Makes a certificate and its key.
fn make(folder: &Path, name: &str, extensions: &str, by: &[&str]) -> [String; 2] {
    let file = |end: &str| folder.join(format!("{name}.{end}")).to_str().unwrap().to_owned();
    let (config, certificate, key) = (file("cnf"), file("pem"), file("key"));
    let text = format!(
        "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = extensions\n\
         [name]\nCN = {name}\n[extensions]\n{extensions}\n"
    );
    fs::write(&config, text).unwrap();
    let done = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-noenc", "-days", "30", "-config", &config, "-keyout", &key, "-out", &certificate])
        .args(by)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    [certificate, key]
}

/// Writes a file that others may not read.
pub fn write_secret(file: &Path, text: &str) {
    let _ = fs::remove_file(file);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    file.unwrap().write_all(text.as_bytes()).unwrap();
}
