//! A log file that begins anew when it is full, with the old ones beside it.
//!
//! ```text
//! fated.log                              the file that grows
//! fated-2026-01-31T23-59-59.999.log      one that was full, by the time it was put aside
//! fated-2026-01-31T23-59-59.999.log.gz   the same, packed
//! ```
//!
//! Names and rules are those of the library etcd uses, so that tools which collect such files find
//! them. Invariants: a line is never split over two files; putting aside and packing never loses a
//! line; what is packed or removed lies in the same directory and has a name of the form above.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Duration,
};

use chrono::{DateTime, Local, NaiveDateTime, TimeDelta, Utc};
use flate2::{Compression, write::GzEncoder};

const MEGABYTE: u64 = 1024 * 1024;
const MEGABYTES_DEFAULT: u64 = 100;
const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const STAMP_CHARS: usize = "2006-01-02T15-04-05.000".len();
const PACKED: &str = ".gz";
const FILE_MODE: u32 = 0o600;

/// When a file is full, and what becomes of it then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// `maxsize`: megabytes of a file; zero means a hundred.
    pub megabytes_max: u64,
    /// `maxage`: days after which a full file is removed; zero means never.
    pub days_max: u32,
    /// `maxbackups`: full files that stay; zero means all.
    pub files_max: usize,
    /// `localtime`: whether names are in local time.
    pub local_time: bool,
    /// `compress`: whether full files are packed.
    pub compress: bool,
}

impl Rotation {
    fn bytes_max(&self) -> u64 {
        let megabytes = match self.megabytes_max {
            0 => MEGABYTES_DEFAULT,
            given => given,
        };
        megabytes.saturating_mul(MEGABYTE)
    }
}

/// The file that grows.
#[derive(Debug)]
pub(super) struct Rotating {
    path: PathBuf,
    rotation: Rotation,
    bytes_max: u64,
    file: File,
    bytes: u64,
    /// Tidies up; one at a time, and the next one finds what this one leaves.
    tidying: Option<JoinHandle<()>>,
}

impl Rotating {
    /// Goes on with a file, or begins it.
    pub fn open(path: &str, rotation: Rotation) -> io::Result<Self> {
        Self::with_size(PathBuf::from(path), rotation, rotation.bytes_max())
    }

    fn with_size(path: PathBuf, rotation: Rotation, bytes_max: u64) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = open_append(&path, FILE_MODE)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path,
            rotation,
            bytes_max,
            file,
            bytes,
            tidying: None,
        })
    }

    fn put_aside(&mut self) -> io::Result<()> {
        let aside = self.free_name();
        let mode = self.file.metadata()?.permissions().mode();
        fs::rename(&self.path, aside)?;
        self.file = open_append(&self.path, mode)?;
        self.bytes = 0;
        self.tidy();
        Ok(())
    }

    /// Two files may be full within a millisecond; the later one gets the next free name.
    fn free_name(&self) -> PathBuf {
        let mut now = Utc::now();
        loop {
            let stamp = match self.rotation.local_time {
                true => now.with_timezone(&Local).format(STAMP).to_string(),
                false => now.format(STAMP).to_string(),
            };
            let (stem, extension) = parts(&self.path);
            let name = self
                .path
                .with_file_name(format!("{stem}-{stamp}{extension}"));
            if !name.exists() && !packed(&name).exists() {
                return name;
            }
            now += TimeDelta::milliseconds(1);
        }
    }

    fn tidy(&mut self) {
        if self
            .tidying
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return;
        }
        let (path, rotation) = (self.path.clone(), self.rotation);
        let thread = thread::Builder::new().name("log-tidy".to_owned());
        // What cannot be tidied stays, and the next full file is a new attempt.
        self.tidying = thread
            .spawn(move || {
                let _ = tidy(&path, rotation);
            })
            .ok();
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.bytes_max {
            // If it cannot be put aside, a file that is too long is better than a lost line.
            let _ = self.put_aside();
        }
        self.file.write_all(bytes)?;
        self.bytes += length;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn open_append(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(mode)
        .open(path)
}

/// The name before its extension, and the extension with its dot.
fn parts(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.rfind('.') {
        Some(dot) => (name[..dot].to_owned(), name[dot..].to_owned()),
        None => (name.into_owned(), String::new()),
    }
}

fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PACKED);
    PathBuf::from(name)
}

/// A file that was put aside.
struct Old {
    path: PathBuf,
    at: NaiveDateTime,
    packed: bool,
}

/// Removes what is too old or too much and packs the rest.
fn tidy(path: &Path, rotation: Rotation) -> io::Result<()> {
    let mut old = old_files(path)?;
    old.sort_by_key(|file| std::cmp::Reverse(file.at));
    let now = match rotation.local_time {
        true => DateTime::<Local>::from(Utc::now()).naive_local(),
        false => Utc::now().naive_utc(),
    };
    let age_max = TimeDelta::from_std(Duration::from_secs(86_400) * rotation.days_max)
        .unwrap_or(TimeDelta::MAX);
    for (rank, file) in old.iter().enumerate() {
        let too_many = rotation.files_max > 0 && rank >= rotation.files_max;
        let too_old = rotation.days_max > 0 && now.signed_duration_since(file.at) > age_max;
        if too_many || too_old {
            fs::remove_file(&file.path)?;
        } else if rotation.compress && !file.packed {
            pack(&file.path)?;
        }
    }
    Ok(())
}

