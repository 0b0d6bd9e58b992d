//! strata-float
