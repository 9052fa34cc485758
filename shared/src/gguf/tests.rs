mod q6_k;
mod untied;

use super::llama::{
    ImportOptions, checkpoint_from_gguf, checkpoint_of_page, file_row, gguf_from_checkpoint, read_policy, source_row,
};
use super::*;
use crate::checkpoint::{Checkpoint, Lineage, PolicyParts};
use crate::config::{ModelConfig, Preset, RopeScaling, tensor_names};
use crate::prompt::Prompt;
use crate::quant::{BlockFormat, Matrix, f16_from_f32, f32_from_f16};
use crate::tensor::DenseTensor;
use crate::tokenizer::Tokenizer;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn lineage() -> Lineage {
    Lineage { device: "cpu".into(), ..Lineage::default() }
}

/// A small policy of our own, its matrices in `format`.
fn checkpoint(format: BlockFormat) -> Checkpoint {
    checkpoint_of(&ModelConfig { vocab_size: 300, ..Preset::Tiny.model() }, format)
}

fn checkpoint_of(model: &ModelConfig, format: BlockFormat) -> Checkpoint {
    let tokenizer = Tokenizer::train(["how to cook rice", "how to cook brown rice"], 300).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut policy = BTreeMap::new();
    for (name, shape) in tensor_names(model) {
        let data = (0..shape.iter().product()).map(|_| rng.random_range(-0.3f32..0.3)).collect();
        let format = if shape.len() == 1 { BlockFormat::F32 } else { format };
        policy.insert(name, Matrix::from_dense(&DenseTensor::new(shape, data), format).unwrap());
    }
    let parts = PolicyParts { name: "tiny".into(), model, lineage: lineage(), tokenizer: &tokenizer };
    Checkpoint::from_policy(parts, policy).unwrap()
}

fn file() -> Vec<u8> {
    gguf_from_checkpoint(&checkpoint(BlockFormat::Q4)).unwrap()
}

fn import(file: &[u8]) -> Result<Checkpoint, GgufError> {
    checkpoint_from_gguf(file, ImportOptions::default(), None, lineage())
}

/// The file with its metadata and tensors changed, written anew.
fn edited(edit: impl FnOnce(&mut BTreeMap<String, Value>, &mut Vec<NewTensor>)) -> Vec<u8> {
    edited_of(&file(), edit)
}

fn edited_of(file: &[u8], edit: impl FnOnce(&mut BTreeMap<String, Value>, &mut Vec<NewTensor>)) -> Vec<u8> {
    let gguf = Gguf::parse(file, file.len() as u64).unwrap();
    let tensor = |info: &TensorInfo| {
        let bytes = file[info.start as usize..info.range().end as usize].to_vec();
        NewTensor { name: info.name.clone(), shape: info.shape.clone(), kind: info.kind, bytes }
    };
    let mut tensors = gguf.tensors.values().map(tensor).collect();
    let mut metadata = gguf.metadata.clone();
    edit(&mut metadata, &mut tensors);
    encode(&metadata, &tensors).unwrap()
}

/// What importing an edited file says.
#[track_caller]
fn refusal(edit: impl FnOnce(&mut BTreeMap<String, Value>, &mut Vec<NewTensor>)) -> String {
    import(&edited(edit)).expect_err("must be refused").to_string()
}

fn set(key: &str, value: impl Into<Value>) -> impl FnOnce(&mut BTreeMap<String, Value>, &mut Vec<NewTensor>) {
    let (key, value) = (key.to_owned(), value.into());
    move |metadata, _| _ = metadata.insert(key, value)
}

