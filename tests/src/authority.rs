//! An authority of a test's own, which signs certificates.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// An authority, whose certificates are files of a folder.
pub struct Authority {
    folder: PathBuf,
    roots: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let roots = folder.join(format!("{name}.pem"));
        fs::write(&roots, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder: folder.to_owned(), roots, issuer: Issuer::new(params, key) }
    }

    /// The file with its own certificate.
    pub fn roots(&self) -> &str {
        self.roots.to_str().unwrap()
    }

    /// Signs a certificate for these hosts, or for a client; gives its file and that of its key.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> [String; 2] {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = ["pem", "key"].map(|end| self.folder.join(format!("{name}.{end}")));
        fs::write(&files[0], certificate.pem()).unwrap();
        write_secret(&files[1], &key.serialize_pem());
        files.map(|file| file.to_str().unwrap().to_owned())
    }
}

/// Writes a file that others may not read.
pub fn write_secret(file: &Path, text: &str) {
    let _ = fs::remove_file(file);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    file.unwrap().write_all(text.as_bytes()).unwrap();
}
