//! What the kernel keeps for the whole machine: the I/O APIC, the two 8259s, the 8254 timer, and the guest's clock.

use crate::{KvmError, Vm};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_pic_state, kvm_pit_channel_state,
};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use strata_engine::{IrqLine, IrqSink};
use strata_state::{Part, Schema, StateError, read_record, write_record};

/// Inputs of the I/O APIC.
const INPUTS: usize = 24;

strata_state::state! {
    /// The machine's interrupt chips and its old timer.
    pub struct ChipsState("x86-chips", 1) {
        /// 8259s, master and slave: what each register is stands in `pic_to_bytes`.
        1 pics: Vec<[u8; 16]>,
        /// I/O APIC: register selected, id, lines that are high.
        2 ioapic: [u32; 3],
        /// Its redirection entries.
        3 redirections: Vec<u64>,
        /// Channels of the 8254.
        4 timer: Vec<TimerState>,
        /// Bit 0: the timer's interrupt is given up to another, as a HPET.
        5 timer_flags: u32,
    }
}

strata_state::state! {
    /// A channel of the 8254.
    pub struct TimerState("x86-timer", 1) {
        /// Count, and the one latched.
        1 counts: [u32; 2],
        /// Flags and modes: what each is stands in `timer_to_bytes`.
        2 modes: [u8; 10],
        /// When the count was loaded, in nanoseconds of the host's monotonic clock less that at the saving.
        3 age: u64,
    }
}

/// The registers of an 8259, in the order in which they are saved.
fn pic_to_bytes(p: &kvm_pic_state) -> [u8; 16] {
    [
        p.last_irr,
        p.irr,
        p.imr,
        p.isr,
        p.priority_add,
        p.irq_base,
        p.read_reg_select,
        p.poll,
        p.special_mask,
        p.init_state,
        p.auto_eoi,
        p.rotate_on_auto_eoi,
        p.special_fully_nested_mode,
        p.init4,
        p.elcr,
        p.elcr_mask,
    ]
}

fn pic_from_bytes(b: [u8; 16]) -> kvm_pic_state {
    let [
        last_irr,
        irr,
        imr,
        isr,
        priority_add,
        irq_base,
        read_reg_select,
        poll,
        b8,
        b9,
        b10,
        b11,
        b12,
        b13,
        b14,
        b15,
    ] = b;
    kvm_pic_state {
        last_irr,
        irr,
        imr,
        isr,
        priority_add,
        irq_base,
        read_reg_select,
        poll,
        special_mask: b8,
        init_state: b9,
        auto_eoi: b10,
        rotate_on_auto_eoi: b11,
        special_fully_nested_mode: b12,
        init4: b13,
        elcr: b14,
        elcr_mask: b15,
    }
}

/// The modes of a timer's channel, in the order in which they are saved.
fn timer_to_bytes(c: &kvm_pit_channel_state) -> [u8; 10] {
    [
        c.count_latched,
        c.status_latched,
        c.status,
        c.read_state,
        c.write_state,
        c.write_latch,
        c.rw_mode,
        c.mode,
        c.bcd,
        c.gate,
    ]
}

fn timer_from_bytes(c: &mut kvm_pit_channel_state, b: [u8; 10]) {
    [
        c.count_latched,
        c.status_latched,
        c.status,
        c.read_state,
        c.write_state,
        c.write_latch,
        c.rw_mode,
        c.mode,
        c.bcd,
        c.gate,
    ] = b;
}

/// The host's monotonic clock, by which the kernel's timer counts.
fn host_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is written to, and nothing else; this clock is on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}

