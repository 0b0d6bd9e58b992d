//! The machine on QEMU.

use crate::guest::Console;
use crate::sides::{Figures, LIMIT, Said, Stage};
use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

impl Stage<'_> {
    /// The machine on QEMU, pre-copy at its defaults or with post-copy after a second; none if it did not come to an end.
    pub fn qemu(&self, program: &Path, postcopy: bool) -> Result<Option<Figures>> {
        let to = format!("tcp:{}:7778", self.way.to);
        let start = |n: usize| {
            let qmp = self.dir.join(format!("qmp{n}"));
            let _ = std::fs::remove_file(&qmp);
            let mut c = self.way.on(n, &program.display().to_string());
            c.args(["-M", "virt", "-smp", "1", "-display", "none", "-serial", "stdio"]);
            c.arg("-m").arg(self.memory.to_string());
            c.arg("-kernel").arg(&self.guest.kernel).arg("-initrd").arg(&self.guest.initrd);
            c.args(["-append", "console=ttyS0", "-netdev"]);
            c.arg(format!("tap,id=n,ifname={},script=no,downscript=no", self.way.tap(n)));
            c.args(["-device", "virtio-net-device,netdev=n,mac=02:00:00:00:00:77"]);
            c.arg("-qmp").arg(format!("unix:{},server=on,wait=off", qmp.display()));
            if n == 1 {
                c.args(["-incoming", &to]);
            }
            Ok::<_, anyhow::Error>((Console::spawn(c)?, qmp))
        };
        let (mut console, qmp) = start(0)?;
        console.begin(self.load)?;
        let (_there, qmp_there) = start(1)?;
        let mut monitor = Monitor::connect(&qmp)?;
        let mut there = Monitor::connect(&qmp_there)?;
        if postcopy {
            let on = json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]});
            monitor.ask("migrate-set-capabilities", on.clone())?;
            there.ask("migrate-set-capabilities", on)?;
        }
        self.measured(|| {
            monitor.ask("migrate", json!({"uri": to}))?;
            let (begun, mut predicted, mut switched) = (Instant::now(), 0.0, !postcopy);
            loop {
                let said = monitor.ask("query-migrate", json!({}))?;
                let number = |key: &str| said[key].as_f64();
                predicted = number("expected-downtime").unwrap_or(predicted);
                match said["status"].as_str() {
                    Some("completed") => {
                        let downtime = number("downtime").unwrap_or(0.0);
                        return Ok(Some(Said { predicted, downtime }));
                    }
                    Some("failed" | "cancelled") => bail!("QEMU's migration failed: {said}"),
                    _ if begun.elapsed() > LIMIT => return Ok(None),
                    _ => {}
                }
                if !switched && begun.elapsed() > Duration::from_secs(1) {
                    switched = monitor.ask("migrate-start-postcopy", json!({})).is_ok();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    }
}

/// A connection to QEMU's monitor.
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(path: &PathBuf) -> Result<Monitor> {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(s) => break s,
                Err(e) if begun.elapsed() > Duration::from_secs(20) => return Err(e.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut m = Monitor(BufReader::new(stream));
        m.ask("qmp_capabilities", json!({}))?;
        Ok(m)
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        writeln!(self.0.get_mut(), "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "QEMU ended");
            let value: Value = serde_json::from_str(&line)?;
            if let Some(error) = value.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(answer) = value.get("return") {
                return Ok(answer.clone());
            }
        }
    }
}
