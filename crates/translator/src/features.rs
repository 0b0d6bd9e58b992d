//! What the host's processor can do beyond the x86-64 baseline, asked once.

/// Extensions that emitted code uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    pub bmi1: bool,
    pub bmi2: bool,
    pub lzcnt: bool,
    pub popcnt: bool,
    pub fma: bool,
}

impl Features {
    /// This host's.
    pub fn detect() -> Features {
        #[cfg(target_arch = "x86_64")]
        {
            Features {
                bmi1: std::arch::is_x86_feature_detected!("bmi1"),
                bmi2: std::arch::is_x86_feature_detected!("bmi2"),
                lzcnt: std::arch::is_x86_feature_detected!("lzcnt"),
                popcnt: std::arch::is_x86_feature_detected!("popcnt"),
                fma: std::arch::is_x86_feature_detected!("fma"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            Features { bmi1: false, bmi2: false, lzcnt: false, popcnt: false, fma: false }
        }
    }
}
