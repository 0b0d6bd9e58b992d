//! strata-machine
