//! strata-devices
