//! Every scenario on every engine that this host has.

use strata_e2e::conformance::{Engine, program, run};
use strata_e2e::tools::{GCC, OBJCOPY, have};

#[test]
fn the_interpreter_conforms() {
    if have(&[GCC, OBJCOPY]) {
        let tally = run(Engine::Interpreter, &program::riscv().unwrap());
        assert!(tally.failed.is_empty() && tally.skipped.is_empty(), "{tally:#?}");
    }
}

#[test]
fn the_translator_conforms() {
    if strata_translator::tier().is_err() {
        println!("skipped here: this host allows no translator");
    } else if have(&[GCC, OBJCOPY]) {
        let tally = run(Engine::Translator, &program::riscv().unwrap());
        assert!(tally.failed.is_empty() && tally.skipped.is_empty(), "{tally:#?}");
    }
}

/// On a host whose `/dev/kvm` interprets guest kernel code, some of it wrongly, what fails is skipped, and told.
#[test]
fn kvm_conforms() {
    match strata_kvm::Host::open() {
        Err(e) => println!("skipped here: {e}"),
        Ok(_) => {
            let tally = run(Engine::Kvm, &program::x86().unwrap());
            assert!(tally.failed.is_empty(), "{tally:#?}");
        }
    }
}
