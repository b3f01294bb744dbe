//! Texts. One rule for all of them, with bounds for each:
//!
//! - White space at both ends is removed. In a text of several lines, every
//!   line end becomes `\n`.
//! - Control characters (Unicode category Cc) are refused, except line ends and
//!   tabs in a text of several lines. So are U+2028 and U+2029 in one line.
//! - Lengths are counted in code points: the greatest of the text as it was
//!   given, which is what a schema can say, and the least of what is left. A code
//!   point has at most four bytes of UTF-8, so each bound is one in bytes too.
//! - A text that may not be empty has a character that people can see.

use super::fault::InvalidValue;
use std::{fmt, marker::PhantomData, ops::Deref, str::FromStr};

/// The bounds of a kind of text.
pub trait TextRule {
    /// The least length, in code points.
    const LEAST: usize;
    /// The greatest length, in code points.
    const MOST: usize;
    /// True if it may have several lines.
    const LINES: bool;
    /// The name of the kind.
    const NAME: &'static str;
}

/// A text that keeps its rule.
pub struct Text<R>(String, PhantomData<R>);

impl<R: TextRule> Text<R> {
    /// The greatest length, in code points.
    pub const MOST: usize = R::MOST;

    /// Normalises a text and checks it.
    ///
    /// # Errors
    /// [`InvalidValue`]: the part of the rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let given = text.chars().count();
        let lines = if R::LINES && text.contains('\r') {
            &*text.replace("\r\n", "\n").replace('\r', "\n")
        } else {
            text
        };
        let text = lines.trim();
        let control = |c: char| match c {
            '\n' | '\t' => !R::LINES,
            '\u{2028}' | '\u{2029}' => !R::LINES,
            c => c.is_control(),
        };
        if let Some(found) = text.chars().find(|c| control(*c)) {
            let found = u32::from(found);
            return Err(InvalidValue::new(format!(
                "must not contain the control character U+{found:04X}"
            )));
        }
        if given > R::MOST || text.chars().count() < R::LEAST {
            return Err(InvalidValue::new(match R::LEAST {
                0 => format!("must have at most {} characters", R::MOST),
                least => format!("must have {least} to {} characters", R::MOST),
            }));
        }
        if R::LEAST > 0 && text.chars().all(is_invisible) {
            return Err(InvalidValue::new("must have a character that can be seen"));
        }
        Ok(Self(text.to_owned(), PhantomData))
    }

    /// The same for a text that may be left out. A blank one counts as left out.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn optional(text: Option<&str>) -> Result<Option<Self>, InvalidValue> {
        text.filter(|text| !text.trim().is_empty()).map(Self::parse).transpose()
    }
}

