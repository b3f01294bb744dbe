//! Search of text: the words of what is stored and of what a person types, folded alike, and the
//! queries of Postgres that compare them.
//!
//! A row has the text of its words (`text_of`), and its table a column `words` (`tsvector`) of it
//! with a GIN index. A text is found by the beginnings of its words, in any order.
//!
//! A list is in an order of its own (newest first), which such an index does not know. What is
//! common is therefore found by looking through the list, and only what is rare is asked of the
//! index: it has few rows, which are quickly sorted. The newest rows and some of any age tell one
//! from the other (`Search::plan`).
//! Operators of `tsvector` are not leakproof, so that Postgres uses the index only where no policy
//! has a condition: for staff.

use crate::{Error, Transaction};
use sqlx::{AssertSqlSafe, Row, types::Json};
use std::collections::{BTreeMap, BTreeSet};
use unicode_normalization::{UnicodeNormalization, char::canonical_combining_class};

/// The newest rows of a list: they are looked through first for what is common.
pub(crate) const WINDOW: i64 = 4_000;
/// The newest rows by which what is common is told from what is rare.
const SAMPLE: i64 = 1_000;
/// Rows of any age by which it is estimated how many the index would give.
const SAMPLE_OF_ANY_AGE: i64 = 300;
/// More rows than this are not asked of the index: to read a row that it gives takes about a
/// microsecond, if it is in memory.
const MOST_OF_INDEX: i64 = 30_000;
/// If the index gives more rows than this, they are not counted: that takes as long again as to find
/// a page of them.
const MOST_COUNTED: i64 = 8_000;
/// More rows of a sample than this are many.
const MANY: i64 = 5;
/// Words of a search that are counted in a sample.
const COUNTED: usize = 6;
/// Words that the index is asked for at a time.
const ASKED: usize = 3;
/// Letters of a word that count.
const WORD: usize = 64;
/// Words of a row that are kept: more than this many of the longest would not fit into a
/// `tsvector`.
const WORDS: usize = 2_000;
/// Letters of the shortest word that may have a typo: shorter ones would be mistaken too often.
const TYPO: usize = 4;
/// Begins the forms of a word with a typo. Not in a word.
const FORM: char = '~';
/// Stands for words that were not kept.
const CUT: &str = "~";

/// The column `words` of a generation that was made before there was one: by the same words, but
/// neither folded nor indexed.
pub(crate) const OLDER_WORDS: (&str, &str) = (
    "words",
    "array_to_tsvector(array_remove(
         regexp_split_to_array(lower(data ->> 'search'), '[^[:alnum:]]+'), ''))",
);

/// A text as texts are compared: without accents and other marks, compatible characters as one
/// (`ﬁ` as `fi`), and without regard to case. Case is that of Unicode: `ς` and `σ` are one, `ß` is
/// `ss`, and so are `ı`, `İ` and `i` one.
///
/// The same text composed or decomposed, in uppercase or lowercase, has one fold; the fold of a
/// fold is itself.
pub fn fold(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { fold_unicode(text) }
}

fn fold_unicode(text: &str) -> String {
    // The iota below a Greek vowel is a mark in lowercase and a letter in uppercase.
    let kept =
        |c: &char| (canonical_combining_class(*c) == 0 && !is_ignored(*c)) || *c == '\u{345}';
    let folded = text.nfkd().filter(kept).flat_map(fold_case).nfkd();
    folded.filter(|c| canonical_combining_class(*c) == 0).collect()
}

/// To lowercase, to uppercase and back: this makes one of all letters that differ by case. By the
/// first step `ẞ` is `ß`; by the second that is `SS`, and `ı` is `I`.
fn fold_case(c: char) -> impl Iterator<Item = char> {
    c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

/// True for what is not seen and does not end a word: the soft hyphen, joiners, and selectors of a
/// letter's form.
fn is_ignored(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{fe00}'
            ..='\u{fe0f}'
    )
}

/// The words of a text, folded: runs of letters and digits. In scripts that put no space between
/// words, each letter is one.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut letters = 0;
    for c in fold(text).chars() {
        let alone = has_no_spaces(c);
        if (alone || !c.is_alphanumeric()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
            letters = 0;
        }
        if alone {
            words.push(c.to_string());
        } else if c.is_alphanumeric() && letters < WORD {
            word.push(c);
            letters += 1;
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// True for a letter of a script that puts no space between words: Thai, Lao, Burmese, Khmer, kana
/// and Han.
fn has_no_spaces(c: char) -> bool {
    c.is_alphabetic()
        && matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
            | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}')
}

/// What a row keeps to be found by: the distinct words of these texts, the most important first
/// (words are left out if there are very many).
pub(crate) fn text_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut kept = BTreeSet::new();
    for word in texts.into_iter().flat_map(words) {
        if kept.len() == WORDS && !kept.contains(&word) {
            kept.insert(CUT.to_owned());
            break;
        }
        kept.insert(word);
    }
    Vec::from_iter(kept).join(" ")
}

