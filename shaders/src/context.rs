//! A GPU device with its queue, asked for with the limits that WebGPU guarantees, and the error
//! handling that keeps a lost device or a bad driver from panicking.

use crate::source::Variant;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Widest subgroup of a CPU in disguise that a browser offers (SwiftShader).
pub const SOFTWARE_SUBGROUP: u32 = 4;

/// Why work on the GPU could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuError {
    /// The system or browser offers no adapter.
    NoAdapter {
        /// What the system said.
        reason: String,
    },
    /// The adapter gives no device.
    NoDevice {
        /// Adapter name.
        adapter: String,
        /// What the driver said.
        reason: String,
    },
    /// The device is gone (driver reset, browser reclaimed it); a new context is needed.
    Lost {
        /// What the driver said.
        reason: String,
    },
    /// The driver refused a shader, buffer or command.
    Rejected {
        /// What was being done.
        what: String,
        /// What the driver said.
        reason: String,
    },
    /// There is not enough memory.
    OutOfMemory {
        /// What was being done.
        what: String,
    },
    /// A result could not be read back.
    Readback {
        /// What the driver said.
        reason: String,
    },
}

impl std::fmt::Display for GpuError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoAdapter { reason } => write!(f, "no gpu adapter: {reason}"),
            Self::NoDevice { adapter, reason } => write!(f, "no device on {adapter}: {reason}"),
            Self::Lost { reason } => write!(f, "gpu device lost: {reason}"),
            Self::Rejected { what, reason } => write!(f, "gpu rejected {what}: {reason}"),
            Self::OutOfMemory { what } => write!(f, "out of gpu memory: {what}"),
            Self::Readback { reason } => write!(f, "reading back from the gpu failed: {reason}"),
        }
    }
}

impl std::error::Error for GpuError {}

/// Device, queue and what is known of the adapter. Cheap to clone; clones share the device.
#[derive(Debug, Clone)]
pub struct GpuContext {
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    adapter: String,
    is_software: bool,
    /// What the device was given of what variants use.
    features: wgpu::Features,
    /// Narrowest subgroup.
    subgroup: u32,
    fault: Arc<Mutex<Option<GpuError>>>,
}

