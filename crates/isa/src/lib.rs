//! strata-isa