/// The ends of a telephone number: by its words it is then found from any digit on, however it was
/// grouped.
pub(crate) fn phone(phone: Option<&str>) -> String {
    // A customer need not name a phone.
    let digits: String =
        fold(phone.unwrap_or_default()).chars().filter(char::is_ascii_digit).collect();
    let digits = &digits[..digits.len().min(WORD)];
    let ends = (0..digits.len().saturating_sub(2)).map(|at| &digits[at..]);
    Vec::from_iter(ends).join(" ")
}

/// The forms by which the words of a name are found although one letter is wrong, too many, or
/// missing, or two are swapped: each word, and each without one of its letters.
pub(crate) fn typos_of(name: &str) -> String {
    let forms: BTreeSet<_> = words(name).iter().flat_map(|word| forms(word)).collect();
    Vec::from_iter(forms).join(" ")
}

/// A word with an error of one letter has one of these forms in common with the right word.
fn forms(word: &str) -> Vec<String> {
    let letters: Vec<char> = word.chars().collect();
    if letters.len() < TYPO || !letters.iter().all(|c| c.is_alphabetic()) {
        return Vec::new();
    }
    let without = |gap: usize| {
        let kept = letters.iter().enumerate().filter(move |(at, _)| *at != gap);
        std::iter::once(FORM).chain(kept.map(|(_, c)| *c)).collect()
    };
    // No letter is at the last gap: that is the whole word.
    (0..=letters.len()).map(without).collect()
}

/// What a person typed, as words. Each is the beginning of a word that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Search {
    words: Vec<String>,
    /// True to find also rows of which words were left out.
    or_cut: bool,
}

impl Search {
    /// `None` if the text has no letter and no digit: then it looks for nothing.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let mut words = words(text);
        words.sort_unstable();
        // What begins with `anna` begins with `an`. In this order it comes next.
        let next = Vec::from(words.get(1..)?);
        let mut next = next.iter();
        words.retain(|word| next.next().is_none_or(|next| !next.starts_with(word.as_str())));
        // The longest first: most rows then lack the first that they are asked for.
        words.sort_by_key(|word| std::cmp::Reverse(word.chars().count()));
        Some(Self { words, or_cut: false })
    }

    /// As [`Search::of`]; finds also every row of which words were left out, which may have had
    /// these.
    pub(crate) fn with_cut_rows(text: &str) -> Option<Self> {
        Some(Self { or_cut: true, ..Self::of(text)? })
    }

    /// The `tsquery` of rows that have all words.
    pub(crate) fn query(&self) -> String {
        self.all(&self.words)
    }

    fn all(&self, words: &[String]) -> String {
        let all = Vec::from_iter(words.iter().map(|word| begins(word))).join(" & ");
        if self.or_cut { format!("({all}) | {CUT}") } else { all }
    }

    /// The `tsquery` of rows whose words may also be those of [`typos_of`].
    pub(crate) fn query_with_typos(&self) -> String {
        let either = |word: &String| {
            let forms = forms(word).into_iter();
            Vec::from_iter(std::iter::once(begins(word)).chain(forms)).join(" | ")
        };
        let each = self.words.iter().map(|word| format!("({})", either(word)));
        Vec::from_iter(each).join(" & ")
    }

    /// How a view is asked for the rows that have all words; also the numbers of those among its
    /// newest rows, by [`Searched::status`].
    pub(crate) async fn plan(
        &self,
        reader: &mut Transaction,
        searched: Searched<'_>,
    ) -> Result<(Plan, BTreeMap<String, i64>), Error> {
        let Searched { view, order, status, rows } = searched;
        let sql = format!(
            "with sample as materialized
                 (select words, {status} as status
                  from {view} order by {order} desc, key desc limit {SAMPLE}),
             typed as materialized
                 (select word, coalesce(word || ':*', $2)::tsquery as query
                  from unnest(array_append($1::text[], null)) as word),
             found as
                 (select word, case when word is null then status end as status,
                         count(*) filter (where words @@ query) as found
                  from typed left join sample on true group by 1, 2)
             select word, sum(found)::bigint as found,
                    jsonb_object_agg(status, found) filter (where status is not null) as by_status
             from found group by word order by 2, length(word) desc, word"
        );
        // Long words are rare.
        let longest = &self.words[..self.words.len().min(COUNTED)];
        let counted = sqlx::query(AssertSqlSafe(sql)).bind(longest).bind(self.query());
        let (mut rare, mut many, mut newest) = (Vec::new(), false, BTreeMap::new());
        for row in counted.fetch_all(&mut **reader).await? {
            let found: i64 = row.try_get("found")?;
            match row.try_get::<Option<String>, _>("word")? {
                None => {
                    many = found > MANY;
                    let by_status: Option<Json<_>> = row.try_get("by_status")?;
                    newest = by_status.map_or_else(BTreeMap::new, |Json(by_status)| by_status);
                }
                Some(word) if found <= MANY => rare.push(word),
                Some(_) => {}
            }
        }
        if many || rare.is_empty() {
            return Ok((Plan::Common, newest));
        }
        rare.truncate(ASKED);
        let rare = self.all(&rare);
        let Some(rows) = rows.filter(|rows| *rows > MOST_COUNTED) else {
            return Ok((Plan::Rare { rare, counted: true }, newest));
        };
        let found = found_of_any_age(reader, view, &rare).await?;
        let estimate = rows.saturating_mul(found) / SAMPLE_OF_ANY_AGE;
        if estimate > MOST_OF_INDEX {
            return Ok((Plan::Common, newest));
        }
        Ok((Plan::Rare { rare, counted: estimate <= MOST_COUNTED }, newest))
    }
}