impl GpuContext {
    /// Asks for the fastest adapter: Vulkan natively, WebGPU in a page or worker.
    ///
    /// Only WebGPU's guaranteed limits are relied on; the sizes of buffers and bindings are raised to
    /// what the adapter has, for models that need them.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`] or [`GpuError::NoDevice`], with the reason to show to people.
    pub async fn request() -> Result<Self, GpuError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            })
            .await
            .map_err(|e| GpuError::NoAdapter { reason: e.to_string() })?;
        let info = adapter.get_info();
        let name = match info.name.as_str() {
            "" => "unnamed adapter".to_owned(),
            name => name.to_owned(),
        };
        let offered = adapter.limits();
        let required_limits = wgpu::Limits {
            max_buffer_size: offered.max_buffer_size,
            max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
            ..wgpu::Limits::default()
        };
        let required_features = adapter.features() & (wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP);
        let label = Some("beckon");
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor { label, required_features, required_limits, ..Default::default() })
            .await
            .map_err(|e| GpuError::NoDevice { adapter: name.clone(), reason: e.to_string() })?;
        let fault = Arc::new(Mutex::new(None));
        let (on_error, on_loss) = (fault.clone(), fault.clone());
        device.on_uncaptured_error(Arc::new(move |error| note(&on_error, described("a command", &error))));
        device.set_device_lost_callback(move |_, reason| note(&on_loss, GpuError::Lost { reason }));
        // a browser hides the name; no GPU that it offers has subgroups as narrow as SwiftShader's 4
        let is_software = info.device_type == wgpu::DeviceType::Cpu
            || ["swiftshader", "llvmpipe"].iter().any(|s| name.to_lowercase().contains(s))
            || info.backend == wgpu::Backend::BrowserWebGpu && info.subgroup_max_size <= SOFTWARE_SUBGROUP;
        let adapter = format!("{name} ({:?})", info.backend);
        let (features, subgroup) = (required_features, info.subgroup_min_size);
        Ok(Self { device, queue, adapter, is_software, features, subgroup, fault })
    }

    /// Adapter name and backend, for people.
    pub fn adapter_name(&self) -> &str {
        &self.adapter
    }

    /// Whether the adapter is a CPU in disguise (lavapipe, SwiftShader).
    pub fn is_software(&self) -> bool {
        self.is_software
    }

    /// Whether kernels in this variant run here, with at most `n_lanes` invocations that share an output.
    pub fn has(&self, variant: Variant, n_lanes: u32) -> bool {
        (!variant.f16 || self.features.contains(wgpu::Features::SHADER_F16))
            && (!variant.subgroups || self.features.contains(wgpu::Features::SUBGROUP) && n_lanes <= self.subgroup)
    }

    /// The first error that the device reported outside any other call.
    ///
    /// # Errors
    /// That error; it stays, because results after it cannot be trusted.
    pub fn check(&self) -> Result<(), GpuError> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    /// Runs `work`, which creates objects on the device, and reports what the driver thought of it.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] or [`GpuError::OutOfMemory`] with `what`; [`GpuError::Lost`].
    pub async fn guarded<T>(&self, what: &str, work: impl FnOnce() -> T) -> Result<T, GpuError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let value = work();
        let (internal, validation, memory) = (internal.pop(), validation.pop(), memory.pop());
        // all three are awaited, so that none is left unread
        if let Some(error) = [internal.await, validation.await, memory.await].into_iter().flatten().next() {
            return Err(described(what, &error));
        }
        self.check()?;
        Ok(value)
    }

    /// A buffer of `n_bytes` (at least 16, rounded up to whole words).
    pub fn buffer(&self, label: &str, n_bytes: usize, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let size = (n_bytes.max(16) as u64).next_multiple_of(4);
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        })
    }

    /// A storage buffer that kernels read and write, `n_values` words long.
    pub fn storage(&self, label: &str, n_values: usize) -> wgpu::Buffer {
        use wgpu::BufferUsages as U;
        self.buffer(label, n_values * 4, U::STORAGE | U::COPY_DST | U::COPY_SRC)
    }

    /// A storage buffer holding `words`.
    pub fn storage_with<T: bytemuck::Pod>(&self, label: &str, words: &[T]) -> wgpu::Buffer {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let buffer = self.storage(label, bytes.len().div_ceil(4));
        self.queue.write_buffer(&buffer, 0, bytes);
        buffer
    }

    /// The first `n_values` of a buffer made with `MAP_READ`, once all submitted work is done.
    ///
    /// Blocks natively; in a page it yields to the event loop.
    ///
    /// # Errors
    /// [`GpuError::Readback`], or an earlier fault of the device.
    pub async fn read_f32(&self, staging: &wgpu::Buffer, n_values: usize) -> Result<Vec<f32>, GpuError> {
        self.check()?;
        if n_values == 0 {
            return Ok(Vec::new());
        }
        let slice = staging.slice(..n_values as u64 * 4);
        let mapped = Mapped::default();
        let done = mapped.clone();
        slice.map_async(wgpu::MapMode::Read, move |result| done.set(result.map_err(|e| e.to_string())));
        let mut unmap = UnmapOnDrop(Some(staging));
        // in a page this returns at once and the browser calls back
        if let Err(e) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            return Err(GpuError::Readback { reason: e.to_string() });
        }
        if let Err(reason) = mapped.await {
            unmap.0 = None;
            self.check()?;
            return Err(GpuError::Readback { reason });
        }
        let view = slice.get_mapped_range().map_err(|e| GpuError::Readback { reason: e.to_string() })?;
        // copied as bytes: the mapping need not be aligned to f32
        let mut values = vec![0.0f32; n_values];
        bytemuck::cast_slice_mut::<f32, u8>(&mut values).copy_from_slice(&view);
        Ok(values)
    }
}

/// Gives the buffer back to the GPU, also where the caller stops waiting half-way.
struct UnmapOnDrop<'a>(Option<&'a wgpu::Buffer>);

impl Drop for UnmapOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.0 {
            buffer.unmap();
        }
    }
}

fn note(fault: &Mutex<Option<GpuError>>, error: GpuError) {
    fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
}

fn described(what: &str, error: &wgpu::Error) -> GpuError {
    match error {
        wgpu::Error::OutOfMemory { .. } => GpuError::OutOfMemory { what: what.to_owned() },
        other => GpuError::Rejected { what: what.to_owned(), reason: other.to_string() },
    }
}

type MapResult = Result<(), String>;

/// How long a native caller waits for a callback that another thread's poll is about to make.
const CALLBACK_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// Resolves once the map callback has been called.
#[derive(Default, Clone)]
struct Mapped(Arc<(Mutex<(Option<MapResult>, Option<Waker>)>, Condvar)>);

impl Mapped {
    fn set(&self, result: MapResult) {
        let (state, called) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = Some(result);
        called.notify_all();
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }
}

impl Future for Mapped {
    type Output = MapResult;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<MapResult> {
        let (state, called) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if cfg!(not(target_arch = "wasm32")) {
            // the device has done the work; where two threads polled it, the other one may still be on its way to our
            // callback
            let waited = called.wait_timeout_while(state, CALLBACK_WAIT, |(result, _)| result.is_none());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match state.0.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
