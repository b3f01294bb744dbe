//! Figures, and the table that they are shown in.

use crate::{Failure, system::Cpu};
use serde_json::{Value, json};
use std::fs;

/// Rounds of one measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn last(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    fn range(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let at = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        (at(sorted.first()), at(sorted.last()))
    }

    fn json(&self) -> Value {
        let (lowest, highest) = self.range();
        json!({"median": self.median(), "lowest": lowest, "highest": highest, "rounds": self.0})
    }

    fn spread(&self) -> String {
        let (lowest, highest) = self.range();
        format!("{} to {}", number(lowest), number(highest))
    }
}

/// The share of the machine, in percent, that other processes may use before
/// the report mentions it.
const QUIET: f64 = 5.0;

/// The target of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// Figure divided by ceiling.
    Ratio(f64),
    /// The figure itself, per second.
    Rate(f64),
    /// A limit `most` in ms for the measured `is`.
    P99 { most: f64, is: f64 },
    /// The same of another percentile.
    P95 { most: f64, is: f64 },
    /// No target: the row helps to find the reason of another row.
    None,
}

/// A further measurement of a row.
#[derive(Clone, Debug)]
pub(crate) struct Detail {
    name: String,
    value: f64,
    unit: &'static str,
}

impl Detail {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit }
    }

    pub(crate) fn ms(name: &str, value: f64) -> Self {
        Self::new(name, value, "ms")
    }

    /// Processor time for each request, by part of the system.
    pub(crate) fn cpu(rounds: &[Cpu]) -> Vec<Self> {
        type Part = fn(&Cpu) -> f64;
        let parts: [(&str, Part); 4] = [
            ("API", |cpu| cpu.server),
            ("NATS", |cpu| cpu.nats),
            ("Redis", |cpu| cpu.redis),
            ("client", |cpu| cpu.client),
        ];
        parts
            .into_iter()
            .map(|(name, part)| {
                let series = Series(rounds.iter().map(part).collect());
                Self::new(format!("CPU each, {name}"), series.mean() * 1e6, "µs")
            })
            .filter(|detail| detail.value >= 0.5)
            .collect()
    }

    fn text(&self) -> String {
        let digits = if self.value < 10.0 {
            2
        } else if self.value < 100.0 {
            1
        } else {
            0
        };
        let space = if self.unit.is_empty() { "" } else { " " };
        format!("{} {:.digits$}{space}{}", self.name, self.value, self.unit)
    }
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) name: String,
    /// Per second.
    pub(crate) figure: Series,
    pub(crate) ceiling_name: String,
    /// Per second.
    pub(crate) ceiling: Series,
    pub(crate) target: Target,
    /// Percent of the machine that other processes used meanwhile.
    pub(crate) others: f64,
    pub(crate) details: Vec<Detail>,
}

impl Row {
    /// The median of the rounds' own ratios: a change from round to round affects
    /// both sides of one round.
    fn ratio(&self) -> f64 {
        if self.figure.0.len() != self.ceiling.0.len() {
            return self.figure.median() / self.ceiling.median();
        }
        Series(self.figure.0.iter().zip(&self.ceiling.0).map(|(a, b)| a / b).collect()).median()
    }

    fn met(&self) -> Option<bool> {
        match self.target {
            Target::Ratio(target) => Some(self.ratio() >= target),
            Target::Rate(target) => Some(self.figure.median() >= target),
            Target::P99 { most, is } | Target::P95 { most, is } => Some(is <= most),
            Target::None => None,
        }
    }

