//! Q6_K: blocks against the package gguf, and files whose matrices are in it.

use super::*;
use crate::config::OUTPUT;

const EMBEDDING: &str = "model.embed_tokens.weight";
const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";

/// What the package gguf says, written by `tests/fixture/q6_k.py`.
#[derive(serde::Deserialize)]
struct Reference {
    #[serde(rename = "type")]
    type_id: u32,
    block_values: usize,
    block_bytes: usize,
    /// Bytes of each block.
    blocks: Vec<Vec<u8>>,
    /// Values of each block.
    values: Vec<Vec<f32>>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../../../tests/fixture/q6_k.json")).unwrap()
}

/// So many rows out of whole blocks.
fn read(bytes: &[u8], rows: usize) -> Result<Matrix, GgufError> {
    let cols = bytes.len() / 210 * 256 / rows;
    block::matrix_from_bytes("t", TensorKind::Q6_K, (rows, cols), bytes, &|row| row)
}

/// A policy of one layer whose rows are one block, but for the projections back; all in 4 bits.
fn wide(tied_embedding: bool) -> Checkpoint {
    let model = ModelConfig { vocab_size: 300, d_model: 256, n_layers: 1, tied_embedding, ..Preset::Tiny.model() };
    checkpoint_of(&model, BlockFormat::Q4)
}

/// The policy's file with one tensor in 6 bits, of so many rows: the blocks of the reference in turn.
fn file_of(checkpoint: &Checkpoint, name: &str, n_rows: usize) -> Vec<u8> {
    let blocks = reference().blocks;
    edited_of(&gguf_from_checkpoint(checkpoint).unwrap(), |_, tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        tensor.kind = TensorKind::Q6_K;
        tensor.shape[0] = n_rows;
        tensor.bytes = blocks.iter().cycle().take(n_rows).flatten().copied().collect();
    })
}

/// Values of that tensor, where our row is row `source(row)` of the file.
fn values_of(n_rows: usize, source: &dyn Fn(usize) -> usize) -> DenseTensor {
    let values = reference().values;
    let data = (0..n_rows).flat_map(|row| values[source(row) % values.len()].clone()).collect();
    DenseTensor::new(vec![n_rows, 256], data)
}

#[test]
fn blocks_hold_what_the_package_gguf_says() {
    let reference = reference();
    let kind = TensorKind::from_id(reference.type_id).unwrap();
    assert_eq!((kind, kind.id(), kind.name()), (TensorKind::Q6_K, reference.type_id, "Q6_K"));
    assert_eq!((kind.block_values(), kind.block_bytes()), (reference.block_values, reference.block_bytes));
    let (bytes, values) = (reference.blocks.concat(), reference.values.concat());
    for rows in [1, 3] {
        let matrix = read(&bytes, rows).unwrap();
        assert_eq!((matrix.format, matrix.rows), (BlockFormat::F32, rows));
        assert_eq!(matrix.to_dense().data, values);
    }
}

#[test]
fn every_bit_of_a_block_changes_what_it_stands_for() {
    // quants 0 (which mean -32), scales 1 to 16, d = 1/2: no value is 0, and no bit makes d infinite
    let mut bytes = [0u8; 210];
    for (place, scale) in bytes[192..208].iter_mut().zip(1..) {
        *place = scale;
    }
    bytes[208..].copy_from_slice(&f16_from_f32(0.5).to_le_bytes());
    let before = read(&bytes, 1).unwrap().to_dense().data;
    assert_eq!(before, (0..256).map(|i| -16.0 * (i / 16 + 1) as f32).collect::<Vec<f32>>());
    for bit in 0..210 * 8 {
        let mut other = bytes;
        other[bit / 8] ^= 1 << (bit % 8);
        let after = read(&other, 1).unwrap().to_dense().data;
        let n_changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        let want = match bit / 8 {
            0..192 => 1,
            192..208 => 16,
            _ => 256,
        };
        assert_eq!(n_changed, want, "bit {bit}");
    }
}

