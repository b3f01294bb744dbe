//! Queries of the inbox.

pub use super::answer::{
    AttachmentDetail, BounceDetail, ClickDetail, EmailDetail, EmailSummary, FailureDetail,
    Recipient, StageDetail, SuppressionDetail,
};

use super::{Inbox, InboxRow};
use crate::{
    Error, Page, Projection, ReadTransaction, Transaction,
    views::{
        query::{RowPlace, kept_counts},
        search::{Plan, Search, Searched, WINDOW},
    },
};
use exodrive_domain::{email::EmailId, value::address_key};
use std::collections::BTreeMap;

/// The emails that a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those of any of these statuses; all if empty.
    pub statuses: Vec<String>,
    /// Those that have words that begin with the words of this text, in addresses, subject, tags or
    /// id. A text without a letter or digit looks for nothing.
    pub text: Option<String>,
    /// Most rows to return.
    pub limit: i64,
    /// The previous page's [`Page::next`].
    pub after: Option<RowPlace>,
}

/// A page of the inbox, and the numbers of the emails that have the text. A page may be short, or
/// empty, although another follows it: if the text is common, so many emails are looked through for
/// each page, and no more.
///
/// # Errors
/// When the database fails.
pub async fn find_emails(
    reader: &mut ReadTransaction,
    filter: &Filter,
) -> Result<(Page<EmailSummary>, Counts), Error> {
    let reader = reader.over(&[Inbox::NAME])?;
    let Filter { statuses, text, limit, after } = filter;
    let planned = planned(reader, text.as_deref().and_then(Search::of)).await?;
    let (page, counts) = find(reader, statuses, planned.as_ref(), *limit, after.as_ref()).await?;
    let page = page.try_map(|found| {
        let row = row(&found.key, found.data)?;
        Ok::<_, Error>(EmailSummary::of(row, u64::try_from(found.position).unwrap_or(0)))
    })?;
    let counts = match (counts, planned) {
        (Some(counts), _) => counts,
        (None, None) => count(reader).await?,
        (None, Some(Planned { newest: Some(newest), .. })) => Counts::of(newest, false),
        (None, Some(Planned { search, .. })) => count_newest(reader, &search).await?,
    };
    Ok((page, counts))
}

struct Planned {
    search: Search,
    plan: Plan,
    /// Numbers by status of those of the newest emails that are found, if there are too many emails
    /// to look at each.
    newest: Option<BTreeMap<String, i64>>,
}

async fn planned(
    reader: &mut Transaction,
    search: Option<Search>,
) -> Result<Option<Planned>, Error> {
    let Some(search) = search else { return Ok(None) };
    let rows = kept_counts(reader, Inbox::NAME).await?.map(|counts| counts.values().sum());
    let searched = Searched { view: Inbox::NAME, order: "created_at", status: "status", rows };
    let (plan, newest) = search.plan(reader, searched).await?;
    let newest = rows.is_some_and(|rows| rows > WINDOW).then_some(newest);
    Ok(Some(Planned { search, plan, newest }))
}

/// A page of the emails that name an address, in any case, as sender, as a recipient of any kind,
/// or for replies; newest first. A page may be short although another follows it.
///
/// # Errors
/// When the database fails.
pub async fn find_emails_of_address(
    reader: &mut ReadTransaction,
    address: &str,
    limit: i64,
    after: Option<&RowPlace>,
) -> Result<Page<EmailId>, Error> {
    let reader = reader.over(&[Inbox::NAME])?;
    let planned = planned(reader, Search::with_cut_rows(address)).await?;
    let (page, _) = find(reader, &[], planned.as_ref(), limit, after).await?;
    let Page { rows: found, next } = page;
    let address = address_key(address);
    let mut rows = Vec::with_capacity(found.len());
    for found in found {
        let email = row(&found.key, found.data)?.email;
        // Its words may also be in a subject, or within another address.
        if email.addresses().any(|named| named == address) {
            rows.push(email.id);
        }
    }
    Ok(Page { rows, next })
}

/// Emails that are looked through for a page of what is common.
const LOOKED_THROUGH: i64 = 6_000;

struct Found {
    key: String,
    created_at: String,
    position: i64,
    data: serde_json::Value,
}

