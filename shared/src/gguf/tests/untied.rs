//! Files of models whose embedding is not tied to the output matrix.

use super::*;
use crate::config::OUTPUT;

/// A small policy with an output matrix of its own.
fn untied(format: BlockFormat) -> Checkpoint {
    checkpoint_of(&ModelConfig { vocab_size: 300, tied_embedding: false, ..Preset::Tiny.model() }, format)
}

#[test]
fn an_output_matrix_of_its_own_comes_back_to_the_bit() {
    for format in [BlockFormat::F32, BlockFormat::Q8, BlockFormat::Q4] {
        let checkpoint = untied(format);
        let file = gguf_from_checkpoint(&checkpoint).unwrap();
        assert!(Gguf::parse(&file, file.len() as u64).unwrap().tensors.contains_key("output.weight"));
        let again = import(&file).unwrap();
        assert_eq!(again.tensors, checkpoint.tensors, "{format:?}");
        assert_eq!(again.manifest.model, checkpoint.manifest.model);
        assert_eq!(Checkpoint::decode(&again.encode().unwrap()).unwrap().tensors, checkpoint.tensors);
        // the page: blocks as they are, plain matrices in 8 bits
        let read = beckon_shaders::ready(checkpoint_of_page(&mut &file[..], &|_| {})).unwrap().unwrap();
        let name = format!("policy.{OUTPUT}");
        let want = match format {
            BlockFormat::F32 => Matrix::from_dense(&checkpoint.tensors[&name].to_dense(), BlockFormat::Q8).unwrap(),
            _ => checkpoint.tensors[&name].clone(),
        };
        assert_eq!(read.tensors[&name], want, "{format:?}");
    }
    let tied = file();
    assert!(!Gguf::parse(&tied, tied.len() as u64).unwrap().tensors.contains_key("output.weight"));
    // in half precision, and beside an embedding in other blocks
    let halves: Vec<f32> = (0..300 * 64).map(|i| i as f32 / 65_536.0).collect();
    let bytes: Vec<u8> = halves.iter().flat_map(|x| f16_from_f32(*x).to_le_bytes()).collect();
    let file = edited(|_, tensors| {
        let (name, shape) = ("output.weight".to_owned(), vec![300, 64]);
        tensors.push(NewTensor { name, shape, kind: TensorKind::F16, bytes });
    });
    let read = import(&file).unwrap();
    let output = &read.tensors[&format!("policy.{OUTPUT}")];
    let want: Vec<f32> = halves.iter().map(|x| f32_from_f16(f16_from_f32(*x))).collect();
    assert_eq!((output.format, output.to_dense().data), (BlockFormat::F32, want));
    assert_eq!(read.tensors["policy.model.embed_tokens.weight"].format, BlockFormat::Q4);
}
