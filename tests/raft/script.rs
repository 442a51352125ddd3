//! Goal: every behaviour that etcd's raft documents by a script is documented here by one of ours.
//! Method: each `tests/raft/*.txt` is a list of commands, each followed by `----` and what it
//! printed; `UPDATE_EXPECT=1` writes what is printed now. Read the difference before accepting it.
//!
//! The world does nothing by itself: messages wait for `deliver`, writes for `persist`, committed
//! entries for `apply`; `stabilize` does all of it until nothing is left. See `Script::execute` for
//! the commands.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fated::kernel::{EntryId, LogIndex, MemberId, ReadId, Term};
use fated::raft::{
    ChangeKind, ConfChange, ConfState, Config, Entry, EntryKind, HardState, Message, Output, Raft,
    Role, Transition,
};

use super::observer::Observer;
use super::print::{show_conf, show_entries, show_entry, show_hard_state, show_id, show_message};
use super::world::{Disk, State, WRAPPED, World};

#[test]
fn scripts_print_what_they_expect() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/raft");
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of scripts")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(files.len() > 25, "scripts are missing");
    let mut failed = String::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable script");
        // One broken script must not hide the others.
        let Ok(printed) = std::panic::catch_unwind(|| run(&text)) else {
            let _ = writeln!(failed, "{}: a check failed, see above", path.display());
            continue;
        };
        if update {
            std::fs::write(&path, printed).expect("a writable script");
        } else if printed != text {
            let line = printed
                .lines()
                .zip(text.lines())
                .take_while(|(a, b)| a == b)
                .count();
            let (now, then) = (printed.lines().nth(line), text.lines().nth(line));
            let name = path.display();
            let _ = writeln!(
                failed,
                "{name}:{}\n  expected {then:?}\n  printed  {now:?}",
                line + 1
            );
        }
    }
    assert!(
        failed.is_empty(),
        "\n{failed}UPDATE_EXPECT=1 accepts what is printed"
    );
}

/// Runs a script and returns it with what its commands print.
fn run(text: &str) -> String {
    let mut script = Script {
        world: World::new(1),
        observer: Observer::default(),
        print: String::new(),
        quiet: false,
    };
    let mut result = String::new();
    for block in text.split("\n\n") {
        let block = block.trim_matches('\n');
        let input = block.split("\n----").next().unwrap_or_default();
        let mut commands = input
            .lines()
            .filter(|line| !line.starts_with('#'))
            .peekable();
        if commands.peek().is_none() {
            if !input.is_empty() {
                let _ = write!(result, "{input}\n\n");
            }
            continue;
        }
        script.print.clear();
        for command in commands {
            script.command(command);
        }
        let print = if script.print.is_empty() {
            "ok\n"
        } else {
            &script.print
        };
        let _ = write!(result, "{input}\n----\n{print}\n");
    }
    result.trim_end().to_owned() + "\n"
}

struct Script {
    world: World,
    observer: Observer,
    print: String,
    quiet: bool,
}

/// A command line: words, and options of the form `name=value` or `name`.
struct Line<'a> {
    words: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn numbers(&self) -> Vec<u64> {
        self.words
            .iter()
            .filter_map(|word| word.parse().ok())
            .collect()
    }

    fn members(&self) -> Vec<MemberId> {
        self.numbers().into_iter().map(MemberId::new).collect()
    }

    fn option(&self, name: &str) -> Option<&'a str> {
        self.words.iter().find_map(|word| {
            let rest = word.strip_prefix(name)?;
            if rest.is_empty() {
                Some("")
            } else {
                rest.strip_prefix('=')
            }
        })
    }

    fn list(&self, name: &str) -> Vec<u64> {
        let value = self.option(name).unwrap_or_default();
        value
            .split(',')
            .filter_map(|number| number.parse().ok())
            .collect()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.option(name)?.parse().ok()
    }
}

impl Script {
    fn say(&mut self, line: impl AsRef<str>) {
        if !self.quiet {
            self.print.push_str(line.as_ref());
            self.print.push('\n');
        }
    }

    fn command(&mut self, text: &str) {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        self.quiet = words[0] == "quiet";
        if self.quiet {
            words.remove(0);
        }
        let name = words.remove(0);
        self.execute(name, &Line { words });
        self.observer.check(&mut self.world);
    }

