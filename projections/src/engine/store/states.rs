//! The closed lists that the engine's tables keep as text, and which state may
//! follow which. The names of a list stand here only: in Postgres, in JSON, on the
//! command line and in the API's description they are spelled alike.

use serde::{Deserialize, Serialize};
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef},
};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

/// How far a rebuild is. While it is `recorded`, no worker has applied it; while it
/// is `waiting`, rows differ: accept or cancel it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schema(example = "building")]
pub enum RebuildState {
    /// It stands in the log; no worker has applied it, so the database does not
    /// know it.
    Recorded,
    /// No worker has begun it.
    Queued,
    /// Rows are loaded into its generation.
    Building,
    /// The rows get their indexes.
    Indexing,
    /// Its generation folds what came meanwhile.
    CatchingUp,
    /// Its rows are compared with those that readers see.
    Comparing,
    /// Rows differ: an operator accepts that, or cancels it.
    Waiting,
    /// Readers are about to be given its generation.
    Swapping,
    /// Readers see its generation; or its one row was folded again.
    Done,
    /// An operator ended it.
    Cancelled,
    /// It was given up.
    Failed,
}

impl RebuildState {
    /// True if nothing more comes of it.
    pub const fn is_over(self) -> bool {
        match self {
            Self::Done | Self::Cancelled | Self::Failed => true,
            Self::Recorded
            | Self::Queued
            | Self::Building
            | Self::Indexing
            | Self::CatchingUp
            | Self::Comparing
            | Self::Waiting
            | Self::Swapping => false,
        }
    }

    /// True if a rebuild in this state may come to be in `next`. Another worker
    /// that takes one over goes on where it was, or loads its rows again.
    pub(crate) const fn may_become(self, next: Self) -> bool {
        if self.is_over() || matches!(self, Self::Recorded) {
            return false;
        }
        match next {
            // Nothing goes back to before it was begun.
            Self::Recorded | Self::Queued => false,
            // Of a rollback, the generation that is there catches up.
            Self::Building | Self::CatchingUp | Self::Cancelled | Self::Failed => true,
            Self::Indexing => matches!(self, Self::Building),
            Self::Comparing => {
                matches!(self, Self::CatchingUp | Self::Comparing | Self::Waiting | Self::Swapping)
            }
            Self::Waiting | Self::Swapping => {
                matches!(self, Self::Comparing | Self::Waiting | Self::Swapping)
            }
            // One row is folded in one step.
            Self::Done => matches!(self, Self::Queued | Self::Swapping),
        }
    }

    /// The states from which a rebuild may come to be in this one.
    pub(crate) fn predecessors(self) -> Vec<Self> {
        Self::VARIANTS.iter().copied().filter(|state| state.may_become(self)).collect()
    }

    /// The states in which nothing more comes of a rebuild.
    pub(crate) fn over() -> Vec<Self> {
        Self::VARIANTS.iter().copied().filter(|state| state.is_over()).collect()
    }
}

/// What a rebuild is.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schema(example = "rebuild")]
pub enum RebuildKind {
    /// A generation of the same version, which an operator asked for.
    Rebuild,
    /// One row, folded again in the generation that readers see.
    Key,
    /// The generation before, given back to readers.
    Rollback,
    /// A generation of a newer version of the fold.
    Version,
}

impl RebuildKind {
    /// The state of its generation if that is not swapped in: one that is rolled
    /// back to is kept.
    pub(crate) const fn abandoned(self) -> GenerationState {
        match self {
            Self::Rollback => GenerationState::Previous,
            Self::Rebuild | Self::Key | Self::Version => GenerationState::Dropping,
        }
    }
}

/// What a generation is for.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schema(example = "active")]
pub enum GenerationState {
    /// Its rows are being loaded and mean nothing yet.
    Building,
    /// Its rows are the fold up to its checkpoint; nobody reads them.
    CatchingUp,
    /// Readers see it.
    Active,
    /// Readers saw it.
    Previous,
    /// Workers remove it.
    Dropping,
}

impl GenerationState {
    /// True if its writers keep it level with the log whoever reads it.
    pub(crate) const fn is_kept_level(self) -> bool {
        match self {
            Self::CatchingUp | Self::Active => true,
            Self::Building | Self::Previous | Self::Dropping => false,
        }
    }

    /// True if a generation in this state may come to be in `next`.
    pub(crate) const fn may_become(self, next: Self) -> bool {
        match next {
            Self::Building => false,
            Self::CatchingUp => matches!(self, Self::Building | Self::Previous),
            Self::Active => matches!(self, Self::CatchingUp),
            Self::Previous => matches!(self, Self::Active | Self::CatchingUp),
            Self::Dropping => matches!(self, Self::Building | Self::CatchingUp | Self::Previous),
        }
    }

    /// The states from which a generation may come to be in this one.
    pub(crate) fn predecessors(self) -> Vec<Self> {
        Self::VARIANTS.iter().copied().filter(|state| state.may_become(self)).collect()
    }

