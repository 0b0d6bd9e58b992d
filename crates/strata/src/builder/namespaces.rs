//! An image's packages configured by this host's kernel, with nothing of the host to be seen.

use std::time::Instant;
use strata_image::{GuestError, GuestJob, HOST_INIT};
use strata_sandbox::{Error, Ids, Job};

/// The root of a Debian image has some 400 MB, which are memory until they are on its disk.
const SIZE: u64 = 1 << 30;

/// Runs a building job.
pub fn run(ids: &Ids, job: &GuestJob, console: &mut dyn FnMut(&[u8])) -> Result<(), GuestError> {
    let place =
        |(disk, n): (&std::path::PathBuf, u8)| (disk.clone(), format!("/build/vd{}", char::from(b'a' + n)));
    let views = [("/root", "/tree"), ("/proc", "/tree/proc"), ("/dev", "/tree/dev"), ("/run", "/tree/run")];
    let what = Job {
        archive: job.initrd.clone(),
        size: SIZE,
        files: job.disks.iter().zip(0..).map(place).collect(),
        folders: views.map(|(_, at)| at.replace("/tree/", "/root/")).into(),
        views: views.map(|(of, at)| (of.to_owned(), at.to_owned())).into(),
        command: vec!["/bin/busybox".into(), "sh".into(), HOST_INIT.into()],
    };
    let (started, cancel) = (Instant::now(), &job.cancel);
    let mut go_on = || !cancel.is_cancelled() && started.elapsed() <= job.time_limit;
    match strata_sandbox::run(ids, &what, console, &mut go_on) {
        Err(Error::Stopped) if cancel.is_cancelled() => Err(GuestError::Cancelled),
        Err(Error::Stopped) => Err(GuestError::TimedOut(job.time_limit)),
        ended => ended.map_err(|e| GuestError::Failed(e.to_string())),
    }
}
