//! Ratios as pictures: a bar from one to the ratio, its spread, and where it has to be.

use std::{fmt::Write, fs, path::Path};

use crate::{
    client::text,
    results::{Binaries, Results},
    rows::{Against, Row},
    table::Verdict,
};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 330.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 54.0;
const LINE: f64 = 22.0;
const MET: &str = "#2a7f62";
const MISSED: &str = "#c8772e";
/// Lines of the scale.
const SCALE: [f64; 9] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];

/// What a picture shows.
struct Picture {
    file: &'static str,
    title: &'static str,
    figures: &'static [&'static str],
    against: Against,
}

const PICTURES: [Picture; 4] = [
    Picture {
        file: "rate.svg",
        title: "Operations a second, fated against etcd: more is better",
        figures: &["rate"],
        against: Against::Etcd,
    },
    Picture {
        file: "cpu.svg",
        title: "Server processor time per operation, fated against etcd: less is better",
        figures: &["cpu_us_per_op"],
        against: Against::Etcd,
    },
    Picture {
        file: "p99.svg",
        title: "99 % of operations take at most, fated against etcd: less is better",
        figures: &["p99_ms"],
        against: Against::Etcd,
    },
    Picture {
        file: "null.svg",
        title: "Operations a second against a server that stores nothing: more is better",
        figures: &["rate"],
        against: Against::Null,
    },
];

/// A bar.
struct Bar {
    label: &'static str,
    verdict: Verdict,
    bound: f64,
}

/// Writes the pictures for which something was measured.
pub fn write(
    directory: &Path,
    rows: &[Row],
    results: &Results,
    binaries: &Binaries,
) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(text)?;
    for picture in &PICTURES {
        let mut bars = Vec::new();
        for row in rows {
            let pairs = results.pairs(row.name, &row.sides(), binaries);
            let wanted = row.targets.iter().filter(|target| {
                target.against == picture.against && picture.figures.contains(&target.figure)
            });
            bars.extend(wanted.filter_map(|target| {
                Some(Bar {
                    label: row.what,
                    verdict: Verdict::of(target, &pairs)?,
                    bound: target.bound.figure(),
                })
            }));
        }
        if !bars.is_empty() {
            let path = directory.join(picture.file);
            fs::write(path, drawn(picture.title, &bars)).map_err(text)?;
        }
    }
    Ok(())
}

/// The scale of a picture, logarithmic.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn of(bars: &[Bar]) -> Self {
        let ends = |bar: &Bar| {
            let seen = &bar.verdict.seen;
            [seen[0], seen[seen.len() - 1], bar.bound]
        };
        let ends: Vec<_> = bars.iter().flat_map(ends).collect();
        let least = ends.iter().copied().fold(0.5, f64::min);
        let most = ends.iter().copied().fold(2.0, f64::max);
        let below = |line: &&f64| **line <= least;
        let above = |line: &&f64| **line >= most;
        Self {
            least: *SCALE.iter().rev().find(below).unwrap_or(&SCALE[0]),
            most: *SCALE.iter().find(above).unwrap_or(&SCALE[SCALE.len() - 1]),
        }
    }

    fn x(&self, ratio: f64) -> f64 {
        let inside = ratio.clamp(self.least, self.most);
        let share = (inside / self.least).ln() / (self.most / self.least).ln();
        LABELS + share * (WIDTH - LABELS - RIGHT)
    }
}

fn drawn(title: &str, bars: &[Bar]) -> String {
    let scale = Scale::of(bars);
    let height = TOP + LINE * bars.len() as f64 + 12.0;
    let mut svg = String::new();
    let mut put = |line: String| writeln!(svg, "{line}").expect("memory does not fail");
    put(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">"
    ));
    put(format!(
        "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>"
    ));
    put(format!(
        "<text x=\"12\" y=\"20\" font-size=\"14\" fill=\"#222\">{title}</text>"
    ));
    for line in SCALE
        .iter()
        .filter(|line| **line >= scale.least && **line <= scale.most)
    {
        let (x, bottom) = (scale.x(*line), height - 8.0);
        let colour = if *line == 1.0 { "#555" } else { "#ddd" };
        put(format!(
            "<path d=\"M{x:.1} {TOP} V{bottom:.1}\" stroke=\"{colour}\"/>\
             <text x=\"{x:.1}\" y=\"44\" text-anchor=\"middle\" fill=\"#555\">{line}×</text>"
        ));
    }
    for (number, bar) in bars.iter().enumerate() {
        put(bar_drawn(bar, &scale, TOP + LINE * (number as f64 + 0.5)));
    }
    put("</svg>".to_owned());
    svg
}

fn bar_drawn(bar: &Bar, scale: &Scale, y: f64) -> String {
    let (one, end) = (scale.x(1.0), scale.x(bar.verdict.median));
    let (from, width) = (one.min(end), (one - end).abs().max(1.0));
    let colour = if bar.verdict.met { MET } else { MISSED };
    let seen = &bar.verdict.seen;
    let (least, most) = (scale.x(seen[0]), scale.x(seen[seen.len() - 1]));
    let bound = scale.x(bar.bound);
    let (top, low) = (y - 9.0, y + 9.0);
    format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#222\">{}</text>\
         <rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"12\" fill=\"{colour}\"/>\
         <path d=\"M{least:.1} {y:.1} H{most:.1}\" stroke=\"#111\" stroke-width=\"1.5\"/>\
         <path d=\"M{bound:.1} {top:.1} V{low:.1}\" stroke=\"#b00020\" stroke-width=\"2\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#222\">{:.2}×</text>",
        LABELS - 10.0,
        y + 4.0,
        bar.label,
        y - 6.0,
        WIDTH - RIGHT + 10.0,
        y + 4.0,
        bar.verdict.median,
    )
}
