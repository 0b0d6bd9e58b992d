//! What guests do to their machine, and how it ends.

use super::guest::*;
use crate::loader::Placement;
use crate::{Exit, Machine};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use strata_isa::Op;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs `a` on `harts`, and gives how it ended and what it printed.
fn run(harts: u32, a: &Asm) -> (Exit, Vec<u8>) {
    let image = a.image();
    within(LIMIT, move || {
        let (m, console) = kernel(harts, &image);
        let output = console.collect();
        m.start().unwrap();
        let exit = m.wait();
        drop(m);
        (exit, output.join().unwrap())
    })
}

#[test]
fn syscon_ends_with_its_code_and_nothing_runs_on() {
    let mut a = Asm::default();
    a.li(T0, DATA).li(T1, SYSCON).li(T2, 0x0007_3333);
    a.op(Op::Sw, 0, T1, T2, 0);
    let on = a.here();
    a.addi(S0, S0, 1).op(Op::Sd, 0, T0, S0, 0).jump(on);
    let image = a.image();
    within(LIMIT, move || {
        let (m, _console) = kernel(1, &image);
        m.start().unwrap();
        assert_eq!(m.wait(), Exit::PowerOff(7));
        // The rest of a block at most.
        assert!(word(&m, DATA) < 64, "{} rounds after the end", word(&m, DATA));
        assert!(m.retired() > 10);
    });
}

#[test]
fn sbi_powers_off_with_its_reason() {
    for reason in [0, 1] {
        let mut a = Asm::default();
        a.put(b'x').call(SRST, 0, &[0, reason]).jump(0);
        assert_eq!(run(1, &a), (Exit::PowerOff(reason as u32), b"x".to_vec()));
    }
}

/// Prints B, reads a key; `r` resets, `p` powers off. What it has stored before must be gone after a reset.
#[test]
fn resets_begin_anew_and_input_is_read() {
    let mut a = Asm::default();
    a.put(b'B').li(S0, DATA);
    a.op(Op::Ld, T0, S0, 0, 0).li(T1, 77).op(Op::Sd, 0, S0, T1, 0);
    let clean = a.here();
    a.branch(Op::Beq, T0, 0, clean + 2);
    let dirty = a.hole();
    let read = a.here();
    a.call(DBCN, 1, &[1, DATA + 8, 0]).branch(Op::Beq, A1, 0, read);
    a.op(Op::Lbu, T0, S0, 0, 8).li(T1, u64::from(b'r'));
    let here = a.here();
    a.branch(Op::Beq, T0, T1, here + 2);
    let power_off = a.hole();
    a.call(SRST, 0, &[1, 0]);
    a.land(power_off);
    a.call(SRST, 0, &[0, 0]);
    a.land(dirty);
    a.call(SRST, 0, &[0, 1]);
    let image = a.image();
    within(LIMIT, move || {
        let (m, mut console) = kernel(1, &image);
        m.start().unwrap();
        for key in b"rrp" {
            let mut b = [0];
            console.from_guest.read_exact(&mut b).unwrap();
            assert_eq!(b, [b'B']);
            console.to_guest.write_all(&[*key]).unwrap();
        }
        assert_eq!(m.wait(), Exit::PowerOff(0));
    });
}

