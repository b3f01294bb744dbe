//! A process starts only as a NATS user who may do no more than it should: whoever takes it over
//! may do as much.

use super::Failure;
use crate::settings::{Connections, NatsUsers};
use exodrive_log::{
    LogConfig,
    permissions::{self, User},
};
use exodrive_runtime::services::ServiceUrls;

impl Connections {
    /// Refuses the user of `config` if it may do more than `process`, which is `user`, should. The
    /// API and the worker may be one user.
    ///
    /// # Errors
    /// When it may do more, or NATS does not answer.
    pub(super) async fn refuse_mighty_user(
        &self,
        process: &str,
        user: User,
        config: &LogConfig,
        urls: &ServiceUrls,
    ) -> Result<(), Failure> {
        if self.nats_users == NatsUsers::Any {
            return Ok(());
        }
        let may = if urls.nats == urls.nats_worker { User::Worker } else { user };
        match permissions::excess(config, may).await?.as_slice() {
            [] => Ok(()),
            [first, rest @ ..] => Err(format!(
                "the NATS user of `{process}` may publish to {first} and {} other subjects, and must \
                 not: give the API, the worker and the operator users of their own, with the \
                 permissions of docs/nats-permissions.conf, or accept it with EXODRIVE_NATS_USERS=any",
                rest.len()
            )
            .into()),
        }
    }
}
