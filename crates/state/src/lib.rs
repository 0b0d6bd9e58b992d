//! strata-state