    fn execute(&mut self, name: &str, line: &Line<'_>) {
        let members = line.members();
        match name {
            "add-nodes" => self.add_nodes(line),
            "process" => members.iter().for_each(|&id| self.process(id)),
            "persist" => members.iter().for_each(|&id| self.persist(id)),
            "apply" => members.iter().for_each(|&id| self.apply(id)),
            "deliver" => drop(self.deliver(line)),
            "drop" => self.drop_messages(line),
            "deliver-images" => drop(self.deliver_images(&members)),
            "deliver-first" => self.deliver_first(members[0]),
            "delay" => self.delay(members[0]),
            "repeat" => self.repeat(&members),
            "drop-images" => self.world.images.clear(),
            "stabilize" => self.stabilize(line),
            "crash" => members.iter().for_each(|&id| self.world.crash(id)),
            "restart" => members.iter().for_each(|&id| self.world.restart(id)),
            "raft-log" => members.iter().for_each(|&id| self.print_log(id)),
            "raft-state" => self.print_states(),
            "status" => members.iter().for_each(|&id| self.print_status(id)),
            "tick" => self.tick(members[0], line.numbers()[1]),
            "tick-heartbeat" => self.tick(members[0], 1),
            "tick-election" => self.tick(members[0], 3),
            "propose" | "propose-conf-change" | "read" | "transfer" => {
                self.request(name, line, members[0]);
            }
            _ => self.tell(name, line, members[0]),
        }
    }

    fn request(&mut self, name: &str, line: &Line<'_>, id: MemberId) {
        let raft = self.world.raft(id);
        let result = match name {
            "propose" => raft.propose(Bytes::from(line.words[1..].join(" "))),
            "propose-conf-change" => raft.propose_conf_change(conf_change(&line.words[1..])),
            "read" => raft.read_index(ReadId::new(line.numbers()[1])),
            _ => {
                raft.transfer_leadership(line.members()[1]);
                Ok(())
            }
        };
        match result {
            Ok(()) if name == "read" => {
                let boot = self.world.member(id).boots;
                self.observer
                    .read_begins(id, boot, ReadId::new(line.numbers()[1]));
            }
            Ok(()) => {}
            Err(error) => self.say(format!("{id} refuses: {error}")),
        }
    }

    fn tell(&mut self, name: &str, line: &Line<'_>, id: MemberId) {
        let numbers = line.numbers();
        let second = numbers.get(1).copied().unwrap_or_default();
        let raft = self.world.raft(id);
        match name {
            "campaign" => raft.campaign(),
            "forget-leader" => raft.forget_leader(),
            "set-election-timeout" => {
                raft.set_randomized_election_timeout(u32::try_from(second).expect("small"));
            }
            "report-unreachable" => raft.report_unreachable(MemberId::new(second)),
            "report-snapshot" => {
                let ok = line.option("failed").is_none();
                raft.report_snapshot(MemberId::new(second), LogIndex::new(numbers[2]), ok);
            }
            "compact" => {
                self.world.checkpoint(id);
                let first = self.world.compact(id, LogIndex::new(second));
                self.say(format!("{id} forgets up to {first}"));
            }
            _ => panic!("unknown command {name}"),
        }
    }

    fn add_nodes(&mut self, line: &Line<'_>) {
        let conf = ConfState {
            learners: line
                .list("learners")
                .into_iter()
                .map(MemberId::new)
                .collect(),
            ..ConfState::of_voters(line.list("voters").into_iter().map(MemberId::new))
        };
        for _ in 0..line.numbers()[0] {
            let id = MemberId::new(self.world.members.len() as u64 + 1);
            let disk = disk(line, &conf);
            self.observer.begins_after(disk.first);
            self.world.add(config(id, line), disk);
        }
    }

    fn tick(&mut self, id: MemberId, count: u64) {
        (0..count).for_each(|_| self.world.raft(id).tick());
    }

    fn process(&mut self, id: MemberId) {
        let output = self.world.process(id);
        self.print_output(id, &output);
        self.observer.check(&mut self.world);
    }

    fn persist(&mut self, id: MemberId) {
        let before = self.world.network.len();
        if !self.world.persist(id) {
            return;
        }
        let durable = show_id(self.world.raft(id).durable());
        self.say(format!("{id} is durable up to {durable}"));
        for slot in before..self.world.network.len() {
            let text = show_message(&self.world.network[slot]);
            self.say(format!("  {text}"));
        }
        self.observer.check(&mut self.world);
    }

    fn apply(&mut self, id: MemberId) {
        while let Some(entry) = self.world.member(id).to_apply.front().cloned() {
            let before = self.world.member(id).state.conf.clone();
            self.world.apply(id, 1);
            self.say(format!("{id} applies {}", show_entry(&entry)));
            let after = self.world.member(id).state.conf.clone();
            if entry.kind == EntryKind::ConfChange {
                let unchanged = if before == after { " (unchanged)" } else { "" };
                self.say(format!("{id} has {}{unchanged}", show_conf(&after)));
            }
            self.observer.check(&mut self.world);
        }
    }

