//! A Linux on KVM that goes from one host to another and back. For `cargo xtask soak amd64 pair`, whose hosts are made in
//! software and joined by a network.
//!
//! ```text
//!  the host that leads                           the host that follows
//!    asks it to receive          ── TCP ──►        `strata migrate receive`; gives the token
//!    `strata migrate`            ═════════►        the machine
//!    asks whether it has come    ── TCP ──►        looks at its console
//!    asks it to send it back ...
//! ```
//! Both do the same by the same words, `Here` itself and `There` by asking; the one that leads says them.
//!
//! The guest's only program (`guests/linux/turns.c`) counts on the console, writes to memory and compares all of it with what
//! it left there. What was counted on one host comes before all that is counted on the next.

use super::{Console, SOON, Setting, UP, passes};
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NAME: &str = "linux";
/// Where a host listens for a machine, and where one that follows listens for what it is asked.
const MACHINES: u16 = 7000;
const WORDS: u16 = 7001;
/// A migration takes some ten seconds between two hosts that share two processors.
const LONG: Duration = Duration::from_secs(600);
/// What the guest prints before each count, and if something is not as it was.
const TURN: &str = "turns ";
const WRONG: &str = "turns wrong";

/// A host that does what it is asked in a line.
trait Side {
    fn ask(&mut self, line: &str) -> Result<String>;
}

/// This host.
struct Here {
    strata: PathBuf,
    address: String,
    waits: Option<Console>,
}

/// The other one.
struct There {
    says: BufReader<TcpStream>,
}

/// The counts that a console has shown, those of whole lines.
fn counts(text: &str) -> Result<Vec<u64>> {
    ensure!(!text.contains(WRONG), "memory or clock is not as it was:\n{text}");
    let lines = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
    let counts = lines.filter_map(|l| l.strip_prefix(TURN)?.split(' ').next()?.parse().ok());
    let counts: Vec<u64> = counts.collect();
    ensure!(counts.is_sorted_by(|a, b| a + 1 == *b), "it does not count by one:\n{text}");
    Ok(counts)
}

impl Here {
    fn new(strata: &Path, address: &str) -> Here {
        Here { strata: strata.to_owned(), address: address.to_owned(), waits: None }
    }

    fn strata(&self, args: &[&str]) -> Command {
        let mut c = Command::new(&self.strata);
        c.args(args);
        c
    }

    /// The console, when it has shown a few counts.
    fn console(&self, limit: Duration) -> Result<Console> {
        let mut console = Console::spawn(&mut self.strata(&["console", NAME]))?;
        for _ in 0..4 {
            console.wait_for(TURN, limit)?;
        }
        console.wait_for("\n", limit)?;
        Ok(console)
    }

    /// Waits for a machine; gives the token.
    fn receive(&mut self) -> Result<String> {
        let at = format!("{}:{MACHINES}", self.address);
        let mut waits = Console::spawn(&mut self.strata(&["migrate", "receive", "--listen", &at]))?;
        let token = waits.wait_for("\n", SOON)?.trim().to_owned();
        self.waits = Some(waits);
        Ok(token)
    }

    /// Sends it; gives the last count here.
    fn send(&self, how: &str, to: &str, token: &str) -> Result<String> {
        let console = self.console(SOON)?;
        let to = format!("{to}:{MACHINES}");
        let done = self.strata(&["migrate", NAME, &to, "--token", token, "--strategy", how]).output()?;
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        ensure!(done.status.success(), "it stays: {out}{err}");
        println!("{}", out.lines().map(|l| format!("  | {l}")).collect::<Vec<_>>().join("\n"));
        let last = counts(&console.rest(SOON)?)?.pop().context("it has counted to nothing")?;
        let left = String::from_utf8(self.strata(&["ps"]).output()?.stdout)?;
        ensure!(!left.contains(NAME), "something of it is left here: {left}");
        Ok(last.to_string())
    }

