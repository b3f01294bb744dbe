//! Times as text: UTC, RFC 3339, microseconds, always the same width, so that
//! text order is time order.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};

/// The one spelling of a time in headers, rows and answers, for example
/// `2026-11-20T09:15:05.118000Z`.
pub fn format(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Reads an RFC 3339 time in any offset and precision. Anything finer than a
/// microsecond is cut off, and a time whose year in UTC has not four digits is
/// none, so that a time survives being written and read.
pub fn parse(text: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text.trim()).ok()?.to_utc();
    let time = DateTime::from_timestamp_micros(time.timestamp_micros())?;
    (0..=9999).contains(&time.year()).then_some(time)
}

/// Reads a time in a form that Resend, Postgres or RFC 3339 writes: `T` or a
/// space before the hours, any fraction, and an offset as `Z`, `+02:00`, `+0200`
/// or `+02`. A time without an offset is no moment.
pub fn parse_any(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    parse(text).or_else(|| {
        let (at, sign) = text.char_indices().rfind(|(_, c)| matches!(c, '+' | '-'))?;
        let (moment, offset) = (text.get(..at)?, text.get(at + 1..)?);
        let offset = match offset.len() {
            2 => format!("{offset}:00"),
            4 => format!("{}:{}", offset.get(..2)?, offset.get(2..)?),
            _ => offset.to_owned(),
        };
        parse(&format!("{}{sign}{offset}", moment.replacen(' ', "T", 1)))
    })
}

/// Serde adapter for [`format()`] and [`parse`].
pub mod serde_micros {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the time as fixed-width text.
    pub fn serialize<S: Serializer>(time: &DateTime<Utc>, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&super::format(time))
    }

    /// Reads the output of [`serialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<DateTime<Utc>, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(input)?;
        super::parse(&text).ok_or_else(|| D::Error::custom("not an RFC 3339 time"))
    }

    /// The same for a time that may be absent.
    pub mod option {
        use chrono::{DateTime, Utc};
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        /// Writes the time as fixed-width text, or null.
        pub fn serialize<S: Serializer>(
            time: &Option<DateTime<Utc>>,
            out: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, out),
                None => out.serialize_none(),
            }
        }

        /// Reads the output of [`serialize`].
        pub fn deserialize<'de, D: Deserializer<'de>>(
            input: D,
        ) -> Result<Option<DateTime<Utc>>, D::Error> {
            let Some(text) = Option::<std::borrow::Cow<str>>::deserialize(input)? else {
                return Ok(None);
            };
            let time = crate::time::parse(&text);
            time.map(Some).ok_or_else(|| D::Error::custom("not an RFC 3339 time"))
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_order_is_time_order_and_offsets_become_utc() {
        let early = super::parse("2026-11-20T09:15:05Z").unwrap();
        let late = super::parse("2026-11-20T10:15:05.000001+01:00").unwrap();
        assert_eq!(super::format(&early), "2026-11-20T09:15:05.000000Z");
        assert_eq!(super::format(&late), "2026-11-20T09:15:05.000001Z");
        assert!(super::format(&early) < super::format(&late));
        assert_eq!(super::parse("yesterday"), None);
    }

    #[test]
    fn a_time_that_is_read_is_read_again_as_it_is_written() {
        for text in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2016-12-31T23:59:60Z"]
        {
            let time = super::parse(text).unwrap();
            assert_eq!(super::parse(&super::format(&time)), Some(time), "{text}");
        }
        // In UTC these are in the years 10000 and -1.
        for text in ["9999-12-31T23:59:59-00:01", "0000-01-01T00:00:00+00:01"] {
            assert_eq!((super::parse(text), super::parse_any(text)), (None, None), "{text}");
        }
    }

    #[test]
    fn times_are_read_in_every_form_that_somebody_writes() {
        let at = super::parse("2026-11-20T09:15:05.118Z").unwrap();
        for text in [
            "2026-11-20 09:15:05.118+00",
            "2026-11-20 09:15:05.118000+00:00",
            "2026-11-20 11:15:05.118+0200",
            "2026-11-20T04:15:05.118-05",
            " 2026-11-20T09:15:05.1180009Z ",
            "2026-11-20 09:15:05.118Z",
        ] {
            assert_eq!(super::parse_any(text), Some(at), "{text}");
        }
        let none = [
            "2026-11-20 09:15:05",
            "2026-11-20",
            "+",
            "é+00",
            "1763630105",
            "2026-11-20T25:00:00Z",
        ];
        for text in none {
            assert_eq!(super::parse_any(text), None, "{text}");
        }
    }
}
