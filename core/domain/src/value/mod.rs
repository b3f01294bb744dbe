//! The one door for values: what people and programs give is made into these
//! types before a command can hold it, by the API, the import and the command
//! line alike.
//!
//! A text that stands alone in a command is a [`Text`]; a structure of several
//! values is [`Valid`]. Both are made in one way only, which normalises the
//! value and names each fault by its JSON pointer. Stored events keep plain
//! strings: what an earlier release accepted stays readable.

mod currency;
mod email_address;
mod fault;
mod text;
mod url;
mod valid;

pub use currency::{DEFAULT_CURRENCY, check_currency, currencies, format_amount, minor_digits};
pub use email_address::{EmailAddress, address_key, mailboxes};
pub use fault::{InvalidField, InvalidValue};
pub use text::{
    AddressText, Category, ChoiceId, Description, DocumentReference, FeatureText, HistoryName,
    HistorySummary, ImageAlt, Label, Note, OfferText, PaymentReference, PersonName, Phone, Reason,
    ShortDescription, SpecificationText, Text, TextRule, UserId, rules,
};
pub use url::check_image_url;
pub use valid::{Faults, MOST_MINOR_UNITS, Rules, Valid};