#[test]
fn all_output_reaches_a_slow_reader() {
    const ROUNDS: u64 = 40;
    let mut a = Asm::default();
    a.li(S0, ROUNDS).li(S1, KERNEL + 0x1000).li(A2, 0);
    let round = a.here();
    a.addi(T0, 0, 0);
    let more = a.here();
    a.li(A0, 4096).op(Op::Sub, A0, A0, T0, 0).op(Op::Add, A1, S1, T0, 0);
    a.sbi(DBCN, 0).op(Op::Add, T0, T0, A1, 0).li(T1, 4096).branch(Op::Bltu, T0, T1, more);
    a.addi(S0, S0, -1).branch(Op::Bne, S0, 0, round);
    a.call(SRST, 0, &[0, 0]);
    let mut image = a.image();
    image.resize(0x1000, 0);
    let text: Vec<u8> = (0..4096u32).map(|n| (n % 251) as u8).collect();
    image.extend(&text);
    let (exit, got) = within(LIMIT, move || {
        let (m, mut console) = kernel(1, &image);
        m.start().unwrap();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            let (mut all, mut buf) = (Vec::<u8>::new(), [0; 2048]);
            loop {
                match console.from_guest.read(&mut buf).unwrap() {
                    0 => return all,
                    n => all.extend(&buf[..n]),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let exit = m.wait();
        drop(m);
        (exit, reader.join().unwrap())
    });
    assert_eq!(exit, Exit::PowerOff(0));
    assert!(got == text.repeat(ROUNDS as usize), "{} bytes", got.len());
}

/// Four harts send each other interrupts and fences at once; the others stop, the first looks whether all is done.
#[test]
fn harts_start_interrupt_fence_and_stop() {
    const ROUNDS: u64 = 40;
    let mut a = Asm::default();
    let all = u64::MAX;
    a.li(S1, DATA);
    let skip = a.hole();
    let rounds = a.here();
    a.li(S0, ROUNDS);
    let round = a.here();
    a.call(IPI, 0, &[0, all]).call(RFENCE, 1, &[0, all, 0, all]).call(RFENCE, 0, &[0, all]);
    a.call(RFENCE, 2, &[0b1111, 0, 0x1000, 0x2000, 3]);
    a.addi(S0, S0, -1).branch(Op::Bne, S0, 0, round);
    a.addi(T0, 0, 1).op(Op::AmoaddD, T1, S1, T0, 0);
    // Hart 0 goes on; T2 is its mark.
    let here = a.here();
    a.branch(Op::Bne, T2, 0, here + 2);
    let others = a.hole();
    let wait = a.here();
    a.op(Op::Ld, T0, S1, 0, 0).li(T1, 4).branch(Op::Bne, T0, T1, wait);
    for hart in 1..4 {
        let again = a.here();
        a.call(HSM, 2, &[hart]).addi(T0, 0, 1).branch(Op::Bne, A1, T0, again);
    }
    // SSIP must have come: 2 in sip.
    a.op(Op::Csrrs, T0, 0, 0, 0x144).op(Op::Srli, T0, T0, 0, 1).op(Op::Andi, T0, T0, 0, 1);
    a.addi(A0, 0, 0).op(Op::Xori, A1, T0, 0, 1).sbi(SRST, 0);
    a.land(others);
    a.sbi(HSM, 1);
    let secondary = a.here();
    // a0 is the hart, a1 what the starter passed.
    a.addi(S1, A1, 0).addi(T2, 0, 0).jump(rounds);
    a.land(skip);
    for hart in 1..4 {
        a.call(HSM, 0, &[hart, Asm::address(secondary), DATA]);
    }
    a.addi(T2, 0, 1).jump(rounds);
    let start = Instant::now();
    assert_eq!(run(4, &a).0, Exit::PowerOff(0));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// Processor time that thread `name` of this process has used, in ticks.
fn ticks(name: &str) -> Option<u64> {
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        if head.ends_with(&format!("({name}")) {
            let fields: Vec<&str> = tail.split_whitespace().collect();
            return Some(fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap());
        }
    }
    None
}

#[test]
fn harts_in_wfi_take_no_processor_time() {
    let mut b = Asm::default();
    // Both the first hart and number 30 sleep; only this test has so many, so the thread's name is its own.
    b.li(T0, 0);
    let skip = b.hole();
    let sleep = b.here();
    b.op(Op::Wfi, 0, 0, 0, 0).jump(sleep);
    b.land(skip);
    b.call(HSM, 0, &[30, Asm::address(sleep), 0]).jump(sleep);
    let image = b.image();
    within(LIMIT, move || {
        let (m, _console) = kernel(31, &image);
        m.start().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let (before, retired) = (ticks("vcpu30").unwrap(), m.retired());
        assert!(retired > 10);
        std::thread::sleep(Duration::from_millis(600));
        // A tick is 10 ms.
        let used = ticks("vcpu30").unwrap() - before;
        assert!(used <= 3, "{used} ticks");
        assert_eq!(m.retired(), retired);
    });
}

/// Traps into a handler that cannot be fetched.
fn stick(a: &mut Asm) {
    a.li(T0, 0x4000_0000).op(Op::Csrrw, 0, T0, 0, 0x105).op(Op::Ebreak, 0, 0, 0, 0);
}

#[test]
fn a_stuck_hart_ends_the_machine_only_if_it_is_the_last() {
    let mut a = Asm::default();
    stick(&mut a);
    match run(2, &a).0 {
        Exit::Stuck(why) => assert!(why.contains("hart 0") && why.contains("stvec"), "{why}"),
        other => panic!("{other:?}"),
    }
    let mut a = Asm::default();
    let skip = a.hole();
    let secondary = a.here();
    a.li(S0, 3_000_000);
    let spin = a.here();
    a.addi(S0, S0, -1).branch(Op::Bne, S0, 0, spin).addi(T0, 0, 5).fail_with(T0);
    a.land(skip);
    a.call(HSM, 0, &[1, Asm::address(secondary), 0]);
    stick(&mut a);
    assert_eq!(run(2, &a).0, Exit::PowerOff(5));
}

#[test]
fn a_machine_whose_harts_have_all_stopped_has_ended() {
    let mut a = Asm::default();
    a.sbi(HSM, 1);
    match run(2, &a).0 {
        Exit::Stuck(why) => assert!(why.contains("stopped itself"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// A bare-metal program: prints by HTIF, and exits with `code`.
fn htif(code: u64) -> (Machine, Console) {
    let tohost = RAM + 0x1000;
    let mut a = Asm::default();
    a.li(T0, tohost).li(T1, 1 << 56 | 1 << 48 | u64::from(b'h')).op(Op::Sd, 0, T0, T1, 0);
    let wait = a.here();
    a.op(Op::Ld, T1, T0, 0, 0).branch(Op::Bne, T1, 0, wait);
    a.li(T1, code << 1 | 1).op(Op::Sd, 0, T0, T1, 0);
    let here = a.here();
    a.jump(here);
    let program = elf(RAM, &a.bytes(), tohost, tohost + 64);
    machine_with(1, Placement { firmware: Some(source(&program)), ..Placement::default() })
}

#[test]
fn tohost_ends_with_its_code() {
    for code in [0, 1, 1234] {
        let (exit, output) = within(LIMIT, move || {
            let (m, console) = htif(code);
            let output = console.collect();
            m.start().unwrap();
            let exit = m.wait();
            drop(m);
            (exit, output.join().unwrap())
        });
        assert_eq!((exit, output), (Exit::PowerOff(code as u32), b"h".to_vec()));
    }
}

#[test]
fn a_reset_that_fails_ends_the_machine() {
    let mut a = Asm::default();
    a.jump(0);
    let image = a.image();
    within(LIMIT, move || {
        for paused in [false, true] {
            let kernel = source(&image);
            let file = kernel.file.try_clone().unwrap();
            let (m, _console) = machine_with(1, Placement { kernel: Some(kernel), ..Placement::default() });
            m.start().unwrap();
            if paused {
                m.pause().unwrap();
            }
            rustix::fs::ftruncate(&file, 10).unwrap();
            assert_eq!(m.reset().is_err(), paused, "a paused machine is reset at once");
            match m.wait() {
                Exit::Stuck(why) => assert!(why.contains("cannot be reset"), "{why}"),
                other => panic!("{other:?}"),
            }
            let clock = m.clock_at();
            std::thread::sleep(Duration::from_millis(2));
            assert_eq!(m.clock_at(), clock);
        }
    });
}
