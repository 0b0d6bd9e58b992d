//! Where a machine's card was: until its neighbours have heard where it is now, what they send comes here, and is sent after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use strata_migration::link::Link;
use strata_migration::wire::{Frame, send};
use strata_net::{Left, MAX_FRAME};

/// How long somebody may take to hear of it: the destination says it again and again meanwhile.
const LONGEST: Duration = Duration::from_secs(1);
/// How often it is looked whether this is over.
const LOOK: Duration = Duration::from_millis(2);
/// Most frames that follow.
const MOST: usize = 2000;

/// Who looks after it, in a thread of its own, until [`LONGEST`] is over or this is dropped: then the interface is free.
pub(super) struct Behind {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Behind {
    /// Begins with what was `left`, over `link` where the destination takes that.
    pub(super) fn begin(left: Option<Left>, link: Option<Link>) -> Option<Behind> {
        let mut left = left?;
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let work = move || {
            if let Some(mut link) = link {
                forward(&mut left, &mut link, &until);
            }
            drop(left);
        };
        // Without a thread it is closed here, with the closure.
        let thread = std::thread::Builder::new().name("cable".into()).spawn(work).ok();
        Some(Behind { over, thread })
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(left: &mut Left, link: &mut Link, over: &AtomicBool) {
    let (begun, mut sent, mut buf) = (Instant::now(), 0, [0; MAX_FRAME + 1]);
    while !over.load(Relaxed) && begun.elapsed() < LONGEST && sent < MOST {
        while sent < MOST
            && let Some(n) = left.recv(&mut buf)
        {
            // One that is too long is lost, as on a wire.
            let Some(frame) = buf.get(..n.min(MAX_FRAME + 1)).filter(|f| f.len() <= MAX_FRAME) else {
                continue;
            };
            if let Err(e) = send(link, &Frame::Ethernet(frame)) {
                tracing::debug!("what came to where the machine was is lost after {sent} frames: {e}");
                return;
            }
            sent += 1;
        }
        left.wait(LOOK);
    }
    tracing::debug!("{sent} frames were sent after the machine");
}