/// What stands beside the file under a name that was made here.
fn old_files(path: &Path) -> io::Result<Vec<Old>> {
    let (stem, extension) = parts(path);
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let mut old = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_packed = name.ends_with(PACKED);
        let stamp = name
            .strip_suffix(PACKED)
            .unwrap_or(&name)
            .strip_suffix(&*extension)
            .and_then(|rest| rest.strip_prefix(&*stem))
            .and_then(|rest| rest.strip_prefix('-'))
            .filter(|stamp| stamp.len() == STAMP_CHARS);
        let at = stamp.and_then(|stamp| NaiveDateTime::parse_from_str(stamp, STAMP).ok());
        if let Some(at) = at {
            old.push(Old {
                at,
                packed: is_packed,
                path,
            });
        }
    }
    Ok(old)
}

/// The packed file gets its name when it is whole, and only then the other one goes.
fn pack(path: &Path) -> io::Result<()> {
    let target = packed(path);
    let unfinished = target.with_extension("gz-unfinished");
    let mode = fs::metadata(path)?.permissions().mode();
    let mut options = OpenOptions::new();
    let into = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(mode)
        .open(&unfinished)?;
    let mut encoder = GzEncoder::new(into, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&unfinished, &target)?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io::Read};

    use flate2::read::GzDecoder;

    use super::*;

    const KEEP_ALL: Rotation = Rotation {
        megabytes_max: 0,
        days_max: 0,
        files_max: 0,
        local_time: false,
        compress: false,
    };

    fn names(directory: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(directory).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    fn written(directory: &Path, rotation: Rotation, lines: usize) -> Rotating {
        let path = directory.join("x.log");
        let mut file = Rotating::with_size(path, rotation, 100).unwrap();
        for line in 0..lines {
            writeln!(file, "{line:019}").unwrap();
            if let Some(tidying) = file.tidying.take() {
                tidying.join().unwrap();
            }
        }
        file
    }

    /// Five lines of twenty bytes fill a file; every line is in exactly one file, in order.
    #[test]
    fn full_files_are_put_aside_and_no_line_is_lost_or_split() {
        let dir = tempfile::tempdir().unwrap();
        let first = written(dir.path(), KEEP_ALL, 7);
        assert_eq!(first.bytes, 40);
        drop(first);
        // A second life goes on with what it finds.
        drop(written(dir.path(), KEEP_ALL, 5));
        let mut names: Vec<String> = names(dir.path()).into_iter().collect();
        assert_eq!(names.pop().as_deref(), Some("x.log"));
        assert_eq!(names.len(), 2);
        names.push("x.log".to_owned());
        let text: String = names
            .iter()
            .map(|name| fs::read_to_string(dir.path().join(name)).unwrap())
            .inspect(|text| assert!(text.len() <= 100))
            .collect();
        let expected: String = (0..7)
            .chain(0..5)
            .map(|line| format!("{line:019}\n"))
            .collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn a_line_longer_than_a_file_has_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = written(dir.path(), KEEP_ALL, 1);
        file.write_all(&[b'x'; 300]).unwrap();
        file.write_all(b"y\n").unwrap();
        drop(file);
        let mut sizes: Vec<u64> = names(dir.path())
            .iter()
            .map(|name| fs::metadata(dir.path().join(name)).unwrap().len())
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [2, 20, 300]);
    }

    #[test]
    fn only_so_many_stay_and_they_are_packed() {
        let dir = tempfile::tempdir().unwrap();
        let stranger = dir.path().join("x-other.log");
        fs::write(&stranger, "not ours").unwrap();
        let rotation = Rotation {
            files_max: 2,
            compress: true,
            ..KEEP_ALL
        };
        drop(written(dir.path(), rotation, 26));
        let names = names(dir.path());
        let old: Vec<&String> = names
            .iter()
            .filter(|name| name.ends_with(".log.gz"))
            .collect();
        assert_eq!((names.len(), old.len()), (4, 2), "{names:?}");
        let mut text = String::new();
        let newest = File::open(dir.path().join(old[1])).unwrap();
        GzDecoder::new(newest).read_to_string(&mut text).unwrap();
        let expected: String = (20..25).map(|line| format!("{line:019}\n")).collect();
        assert_eq!(text, expected);
        assert!(stranger.exists());
    }

    #[test]
    fn what_is_too_old_goes() {
        let dir = tempfile::tempdir().unwrap();
        let ancient = dir.path().join("x-2001-02-03T04-05-06.007.log.gz");
        fs::write(&ancient, "").unwrap();
        let rotation = Rotation {
            days_max: 3,
            local_time: true,
            ..KEEP_ALL
        };
        drop(written(dir.path(), rotation, 6));
        assert!(!ancient.exists());
        assert_eq!(names(dir.path()).len(), 2);
    }
}
