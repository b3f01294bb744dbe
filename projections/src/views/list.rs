//! The one list of all views.

use crate::engine::projection::{Definition, PersonalData, Projection};

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

/// A view as people and the record of reads know it.
#[derive(Clone, Copy, Debug)]
pub struct ViewInfo {
    /// [`Projection::NAME`].
    pub name: &'static str,
    /// [`Projection::ABOUT`].
    pub about: &'static str,
    /// [`Projection::KEY_EXAMPLE`].
    pub key_example: &'static str,
    /// [`Projection::personal`].
    pub personal: fn(&str) -> PersonalData<'_>,
}

/// All views.
pub fn views() -> Vec<ViewInfo> {
    let mut views = Vec::new();
    for_each_projection!(P => views.push(ViewInfo {
        name: P::NAME,
        about: P::ABOUT,
        key_example: P::KEY_EXAMPLE,
        personal: P::personal,
    }));
    views
}

/// The view of this name.
pub fn view(name: &str) -> Option<ViewInfo> {
    views().into_iter().find(|view| view.name == name)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_view_is_described_and_its_example_is_a_key_of_its_own_form() {
        let names: BTreeSet<_> = names().into_iter().collect();
        assert_eq!(names.len(), views().len(), "no name twice");
        for it in views() {
            assert!(it.about.contains(", by "), "{}: {:?} names the key", it.name, it.about);
            let personal = (it.personal)(it.key_example).resource();
            if let Some((resource, Some(id))) = personal {
                assert!(!resource.is_empty() && !id.is_empty(), "{}", it.name);
                assert!(it.key_example.contains(id), "{}: {id}", it.name);
            }
        }
    }

    #[test]
    fn every_folder_of_a_view_is_in_the_list() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/views");
        let folders: BTreeSet<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        assert_eq!(folders, names().into_iter().map(str::to_owned).collect());
    }

    /// True if SQL reads this table.
    fn reads(sql: &str, table: &str) -> bool {
        ["from ", "join "].iter().any(|clause| {
            sql.match_indices(clause).any(|(at, clause)| {
                let rest = sql[at + clause.len()..].strip_prefix(table);
                rest.is_some_and(|rest| {
                    !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
                })
            })
        })
    }

    #[test]
    fn every_query_names_the_views_that_it_reads() {
        let mut types = Vec::new();
        for_each_projection!(P => {
            let path = std::any::type_name::<P>();
            types.push((P::NAME, format!("{}::NAME", path.rsplit("::").next().unwrap())));
        });
        let mut queries = 0;
        for folder in names() {
            let file = format!("{}/src/views/{folder}/read.rs", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(file).unwrap();
            for function in text.split("async fn ").skip(1) {
                let body = &function[..function.find("\n}\n").unwrap()];
                let name = body.split('(').next().unwrap();
                // A part of a query takes the transaction of a query that has named them.
                let part = body.split('{').next().unwrap().contains("&mut Transaction");
                let over = body.split(".over(").nth(1).map(|it| it.split("?;").next().unwrap());
                assert!(part || over.is_some(), "{folder}: {name}");
                // A list that others need as well has a name, in the same file.
                let over = over.filter(|it| it.contains("::NAME"));
                let named = over.unwrap_or(text.as_str());
                for (table, kind) in types.iter().filter(|(table, _)| reads(body, table)) {
                    assert!(named.contains(kind.as_str()), "{folder}: {name} reads {table}");
                    queries += 1;
                }
            }
        }
        assert!(queries > 20, "{queries} views are read by queries");
    }

    #[test]
    fn a_row_is_recorded_under_the_thing_that_it_shows() {
        let of = |name: &str, key: &'static str| (view(name).unwrap().personal)(key).resource();
        assert_eq!(of("inbox", "em-1"), Some(("email", Some("em-1"))));
        assert_eq!(of("email_timeline", "em-1/msg/1"), Some(("email", Some("em-1"))));
        assert_eq!(of("booking_timeline", "b1/0001"), Some(("booking", Some("b1"))));
        assert_eq!(
            of("booking_timeline", "dana@example.com/email/em-1"),
            Some(("email", Some("em-1")))
        );
        assert_eq!(of("accesses", "customer/c1/2026-11-20/auditor:ada"), Some(("access", None)));
        assert_eq!(of("cars", "c1"), None);
        assert!(view("nothing").is_none());
    }
}
