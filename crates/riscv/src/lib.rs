//! strata-riscv
