//! The one mapping from the errors of every service to problems, so that
//! handlers use `?`.
//!
//! An outage is answered 503 and names the service that is out. A permanent
//! fault is ours (500) or the caller's (4xx). The texts name no command or
//! option of the command line.

use super::problem::{ApiError, Code, Conflict, DateRange, FieldError};
use exodrive_audit::{
    evidence::HistoryError, export::ExportError, seal::SealError, store::StoreError,
};
use exodrive_commands::{
    credentials::CredentialError, erasure::ErasureError, operations::OperatorError,
    rental::RentalError,
};
use exodrive_domain::{
    NewerRelease, UnreadableEvent,
    booking::{BookingRejection, Taken, TakenDay},
    credential::CredentialRejection,
    days::Days,
    erasure::ErasureRejection,
    fleet::FleetRejection,
    price::QuoteError,
    value::InvalidField,
};
use exodrive_log::{AppendError, KeyError, Outage, ReadError};
use exodrive_projections::{Error, engine::cache::CacheError};

/// A fault of ours. A retry does not help.
fn internal(error: &dyn std::error::Error) -> ApiError {
    ApiError::new(Code::Internal, "The request could not be executed.").caused_by(error)
}

/// Names the service of the log that is unavailable. Without one, the fault is
/// ours.
fn log_problem(outage: Option<Outage>, error: &dyn std::error::Error) -> ApiError {
    match outage {
        Some(service) => {
            ApiError::new(Code::LogUnavailable, format!("The {service} does not answer."))
                .caused_by(error)
        }
        None => internal(error),
    }
}

fn postgres_problem(outage: bool, error: &dyn std::error::Error) -> ApiError {
    match outage {
        true => {
            ApiError::new(Code::ViewUnavailable, "The database does not answer.").caused_by(error)
        }
        false => internal(error),
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        log_problem(error.outage(), &error)
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        log_problem(error.outage(), &error)
    }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        match &error {
            AppendError::Conflict | AppendError::Erased => {
                Self::new(Code::Busy, "Another command changed it at the same time.")
            }
            AppendError::TooLarge => Self::new(Code::BodyTooLarge, "It is too large to be stored."),
            error => return log_problem(error.outage(), error),
        }
        .caused_by(&error)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::Log(error) => error.into(),
            error => postgres_problem(error.is_outage(), &error),
        }
    }
}

impl From<CacheError> for ApiError {
    fn from(error: CacheError) -> Self {
        match error.is_outage() {
            true => Self::new(Code::ViewUnavailable, "Redis does not answer.").caused_by(&error),
            false => internal(&error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        postgres_problem(error.is_outage(), &error)
    }
}

impl From<SealError> for ApiError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Database(error) => error.into(),
            SealError::Log(error) => error.into(),
            SealError::Fault(fault) => {
                let detail = "The log is not what was sealed: it was changed.";
                Self::new(Code::Internal, detail).caused_by(&fault)
            }
        }
    }
}

impl From<ExportError> for ApiError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::NothingSealed => nothing_sealed(),
            ExportError::Seal(error) => error.into(),
            ExportError::Write(error) => internal(&error),
        }
    }
}

impl From<HistoryError> for ApiError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Log(error) => error.into(),
            HistoryError::View(error) => error.into(),
            HistoryError::Cursor => Self::parameter("after", error.to_string()),
        }
    }
}

/// An answer, or what is stored of it, that cannot be written as JSON.
impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        internal(&error)
    }
}

impl From<NewerRelease> for ApiError {
    fn from(error: NewerRelease) -> Self {
        let detail =
            "This server's release cannot read an event that a newer release has appended.";
        Self::new(Code::NewerRelease, detail).caused_by(&error)
    }
}

impl From<UnreadableEvent> for ApiError {
    fn from(error: UnreadableEvent) -> Self {
        match error {
            UnreadableEvent::NewerRelease(error) => error.into(),
            error => internal(&error),
        }
    }
}

impl From<OperatorError> for ApiError {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::NoSuchProjection(_) | OperatorError::NoSuchRebuild => {
                Self::new(Code::NotFound, error.to_string())
            }
            OperatorError::NoReason => {
                let mut problem = Self::new(Code::ValidationFailed, error.to_string());
                let detail = "must not be empty".to_owned();
                problem.errors.push(FieldError { pointer: "/reason".to_owned(), detail });
                problem
            }
            OperatorError::Invalid(_) => Self::new(Code::ValidationFailed, error.to_string()),
            OperatorError::UnderWay { projection, rebuild } => {
                let detail = format!("Rebuild {rebuild} of {projection} is in progress.");
                let mut problem = Self::new(Code::RebuildInProgress, detail);
                problem.more.rebuild = Some(rebuild);
                problem
            }
            OperatorError::Rejected(_) => Self::new(Code::OperationRejected, error.to_string()),
            OperatorError::NotBuilt(name) => {
                Self::new(Code::ViewUnavailable, format!("Projection {name} has no tables yet."))
            }
            OperatorError::Database(error) => error.into(),
            OperatorError::Read(error) => error.into(),
            OperatorError::Append(error) => error.into(),
            OperatorError::Encode(error) => error.into(),
        }
    }
}

