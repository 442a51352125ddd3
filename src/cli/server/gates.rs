//! Feature gates: etcd's names, and what is switched by them.

use std::collections::BTreeMap;

use super::values::parse_bool;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
}

/// Name, stage and default.
const KNOWN: &[(&str, Stage, bool)] = &[
    ("CompactHashCheck", Stage::Alpha, false),
    ("FastLeaseKeepAlive", Stage::Beta, true),
    ("InitialCorruptCheck", Stage::Alpha, false),
    ("LeaseCheckpoint", Stage::Alpha, false),
    ("LeaseCheckpointPersist", Stage::Alpha, false),
    ("PriorityRequest", Stage::Alpha, false),
    ("SetMemberLocalAddr", Stage::Alpha, false),
    ("StopGRPCServiceOnDefrag", Stage::Alpha, false),
    ("TxnModeWriteWithSharedBuffer", Stage::Beta, true),
];

/// Gates that stand for all of a stage.
const SPECIAL: [(&str, Stage); 2] = [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)];

/// Which features are on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeatureGates {
    enabled: BTreeMap<&'static str, bool>,
}

impl Default for FeatureGates {
    fn default() -> Self {
        let enabled = KNOWN.iter().map(|(name, _, on)| (*name, *on)).collect();
        Self { enabled }
    }
}

impl FeatureGates {
    /// Reads `Name=true,Name=false`. A gate named itself counts more than one that names all.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut named: BTreeMap<&str, bool> = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = name.trim();
            if !part.contains('=') {
                return Err(format!("missing bool value for {name}"));
            }
            let value = value.trim();
            let on = parse_bool(value).ok_or_else(|| {
                format!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: \
                     invalid syntax"
                )
            })?;
            let known = KNOWN.iter().map(|known| known.0);
            let mut known = known.chain(SPECIAL.iter().map(|special| special.0));
            if !known.any(|known| known == name) {
                return Err(format!("unrecognized feature gate: {name}"));
            }
            named.insert(name, on);
        }
        let mut gates = Self::default();
        for (special, stage) in SPECIAL {
            let Some(on) = named.get(special) else {
                continue;
            };
            for (name, _, _) in KNOWN.iter().filter(|known| known.1 == stage) {
                gates.enabled.insert(name, *on);
            }
        }
        for (name, _, _) in KNOWN {
            if let Some(on) = named.get(name) {
                gates.enabled.insert(name, *on);
            }
        }
        Ok(gates)
    }

    /// Whether a feature is on.
    pub fn enabled(&self, name: &str) -> bool {
        *self
            .enabled
            .get(name)
            .expect("gates are named in the table")
    }

    /// Every gate and whether it is on, by name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.enabled.iter().map(|(name, on)| (*name, *on))
    }

    /// What is set to something else than its default, by name.
    pub fn unusual(&self) -> Vec<String> {
        let standard = Self::default();
        let unusual = self
            .all()
            .filter(|(name, on)| standard.enabled(name) != *on);
        unusual.map(|(name, on)| format!("{name}={on}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_read_by_etcds_rules() {
        let gates =
            FeatureGates::parse("InitialCorruptCheck=true, FastLeaseKeepAlive = 0,").unwrap();
        assert!(gates.enabled("InitialCorruptCheck") && !gates.enabled("FastLeaseKeepAlive"));
        assert_eq!(
            gates.unusual(),
            ["FastLeaseKeepAlive=false", "InitialCorruptCheck=true"]
        );
        let all = FeatureGates::parse("CompactHashCheck=false,AllAlpha=true").unwrap();
        assert!(all.enabled("PriorityRequest") && !all.enabled("CompactHashCheck"));
        assert!(FeatureGates::parse("").unwrap().unusual().is_empty());
    }

    #[test]
    fn wrong_gates_are_refused_in_etcds_words() {
        for (text, reason) in [
            ("Nope=true", "unrecognized feature gate: Nope"),
            ("AllAlpha", "missing bool value for AllAlpha"),
            (
                "AllAlpha=yes",
                "invalid value of AllAlpha=yes, err: strconv.ParseBool: parsing \"yes\": invalid \
                 syntax",
            ),
        ] {
            assert_eq!(FeatureGates::parse(text).unwrap_err(), reason);
        }
    }
}
