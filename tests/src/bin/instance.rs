//! `instance STRATA KERNEL INITRD [ROUNDS]`: amd64 instances on KVM, by the commands. `instance STRATA debian IMAGE`: one of a
//! whole Debian.
#![forbid(unsafe_code)]

use strata_e2e::instance;

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [strata, word, image] = &args[..]
        && word == "debian"
    {
        return u8::from(!instance::debian(std::path::Path::new(strata), image)).into();
    }
    let Some((setting, rounds)) = instance::setting(&args) else {
        eprintln!("usage: instance STRATA KERNEL INITRD [ROUNDS] | instance STRATA debian IMAGE");
        return 2.into();
    };
    u8::from(!instance::all(&setting, rounds)).into()
}
