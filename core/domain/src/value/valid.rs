//! Structures of several values, each by its rule.

use super::{
    fault::{InvalidField, InvalidValue},
    text::{Text, TextRule},
};
use std::ops::Deref;

/// The largest amount of money in one value, in minor units. More than nine
/// million such amounts can be added before a sum of 64 bits overflows.
pub const MOST_MINOR_UNITS: i64 = 1_000_000_000_000;

/// Collects the faults of a structure while its values are normalised.
#[derive(Debug, Default)]
pub struct Faults(Vec<InvalidField>);

impl Faults {
    /// Adds a fault unless the condition holds.
    pub fn check(&mut self, holds: bool, pointer: &str, detail: impl Into<String>) {
        if !holds {
            self.0.push(InvalidField::new(pointer, detail));
        }
    }

    /// Takes a value, or its fault.
    pub fn take<T>(&mut self, pointer: &str, value: Result<T, InvalidValue>) -> Option<T> {
        value.map_err(|fault| self.0.push(InvalidField::new(pointer, fault.0))).ok()
    }

    /// Normalises a text by a rule.
    pub fn text<R: TextRule>(&mut self, pointer: &str, text: &mut String) {
        if let Some(read) = self.take(pointer, Text::<R>::parse(text)) {
            *text = read.into();
        }
    }

    /// The same for a text that may be left out. A blank one counts as left
    /// out.
    pub fn optional_text<R: TextRule>(&mut self, pointer: &str, text: &mut Option<String>) {
        if let Some(read) = self.take(pointer, Text::<R>::optional(text.as_deref())) {
            *text = read.map(String::from);
        }
    }

    /// Checks an amount of money.
    pub fn amount(&mut self, pointer: &str, minor_units: i64) {
        let valid = (0..=MOST_MINOR_UNITS).contains(&minor_units);
        self.check(valid, pointer, format!("must be from 0 to {MOST_MINOR_UNITS}"));
    }

    /// Takes the faults of a structure, each with its place inside this one.
    pub fn within<T>(&mut self, pointer: &str, value: Result<T, Vec<InvalidField>>) -> Option<T> {
        let inside = |fault: InvalidField| InvalidField {
            pointer: format!("{pointer}{}", fault.pointer),
            ..fault
        };
        value.map_err(|faults| self.0.extend(faults.into_iter().map(inside))).ok()
    }

    /// The value, if nothing was at fault.
    ///
    /// # Errors
    /// All faults.
    pub fn or<T>(self, value: T) -> Result<T, Vec<InvalidField>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}

/// A structure whose values have rules.
pub trait Rules {
    /// Normalises each value, and collects what is at fault.
    fn apply(&mut self, faults: &mut Faults);
}

/// A structure that keeps its rules, and is normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valid<T>(T);

impl<T: Rules> Valid<T> {
    /// Applies the rules.
    ///
    /// # Errors
    /// All faults, each with its place in the structure.
    pub fn new(mut value: T) -> Result<Self, Vec<InvalidField>> {
        let mut faults = Faults::default();
        value.apply(&mut faults);
        faults.or(()).map(|()| Self(value))
    }
}

impl<T> Valid<T> {
    /// The structure.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Valid<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
