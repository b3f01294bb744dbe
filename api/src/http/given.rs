//! Values of requests' bodies, on their way into commands: each goes through the
//! rule of the domain that also gives its bounds to the contract.

use super::{problem::ApiError, refusals::validation};
use chrono::NaiveDate;
use exodrive_domain::{
    booking,
    credential::Scope,
    days::parse_day,
    email,
    value::{InvalidField, InvalidValue, Rules, Text, TextRule, Valid, currencies, rules},
};
use serde::{Deserialize, Deserializer, de::Error};
use std::{borrow::Cow, collections::BTreeSet, fmt, marker::PhantomData};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat, Type},
};

/// A text as a client sent it. One that is `OPTIONAL` may be blank, which counts as left out.
pub(crate) struct Given<R, const OPTIONAL: bool = false>(String, PhantomData<R>);

macro_rules! given {
    ($($name:ident)* | $($optional:ident $rule:ident)*) => {
        $(pub(crate) type $name = Given<rules::$name>;)*
        $(pub(crate) type $optional = Given<rules::$rule, true>;)*
    };
}

// By names, since the contract knows no generic types.
given! {
    AddressText
    Category
    ChoiceId
    Description
    Label
    Note
    OfferText
    PersonName
    Reason
    ShortDescription
    |
    OptionalChoiceId ChoiceId
    OptionalDocumentReference DocumentReference
    OptionalNote Note
    OptionalPaymentReference PaymentReference
    OptionalPhone Phone
    OptionalReason Reason
    OptionalUserId UserId
}

impl<R: TextRule, const OPTIONAL: bool> Given<R, OPTIONAL> {
    /// The text by its rule.
    pub(super) fn read(&self, pointer: &str) -> Result<Text<R>, ApiError> {
        value(pointer, Text::parse(&self.0))
    }

    /// The text as it was sent, for a structure that applies its rules itself.
    pub(super) fn raw(&self) -> String {
        self.0.clone()
    }
}

/// A day (RFC 3339, `full-date`) of the years 2000 to 2199.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Day(pub(super) NaiveDate);

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        parse_day(&String::deserialize(input)?).map(Self).map_err(D::Error::custom)
    }
}

/// A text that may be left out; a blank one counts as left out.
pub(super) fn optional<R: TextRule>(
    pointer: &str,
    text: Option<&Given<R, true>>,
) -> Result<Option<Text<R>>, ApiError> {
    value(pointer, Text::optional(text.map(|text| text.0.as_str())))
}

/// A value, or the answer that names its fault.
pub(super) fn value<T>(pointer: &str, value: Result<T, InvalidValue>) -> Result<T, ApiError> {
    value.map_err(|fault| validation(vec![InvalidField::new(pointer, fault.0)]))
}

/// A structure by its rules, or the answer that names all faults. `pointer` is
/// its place in the body.
pub(super) fn valid<T: Rules>(pointer: &str, value: T) -> Result<Valid<T>, ApiError> {
    let inside = |fault: InvalidField| InvalidField {
        pointer: format!("{pointer}{}", fault.pointer),
        ..fault
    };
    Valid::new(value).map_err(|faults| validation(faults.into_iter().map(inside).collect()))
}

impl<'de, R, const OPTIONAL: bool> Deserialize<'de> for Given<R, OPTIONAL> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input).map(|text| Self(text, PhantomData))
    }
}

impl<R, const OPTIONAL: bool> fmt::Debug for Given<R, OPTIONAL> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<R, const OPTIONAL: bool> Clone for Given<R, OPTIONAL> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

/// White space (Unicode), as a regular expression has it between brackets.
const SPACE: &str =
    "\\u0009-\\u000d \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
/// What a text of several lines must not contain, and one of one line.
const CONTROLS: [&str; 2] = [
    "\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f",
    "\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029",
];

