//! Which variants of its kernels an executor runs: those that a short measurement on the adapter finds faster.

use super::{Forward, GpuExecutor, GpuNetwork};
use crate::engine::EngineError;
use beckon_shaders::kernels::attention::Span;
use beckon_shaders::kernels::product::Tiling;
use beckon_shaders::kernels::{VARIED, attention};
use beckon_shaders::{KernelSpec, Kernels, Recorder, Variant, WeightFormat};

/// Rounds of a measurement; the fastest counts, as everything that disturbs makes it slower.
const N_ROUNDS: usize = 3;
/// Seconds of a round, about; long beside the clock of a browser (0.1 ms).
const ROUND_SECS: f64 = 2e-3;
/// Dispatches of a round at most.
const MAX_DISPATCHES: usize = 16;
/// What a variant has to win, so that noise does not choose.
const LEAST_GAIN: f64 = 1.05;
/// Tokens that the measured attention looks at: of the prompt, and of the candidate.
const MEASURED_SPAN: [usize; 2] = [64, 8];

/// The variant of each of [`VARIED`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variants([Variant; VARIED.len()]);

impl Variants {
    /// Those that the name of a device lists, as [`Display`](std::fmt::Display) writes them.
    fn of_device(name: &str) -> Self {
        let of_kernel = |spec: &KernelSpec| {
            let is_named = |variant: &Variant| name.split(", ").any(|part| part == written(spec, *variant));
            spec.variants().find(is_named).unwrap_or_default()
        };
        Self(VARIED.map(of_kernel))
    }
}

impl std::fmt::Display for Variants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::default() {
            return f.write_str("plain kernels");
        }
        let mut before = "";
        for (spec, variant) in VARIED.iter().zip(self.0).filter(|(_, variant)| *variant != Variant::PLAIN) {
            write!(f, "{before}{}", written(spec, variant))?;
            before = ", ";
        }
        Ok(())
    }
}

/// A kernel in a variant, in words.
fn written(spec: &KernelSpec, variant: Variant) -> String {
    format!("{} with {variant}", spec.name)
}

impl GpuExecutor {
    /// Variants of the kernels.
    pub fn variants(&self) -> &Variants {
        &self.variants
    }

    /// As [`crate::engine::Engine::set_variant`].
    pub(in crate::engine) async fn set_variant(&mut self, variant: Variant) -> Result<bool, EngineError> {
        self.set_variants(Variants(VARIED.map(|spec| spec.reduced(variant)))).await
    }

    /// As [`crate::engine::Engine::set_variants_of`].
    pub(in crate::engine) async fn set_variants_of(&mut self, device_name: &str) -> Result<bool, EngineError> {
        self.set_variants(Variants::of_device(device_name)).await
    }

    async fn set_variants(&mut self, variants: Variants) -> Result<bool, EngineError> {
        if variants == Variants::default() && self.variants == variants {
            return Ok(true);
        }
        let of_kernels: Vec<_> = VARIED.into_iter().zip(variants.0).collect();
        if !of_kernels.iter().all(|(spec, variant)| self.has(spec, *variant)) {
            return Ok(false);
        }
        let mut kernels = self.kernels.clone();
        for (spec, variant) in of_kernels {
            kernels.set_variant(&self.gpu, (spec.name, variant), None).await?;
        }
        (self.variants, self.kernels) = (variants, kernels);
        Ok(true)
    }

    /// As [`crate::engine::Engine::choose_variants`].
    pub(in crate::engine) async fn choose_variants(&mut self, clock: &dyn Fn() -> f64) -> Result<bool, EngineError> {
        self.set_variant(Variant::PLAIN).await?;
        for (i, spec) in VARIED.into_iter().enumerate() {
            let mut sides = vec![(Variant::PLAIN, self.kernels.clone())];
            let only = self.format(spec).map(|format| (format, self.limits.n_seqs));
            for variant in spec.variants() {
                // an output of one lane has nothing to add up
                let gains = !variant.subgroups || self.n_lanes(spec) != Some(1);
                let mut kernels = self.kernels.clone();
                if gains
                    && self.has(spec, variant)
                    && kernels.set_variant(&self.gpu, (spec.name, variant), only).await.is_ok()
                {
                    sides.push((variant, kernels));
                }
            }
            if sides.len() > 1 {
                let variant = self.fastest(spec, &sides, clock).await?;
                if variant != Variant::PLAIN {
                    self.kernels.set_variant(&self.gpu, (spec.name, variant), None).await?;
                }
                self.variants.0[i] = variant;
            }
        }
        Ok(self.variants != Variants::default())
    }