impl ChipsState {
    fn read(vm: &Vm) -> Result<ChipsState, KvmError> {
        let chip = |id: u32| {
            let mut chip = kvm_irqchip { chip_id: id, ..Default::default() };
            vm.fd.get_irqchip(&mut chip).map_err(KvmError::at("KVM_GET_IRQCHIP"))?;
            Ok::<_, KvmError>(chip)
        };
        let pic = |id: u32| {
            let chip = chip(id)?;
            // SAFETY: the kernel fills the member that belongs to `chip_id`, and every value of it is valid.
            Ok::<_, KvmError>(pic_to_bytes(unsafe { &chip.chip.pic }))
        };
        let io = chip(KVM_IRQCHIP_IOAPIC)?;
        // SAFETY: as above.
        let io = unsafe { io.chip.ioapic };
        // SAFETY: an entry is one number, seen as its fields or as a whole.
        let redirections = io.redirtbl.iter().map(|e| unsafe { e.bits }).collect();
        let pit = vm.fd.get_pit2().map_err(KvmError::at("KVM_GET_PIT2"))?;
        let now = host_ns();
        let timer = |c: &kvm_pit_channel_state| TimerState {
            counts: [c.count, c.latched_count.into()],
            modes: timer_to_bytes(c),
            age: now.saturating_sub(c.count_load_time.unsigned_abs()),
        };
        Ok(ChipsState {
            pics: vec![pic(KVM_IRQCHIP_PIC_MASTER)?, pic(KVM_IRQCHIP_PIC_SLAVE)?],
            ioapic: [io.ioregsel, io.id, io.irr],
            redirections,
            timer: pit.channels.iter().map(timer).collect(),
            timer_flags: pit.flags & 1,
        })
    }

    fn check(&self) -> Result<(), String> {
        match (self.pics.len(), self.redirections.len(), self.timer.len()) {
            (2, INPUTS, 3) => Ok(()),
            other => Err(format!("{other:?} are not the chips' 2 controllers, {INPUTS} inputs, 3 channels")),
        }
    }

    fn write(&self, vm: &Vm) -> Result<(), KvmError> {
        let ChipsState { pics, ioapic: [ioregsel, id, irr], redirections, timer, timer_flags } = self;
        for (chip_id, bytes) in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE].into_iter().zip(pics) {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            chip.chip.pic = pic_from_bytes(*bytes);
            vm.fd.set_irqchip(&chip).map_err(KvmError::at("KVM_SET_IRQCHIP"))?;
        }
        let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
        vm.fd.get_irqchip(&mut chip).map_err(KvmError::at("KVM_GET_IRQCHIP"))?;
        // SAFETY: the kernel has just filled the I/O APIC's member.
        let mut io = unsafe { chip.chip.ioapic };
        (io.ioregsel, io.id, io.irr) = (*ioregsel, *id, *irr);
        io.redirtbl.iter_mut().zip(redirections).for_each(|(to, bits)| to.bits = *bits);
        chip.chip.ioapic = io;
        vm.fd.set_irqchip(&chip).map_err(KvmError::at("KVM_SET_IRQCHIP"))?;
        let mut pit = vm.fd.get_pit2().map_err(KvmError::at("KVM_GET_PIT2"))?;
        let now = host_ns();
        for (c, TimerState { counts: [count, latched], modes, age }) in pit.channels.iter_mut().zip(timer) {
            (c.count, c.latched_count) = (*count, *latched as u16);
            timer_from_bytes(c, *modes);
            c.count_load_time = i64::try_from(now.saturating_sub(*age)).unwrap_or(0);
        }
        pit.flags = *timer_flags & 1;
        vm.fd.set_pit2(&pit).map_err(KvmError::at("KVM_SET_PIT2"))
    }
}

/// The chips as a part of the machine. Saved and loaded only while nothing runs, and loaded before the devices whose lines
/// end in them.
pub struct Chips {
    vm: Arc<Vm>,
    lines: Arc<IrqLines>,
    power_on: ChipsState,
    failed: Mutex<Option<String>>,
}

impl Chips {
    /// The chips of `vm`, as they are now: this is the state that a reset goes back to.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(vm: Arc<Vm>) -> Result<Chips, KvmError> {
        let power_on = ChipsState::read(&vm)?;
        let lines = Arc::new(IrqLines::new(vm.clone()));
        Ok(Chips { vm, lines, power_on, failed: Mutex::default() })
    }

    /// A wire to input `line` of the I/O APIC (and, below 16, of the 8259s).
    pub fn line(&self, line: u32) -> IrqLine {
        IrqLine::new(self.lines.clone(), line)
    }

    /// All inputs, for wires that are made later.
    pub fn lines(&self) -> Arc<IrqLines> {
        self.lines.clone()
    }

    /// What went wrong in a save or reset, if anything ever did.
    pub fn failed(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, e: &KvmError) {
        tracing::error!("the interrupt chips: {e}");
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e.to_string());
    }
}

