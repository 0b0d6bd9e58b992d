//! Everything about this repository that a person would otherwise have to remember.
//!
//! ```text
//! cargo xtask test          install what the tests need, then run all of them
//! cargo xtask tools         only install what the tests need
//! cargo xtask lint          format, clippy and documentation, as CI wants them
//! cargo xtask test-kvm      the tests of the KVM engine in a host with genuine KVM, made in software
//! cargo xtask soak [WHAT]   the long runs, with their figures (see `cargo xtask soak help`)
//! cargo xtask migrate-faults [--seed N] [--count N] [--guest kvm|riscv64]   migrations in which something goes wrong
//! cargo xtask bless         rewrite the committed documents and schemas that are derived from code
//! ```
//! It depends on nothing but the standard library, so that it builds in a second on a fresh machine.
#![forbid(unsafe_code)]

mod kvm_host;
mod kvm_pair;
mod kvm_soak;
mod run;
mod soak;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test", rest @ ..] => tools::install().and_then(|t| run::tests(&t, rest)),
        ["test-kvm"] => tools::install().and_then(|t| kvm_host::test(&t)),
        ["tools"] => tools::install().map(|t| println!("tools: {}", t.bin.display())),
        ["lint"] => run::lint(),
        ["soak", rest @ ..] => tools::install().and_then(|t| soak::run(&t, rest)),
        ["migrate-faults", rest @ ..] => tools::install().and_then(|t| run::migrate_faults(&t, rest)),
        ["bless"] => tools::install().and_then(|t| run::bless(&t)),
        _ => Err("usage: cargo xtask test | test-kvm | tools | lint | soak [WHAT] | migrate-faults | bless"
            .to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
