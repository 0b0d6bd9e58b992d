//! From an instance to a running machine in front of a person, a script, or nobody.

use crate::args::{Console, FrontArgs, StartArgs};
use crate::terminal::{self, Ask, End};
use std::path::{Path, PathBuf};
use strata_vmm::{Client, ConsoleSpec, Error, ExitReport, Instance, Kind, Launched, Result, Store, launch};

/// `strata start NAME`.
pub fn start(args: StartArgs) -> Result<u8> {
    let store = Store::open()?;
    let instance = store.take(&args.name)?;
    bring_up(instance, &args.front)
}

/// Starts `instance` and stays with it as `front` says. A new instance is removed if it does not start.
pub fn bring_up(instance: Instance, front: &FrontArgs) -> Result<u8> {
    let mut spec = instance.spec();
    spec.foreground = !front.detach;
    let console = front.console.clone();
    spec.console = match console.clone() {
        Some(Console::File(path)) => ConsoleSpec::File { path: absolute(&path)? },
        Some(Console::Socket(path)) => ConsoleSpec::Socket { path: absolute(&path)? },
        Some(Console::Stdio) if front.detach => {
            let m = "A detached machine has no terminal: leave --console out, and use `strata console NAME`.";
            return Err(Error::new(Kind::Usage, m));
        }
        Some(Console::Stdio) | None if !front.detach => ConsoleSpec::Primary,
        Some(Console::Stdio | Console::None) | None => ConsoleSpec::Hub,
    };
    let launched = launch(&spec, Some(instance.lock()))?;
    for note in &launched.notes {
        eprintln!("strata: {note}");
    }
    // From here on the machine's own process holds the instance, and removes it if that was wanted.
    instance.keep();
    if front.detach {
        crate::print(format!("{}\n", launched.name).as_bytes());
        return Ok(0);
    }
    if spec.console == ConsoleSpec::Primary { attended(launched) } else { finish(launched) }
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
            launched.client.stop(&mut |_| {})?;
            launched.wait()?;
            Ok(0)
        }
        // Whoever read our output has gone: so does the machine, as with any program in a pipe.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
            launched.client.stop(&mut |_| {})?;
            report(&launched.wait()?)
        }
        Err(e) => Err(Error::io("pass the console on", e)),
    }
}

fn finish(mut launched: Launched) -> Result<u8> {
    report(&launched.wait()?)
}

/// Says how it ended, if there is something to say, and gives the code.
pub fn report(exit: &ExitReport) -> Result<u8> {
    if let Some(message) = exit.message() {
        eprintln!("strata: {message}");
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