impl Part for Chips {
    fn record_id(&self) -> &'static str {
        "x86-chips"
    }
    /// Nothing, which no load accepts, if the kernel gives nothing.
    fn save(&self) -> Vec<u8> {
        ChipsState::read(&self.vm).map(|s| write_record(&s)).unwrap_or_else(|e| {
            self.note(&e);
            Vec::new()
        })
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let invalid = |why: String| StateError::Invalid { id: "x86-chips".into(), why };
        let state: ChipsState = read_record(bytes)?;
        state.check().map_err(invalid)?;
        self.lines.forget();
        state.write(&self.vm).map_err(|e| invalid(e.to_string()))
    }
    fn reset(&mut self) {
        self.lines.forget();
        if let Err(e) = self.power_on.write(&self.vm) {
            self.note(&e);
        }
    }
    fn describe(&self, out: &mut Schema) {
        <ChipsState as strata_state::Record>::describe_fields(out);
    }
}

/// The I/O APIC's input side.
pub struct IrqLines {
    vm: Arc<Vm>,
    /// Lines whose level the kernel is known to have, and the levels: a device sets its line at every register access.
    known: AtomicU32,
    levels: AtomicU32,
}

impl IrqLines {
    fn new(vm: Arc<Vm>) -> IrqLines {
        IrqLines { vm, known: AtomicU32::new(0), levels: AtomicU32::new(0) }
    }

    /// The chips were loaded: every line is to be set once more.
    fn forget(&self) {
        self.known.store(0, SeqCst);
    }
}

impl IrqSink for IrqLines {
    fn set_line(&self, line: u32, level: bool) {
        let Some(bit) = 1_u32.checked_shl(line).filter(|_| (line as usize) < INPUTS) else { return };
        // Of one line there is one caller at a time: its device, which is locked.
        let known = self.known.fetch_or(bit, SeqCst) & bit != 0;
        let was = if level { self.levels.fetch_or(bit, SeqCst) } else { self.levels.fetch_and(!bit, SeqCst) };
        if (!known || (was & bit != 0) != level)
            && let Err(e) = self.vm.fd.set_irq_line(line, level)
        {
            // It does not fail for a line that exists; the next change tries again.
            self.known.fetch_and(!bit, SeqCst);
            tracing::error!("the host's KVM refused interrupt line {line}: {e}");
        }
    }
}

strata_state::state! {
    /// The clock that KVM shows its guests.
    pub struct KvmClockState("x86-clock", 1) {
        /// Nanoseconds since power-on.
        1 now: u64,
    }
}

/// The clock that KVM shows its guests, and with it the counters of its vCPUs. While it is held they stand still, and go on
/// from there.
pub struct KvmClock {
    vm: Arc<Vm>,
    held: Mutex<Option<u64>>,
}

impl KvmClock {
    /// The clock of `vm`, which has its vCPUs, held at 0.
    pub fn new(vm: Arc<Vm>) -> KvmClock {
        vm.hold_counters();
        KvmClock { vm, held: Mutex::new(Some(0)) }
    }

    /// Stops it. Only while no vCPU runs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hold(&self) -> Result<(), KvmError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(self.vm.fd.get_clock().map_err(KvmError::at("KVM_GET_CLOCK"))?.clock);
            self.vm.hold_counters();
        }
        Ok(())
    }

    /// Lets it go on. Only while no vCPU runs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn release(&self) -> Result<(), KvmError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clock) = *held {
            self.vm.release_counters()?;
            let data = kvm_clock_data { clock, ..Default::default() };
            self.vm.fd.set_clock(&data).map_err(KvmError::at("KVM_SET_CLOCK"))?;
            *held = None;
        }
        Ok(())
    }

    /// Lets `ns` nanoseconds pass at once, by it and by the vCPUs' counters. Only while it is held.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn advance(&self, ns: u64) -> Result<(), KvmError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = *held {
            self.vm.advance_counters(ns)?;
            *held = Some(now.saturating_add(ns));
        }
        Ok(())
    }

    /// What it shows while it is held.
    pub fn held_at(&self) -> Option<u64> {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what it shows. Only while it is held.
    pub fn set(&self, ns: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            *held = Some(ns);
        }
    }
}
