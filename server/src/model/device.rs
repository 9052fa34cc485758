//! Where Burn computes: the CPU backend (flex), a GPU through wgpu (WGSL flavour), or devices that are lent.
//!
//! `auto` takes a GPU only where a real one answers; a software adapter such as lavapipe is a
//! Vulkan device too, but slower than flex, so it is used only when asked for by name. All Burn
//! calls of a run stay on the thread that calls them (Burn orders work by OS thread).

use super::lent::{Lent, LentError};
use beckon_shared::control::{BasePrecision, DeviceChoice, RunConfig};
use burn::tensor::{Device, DeviceKind, FloatDType};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// No device fits the choice.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A GPU was asked for and the graphics driver shows none.
    #[error("no GPU adapter found (looked for Vulkan, Metal and DirectX 12); install a driver or choose device cpu")]
    NoAdapter,
    /// A run wants more devices than there are.
    #[error(
        "the run wants {n_wanted} devices and there are {n_there}, those that are lent included; lower n_devices, or name more with \
         --lent-device"
    )]
    TooFew {
        /// How many it wants.
        n_wanted: usize,
        /// How many it could have.
        n_there: usize,
    },
    /// A run wants its base in half precision where that cannot be.
    #[error(
        "lora.base_precision is f16, expected f32: {reason}; set lora.base_precision to f32 or leave it out, or train with n_devices 1 \
         and device gpu on an adapter that computes with f16"
    )]
    Half {
        /// What is missing.
        reason: String,
    },
    /// A device is not lent.
    #[error(transparent)]
    Lent(#[from] LentError),
}

/// Where a run computes.
#[derive(Debug, Clone)]
pub struct Devices {
    /// Of the weights that learn, and their optimiser.
    pub first: Device,
    /// Each takes a share of every step.
    pub others: Vec<Device>,
    /// In words.
    pub name: String,
}

/// What a graphics driver offers, without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// The driver's name for it.
    pub name: String,
    /// `Vulkan`, `Metal` or `Dx12`.
    pub backend: String,
    /// Discrete, integrated, virtual, or a CPU that pretends.
    pub kind: wgpu::DeviceType,
}

impl Adapter {
    /// Whether the adapter computes on the CPU (lavapipe, SwiftShader, WARP).
    pub fn is_software(&self) -> bool {
        self.kind == wgpu::DeviceType::Cpu
    }

    /// Burn's name for the adapter. Adapters of one kind are told apart by an index that wgpu and
    /// Burn count alike; the first is taken.
    fn burn_kind(&self) -> DeviceKind {
        match self.kind {
            wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu(0),
            wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu(0),
            wgpu::DeviceType::VirtualGpu => DeviceKind::VirtualGpu(0),
            wgpu::DeviceType::Cpu => DeviceKind::Cpu,
            wgpu::DeviceType::Other => DeviceKind::DefaultDevice,
        }
    }
}

/// How many devices a run can have: its own and those that are lent, or the latter alone; with a base in half precision its own
/// alone, as what lent ones compute with is known only once they are connected.
///
/// # Errors
/// [`DeviceError::TooFew`] where it wants more, [`DeviceError::Half`] where one would be lent.
pub fn check_number(config: &RunConfig, lent: &Lent) -> Result<(), DeviceError> {
    let n_there = usize::from(config.device != DeviceChoice::Lent) + lent.n_devices();
    if config.n_devices > n_there {
        return Err(DeviceError::TooFew { n_wanted: config.n_devices, n_there });
    }
    if is_half(config) && (config.n_devices > 1 || config.device == DeviceChoice::Lent) {
        return Err(DeviceError::Half { reason: "lent devices hold f32 alone".into() });
    }
    Ok(())
}

/// Whether a run holds its base in half precision.
fn is_half(config: &RunConfig) -> bool {
    config.lora.is_some_and(|lora| lora.base_precision == BasePrecision::F16)
}

/// Asks a device whether it stores, converts and computes with f16. Burn's CPU backend does, but not our operations there, and
/// slower than f32.
///
/// # Errors
/// [`DeviceError::Half`] with the device's `name`.
pub fn check_half(device: &Device, name: &str) -> Result<(), DeviceError> {
    if *device == Device::flex() {
        return Err(DeviceError::Half { reason: format!("the device is {name}, which trains in f32 alone") });
    }
    if !device.supports_dtype(FloatDType::F16) {
        return Err(DeviceError::Half { reason: format!("{name} does not compute with f16") });
    }
    Ok(())
}

/// The devices of a run; those that are lent are connected.
///
/// # Errors
/// [`DeviceError`].
pub fn pick_devices(config: &RunConfig, lent: &Lent) -> Result<Devices, DeviceError> {
    check_number(config, lent)?;
    let mut devices = Vec::new();
    if config.device != DeviceChoice::Lent {
        let (device, name) = pick_device(config.device)?;
        if is_half(config) {
            check_half(&device, &name)?;
        }
        devices.push((device, name));
    }
    let borrowed = lent.borrow(config.n_devices - devices.len())?;
    devices.extend(borrowed.into_iter().map(|(device, url)| (device, format!("lent by {url}"))));
    let name = devices.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(" + ");
    let mut devices = devices.into_iter().map(|(device, _)| device);
    // a configuration has at least one
    let first = devices.next().ok_or(DeviceError::TooFew { n_wanted: 1, n_there: 0 })?;
    Ok(Devices { first, others: devices.collect(), name })
}

