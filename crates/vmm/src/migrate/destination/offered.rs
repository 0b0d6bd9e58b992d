//! What a destination does until a machine is offered that can come.

use crate::exit::{Error, Kind, Result};
use crate::migrate::Arrival;
use crate::migrate::check::{Coming, check};
use crate::migrate::door::{LOOK, Visitor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use strata_migration::Message;
use strata_migration::link::Link;
use strata_migration::wire::{Frame, Offer, Refusal, receive as receive_frame, send};

/// A machine that was offered, and can come.
pub(super) struct Offered {
    pub(super) link: Link,
    pub(super) id: [u8; 16],
    pub(super) offer: Offer,
    pub(super) coming: Coming,
}

pub(super) fn no(link: &mut Link, e: &Error) {
    let refusal = Refusal { kind: e.kind.word().into(), message: e.message.clone() };
    // A source that has gone needs no answer.
    let _ = send(link, &Frame::Refuse(refusal));
}

/// Answers sources until one offers a machine that can come.
pub(super) fn wait_for_offer(
    ask: &Arrival,
    visitors: &Receiver<Visitor>,
    launcher: BorrowedFd<'_>,
) -> Result<Offered> {
    loop {
        let (mut link, id) = match visitors.recv_timeout(LOOK) {
            Ok(visitor) => visitor,
            Err(RecvTimeoutError::Timeout) => {
                let mut fds = [PollFd::new(&launcher, PollFlags::IN)];
                if matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..)) {
                    return Err(Error::new(Kind::Cancelled, "Nobody waits for a machine any more."));
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(Kind::Internal, "The thread that listens has ended."));
            }
        };
        let mut buf = Vec::new();
        let offer = match receive_frame(&mut link, &mut buf) {
            Ok(Frame::Offer(offer)) => offer,
            Ok(Frame::Core(Message::Query | Message::Commit | Message::Abort)) => {
                let _ = send(&mut link, &Frame::Core(Message::Unknown));
                continue;
            }
            _ => continue,
        };
        match check(ask, &offer) {
            Err(e) => no(&mut link, &e),
            Ok(coming) if offer.dry_run => {
                let _ = send(&mut link, &Frame::Accept(coming.accept()));
            }
            Ok(coming) => return Ok(Offered { link, id, offer, coming }),
        }
    }
}