/// The number of rows that a query finds in a sample of any age: keys say nothing about it. (They are
/// in one place of the index on keys, so that they are in memory.)
async fn found_of_any_age(reader: &mut Transaction, view: &str, query: &str) -> Result<i64, Error> {
    let sql = format!(
        "select count(*) from (select words from {view} order by key limit {SAMPLE_OF_ANY_AGE})
             as sample
         where words @@ $1::text::tsquery"
    );
    let counted = sqlx::query_scalar(AssertSqlSafe(sql)).bind(query);
    Ok(counted.fetch_one(&mut **reader).await?)
}

/// A view that is searched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Searched<'a> {
    /// Its name.
    pub(crate) view: &'a str,
    /// The column by which it is listed, the last first.
    pub(crate) order: &'a str,
    /// The SQL of a text by which rows are counted.
    pub(crate) status: &'a str,
    /// How many rows it has. If that is not known, the index is asked for whatever the newest rows
    /// lack.
    pub(crate) rows: Option<i64>,
}

/// How a view is asked for the rows of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Many rows have all words, or every word is common, now or at some time: they are looked for in
    /// the view's order.
    Common,
    Rare {
        /// The `tsquery` to ask the index by, of the rarest words. To look a common word up takes
        /// longer than to leave out the rows without it: the answer is to be searched by
        /// [`Search::query`].
        rare: String,
        /// True if the rows are so few that all can be counted.
        counted: bool,
    },
}

