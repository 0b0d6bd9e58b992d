use super::*;
use crate::protocol::{Message, PROTOCOL, Reply};
use crate::{Error, Kind};
use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::{Value, json};

fn pair() -> ((Sender, Receiver), (Sender, Receiver)) {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    (halves(a), halves(b))
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4).prop_map(|m| json!(m)),
        ]
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        ".{0,9}".prop_map(|version| Message::Hello { protocol: PROTOCOL, version }),
        (any::<u64>(), "[a-z.]{1,12}", any_json()).prop_map(|(id, method, params)| Message::Request {
            id,
            method,
            params,
            fds: 0
        }),
        (any::<u64>(), any_json()).prop_map(|(id, v)| Message::Response { id, reply: Reply::Ok(v), fds: 0 }),
        (any::<u64>(), ".{0,40}").prop_map(|(id, text)| Message::Response {
            id,
            reply: Reply::Error(Error::new(Kind::InUse, text)),
            fds: 0
        }),
        (any::<u64>(), ".{0,9}").prop_map(|(id, note)| Message::Progress { id, note }),
        any::<u64>().prop_map(|id| Message::Cancel { id }),
        ("[a-z]{1,9}", any_json()).prop_map(|(event, data)| Message::Event { event, data }),
    ]
}

proptest! {
    #[test]
    fn messages_survive_any_cut(messages in prop::collection::vec(any_message(), 1..6), cuts in prop::collection::vec(1usize..40, 1..40)) {
        let bytes: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
        let mut decoder = Decoder::default();
        let (mut seen, mut at, mut cuts) = (Vec::new(), 0, cuts.into_iter().cycle());
        while at < bytes.len() {
            let to = (at + cuts.next().unwrap()).min(bytes.len());
            decoder.push(&bytes[at..to]);
            at = to;
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(serde_json::from_slice::<Message>(frame).unwrap());
            }
        }
        prop_assert_eq!(seen, messages);
    }

    #[test]
    fn any_bytes_are_cut_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        crate::fuzz::fuzz_frames(&bytes);
    }
}

#[test]
fn lengths_are_bounded_before_the_bytes_come() {
    for len in [0u32, MAX_FRAME as u32 + 1, u32::MAX] {
        let mut d = Decoder::default();
        d.push(&len.to_le_bytes());
        assert!(matches!(d.next_frame(), Err(WireError::Length(_))), "{len}");
    }
    let mut d = Decoder::default();
    d.push(&(MAX_FRAME as u32).to_le_bytes());
    assert!(d.next_frame().unwrap().is_none());
    let huge = Message::Event { event: "x".into(), data: Value::from("y".repeat(MAX_FRAME)) };
    assert!(matches!(encode(&huge), Err(WireError::Length(_))));
}

#[test]
fn descriptors_come_with_their_own_frame() {
    let ((tx, _rx0), (_tx1, mut rx)) = pair();
    let (r, w) = rustix::pipe::pipe().unwrap();
    let plain = Message::Cancel { id: 1 };
    let with = Message::Response { id: 2, reply: Reply::Ok(json!({})), fds: 1 };
    tx.send(&plain, &[]).unwrap();
    tx.send(&with, &[w.as_fd()]).unwrap();
    tx.send(&plain, &[]).unwrap();
    drop(w);
    assert_eq!(rx.recv().unwrap().1.len(), 0);
    let (m, fds) = rx.recv().unwrap();
    assert_eq!((m, fds.len()), (with.clone(), 1));
    assert_eq!(rx.recv().unwrap().0, plain);
    rustix::io::write(&fds[0], b"hi").unwrap();
    let mut buf = [0; 8];
    assert_eq!(rustix::io::read(&r, &mut buf).unwrap(), 2);
    // A message that promises descriptors has them, or is not sent.
    assert!(matches!(tx.send(&with, &[]), Err(WireError::Descriptors)));
}

#[test]
fn a_promise_of_descriptors_that_do_not_come_is_refused() {
    let ((tx, _rx0), (_tx1, mut rx)) = pair();
    let lie = encode(&Message::Response { id: 2, reply: Reply::Ok(json!({})), fds: 1 }).unwrap();
    rustix::io::write(&tx.socket, &lie).unwrap();
    assert!(matches!(rx.recv(), Err(WireError::Descriptors)));
}

#[test]
fn a_large_frame_passes_and_an_end_is_seen() {
    let ((tx, rx0), (tx1, mut rx)) = pair();
    let big = Message::Event { event: "x".into(), data: Value::from("y".repeat(900_000)) };
    let sent = big.clone();
    let t = std::thread::spawn(move || tx.send(&sent, &[]).map(|()| drop((tx, rx0))));
    assert_eq!(rx.recv().unwrap().0, big);
    t.join().unwrap().unwrap();
    assert!(matches!(rx.recv(), Err(WireError::Closed)));
    assert!(matches!(tx1.send(&big, &[]), Err(WireError::Closed)));
}
