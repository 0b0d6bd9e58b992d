//! Where a machine's card was: until its neighbours have heard where it is now, what they send comes here, and is sent after it.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use strata_migration::link::Link;
use strata_migration::wire::{Frame, MAX_FOLLOWING, WireError, send};
use strata_net::{Left, MAX_FRAME};

/// How long somebody may take to hear of it: the destination says it again and again meanwhile.
const LONGEST: Duration = Duration::from_secs(1);
/// How often it is looked whether this is over.
const LOOK: Duration = Duration::from_millis(2);
/// How long whoever ends it waits for what is being sent.
const PATIENCE: Duration = Duration::from_millis(50);
/// Frames that are still sent after it when this is over.
const LAST: usize = 64;

/// Who looks after it, in a thread of its own, until [`LONGEST`] is over or this is dropped: then the interface is free.
pub(super) struct Behind {
    over: Arc<AtomicBool>,
    /// By which a thread is woken whose frames nobody takes.
    socket: Option<TcpStream>,
    thread: Option<JoinHandle<()>>,
}

impl Behind {
    /// Begins with what was `left`, over `link` where the destination takes that.
    pub(super) fn begin(left: Option<Left>, link: Option<Link>) -> Option<Behind> {
        let mut left = left?;
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let socket = link.as_ref().and_then(|l| l.socket().ok());
        let work = move || {
            if let Some(mut link) = link {
                match forward(&mut left, &mut link, &until) {
                    Ok(sent) => tracing::debug!("{sent} frames were sent after the machine"),
                    Err(e) => tracing::debug!("what came to where the machine was is lost: {e}"),
                }
            }
            drop(left);
        };
        // Without a thread it is closed here, with the closure.
        let thread = std::thread::Builder::new().name("cable".into()).spawn(work).ok();
        Some(Behind { over, socket, thread })
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return };
        let begun = Instant::now();
        while !thread.is_finished() && begun.elapsed() < PATIENCE {
            std::thread::sleep(LOOK / 4);
        }
        if !thread.is_finished()
            && let Some(socket) = &self.socket
        {
            // Nobody takes what is being sent: it is lost, as on a wire.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let _ = thread.join();
    }
}

/// Sends what comes, until it is time to end; gives how many frames that were.
fn forward(left: &mut Left, link: &mut Link, over: &AtomicBool) -> Result<usize, WireError> {
    let (begun, mut sent, mut buf) = (Instant::now(), 0, [0; MAX_FRAME + 1]);
    let mut send_one = |left: &mut Left| {
        let Some(n) = left.recv(&mut buf) else { return Ok(false) };
        // One that is too long is lost, as on a wire.
        match buf.get(..n) {
            Some(frame) if n <= MAX_FRAME => send(link, &Frame::Ethernet(frame)).map(|()| true),
            _ => Ok(true),
        }
    };
    while !over.load(Relaxed) && begun.elapsed() < LONGEST && sent < MAX_FOLLOWING {
        if send_one(left)? {
            sent += 1;
        } else {
            left.wait(LOOK);
        }
    }
    for _ in 0..LAST {
        if sent >= MAX_FOLLOWING || !send_one(left)? {
            break;
        }
        sent += 1;
    }
    Ok(sent)
}
