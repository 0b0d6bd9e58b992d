//! strata-net