    /// Delivers everything that is on its way to the members named, in order; `from=` narrows it
    /// down.
    fn deliver(&mut self, line: &Line<'_>) -> bool {
        let (to, from) = (line.members(), line.list("from"));
        let mut any = false;
        let mut slot = 0;
        while slot < self.world.network.len() {
            let message = &self.world.network[slot];
            let wanted = from.is_empty() || from.contains(&message.from.get());
            if !wanted || !to.contains(&message.to) {
                slot += 1;
                continue;
            }
            let message = self.world.deliver(slot);
            self.say(format!("> {}", show_message(&message)));
            any = true;
        }
        any
    }

    fn deliver_first(&mut self, to: MemberId) {
        let slot = self
            .world
            .network
            .iter()
            .position(|message| message.to == to);
        let message = self.world.deliver(slot.expect("a message to deliver"));
        self.say(format!("> {}", show_message(&message)));
    }

    /// The first message to the member comes last.
    fn delay(&mut self, to: MemberId) {
        let slot = self
            .world
            .network
            .iter()
            .position(|message| message.to == to);
        let message = self.world.network.remove(slot.expect("a message to delay"));
        self.world.network.push(message);
    }

    /// Doubles what is on its way to the members named; the copies come last.
    fn repeat(&mut self, to: &[MemberId]) {
        let network = self.world.network.iter();
        let copies: Vec<Message> = network
            .filter(|message| to.contains(&message.to))
            .cloned()
            .collect();
        self.world.network.extend(copies);
    }

    fn drop_messages(&mut self, line: &Line<'_>) {
        let (to, from) = (line.list("to"), line.list("from"));
        let gone = |message: &Message| {
            (to.is_empty() || to.contains(&message.to.get()))
                && (from.is_empty() || from.contains(&message.from.get()))
        };
        let lost: Vec<Message> = self.world.network.extract_if(.., |m| gone(m)).collect();
        for message in lost {
            self.say(format!("x {}", show_message(&message)));
        }
    }

    fn deliver_images(&mut self, to: &[MemberId]) -> bool {
        let mut any = false;
        while let Some(slot) = self
            .world
            .images
            .iter()
            .position(|image| to.contains(&image.to))
        {
            let (image, taken) = self.world.deliver_image(slot);
            let verdict = if taken { "taken" } else { "not needed" };
            let (from, to, id) = (image.from, image.to, show_id(image.state.id));
            self.say(format!(
                "> {from}->{to} image {id} {}: {verdict}",
                show_conf(&image.state.conf)
            ));
            any = true;
        }
        any
    }

    /// Runs the members named, or all, until nothing is left to do. `hold=` names members whose
    /// disk does not answer.
    fn stabilize(&mut self, line: &Line<'_>) {
        let named = line.members();
        let members = if named.is_empty() {
            self.world.ids()
        } else {
            named
        };
        let hold = line.list("hold");
        for _ in 0..500 {
            let mut busy = false;
            for &id in &members {
                if self.world.member(id).raft.is_none() {
                    continue;
                }
                while self.world.raft(id).has_output() {
                    self.process(id);
                    busy = true;
                }
                while !hold.contains(&id.get()) && !self.world.member(id).jobs.is_empty() {
                    self.persist(id);
                    busy = true;
                }
                busy |= !self.world.member(id).to_apply.is_empty();
                self.apply(id);
            }
            let words: Vec<String> = members.iter().map(ToString::to_string).collect();
            let words = words.iter().map(String::as_str).collect();
            busy |= self.deliver(&Line { words });
            busy |= self.deliver_images(&members);
            if !busy {
                return;
            }
        }
        panic!("the members never come to rest");
    }

    fn print_output(&mut self, id: MemberId, output: &Output) {
        if let Some(role) = output.role {
            let leader = role
                .leader
                .map_or("nobody".to_owned(), |leader| leader.to_string());
            self.say(format!(
                "{id} is {} in term {}, led by {leader}",
                role.role, role.term
            ));
        }
        if let Some(image) = &output.install {
            let conf = show_conf(&image.conf_state);
            self.say(format!("{id} installs image {} {conf}", show_id(image.id)));
        }
        let entries = show_entries(&output.append);
        match output.hard_state {
            Some(state) => self.say(format!(
                "{id} writes {entries} and {}",
                show_hard_state(&state)
            )),
            None if output.append.is_empty() => {}
            None => self.say(format!("{id} writes {entries}")),
        }
        for message in &output.messages {
            self.say(format!("  {}", show_message(message)));
        }
        for message in &output.after_append {
            self.say(format!("  {} (when durable)", show_message(message)));
        }
        for read in &output.read_states {
            self.say(format!("{id} may serve read {} at {}", read.id, read.index));
        }
        for peer in &output.snapshot_wanted {
            self.say(format!("{id} wants an image for {peer}"));
        }
    }

