//! A destination that does not keep to the protocol: whatever it says, the machine runs on at its source.

mod common;

use common::{Place, until};
use std::net::TcpListener;
use strata_migration::Message;
use strata_migration::link::{Link, Security};
use strata_migration::token::Token;
use strata_migration::wire::{Accept, Frame, Purpose, answer, hear, receive, send};

const SECRET: [u8; 32] = [7; 32];

/// Takes a machine as a destination does, says `last` when all has come, and gives what the source says then.
fn destination(listener: TcpListener, last: Message) -> std::sync::mpsc::Receiver<Message> {
    let (say, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let say = say.clone();
            std::thread::spawn(move || {
                let mut link = Link::over(tcp.unwrap(), &Security::Plain).unwrap();
                let hello = hear(&mut link).unwrap();
                answer(&mut link, &hello, &SECRET).unwrap();
                let mut buf = Vec::new();
                while let Ok(frame) = receive(&mut link, &mut buf) {
                    let reply = match frame {
                        Frame::Offer(offer) => Frame::Accept(Accept {
                            producer: "nobody".into(),
                            name: "web".into(),
                            wants: offer.files.iter().enumerate().map(|(n, _)| n as u16).collect(),
                            disks: vec![],
                            holder: None,
                            notes: vec![],
                            whole_only: None,
                            verify: false,
                        }),
                        Frame::Round(n) => Frame::Round(n),
                        Frame::Final(_) => Frame::Core(last),
                        Frame::Core(m) if hello.purpose == Purpose::Control => {
                            let _ = say.send(m);
                            continue;
                        }
                        _ => continue,
                    };
                    let _ = send(&mut link, &reply);
                }
            });
        }
    });
    said
}

#[test]
fn a_destination_does_not_say_what_it_was_sent() {
    let host = Place::with_busybox();
    host.strata("run busybox --name web --memory 128M --net none --detach").good();
    let mut c = host.open("console web");
    c.wait_for("# ");
    let token = Token { secret: SECRET, fingerprint: [0; 32] };
    // In part what was sent as a whole, and as a whole what was sent in part.
    for (strategy, last) in [("precopy", Message::ReadyPart), ("postcopy", Message::Ready)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let said = destination(listener, last);
        let going =
            host.strata(&format!("migrate web {address} --plain --token {token} --strategy {strategy}"));
        going.refused(76, &["something else than it was sent"]);
        // It is told so, and nothing else.
        assert_eq!(said.recv().unwrap(), Message::Abort);
        until("it runs on", || host.strata("ps").good().contains("running"));
        assert_eq!(c.sh("echo $((6 * 7))"), "42");
        let status = host.strata("migrate status web").good();
        assert!(status.contains("stayed"), "{status}");
    }
    host.strata("stop web").good();
}
