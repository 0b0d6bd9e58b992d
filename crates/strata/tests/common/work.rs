//! A job in a guest's background, whatever becomes of its machine meanwhile.

use super::Console;
use super::debian::LONG;
use std::time::{Duration, Instant};

/// What leaves `/root/a.c`, of so many functions: a compiler in a guest takes a tenth of a second for each.
pub fn source(functions: u32) -> String {
    format!(
        "for i in $(seq {functions}); do echo \"double f$i(double x, int n) {{ double s = 0; for (int k = 0; k < n; k++) \
         s += x / (k + $i) + s * x; return s; }}\"; done > /root/a.c"
    )
}

/// What runs there.
pub struct Work {
    what: &'static str,
    began: Instant,
}

impl Work {
    /// Starts `work` away from the terminal: a job in the background that wants it is stopped by its kernel.
    #[track_caller]
    pub fn begin(console: &mut Console, what: &'static str, work: &str) -> Work {
        console.sh("rm -f /root/code");
        let start = "setsid --fork bash -c 'work; echo $? > /root/code' < /dev/null > /root/log 2>&1";
        console.sh(&format!("work() {{ {work}; }}; export -f work; {start}"));
        Work { what, began: Instant::now() }
    }

    /// Whether it has ended; then it must have gone well.
    #[track_caller]
    pub fn has_ended(&self, console: &mut Console) -> bool {
        let what = self.what;
        let said = console.sh("cat /root/code 2> /dev/null || true");
        if let Ok(code) = said.parse::<u8>() {
            assert_eq!(code, 0, "{what}: {}", console.sh("tail -n 30 /root/log"));
            return true;
        }
        // The guest's kernel speaks here too.
        if !said.is_empty() {
            println!("{what}: the console says {said:?}");
        }
        assert!(self.age() < LONG, "{what} does not end: {}", console.sh("tail /root/log"));
        false
    }

    /// Since it began.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }
}