impl From<ErasureError> for ApiError {
    fn from(error: ErasureError) -> Self {
        let field = |pointer: &str| {
            let detail = error.to_string();
            let mut problem = Self::new(Code::ValidationFailed, detail.clone());
            problem.errors.push(FieldError { pointer: pointer.to_owned(), detail });
            problem
        };
        match error {
            ErasureError::Address => field("/email_address"),
            ErasureError::NoReason | ErasureError::Reason(_) => field("/reason"),
            ErasureError::Rejected(ErasureRejection::NotFound) => no_such_erasure(),
            ErasureError::Rejected(rejection) => {
                Self::new(Code::OperationRejected, rejection.to_string())
            }
            ErasureError::Read(error) => error.into(),
            ErasureError::Append(error) => error.into(),
            ErasureError::Key(error) => error.into(),
            ErasureError::Database(error) => error.into(),
            ErasureError::Cache(error) => error.into(),
            ErasureError::Unreadable(error) => error.into(),
            ErasureError::Encode(error) => error.into(),
        }
    }
}

impl From<CredentialError> for ApiError {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::Rejected(rejection) => credential_problem(&rejection),
            CredentialError::Read(error) => error.into(),
            CredentialError::Append(error) => error.into(),
            CredentialError::Busy => Self::new(Code::Busy, "It is being changed by others."),
            CredentialError::NewerRelease(error) => error.into(),
            CredentialError::Encode(error) => error.into(),
            error @ (CredentialError::Decode(_) | CredentialError::NoRandomness) => {
                internal(&error)
            }
        }
    }
}

fn credential_problem(rejection: &CredentialRejection) -> ApiError {
    let field = |pointer| validation(vec![InvalidField::new(pointer, rejection.to_string())]);
    match rejection {
        CredentialRejection::KeyReused
        | CredentialRejection::AlreadyDone(_)
        | CredentialRejection::Exists => key_reused(),
        CredentialRejection::NoSuchKey => no_such_key(),
        CredentialRejection::NoScope => field("/scopes"),
        CredentialRejection::InThePast => field("/expires_at"),
        CredentialRejection::Unchanged => {
            ApiError::new(Code::OperationRejected, "The service key is revoked already.")
        }
    }
}

pub(super) fn no_such_key() -> ApiError {
    ApiError::new(Code::NotFound, "There is no such service key.")
}

pub(super) fn no_such_user() -> ApiError {
    ApiError::new(Code::NotFound, "No user has such an id.")
}

pub(super) fn no_such_erasure() -> ApiError {
    ApiError::new(Code::NotFound, "There is no such erasure.")
}

pub(super) fn nothing_sealed() -> ApiError {
    ApiError::new(
        Code::NotFound,
        "Nothing is sealed yet. The first checkpoint comes some seconds after the first event.",
    )
}

/// The answer for customers. A handler that knows that the caller is staff uses
/// `rental_problem`.
impl From<RentalError> for ApiError {
    fn from(error: RentalError) -> Self {
        rental_problem(error, false)
    }
}

/// The answer to an error of a command about cars and bookings. `staff` gets
/// more detail: actions that only staff may do, and the bookings that take the
/// days.
pub(crate) fn rental_problem(error: RentalError, staff: bool) -> ApiError {
    match error {
        RentalError::Booking(refusal) => booking_problem(refusal, staff),
        RentalError::Fleet(refusal) => fleet_problem(refusal),
        RentalError::SlugTaken => ApiError::new(Code::SlugTaken, "Another car has this slug."),
        RentalError::NotTheirs => no_such_booking(),
        RentalError::OnlyStaff(action) => {
            let detail = format!("Only staff may do {}.", action.name());
            ApiError::new(Code::Forbidden, detail)
        }
        RentalError::Customers(error) => error.into(),
        RentalError::Busy | RentalError::NoCustomer => {
            ApiError::new(Code::Busy, "Too many commands decide about this car at once.")
        }
        RentalError::ViewBehind { reached, end } => {
            let detail = format!("The view is at position {reached}, the log at {end}.");
            let mut error = ApiError::new(Code::ViewBehind, detail);
            error.retry_after = Some(1);
            error
        }
        RentalError::View(error) => error.into(),
        RentalError::Read(error) => error.into(),
        RentalError::Append(error) => error.into(),
        RentalError::NewerRelease(error) => error.into(),
        error @ RentalError::Decode(_) => internal(&error),
        RentalError::Encode(error) => error.into(),
    }
}