#[test]
fn metadata_of_every_type_come_back() {
    let metadata: BTreeMap<String, Value> = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U32(3),
        Value::I32(-3),
        Value::F32(0.5),
        Value::Bool(true),
        Value::String("text ü".into()),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(-0.25),
        Value::Array(Array::U8(vec![1, 2])),
        Value::Array(Array::I8(vec![-1])),
        Value::Array(Array::U16(vec![7])),
        Value::Array(Array::I16(vec![-7])),
        Value::Array(Array::U32(vec![9])),
        Value::Array(Array::I32(vec![-9, 9])),
        Value::Array(Array::F32(vec![1.5])),
        Value::Array(Array::Bool(vec![true, false])),
        Value::Array(Array::String(vec!["a".into(), String::new()])),
        Value::Array(Array::U64(vec![1])),
        Value::Array(Array::I64(vec![-1])),
        Value::Array(Array::F64(vec![])),
        Value::Array(Array::Array(vec![Array::U8(vec![3]), Array::String(vec!["b".into()])])),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, value)| (format!("key.{i}"), value))
    .collect();
    let tensors = [
        NewTensor { name: "v".into(), shape: vec![3], kind: TensorKind::F32, bytes: vec![1; 12] },
        NewTensor { name: "m".into(), shape: vec![2, 64], kind: TensorKind::Q8_0, bytes: vec![2; 136] },
    ];
    let file = encode(&metadata, &tensors).unwrap();
    let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
    assert_eq!((gguf.version, &gguf.metadata), (3, &metadata));
    for tensor in &tensors {
        let info = &gguf.tensors[&tensor.name];
        assert_eq!((info.kind, &info.shape, info.start % 32), (tensor.kind, &tensor.shape, 0));
        assert_eq!(file[info.start as usize..info.range().end as usize], tensor.bytes);
    }
    assert_eq!(gguf.tensors["m"].rows_and_cols(), (2, 64));
    // version 2 differs in nothing but its number
    let mut second = file.clone();
    second[4] = 2;
    assert_eq!(Gguf::parse(&second, file.len() as u64).unwrap().tensors, gguf.tensors);
}

