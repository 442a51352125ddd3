//! Versions, and the rules by which the cluster's version moves: the lowest version of all members,
//! up as far as it can, down by one minor version at most.

use std::{fmt, str::FromStr};

/// A version, ordered by number. Pre-release and build suffixes are accepted and dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// Changes what clients see.
    pub major: u32,
    /// Adds to it.
    pub minor: u32,
    /// Mends it; no part of a cluster's version.
    pub patch: u32,
}

/// The text is no version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionError(pub String);

impl fmt::Display for VersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a version of the form 3.7.0", self.0)
    }
}

impl std::error::Error for VersionError {}

impl Version {
    /// The cluster's version while some member's is unknown.
    pub const MINIMUM: Self = Self::new(3, 0, 0);

    /// A version by its numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// The part that counts for a cluster.
    #[must_use]
    pub const fn cluster(self) -> Self {
        Self::new(self.major, self.minor, 0)
    }

    /// Whether a cluster at this version may move to `to`: up within the major version, or down by
    /// one minor version.
    pub fn may_move_to(self, to: Self) -> bool {
        let (from, to) = (self.cluster(), to.cluster());
        from.major == to.major && (from < to || to.minor.checked_add(1) == Some(from.minor))
    }

    /// The only version a cluster of this one can be brought down to.
    pub fn one_below(self) -> Option<Self> {
        let minor = self.minor.checked_sub(1)?;
        Some(Self::new(self.major, minor, 0))
    }

    /// The version a client names for a downgrade: `3.6`, or with a patch that does not count.
    pub fn parse_target(text: &str) -> Result<Self, VersionError> {
        let whole = text.parse::<Self>();
        whole
            .or_else(|_| format!("{text}.0").parse())
            .map(Self::cluster)
            .map_err(|_| VersionError(text.into()))
    }

    /// As clients read a cluster's version.
    pub fn short(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// Whether a member of this version may serve in a cluster of version `cluster`.
    pub fn can_serve(self, cluster: Self) -> bool {
        self.cluster() >= cluster.cluster()
    }

    /// Where the cluster's version should move, if anywhere. `members` are the versions of all
    /// members, `None` for one that could not be asked.
    pub fn decide(
        current: Option<Self>,
        members: impl IntoIterator<Item = Option<Self>>,
    ) -> Option<Self> {
        let lowest = members
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .and_then(|versions| versions.into_iter().min())
            .map(Self::cluster);
        match (current, lowest) {
            (None, lowest) => Some(lowest.unwrap_or(Self::MINIMUM)),
            (Some(_), None) => None,
            (Some(current), Some(lowest)) => {
                (current < lowest && current.may_move_to(lowest)).then_some(lowest)
            }
        }
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let error = || VersionError(text.into());
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        };
        let core = text.find(['-', '+']).map_or(text, |end| &text[..end]);
        let mut parts = core.split('.').map(number);
        let mut next = || parts.next().flatten().ok_or_else(error);
        let version = Self::new(next()?, next()?, next()?);
        match parts.next() {
            Some(_) => Err(error()),
            None => Ok(version),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    fn v(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_parse_print_and_order() {
        assert_eq!(v("3.10.2").to_string(), "3.10.2");
        assert!(v("3.9.9") < v("3.10.0") && v("3.10.0") < v("4.0.0"));
        assert_eq!(v("3.7.0-rc.1"), v("3.7.0+build"));
        for bad in [
            "", "3", "3.7", "3.7.", "3.7.x", "3.7.0.1", "v3.7.0", "3.+7.0", "-3.7.0",
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cluster_moves_up_freely_and_down_by_one() {
        assert!(v("3.5.0").may_move_to(v("3.7.0")));
        assert!(v("3.7.0").may_move_to(v("3.6.0")));
        assert!(!v("3.7.0").may_move_to(v("3.5.0")));
        assert!(!v("3.7.0").may_move_to(v("3.7.4")));
        assert!(!v("3.7.0").may_move_to(v("4.0.0")));
        assert!(!v("3.0.0").may_move_to(v("2.9.0")));
    }

    #[test]
    fn a_target_is_named_with_or_without_patch() {
        for good in ["3.6", "3.6.0", "3.6.9"] {
            assert_eq!(Version::parse_target(good), Ok(v("3.6.0")), "{good}");
        }
        for bad in ["", "3", "v3.6", "3.6.", "3.6.0.0", "three"] {
            assert!(Version::parse_target(bad).is_err(), "{bad}");
        }
        assert_eq!(v("3.7.1").one_below(), Some(v("3.6.0")));
        assert_eq!(v("3.0.0").one_below(), None);
        assert_eq!(v("3.10.2").short(), "3.10");
    }

    #[test]
    fn a_member_serves_its_own_version_and_older() {
        assert!(v("3.7.2").can_serve(v("3.7.0")));
        assert!(v("3.7.0").can_serve(v("3.6.0")));
        assert!(!v("3.6.9").can_serve(v("3.7.0")));
    }

    #[test]
    fn the_lowest_member_decides_and_an_unknown_one_holds() {
        let (low, high) = (Some(v("3.6.4")), Some(v("3.7.1")));
        assert_eq!(Version::decide(None, [high, low]), Some(v("3.6.0")));
        assert_eq!(Version::decide(None, [high, None]), Some(Version::MINIMUM));
        assert_eq!(
            Version::decide(Some(v("3.0.0")), [high, low]),
            Some(v("3.6.0"))
        );
        assert_eq!(Version::decide(Some(v("3.6.0")), [high, None]), None);
        assert_eq!(Version::decide(Some(v("3.6.0")), [high, low]), None);
        assert_eq!(Version::decide(Some(v("3.7.0")), [high, low]), None);
    }
}
