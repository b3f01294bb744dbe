//! What a service key may do: a short, closed list.

use std::{fmt, str::FromStr};

/// What a service key may do. Each operation of the API belongs to one scope at most; those of none
/// are closed to keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Read cars, calendars, blocks and prices.
    FleetRead,
    /// Change cars, prices, pictures and blocks.
    FleetWrite,
    /// Read bookings.
    BookingsRead,
    /// Make bookings, and act on them as staff.
    BookingsWrite,
    /// Read customers and the dashboard.
    CustomersRead,
    /// Read email and its deliveries.
    InboxRead,
    /// Read events, exports, histories, reads by staff, and the past of any row.
    AuditRead,
}

impl Scope {
    /// Every scope, in the order in which lists show them.
    pub const ALL: [Self; 7] = [
        Self::FleetRead,
        Self::FleetWrite,
        Self::BookingsRead,
        Self::BookingsWrite,
        Self::CustomersRead,
        Self::InboxRead,
        Self::AuditRead,
    ];

    /// Its name on the wire and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::FleetRead => "fleet:read",
            Self::FleetWrite => "fleet:write",
            Self::BookingsRead => "bookings:read",
            Self::BookingsWrite => "bookings:write",
            Self::CustomersRead => "customers:read",
            Self::InboxRead => "inbox:read",
            Self::AuditRead => "audit:read",
        }
    }

    /// True if it lets a key change something.
    pub fn writes(self) -> bool {
        matches!(self, Self::FleetWrite | Self::BookingsWrite)
    }
}

/// A text that is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no scope; the scopes are fleet:read, fleet:write, bookings:read, bookings:write, customers:read, inbox:read and audit:read"
)]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or(UnknownScope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