#[test]
fn blocks_by_hand() {
    let half = |x: f32| f16_from_f32(x).to_le_bytes();
    // nibbles: value i is i & 15 in the low half (0..16), 15 - i in the high half
    let nibbles: Vec<u8> = (0..16u8).map(|i| i | (15 - i) << 4).collect();
    let quants: Vec<f32> = (0..16u8).chain((0..16).rev()).map(f32::from).collect();
    let read = |kind, bytes: &[u8]| block::matrix_from_bytes("t", kind, (1, 32), bytes, &|row| row).unwrap();
    for scale in [0.5, -0.25, 5.960_464_5e-8, 8188.0] {
        let q4_0 = read(TensorKind::Q4_0, &[&half(scale)[..], &nibbles].concat());
        let want: Vec<f32> = quants.iter().map(|q| scale * (q - 8.0)).collect();
        assert_eq!(q4_0.to_dense().data, want, "scale {scale}");
        let q4_1 = read(TensorKind::Q4_1, &[&half(scale)[..], &half(-3.0), &nibbles].concat());
        let want: Vec<f32> = quants.iter().map(|q| q * scale - 3.0).collect();
        assert_eq!(q4_1.to_dense().data, want, "scale {scale}");
    }
    let signed: Vec<u8> = (0..32).map(|i| (i * 8 - 128) as i8 as u8).collect();
    let q8 = read(TensorKind::Q8_0, &[&half(0.5)[..], &signed].concat());
    assert_eq!(q8.to_dense().data, (0..32).map(|i| 0.5 * (i * 8 - 128) as f32).collect::<Vec<_>>());
    let plain: Vec<f32> = (0..32).map(|i| i as f32 - 7.5).collect();
    let f16 = read(TensorKind::F16, &plain.iter().flat_map(|x| half(*x)).collect::<Vec<_>>());
    let bf16 = read(
        TensorKind::BF16,
        &plain.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect::<Vec<_>>(),
    );
    let f32 = read(TensorKind::F32, &plain.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    for matrix in [f16, bf16, f32] {
        assert_eq!((matrix.format, matrix.to_dense().data), (BlockFormat::F32, plain.clone()));
    }
}

#[test]
fn a_scale_that_no_half_can_follow_is_refused_with_its_block() {
    let mut bytes = vec![0; 3 * 18];
    bytes[36..38].copy_from_slice(&f16_from_f32(9000.0).to_le_bytes());
    let read = |kind, bytes: &[u8]| block::matrix_from_bytes("blk.0.x", kind, (3, 32), bytes, &|row| row);
    let error = read(TensorKind::Q4_0, &bytes).unwrap_err().to_string();
    assert!(error.contains("blk.0.x, block 2") && error.contains("9000") && error.contains("8,188"), "{error}");
    bytes[36..38].copy_from_slice(&0x7e00u16.to_le_bytes());
    let error = read(TensorKind::Q4_0, &bytes).unwrap_err().to_string();
    assert!(error.contains("block 2") && error.contains("not finite"), "{error}");
    let error = read(TensorKind::Q4_0, &bytes[1..]).unwrap_err().to_string();
    assert!(error.contains("takes 54 bytes, 53 were given"), "{error}");
}

/// Every pair of scale and nibbles that Q4_0 can hold keeps its values.
#[test]
fn q4_0_is_kept_exactly_for_every_scale() {
    let nibbles: Vec<u8> = (0..16u8).map(|i| i | (15 - i) << 4).collect();
    for bits in 0..=u16::MAX {
        let scale = f32_from_f16(bits);
        let bytes = [&bits.to_le_bytes()[..], &nibbles].concat();
        let read = block::matrix_from_bytes("t", TensorKind::Q4_0, (1, 32), &bytes, &|row| row);
        if scale.is_finite() && scale.abs() <= 8188.0 {
            let values = read.unwrap().to_dense().data;
            assert!((0..16).all(|i| values[i] == scale * (i as f32 - 8.0)), "scale {scale}");
        } else {
            assert!(read.is_err(), "scale {scale}");
        }
    }
}

#[test]
fn rows_of_heads_are_reordered_and_back() {
    // one head of 4: files hold (0, half 0), (0, half 1), (1, half 0), (1, half 1)
    assert_eq!([0, 1, 2, 3].map(|row| source_row(row, 4)), [0, 2, 1, 3]);
    for head_dim in [2, 16, 64] {
        for row in 0..3 * head_dim {
            assert_eq!(file_row(source_row(row, head_dim), head_dim), row);
            assert_eq!(source_row(file_row(row, head_dim), head_dim), row);
        }
    }
}

#[test]
fn a_policy_comes_back_from_its_file_to_the_bit() {
    for format in [BlockFormat::F32, BlockFormat::Q8, BlockFormat::Q4] {
        let checkpoint = checkpoint(format);
        let again = import(&gguf_from_checkpoint(&checkpoint).unwrap()).unwrap();
        assert_eq!(again.tensors, checkpoint.tensors, "{format:?}");
        assert_eq!(again.manifest.model, checkpoint.manifest.model);
        assert_eq!((&again.manifest.reward, again.manifest.format_version), (&None, 2));
        let (a, b) = (again.tokenizer().unwrap(), checkpoint.tokenizer().unwrap());
        let prompt = Prompt::from_query("How to cook BROWN rice? 12");
        assert_eq!(a.encode_prompt(&prompt, 90), b.encode_prompt(&prompt, 90));
    }
    // and it is a checkpoint like any other
    let file = import(&file()).unwrap().encode().unwrap();
    assert_eq!(Checkpoint::decode(&file).unwrap().tensors, checkpoint(BlockFormat::Q4).tensors);
}

#[test]
fn plain_matrices_are_packed_where_asked_for() {
    let file = gguf_from_checkpoint(&checkpoint(BlockFormat::F32)).unwrap();
    let options = ImportOptions { max_seq_len: 64, plain_format: BlockFormat::Q8, ..ImportOptions::default() };
    let packed = checkpoint_from_gguf(&file, options, Some("packed"), lineage()).unwrap();
    assert_eq!(packed.tensors["policy.model.layers.0.mlp.up_proj.weight"].format, BlockFormat::Q8);
    assert_eq!(packed.tensors["policy.model.norm.weight"].format, BlockFormat::F32);
    assert_eq!((packed.manifest.model.max_seq_len, packed.manifest.name.as_str()), (64, "packed"));
}

#[test]
fn a_head_is_enough_and_says_when_it_goes_on() {
    let file = file();
    let n_bytes = file.len() as u64;
    let whole = Gguf::parse(&file, n_bytes).unwrap();
    let mut n_given = 0;
    let mut n_rounds = 0;
    let by_ranges = loop {
        match Gguf::parse(&file[..n_given], n_bytes) {
            Ok(gguf) => break gguf,
            Err(GgufError::HeadGoesOn { want, got, .. }) => {
                assert_eq!(got, n_given as u64);
                assert!(want > got, "each round asks for more");
                n_given = want as usize;
                n_rounds += 1;
            }
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(by_ranges, whole);
    assert!(n_rounds > 100 && n_given as u64 <= whole.data_start);
}

/// A file that remembers the longest range it was asked for, and fails from a byte on.
struct Watched<'a> {
    file: &'a [u8],
    longest: u64,
    fails_at: u64,
}

impl Ranges for Watched<'_> {
    fn n_bytes(&self) -> u64 {
        self.file.len() as u64
    }

    fn read(&mut self, range: std::ops::Range<u64>) -> Bytes<'_> {
        self.longest = self.longest.max(range.end - range.start);
        if range.end > self.fails_at {
            return Box::pin(async move { Err(format!("the disk went away at {range:?}")) });
        }
        self.file.read(range)
    }
}

