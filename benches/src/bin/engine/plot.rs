//! The plot: a bar a workload on a logarithmic scale, with the class's floor and aim marked. Plain SVG.

use crate::figures::Figures;
use crate::plan::CLASSES;
use std::fmt::Write;

const WIDTH: f64 = 860.0;
/// Where the scale starts and ends, in pixels.
const LEFT: f64 = 130.0;
const RIGHT: f64 = 790.0;
const ROW: f64 = 17.0;
/// The scale in multiples of QEMU's speed; bars are cut there.
const LOW: f64 = 0.0625;
const HIGH: f64 = 32.0;

fn x(ratio: f64) -> f64 {
    let part = (ratio.clamp(LOW, HIGH) / LOW).ln() / (HIGH / LOW).ln();
    LEFT + part * (RIGHT - LEFT)
}

fn color(ratio: f64, floor: f64, aim: f64) -> &'static str {
    if ratio >= aim {
        "#1b7f4d"
    } else if ratio >= floor {
        "#4a90c4"
    } else {
        "#c9803a"
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, more: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}"{more}>{what}</text>"#);
}

fn line(out: &mut String, x: f64, from: f64, to: f64, style: &str) {
    let _ = writeln!(out, r#"<line x1="{x:.1}" y1="{from:.1}" x2="{x:.1}" y2="{to:.1}" {style}/>"#);
}

/// The plot of all workloads that have a ratio.
pub fn svg(f: &Figures, title: &str) -> String {
    let mut body = String::new();
    let mut y = 66.0;
    for c in CLASSES {
        let rows: Vec<(&str, f64)> = c.workloads.iter().filter_map(|w| Some((w.0, f.ratio(w.0)?))).collect();
        if rows.is_empty() {
            continue;
        }
        text(&mut body, 10.0, y + 11.0, "start", r##" fill="#555" font-style="italic""##, c.title);
        let top = y + ROW;
        for (name, ratio) in rows {
            y += ROW;
            let (from, to) = (x(ratio.min(1.0)), x(ratio.max(1.0)));
            let _ = writeln!(
                body,
                r#"<rect x="{from:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{}"/>"#,
                y + 2.0,
                (to - from).max(1.0),
                ROW - 4.0,
                color(ratio, c.floor, c.aim)
            );
            text(&mut body, LEFT - 8.0, y + 12.0, "end", "", name);
            text(&mut body, RIGHT + 8.0, y + 12.0, "start", "", &format!("{ratio:.2}x"));
        }
        y += ROW;
        line(&mut body, x(c.floor), top, y, r##"stroke="#222" stroke-width="2""##);
        line(&mut body, x(c.aim), top, y, r##"stroke="#222" stroke-width="1.5" stroke-dasharray="3 2""##);
        y += 6.0;
    }
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        y + 10.0
    );
    text(&mut out, 10.0, 20.0, "start", r#" font-size="15""#, title);
    let legend = "speed as a multiple of the better QEMU's; solid mark: floor, dashed mark: aim";
    text(&mut out, 10.0, 37.0, "start", r##" fill="#555""##, legend);
    let mut at = LOW;
    while at <= HIGH {
        let style = if at == 1.0 { r##"stroke="#888""## } else { r##"stroke="#ddd""## };
        line(&mut out, x(at), 62.0, y, style);
        let label = if at < 1.0 { format!("1/{}", 1.0 / at) } else { format!("{at}") };
        text(&mut out, x(at), 56.0, "middle", r##" fill="#555""##, &label);
        at *= 2.0;
    }
    out + &body + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::example;

    #[test]
    fn the_scale_is_logarithmic_and_bounded() {
        assert_eq!(x(LOW), LEFT);
        assert!((x(HIGH) - RIGHT).abs() < 1e-9);
        assert!((x(2.0) - x(1.0) - (x(8.0) - x(4.0))).abs() < 1e-9);
        assert_eq!(x(1000.0), x(HIGH));
    }

    #[test]
    fn a_bar_and_two_marks_for_each_class_that_was_measured() {
        let s = svg(&example(), "a < b");
        assert!(s.starts_with("<svg ") && s.ends_with("</svg>\n"));
        assert!(s.contains("a &lt; b"));
        assert_eq!(s.matches("<rect x=").count(), 2);
        assert_eq!(s.matches("stroke-dasharray").count(), 2);
        assert_eq!(s.matches('<').count(), s.matches('>').count());
    }
}
