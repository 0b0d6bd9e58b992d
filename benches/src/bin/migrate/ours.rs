//! The machine on Strata.

use crate::guest::Console;
use crate::sides::{Figures, Said, Stage};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

impl Stage<'_> {
    fn strata(&self, program: &Path, n: usize) -> Command {
        let mut c = self.way.on(n, &program.display().to_string());
        let home = self.dir.join(format!("host{n}"));
        // What cannot be made is found missing by whoever needs it.
        let _ = std::fs::create_dir_all(home.join("run"));
        c.env("STRATA_HOME", &home).env("XDG_RUNTIME_DIR", home.join("run"));
        c
    }

    /// Says what it is started from.
    fn boots(&self, mut c: Command) -> Command {
        c.arg("--kernel").arg(&self.guest.kernel).arg("--initrd").arg(&self.guest.initrd);
        c
    }

    /// The machine on Strata, which is told `how` to send it; none if it did not come to an end.
    pub fn ours(&self, program: &Path, how: &str) -> Result<Option<Figures>> {
        let strata = |n: usize, words: &str| {
            let mut c = self.strata(program, n);
            c.args(words.split(' ')).stdin(Stdio::null());
            c
        };
        let good = |mut c: Command| {
            let out = c.output()?;
            ensure!(out.status.success(), "{c:?}: {}", String::from_utf8_lossy(&out.stderr));
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        };
        // What the machine is started from is there already, as it is with QEMU.
        let debian = if self.load.whole { self.guest.debian.as_deref() } else { None };
        if let Some(folder) = debian {
            for n in [0, 1] {
                let images = self.dir.join(format!("host{n}/images"));
                std::fs::create_dir_all(&images)?;
                let link = images.join(folder.file_name().context("the image of Debian has no name")?);
                if !link.exists() {
                    std::os::unix::fs::symlink(folder, link)?;
                }
            }
        } else if !self.dir.join("host1/images/moved").exists() {
            let mut import = strata(1, "image import --name moved");
            import.arg(&self.guest.disk);
            good(self.boots(import))?;
        }
        let mut run = strata(0, &format!("run --memory {}M --net tap={}", self.memory, self.way.tap(0)));
        run.args(["--name", "m", "--detach"]);
        let mut how = how.to_owned();
        match debian.and_then(Path::file_name) {
            Some(image) => {
                run.arg(image).arg("--disk").arg(format!("{},ro", self.guest.writer.display()));
                how.push_str(" --with-disks");
            }
            None => {
                run = self.boots(run);
                run.args(["--append", "console=ttyS0"]);
            }
        }
        good(run)?;
        let end = |n| {
            let _ = strata(n, "stop --force m").output();
            let _ = strata(n, "delete m").output();
        };
        let done = (|| {
            let mut console = Console::spawn(strata(0, "console m"))?;
            console.begin(self.load)?;
            drop(console);
            let at = format!("{}:7777", self.way.to);
            let mut receive =
                strata(1, &format!("migrate receive --listen {at} --net tap={}", self.way.tap(1)));
            if self.load.whole {
                receive.arg("--disk").arg(&self.guest.writer);
            }
            let there = Console::spawn(receive)?;
            there.wait("\n")?;
            let token = there.text().lines().next().unwrap_or_default().to_owned();
            let going = strata(0, &format!("migrate m {at} --token {token} {how}"));
            self.measured(|| {
                let mut going = going;
                let out = going.output()?;
                if !out.status.success() {
                    eprintln!("  {}", String::from_utf8_lossy(&out.stderr).trim());
                    return Ok(None);
                }
                let text = String::from_utf8_lossy(&out.stdout).into_owned();
                let row = text.lines().find_map(|l| l.strip_prefix("downtime")).context("no downtime")?;
                let numbers: Vec<f64> = row.split(' ').filter_map(|w| w.parse().ok()).collect();
                let [predicted, downtime] = numbers[..] else { bail!("`{row}` has not two numbers") };
                Ok(Some(Said { predicted, downtime }))
            })
        })();
        end(0);
        end(1);
        done
    }
}
