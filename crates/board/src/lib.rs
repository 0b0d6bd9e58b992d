//! strata-board
