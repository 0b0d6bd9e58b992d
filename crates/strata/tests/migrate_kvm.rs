//! A running amd64 machine that changes hosts, on this host's KVM. Where it has none, the test says so and passes.

mod common;

use common::{Console, Place, Receiver, lives, until};

/// Where the guest's code is loaded.
const CODE: u32 = 0x10_0000;

/// The guest, which looks after itself: it counts in a register and in memory at 2 MiB, writes the count to one of 256
/// pages from 4 MiB on, each in its turn, where it expects to find what it wrote there the last time, and reads the
/// time-stamp counter. It prints each 1024th count; `!m` if memory is not as it left it, `!t` if time has gone back.
#[rustfmt::skip]
const GUEST: &[u8] = &[
    0xbd, 0x00, 0x00, 0x20, 0x00,       //         mov ebp, 0x200000
    0x31, 0xdb,                         //         xor ebx, ebx
    0x43,                               // again:  inc ebx
    0xff, 0x45, 0x00,                   //         inc dword ptr [ebp]
    0x39, 0x5d, 0x00,                   //         cmp [ebp], ebx
    0x75, 0x5f,                         //         jne wrong
    0x89, 0xd9,                         //         mov ecx, ebx
    0x81, 0xe1, 0xff, 0x00, 0x00, 0x00, //         and ecx, 0xff
    0xc1, 0xe1, 0x0c,                   //         shl ecx, 12
    0x81, 0xc1, 0x00, 0x00, 0x40, 0x00, //         add ecx, 0x400000
    0x89, 0xd8,                         //         mov eax, ebx
    0x2d, 0x00, 0x01, 0x00, 0x00,       //         sub eax, 0x100
    0x77, 0x02,                         //         ja known
    0x31, 0xc0,                         //         xor eax, eax
    0x39, 0x01,                         // known:  cmp [ecx], eax
    0x75, 0x3f,                         //         jne wrong
    0x89, 0x19,                         //         mov [ecx], ebx
    0x0f, 0x31,                         //         rdtsc
    0x89, 0xc6,                         //         mov esi, eax
    0x89, 0xd7,                         //         mov edi, edx
    0x2b, 0x45, 0x08,                   //         sub eax, [ebp + 8]
    0x1b, 0x55, 0x0c,                   //         sbb edx, [ebp + 12]
    0x72, 0x33,                         //         jb back
    0x89, 0x75, 0x08,                   //         mov [ebp + 8], esi
    0x89, 0x7d, 0x0c,                   //         mov [ebp + 12], edi
    0xf7, 0xc3, 0xff, 0x03, 0x00, 0x00, //         test ebx, 0x3ff
    0x75, 0xb9,                         //         jne again
    0x66, 0xba, 0xf8, 0x03,             //         mov dx, 0x3f8
    0xb1, 0x08,                         //         mov cl, 8
    0x89, 0xde,                         //         mov esi, ebx
    0xc1, 0xc6, 0x04,                   // digit:  rol esi, 4
    0x89, 0xf0,                         //         mov eax, esi
    0x24, 0x0f,                         //         and al, 15
    0x3c, 0x0a,                         //         cmp al, 10
    0x72, 0x02,                         //         jb below
    0x04, 0x27,                         //         add al, 'a' - '0' - 10
    0x04, 0x30,                         // below:  add al, '0'
    0xee,                               //         out dx, al
    0xfe, 0xc9,                         //         dec cl
    0x75, 0xec,                         //         jne digit
    0xb0, 0x0a,                         //         mov al, 10
    0xee,                               //         out dx, al
    0xeb, 0x98,                         //         jmp again
    0xb0, 0x6d,                         // wrong:  mov al, 'm'
    0xeb, 0x02,                         //         jmp say
    0xb0, 0x74,                         // back:   mov al, 't'
    0x66, 0xba, 0xf8, 0x03,             // say:    mov dx, 0x3f8
    0x88, 0xc4,                         //         mov ah, al
    0xb0, 0x21,                         //         mov al, '!'
    0xee,                               //         out dx, al
    0x88, 0xe0,                         //         mov al, ah
    0xee,                               //         out dx, al
    0xb0, 0x0a,                         //         mov al, 10
    0xee,                               //         out dx, al
    0xb9, 0xa0, 0x86, 0x01, 0x00,       //         mov ecx, 100000
    0xe2, 0xfe,                         // pause:  loop pause
    0x88, 0xe0,                         //         mov al, ah
    0xeb, 0xe6,                         //         jmp say
];

