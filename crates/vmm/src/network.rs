//! A machine's network: opened, shared with whoever saves the machine, and the address of its card held.
//!
//! Two cards with one Ethernet address on one bridge take each other's frames. So a machine on a TAP interface of a
//! bridge holds its card's address there: an abstract socket, named by bridge and address, that the kernel gives to one
//! process of the network namespace and takes back when that ends.

use crate::convert::paragraph;
use crate::exit::{Error, Kind, Result};
use crate::name::random;
use crate::runtime::Runtime;
use crate::spec::{NetSpec, VmmSpec};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use strata_migration::wire::Guest;
use strata_net::{Cards, Forward, NetBackend, OpenFlow, Port, Shown, UserConfig, UserNet, bind_forward};
use strata_snapshot::FlowRef;

/// What a spec's network has become.
pub(crate) struct Network {
    /// What the card's frames go to, if there is a card.
    pub(crate) backend: Option<Box<dyn NetBackend>>,
    /// The same, for whoever saves or moves the machine.
    pub(crate) place: Place,
    /// The hold on the card's address.
    pub(crate) claim: Option<OwnedFd>,
}

/// Where a machine's card is.
pub(crate) enum Place {
    /// There is none.
    Nowhere,
    /// In a user-mode network.
    User(SharedNet),
    /// On a TAP interface.
    Port(Port),
}

impl Place {
    /// Connections that are open now, which end here.
    pub(crate) fn flows(&self) -> Vec<FlowRef> {
        if let Place::User(net) = self { net.flows() } else { Vec::new() }
    }

    /// Has connections of before reset; gives how many.
    pub(crate) fn reset(&self, flows: &[FlowRef]) -> usize {
        if let Place::User(net) = self { net.reset(flows) } else { 0 }
    }

    /// What is known here of the guest.
    pub(crate) fn known(&self) -> Guest {
        match self {
            Place::Nowhere => Guest::default(),
            Place::Port(port) => Guest { addresses: port.shown().addresses().to_vec(), ..Guest::default() },
            Place::User(net) => {
                let Cards { leases, neighbours } = net.lock().cards();
                Guest { leases, neighbours, addresses: Vec::new() }
            }
        }
    }

    /// The guest has come from a network that knew this of it.
    pub(crate) fn arrive(&self, known: &Guest) {
        match self {
            Place::Nowhere => {}
            Place::Port(port) => port.arrive(Shown::new(&known.addresses)),
            Place::User(net) => {
                let Guest { leases, neighbours, .. } = known.clone();
                net.lock().go_on_with(&Cards { leases, neighbours });
            }
        }
    }
}

/// Opens the network of `spec`.
///
/// # Errors
/// `InUse` if another machine on the same bridge has the card's address; what the host answers.
pub(crate) fn open(spec: &VmmSpec) -> Result<Network> {
    match &spec.net {
        NetSpec::None => Ok(Network { backend: None, place: Place::Nowhere, claim: None }),
        NetSpec::Tap { name } => {
            let port = Port::open(name, spec.mac)?;
            let claim = claim(name, spec)?;
            Ok(Network { backend: Some(Box::new(port.clone())), place: Place::Port(port), claim })
        }
        NetSpec::User { forwards } => {
            let mut open = Vec::new();
            for text in forwards {
                let forward: Forward =
                    text.parse().map_err(|e| Error::new(Kind::Config, paragraph(&format!("{e}"))))?;
                open.push(bind_forward(forward)?);
            }
            let seed = match spec.deterministic {
                Some(seed) => seed,
                None => u64::from_le_bytes(random::<8>()?),
            };
            let config = UserConfig { forwards: open, seed, ..UserConfig::default() };
            let net = SharedNet::new(UserNet::new(config)?)?;
            Ok(Network { backend: Some(Box::new(net.clone())), place: Place::User(net), claim: None })
        }
    }
}

/// A user-mode network that the card has, and that is asked when the machine is saved.
#[derive(Clone)]
pub(crate) struct SharedNet {
    net: Arc<Mutex<UserNet>>,
    /// Another name for its descriptor, which can be lent while others use the network.
    fd: Arc<OwnedFd>,
}

