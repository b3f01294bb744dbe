//! Log lines to standard error: for people on a terminal, JSON otherwise.
//!
//! A line may hold ids, positions, counts and times. It never holds a payload,
//! an address, a subject line, a token or a password.

use std::{io::IsTerminal, panic};
use tracing_subscriber::EnvFilter;

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// Human on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is not one of auto, human, json")),
        }
    }
}

/// Starts logging. `filter` is a level, or directives such as
/// `info,exodrive_projections=debug`.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(filter: &str, format: Format) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("cannot read the log filter {filter:?}: {error}"))?;
    let human = match format {
        Format::Auto => std::io::stderr().is_terminal(),
        Format::Human => true,
        Format::Json => false,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if human {
        lines.compact().with_ansi(std::io::stderr().is_terminal()).init();
    } else {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
    }
    // A panic's message may quote its input, which may hold personal data.
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(tracing::field::display);
        tracing::error!(place, "Panicked; the message is withheld, it may hold personal data");
    }));
    Ok(())
}

/// A W3C trace context (<https://www.w3.org/TR/trace-context/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
}

impl TraceContext {
    /// A span of the caller's trace if `traceparent` is valid, else of a new
    /// trace.
    pub fn continuing(traceparent: Option<&str>) -> Self {
        let trace_id = traceparent.and_then(parse_trace_id).unwrap_or_else(nonzero);
        Self { trace_id, span_id: nonzero() }
    }

    /// The trace's id, 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The header that hands this span on.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace_id, self.span_id)
    }
}

fn parse_trace_id(traceparent: &str) -> Option<u128> {
    let mut parts = traceparent.trim().split('-');
    let (version, trace_id, span_id) = (parts.next()?, parts.next()?, parts.next()?);
    let hexadecimal =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let valid = version.len() == 2
        && version != "ff"
        && trace_id.len() == 32
        && span_id.len() == 16
        && [version, trace_id, span_id].into_iter().all(hexadecimal);
    u128::from_str_radix(trace_id, 16).ok().filter(|id| valid && *id != 0)
}

fn nonzero<T: Default + PartialEq>() -> T
where
    rand::distr::StandardUniform: rand::distr::Distribution<T>,
{
    loop {
        let id: T = rand::random();
        if id != T::default() {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_trace_is_continued_and_others_begin_again() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::continuing(Some(given));
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_ne!(context.traceparent(), given);
        assert!(parse_trace_id(&context.traceparent()).is_some());
        for unsound in [
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "garbage",
        ] {
            assert_eq!(parse_trace_id(unsound), None, "{unsound}");
        }
    }
}
