//! A network's weights by role, taken from tensors by name.

use super::EngineError;
use crate::config::{ModelConfig, OUTPUT};
use crate::quant::{BlockFormat, Matrix};
use crate::tensor::DenseTensor;
use beckon_shaders::{WeightFormat, WeightView};

/// Weights of policy or reward model, matrices in the form M that an executor computes with. Dimension key as
/// in [`crate::config`].
#[derive(Debug)]
pub(super) struct Weights<M = Matrix> {
    /// `[V, D]`.
    pub embedding: M,
    /// `[V, D]`; without it the embedding makes the logits.
    pub output: Option<M>,
    pub layers: Vec<Layer<M>>,
    /// Final norm `[D]`.
    pub norm: Vec<f32>,
}

/// One block of the trunk.
#[derive(Debug)]
pub(super) struct Layer<M = Matrix> {
    /// `[D]`.
    pub attention_norm: Vec<f32>,
    /// Together `[(H + 2 G) K, D]`.
    pub qkv: Vec<Part<M>>,
    /// `[D, H K]`.
    pub output: M,
    /// `[D]`.
    pub mlp_norm: Vec<f32>,
    /// Together `[2 F, D]`.
    pub gate_up: Vec<Part<M>>,
    /// `[D, F]`.
    pub down: M,
}

/// Some of the outputs of a linear layer.
#[derive(Debug)]
pub(super) struct Part<M = Matrix> {
    pub first_output: usize,
    pub matrix: M,
}

impl Weights {
    /// Gathers them; `take` gives a matrix by its name of [`crate::config::tensor_names`].
    ///
    /// # Errors
    /// What `take` says, or [`EngineError::Shape`].
    pub fn gather(
        config: &ModelConfig,
        mut take: impl FnMut(&str) -> Result<Matrix, EngineError>,
    ) -> Result<Self, EngineError> {
        let (d, q, kv) = (config.d_model, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let mut matrix = |name: &str, rows: usize, cols: usize| {
            let matrix = take(name)?;
            if (matrix.rows, matrix.cols) == (rows, cols) {
                Ok(matrix)
            } else {
                let got = (matrix.rows, matrix.cols);
                Err(EngineError::Shape { name: name.to_owned(), got, want: (rows, cols) })
            }
        };
        let embedding = matrix("model.embed_tokens.weight", config.vocab_size, d)?;
        let mut layers = Vec::with_capacity(config.n_layers);
        for i in 0..config.n_layers {
            let mut own = |name: &str, rows, cols| matrix(&format!("model.layers.{i}.{name}.weight"), rows, cols);
            layers.push(Layer {
                attention_norm: own("input_layernorm", 1, d)?.to_dense().data,
                qkv: stacked(vec![
                    own("self_attn.q_proj", q, d)?,
                    own("self_attn.k_proj", kv, d)?,
                    own("self_attn.v_proj", kv, d)?,
                ]),
                output: own("self_attn.o_proj", d, q)?,
                mlp_norm: own("post_attention_layernorm", 1, d)?.to_dense().data,
                gate_up: stacked(vec![own("mlp.gate_proj", config.d_ff, d)?, own("mlp.up_proj", config.d_ff, d)?]),
                down: own("mlp.down_proj", d, config.d_ff)?,
            });
        }
        let norm = matrix("model.norm.weight", 1, d)?.to_dense().data;
        let output = if config.tied_embedding { None } else { Some(matrix(OUTPUT, config.vocab_size, d)?) };
        Ok(Self { embedding, output, layers, norm })
    }

    /// Every matrix.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        std::iter::once(&self.embedding).chain(&self.output).chain(self.layers.iter().flat_map(Layer::matrices))
    }

    /// The same weights with every matrix in another form.
    pub fn map<M>(self, mut to: impl FnMut(Matrix) -> M) -> Weights<M> {
        let (embedding, output) = (to(self.embedding), self.output.map(&mut to));
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in self.layers {
            let Layer { attention_norm, qkv, output, mlp_norm, gate_up, down } = layer;
            let mut parts = |parts: Vec<Part>| -> Vec<Part<M>> {
                let part = |Part { first_output, matrix }| Part { first_output, matrix: to(matrix) };
                parts.into_iter().map(part).collect()
            };
            let (qkv, gate_up) = (parts(qkv), parts(gate_up));
            layers.push(Layer { attention_norm, qkv, output: to(output), mlp_norm, gate_up, down: to(down) });
        }
        Weights { embedding, output, layers, norm: self.norm }
    }

