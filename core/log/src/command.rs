//! The one command path: load a subject's state, decide, append, and repeat if
//! another event was appended first.
//!
//! States are cached in this process and in Redis; without a cached state, the
//! log is folded. No cached state is trusted. An acceptance is guarded by the
//! position of the state that it was decided on. A rejection is given only on a
//! state that was compared with the log. A stale or lost copy costs a retry,
//! never a wrong decision.
//!
//! A state never passes an event that this release cannot read: an unknown type
//! or a newer version stops every command about its subject
//! ([`CommandError::NewerRelease`]). The state stays before that event, so the
//! log rejects an append that is guarded by the state's position.

mod decided;
mod error;
mod queue;
mod snapshots;
mod state;
mod states;

use crate::{
    clock,
    error::{AppendError, ReadError},
    event::{Appended, NewEvent},
    log::Log,
    redis::Redis,
    wire,
};
pub use decided::{CarState, KeyState};
pub use error::{ClaimError, CommandError};
use exodrive_domain::{Envelope, Recorded, Subject, UnreadableEvent, is_known};
use queue::Queues;
use snapshots::Snapshots;
pub use state::{DecisionState, Loaded};
use states::{Key, States};
use std::{convert::Infallible, fmt, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

/// The longest that a command takes.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(8);
/// Lost races after which a command gives up.
const ATTEMPTS: u32 = 50;
/// The number of lost races after which it begins to back off between attempts.
const EAGER_ATTEMPTS: u32 = 3;
/// The longest delay between attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_millis(30);
/// The pause before an event is sent again that was not acknowledged.
const RESEND_DELAY: Duration = Duration::from_millis(250);

/// A command that was accepted.
#[derive(Clone, Debug)]
pub struct Executed<S> {
    /// The state after its event.
    pub state: Arc<S>,
    /// The position of its event.
    pub position: u64,
    /// The event was stored before, by an earlier call.
    pub repeated: bool,
}

/// Executes commands. Cheap to clone; clones share their caches, so a
/// process should have only one.
#[derive(Clone)]
pub struct Commands {
    log: Log,
    states: Arc<States>,
    snapshots: Option<Snapshots>,
    queues: Arc<Queues>,
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

/// The result of a decision: an event for each subject, and perhaps a claim.
struct Decision<const N: usize> {
    events: [NewEvent; N],
    claim: Option<NewEvent>,
}

/// A subject, and the key under which its state is cached.
#[derive(Clone, Copy)]
struct StateKey<'a> {
    subject: &'a Subject,
    key: &'a Key,
}

impl Commands {
    /// Commands on a log; without Redis, states are cached in this process
    /// only.
    pub fn new(log: Log, redis: Option<Redis>) -> Self {
        let states = Arc::new(States::default());
        let snapshots = redis.map(|redis| Snapshots::new(redis, states.clone(), log.clone()));
        Self { log, states, snapshots, queues: Arc::default() }
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The state of a subject as of now: compared with the log.
    ///
    /// # Errors
    /// [`CommandError::Read`], [`CommandError::NewerRelease`],
    /// [`CommandError::Decode`], or
    /// [`CommandError::Contended`] when the subject is busy for too long.
    pub async fn load<S: DecisionState>(
        &self,
        subject: &Subject,
    ) -> Result<Loaded<S>, CommandError<Infallible>> {
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        let key = Key::new::<S>(subject);
        let place = StateKey { subject, key: &key };
        let mut _turn = None;
        let mut held = match self.states.get::<S>(&key) {
            Some(held) => held,
            None => {
                // One of many readers folds, and the others find the state that
                // it cached.
                let turn = timeout_at(deadline, self.queues.turn(&key.subject)).await;
                _turn = Some(turn.map_err(|_| CommandError::Contended)?);
                self.load_state::<S>(place).await?
            }
        };
        timeout_at(deadline, self.catch_up(place, &mut held)).await.map_err(too_late)??;
        Ok(held)
    }

    /// Decides on the state of a subject and appends the decided event. Calls
    /// `decide` again whenever the state has changed: it must have no effect of
    /// its own. Commands of one process about a subject run one after the
    /// other.
    ///
    /// An event whose acknowledgement is lost is sent once more. If that fails
    /// too, the event may be stored all the same: a `decide` that is
    /// called with the same command later must look for it in the state.
    ///
    /// # Errors
    /// [`CommandError`]; [`CommandError::Rejected`] is the rejection that
    /// `decide` gave on the subject's current state.
    pub async fn execute<S: DecisionState, R>(
        &self,
        subject: &Subject,
        mut decide: impl FnMut(&S) -> Result<NewEvent, R>,
    ) -> Result<Executed<S>, CommandError<R>> {
        let decide = |[state]: [&S; 1]| Ok(Decision { events: [decide(state)?], claim: None });
        let [executed] = self.run([subject], decide).await.map_err(unclaimed)?;
        Ok(executed)
    }

    /// Makes one decision over two subjects, appended all or nothing
    /// ([`Log::append_batch`]). The events must be about the subjects, in the
    /// same order. Otherwise as [`Commands::execute`].
    ///
    /// # Errors
    /// As [`Commands::execute`]; also when the subjects are the same.
    pub async fn execute_both<S: DecisionState, R>(
        &self,
        subjects: [&Subject; 2],
        mut decide: impl FnMut(&S, &S) -> Result<[NewEvent; 2], R>,
    ) -> Result<[Executed<S>; 2], CommandError<R>> {
        let decide =
            |[one, other]: [&S; 2]| Ok(Decision { events: decide(one, other)?, claim: None });
        self.run(subjects, decide).await.map_err(unclaimed)
    }

    /// Like [`Commands::execute`], but `decide` gives a claim beside the event.
    /// A claim is an event that must be the first on its own subject; no state
    /// is folded from it. Both are appended or none.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] when the claim's subject has an event already and
    /// the main subject, which is checked first, gives no reason to decide
    /// again; else as [`Commands::execute`].
    pub async fn execute_claiming<S: DecisionState, R>(
        &self,
        subject: &Subject,
        mut decide: impl FnMut(&S) -> Result<(NewEvent, NewEvent), R>,
    ) -> Result<Executed<S>, ClaimError<R>> {
        let decide = |[state]: [&S; 1]| {
            let (event, claim) = decide(state)?;
            Ok(Decision { events: [event], claim: Some(claim) })
        };
        let [executed] = self.run([subject], decide).await?;
        Ok(executed)
    }

    async fn run<S: DecisionState, R, const N: usize>(
        &self,
        subjects: [&Subject; N],
        decide: impl FnMut([&S; N]) -> Result<Decision<N>, R>,
    ) -> Result<[Executed<S>; N], ClaimError<R>> {
        let started = Instant::now();
        let outcome = self.decide_in_turn(subjects, decide, started + COMMAND_TIMEOUT).await;
        metrics::histogram!("exodrive_command_seconds").record(started.elapsed());
        outcome
    }

    async fn decide_in_turn<S: DecisionState, R, const N: usize>(
        &self,
        subjects: [&Subject; N],
        decide: impl FnMut([&S; N]) -> Result<Decision<N>, R>,
        deadline: Instant,
    ) -> Result<[Executed<S>; N], ClaimError<R>> {
        let keys = subjects.map(Key::new::<S>);
        let mut in_order: Vec<_> = keys.iter().map(|key| &key.subject).collect();
        in_order.sort_unstable();
        if in_order.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(invalid_append("one decision over the same subject twice").into());
        }
        // In the order of the subjects, or two commands could wait for each
        // other.
        let mut turns = Vec::with_capacity(N);
        for subject in in_order {
            let turn = timeout_at(deadline, self.queues.turn(subject)).await;
            turns.push(turn.map_err(|_| CommandError::Contended)?);
        }
        self.decide_and_append(subjects, &keys, decide, deadline).await
    }

    async fn decide_and_append<S: DecisionState, R, const N: usize>(
        &self,
        subjects: [&Subject; N],
        keys: &[Key; N],
        mut decide: impl FnMut([&S; N]) -> Result<Decision<N>, R>,
        deadline: Instant,
    ) -> Result<[Executed<S>; N], ClaimError<R>> {
        let places = std::array::from_fn(|n| StateKey { subject: subjects[n], key: &keys[n] });
        let mut held: [Loaded<S>; N] = std::array::from_fn(|_| Loaded::default());
        let found = async {
            for (place, held) in places.iter().zip(&mut held) {
                *held = self.load_state(*place).await?;
            }
            Ok::<_, FoldError>(())
        };
        timeout_at(deadline, found).await.map_err(too_late)??;
        let mut caught_up = false;
        for attempt in 1..=ATTEMPTS {
            let decision = match decide(held.each_ref().map(|held| &*held.state)) {
                Ok(decision) => decision,
                // Of one subject the state was current when it was read, and
                // that is enough. Two were so one after the other.
                Err(refusal) if N == 1 && caught_up => {
                    return Err(CommandError::Rejected(refusal).into());
                }
                Err(refusal) => {
                    back_off(attempt, deadline).await?;
                    let changed = self.catch_up_all(places, &mut held, deadline).await?;
                    if !changed {
                        return Err(CommandError::Rejected(refusal).into());
                    }
                    caught_up = true;
                    continue;
                }
            };
            if decision.events.iter().zip(subjects).any(|(event, about)| event.subject != *about) {
                return Err(
                    invalid_append("an event about another subject than its decision").into()
                );
            }
            // It would stop every later command about its subject.
            if !decision.events.iter().all(|event| is_readable(&event.envelope)) {
                return Err(
                    invalid_append("an event of a type that this release cannot read").into()
                );
            }
            let Decision { events, claim } = decision;
            let claimed = claim.as_ref().map(|claim| claim.subject.clone());
            let guarded: Vec<_> = events
                .into_iter()
                .zip(held.iter().map(|held| held.position))
                .chain(claim.map(|claim| (claim, 0)))
                .collect();
            match self.append(places, &guarded, deadline).await {
                Ok((appended, resent)) if appended.iter().any(|appended| appended.duplicate) => {
                    // An earlier attempt stored it: other events may precede
                    // and follow it.
                    self.catch_up_all(places, &mut held, deadline).await?;
                    let mut appended = appended.into_iter();
                    return Ok(held.map(|held| Executed {
                        position: appended.next().map_or(held.position, |it| it.position),
                        state: held.state,
                        repeated: !resent,
                    }));
                }
                Ok((appended, _)) => {
                    for (n, ((event, _), appended)) in
                        guarded.iter().zip(appended).take(N).enumerate()
                    {
                        let event = self.as_recorded(event, appended.position);
                        self.apply_batch(places[n], &mut held[n], &[event])
                            .map_err(FoldError::from)?;
                    }
                    return Ok(held.map(|held| Executed {
                        position: held.position,
                        state: held.state,
                        repeated: false,
                    }));
                }
                Err(AppendError::Conflict) => {
                    metrics::counter!("exodrive_command_conflicts_total").increment(1);
                    back_off(attempt, deadline).await?;
                    let changed = self.catch_up_all(places, &mut held, deadline).await?;
                    if let Some(claimed) = &claimed
                        && !changed
                        && self
                            .log
                            .last_position_of(claimed)
                            .await
                            .map_err(FoldError::from)?
                            .is_some()
                    {
                        return Err(ClaimError::Taken);
                    }
                    caught_up = true;
                }
                Err(error) => return Err(CommandError::Append(error).into()),
            }
        }
        Err(CommandError::Contended.into())
    }

    /// Appends, and once more if no acknowledgement came. Returns true if one
    /// came.
    async fn append<const N: usize>(
        &self,
        places: [StateKey<'_>; N],
        events: &[(NewEvent, u64)],
        deadline: Instant,
    ) -> Result<(Vec<Appended>, bool), AppendError> {
        let append = || async {
            timeout_at(deadline, self.log.append_batch(events))
                .await
                .unwrap_or(Err(AppendError::Unavailable(None)))
        };
        match append().await {
            Err(error) if error.outage().is_some() => {
                for place in places {
                    self.states.remove(place.key);
                }
                sleep(RESEND_DELAY).await;
                let appended = match append().await {
                    // The conflict may be with our own event, followed by
                    // another one.
                    Err(AppendError::Conflict) => self.log.find_earlier_batch(events).await,
                    outcome => outcome,
                };
                Ok((appended?, true))
            }
            outcome => Ok((outcome?, false)),
        }
    }

    /// The cached state, however old; else a fold.
    async fn load_state<S: DecisionState>(
        &self,
        place: StateKey<'_>,
    ) -> Result<Loaded<S>, FoldError> {
        if let Some(held) = self.states.get(place.key) {
            loaded_from("process");
            return Ok(held);
        }
        if let Some(snapshots) = &self.snapshots
            && let Some(held) = snapshots.read(place.key).await
        {
            loaded_from("redis");
            self.states.keep(place.key, &held);
            return Ok(held);
        }
        loaded_from("log");
        let mut held = Loaded::default();
        self.catch_up(place, &mut held).await?;
        Ok(held)
    }

    /// Brings states up to date with the log. Returns true if any was behind.
    async fn catch_up_all<S: DecisionState, const N: usize>(
        &self,
        places: [StateKey<'_>; N],
        held: &mut [Loaded<S>; N],
        deadline: Instant,
    ) -> Result<bool, FoldError> {
        let all = async {
            let mut changed = false;
            for (place, held) in places.into_iter().zip(held) {
                changed |= self.catch_up(place, held).await?;
            }
            Ok(changed)
        };
        timeout_at(deadline, all).await.map_err(too_late)?
    }

    /// Brings a state up to date with the log. Returns true if it was behind.
    async fn catch_up<S: DecisionState>(
        &self,
        place: StateKey<'_>,
        held: &mut Loaded<S>,
    ) -> Result<bool, FoldError> {
        let last = self.log.last_position_of(place.subject).await?.unwrap_or(0);
        if last == held.position {
            return Ok(false);
        }
        if last < held.position {
            tracing::warn!(
                subject = %place.subject,
                position = held.position,
                last,
                "A cached state is ahead of the log: it is dropped"
            );
            self.states.remove(place.key);
            if let Some(snapshots) = &self.snapshots {
                snapshots.erase(place.key).await;
            }
            *held = Loaded::default();
        }
        let events = self.log.events_between(place.subject, held.position, last).await?;
        self.apply_batch(place, held, &events)?;
        Ok(true)
    }

    /// Folds events onto a state and caches it.
    fn apply_batch<S: DecisionState>(
        &self,
        place: StateKey<'_>,
        held: &mut Loaded<S>,
        events: &[Recorded],
    ) -> Result<(), UnreadableEvent> {
        // Taken out, so that it is changed in place; and lost, not half
        // changed, if a fold panics.
        self.states.remove(place.key);
        let mut saved = std::mem::take(held);
        let outcome = saved.apply_batch(events);
        self.states.keep(place.key, &saved);
        if let Some(snapshots) = &self.snapshots {
            snapshots.write_soon::<S>(place.key);
        }
        *held = saved;
        outcome
    }

    /// The event as a reader of the log will get it.
    fn as_recorded(&self, event: &NewEvent, position: u64) -> Recorded {
        let headers = wire::headers(&event.envelope, &event.provider_headers);
        let subject = event.subject.to_string();
        let at = clock::unix(self.log.now());
        wire::recorded(wire::stored(position, &subject, at, &headers, event.body.clone()))
    }
}

/// Reason why a state could not be brought up to date.
enum FoldError {
    Read(ReadError),
    Unreadable(UnreadableEvent),
}

impl From<ReadError> for FoldError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<UnreadableEvent> for FoldError {
    fn from(error: UnreadableEvent) -> Self {
        Self::Unreadable(error)
    }
}

impl<R> From<FoldError> for CommandError<R> {
    fn from(error: FoldError) -> Self {
        match error {
            FoldError::Read(error) => Self::Read(error),
            FoldError::Unreadable(error) => error.into(),
        }
    }
}

impl<R> From<FoldError> for ClaimError<R> {
    fn from(error: FoldError) -> Self {
        Self::Command(error.into())
    }
}

fn too_late(elapsed: tokio::time::error::Elapsed) -> FoldError {
    FoldError::Read(ReadError::unavailable(elapsed))
}

fn is_readable(envelope: &Envelope) -> bool {
    is_known(&envelope.kind, envelope.version)
}

fn invalid_append<R>(reason: &'static str) -> CommandError<R> {
    CommandError::Append(AppendError::Rejected(reason.into()))
}

/// The error of a command without a claim.
fn unclaimed<R>(error: ClaimError<R>) -> CommandError<R> {
    match error {
        ClaimError::Command(error) => error,
        ClaimError::Taken => CommandError::Contended,
    }
}

fn loaded_from(source: &'static str) {
    metrics::counter!("exodrive_state_loads_total", "source" => source).increment(1);
}

/// After the first lost races, lets others go first for a moment. Before the
/// state is read again: afterwards, it would be stale by the end of the pause.
async fn back_off<R>(attempt: u32, deadline: Instant) -> Result<(), CommandError<R>> {
    if Instant::now() >= deadline {
        return Err(CommandError::Contended);
    }
    if attempt > EAGER_ATTEMPTS {
        let longest = (Duration::from_millis(2) * attempt).min(MAX_RETRY_DELAY);
        // Some of the random bits of an id.
        let share = f64::from(Uuid::now_v7().as_fields().3[7]) / f64::from(u8::MAX);
        sleep(longest.mul_f64(share)).await;
    }
    Ok(())
}
