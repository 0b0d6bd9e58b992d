//! From an instance to a running machine in front of a person, a script, or nobody.

use crate::args::{ClockPolicy, Console, FrontArgs, GoesOnArgs, MacArgs, MacPolicy, ResumeArgs, StartArgs};
use crate::terminal::{self, Ask, End};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use strata_vmm::{
    Client, ConsoleSpec, Error, ExitReport, Instance, Kind, Launched, Launcher, Result, Spawned, Store, Tier,
    VmmSpec,
};

/// `strata start NAME`.
pub fn start(args: StartArgs) -> Result<u8> {
    check_front(&args.front)?;
    let process = begin_process(!args.front.detach)?;
    let store = Store::open()?;
    let mut instance = store.take(&args.name)?;
    if instance.record().suspended.is_some() {
        let name = &args.name;
        let m = format!(
            "The instance {name} is suspended: let it go on with `strata resume {name}`, or throw its memory away with \
             `strata stop {name}` first."
        );
        return Err(Error::new(Kind::Refused, m));
    }
    let begin = Begin { tier: args.tier, ..Begin::of_mac(args.mac, &mut instance)? };
    bring_up(instance, process, &args.front, begin)
}

/// `strata resume NAME`.
pub fn resume(args: &ResumeArgs) -> Result<u8> {
    let name = &args.name;
    let process = begin_process(false)?;
    let instance = Store::open()?.take(name)?;
    if instance.record().suspended.is_none() {
        let m = format!("The instance {name} is not suspended: start it with `strata start {name}`.");
        return Err(Error::new(Kind::Refused, m));
    }
    go_on(instance, process, args.goes_on)
}

/// A process for a machine, attended or in the background: it begins while we look at what it is to run.
pub fn begin_process(attended: bool) -> Result<Spawned> {
    Launcher::default().spawn(attended)
}

/// Lets `instance` go on from where it was saved, in that process.
pub fn go_on(mut instance: Instance, process: Spawned, how: GoesOnArgs) -> Result<u8> {
    let begin =
        Begin { advance: how.clock == ClockPolicy::Advance, ..Begin::of_mac(how.mac, &mut instance)? };
    let launched = process.launch(&begin.spec(&instance), Some(instance.lock()));
    let launched = launched.inspect_err(|_| instance.stays())?;
    begun(instance, &launched);
    crate::print(format!("{}\n", launched.name).as_bytes());
    Ok(0)
}

/// How a machine begins, other than its record says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Begin {
    /// How its code is run.
    pub tier: Option<Tier>,
    /// Whether its clock has counted the time since it was saved.
    pub advance: bool,
    /// Whether another on its bridge may have its card's address.
    pub share_mac: bool,
}

impl Begin {
    /// What is asked of its card's address; a new one is written down.
    fn of_mac(args: MacArgs, instance: &mut Instance) -> Result<Begin> {
        if args.mac == Some(MacPolicy::New) {
            instance.renew_mac()?;
        }
        Ok(Begin { share_mac: args.mac == Some(MacPolicy::Keep), ..Begin::default() })
    }

    /// What is run of `instance`, in the background.
    fn spec(self, instance: &Instance) -> VmmSpec {
        let spec = instance.spec();
        let tier = self.tier.or(spec.tier);
        VmmSpec { tier, advance: self.advance, share_mac: self.share_mac, ..spec }
    }
}

/// The machine's own process holds `instance` now, and removes it at its end if that is wanted.
fn begun(instance: Instance, launched: &Launched) {
    launched.notes.iter().for_each(|note| crate::say(note));
    instance.keep();
}

/// Refuses what is asked of the console that cannot be.
pub fn check_front(front: &FrontArgs) -> Result<()> {
    if front.detach && front.console == Some(Console::Stdio) {
        let m = "A detached machine has no terminal: leave --console out, and use `strata console NAME`.";
        return Err(Error::new(Kind::Usage, m));
    }
    Ok(())
}

