//! The dashboard and the customers, for staff.

use super::problem::{ApiError, Code, Problem};
use super::{
    App,
    auth::extract::EmailReader,
    read_answer::{answer_of, begin_read, cursor, limit, parse_query, text},
};
use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use exodrive_projections::{
    RowPlace,
    views::{
        customers::read::{self as customers, CustomerSummary},
        payments::read::{DASHBOARD_VIEWS, Dashboard, dashboard},
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Gives the figures of the business. For admins and auditors.
#[utoipa::path(
    get, path = "/v1/dashboard", tag = "business", security(("token" = []), ("service_key" = ["customers:read"])),
    params(
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "The figures", body = Dashboard),
        Problem,
    ),
)]
pub(crate) async fn get_dashboard(
    State(api): App,
    reader: EmailReader,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut transaction = begin_read(&api, &reader.identity, &DASHBOARD_VIEWS, &headers).await?;
    let figures = dashboard(&mut transaction, api.rental.now()).await?;
    Ok(answer_of(&api, &transaction, figures))
}

/// Filter of customers, and the page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct CustomerQuery {
    /// Only with each of these words, or words that begin with them, in name, email or telephone
    /// number: in any order and case, with or without accents. A telephone number is found from any
    /// of its digits on.
    q: Option<String>,
    /// Rows on the page, 1 to 100. 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
}

/// A page of customers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CustomerList {
    /// Always `list`.
    object: &'static str,
    /// The page.
    data: Vec<CustomerSummary>,
    /// True if another page follows.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
}

/// Lists customers, last active first. For admins and auditors.
#[utoipa::path(
    get, path = "/v1/customers", tag = "business", security(("token" = []), ("service_key" = ["customers:read"])),
    params(
        CustomerQuery,
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "A page", body = CustomerList),
        Problem,
    ),
)]
pub(crate) async fn list_customers(
    State(api): App,
    reader: EmailReader,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query: CustomerQuery = parse_query(query)?;
    let (text, limit) = (text(query.q), limit(query.limit)?);
    let after = cursor(query.after, RowPlace::parse)?;
    let mut transaction = begin_read(&api, &reader.identity, &["customers"], &headers).await?;
    let page = customers::find_customers(&mut transaction, text.as_deref(), after, limit).await?;
    let list = CustomerList {
        object: "list",
        has_more: page.next.is_some(),
        next_cursor: page.next,
        data: page.rows,
    };
    Ok(answer_of(&api, &transaction, list))
}

/// Gives a customer. For admins and auditors.
#[utoipa::path(
    get, path = "/v1/customers/{id}", tag = "business", security(("token" = []), ("service_key" = ["customers:read"])),
    params(
        ("id" = String, Path, description = "The customer's id"),
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "The customer", body = CustomerSummary),
        Problem,
    ),
)]
pub(crate) async fn get_customer(
    State(api): App,
    reader: EmailReader,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<CustomerSummary>, ApiError> {
    let missing = || ApiError::new(Code::NotFound, "There is no such customer.");
    // Postgres stores no NUL.
    if id.contains('\0') {
        return Err(missing());
    }
    let mut transaction = begin_read(&api, &reader.identity, &["customers"], &headers).await?;
    let found = customers::find_customer(&mut transaction, &id).await?;
    found.map(Json).ok_or_else(missing)
}