#[test]
fn the_page_reads_ranges_and_gets_the_weights_of_the_whole_file() {
    let shares = std::cell::RefCell::new(Vec::new());
    let on_share = |share| shares.borrow_mut().push(share);
    for format in [BlockFormat::Q8, BlockFormat::Q4] {
        let checkpoint = checkpoint(format);
        let file = gguf_from_checkpoint(&checkpoint).unwrap();
        let mut watched = Watched { file: &file, longest: 0, fails_at: u64::MAX };
        shares.borrow_mut().clear();
        let read = beckon_shaders::ready(checkpoint_of_page(&mut watched, &on_share)).unwrap().unwrap();
        assert_eq!(read.tensors, checkpoint.tensors);
        assert_eq!(read.tokenizer().unwrap().format(), checkpoint.tokenizer().unwrap().format());
        let shares = shares.borrow();
        assert!(shares.is_sorted() && shares.last() == Some(&1.0), "{shares:?}");
        let mut gone = Watched { file: &file, longest: 0, fails_at: file.len() as u64 - 1 };
        let error = beckon_shaders::ready(checkpoint_of_page(&mut gone, &|_| {})).unwrap().unwrap_err();
        assert!(error.to_string().contains("the disk went away"), "{error}");
    }
    // plain matrices are packed to 8 bits
    let plain = checkpoint(BlockFormat::F32);
    let file = gguf_from_checkpoint(&plain).unwrap();
    let read = beckon_shaders::ready(checkpoint_of_page(&mut &file[..], &|_| {})).unwrap().unwrap();
    let name = "policy.model.layers.0.self_attn.q_proj.weight";
    assert_eq!(read.tensors[name], Matrix::from_dense(&plain.tensors[name].to_dense(), BlockFormat::Q8).unwrap());
}

