//! Which lines of a trace tell of what broke.
//!
//! Left out are the lines that every moment is full of (heartbeats, and disk operations that went
//! well), and members that the story does not name, if it names any. The world's own lines, which
//! tell of faults, always stay.

/// What a line holds that says nothing about a failure.
const EVERYDAY: [&str; 4] = ["<- disk done ", "Heartbeat", "StateHash", "StreamCredit"];

/// The last lines that matter for a story, at most so many.
pub fn relevant<'a>(lines: &'a [String], story: &str, most: usize) -> Vec<&'a str> {
    let named = named(story);
    let matters = |line: &&'a str| {
        let member = line.split_whitespace().nth(2);
        let member = member.and_then(|hex| u64::from_str_radix(hex, 16).ok());
        match member {
            None | Some(0) => true,
            Some(member) if !named.is_empty() && !named.contains(&member) => false,
            Some(_) => !EVERYDAY.iter().any(|everyday| line.contains(everyday)),
        }
    };
    let lines = lines.iter().rev().map(String::as_str);
    let mut found: Vec<&str> = lines.filter(matters).take(most).collect();
    found.reverse();
    found
}

/// The members that a story names, as their ids are written in it.
fn named(story: &str) -> Vec<u64> {
    let parts = story.split("MemberId(").skip(1);
    let ids = parts.filter_map(|rest| rest.split(')').next()?.parse().ok());
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(member: u64, what: &str) -> String {
        format!("       1        2775061 {member:016x} follower      t2   c102 {what}")
    }

    /// Goal: what stays is the end of what concerns the named members and the world.
    #[test]
    fn named_members_and_the_world_stay() {
        let lines = [
            line(10, "<- frame Vote"),
            line(11, "<- frame Append"),
            line(0, "isolate"),
            line(10, "<- disk done 7"),
            line(10, "killed"),
        ];
        let shown = relevant(&lines, "MemberId(10) went from term 2 to 1", 9);
        assert_eq!(shown, [&lines[0], &lines[2], &lines[4]]);
        let shown = relevant(&lines, "nobody is named", 9);
        assert_eq!(shown, [&lines[0], &lines[1], &lines[2], &lines[4]]);
        assert_eq!(relevant(&lines, "", 1), [&lines[4]]);
    }
}
