//! The drawing: a bar a row on a logarithmic scale, the outage as a peer saw it, and under them the guest's pace over time
//! (`lines.rs`). Plain SVG.

use crate::lines::panels;
use crate::rows::Row;
use std::fmt::Write;

const LEFT: f64 = 330.0;
const RIGHT: f64 = 820.0;
const ROW: f64 = 18.0;
/// The scale's ends, in milliseconds.
const LOW: f64 = 1.0;
const HIGH: f64 = 20_000.0;

fn x(ms: f64) -> f64 {
    LEFT + (ms.clamp(LOW, HIGH) / LOW).ln() / (HIGH / LOW).ln() * (RIGHT - LEFT)
}

/// What a program's bars and lines are drawn in.
pub fn color(row: &Row) -> &'static str {
    if row.who.starts_with("strata") { "#1b7f4d" } else { "#4a90c4" }
}

/// The drawing of all rows, with the pace of the guest at the load `lines`.
pub fn svg(rows: &[Row], lines: &str) -> String {
    let (mut body, mut y, mut load) = (String::new(), 48.0, "");
    for row in rows {
        if row.load != load {
            load = row.load;
            y += 24.0;
            let _ =
                writeln!(body, r##"<text x="10" y="{y:.0}" fill="#555" font-style="italic">{load}</text>"##);
        }
        y += ROW;
        let _ = writeln!(body, r#"<text x="{}" y="{y:.0}" text-anchor="end">{}</text>"#, LEFT - 8.0, row.who);
        let color = color(row);
        let label = match row.median(|f| f.outage) {
            Some(ms) => {
                let (top, width) = (y - 11.0, x(ms) - LEFT);
                let _ = writeln!(
                    body,
                    r#"<rect x="{LEFT}" y="{top:.0}" width="{width:.1}" height="13" fill="{color}"/>"#
                );
                format!("{ms:.1} ms")
            }
            None => "did not finish".into(),
        };
        let at = row.median(|f| f.outage).map_or(LEFT, x) + 6.0;
        let _ = writeln!(body, r#"<text x="{at:.1}" y="{y:.0}">{label}</text>"#);
    }
    let mut marks = String::new();
    for ms in [1.0, 10.0, 100.0, 1000.0, 10_000.0] {
        let at = x(ms);
        let _ = writeln!(marks, r##"<line x1="{at:.1}" y1="50" x2="{at:.1}" y2="{y:.0}" stroke="#ddd"/>"##);
        let _ = writeln!(marks, r#"<text x="{at:.1}" y="44" text-anchor="middle">{ms} ms</text>"#);
    }
    let (lines, end) = panels(rows, lines, y + 20.0);
    let height = end + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" \
         font-size=\"14\">Machines that change hosts: the longest time without an answer, as a peer sees it</text>\n\
         {marks}{body}{lines}</svg>\n"
    )
}
