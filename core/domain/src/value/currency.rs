//! Currencies (ISO 4217) and their minor units. Every `…_cents` of the system
//! is a count of minor units: cents of USD, whole JPY, thousandths of KWD.

use super::fault::InvalidValue;
use iso_currency::Currency;

/// The currency where a price list names none.
pub const DEFAULT_CURRENCY: &str = "USD";

/// Digits of the minor unit of a currency that an older release took and that
/// is in no list.
const UNKNOWN_DIGITS: u32 = 2;

/// Checks a currency's code: three capital letters, in the list of ISO 4217,
/// with a minor unit (so no metals, no test codes).
///
/// # Errors
/// [`InvalidValue`].
pub fn check_currency(code: &str) -> Result<(), InvalidValue> {
    known_digits(code).map(|_| ()).ok_or_else(|| {
        InvalidValue::new("must be the ISO 4217 code of a currency, for example USD")
    })
}

/// The codes that [`check_currency`] takes, in order.
pub fn currencies() -> Vec<&'static str> {
    let letters = || 'A'..='Z';
    let pairs = letters().flat_map(|a| letters().map(move |b| [a, b]));
    let codes = pairs.flat_map(|[a, b]| letters().map(move |c| String::from_iter([a, b, c])));
    let known = codes.filter(|code| known_digits(code).is_some());
    known.filter_map(|code| Currency::from_code(&code)).map(|it| it.code()).collect()
}

/// Digits of the minor unit: 2 for USD, 0 for JPY, 3 for KWD.
pub fn minor_digits(code: &str) -> u32 {
    known_digits(code).unwrap_or(UNKNOWN_DIGITS)
}

fn known_digits(code: &str) -> Option<u32> {
    let currency = Currency::from_code(code).filter(|it| it.code() == code)?;
    if matches!(currency, Currency::XXX | Currency::XTS) {
        return None;
    }
    currency.exponent().map(u32::from)
}

/// An amount for people, with its currency: `1295.00 USD`, `1295 JPY`.
pub fn format_amount(minor_units: i64, currency: &str) -> String {
    let sign = if minor_units < 0 { "-" } else { "" };
    let digits = minor_digits(currency);
    let unit = 10_u64.pow(digits);
    let (whole, part) = (minor_units.unsigned_abs() / unit, minor_units.unsigned_abs() % unit);
    match digits {
        0 => format!("{sign}{whole} {currency}"),
        digits => format!("{sign}{whole}.{part:0width$} {currency}", width = digits as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_in_the_list_and_has_a_minor_unit() {
        for code in ["USD", "EUR", "JPY", "KWD", "CHF", "CLF"] {
            assert_eq!(check_currency(code), Ok(()), "{code}");
        }
        for code in ["usd", "ZZZ", "XAU", "XXX", "XTS", "DEM", "US", "", "US$", "ＵＳＤ", "USD "]
        {
            assert!(check_currency(code).is_err(), "{code}");
        }
    }

    #[test]
    fn every_code_is_listed() {
        let codes = currencies();
        assert!(codes.is_sorted() && codes.len() > 150, "{codes:?}");
        assert!(codes.iter().all(|code| check_currency(code).is_ok()));
        assert!(["USD", "JPY", "KWD"].iter().all(|code| codes.contains(code)));
    }

    #[test]
    fn amounts_are_written_in_major_units() {
        assert_eq!(format_amount(129_500, "USD"), "1295.00 USD");
        assert_eq!(format_amount(-5, "EUR"), "-0.05 EUR");
        assert_eq!(format_amount(1_295, "JPY"), "1295 JPY");
        assert_eq!(format_amount(1_295, "KWD"), "1.295 KWD");
        assert_eq!(format_amount(1_295, "ZZZ"), "12.95 ZZZ");
        assert_eq!(format_amount(i64::MIN, "JPY"), "-9223372036854775808 JPY");
    }
}
