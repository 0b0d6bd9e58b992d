//! The guest's pace over time as lines, one panel a program: what it gets done as a part of its own pace before. Plain SVG.

use crate::rows::Row;
use crate::sides::Figures;
use std::fmt::Write;

const LEFT: f64 = 230.0;
const RIGHT: f64 = 820.0;
/// A panel, and the room between two.
const PANEL: f64 = 56.0;
const STEP: f64 = 74.0;
/// The part of its own pace at a panel's top.
const TOP: f64 = 1.5;

/// Panels of all rows with this load, from `y` on; gives them and where they end.
pub fn panels(rows: &[Row], load: &str, y: f64) -> (String, f64) {
    let shown: Vec<(&Row, &Figures)> =
        rows.iter().filter(|r| r.load == load).filter_map(|r| Some((r, r.typical()?))).collect();
    let mut out = String::new();
    if shown.is_empty() {
        return (out, y);
    }
    let ends = |f: &Figures| f.cost.line.last().map_or(0.0, |p| p.0);
    let begins = |f: &Figures| f.cost.line.first().map_or(0.0, |p| p.0);
    let first = shown.iter().map(|r| begins(r.1)).fold(0.0, f64::min);
    let last = shown.iter().map(|r| ends(r.1)).fold(1.0, f64::max);
    let x = |s: f64| LEFT + (s - first) / (last - first) * (RIGHT - LEFT);
    let _ = writeln!(
        out,
        r#"<text x="10" y="{:.0}" font-size="14">What the guest gets done, as a part of its pace before: {load}</text>"#,
        y + 20.0
    );
    let mut top = y + 36.0;
    for (row, f) in &shown {
        let at = |part: f64| top + PANEL * (1.0 - part.clamp(0.0, TOP) / TOP);
        let (color, base) = (crate::plot::color(row), top + PANEL);
        let from_to = |s: f64, e: f64| (x(s), x(e) - x(s));
        let (begun, took) = from_to(0.0, f.total / 1e3);
        let _ = writeln!(
            out,
            r##"<rect x="{begun:.1}" y="{top:.1}" width="{took:.1}" height="{PANEL}" fill="#f2f2f2"/>"##
        );
        for (part, name) in [(0.0, "0"), (1.0, "1")] {
            let y = at(part);
            let _ = writeln!(
                out,
                r##"<line x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}" stroke="#ccc"/><text x="{:.1}" y="{:.1}" text-anchor="end" font-size="10" fill="#777">{name}</text>"##,
                LEFT - 4.0,
                y + 3.5
            );
        }
        let switch = x(f.switch / 1e3);
        let _ = writeln!(
            out,
            r##"<line x1="{switch:.1}" y1="{top:.1}" x2="{switch:.1}" y2="{base:.1}" stroke="#c33" stroke-dasharray="4 3"/>"##
        );
        let points = f.cost.line.iter().fold(String::new(), |mut s, (t, part)| {
            let _ = write!(s, "{:.1},{:.1} ", x(*t), at(*part));
            s
        });
        let _ = writeln!(
            out,
            r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="1.5"/>"#,
            points.trim_end()
        );
        let words = [
            row.who.clone(),
            format!("lost {:.0} ms ({:.0} %)", f.cost.lost, f.cost.slowdown),
            format!("below half {:.0} ms", f.cost.below_half),
        ];
        for (n, words) in words.iter().enumerate() {
            let (y, color) = (top + 14.0 + 16.0 * n as f64, if n == 0 { "#000" } else { "#777" });
            let _ = writeln!(out, r#"<text x="10" y="{y:.1}" fill="{color}">{words}</text>"#);
        }
        top += STEP;
    }
    let step = [1.0, 2.0, 5.0, 10.0, 20.0].into_iter().find(|s| last / s <= 12.0).unwrap_or(60.0);
    let mut s = 0.0;
    while s <= last {
        let _ = writeln!(out, r#"<text x="{:.1}" y="{top:.1}" text-anchor="middle">{s} s</text>"#, x(s));
        s += step;
    }
    let _ = writeln!(
        out,
        r##"<text x="10" y="{top:.1}" fill="#c33">dashed: the switch; grey: the migration</text>"##
    );
    (out, top + 16.0)
}