pub(crate) fn no_such_booking() -> ApiError {
    ApiError::new(
        Code::NotFound,
        "There is no such booking, or it is not yours: sign in, or use the link that came with it.",
    )
}

pub(crate) fn no_such_car() -> ApiError {
    ApiError::new(Code::NotFound, "There is no such car.")
}

fn booking_problem(refusal: BookingRejection, staff: bool) -> ApiError {
    match refusal {
        BookingRejection::KeyReused | BookingRejection::AlreadyDone(_) => key_reused(),
        BookingRejection::NoSuchCar => no_such_car(),
        BookingRejection::NotBookable(because) => {
            ApiError::new(Code::CarNotBookable, format!("The car cannot be booked: {because}."))
        }
        BookingRejection::NoSuchBooking | BookingRejection::MovedTo(_) => no_such_booking(),
        BookingRejection::NoSuchBlock => {
            ApiError::new(Code::NotFound, "There is no such block on this car.")
        }
        BookingRejection::Stale(position) => stale(position),
        BookingRejection::WrongStatus { action, status, because, allowed } => {
            let because = because.map_or_else(String::new, |because| format!(": {because}"));
            let detail =
                format!("The booking is {status}; {} is not possible{because}.", action.name());
            let mut error = ApiError::new(Code::ActionNotAllowed, detail);
            let allowed = allowed.iter().filter(|action| staff || action.is_customers());
            error.more.allowed_actions =
                Some(allowed.map(|action| action.name().to_owned()).collect());
            error
        }
        BookingRejection::TooEarly(first) => {
            ApiError::new(Code::TooEarly, format!("The rental begins on {first}."))
        }
        BookingRejection::DaysTaken { taken, next_free } => {
            let mut dates: Vec<_> = taken.iter().map(|day| day.date.to_string()).collect();
            dates.dedup();
            let detail = match dates.as_slice() {
                [one] => format!("{one} is taken."),
                [first, .., last] => {
                    format!("{} days from {first} to {last} are taken.", dates.len())
                }
                [] => "The days are taken.".to_owned(),
            };
            let mut error = ApiError::new(Code::DatesUnavailable, detail);
            let conflict = |day: &TakenDay| Conflict {
                date: day.date,
                status: day.by.name().to_owned(),
                booking_id: match day.by {
                    Taken::Held(id) | Taken::Booked(id) if staff => Some(id.to_string()),
                    _ => None,
                },
            };
            error.more.conflicts = taken.iter().map(conflict).collect();
            error.more.next_free = next_free.map(range);
            error
        }
        BookingRejection::InThePast(today) => validation(vec![InvalidField::new(
            "/start_date",
            format!("must not be before today, {today}"),
        )]),
        BookingRejection::NoQuote(error) => {
            let pointer = match &error {
                QuoteError::TooShort { .. } | QuoteError::TooLong => "/end_date",
                QuoteError::UnknownFee(_) => "/fees",
                QuoteError::UnknownPickUp(_) => "/pick_up",
                QuoteError::UnknownDropOff(_) => "/drop_off",
            };
            validation(vec![InvalidField::new(pointer, error.to_string())])
        }
        BookingRejection::PriceChanged { expected_cents, total_cents } => {
            let detail = format!("The total is {total_cents} cents, not {expected_cents}.");
            let mut error = ApiError::new(Code::PriceChanged, detail);
            error.more.total_cents = Some(total_cents);
            error
        }
        BookingRejection::Unchanged => {
            validation(vec![InvalidField::new("/car_id", "the booking is on that car already")])
        }
        BookingRejection::Faulty(faults) => validation(faults),
    }
}

fn fleet_problem(refusal: FleetRejection) -> ApiError {
    match refusal {
        FleetRejection::KeyReused | FleetRejection::AlreadyDone(_) => key_reused(),
        FleetRejection::NoSuchCar => no_such_car(),
        FleetRejection::Exists => {
            ApiError::new(Code::CarConflict, "A car with this id exists already.")
        }
        FleetRejection::Stale(position) => stale(position),
        FleetRejection::Unchanged => {
            ApiError::new(Code::CarConflict, "The car is in this state already.")
        }
        FleetRejection::Archived => {
            ApiError::new(Code::CarConflict, "The car is archived: restore it first.")
        }
        FleetRejection::NoPrice => {
            ApiError::new(Code::CarConflict, "The car has no price: set one, then list it.")
        }
    }
}