    /// The states in which writers keep a generation level.
    pub(crate) fn kept_level() -> Vec<Self> {
        Self::VARIANTS.iter().copied().filter(|state| state.is_kept_level()).collect()
    }

    /// The states of a generation that no reader has seen since it was begun.
    pub(crate) fn unfinished() -> [Self; 2] {
        [Self::Building, Self::CatchingUp]
    }
}

/// Lets a list stand in a column of type `text`, by the names that strum gives it.
macro_rules! text_column {
    ($($list:ty),+) => {$(
        impl Type<Postgres> for $list {
            fn type_info() -> PgTypeInfo {
                <str as Type<Postgres>>::type_info()
            }

            fn compatible(column: &PgTypeInfo) -> bool {
                <str as Type<Postgres>>::compatible(column)
            }
        }

        impl PgHasArrayType for $list {
            fn array_type_info() -> PgTypeInfo {
                <&str as PgHasArrayType>::array_type_info()
            }
        }

        impl Encode<'_, Postgres> for $list {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <&str as Encode<'_, Postgres>>::encode(self.into(), buffer)
            }
        }

        impl Decode<'_, Postgres> for $list {
            fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
                Ok(<&str as Decode<'_, Postgres>>::decode(value)?.parse()?)
            }
        }
    )+};
}

text_column!(RebuildState, RebuildKind, GenerationState);

#[cfg(test)]
mod tests {
    use super::*;

    fn names<T: Into<&'static str> + Copy>(list: &[T]) -> Vec<&'static str> {
        list.iter().map(|it| (*it).into()).collect()
    }

    #[test]
    fn what_is_over_stays_so() {
        assert_eq!(names(&RebuildState::over()), ["done", "cancelled", "failed"]);
        for over in RebuildState::over() {
            for next in RebuildState::VARIANTS {
                assert!(!over.may_become(*next), "{over} -> {next}");
            }
        }
    }

    #[test]
    fn whatever_the_database_knows_can_be_cancelled_and_can_fail() {
        for state in RebuildState::VARIANTS.iter().filter(|state| !state.is_over()) {
            let known = *state != RebuildState::Recorded;
            assert_eq!(state.may_become(RebuildState::Cancelled), known, "{state}");
            assert_eq!(state.may_become(RebuildState::Failed), known, "{state}");
        }
    }

    #[test]
    fn a_rebuild_is_compared_before_readers_see_it() {
        use RebuildState::{
            Building, CatchingUp, Comparing, Done, Indexing, Queued, Swapping, Waiting,
        };
        let way = [Queued, Building, Indexing, CatchingUp, Comparing, Waiting, Swapping, Done];
        for step in way.windows(2) {
            assert!(step[0].may_become(step[1]), "{} -> {}", step[0], step[1]);
        }
        for early in [Building, Indexing, CatchingUp] {
            assert!(!early.may_become(Swapping), "{early} -> swapping");
            assert!(!early.may_become(Done), "{early} -> done");
        }
        assert_eq!(names(&Done.predecessors()), ["queued", "swapping"]);
        // It is compared again if it does not become level; a worker that takes it
        // over loads its rows again.
        assert!(Swapping.may_become(Comparing) && Comparing.may_become(Building));
    }

    #[test]
    fn a_generation_goes_to_readers_level_and_is_dropped_only_unread() {
        use GenerationState::{Active, Building, CatchingUp, Dropping, Previous};
        assert_eq!(Active.predecessors(), [CatchingUp]);
        assert!(!Active.may_become(Dropping));
        for next in GenerationState::VARIANTS {
            assert!(!Dropping.may_become(*next), "dropping -> {next}");
            assert!(!next.may_become(Building), "{next} -> building");
        }
        // A rollback, and one that is cancelled.
        assert!(Previous.may_become(CatchingUp) && CatchingUp.may_become(Previous));
        for kind in RebuildKind::VARIANTS {
            assert!(CatchingUp.may_become(kind.abandoned()), "{kind}");
        }
        assert_eq!(names(&GenerationState::kept_level()), ["catching_up", "active"]);
    }

    #[test]
    fn names_are_the_same_everywhere() {
        fn check<T>(list: &[T])
        where
            T: Serialize + Copy + Into<&'static str> + std::str::FromStr + PartialEq + ToSchema,
        {
            for it in list {
                let name: &str = (*it).into();
                assert_eq!(serde_json::to_value(it).unwrap(), name);
                assert!(name.parse::<T>().is_ok_and(|parsed| parsed == *it), "{name}");
            }
            let schema = serde_json::to_value(T::schema()).unwrap();
            assert_eq!(schema["enum"], serde_json::json!(names(list)));
        }
        check(RebuildState::VARIANTS);
        check(RebuildKind::VARIANTS);
        check(GenerationState::VARIANTS);
    }
}