/// Reads rows out of `$from`; its further parameters begin at `$6`.
macro_rules! rows {
    ($reader:ident, $statuses:ident, $query:expr, $limit:ident, $after:ident,
     $from:literal $(, $parameter:expr)*) => {
        sqlx::query_as!(
            Found,
            r#"select key as "key!", created_at as "created_at!", position as "position!",
                      data as "data!" from "#
                + $from
                + r#" where (cardinality($1::text[]) = 0 or status = any($1))
                 and ($2::text is null or words @@ $2::text::tsquery)
                 and (created_at, key) < ($3, $4)
               order by created_at desc, key desc limit $5"#,
            $statuses,
            $query,
            $after.0,
            $after.1,
            $limit + 1
            $(, $parameter)*
        )
        .fetch_all(&mut **$reader)
        .await?
    };
}

/// The statuses that most emails have or pass through: the table has an index of the others.
const PASSED_THROUGH: [&str; 4] = ["sent", "delivered", "opened", "clicked"];

/// A place before every email.
const LATEST: (&str, &str) = ("~", "");

fn cut(found: Vec<Found>, limit: i64) -> Page<Found> {
    Page::cut(found, limit, |last| {
        RowPlace { at: last.created_at.clone(), key: last.key.clone() }.cursor()
    })
}

/// A page, and the numbers of what is searched for if they came with it. A page may be short, or
/// empty, although another follows it.
async fn find(
    reader: &mut Transaction,
    statuses: &[String],
    planned: Option<&Planned>,
    limit: i64,
    after: Option<&RowPlace>,
) -> Result<(Page<Found>, Option<Counts>), Error> {
    let after = after.map_or(LATEST, |it| (it.at.as_str(), it.key.as_str()));
    let query = planned.map(|planned| planned.search.query());
    if let (Some(Planned { plan: Plan::Rare { rare, counted }, .. }), Some(query)) =
        (planned, &query)
    {
        if *counted {
            let (page, counts) = find_rare(reader, statuses, rare, query, limit, after).await?;
            return Ok((page, Some(counts)));
        }
        let asked = (rare != query).then_some(query);
        let found = rows!(
            reader,
            statuses,
            asked,
            limit,
            after,
            // Rows are sorted by what is small; the rest is read of the page.
            "(select inbox.* from (
                  select key
                  from (select key, created_at, status, words from inbox
                        where words @@ $6::text::tsquery offset 0) as rare
                  where (cardinality($1::text[]) = 0 or status = any($1))
                    and ($2::text is null or words @@ $2::text::tsquery)
                    and (created_at, key) < ($3, $4)
                  order by created_at desc, key desc limit $5) as page
              join inbox using (key)) as inbox",
            rare
        );
        return Ok((cut(found, limit), None));
    }
    macro_rules! newest {
        ($most:expr) => {
            rows!(
                reader,
                statuses,
                query,
                limit,
                after,
                "(select * from inbox where (created_at, key) < ($3, $4)
                  order by created_at desc, key desc limit $6) as inbox",
                $most
            )
        };
    }
    let is_rare = |status: &String| !PASSED_THROUGH.contains(&status.as_str());
    if !statuses.is_empty() && statuses.iter().all(is_rare) {
        if query.is_some() {
            let newest = newest!(WINDOW);
            if newest.len() > usize::try_from(limit).unwrap_or(0) {
                return Ok((cut(newest, limit), None));
            }
        }
        let found = rows!(
            reader,
            statuses,
            query,
            limit,
            after,
            "(select * from inbox where rare_status = any($1) offset 0) as inbox"
        );
        return Ok((cut(found, limit), None));
    }
    if query.is_none() {
        return Ok((cut(rows!(reader, statuses, query, limit, after, "inbox"), limit), None));
    }
    let found = newest!(LOOKED_THROUGH);
    let mut page = cut(found, limit);
    if page.next.is_none() {
        page.next = last_looked_at(reader, after).await?;
    }
    Ok((page, None))
}

/// The cursor of what comes after the emails that were looked through, if there may be any.
async fn last_looked_at(
    reader: &mut Transaction,
    after: (&str, &str),
) -> Result<Option<String>, Error> {
    let last = sqlx::query!(
        r#"select created_at as "created_at!", key as "key!" from inbox
           where (created_at, key) < ($1, $2)
           order by created_at desc, key desc offset $3 limit 1"#,
        after.0,
        after.1,
        LOOKED_THROUGH - 1
    );
    let last = last.fetch_optional(&mut **reader).await?;
    Ok(last.map(|last| RowPlace { at: last.created_at, key: last.key }.cursor()))
}