    fn cells(&self) -> [String; 6] {
        [
            self.name.clone(),
            format!("{}/s", number(self.figure.median())),
            match self.ceiling.0.is_empty() {
                true => String::new(),
                false => format!("{}/s {}", number(self.ceiling.median()), self.ceiling_name),
            },
            match self.target {
                Target::P99 { is, .. } => format!("p99 {is:.0} ms"),
                Target::P95 { is, .. } => format!("p95 {is:.0} ms"),
                _ => format!("{:.2}", self.ratio()),
            },
            match self.target {
                Target::P99 { most, .. } | Target::P95 { most, .. } => format!("{most:.0} ms"),
                Target::Ratio(target) => format!("{target:.2}"),
                Target::Rate(target) => format!("{}/s", number(target)),
                Target::None => String::new(),
            },
            match self.met() {
                Some(true) => "ok".to_owned(),
                Some(false) => "MISSED".to_owned(),
                None => String::new(),
            },
        ]
    }

    fn notes(&self) -> Vec<String> {
        let rounds = self.figure.0.len();
        let mut notes = Vec::new();
        if rounds > 1 {
            let mut note = format!("{rounds} rounds: {}", self.figure.spread());
            if !self.ceiling.0.is_empty() {
                note.push_str(&format!("; ceiling {}", self.ceiling.spread()));
            }
            notes.push(note);
        }
        let others = Detail::new("processors used by others", self.others, "%");
        let details: Vec<_> = self.details.iter().chain([&others]).map(Detail::text).collect();
        notes.extend(details.chunks(4).map(|details| details.join("; ")));
        notes
    }
}

/// The machine that the figures were measured on.
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    memory_gb: f64,
    /// The load of the last minute before the run.
    load: String,
}

impl Machine {
    pub(crate) fn now() -> Result<Self, Failure> {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let kilobytes: f64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: field("/proc/cpuinfo", "model name"),
            memory_gb: kilobytes / 1_048_576.0,
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        })
    }
}

pub(crate) fn text(machine: &Machine, rows: &[Row]) -> String {
    let head = ["", "FIGURE", "CEILING", "RATIO", "TARGET", ""].map(str::to_owned);
    let table: Vec<_> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| {
        table.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default()
    };
    let widths = [0, 1, 2, 3, 4, 5].map(width);
    let mut text = String::new();
    for (index, cells) in table.iter().enumerate() {
        let line: Vec<_> = cells
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                1 | 3 | 4 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            })
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
        for note in index.checked_sub(1).map(|row| rows[row].notes()).unwrap_or_default() {
            text.push_str(&format!("    {note}\n"));
        }
    }
    text.push_str(&format!(
        "\n{} cores, {}, {:.0} GB; load {} before. Rounds alternate with their ceiling's; figures are medians, ratios medians of the rounds' ratios. Client, servers and what is measured share the cores.",
        machine.cores, machine.processor, machine.memory_gb, machine.load
    ));
    let others = rows.iter().map(|row| row.others).fold(0.0, f64::max);
    if others > QUIET {
        text.push_str(&format!(
            "\nNOT A QUIET MACHINE: other processes used up to {others:.0} % of its processors while this was measured. Absolute figures are too low, and ratios of what needs both cores with it."
        ));
    }
    text
}

pub(crate) fn json(machine: &Machine, rows: &[Row]) -> Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let target = match row.target {
                Target::Ratio(target) => json!({"ratio": target}),
                Target::Rate(target) => json!({"per_second": target}),
                Target::P99 { most, is } => json!({"p99_ms": most, "is": is}),
                Target::P95 { most, is } => json!({"p95_ms": most, "is": is}),
                Target::None => Value::Null,
            };
            let details: Vec<_> = row
                .details
                .iter()
                .map(|detail| json!({"name": detail.name, "value": detail.value, "unit": detail.unit}))
                .collect();
            json!({
                "name": row.name,
                "per_second": row.figure.json(),
                "ceiling": {"name": row.ceiling_name, "per_second": row.ceiling.json()},
                "ratio": row.ratio(),
                "target": target,
                "met": row.met(),
                "others_percent": row.others,
                "details": details,
            })
        })
        .collect();
    json!({
        "machine": {
            "cores": machine.cores,
            "processor": machine.processor,
            "memory_gb": machine.memory_gb,
            "load_before": machine.load,
        },
        "rows": rows,
    })
}

/// With separators, three digits that count.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