    /// The same weights as plain f32 where that takes at most `max_bytes`; the CPU then decodes nothing
    /// during a pass. The values, and so the results, are the same to the bit.
    pub fn plain_up_to(mut self, max_bytes: usize) -> Self {
        let n_bytes: usize = self.matrices().map(|m| m.rows * m.cols * size_of::<f32>()).sum();
        if n_bytes <= max_bytes {
            make_plain(&mut self.embedding);
            self.output.iter_mut().for_each(make_plain);
            for layer in &mut self.layers {
                layer.qkv.iter_mut().chain(&mut layer.gate_up).for_each(|part| make_plain(&mut part.matrix));
                make_plain(&mut layer.output);
                make_plain(&mut layer.down);
            }
        }
        self
    }
}

impl<M> Weights<M> {
    /// What makes logits of hidden states, `[V, D]`.
    pub fn projection(&self) -> &M {
        self.output.as_ref().unwrap_or(&self.embedding)
    }
}

fn make_plain(matrix: &mut Matrix) {
    if matrix.format != BlockFormat::F32 {
        let quants = matrix.to_dense().data.into_iter().map(f32::to_bits).collect();
        let (rows, cols) = (matrix.rows, matrix.cols);
        *matrix = Matrix { rows, cols, format: BlockFormat::F32, quants, scales: Vec::new() };
    }
}

impl Layer {
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let parts = self.qkv.iter().chain(&self.gate_up).map(|part| &part.matrix);
        parts.chain([&self.output, &self.down])
    }
}

/// Matrices with the same input on top of each other: one product instead of several. Neighbours of
/// different formats stay apart.
fn stacked(matrices: Vec<Matrix>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut first_output = 0;
    for matrix in matrices {
        let rows = matrix.rows;
        match parts.last_mut() {
            // Q8 scales come two a word: a matrix with an odd number of blocks ends within one
            Some(Part { matrix: above, .. })
                if above.format == matrix.format && (above.rows * above.cols).is_multiple_of(64) =>
            {
                above.rows += rows;
                above.quants.extend(matrix.quants);
                above.scales.extend(matrix.scales);
            }
            _ => parts.push(Part { first_output, matrix }),
        }
        first_output += rows;
    }
    parts
}

/// A dense tensor as a plain matrix; a vector becomes one row.
pub(super) fn plain_matrix(name: &str, tensor: &DenseTensor) -> Result<Matrix, EngineError> {
    Matrix::from_dense(tensor, BlockFormat::F32).map_err(|source| EngineError::Tensor { name: name.to_owned(), source })
}

/// The kernels' view of a matrix.
pub(super) fn view(matrix: &Matrix) -> WeightView<'_> {
    let Matrix { rows, cols, format, quants, scales } = matrix;
    WeightView { format: kernel_format(*format), rows: *rows, cols: *cols, quants, scales }
}

/// The kernels' name of a block format.
pub(super) fn kernel_format(format: BlockFormat) -> WeightFormat {
    match format {
        BlockFormat::F32 => WeightFormat::F32,
        BlockFormat::Q8 => WeightFormat::Q8,
        BlockFormat::Q4 => WeightFormat::Q4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, seed: usize, format: BlockFormat) -> Matrix {
        let data = (0..rows * 32).map(|i| ((i * 37 + seed * 11) % 19) as f32 - 9.0).collect();
        Matrix::from_dense(&DenseTensor::new(vec![rows, 32], data), format).unwrap()
    }

    #[test]
    fn stacked_matrices_hold_the_same_rows() {
        for format in [BlockFormat::F32, BlockFormat::Q8, BlockFormat::Q4] {
            let parts = stacked(vec![matrix(4, 1, format), matrix(2, 2, format)]);
            assert_eq!((parts.len(), parts[0].first_output), (1, 0));
            let want = [matrix(4, 1, format).to_dense().data, matrix(2, 2, format).to_dense().data].concat();
            assert_eq!(parts[0].matrix.to_dense().data, want, "{format:?}");
        }
    }

    #[test]
    fn what_cannot_be_stacked_stays_apart() {
        let formats = [BlockFormat::Q8, BlockFormat::Q4];
        let parts = stacked(formats.map(|f| matrix(4, 1, f)).to_vec());
        assert_eq!(parts.iter().map(|p| p.first_output).collect::<Vec<_>>(), [0, 4]);
        let odd = stacked(vec![matrix(3, 1, BlockFormat::Q8), matrix(2, 1, BlockFormat::Q8)]);
        assert_eq!(odd.iter().map(|p| p.first_output).collect::<Vec<_>>(), [0, 3]);
    }
}
