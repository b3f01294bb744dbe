//! Everything that a person or a program uses: the HTTP API and the command
//! line, as one program, `exodrive`.
//!
//! **May import** every other crate of this workspace but the tests.
//!
//! **Flow.** A webhook is verified and appended to the log ([`http`]). A
//! command is decided and appended by the command handlers, for bookings as for
//! operators and erasures; workers apply what operators and erasures ask for,
//! and seal the log. A read passes the token check and the rate limit. It is
//! answered from this process or Redis, or else from Postgres. Reads of
//! personal data by staff are recorded. Every failure becomes one shape, a
//! problem. Settings are in [`settings`], the programs in [`cli`].
//!
//! **To add an endpoint or a command of the program**: `docs/recipes.md`.

pub mod cli;
pub mod http;
pub mod settings;
