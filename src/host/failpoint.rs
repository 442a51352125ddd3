//! Places where a test makes a member fail, by etcd's names and in the language of its tool gofail:
//!
//! ```text
//! terms  := term ("->" term)*             the first term that is allowed acts
//! term   := mod* action [ "(" value ")" ]
//! mod    := <float> "%" | <int> "*"       that often, so many times
//! action := off | return | sleep | panic | break | print
//! value  := <int> | "text" | true | false | nothing
//! ```
//!
//! Invariants: without the feature `failpoints` nothing here does anything; a place that is not set
//! costs one look at a flag; no lock is held while a term sleeps.

/// A place is reached: whatever is set for it happens. What `return` says comes back.
#[cfg(not(feature = "failpoints"))]
pub fn hit(_name: &str) -> Option<String> {
    None
}

#[cfg(feature = "failpoints")]
pub use table::{NAMES, disable, enable, enable_all, hit, status};

/// What a term does.
#[cfg(any(test, feature = "failpoints"))]
#[derive(Clone, PartialEq, Debug)]
pub enum Act {
    /// Nothing.
    Off,
    /// A value for the place.
    Return(String),
    /// Time passes here.
    Sleep(std::time::Duration),
    /// The process ends.
    Panic(String),
    /// A word on standard output.
    Print,
}

#[cfg(any(test, feature = "failpoints"))]
pub mod terms {
    //! What is set for a place, as text and as acts.

    use std::time::Duration;

    use super::Act;

    enum Mod {
        Chance(f64),
        Times(u64),
    }

    struct Term {
        mods: Vec<Mod>,
        act: Act,
    }

    /// What is set for a place.
    pub struct Terms {
        chain: Vec<Term>,
        /// As it was given.
        pub text: String,
        /// How often a term acted.
        pub count: u64,
    }

    impl Terms {
        /// Reads terms; nothing if they make no sense.
        pub fn parse(text: &str) -> Option<Self> {
            let mut chain = Vec::new();
            for part in text.split("->") {
                chain.push(term(part)?);
            }
            Some(Self {
                chain,
                text: text.to_owned(),
                count: 0,
            })
        }

        /// What happens at this visit; `chance` is drawn between zero and one for each question.
        pub fn next(&mut self, mut chance: impl FnMut() -> f64) -> Act {
            for term in &mut self.chain {
                let allowed = term.mods.iter_mut().all(|of| match of {
                    Mod::Chance(share) => chance() <= *share,
                    Mod::Times(0) => false,
                    Mod::Times(left) => {
                        *left -= 1;
                        true
                    }
                });
                if allowed {
                    self.count += 1;
                    return term.act.clone();
                }
            }
            Act::Off
        }
    }

    fn term(mut text: &str) -> Option<Term> {
        let mut mods = Vec::new();
        while text.starts_with(|c: char| c.is_ascii_digit()) {
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number = &text[..end];
            mods.push(match text.as_bytes()[end] {
                b'%' => Mod::Chance(number.parse::<f64>().ok()? / 100.0),
                b'*' => Mod::Times(number.parse().ok()?),
                _ => return None,
            });
            text = &text[end + 1..];
        }
        let (action, value) = match text.split_once('(') {
            Some((action, rest)) => (action, Some(rest.strip_suffix(')')?)),
            None => (text, None),
        };
        let act = match action {
            "off" => Act::Off,
            "return" => Act::Return(unquoted(value.unwrap_or(""))?),
            "sleep" => Act::Sleep(duration(value?)?),
            "panic" => Act::Panic(unquoted(value.unwrap_or(""))?),
            // A debugger would have to be there; a word tells that the place was reached.
            "print" | "break" => Act::Print,
            _ => return None,
        };
        Some(Term { mods, act })
    }

    fn unquoted(value: &str) -> Option<String> {
        if let Some(rest) = value.strip_prefix('"') {
            return rest.strip_suffix('"').map(str::to_owned);
        }
        let plain = value.is_empty() || value == "true" || value == "false";
        (plain || value.parse::<i64>().is_ok()).then(|| value.to_owned())
    }

    /// Milliseconds, or a text with units.
    fn duration(value: &str) -> Option<Duration> {
        let Some(quoted) = value.strip_prefix('"') else {
            return value.parse().ok().map(Duration::from_millis);
        };
        let mut rest = quoted.strip_suffix('"')?;
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..end].parse().ok()?;
            let tail = &rest[end..];
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(tail.len());
            seconds += number
                * match &tail[..unit_end] {
                    "ns" => 1e-9,
                    "us" | "µs" => 1e-6,
                    "ms" => 1e-3,
                    "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    _ => return None,
                };
            rest = &tail[unit_end..];
        }
        Duration::try_from_secs_f64(seconds).ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn acts(text: &str, visits: usize) -> Vec<Act> {
            let mut terms = Terms::parse(text).unwrap();
            (0..visits).map(|_| terms.next(|| 0.5)).collect()
        }

        #[test]
        fn a_chain_acts_in_its_order() {
            let slept = Act::Sleep(Duration::from_millis(10));
            let end = Act::Panic(String::new());
            assert_eq!(
                acts("2*sleep(10)->1*off->panic", 5),
                [slept.clone(), slept, Act::Off, end.clone(), end]
            );
            assert_eq!(acts("1*print", 2), [Act::Print, Act::Off]);
            assert_eq!(acts("49.9%panic->print", 1), [Act::Print]);
            assert_eq!(acts("50%1*panic->print", 2)[1], Act::Print);
            assert_eq!(acts("return(\"a b\")", 1), [Act::Return("a b".to_owned())]);
            assert_eq!(acts("return(7)", 1), [Act::Return("7".to_owned())]);
            assert_eq!(
                acts("sleep(\"1m1.5s\")", 1),
                [Act::Sleep(Duration::from_millis(61_500))]
            );
        }

        #[test]
        fn what_makes_no_sense_is_refused() {
            for text in [
                "",
                "5",
                "5*",
                "explode",
                "sleep",
                "sleep(",
                "sleep(x)",
                "sleep(\"1x\")",
                "panic->",
                "5?panic",
                "return(\"a)",
                "sleep(\"99999999999999999999h\")",
            ] {
                assert!(Terms::parse(text).is_none(), "{text}");
            }
        }
    }
}