/// A page of the emails that the index finds, and their numbers, by one look at them.
async fn find_rare(
    reader: &mut Transaction,
    statuses: &[String],
    rare: &str,
    query: &str,
    limit: i64,
    after: (&str, &str),
) -> Result<(Page<Found>, Counts), Error> {
    let found = sqlx::query!(
        r#"with found as materialized (
               select key, created_at, status
               from (select key, created_at, status, words from inbox
                     where words @@ $6::text::tsquery offset 0) as rare
               where $6 = $2 or words @@ $2::text::tsquery),
           page as materialized (
               select key from found
               where (cardinality($1::text[]) = 0 or status = any($1))
                 and (created_at, key) < ($3, $4)
               order by created_at desc, key desc limit $5)
           select (select jsonb_object_agg(status, emails) from (
                       select status, count(*) as emails from found group by status) as counted)
                      as counts,
                  inbox.key as "key?", created_at as "created_at?", position as "position?",
                  data as "data?"
           from (select) as always left join (page join inbox using (key)) on true
           order by created_at desc, inbox.key desc"#,
        statuses,
        query,
        after.0,
        after.1,
        limit + 1,
        rare
    );
    let found = found.fetch_all(&mut **reader).await?;
    let counts = found.first().and_then(|row| row.counts.as_ref()?.as_object());
    let counts = counts.into_iter().flatten();
    let counts = Counts::of(
        counts.filter_map(|(status, emails)| Some((status.clone(), emails.as_i64()?))),
        true,
    );
    let rows = found.into_iter().filter_map(|row| {
        Some(Found {
            key: row.key?,
            created_at: row.created_at?,
            position: row.position?,
            data: row.data?,
        })
    });
    Ok((cut(rows.collect(), limit), counts))
}

/// Numbers of emails by status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The numbers; a status without emails is left out.
    pub by_status: BTreeMap<String, i64>,
    /// False if only the newest emails were counted, because the text is common.
    pub complete: bool,
}

/// Number of emails of each status.
async fn count(reader: &mut Transaction) -> Result<Counts, Error> {
    if let Some(by_status) = kept_counts(reader, Inbox::NAME).await? {
        return Ok(Counts::of(by_status, true));
    }
    let all = sqlx::query!(
        r#"select status as "status!", count(*) as "emails!" from inbox group by status"#
    );
    let all = all.fetch_all(&mut **reader).await?.into_iter();
    Ok(Counts::of(all.map(|it| (it.status, it.emails)), true))
}

/// Number of emails of each status, of those of the newest that are found.
async fn count_newest(reader: &mut Transaction, search: &Search) -> Result<Counts, Error> {
    let newest = sqlx::query!(
        r#"select status as "status!", count(*) as "looked_at!",
                  count(*) filter (where words @@ $1::text::tsquery) as "emails!"
           from (select status, words from inbox order by created_at desc, key desc limit $2)
               as newest
           group by status"#,
        search.query(),
        WINDOW
    );
    let newest = newest.fetch_all(&mut **reader).await?;
    let all = newest.iter().map(|it| it.looked_at).sum::<i64>() < WINDOW;
    Ok(Counts::of(newest.into_iter().map(|it| (it.status, it.emails)), all))
}

impl Counts {
    fn of(counted: impl IntoIterator<Item = (String, i64)>, complete: bool) -> Self {
        let by_status = counted.into_iter().filter(|(_, found)| *found > 0).collect();
        Self { by_status, complete }
    }
}

/// One email.
///
/// # Errors
/// When the database fails.
pub async fn find_email(
    reader: &mut ReadTransaction,
    email_id: &str,
) -> Result<Option<EmailDetail>, Error> {
    let reader = reader.over(&[Inbox::NAME])?;
    let found = sqlx::query!(
        r#"select position as "position!", data as "data!" from inbox where key = $1"#,
        email_id
    )
    .fetch_optional(&mut **reader)
    .await?;
    let Some(found) = found else { return Ok(None) };
    let position = u64::try_from(found.position).unwrap_or(0);
    Ok(Some(EmailDetail::of(&row(email_id, found.data)?, position)))
}

fn row(key: &str, data: serde_json::Value) -> Result<InboxRow, Error> {
    let key = || key.to_owned();
    serde_json::from_value(data).map_err(|source| Error::Row {
        table: Inbox::NAME,
        key: key(),
        source,
    })
}
