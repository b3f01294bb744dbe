//! The one list of all views.

use crate::engine::projection::{Definition, Projection};

/// Runs `$body` for every projection, with `$P` as its type. The one list of them.
#[macro_export]
macro_rules! for_each_projection {
    ($P:ident => $body:expr) => {
        $crate::for_each_projection!(
            $P => $body;
            $crate::views::inbox::Inbox,
            $crate::views::email_timeline::EmailTimeline,
            $crate::views::deliveries::Deliveries,
            $crate::views::cars::Cars,
            $crate::views::calendar::CalendarView,
            $crate::views::bookings::Bookings,
            $crate::views::booking_timeline::BookingTimeline,
            $crate::views::customers::Customers,
            $crate::views::payments::Payments,
            $crate::views::accesses::Accesses
        )
    };
    ($P:ident => $body:expr; $($projection:ty),*) => {{
        $({
            type $P = $projection;
            $body
        })*
    }};
}

/// The names of all projections.
pub fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    for_each_projection!(P => names.push(P::NAME));
    names
}

/// The version of a projection's fold in this release; 0 if there is no such
/// projection.
pub fn version(name: &str) -> i32 {
    let mut version = 0;
    for_each_projection!(P => {
        if P::NAME == name {
            version = Definition::of::<P>().version;
        }
    });
    version
}
