//! Values of requests' bodies, on their way into commands: each goes through the
//! rule of the domain that also gives its bounds to the contract.

use super::{problem::ApiError, refusals::validation};
use chrono::NaiveDate;
use exodrive_domain::{
    days::parse_day,
    value::{InvalidField, InvalidValue, Rules, Text, TextRule, Valid, rules},
};
use serde::{Deserialize, Deserializer, de::Error};
use std::{borrow::Cow, fmt, marker::PhantomData};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// A text as a client sent it.
pub(crate) struct Given<R>(String, PhantomData<R>);

macro_rules! given {
    ($($name:ident)*) => {
        $(pub(crate) type $name = Given<rules::$name>;)*
    };
}

// By names, since the contract knows no generic types.
given! {
    AddressText
    Category
    ChoiceId
    Description
    DocumentReference
    Label
    Note
    OfferText
    PaymentReference
    PersonName
    Phone
    Reason
    ShortDescription
    UserId
}

impl<R: TextRule> Given<R> {
    /// The text by its rule.
    pub(super) fn read(&self, pointer: &str) -> Result<Text<R>, ApiError> {
        value(pointer, Text::parse(&self.0))
    }

    /// The text as it was sent, for a structure that applies its rules itself.
    pub(super) fn raw(&self) -> String {
        self.0.clone()
    }
}

/// A day as a client sent it, by [`parse_day`].
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
    text: Option<&Given<R>>,
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

impl<'de, R> Deserialize<'de> for Given<R> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input).map(|text| Self(text, PhantomData))
    }
}

impl<R> fmt::Debug for Given<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<R> Clone for Given<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<R: TextRule> PartialSchema for Given<R> {
    fn schema() -> RefOr<Schema> {
        let least = (R::LEAST > 0).then_some(R::LEAST);
        ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(least)
            .max_length(Some(R::MOST))
            .into()
    }
}

impl<R: TextRule> ToSchema for Given<R> {
    fn name() -> Cow<'static, str> {
        match R::NAME.strip_suffix("Text") {
            Some(_) => R::NAME.into(),
            None => format!("{}Text", R::NAME).into(),
        }
    }
}