/// Starts `instance` in `process` as `begin` says, and stays with it as `front` says. A new instance is removed if it does
/// not start.
pub fn bring_up(instance: Instance, process: Spawned, front: &FrontArgs, begin: Begin) -> Result<u8> {
    let mut spec = begin.spec(&instance);
    spec.foreground = !front.detach;
    spec.console = match &front.console {
        Some(Console::File(path)) => ConsoleSpec::File { path: absolute(path)? },
        Some(Console::Socket(path)) => ConsoleSpec::Socket { path: absolute(path)? },
        Some(Console::Stdio) | None if !front.detach => ConsoleSpec::Primary,
        Some(Console::Stdio | Console::None) | None => ConsoleSpec::Hub,
    };
    if spec.console == ConsoleSpec::Primary && spec.image.is_some() && spec.firmware.is_none() {
        tell_terminal(&mut spec.cmdline);
    }
    let launched = process.launch(&spec, Some(instance.lock()))?;
    begun(instance, &launched);
    if front.detach {
        crate::print(format!("{}\n", launched.name).as_bytes());
        return Ok(0);
    }
    if spec.console == ConsoleSpec::Primary { attended(launched) } else { finish(launched) }
}

/// Tells the image what kind of terminal it talks to, as a word that the kernel hands to its first process as
/// environment. Without a terminal it is a dumb one: the guest then sends no control sequences into a script's output.
fn tell_terminal(cmdline: &mut String) {
    if cmdline.split_whitespace().any(|w| w.starts_with("TERM=")) {
        return;
    }
    let attended = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let own = std::env::var("TERM").ok().filter(|t| attended && !t.is_empty());
    let plain = |t: &String| t.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b));
    match own.filter(plain) {
        Some(term) => cmdline.push_str(&format!(" TERM={term}")),
        None if attended => {}
        None => cmdline.push_str(" TERM=dumb"),
    }
}

/// An absolute path: instances are used again from other folders.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(format!("resolve {}", path.display()), e))
}

/// Joins this terminal to the machine until one of them has had enough.
fn attended(mut launched: Launched) -> Result<u8> {
    let console = launched.client.attach_primary()?;
    let name = launched.name.clone();
    match terminal::relay(console, |ask| carry_out(&name, ask)) {
        Ok(End::Closed) => finish(launched),
        Ok(End::Quit) => {
            // The person ended it on purpose: that is a good end.
            let exit = launched.stop()?;
            if exit.problems.is_empty() { Ok(0) } else { report(&exit) }
        }
        // Whoever read our output has gone: so does the machine, as with any program in a pipe.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => report(&launched.stop()?),
        Err(e) => Err(Error::io("pass the console on", e)),
    }
}

fn finish(mut launched: Launched) -> Result<u8> {
    report(&launched.wait()?)
}

/// Says how it ended, if there is something to say, and gives the code.
pub fn report(exit: &ExitReport) -> Result<u8> {
    if let Some(message) = exit.message() {
        crate::say(&message);
    }
    Ok(exit.code())
}

/// What the menu's keys do; gives the line to show.
fn carry_out(name: &str, ask: Ask) -> String {
    let done = || -> Result<&'static str> {
        let mut client = Client::connect(name)?;
        Ok(match ask {
            Ask::TogglePause if client.status()?.phase == "paused" => {
                client.unpause()?;
                "it goes on"
            }
            Ask::TogglePause => {
                client.pause()?;
                "paused; Ctrl-] p lets it go on"
            }
            Ask::Reset => {
                client.reset()?;
                "reset"
            }
            Ask::PowerOff => {
                client.stop(&mut |_| {})?;
                "powered off"
            }
            Ask::Quit => "ending the machine",
        })
    };
    done().map_or_else(|e| e.to_string(), str::to_owned)
}

/// As [`carry_out`], for a console that was attached to a machine that runs by itself.
pub fn carry_out_attached(name: &str, ask: Ask) -> String {
    if ask == Ask::Quit {
        format!("the machine runs on; come back with `strata console {name}`")
    } else {
        carry_out(name, ask)
    }
}
