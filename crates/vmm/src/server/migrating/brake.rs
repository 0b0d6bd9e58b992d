//! What slows a machine down while it is copied (`--throttle`), and lets go of it whatever comes of the migration.

use strata_memory::GuestRam;

/// Lets go when it is dropped: no machine stays slow because its migration failed.
pub(super) struct Brake(GuestRam);

impl Brake {
    /// For memory that is not slowed yet.
    pub(super) fn on(ram: &GuestRam) -> Brake {
        Brake(ram.clone())
    }

    /// Lets so many pages a second be written anew; 0 is any number.
    pub(super) fn set(&self, pages_a_second: u64) {
        self.0.throttle().set(pages_a_second);
    }

    /// From now on it is as fast as it can be.
    pub(super) fn off(&self) {
        self.set(0);
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.off();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_becomes_of_a_migration_its_machine_is_not_slow_afterwards() {
        let ram = GuestRam::single(0, 4096).unwrap();
        let failed = || -> Result<(), ()> {
            let brake = Brake::on(&ram);
            brake.set(300);
            assert_eq!(ram.throttle().rate(), 300);
            Err(())
        };
        assert!(failed().is_err());
        assert_eq!(ram.throttle().rate(), 0);
    }
}
