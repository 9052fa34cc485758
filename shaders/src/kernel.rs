//! Compiling a kernel, binding its buffers and recording its dispatches.
//!
//! Binding 0 of every kernel is its parameters, a uniform with a dynamic offset; the storage buffers
//! follow in the order of [`KernelSpec::bindings`]. All dispatches of a pass take their parameters from
//! one buffer, written once.

use crate::context::{GpuContext, GpuError};
use std::borrow::Cow;
use std::num::NonZeroU64;

/// WebGPU's limit on workgroups in one dimension of a dispatch.
pub const MAX_WORKGROUPS: u32 = 65_535;
/// WebGPU's default alignment of dynamic uniform offsets.
pub const PARAMS_ALIGNMENT: usize = 256;

/// How a kernel uses a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
}

/// A kernel as written: its source and what it binds.
#[derive(Debug, Clone)]
pub struct KernelSpec {
    /// File name without extension; the twin has the same name.
    pub name: &'static str,
    /// WGSL.
    pub source: Cow<'static, str>,
    /// Storage buffers from binding 1 on.
    pub bindings: &'static [Access],
    /// Bytes of the parameters.
    pub params_bytes: usize,
}

/// A compiled kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    name: &'static str,
    params_bytes: usize,
    n_bindings: usize,
    layout: wgpu::BindGroupLayout,
    pipeline: wgpu::ComputePipeline,
}

impl Kernel {
    /// Compiles one kernel once per set of override constants; bind groups fit all of them.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] with the compiler's message.
    pub async fn compile(
        gpu: &GpuContext,
        spec: &KernelSpec,
        variants: &[&[(&str, f64)]],
    ) -> Result<Vec<Self>, GpuError> {
        let device = &gpu.device;
        let (layout, pipeline_layout, module) = gpu
            .guarded(spec.name, || {
                let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                    label: Some(spec.name),
                    entries: &layout_entries(spec),
                });
                let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                    label: Some(spec.name),
                    bind_group_layouts: &[Some(&layout)],
                    immediate_size: 0,
                });
                let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                    label: Some(spec.name),
                    source: wgpu::ShaderSource::Wgsl(Cow::Borrowed(&spec.source)),
                });
                (layout, pipeline_layout, module)
            })
            .await?;
        let mut kernels = Vec::with_capacity(variants.len());
        for constants in variants {
            let pipeline = gpu
                .guarded(spec.name, || {
                    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                        label: Some(spec.name),
                        layout: Some(&pipeline_layout),
                        module: &module,
                        entry_point: Some("main"),
                        compilation_options: wgpu::PipelineCompilationOptions {
                            constants,
                            // every kernel writes its workgroup memory before it reads it
                            zero_initialize_workgroup_memory: false,
                        },
                        cache: None,
                    })
                })
                .await?;
            kernels.push(Self {
                name: spec.name,
                params_bytes: spec.params_bytes,
                n_bindings: spec.bindings.len(),
                layout: layout.clone(),
                pipeline,
            });
        }
        Ok(kernels)
    }

    /// Binds `params` (see [`Recorder`]) and the storage buffers in the order of the specification.
    ///
    /// # Panics
    /// If the number of buffers is not the kernel's.
    pub fn bind(&self, gpu: &GpuContext, params: &wgpu::Buffer, storage: &[&wgpu::Buffer]) -> wgpu::BindGroup {
        assert_eq!(storage.len(), self.n_bindings, "storage buffers of {}", self.name);
        let params = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: params,
            offset: 0,
            size: NonZeroU64::new(self.params_bytes as u64),
        });
        let resources = std::iter::once(params).chain(storage.iter().map(|b| b.as_entire_binding()));
        let entries: Vec<_> =
            resources.enumerate().map(|(i, resource)| wgpu::BindGroupEntry { binding: i as u32, resource }).collect();
        gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.name),
            layout: &self.layout,
            entries: &entries,
        })
    }
}

fn layout_entries(spec: &KernelSpec) -> Vec<wgpu::BindGroupLayoutEntry> {
    let entry = |binding, ty, has_dynamic_offset, min_bytes| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: NonZeroU64::new(min_bytes) },
        count: None,
    };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true, spec.params_bytes as u64)];
    for (i, access) in spec.bindings.iter().enumerate() {
        let ty = wgpu::BufferBindingType::Storage { read_only: *access == Access::Read };
        entries.push(entry(i as u32 + 1, ty, false, 0));
    }
    entries
}

/// Records dispatches into a compute pass and gathers their parameters.
#[derive(Debug)]
pub struct Recorder<'a> {
    pass: wgpu::ComputePass<'a>,
    params: Vec<u8>,
}

impl<'a> Recorder<'a> {
    /// Starts a pass; `params` is an emptied buffer to gather into.
    pub fn new(encoder: &'a mut wgpu::CommandEncoder, mut params: Vec<u8>) -> Self {
        params.clear();
        Self { pass: encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), params }
    }

    /// Adds a dispatch; nothing is recorded where any extent is 0.
    ///
    /// # Panics
    /// If `params` are not the kernel's, or an extent is above [`MAX_WORKGROUPS`].
    pub fn dispatch<P: bytemuck::Pod>(
        &mut self,
        kernel: &Kernel,
        group: &wgpu::BindGroup,
        params: &P,
        [x, y]: [u32; 2],
    ) {
        assert_eq!(size_of::<P>(), kernel.params_bytes, "parameters of {}", kernel.name);
        assert!(x <= MAX_WORKGROUPS && y <= MAX_WORKGROUPS, "{x} x {y} workgroups of {}", kernel.name);
        if x == 0 || y == 0 {
            return;
        }
        let offset = self.params.len();
        self.params.extend_from_slice(bytemuck::bytes_of(params));
        self.params.resize(self.params.len().next_multiple_of(PARAMS_ALIGNMENT), 0);
        self.pass.set_pipeline(&kernel.pipeline);
        self.pass.set_bind_group(0, group, &[offset as u32]);
        self.pass.dispatch_workgroups(x, y, 1);
    }

    /// Ends the pass; the bytes must be in the bound parameter buffer before the submit.
    pub fn finish(self) -> Vec<u8> {
        self.params
    }
}
