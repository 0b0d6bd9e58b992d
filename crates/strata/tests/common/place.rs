//! A place of its own for each test: nothing of the user's is touched, and what is left over shows.

use super::{Console, apart, busybox};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A home, a runtime folder and a work folder.
pub struct Place {
    dir: tempfile::TempDir,
    /// Who keeps the file system of the home, where that is one of its own.
    keeper: Option<Child>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Done {
    fn from(o: Output) -> Done {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        Done { code: o.status.code(), out: text(&o.stdout), err: text(&o.stderr) }
    }
}

impl Done {
    /// It went well; gives its output.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// It was refused with this code, in one paragraph that has these words.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let text = self.err.strip_prefix("strata: ").unwrap_or_else(|| panic!("no error of ours: {self:?}"));
        assert_eq!(text.trim_end().lines().count(), 1, "one paragraph: {self:?}");
        for word in words {
            assert!(text.contains(word), "should say `{word}`: {self:?}");
        }
    }
}

impl Place {
    /// An empty place.
    pub fn new() -> Place {
        // Under the target folder: /tmp may be small, and may be another file system than the image's.
        let dir = tempfile::Builder::new().prefix("e2e-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for sub in ["home", "run", "work"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        Place { dir, keeper: None }
    }

    /// An empty place whose home is a file system of its own, of so many MiB; `None`, said aloud, where the host forbids
    /// that.
    pub fn small(mib: u64) -> Option<Place> {
        let mut place = Place::new();
        let mount = format!(
            "mount -t tmpfs -o size={mib}m none {} && echo here && exec sleep 3600",
            place.home().display()
        );
        let mut keeper =
            apart(&["--mount"])?.args(["sh", "-c", &mount]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 5];
        let mounted = std::io::Read::read_exact(keeper.stdout.as_mut().unwrap(), &mut said);
        place.keeper = Some(keeper);
        if mounted.is_err() || !place.inside("true").status().is_ok_and(|s| s.success()) {
            eprintln!("SKIPPED: this host lets the test mount no file system");
            return None;
        }
        Some(place)
    }

    /// A program that sees the place's home.
    fn inside(&self, program: &str) -> Command {
        let Some(keeper) = &self.keeper else { return Command::new(program) };
        let mut c = Command::new("nsenter");
        c.arg(format!("--mount=/proc/{}/ns/mnt", keeper.id())).arg("--").arg(program);
        c
    }

    /// Leaves no room in the home's file system.
    pub fn fill(&self) {
        let mut dd = self.inside("dd");
        dd.args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", self.home().join("hog").display()));
        let done = self.finish(&mut dd);
        assert!(done.err.contains("No space left"), "{done:?}");
    }

    /// Makes room again.
    pub fn make_room(&self) {
        self.finish(self.inside("rm").arg("-f").arg(self.home().join("hog")));
    }

    /// The same file, as the test sees it.
    pub fn seen(&self, path: &Path) -> PathBuf {
        match &self.keeper {
            Some(k) => {
                Path::new(&format!("/proc/{}/root", k.id())).join(path.strip_prefix("/").unwrap_or(path))
            }
            None => path.to_owned(),
        }
    }

    /// A place that has the busybox image.
    pub fn with_busybox() -> Place {
        Place::with(&busybox())
    }

    /// A place that has the image in this folder.
    pub fn with(image: &Path) -> Place {
        let place = Place::new();
        let to = place.home().join("images").join(image.file_name().unwrap());
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(image).unwrap() {
            let file = file.unwrap().path();
            fs::hard_link(&file, to.join(file.file_name().unwrap())).unwrap();
        }
        place
    }

    /// `$STRATA_HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Where users' files are.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// A file of the user's.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Sets a command up to be at home here.
    pub fn at_home<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .current_dir(self.work())
            .env("STRATA_HOME", self.home())
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"))
            .env_remove("RUST_LOG")
    }

    /// `strata WORDS`, split at spaces.
    pub fn command(&self, words: &str) -> Command {
        let mut c = self.inside(env!("CARGO_BIN_EXE_strata"));
        self.at_home(&mut c).args(words.split_whitespace());
        c
    }

    /// Runs `strata WORDS` to its end, without input.
    pub fn strata(&self, words: &str) -> Done {
        self.finish(&mut self.command(words))
    }

    /// Runs a command to its end, without input.
    pub fn finish(&self, command: &mut Command) -> Done {
        command.stdin(Stdio::null()).output().unwrap().into()
    }

    /// Runs `strata WORDS` with its streams in our hands.
    pub fn open(&self, words: &str) -> Console {
        Console::spawn(self.command(words))
    }

    /// The process of a running machine.
    #[track_caller]
    pub fn vmm_of(&self, name: &str) -> u32 {
        let text = fs::read_to_string(self.dir.path().join(format!("run/strata/{name}.lock"))).unwrap();
        let digits = text.split("\"pid\":").nth(1).unwrap();
        digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }

    /// Names in a folder, sorted; none if it is not there.
    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Files in the runtime folder, but for what was measured of the host's KVM, which stays.
    pub fn running(&self) -> Vec<String> {
        let mut names = Self::names(&self.dir.path().join("run/strata"));
        names.retain(|n| n != "kvm-speed.json");
        names
    }

    /// Instances that are kept, whole or in pieces.
    pub fn kept(&self) -> Vec<String> {
        let mut names = Self::names(&self.seen(&self.home().join("instances")));
        names.retain(|n| n != ".lock");
        names
    }

    /// Images, whole or in pieces.
    pub fn images(&self) -> Vec<String> {
        Self::names(&self.home().join("images"))
    }

    /// Everything in the work folder.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let dir = self.work();
        Self::names(&dir)
            .into_iter()
            .map(|n| (n.clone(), fs::read(dir.join(&n)).unwrap_or_default()))
            .collect()
    }

    /// No machine and no instance is left.
    #[track_caller]
    pub fn is_clean(&self) {
        assert_eq!((self.running(), self.kept()), (vec![], vec![]), "left behind");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that failed leaves no machine to the host.
        for file in self.running() {
            if let Some(name) = file.strip_suffix(".lock") {
                let _ = self.command(&format!("stop --force {name}")).output();
            }
        }
        if let Some(mut keeper) = self.keeper.take() {
            // It sleeps, and is ours.
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
    }
}