#[cfg(feature = "failpoints")]
mod table {
    //! The places and what is set for them.

    use std::{
        collections::BTreeMap,
        hash::{BuildHasher, RandomState},
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use super::{Act, terms::Terms};

    /// Every place there is.
    pub const NAMES: &[&str] = &[
        "afterCommit",
        "afterStartDBTxn",
        "afterWritebackBuf",
        "applyAfterOpenSnapshot",
        "applyBeforeOpenSnapshot",
        "beforeApplyOneConfChange",
        "beforeApplyOneEntryNormal",
        "beforeCommit",
        "beforeLookupWhenForwardLeaseTimeToLive",
        "beforeLookupWhenLeaseTimeToLive",
        "beforeMoveVictims",
        "beforeProgressIfSync",
        "beforePublishing",
        "beforeRangeStreamChunk",
        "beforeSendWatchResponse",
        "beforeServeHTTPLeaseRenew",
        "beforeStartDBTxn",
        "beforeSyncWatchers",
        "beforeWritebackBuf",
        "commitAfterPreCommitHook",
        "commitBeforePreCommitHook",
        "compactAfterAcquiredBatchTxLock",
        "compactAfterCommitBatch",
        "compactAfterCommitScheduledCompact",
        "compactAfterSetFinishedCompact",
        "compactBeforeCommitBatch",
        "compactBeforeCommitScheduledCompact",
        "compactBeforeSetFinishedCompact",
        "defragBeforeCopy",
        "defragBeforeRename",
        "defragOpenFileError",
        "defragdbFail",
        "raftAfterApplySnap",
        "raftAfterSave",
        "raftAfterSaveSnap",
        "raftAfterWALRelease",
        "raftBeforeAdvance",
        "raftBeforeApplySnap",
        "raftBeforeFollowerSend",
        "raftBeforeLeaderSend",
        "raftBeforeSave",
        "raftBeforeSaveSnap",
        "raftBeforeWALSaveSnaphot",
        "raftDropHeartbeat",
        "walAfterSync",
        "walBeforeSync",
    ];

    static SET: Mutex<BTreeMap<&'static str, Terms>> = Mutex::new(BTreeMap::new());
    static SET_COUNT: AtomicUsize = AtomicUsize::new(0);

    fn set() -> MutexGuard<'static, BTreeMap<&'static str, Terms>> {
        SET.lock().expect("no holder of the lock panics")
    }

    fn known(name: &str) -> Option<&'static str> {
        NAMES.iter().copied().find(|known| *known == name)
    }

    /// Sets terms for a place.
    pub fn enable(name: &str, terms: &str) -> Result<(), &'static str> {
        let name = known(name).ok_or("failpoint: failpoint does not exist")?;
        let terms = Terms::parse(terms).ok_or("failpoint: could not parse terms")?;
        let mut set = set();
        set.insert(name, terms);
        SET_COUNT.store(set.len(), Ordering::Release);
        Ok(())
    }

    /// Sets several: `name=terms;name=terms`.
    pub fn enable_all(text: &str) -> Result<(), String> {
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (name, terms) = part
                .split_once('=')
                .ok_or_else(|| format!("bad failpoint {part:?}"))?;
            enable(name, terms).map_err(|reason| format!("{part}: {reason}"))?;
        }
        Ok(())
    }

    /// Lets a place be again.
    pub fn disable(name: &str) -> Result<(), &'static str> {
        let name = known(name).ok_or("failpoint: failpoint does not exist")?;
        let mut set = set();
        let before = set.remove(name);
        SET_COUNT.store(set.len(), Ordering::Release);
        before.map(drop).ok_or("failpoint: failpoint is disabled")
    }

    /// What is set for a place, and how often it acted.
    pub fn status(name: &str) -> Result<(String, u64), &'static str> {
        let name = known(name).ok_or("failpoint: failpoint does not exist")?;
        let set = set();
        let terms = set.get(name).ok_or("failpoint: failpoint is disabled")?;
        Ok((terms.text.clone(), terms.count))
    }

    /// A place is reached: whatever is set for it happens. What `return` says comes back.
    pub fn hit(name: &str) -> Option<String> {
        if SET_COUNT.load(Ordering::Acquire) == 0 {
            return None;
        }
        let act = set().get_mut(name)?.next(chance);
        match act {
            Act::Off => None,
            Act::Return(value) => Some(value),
            Act::Sleep(time) => {
                thread::sleep(time);
                None
            }
            Act::Panic(text) => {
                let story = if text.is_empty() { name } else { &text };
                eprintln!("panic: failpoint panic: {story}");
                // As Go's runtime ends: at once, without any farewell.
                std::process::exit(2)
            }
            Act::Print => {
                println!("failpoint print: {name}");
                None
            }
        }
    }

    fn chance() -> f64 {
        let drawn = RandomState::new().hash_one(0) >> 11;
        #[allow(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let drawn = drawn as f64;
        drawn / (1_u64 << 53) as f64
    }
}