impl<R: TextRule, const OPTIONAL: bool> PartialSchema for Given<R, OPTIONAL> {
    fn schema() -> RefOr<Schema> {
        let least = if OPTIONAL { 0 } else { R::LEAST };
        let control = CONTROLS[usize::from(!R::LINES)];
        let seen =
            if least > 0 { format!("[^{control}{SPACE}][^{control}]*") } else { String::new() };
        ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length((least > 0).then_some(least))
            .max_length(Some(R::MOST))
            .pattern(Some(format!("^[{SPACE}]*[^{control}]*{seen}[{SPACE}]*$")))
            .into()
    }
}

impl<R: TextRule, const OPTIONAL: bool> ToSchema for Given<R, OPTIONAL> {
    fn name() -> Cow<'static, str> {
        let optional = if OPTIONAL { "Optional" } else { "" };
        format!("{optional}{}Text", R::NAME.trim_end_matches("Text")).into()
    }
}

impl PartialSchema for Day {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Date)))
            .pattern(Some("^2[01][0-9]{2}-[0-9]{2}-[0-9]{2}$"))
            .description(Some("A day (RFC 3339, `full-date`) of the years 2000 to 2199"))
            .into()
    }
}

impl ToSchema for Day {}

/// A currency (ISO 4217) that has a minor unit. Only for the contract.
pub(crate) struct Currency;

impl PartialSchema for Currency {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(currencies()))
            .description(Some("The code of a currency (ISO 4217) that has a minor unit"))
            .into()
    }
}

impl ToSchema for Currency {}

/// An email address. Only for the contract.
pub(crate) struct Email;

impl PartialSchema for Email {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::IdnEmail)))
            .min_length(Some(3))
            .max_length(Some(rules::AddressText::MOST))
            .description(Some("One email address (RFC 5321 and 6531), without a display name"))
            .into()
    }
}

impl ToSchema for Email {}

/// Statuses of bookings with commas between. Only for the contract.
pub(crate) struct BookingStatuses;

impl PartialSchema for BookingStatuses {
    fn schema() -> RefOr<Schema> {
        list_of(booking::Status::NAMES.iter().copied())
    }
}

impl ToSchema for BookingStatuses {}

/// A scope of a service key. Only for the contract.
pub(crate) struct KeyScope;

impl PartialSchema for KeyScope {
    fn schema() -> RefOr<Schema> {
        let names = Scope::ALL.map(Scope::name);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
    }
}

impl ToSchema for KeyScope {}

/// Statuses of emails with commas between. Only for the contract.
pub(crate) struct EmailStatuses;

impl PartialSchema for EmailStatuses {
    fn schema() -> RefOr<Schema> {
        list_of(email::Status::ALL.iter().map(|status| status.name()))
    }
}

impl ToSchema for EmailStatuses {}

fn list_of<'a>(names: impl Iterator<Item = &'a str>) -> RefOr<Schema> {
    let names: BTreeSet<_> = names.collect();
    let name = format!(" *({})? *", Vec::from_iter(names).join("|"));
    let text = ObjectBuilder::new().schema_type(Type::String);
    text.pattern(Some(format!("^{name}(,{name})*$"))).into()
}

/// A day of the week; 0 is Sunday. Only for the contract.
pub(crate) struct Weekday;

impl PartialSchema for Weekday {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer);
        number.minimum(Some(0)).maximum(Some(6)).description(Some("0 is Sunday")).into()
    }
}

impl ToSchema for Weekday {}

/// A moment in the log: a time (RFC 3339) or a position. Only for the contract.
pub(crate) struct Moment;

impl PartialSchema for Moment {
    fn schema() -> RefOr<Schema> {
        let time = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        OneOfBuilder::new()
            .item(ObjectBuilder::new().schema_type(Type::String).format(Some(time)))
            .item(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)))
            .description(Some("A time (RFC 3339) or a position of the log"))
            .into()
    }
}

impl ToSchema for Moment {}
