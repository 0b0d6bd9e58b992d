//! `instance STRATA KERNEL INITRD [ROUNDS]`: amd64 instances on KVM, by the commands. `instance STRATA debian IMAGE`: one of a
//! whole Debian. `instance STRATA pair …`: one that goes from a host to another and back.
#![forbid(unsafe_code)]

use strata_e2e::instance;

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [strata, word, image] = &args[..]
        && word == "debian"
    {
        return u8::from(!instance::debian(std::path::Path::new(strata), image)).into();
    }
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [strata, "pair", "lead", kernel, initrd, here, there] => {
            let [strata, kernel, initrd] = [strata, kernel, initrd].map(Into::into);
            let setting = instance::Setting { strata, kernel, initrd };
            return u8::from(!instance::pair::lead(&setting, here, there)).into();
        }
        [strata, "pair", "follow", here] => {
            return u8::from(!instance::pair::follow(std::path::Path::new(strata), here)).into();
        }
        _ => {}
    }
    let Some((setting, rounds)) = instance::setting(&args) else {
        eprintln!(
            "usage: instance STRATA KERNEL INITRD [ROUNDS] | instance STRATA debian IMAGE | \
             instance STRATA pair lead KERNEL INITRD HERE THERE | instance STRATA pair follow HERE"
        );
        return 2.into();
    };
    u8::from(!instance::all(&setting, rounds)).into()
}