    fn print_log(&mut self, id: MemberId) {
        let raft = self.world.raft(id);
        let (first, last) = (raft.first(), raft.last());
        let entries = raft.entries(first.index.next(), last.index, usize::MAX);
        self.say(format!("after {}", show_id(first)));
        for entry in entries {
            self.say(show_entry(&entry));
        }
    }

    fn print_states(&mut self) {
        for id in self.world.ids() {
            let Some(raft) = &self.world.member(id).raft else {
                self.say(format!("{id}: down"));
                continue;
            };
            let vote = raft.vote().map_or(0, MemberId::get);
            let kind = if raft.conf_state().is_voter(id) {
                "voter"
            } else {
                "non-voter"
            };
            let text = format!(
                "{id}: {} {kind} term={} vote={vote} commit={} applied={} durable={} last={}",
                raft.role(),
                raft.term(),
                raft.committed(),
                raft.applied(),
                raft.durable().index,
                show_id(raft.last())
            );
            self.say(text);
        }
    }

    fn print_status(&mut self, id: MemberId) {
        let raft: &Raft = self.world.raft(id);
        let views: Vec<_> = raft.progress().collect();
        if raft.role() != Role::Leader {
            self.say("not a leader");
        }
        for (peer, view) in views {
            let mut text = format!(
                "{peer}: {:?} match={} next={}",
                view.state, view.matched, view.next
            );
            for (flag, name) in [
                (view.learner, " learner"),
                (view.paused, " paused"),
                (!view.recent_active, " inactive"),
            ] {
                text.push_str(if flag { name } else { "" });
            }
            if view.inflight > 0 {
                let _ = write!(text, " inflight={}", view.inflight);
            }
            self.say(text);
        }
    }
}

fn config(id: MemberId, line: &Line<'_>) -> Config {
    let bytes = |name, default| {
        let number = line.number(name).unwrap_or(default);
        usize::try_from(number).expect("small")
    };
    Config {
        pre_vote: line.option("prevote").is_some(),
        check_quorum: line.option("checkquorum").is_some(),
        append_bytes_max: bytes("append-bytes", 1 << 20),
        inflight_appends_max: bytes("inflight", 100),
        inflight_bytes_max: bytes("inflight-bytes", 0),
        uncommitted_bytes_max: bytes("uncommitted", 1 << 20),
        apply_bytes_max: 1 << 20,
        ..Config::new(id, 3, 1)
    }
}

/// `index=` starts after a compacted log, `log=` with entries of these terms.
fn disk(line: &Line<'_>, conf: &ConfState) -> Disk {
    let index = line.number("index").unwrap_or_default();
    let first = EntryId::new(Term::new(u64::from(index > 0)), LogIndex::new(index));
    let entries = (index + 1..)
        .zip(line.list("log"))
        .map(|(index, term)| Entry {
            id: EntryId::new(Term::new(term), LogIndex::new(index)),
            kind: EntryKind::Normal,
            data: Bytes::from(format!("{term}.{index}")),
        });
    let entries: Vec<Entry> = entries.collect();
    let last = entries.last().map_or(first, |entry| entry.id);
    Disk {
        hard_state: HardState {
            term: line.number("term").map_or(last.term, Term::new),
            vote: None,
            commit: first.index,
        },
        first,
        entries,
        state: State {
            id: first,
            digest: 0,
            conf: conf.clone(),
        },
    }
}

/// `+v3` adds a voter, `+l3` a learner, `-3` removes; nothing leaves a joint configuration.
fn conf_change(words: &[&str]) -> Bytes {
    let mut change = ConfChange::default();
    let mut wrapped = false;
    for word in words {
        let id = word.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        let id = id.parse().map(MemberId::new);
        match *word {
            "implicit" => change.transition = Transition::JointImplicit,
            "explicit" => change.transition = Transition::JointExplicit,
            "wrapped" => wrapped = true,
            word => {
                let kind = match &word[..1] {
                    "-" => ChangeKind::Remove,
                    _ if word.starts_with("+v") => ChangeKind::AddVoter,
                    _ => ChangeKind::AddLearner,
                };
                change.changes.push((kind, id.expect("a member")));
            }
        }
    }
    if wrapped {
        return [&[WRAPPED], &*change.encode()].concat().into();
    }
    change.encode()
}
