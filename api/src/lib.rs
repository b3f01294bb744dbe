//! Everything a person or a program touches: the HTTP API and the command
//! line, as one program, `exodrive`.
//!
//! **May import** every other room but the tests.
//!
//! **Flow.** A webhook is verified ([`signature`]) and appended to the log. A
//! command is decided and appended at the [`rental`]; what operators do with
//! projections goes by [`operator`], and workers heed it ([`operations`]); so
//! does the [`erasure`] of a person's data. They also seal the log
//! ([`sealing`]). A
//! read is admitted ([`access`], [`limits`]) and answered from this process or
//! Redis ([`view_cache`]), else from Postgres; who of the staff reads personal
//! data is noted ([`accesses`]). Whatever fails becomes one shape ([`problem`]). Settings are in
//! [`settings`], the programs in [`cli`].
//!
//! **To add an endpoint or a command of the program**: `docs/recipes.md`.

pub mod cli;
pub mod http;
pub mod settings;