#[test]
fn a_matrix_in_six_bits_is_imported_plain_or_in_8_bits_but_never_in_4() {
    for (tied, in_file, name, n_rows) in [
        (false, "output.weight", OUTPUT, 300),
        (true, "token_embd.weight", EMBEDDING, 300),
        (true, "blk.0.attn_q.weight", QUERY, 64),
    ] {
        let checkpoint = wide(tied);
        let file = file_of(&checkpoint, in_file, n_rows);
        let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
        let values = values_of(n_rows, &|row| if name == QUERY { source_row(row, 16) } else { row });
        let packed = |format| Matrix::from_dense(&values, format).unwrap();
        for (plain_format, ours) in [
            (BlockFormat::F32, BlockFormat::F32),
            (BlockFormat::Q8, BlockFormat::Q8),
            (BlockFormat::Q4, BlockFormat::Q8),
        ] {
            let options = ImportOptions { plain_format, ..ImportOptions::default() };
            let policy = beckon_shaders::ready(read_policy(&gguf, options, &mut &file[..], &|_| {})).unwrap().unwrap();
            assert_eq!((policy.config.tied_embedding, policy.matrices.len()), (tied, checkpoint.tensors.len()));
            assert!(policy.matrices[name] == packed(ours), "{name} where plain is {plain_format:?}");
            for (other, matrix) in policy.matrices.iter().filter(|(other, _)| *other != name) {
                assert!(*matrix == checkpoint.tensors[&format!("policy.{other}")], "{other} beside {name}");
            }
        }
        let page = beckon_shaders::ready(checkpoint_of_page(&mut &file[..], &|_| {})).unwrap().unwrap();
        assert!(page.tensors[&format!("policy.{name}")] == packed(BlockFormat::Q8), "{name} in the page");
        let file_of_ours = import(&file).unwrap().encode().unwrap();
        let again = Checkpoint::decode(&file_of_ours).unwrap();
        assert!(again.tensors[&format!("policy.{name}")] == packed(BlockFormat::F32), "{name} in a checkpoint");
    }
}

/// 4 MiB of values are 4,096 rows of one block: 860,160 bytes of the file.
#[test]
fn a_long_matrix_is_spread_part_by_part() {
    const N_ROWS: usize = 12_001;
    let mut file = file_of(&wide(true), "token_embd.weight", N_ROWS);
    let mut watched = Watched { file: &file, longest: 0, fails_at: u64::MAX };
    let read = beckon_shaders::ready(checkpoint_of_page(&mut watched, &|_| {})).unwrap().unwrap();
    assert_eq!(watched.longest, 860_160);
    let want = Matrix::from_dense(&values_of(N_ROWS, &|row| row), BlockFormat::Q8).unwrap();
    assert!(read.tensors[&format!("policy.{EMBEDDING}")] == want, "other weights");
    // a scale that is not finite, in the second part
    let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
    let scale = gguf.tensors["token_embd.weight"].start as usize + 5000 * 210 + 208;
    file[scale..scale + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    let error = import(&file).unwrap_err().to_string();
    assert!(error.contains("token_embd.weight, block 5000") && error.contains("not finite"), "{error}");
}

#[test]
fn broken_rows_and_lying_sizes_are_refused() {
    let name = "output.weight"; // two dimensions: u32, two u64 (columns first), type u32, offset u64
    let file = file_of(&wide(false), name, 300);
    let forge = |at: usize, value: u64| {
        let mut file = file.clone();
        let from = entry(&file, name) + at;
        file[from..from + 8].copy_from_slice(&value.to_le_bytes());
        Gguf::parse(&file, file.len() as u64).unwrap_err().to_string()
    };
    for cols in [255, 257, 128, 32] {
        let says = forge(4, cols);
        let want = format!("tensor output.weight: shape [300, {cols}] cannot be Q6_K: rows are whole blocks of 256");
        assert!(says.contains(&want), "{says}");
    }
    let one_more = forge(12, 301);
    assert!(one_more.contains("within tensor output.weight"), "{one_more}");
    let many = forge(12, 1 << 33);
    assert!(many.contains("output.weight takes 1803886264320 bytes") && many.contains("the file ends"), "{many}");
    let overflow = forge(12, 1 << 60);
    assert!(overflow.contains(name) && overflow.contains("fits 64 bits"), "{overflow}");
    let far = forge(24, 1 << 40);
    assert!(far.contains("output.weight takes 63000 bytes") && far.contains("the file ends"), "{far}");
    // bytes that do not fill whole blocks
    let reference = reference();
    let bytes = &reference.blocks[0][1..];
    let error = block::matrix_from_bytes("t", TensorKind::Q6_K, (1, 256), bytes, &|row| row).unwrap_err().to_string();
    assert!(error.contains("takes 210 bytes, 209 were given"), "{error}");
}