    /// Of the kernel in each variant, the plain one first, the fastest with the rows of one batch in the policy's first layer.
    async fn fastest(
        &self,
        spec: &KernelSpec,
        sides: &[(Variant, Kernels)],
        clock: &dyn Fn() -> f64,
    ) -> Result<Variant, EngineError> {
        let [n_shared, n_own] = MEASURED_SPAN;
        let span = |seq: usize| Span {
            shared_end: n_shared.min(self.limits.prompt_tokens) as u32,
            own_start: (self.limits.prompt_tokens + seq * self.limits.suffix_tokens) as u32,
            own_len: n_own.min(self.limits.suffix_tokens) as u32,
            pad: 0,
        };
        let spans: Vec<Span> = (0..self.limits.n_seqs).map(span).collect();
        self.gpu.queue.write_buffer(&self.buffers.spans, 0, bytemuck::cast_slice(&spans));
        let mut secs = vec![f64::INFINITY; sides.len()];
        let mut n_times = 1;
        for round in 0..=N_ROUNDS {
            for ((_, kernels), best) in sides.iter().zip(&mut secs) {
                let taken = self.time(spec, kernels, n_times, clock).await?;
                // the first round warms up, and the second says how many fit
                if round > 0 {
                    *best = best.min(taken / n_times as f64);
                }
            }
            if round == 0 {
                let once = self.time(spec, &sides[0].1, 1, clock).await?;
                n_times = (ROUND_SECS / once.max(1e-6)).clamp(1.0, MAX_DISPATCHES as f64) as usize;
            }
        }
        let mut best = 0;
        for i in 1..sides.len() {
            if secs[i] * LEAST_GAIN < secs[0] && (best == 0 || secs[i] < secs[best]) {
                best = i;
            }
        }
        Ok(sides[best].0)
    }

    /// Seconds of `n_times` dispatches of a kernel, with the way to the device and back.
    async fn time(
        &self,
        spec: &KernelSpec,
        kernels: &Kernels,
        n_times: usize,
        clock: &dyn Fn() -> f64,
    ) -> Result<f64, EngineError> {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let params = {
            let recorder = Recorder::new(&mut encoder, Vec::new());
            let mut forward = Forward { recorder, kernels, config: &self.config };
            for _ in 0..n_times {
                forward.alone(spec, &self.policy, self.limits.n_seqs as u32);
            }
            forward.recorder.finish()
        };
        self.gpu.queue.write_buffer(&self.buffers.params, 0, &params);
        encoder.copy_buffer_to_buffer(&self.buffers.x, 0, &self.buffers.readback, 0, 4);
        let begun = clock();
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.read_f32(&self.buffers.readback, 1).await?;
        Ok(clock() - begun)
    }

    fn has(&self, spec: &KernelSpec, variant: Variant) -> bool {
        self.gpu.has(variant, self.n_lanes(spec).unwrap_or(1))
    }

    /// Of a product's matrix in the policy's first layer.
    fn format(&self, spec: &KernelSpec) -> Option<WeightFormat> {
        let layer = self.policy.layers.first()?;
        match spec.name {
            "norm_matmul" => Some(layer.qkv.format),
            "norm_gate_up" => Some(layer.gate_up.format),
            "matmul" => Some(layer.down.format),
            _ => None,
        }
    }

    /// Invocations that share an output of a product.
    fn n_lanes(&self, spec: &KernelSpec) -> Option<u32> {
        (spec.name != attention::SPEC.name).then(|| Tiling::for_adapter(self.gpu.is_software())[0].lanes)
    }
}

impl Forward<'_> {
    /// A kernel's dispatch in a network's first layer.
    fn alone(&mut self, spec: &KernelSpec, network: &GpuNetwork, n_rows: u32) {
        for layer in network.layers.iter().take(1) {
            match spec.name {
                "attention" => self.attention(&layer.attention, n_rows),
                "norm_matmul" => self.norm_matmul(&layer.qkv, n_rows),
                "norm_gate_up" => self.norm_gate_up(&layer.gate_up, n_rows),
                _ => self.matmul(&layer.down, n_rows, true),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_read_from_a_name_as_they_are_written() {
        let f16 = Variant { f16: true, subgroups: false };
        let of = |variant: Variant| Variants(VARIED.map(|spec| spec.reduced(variant)));
        // attention has no f16; a name that is a part of another is not taken for it
        let some = Variants([Variant::PLAIN, Variant::PLAIN, f16, f16]);
        for variants in Variant::ALL.map(of).into_iter().chain([some]) {
            assert_eq!(Variants::of_device(&format!("Some, Inc. GPU (Vulkan), {variants}")), variants, "{variants}");
        }
        assert_eq!(Variants::of_device("Some, Inc. GPU (Vulkan)"), Variants::default());
    }
}
