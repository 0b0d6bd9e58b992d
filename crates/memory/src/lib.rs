//! strata-memory