/// Characters that show nothing (from Unicode's `Default_Ignorable_Code_Point`),
/// and white space.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident $least:literal to $most:literal $lines:ident;)*) => {
        /// The rules of the texts, by which they are told apart.
        pub mod rules {
            use super::TextRule;
            $(
                $(#[$doc])*
                #[derive(Clone, Copy, Debug, PartialEq, Eq)]
                pub struct $name;

                impl TextRule for $name {
                    const LEAST: usize = $least;
                    const MOST: usize = $most;
                    const LINES: bool = texts!(@ $lines);
                    const NAME: &'static str = stringify!($name);
                }
            )*
        }
        $($(#[$doc])* pub type $name = Text<rules::$name>;)*
    };
    (@ line) => { false };
    (@ lines) => { true };
}

texts! {
    /// The name of something that people see: a car, a fee, a specification.
    Label 1 to 100 line;
    /// The category of a car.
    Category 1 to 50 line;
    /// The long text about a car.
    Description 0 to 2_000 lines;
    /// The short text about a car.
    ShortDescription 0 to 200 lines;
    /// The value of a specification.
    SpecificationText 0 to 200 lines;
    /// The text about a feature.
    FeatureText 0 to 500 lines;
    /// The text about a discount.
    OfferText 0 to 200 lines;
    /// The text for people who cannot see an image.
    ImageAlt 0 to 200 line;
    /// The id of a fee or a location within a price list.
    ChoiceId 1 to 100 line;
    /// The reason of a command.
    Reason 1 to 500 lines;
    /// A note about a booking.
    Note 1 to 5_000 lines;
    /// A payment provider's reference.
    PaymentReference 1 to 200 line;
    /// The id of a document at the signing service.
    DocumentReference 1 to 500 line;
    /// A part of a person's name. One name is a name: the other part may be
    /// empty.
    PersonName 0 to 100 line;
    /// A telephone number, as given.
    Phone 1 to 40 line;
    /// The account of a person at the identity provider: the `sub` of its
    /// tokens.
    UserId 1 to 255 line;
    /// An email address as a person writes it (RFC 5321, 4.5.3.1.3).
    AddressText 3 to 254 line;
    /// The name of a line of the present product's history of a booking.
    HistoryName 1 to 200 line;
    /// The text of such a line.
    HistorySummary 0 to 5_000 lines;
}

impl<R> Text<R> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<R> Clone for Text<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<R> PartialEq for Text<R> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<R> Eq for Text<R> {}

impl<R> fmt::Debug for Text<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<R> fmt::Display for Text<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<R> Deref for Text<R> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<R> From<Text<R>> for String {
    fn from(text: Text<R>) -> Self {
        text.0
    }
}

impl<R: TextRule> FromStr for Text<R> {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault<R: TextRule>(text: &str) -> String {
        Text::<R>::parse(text).unwrap_err().0
    }

    #[test]
    fn control_characters_are_refused_and_lines_are_normalised() {
        assert_eq!(fault::<rules::Note>("a\0b"), "must not contain the control character U+0000");
        assert_eq!(
            fault::<rules::Note>("a\u{9b}b"),
            "must not contain the control character U+009B"
        );
        assert_eq!(fault::<rules::Label>("a\nb"), "must not contain the control character U+000A");
        assert_eq!(
            fault::<rules::Label>("a\u{2028}b"),
            "must not contain the control character U+2028"
        );
        assert_eq!(Note::parse(" a\r\nb\rc\td\u{2028}\n").unwrap().as_str(), "a\nb\nc\td");
        assert_eq!(Label::parse("\u{3000}Huracán \n").unwrap().as_str(), "Huracán");
    }

    #[test]
    fn lengths_are_counted_in_code_points() {
        assert_eq!(Label::parse(&"🏎".repeat(100)).unwrap().len(), 400);
        assert_eq!(fault::<rules::Label>(&"é".repeat(101)), "must have 1 to 100 characters");
        assert_eq!(fault::<rules::Label>("  "), "must have 1 to 100 characters");
        assert_eq!(fault::<rules::ImageAlt>(&"x".repeat(201)), "must have at most 200 characters");
        assert_eq!(PersonName::parse(" ").unwrap().as_str(), "");
        let padded = format!("{} ", "x".repeat(100));
        assert_eq!(fault::<rules::Label>(&padded), "must have 1 to 100 characters");
    }

    #[test]
    fn a_text_can_be_seen() {
        for blank in ["\u{200b}", "\u{feff}\u{200d}", "\u{3164}", "\u{ad}"] {
            assert_eq!(fault::<rules::Label>(blank), "must have a character that can be seen");
        }
        // Joiners are part of words and of emoji.
        for seen in ["👩\u{200d}🔧", "می\u{200c}خواهم"] {
            assert_eq!(Label::parse(seen).unwrap().as_str(), seen);
        }
        assert_eq!(Reason::optional(Some(" \n")).unwrap(), None);
        assert_eq!(Reason::optional(None).unwrap(), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_is_bounded_and_is_taken_again(text in "\\PC{0,30}|.{0,40}|[\\r\\n\\t a]{0,9}") {
            for text in [Note::parse(&text).map(String::from), Label::parse(&text).map(String::from)]
                .into_iter().flatten()
            {
                prop_assert!(!text.contains(['\0', '\r']));
                prop_assert_eq!(text.trim(), &text);
                let again = Note::parse(&text).unwrap();
                prop_assert_eq!(again.as_str(), &text);
            }
        }
    }
}