/// An ELF file with a PVH entry, of one segment at [`CODE`].
fn kernel() -> Vec<u8> {
    let mut note = Vec::new();
    [4_u32, 4, 18].iter().for_each(|w| note.extend(w.to_le_bytes()));
    note.extend(b"Xen\0");
    note.extend(CODE.to_le_bytes());
    let (table, note_at) = (64_u64, 64 + 2 * 56_u64);
    let code_at = note_at + note.len() as u64;
    let mut b = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    b.extend([2_u16, 62].iter().flat_map(|v| v.to_le_bytes()));
    b.extend(1_u32.to_le_bytes());
    b.extend([u64::from(CODE), table, 0].iter().flat_map(|v| v.to_le_bytes()));
    b.extend(0_u32.to_le_bytes());
    b.extend([64_u16, 56, 2, 64, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
    for (kind, at, address, len) in
        [(1_u32, code_at, u64::from(CODE), GUEST.len() as u64), (4, note_at, 0, note.len() as u64)]
    {
        b.extend(kind.to_le_bytes());
        b.extend(7_u32.to_le_bytes());
        b.extend([at, address, address, len, len, 4].iter().flat_map(|v| v.to_le_bytes()));
    }
    [b, note, GUEST.to_vec()].concat()
}

/// Starts it; not where there is no KVM.
fn start(at: &Place, name: &str) -> bool {
    let kernel = at.file("guest.elf", kernel());
    let run = format!(
        "run --arch amd64 --engine kvm --kernel {} --memory 64M --net none --name {name} --detach",
        kernel.display()
    );
    let done = at.strata(&run);
    if matches!(done.code, Some(71 | 77)) {
        eprintln!("skipped here: {}", done.err);
        return false;
    }
    done.good();
    true
}

/// What it counts to now, and that it finds nothing wrong.
fn count(at: &Place, name: &str) -> u32 {
    let mut c = at.open(&format!("console {name}"));
    // The first line may have begun before.
    c.wait_for("\n");
    let line = c.wait_for("\n");
    assert!(!c.text().contains('!'), "the guest says: {}", c.text());
    u32::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("no count: {}", c.text()))
}

/// What waits for a machine at `at`, and what sends one there.
fn receive(at: &Place, options: &str) -> (Console, String) {
    let Receiver { console, address, token } = Receiver::at(at, options);
    (console, format!("{address} --token {token} {options}"))
}

#[test]
fn a_machine_on_kvm_goes_there_and_back_again() {
    let hosts = [Place::new(), Place::new()];
    if !start(&hosts[0], "web") {
        return;
    }
    let mut last = count(&hosts[0], "web");
    for (n, (options, how)) in [
        ("", "--verify"),
        ("--plain", "--strategy precopy --streams 2 --verify"),
        ("", "--strategy stop-and-copy --verify"),
        ("", "--strategy auto"),
    ]
    .into_iter()
    .enumerate()
    {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        let (waiting, there) = receive(to, options);
        let forecast = from.strata(&format!("migrate web {there} --dry-run")).good();
        assert!(forecast.contains("It can go to"), "{forecast}");
        last = last.max(count(from, "web"));
        let figures = from.strata(&format!("migrate web {there} {how}")).good();
        eprintln!("{figures}");
        assert!(figures.lines().any(|l| l.starts_with("step") && l.ends_with("moved")), "{figures}");
        let done = waiting.end();
        assert_eq!((done.code, done.out.lines().last()), (Some(0), Some("web")), "{done:?}");
        from.is_clean();
        let now = count(to, "web");
        assert!(now >= last, "it went back: {now:#x} after {last:#x}");
        until("it counts on", || count(to, "web") > now);
        last = now;
    }
    assert!(hosts[0].strata("ps --verbose").good().contains("kvm"));
    hosts[0].strata("stop --force web").good();
}

#[test]
fn memory_follows_a_machine_on_kvm_where_the_host_lets_it() {
    let hosts = [Place::new(), Place::new()];
    if !start(&hosts[0], "web") {
        return;
    }
    let mut last = count(&hosts[0], "web");
    for (n, how) in ["postcopy", "hybrid", "postcopy --streams 2 --bandwidth 400K"].into_iter().enumerate() {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        let (waiting, there) = receive(to, "");
        let done = from.strata(&format!("migrate web {there} --verify --strategy {how}"));
        if done.code == Some(82) && done.err.contains("userfaultfd") {
            done.refused(82, &["web", "precopy"]);
            eprintln!("skipped here: {}", done.err);
            break;
        }
        let figures = done.good();
        eprintln!("{figures}");
        assert_eq!(waiting.end().code, Some(0));
        let now = count(to, "web");
        assert!(now >= last, "it went back: {now:#x} after {last:#x}");
        // One that could come as a whole is in no migration any more.
        until("all of it is there", || {
            let status = to.strata("migrate status web");
            how == "hybrid" && status.code == Some(66) || status.good().contains("moved")
        });
        until("it counts on", || count(to, "web") > now);
        until("its source has gone", || from.running().is_empty());
        from.is_clean();
        last = now;
    }
    for host in &hosts {
        if !host.running().is_empty() {
            host.strata("stop --force web").good();
        }
    }
}

#[test]
fn a_machine_on_kvm_whose_migration_is_cancelled_runs_on() {
    let hosts = [Place::new(), Place::new()];
    if !start(&hosts[0], "web") {
        return;
    }
    let (waiting, there) = receive(&hosts[1], "");
    // Cancelled in the middle, it runs on, and is saved and moved like any other.
    let going = hosts[0].open(&format!("migrate web {there} --bandwidth 100K"));
    until("it is copied", || {
        let status = hosts[0].strata("migrate status web");
        status.code == Some(0) && status.out.contains("iterative copy")
    });
    hosts[0].strata("migrate cancel web").good();
    going.end().refused(83, &["cancelled", "runs on"]);
    assert_eq!(waiting.end().code, Some(82));
    hosts[1].is_clean();
    let now = count(&hosts[0], "web");
    until("it counts on", || count(&hosts[0], "web") > now);
    hosts[0].strata("suspend web").good();
    hosts[0].strata("resume web").good();
    let (waiting, there) = receive(&hosts[1], "--name db");
    hosts[0].strata(&format!("migrate web {} --verify", there.replace(" --name db", ""))).good();
    assert_eq!(waiting.end().code, Some(0));
    assert!(count(&hosts[1], "db") > now);
    let vmm = hosts[1].vmm_of("db");
    hosts[1].strata("stop --force db").good();
    until("its process has gone", || !lives(vmm));
}
