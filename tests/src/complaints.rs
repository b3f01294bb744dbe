//! What the log of Postgres must not say after any test: that somebody has used it wrongly.

use std::{fs, path::Path};

/// Beginnings and ends of transactions that do not fit, as when a connection goes back to its pool
/// inside one; and two changes of one thing of the catalogue at once.
const COMPLAINTS: [&str; 3] = [
    "there is already a transaction in progress",
    "there is no transaction in progress",
    "tuple concurrently updated",
];

/// The lines of Postgres' log that say so, in the folder of private servers; empty if there are
/// none.
pub fn complaints_of_postgres(services: &Path) -> String {
    let log = fs::read(services.join("logs/postgres.log")).unwrap_or_default();
    complaints(&String::from_utf8_lossy(&log))
}

fn complaints(log: &str) -> String {
    let complains = |line: &&str| COMPLAINTS.iter().any(|it| line.contains(it));
    log.lines().filter(complains).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_complaints_are_reported() {
        let bad = "WARNING:  there is already a transaction in progress\n";
        let good = "LOG:  database system is ready to accept connections\n";
        assert_eq!(super::complaints(&format!("{good}{bad}{good}")), bad);
    }
}