impl SharedNet {
    fn new(net: UserNet) -> Result<SharedNet> {
        let fd = fcntl_dupfd_cloexec(net.poll_fd(), 3).map_err(|e| Error::io("set up the network", e))?;
        Ok(SharedNet { net: Arc::new(Mutex::new(net)), fd: Arc::new(fd) })
    }

    fn lock(&self) -> MutexGuard<'_, UserNet> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that are open now.
    pub(crate) fn flows(&self) -> Vec<FlowRef> {
        let flow = |f: OpenFlow| FlowRef { guest: f.guest, far: f.far, mac: f.mac };
        self.lock().open_flows().into_iter().map(flow).collect()
    }

    /// Has connections of before reset; gives how many.
    pub(crate) fn reset(&self, flows: &[FlowRef]) -> usize {
        let flows: Vec<_> =
            flows.iter().map(|f| OpenFlow { guest: f.guest, far: f.far, mac: f.mac }).collect();
        self.lock().reset_flows(&flows)
    }
}

impl NetBackend for SharedNet {
    fn send(&mut self, frame: &[u8]) {
        self.lock().send(frame);
    }
    fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        self.lock().recv(buf)
    }
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
    fn poll(&mut self, now: Instant) -> Option<Duration> {
        self.lock().poll(now)
    }
}

/// The name and number of the bridge that an interface belongs to.
fn bridge_of(tap: &str) -> Option<(String, String)> {
    let class = Path::new("/sys/class/net");
    let master = std::fs::read_link(class.join(tap).join("master")).ok()?;
    let name = master.file_name()?.to_str()?.to_owned();
    let index = std::fs::read_to_string(class.join(&name).join("ifindex")).ok()?;
    Some((name, index.trim().to_owned()))
}

/// Holds the card's address on the bridge of its TAP interface, if it is on one.
///
/// # Errors
/// As [`open`].
pub(crate) fn hold(spec: &VmmSpec) -> Result<Option<OwnedFd>> {
    if let NetSpec::Tap { name } = &spec.net { claim(name, spec) } else { Ok(None) }
}

/// Holds the card's address on the bridge of `tap`. Without a bridge there is nobody to be taken for.
fn claim(tap: &str, spec: &VmmSpec) -> Result<Option<OwnedFd>> {
    let Some((bridge, index)) = bridge_of(tap) else { return Ok(None) };
    let mac = spec.mac.map(|b| format!("{b:02x}")).join(":");
    let fail = |e: Errno| Error::io(format_args!("hold the address {mac} on {bridge}"), e);
    let socket =
        || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(fail);
    let address =
        SocketAddrUnix::new_abstract_name(format!("strata-mac-{index}-{mac}").as_bytes()).map_err(fail)?;
    let ours = socket()?;
    match bind(&ours, &address) {
        Ok(()) => {
            // So that whoever is refused can see who has it.
            listen(&ours, 1).map_err(fail)?;
            Ok(Some(ours))
        }
        Err(Errno::ADDRINUSE) if spec.share_mac => Ok(None),
        Err(Errno::ADDRINUSE) => {
            let theirs = socket()?;
            let pid =
                connect(&theirs, &address).and_then(|()| sockopt::socket_peercred(&theirs)).map(|c| c.pid);
            let running = Runtime::open().and_then(|r| r.list()).unwrap_or_default();
            let pid = pid.map_or(0, |p| p.as_raw_nonzero().get().cast_unsigned());
            let other =
                running.into_iter().find(|e| e.pid == pid).map_or("another machine".into(), |e| e.name);
            let m = format!(
                "{} has the Ethernet address {mac} on the bridge {bridge}, where {other} has it too: give it a new one \
                 with --mac new, stop the other first, or say --mac keep if that is meant.",
                spec.name
            );
            Err(Error::new(Kind::InUse, m))
        }
        Err(e) => Err(fail(e)),
    }
}
