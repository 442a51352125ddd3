//! The file of results: one line of JSON per cell, added when the cell is done.
//!
//! Invariant: a line counts only for the binary that it was measured with, so a rebuilt server is
//! measured again. The cells of a pair ran one after the other and count together or not at all.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fs::{self, File},
    hash::Hasher,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{client::text, record::Figures, rows::Side};

/// A server's binary, told from others by its bytes.
pub struct Binary {
    pub path: PathBuf,
    pub version: String,
    /// Two binaries with the same are taken for the same.
    pub mark: String,
}

impl Binary {
    /// Looks at a binary.
    pub fn look(path: &Path) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        let told = Command::new(path).arg("--version").output().map_err(text)?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        // fated tells first which etcd it stands for.
        let own = told
            .lines()
            .find_map(|line| line.strip_prefix("fated Version: "));
        let first = told.lines().next().unwrap_or("unknown");
        let first = first.strip_prefix("etcd Version: ").unwrap_or(first);
        Ok(Self {
            path: path.to_owned(),
            version: own.unwrap_or(first).to_owned(),
            mark: format!("{:016x}", hasher.finish()),
        })
    }
}

/// The servers of a comparison.
pub type Binaries = BTreeMap<Side, Binary>;

/// The results so far, and their file.
pub struct Results {
    path: PathBuf,
    lines: Vec<Figures>,
}

/// The cells of a pair by server.
pub type Pair = BTreeMap<Side, Figures>;

impl Results {
    /// Reads what was measured before.
    pub fn open(path: &Path) -> Result<Self, String> {
        let before = fs::read_to_string(path).unwrap_or_default();
        let mut lines = Vec::new();
        for line in before.lines() {
            match serde_json::from_str(line) {
                Ok(Value::Object(figures)) => lines.push(figures),
                // A run that was ended while it wrote.
                Ok(_) | Err(_) => eprintln!("a line of {} is left out", path.display()),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            lines,
        })
    }

    /// Adds the cell of a server.
    pub fn add(
        &mut self,
        (row, pair): (&str, u64),
        (side, binary): (Side, &Binary),
        mut figures: Figures,
    ) -> Result<(), String> {
        figures.insert("row".into(), row.into());
        figures.insert("pair".into(), pair.into());
        figures.insert("server".into(), side.name().into());
        figures.insert("version".into(), binary.version.clone().into());
        figures.insert("binary".into(), binary.mark.clone().into());
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).map_err(text)?;
        }
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&self.path)
            .map_err(text)?;
        writeln!(file, "{}", Value::from(figures.clone())).map_err(text)?;
        self.lines.push(figures);
        Ok(())
    }

    /// The pairs of a row for which all these servers were measured with these binaries.
    pub fn pairs(&self, row: &str, sides: &[Side], binaries: &Binaries) -> Vec<Pair> {
        let mut by_number: BTreeMap<u64, Pair> = BTreeMap::new();
        for line in &self.lines {
            let told = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or("");
            let number = line.get("pair").and_then(Value::as_u64);
            for (side, binary) in binaries {
                if told("row") == row
                    && told("server") == side.name()
                    && told("binary") == binary.mark
                    && let Some(number) = number
                {
                    by_number
                        .entry(number)
                        .or_default()
                        .insert(*side, line.clone());
                }
            }
        }
        let whole = |pair: &Pair| sides.iter().all(|side| pair.contains_key(side));
        by_number.into_values().filter(whole).collect()
    }

    /// A number for a pair that no line of the row has.
    pub fn next_pair(&self, row: &str) -> u64 {
        let of = |line: &Figures| match line.get("row").and_then(Value::as_str) == Some(row) {
            true => line.get("pair").and_then(Value::as_u64),
            false => None,
        };
        self.lines
            .iter()
            .filter_map(of)
            .max()
            .map_or(1, |last| last + 1)
    }
}

/// A figure of a cell.
pub fn figure(figures: &Figures, name: &str) -> Option<f64> {
    figures.get(name).and_then(Value::as_f64)
}