/// Picks a device of this machine and describes it in words, as `cpu (Burn flex, 2 threads)`.
///
/// # Errors
/// [`DeviceError::NoAdapter`] for `gpu` without any adapter, [`DeviceError::TooFew`] for one that is lent. `auto` and `cpu` always
/// succeed.
pub fn pick_device(choice: DeviceChoice) -> Result<(Device, String), DeviceError> {
    match choice {
        DeviceChoice::Lent => Err(DeviceError::TooFew { n_wanted: 1, n_there: 0 }),
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Auto => Ok(best(&adapters()).filter(|a| !a.is_software()).map_or_else(cpu, gpu)),
        DeviceChoice::Gpu => best(&adapters()).map(gpu).ok_or(DeviceError::NoAdapter),
    }
}

/// Adapters of the native graphics interfaces, in the driver's order. OpenGL is left out: Burn's
/// kernels need compute shaders that it does not promise.
pub fn adapters() -> Vec<Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    block_on(instance.enumerate_adapters(backends))
        .iter()
        .map(|adapter| {
            let info = adapter.get_info();
            Adapter { name: info.name, backend: format!("{:?}", info.backend), kind: info.device_type }
        })
        .collect()
}

/// The adapter that most likely trains fastest: discrete before integrated before virtual before software.
fn best(adapters: &[Adapter]) -> Option<&Adapter> {
    adapters.iter().min_by_key(|adapter| match adapter.kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    })
}

fn cpu() -> (Device, String) {
    let n_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (Device::flex(), format!("cpu (Burn flex, {n_threads} threads)"))
}

fn gpu(adapter: &Adapter) -> (Device, String) {
    let software = if adapter.is_software() { ", a software adapter: expect it slower than cpu" } else { "" };
    let text = format!("gpu ({}, {}{software})", adapter.name, adapter.backend);
    (Device::wgpu(adapter.burn_kind()), text)
}

/// Runs a future of wgpu to its end on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::control::LoraConfig;

    fn adapter(name: &str, kind: wgpu::DeviceType) -> Adapter {
        Adapter { name: name.into(), backend: "Vulkan".into(), kind }
    }

    #[test]
    fn a_real_gpu_is_preferred_to_a_software_adapter() {
        let software = adapter("llvmpipe", wgpu::DeviceType::Cpu);
        let real = adapter("card", wgpu::DeviceType::IntegratedGpu);
        assert_eq!(best(&[software.clone(), real.clone()]), Some(&real));
        assert_eq!(best(std::slice::from_ref(&software)), Some(&software));
        assert!(gpu(&software).1.contains("software adapter"));
        assert!(!gpu(&real).1.contains("software"));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn a_run_cannot_have_more_devices_than_there_are() {
        let lent = Lent::new(&["ws://127.0.0.1:9".into()], None).expect("an address");
        let config = |device, n_devices| RunConfig { device, n_devices, ..RunConfig::default() };
        assert!(check_number(&config(DeviceChoice::Cpu, 2), &lent).is_ok());
        assert!(check_number(&config(DeviceChoice::Lent, 1), &lent).is_ok());
        for (device, n_wanted) in [(DeviceChoice::Cpu, 3), (DeviceChoice::Lent, 2)] {
            let text = check_number(&config(device, n_wanted), &lent).expect_err("too many").to_string();
            assert!(text.contains(&format!("{n_wanted} devices")) && text.contains("--lent-device"), "{text}");
        }
        let devices = pick_devices(&config(DeviceChoice::Cpu, 1), &lent).expect("nothing is borrowed");
        assert!(devices.first == Device::flex() && devices.others.is_empty() && !devices.name.contains("lent"));
    }

    #[test]
    fn half_precision_is_refused_where_it_cannot_be_with_what_to_do() {
        let lent = Lent::new(&["ws://127.0.0.1:9".into()], None).expect("an address");
        let refused = |device, n_devices| {
            let lora = Some(LoraConfig { base_precision: BasePrecision::F16, ..LoraConfig::default() });
            let config = RunConfig { device, n_devices, lora, ..RunConfig::default() };
            pick_devices(&config, &lent).expect_err("no f16 there").to_string()
        };
        for (device, n_devices, reason) in [
            (DeviceChoice::Cpu, 1, "the device is cpu (Burn flex"),
            // nothing is connected to: nobody lends at that address
            (DeviceChoice::Cpu, 2, "lent devices hold f32 alone"),
            (DeviceChoice::Lent, 1, "lent devices hold f32 alone"),
        ] {
            let text = refused(device, n_devices);
            assert!(text.starts_with("lora.base_precision is f16, expected f32: ") && text.contains(reason), "{text}");
            assert!(text.contains("device gpu"), "{text}");
        }
        let plain = RunConfig { device: DeviceChoice::Cpu, lora: Some(LoraConfig::default()), ..RunConfig::default() };
        assert!(pick_devices(&plain, &lent).is_ok());
    }

    #[test]
    fn auto_never_takes_a_software_adapter_and_cpu_is_flex() {
        let (device, text) = pick_device(DeviceChoice::Cpu).expect("cpu is always there");
        assert_eq!(device, Device::flex());
        assert!(text.starts_with("cpu"));
        let (_, text) = pick_device(DeviceChoice::Auto).expect("auto falls back to cpu");
        assert!(!text.contains("software"), "auto chose {text}");
    }
}