/// One that takes many ranges, its reordered rows among them, comes out as in one piece.
#[test]
fn a_large_matrix_is_read_part_by_part() {
    let model = ModelConfig {
        vocab_size: 40_001,
        d_model: 256,
        n_layers: 1,
        n_heads: 256,
        n_kv_heads: 1,
        head_dim: 64,
        d_ff: 32,
        ..Preset::Tiny.model()
    };
    let tokenizer = Tokenizer::train(["how to cook rice", "how to cook brown rice"], 300).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut policy = BTreeMap::new();
    for (name, shape) in tensor_names(&model) {
        let data = (0..shape.iter().product()).map(|_| rng.random_range(-0.3f32..0.3)).collect();
        let format = if shape.len() == 1 { BlockFormat::F32 } else { BlockFormat::Q8 };
        policy.insert(name, Matrix::from_dense(&DenseTensor::new(shape, data), format).unwrap());
    }
    let parts = PolicyParts { name: "wide".into(), model: &model, lineage: lineage(), tokenizer: &tokenizer };
    let checkpoint = Checkpoint::from_policy(parts, policy).unwrap();
    let file = gguf_from_checkpoint(&checkpoint).unwrap();
    let mut watched = Watched { file: &file, longest: 0, fails_at: u64::MAX };
    let read = beckon_shaders::ready(checkpoint_of_page(&mut watched, &|_| {})).unwrap().unwrap();
    assert!(read.tensors == checkpoint.tensors, "other weights");
    assert!(watched.longest <= 4 << 20, "{} bytes at once of {}", watched.longest, file.len());
    // what would not fit is refused before it is read
    let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
    let options = ImportOptions { max_bytes: 1 << 20, ..ImportOptions::of_page() };
    let error = beckon_shaders::ready(read_policy(&gguf, options, &mut &file[..], &|_| {})).unwrap().unwrap_err();
    assert!(error.to_string().contains("at most 1048576 is read"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = file();
    for n_bytes in (0..file.len()).step_by(97).chain([1, 3, 4, 8, file.len() - 1]) {
        let error = Gguf::parse(&file[..n_bytes], n_bytes as u64).expect_err("cut").to_string();
        assert!(error.contains("the file ends at byte") || error.contains("not a GGUF file"), "{n_bytes}: {error}");
    }
    let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
    let last = gguf.tensors.values().max_by_key(|info| info.start).unwrap();
    let error = Gguf::parse(&file[..file.len() - 40], file.len() as u64 - 40).unwrap_err().to_string();
    for part in [&last.name, &last.start.to_string(), &last.n_bytes.to_string()] {
        assert!(error.contains(part.as_str()), "{part}: {error}");
    }
}

#[test]
fn magic_and_version_are_checked() {
    let mut file = file();
    let parse = |file: &[u8]| Gguf::parse(file, file.len() as u64).unwrap_err().to_string();
    assert!(parse(b"PK\x03\x04 a zip file").contains("not a GGUF file: it begins with [50, 4b, 03, 04]"));
    assert!(parse(b"").contains("not a GGUF file"));
    for (version, says) in [(1u32, "version 1"), (4, "version 4"), (3u32.swap_bytes(), "big-endian")] {
        file[4..8].copy_from_slice(&version.to_le_bytes());
        assert!(parse(&file).contains(says), "{}", parse(&file));
    }
}

/// The bytes of the head that say something about `tensor`: dimensions, type, offset.
fn entry(file: &[u8], tensor: &str) -> usize {
    let name = [&(tensor.len() as u64).to_le_bytes()[..], tensor.as_bytes()].concat();
    file.windows(name.len()).position(|w| w == name).expect("the tensor's entry") + name.len()
}

#[test]
fn lying_offsets_sizes_types_and_counts_are_refused_with_numbers() {
    let name = "blk.1.ffn_up.weight"; // two dimensions: u32, two u64, type u32, offset u64
    let forge = |at: usize, bytes: &[u8]| {
        let mut file = file();
        let from = entry(&file, name) + at;
        file[from..from + bytes.len()].copy_from_slice(bytes);
        Gguf::parse(&file, file.len() as u64).unwrap_err().to_string()
    };
    let n_bytes = file().len();
    let far = forge(24, &(1u64 << 40).to_le_bytes());
    assert!(far.contains(name) && far.contains(&n_bytes.to_string()) && far.contains("damaged or cut"), "{far}");
    let wraps = forge(24, &(u64::MAX - 31).to_le_bytes());
    assert!(wraps.contains(name) && wraps.contains("the file ends"), "{wraps}");
    let crooked = forge(24, &4100u64.to_le_bytes());
    assert!(crooked.contains(name) && crooked.contains("4100") && crooked.contains("alignment 32"), "{crooked}");
    let shared = forge(24, &0u64.to_le_bytes());
    assert!(shared.contains("within tensor"), "{shared}");
    let rows = forge(12, &(1u64 << 33).to_le_bytes());
    assert!(rows.contains(name) && rows.contains("the file ends"), "{rows}");
    let product = forge(4, &[(1u64 << 40).to_le_bytes(), (1u64 << 40).to_le_bytes()].concat());
    assert!(product.contains(name) && (product.contains("fits 64 bits") || product.contains("too large")), "{product}");
    let odd = forge(4, &33u64.to_le_bytes());
    assert!(odd.contains(name) && odd.contains("whole blocks of 32"), "{odd}");
    assert!(forge(4, &0u64.to_le_bytes()).contains("dimension that is 0"));
    assert!(forge(0, &9u32.to_le_bytes()).contains("9 dimensions"));
    let kind = forge(20, &12u32.to_le_bytes());
    assert!(kind.contains(name) && kind.contains("12 (Q4_K)"), "{kind}");
    assert!(forge(20, &999u32.to_le_bytes()).contains("999 (unknown)"));
    for (at, what) in [(8, "tensors"), (16, "metadata entries")] {
        let mut file = file();
        file[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let error = Gguf::parse(&file, file.len() as u64).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("18446744073709551615"), "{error}");
    }
}

#[test]
fn a_lying_array_or_text_ends_before_anything_is_allocated() {
    let key = "k";
    let with = |value: &[u8]| {
        let head = [&b"GGUF"[..], &3u32.to_le_bytes(), &0u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
        let file = [&head[..], &1u64.to_le_bytes(), key.as_bytes(), value].concat();
        Gguf::parse(&file, file.len() as u64).unwrap_err().to_string()
    };
    let array = |kind: u32, n: u64| [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &n.to_le_bytes(), &[0; 64]].concat();
    for kind in 0..13 {
        let error = with(&array(kind, u64::MAX / 2));
        assert!(error.contains('k') && error.contains("the file ends") || error.contains("nested"), "{kind}: {error}");
    }
    let text = with(&[&8u32.to_le_bytes()[..], &(1u64 << 60).to_le_bytes()].concat());
    assert!(text.contains("1152921504606846976"), "{text}");
    assert!(with(&[&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0xff, 0xfe]].concat()).contains("not UTF-8"));
    assert!(with(&13u32.to_le_bytes()).contains("unknown type 13"));
    let nested: Vec<u8> = std::iter::once(9u32.to_le_bytes().to_vec())
        .chain((0..9).map(|_| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()))
        .flatten()
        .collect();
    assert!(with(&nested).contains("more than 4 deep"));
}

/// Damaged heads never panic, and never read or allocate beyond the file.
#[test]
fn damaged_heads_are_refused_or_read_but_never_crash() {
    let file = file();
    let head_bytes = Gguf::parse(&file, file.len() as u64).unwrap().data_start as usize;
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut n_refused, mut n_read) = (0, 0);
    for round in 0..3000 {
        let mut damaged = file.clone();
        for _ in 0..rng.random_range(1..6) {
            // half of the hits where numbers are dense: the beginning and the table of tensors
            let at = match rng.random_range(0..4) {
                0 => rng.random_range(0..64),
                1 => rng.random_range(head_bytes.saturating_sub(1200)..head_bytes),
                _ => rng.random_range(0..head_bytes),
            };
            damaged[at] = match rng.random_range(0..3) {
                0 => rng.next_u32() as u8,
                1 => 0xff,
                _ => damaged[at] ^ 1 << rng.random_range(0..8),
            };
        }
        if round % 3 == 0 {
            damaged.truncate(rng.random_range(0..damaged.len()));
        }
        match import(&damaged) {
            Ok(checkpoint) => {
                n_read += 1;
                assert!(checkpoint.tensors.values().all(Matrix::is_finite));
            }
            Err(error) => {
                n_refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(n_refused > 1000 && n_read > 10, "{n_refused} refused, {n_read} read");
}

#[test]
fn another_network_is_refused_by_name() {
    let says = refusal(set("general.architecture", "qwen2"));
    assert!(says.contains("\"qwen2\"") && says.contains("\"llama\""), "{says}");
    assert!(refusal(set("llama.expert_count", 8u32)).contains("8 experts"));
    assert!(refusal(set("llama.rope.scaling.type", "yarn")).contains("yarn"));
    assert!(refusal(set("llama.rope.dimension_count", 8u32)).contains("rope.dimension_count 8"));
    assert!(
        refusal(set("llama.block_count", 3u32))
            .contains("blk.2.attn_norm.weight is missing (the network has 3 layers)")
    );
    let fewer = refusal(set("llama.block_count", 1u32));
    assert!(fewer.contains("blk.1.") && fewer.contains("does not belong to a Llama of 1 layers"), "{fewer}");
    let wider = refusal(set("llama.feed_forward_length", 224u32));
    assert!(wider.contains("blk.0.ffn_gate.weight has shape [192, 64], the metadata ask for [224, 64]"), "{wider}");
    assert!(refusal(set("llama.embedding_length", 48u32)).contains("d_model is 48"));
    assert!(refusal(set("llama.attention.head_count", "four")).contains("\"four\", expected a whole number"));
    assert!(refusal(set("llama.attention.layer_norm_rms_epsilon", f32::NAN)).contains("layer_norm_rms_epsilon"));
    assert!(
        refusal(|metadata, _| _ = metadata.remove("llama.block_count"))
            .contains("metadata llama.block_count: is missing")
    );
}

#[test]
fn stretched_positions_are_read_in_every_spelling() {
    let scaling = |edit: &dyn Fn(&mut BTreeMap<String, Value>, &mut Vec<NewTensor>)| {
        import(&edited(|metadata, tensors| edit(metadata, tensors))).unwrap().manifest.model.rope_scaling
    };
    let float = |key: &'static str, x: f32| {
        move |metadata: &mut BTreeMap<String, Value>, _: &mut Vec<NewTensor>| _ = metadata.insert(key.into(), x.into())
    };
    let twice = Some(RopeScaling::Linear { factor: 2.0 });
    assert_eq!(scaling(&float("llama.rope.scaling.factor", 2.0)), twice);
    assert_eq!(scaling(&float("llama.rope.scale_linear", 2.0)), twice);
    assert_eq!(scaling(&float("llama.rope.scaling.factor", 1.0)), None);
    assert_eq!(scaling(&float("llama.rope.scaling.factor", 0.0)), None);
    let factors: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let bytes: Vec<u8> = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
    let add = |metadata: &mut BTreeMap<String, Value>, tensors: &mut Vec<NewTensor>, even: f32| {
        metadata.insert("llama.rope.scaling.factor".into(), even.into());
        let (name, bytes) = ("rope_freqs.weight".to_owned(), bytes.clone());
        tensors.push(NewTensor { name, shape: vec![8], kind: TensorKind::F32, bytes });
    };
    let each = |even: f32| -> Vec<f32> { factors.iter().map(|x| x * even).collect() };
    for even in [1.0, 4.0] {
        let want = Some(RopeScaling::Factors { factors: each(even) });
        assert_eq!(scaling(&|metadata, tensors| add(metadata, tensors, even)), want);
    }
    assert!(refusal(set("llama.rope.scaling.factor", -1.0f32)).contains("expected a number above 0"));
}

#[test]
fn missing_unknown_and_wrong_tensors_are_named() {
    let missing = refusal(|_, tensors| tensors.retain(|t| t.name != "blk.1.attn_v.weight"));
    assert!(missing.contains("tensor blk.1.attn_v.weight is missing"), "{missing}");
    let add = |name: &str| {
        let name = name.to_owned();
        move |_: &mut BTreeMap<String, Value>, tensors: &mut Vec<NewTensor>| {
            tensors.push(NewTensor { name, shape: vec![64], kind: TensorKind::F32, bytes: vec![0; 256] });
        }
    };
    let bias = refusal(add("blk.0.attn_q.bias"));
    assert!(bias.contains("blk.0.attn_q.bias of shape [64] does not belong"), "{bias}");
    let output = refusal(add("output.weight"));
    assert!(output.contains("output.weight has shape [64], the metadata ask for [300, 64]"), "{output}");
    assert!(refusal(add("rope_freqs.weight")).contains("rope_freqs.weight"));
}

#[test]
fn vocabularies_that_do_not_fit_are_refused() {
    let says = refusal(|metadata, tensors| {
        let embedding = tensors.iter_mut().find(|t| t.name == "token_embd.weight").unwrap();
        embedding.shape[0] = 256;
        embedding.bytes.truncate(256 * 64 / 32 * 20);
        metadata.insert("llama.vocab_size".into(), 256u32.into());
    });
    assert!(says.contains("300 tokens") && says.contains("token_embd.weight has 256 rows"), "{says}");
    assert!(refusal(set("tokenizer.ggml.model", "llama")).contains("Hugging Face files"));
    assert!(refusal(set("tokenizer.ggml.pre", "deepseek-coder")).contains("\"deepseek-coder\""));
    let merges = Array::String(vec!["q zebra".into()]);
    assert!(refusal(set("tokenizer.ggml.merges", merges)).contains("entry 0 (\"q zebra\")"));
    let types = Array::I32(vec![1, 2]);
    assert!(refusal(set("tokenizer.ggml.token_type", types)).contains("2 entries for 300 tokens"));
    let twice = |metadata: &mut BTreeMap<String, Value>, _: &mut Vec<NewTensor>| {
        let Some(Value::Array(Array::String(tokens))) = metadata.get_mut("tokenizer.ggml.tokens") else { panic!() };
        tokens[299] = tokens[10].clone();
    };
    assert!(refusal(twice).contains("twice, the second time at 299"));
    // a stranger's vocabulary: ids beyond it, and no end
    let foreign = |metadata: &mut BTreeMap<String, Value>, _: &mut Vec<NewTensor>| {
        let Some(Value::Array(Array::String(tokens))) = metadata.get_mut("tokenizer.ggml.tokens") else { panic!() };
        tokens[0] = "<pad>".into();
        metadata.insert("tokenizer.ggml.eos_token_id".into(), 5000u32.into());
    };
    assert!(refusal(foreign).contains("tokenizer.ggml.eos_token_id: is 5000, but there are 300 tokens"));
}

#[test]
fn alignment_is_checked_and_obeyed() {
    let file = file();
    let metadata = BTreeMap::from([("general.alignment".to_owned(), Value::U32(32))]);
    assert!(encode(&metadata, &[]).is_err(), "the writer decides it");
    for bad in [0u32, 3, 4, 48, 1 << 21] {
        let mut head = [&b"GGUF"[..], &3u32.to_le_bytes(), &0u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
        head.extend(17u64.to_le_bytes());
        head.extend(b"general.alignment");
        head.extend([&4u32.to_le_bytes()[..], &bad.to_le_bytes()].concat());
        let error = Gguf::parse(&head, head.len() as u64).unwrap_err().to_string();
        assert!(error.contains("general.alignment") && error.contains(&bad.to_string()), "{error}");
    }
    assert_eq!(Gguf::parse(&file, file.len() as u64).unwrap().data_start % 32, 0);
}
