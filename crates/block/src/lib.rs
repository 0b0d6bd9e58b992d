//! strata-block