    /// Whether it has come after it had counted to `last`, with all of its memory; gives to what it counts now.
    fn came(&mut self, last: u64) -> Result<String> {
        let waits = self.waits.take().context("nobody waits for a machine here")?;
        let code = waits.end(LONG)?;
        ensure!(code == 0, "whoever receives it ended with {code}");
        let begun = Instant::now();
        loop {
            // It is in no migration any more if all of it could come at once.
            let status = self.strata(&["migrate", "status", NAME]).output()?;
            if !status.status.success() || String::from_utf8_lossy(&status.stdout).contains("moved") {
                break;
            }
            ensure!(begun.elapsed() < LONG, "its memory does not come");
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut console = self.console(SOON)?;
        // It has been through all of its pages once more.
        console.wait_for(TURN, SOON)?;
        let counts = counts(&console.text())?;
        let (first, now) = (counts.first().context("no count")?, counts.last().context("no count")?);
        ensure!(*first > last, "it counted to {last} where it came from, and to {first} here");
        Ok(now.to_string())
    }
}

impl Side for Here {
    fn ask(&mut self, line: &str) -> Result<String> {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["receive"] => self.receive(),
            ["send", how, to, token] => self.send(how, to, token),
            ["came", last] => self.came(last.parse().context("no count")?),
            _ => bail!("{line:?} is nothing that can be asked"),
        }
    }
}

impl There {
    /// The host at `address`, when it answers.
    fn reach(address: &str) -> Result<There> {
        let begun = Instant::now();
        loop {
            match TcpStream::connect((address, WORDS)) {
                Ok(s) => {
                    s.set_read_timeout(Some(2 * LONG))?;
                    return Ok(There { says: BufReader::new(s) });
                }
                Err(e) if begun.elapsed() > LONG => return Err(e).context("the other host is not there"),
                Err(_) => std::thread::sleep(Duration::from_millis(500)),
            }
        }
    }
}

impl Side for There {
    fn ask(&mut self, line: &str) -> Result<String> {
        let mut to = self.says.get_ref();
        to.write_all(format!("{line}\n").as_bytes()).context("asking the other host")?;
        let mut said = String::new();
        self.says.read_line(&mut said).context("hearing the other host")?;
        match said.trim_end().split_once(' ') {
            Some(("ok", value)) => Ok(value.to_owned()),
            Some(("no", why)) => bail!("the other host says: {}", why.replace("\\n", "\n")),
            _ => bail!("the other host says {said:?}"),
        }
    }
}

/// Does what the host that leads asks, until it ends; whether all of it went well.
pub fn follow(strata: &Path, address: &str) -> bool {
    let follow = || -> Result<bool> {
        let (stream, _) = TcpListener::bind((address, WORDS))?.accept()?;
        let (mut here, mut to, mut well) = (Here::new(strata, address), stream.try_clone()?, true);
        for line in BufReader::new(stream).lines() {
            let answer = match here.ask(&line?) {
                Ok(value) => format!("ok {value}\n"),
                Err(e) => {
                    well = false;
                    format!("no {}\n", format!("{e:#}").replace('\n', "\\n"))
                }
            };
            to.write_all(answer.as_bytes())?;
        }
        Ok(well)
    };
    follow().inspect_err(|e| println!("FAILED: {e:#}")).unwrap_or(false)
}

/// Starts the machine, and has it go to the other host and back by each strategy; whether all of it went well.
pub fn lead(s: &Setting, here: &str, there: &str) -> bool {
    const HOW: [&str; 3] = ["auto", "hybrid", "postcopy"];
    let mut passed = 0;
    let mut begun = None;
    for how in HOW {
        let well = passes(s, &format!("a Linux goes to another host and back, {how}"), || {
            let sides = match &mut begun {
                Some(sides) => sides,
                None => begun.insert(begin(s, here, there)?),
            };
            let hosts = [here, there];
            for (from, to) in [(0, 1), (1, 0)] {
                let since = Instant::now();
                let token = sides[to].ask("receive")?;
                let last = sides[from].ask(&format!("send {how} {} {token}", hosts[to]))?;
                let now = sides[to].ask(&format!("came {last}"))?;
                println!(
                    "  {how}, {} to {}: {:.1} s; it counted to {last}, and to {now}",
                    hosts[from],
                    hosts[to],
                    since.elapsed().as_secs_f64()
                );
            }
            Ok(())
        });
        if !well {
            // Where it is now nobody knows.
            break;
        }
        passed += 1;
    }
    println!("kvm: {passed} scenarios passed, 0 skipped");
    passed == HOW.len()
}

fn begin(s: &Setting, here: &str, there: &str) -> Result<[Box<dyn Side>; 2]> {
    let begun = Instant::now();
    let mut run = s.run(NAME);
    let started = run.args(["--net", "none", "--detach"]).output()?;
    ensure!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let here = Here::new(&s.strata, here);
    here.console(UP)?;
    println!("  up after {:.1} s", begun.elapsed().as_secs_f64());
    Ok([Box::new(here), Box::new(There::reach(there)?)])
}
