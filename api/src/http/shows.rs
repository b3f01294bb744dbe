//! The personal data that each route shows. A route is registered together with
//! it, so that none is added without it.

use super::Api;
use exodrive_commands::access_log::AccessLog;
use std::{collections::BTreeMap, sync::Arc};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

/// The personal data that a `GET` of a route shows to staff, for the record of who read
/// what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// The route has no `GET`.
    Command,
    /// Nothing personal.
    Nothing,
    /// Personal data of this kind of thing (`email`). The first variable of the
    /// path is its id; a path without one shows a list.
    Personal(&'static str),
    /// The handler itself notes what it has shown, by
    /// [`Identity::shows`](super::layers::request::Identity::shows).
    NotedByHandler,
}

/// Routes with their description, and what each shows.
pub(crate) struct Routes {
    router: OpenApiRouter<Arc<Api>>,
    shown: ShownByRoute,
}

/// The personal data that each route shows, by its path.
pub(crate) type ShownByRoute = BTreeMap<String, Shows>;

/// The record of reads, to which the outermost layer adds.
#[derive(Clone, Default)]
pub(crate) struct ReadRecords {
    pub(crate) accesses: AccessLog,
    pub(crate) shown: Arc<ShownByRoute>,
}

impl Routes {
    /// No route yet, in this description.
    pub(crate) fn new(description: utoipa::openapi::OpenApi) -> Self {
        let router = OpenApiRouter::with_openapi(description);
        Self { router, shown: BTreeMap::new() }
    }

    /// Adds the handlers of one path.
    pub(crate) fn add(mut self, shows: Shows, routes: UtoipaMethodRouter<Arc<Api>>) -> Self {
        let paths = routes.1.paths.keys();
        self.shown.extend(paths.map(|path| (path.clone(), shows)));
        self.router = self.router.routes(routes);
        self
    }

    /// Adds the handlers of many paths.
    pub(crate) fn add_all(
        self,
        shows: Shows,
        routes: impl IntoIterator<Item = UtoipaMethodRouter<Arc<Api>>>,
    ) -> Self {
        routes.into_iter().fold(self, |all, routes| all.add(shows, routes))
    }

    /// The router with its description, and what each route shows.
    pub(crate) fn into_parts(self) -> (OpenApiRouter<Arc<Api>>, ShownByRoute) {
        (self.router, self.shown)
    }
}
