//! Every stream: the settings that it must have, and the comparison with those that it has.

use crate::{
    carry_over::{EARLIER_TOMBSTONES, earlier_tombstones},
    error::ConnectError,
    names::{
        CANARY_STREAM, CANARY_SUBJECT, KEYS_STREAM, KEYS_SUBJECTS, REFUSALS_STREAM,
        REFUSALS_SUBJECTS, SEALS_STREAM, SEALS_SUBJECTS, STREAM, TOMBSTONES_PREFIX,
        WRAPPED_PREFIXES,
    },
};
use async_nats::jetstream::stream::{
    Config, ConsumerLimits, DiscardPolicy, RetentionPolicy, StorageType,
};
use exodrive_domain::LOG_SUBJECTS;
use std::{fmt, time::Duration};

const REFUSALS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
const MOST_REFUSALS: i64 = 1_000_000;
/// The time after which the server removes a consumer that nobody reads. Ours name a shorter one;
/// without a limit, whoever may make consumers could make durable ones that stay for ever.
const CONSUMER_KEPT: Duration = Duration::from_secs(60);
/// The greatest numbers of consumers. The log and the keys have none: it could never be changed, and
/// whoever made so many would keep every other reader away.
const FEW_CONSUMERS: i32 = 100;
const MOST_READERS_OF_REFUSALS: i32 = 1_000;

/// Every stream, as it must be; the log first.
pub(crate) fn streams(replicas: usize, duplicate_window: Duration) -> [Config; 5] {
    let stream = |name: &str, subjects: &str| Config {
        name: name.into(),
        subjects: vec![subjects.into()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        num_replicas: replicas,
        consumer_limits: Some(ConsumerLimits {
            inactive_threshold: CONSUMER_KEPT,
            ..ConsumerLimits::default()
        }),
        ..Config::default()
    };
    [
        Config {
            // With `old`, one lowered limit would delete events without a trace.
            discard: DiscardPolicy::New,
            deny_delete: true,
            deny_purge: true,
            allow_direct: true,
            allow_atomic_publish: true,
            duplicate_window,
            ..stream(STREAM, LOG_SUBJECTS)
        },
        Config {
            max_messages_per_subject: 1,
            max_consumers: FEW_CONSUMERS,
            ..stream(CANARY_STREAM, CANARY_SUBJECT)
        },
        Config {
            subjects: [KEYS_SUBJECTS.to_owned()]
                .into_iter()
                .chain(WRAPPED_PREFIXES.map(|prefix| format!("{prefix}.>")))
                .chain([format!("{TOMBSTONES_PREFIX}.>")])
                .collect(),
            discard: DiscardPolicy::New,
            // A subject takes one record, ever: nobody writes over a key.
            max_messages_per_subject: 1,
            discard_new_per_subject: true,
            deny_purge: true,
            allow_direct: true,
            metadata: [(EARLIER_TOMBSTONES.to_owned(), "0".to_owned())].into(),
            ..stream(KEYS_STREAM, KEYS_SUBJECTS)
        },
        Config {
            max_messages_per_subject: 1,
            deny_delete: true,
            deny_purge: true,
            allow_direct: true,
            max_consumers: FEW_CONSUMERS,
            ..stream(SEALS_STREAM, SEALS_SUBJECTS)
        },
        Config {
            max_age: REFUSALS_KEPT,
            max_messages: MOST_REFUSALS,
            max_consumers: MOST_READERS_OF_REFUSALS,
            allow_direct: true,
            ..stream(REFUSALS_STREAM, REFUSALS_SUBJECTS)
        },
    ]
}

/// Compares a stream with the required one, setting by setting.
pub(crate) fn check_stream(found: &Config, requested: &Config) -> Result<(), ConnectError> {
    if requested.metadata.contains_key(EARLIER_TOMBSTONES) && earlier_tombstones(found).is_none() {
        return Err(ConnectError::Setting {
            setting: format!("stream {}", requested.name),
            found: "that of an earlier release".to_owned(),
            requested: "carried over".to_owned(),
            remedy: "Run `exodrive migrate`, as the operator.".to_owned(),
        });
    }
    const RECREATE: &str = "No update can set it: the stream must be made again, from a backup.";
    let edit = format!(
        "Change it with `nats stream edit {}`, as the operator, or the configuration to match.",
        requested.name
    );
    let edit = edit.as_str();
    let limit = |limit: i64| if limit <= 0 { "unlimited".to_owned() } else { limit.to_string() };
    let shown = |value: &dyn fmt::Debug| format!("{value:?}");
    // Only the log counts repeats; elsewhere the server's own window will do.
    let window = |it: &Config| {
        if requested.duplicate_window.is_zero() {
            String::new()
        } else {
            shown(&it.duplicate_window)
        }
    };
    // Where a full stream refuses what is new, a limit loses nothing, and keeps a disk from filling.
    let bytes = |it: &Config| {
        if requested.discard == DiscardPolicy::New { String::new() } else { limit(it.max_bytes) }
    };
    type Setting<'a> = (&'static str, &'a dyn Fn(&Config) -> String, &'a str);
    let settings: [Setting<'_>; 19] = [
        ("subjects", &|it| shown(&it.subjects), edit),
        ("storage", &|it| shown(&it.storage), RECREATE),
        ("retention", &|it| shown(&it.retention), RECREATE),
        ("discard", &|it| shown(&it.discard), edit),
        ("discard_new_per_subject", &|it| shown(&it.discard_new_per_subject), edit),
        ("deny_delete", &|it| shown(&it.deny_delete), edit),
        ("deny_purge", &|it| shown(&it.deny_purge), edit),
        ("allow_rollup_hdrs", &|it| shown(&it.allow_rollup), edit),
        ("allow_direct", &|it| shown(&it.allow_direct), edit),
        ("allow_atomic", &|it| shown(&it.allow_atomic_publish), edit),
        ("allow_msg_ttl", &|it| shown(&it.allow_message_ttl), RECREATE),
        ("max_age", &|it| shown(&it.max_age), edit),
        ("max_bytes", &bytes, edit),
        ("max_msgs", &|it| limit(it.max_messages), edit),
        ("max_msgs_per_subject", &|it| limit(it.max_messages_per_subject), edit),
        ("max_msg_size", &|it| limit(it.max_message_size.into()), edit),
        ("sealed", &|it| shown(&it.sealed), RECREATE),
        ("duplicate_window", &window, edit),
        ("num_replicas", &|it| shown(&it.num_replicas), edit),
    ];
    for (setting, value, remedy) in settings {
        let (found, must_be) = (value(found), value(requested));
        if found != must_be {
            let setting = format!("{setting} of stream {}", requested.name);
            let remedy = remedy.to_owned();
            return Err(ConnectError::Setting { setting, found, requested: must_be, remedy });
        }
    }
    Ok(())
}