fn stale(position: u64) -> ApiError {
    ApiError::new(Code::Stale, format!("Its last change is at position {position}."))
}

pub(super) fn key_reused() -> ApiError {
    ApiError::new(
        Code::IdempotencyKeyReused,
        "Another request was sent under this Idempotency-Key.",
    )
}

/// The range of days in the form of the API.
pub(crate) fn range(days: Days) -> DateRange {
    DateRange { start_date: days.first(), end_date: days.last() }
}

/// An error about invalid values in a command.
pub(crate) fn validation(faults: Vec<InvalidField>) -> ApiError {
    let reported: Vec<_> = faults
        .iter()
        .map(|fault| format!("`{}` {}", fault.pointer.trim_start_matches('/'), fault.detail))
        .collect();
    let mut error = ApiError::new(Code::ValidationFailed, format!("{}.", reported.join("; ")));
    error.errors = faults
        .into_iter()
        .map(|fault| FieldError { pointer: fault.pointer, detail: fault.detail })
        .collect();
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use exodrive_commands::operations::{InvalidOperation, OperationRejection};

    fn answer(error: impl Into<ApiError>) -> (u16, &'static str, String) {
        let error = error.into();
        (error.code.status().as_u16(), error.code.name(), error.detail)
    }

    fn key_that_no_wrapping_key_opens() -> KeyError {
        KeyError::Wrapping { name: "email.a".to_owned(), version: 2 }
    }

    fn row_that_is_no_json() -> Error {
        let source = serde_json::from_str::<u8>("{").unwrap_err();
        Error::Row { table: "inbox", key: "a".to_owned(), source }
    }

    #[test]
    fn an_outage_is_503_and_names_the_service() {
        let log = || ReadError::Unavailable("gone".into());
        for error in [
            ApiError::from(log()),
            RentalError::Read(log()).into(),
            OperatorError::Append(AppendError::Unavailable(None)).into(),
            ErasureError::Read(log()).into(),
            SealError::Log(log()).into(),
            Error::Log(log()).into(),
        ] {
            let (status, code, detail) = answer(error);
            assert_eq!((status, code), (503, "log_unavailable"));
            assert_eq!(detail, "The event log does not answer.");
        }
        let keys = answer(ErasureError::Key(KeyError::Unavailable(None)));
        assert_eq!(keys, (503, "log_unavailable", "The key store does not answer.".to_owned()));
        let redis = answer(ErasureError::Cache(CacheError::Resting));
        assert_eq!(redis, (503, "view_unavailable", "Redis does not answer.".to_owned()));
    }

    #[test]
    fn a_permanent_fault_is_no_outage() {
        for error in [
            ApiError::from(ReadError::from(key_that_no_wrapping_key_opens())),
            AppendError::from(key_that_no_wrapping_key_opens()).into(),
            RentalError::View(row_that_is_no_json()).into(),
            OperatorError::Database(row_that_is_no_json()).into(),
            row_that_is_no_json().into(),
            ExportError::Write(std::io::Error::other("no")).into(),
        ] {
            assert_eq!(answer(error).0, 500);
        }
        assert_eq!(answer(AppendError::TooLarge).0, 413);
        assert_eq!(answer(AppendError::Conflict).1, "busy");
    }

    #[test]
    fn no_text_names_the_command_line() {
        let name = || "inbox".to_owned();
        for error in [
            OperatorError::NotBuilt(name()),
            OperatorError::NoReason,
            OperatorError::UnderWay { projection: name(), rebuild: "1".to_owned() },
            InvalidOperation::KeyWithRange.into(),
            OperationRejection::NothingParked { projection: name(), key: None }.into(),
        ] {
            let (_, _, detail) = answer(error);
            assert!(!detail.contains("exodrive") && !detail.contains("--"), "{detail}");
        }
        let (_, _, detail) = answer(ExportError::NothingSealed);
        assert!(!detail.contains("exodrive"), "{detail}");
    }

    #[test]
    fn staff_learns_more_of_a_refusal_than_customers() {
        let refusal = || {
            RentalError::Booking(BookingRejection::WrongStatus {
                action: exodrive_domain::booking::Action::PickUp,
                status: exodrive_domain::booking::Status::Completed,
                because: None,
                allowed: vec![exodrive_domain::booking::Action::AddNote],
            })
        };
        let allowed = |error: ApiError| error.more.allowed_actions.unwrap().len();
        assert_eq!(allowed(refusal().into()), 0);
        assert_eq!(allowed(rental_problem(refusal(), true)), 1);
    }
}
