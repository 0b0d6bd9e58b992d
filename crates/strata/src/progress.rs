//! Progress bars on a terminal, a line elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar on standard error that counts bytes, or other things.
pub fn bar(label: &'static str, bytes: bool) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = if bytes {
        "{msg:28} {wide_bar} {bytes:>10} of {total_bytes:10} {eta:>4}"
    } else {
        "{msg:28} {wide_bar} {pos:>10} of {len:10} {eta:>4}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(label);
    bar
}

/// Does `work`, which tells how many bytes are done and of how many, with progress shown.
pub fn bytes<T>(label: &'static str, work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T) -> T {
    let mut shown = None;
    let terminal = std::io::stderr().is_terminal();
    let done = work(&mut |done, total| {
        let bar = shown.get_or_insert_with(|| {
            if terminal {
                bar(label, true)
            } else {
                crate::say(&label);
                ProgressBar::hidden()
            }
        });
        bar.set_length(total);
        bar.set_position(done);
    });
    if let Some(bar) = shown {
        bar.abandon();
    }
    done
}