fn begins(word: &str) -> String {
    format!("{word}:*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// True if the words of what was typed are beginnings of words of the row, as Postgres
    /// compares them.
    fn finds(typed: &str, row: &str) -> bool {
        let Some(search) = Search::of(typed) else { return true };
        let row: Vec<_> = row.split(' ').collect();
        search.words.iter().all(|word| row.iter().any(|it| it.starts_with(word.as_str())))
    }

    fn finds_with_a_typo(typed: &str, name: &str) -> bool {
        let row = format!("{} {}", text_of([name]), typos_of(name));
        let row: Vec<_> = row.split(' ').collect();
        Search::of(typed).is_some_and(|search| {
            search.words.iter().all(|word| {
                let forms = forms(word);
                row.iter()
                    .any(|it| it.starts_with(word.as_str()) || forms.iter().any(|form| form == it))
            })
        })
    }

    #[test]
    fn words_are_found_in_any_order_case_and_composition() {
        let zoe = text_of(["Zoe\u{308} O’Brien <zoe@mail.example.com>"]);
        for typed in
            ["zoë", "ZOE\u{308}", "zoe", "brien zo", "@example.com", "zoe@mail.example.com"]
        {
            assert!(finds(typed, &zoe), "{typed} in {zoe}");
        }
        let odysseus = text_of(["ΟΔΥΣΣΕΥΣ"]);
        for typed in ["ΟΔΥΣ", "Οδυσσεύς", "οδυσσευσ", "ὈΔΥΣΣΕΎΣ"] {
            assert!(finds(typed, &odysseus), "{typed}");
        }
        let car = text_of(["Porsche 911 GT3"]);
        assert!(finds("porsche gt3", &car) && finds("gt3 porsche", &car) && finds("POR 9", &car));
        assert!(!finds("porsche gt4", &car) && !finds("orsche", &car));
        for (one, other) in [
            ("STRASSE", "straße"),
            ("STRAẞE", "strasse"),
            ("DIYARBAKIR", "Diyarbakır"),
            ("İZMİR", "izmir"),
            ("ﬁat", "FIAT"),
            ("ｆｅｒｒａｒｉ", "Ferrari"),
            ("ΆΔΗΣ ᾳ", "άδης ΑΙ"),
            ("ガス", "ｶﾞｽ"),
            ("한국", "\u{1112}\u{1161}\u{11ab}국"),
        ] {
            assert_eq!(fold(one), fold(other), "{one} {other}");
        }
        assert!(finds("東京", &text_of(["予約：東京駅"])));
        assert!(Search::of(" %_'\"\\!").is_none(), "nothing to look for");
    }

    #[test]
    fn a_query_has_each_word_once_and_is_a_tsquery() {
        let search = Search::of("Anna, an ANNA: b'); drop 3").unwrap();
        assert_eq!(search.words, ["anna", "drop", "3", "b"]);
        assert_eq!(search.query(), "anna:* & drop:* & 3:* & b:*");
        let search = Search::with_cut_rows("a@b").unwrap();
        assert_eq!(search.query(), "(a:* & b:*) | ~");
        assert_eq!(
            Search::of("gt3 audi").unwrap().query_with_typos(),
            "(audi:* | ~udi | ~adi | ~aui | ~aud | ~audi) & (gt3:*)"
        );
    }

    #[test]
    fn a_name_is_found_with_a_typo() {
        let car = "Porsche 911 GT3";
        for typed in ["porshe", "Prosche", "porsche", "porschhe", "borsche gt3", "porshe gt3"] {
            assert!(finds_with_a_typo(typed, car), "{typed}");
        }
        for typed in ["porshe gt4", "prsh", "gt", "921", "ferrari"] {
            assert_eq!(finds_with_a_typo(typed, car), typed == "gt", "{typed}");
        }
        assert!(finds_with_a_typo("lambourghini", "Lamborghini Huracán"));
        assert!(finds_with_a_typo("huracna", "Lamborghini Huracán"));
    }

    #[test]
    fn a_telephone_number_is_found_however_it_is_grouped() {
        let row = text_of([phone(Some("+1 (305) 555-0101")).as_str()]);
        for typed in ["+13055550101", "305 555 0101", "5550101", "0101", "305-555"] {
            assert!(finds(typed, &row), "{typed} in {row}");
        }
        assert!(!finds("0102", &row));
        assert_eq!((phone(None), phone(Some("12"))), (String::new(), String::new()));
    }

    #[test]
    fn a_row_of_very_many_words_keeps_what_postgres_stores() {
        let many = Vec::from_iter((0..3_000).map(|n| format!("{n:064}"))).join(" ");
        let row = text_of(["first", &many]);
        assert!(row.len() < 1 << 20);
        assert!(row.starts_with('0') && row.contains(" first ") && row.ends_with(CUT));
        let long = "x".repeat(100);
        assert!(finds(&long, &text_of([long.as_str()])), "a long word is cut in both");
    }

    #[test]
    fn every_letter_has_one_fold_in_every_case_and_form() {
        let is_folded = |c: &char| c.is_alphanumeric() || canonical_combining_class(*c) != 0;
        for c in (char::MIN..=char::MAX).filter(is_folded).map(String::from) {
            let folded = fold(&c);
            assert_eq!(fold(&folded), folded, "{c:?} again");
            assert_eq!(fold(&c.to_uppercase()), folded, "{c:?} in uppercase");
            assert_eq!(fold(&c.to_lowercase()), folded, "{c:?} in lowercase");
            assert_eq!(fold(&c.nfd().collect::<String>()), folded, "{c:?} decomposed");
            assert_eq!(fold(&c.nfc().collect::<String>()), folded, "{c:?} composed");
        }
    }

    proptest! {
        #[test]
        fn a_text_has_one_fold_in_every_case_and_form(text in any::<String>()) {
            let folded = fold(&text);
            prop_assert_eq!(&fold(&folded), &folded);
            prop_assert_eq!(&fold(&text.to_uppercase()), &folded);
            prop_assert_eq!(&fold(&text.to_lowercase()), &folded);
            prop_assert_eq!(&fold(&text.nfd().collect::<String>()), &folded);
            prop_assert_eq!(&fold(&text.nfc().collect::<String>()), &folded);
        }

        #[test]
        fn a_text_in_ascii_folds_as_any_other(text in "[\\x00-\\x7f]*") {
            prop_assert_eq!(fold(&text), fold_unicode(&text));
        }

        #[test]
        fn a_text_is_found_by_itself(text in any::<String>()) {
            prop_assert!(finds(&text, &text_of([text.as_str()])));
        }

        #[test]
        fn a_typo_of_one_letter_is_found(word in "[a-z]{5,12}", at in any::<proptest::sample::Index>(), c in "[a-z]") {
            let at = at.index(word.len());
            let (before, after) = word.split_at(at);
            for typed in [format!("{before}{c}{after}"), format!("{before}{}", &after[1..]), format!("{before}{c}{}", &after[1..])] {
                prop_assert!(finds_with_a_typo(&typed, &word), "{} for {}", typed, word);
            }
        }
    }
}
