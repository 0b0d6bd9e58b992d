//! A bare-metal amd64 guest that looks after itself, and its start on this host's KVM.

use super::Place;

/// Where the guest's code is loaded.
const CODE: u32 = 0x10_0000;

/// The guest: it counts in a register and in memory at 2 MiB, writes the count to one of 256
/// pages from 4 MiB on, each in its turn, where it expects to find what it wrote there the last time, and reads the
/// time-stamp counter. It prints each 1024th count, or as [`EVERY`] says; `!m` if memory is not as it left it, `!t` if time has gone back.
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

/// Where in it the counts are chosen that it prints: those with none of the bits of this `u32`.
const EVERY: usize = 72;

/// An ELF file with a PVH entry, of one segment at [`CODE`], whose guest prints each count that `every` divides, a power of
/// two.
fn kernel(every: u32) -> Vec<u8> {
    let mut guest = GUEST.to_vec();
    guest[EVERY..EVERY + 4].copy_from_slice(&(every - 1).to_le_bytes());
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
        [(1_u32, code_at, u64::from(CODE), guest.len() as u64), (4, note_at, 0, note.len() as u64)]
    {
        b.extend(kind.to_le_bytes());
        b.extend(7_u32.to_le_bytes());
        b.extend([at, address, address, len, len, 4].iter().flat_map(|v| v.to_le_bytes()));
    }
    [b, note, guest].concat()
}

/// Starts it as `name`, printing each count that `every` divides, with further options; false, said aloud, where there is no
/// KVM.
pub fn start_bare(at: &Place, name: &str, every: u32, options: &str) -> bool {
    let kernel = at.file("guest.elf", kernel(every));
    let run = format!(
        "run --arch amd64 --engine kvm --kernel {} --memory 64M --net none --name {name} --detach {options}",
        kernel.display()
    );
    let done = at.strata(&run);
    if matches!(done.code, Some(71 | 77)) {
        eprintln!("SKIPPED: this host has no KVM that can be used: {}", done.err);
        return false;
    }
    done.good();
    true
}

/// The counts that a console has shown, those of whole lines.
///
/// # Panics
/// The guest says that something is wrong.
#[track_caller]
pub fn bare_counts(text: &str) -> Vec<u32> {
    assert!(!text.contains('!'), "the guest says: {text}");
    let whole = text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n'));
    // One that was begun elsewhere, or before anybody listened, is shorter.
    whole.map(|l| l.trim_end_matches('\r')).filter(|l| l.len() == 8).map(hex).collect()
}

fn hex(digits: &str) -> u32 {
    u32::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("no count: {digits:?}"))
}
