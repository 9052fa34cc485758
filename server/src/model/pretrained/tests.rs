use super::folder::{CONFIG, INDEX, TENSORS, TOKENIZER, TOKENIZER_CONFIG, shards};
use super::hub::Hub;
use super::*;
use crate::model::llama::Llama;
use beckon_shared::checkpoint::PolicyParts;
use beckon_shared::config::{ModelConfig, OUTPUT, Preset, RopeScaling, tensor_names};
use beckon_shared::engine::Engine;
use beckon_shared::prompt::{Prompt, PromptFormat};
use beckon_shared::quant::{Matrix, f16_from_f32};
use beckon_shared::tensor::DenseTensor;
use beckon_shared::tokenizer::Tokenizer;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

fn model() -> ModelConfig {
    ModelConfig { vocab_size: 300, rope_base: 50_000.0, norm_eps: 2e-5, ..Preset::Tiny.model() }
}

/// A small policy with random F32 weights.
fn checkpoint() -> Checkpoint {
    checkpoint_of(&model())
}

/// The same with an output matrix of its own.
fn untied() -> Checkpoint {
    checkpoint_of(&ModelConfig { tied_embedding: false, ..model() })
}

fn checkpoint_of(model: &ModelConfig) -> Checkpoint {
    let tokenizer = Tokenizer::train(["how to cook rice", "how to cook brown rice"], 300).expect("trains");
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut policy = BTreeMap::new();
    for (name, shape) in tensor_names(model) {
        let data = (0..shape.iter().product()).map(|_| rng.random_range(-0.5f32..0.5)).collect();
        let matrix = Matrix::from_dense(&DenseTensor::new(shape, data), BlockFormat::F32).expect("packs");
        policy.insert(name, matrix);
    }
    let lineage = lineage(&Options::default(), Value::Null);
    let parts = PolicyParts { name: "tiny".into(), model, lineage, tokenizer: &tokenizer };
    Checkpoint::from_policy(parts, policy).expect("a checkpoint")
}

fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    write_folder(&checkpoint(), dir.path()).expect("writes");
    dir
}

fn exact() -> Options {
    Options { plain_format: BlockFormat::F32, ..Options::default() }
}

/// Changes a JSON file of a folder.
#[track_caller]
fn edit_json(dir: &TempDir, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = dir.path().join(file);
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON");
    edit(&mut json);
    std::fs::write(&path, json.to_string()).expect("writes");
}

/// What importing the folder says after `edit` has changed a JSON file in it.
#[track_caller]
fn refusal(file: &str, edit: impl FnOnce(&mut Value)) -> String {
    let dir = folder();
    edit_json(&dir, file, edit);
    import(dir.path(), &exact()).expect_err("must be refused").to_string()
}

/// The folder with its tensors changed.
#[track_caller]
fn with_tensors(dtype: Dtype, edit: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) -> TempDir {
    let dir = folder();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> =
        checkpoint().dense("policy").into_iter().map(|(name, t)| (name, (t.shape, t.data))).collect();
    edit(&mut tensors);
    let bytes = |values: &[f32]| -> Vec<u8> {
        match dtype {
            Dtype::F16 => values.iter().flat_map(|x| f16_from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    };
    let packed: BTreeMap<_, _> = tensors.iter().map(|(name, (shape, values))| (name, (shape, bytes(values)))).collect();
    let view = |(shape, bytes): &(&Vec<usize>, Vec<u8>)| -> TensorView<'static> {
        TensorView::new(dtype, (*shape).clone(), bytes.clone().leak()).expect("a view")
    };
    let views: Vec<_> = packed.iter().map(|(name, parts)| ((*name).clone(), view(parts))).collect();
    std::fs::write(dir.path().join(TENSORS), safetensors::serialize(views, None).expect("serialises")).expect("writes");
    dir
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let (dir, checkpoint) = (folder(), checkpoint());
    let again = import(dir.path(), &exact()).expect("imports");
    assert_eq!(again.tensors, checkpoint.tensors);
    assert_eq!(again.manifest.model, checkpoint.manifest.model, "rope base and norm epsilon included");
    assert_eq!(again.tokenizer_json, checkpoint.tokenizer_json);
    let quantized = import(dir.path(), &Options::default()).expect("imports");
    assert_eq!(quantized.tensors["policy.model.layers.1.mlp.down_proj.weight"].format, BlockFormat::Q8);
    assert_eq!(quantized.tensors["policy.model.norm.weight"].format, BlockFormat::F32);
    let shorter =
        import(dir.path(), &Options { max_seq_len: 64, name: Some("mine".into()), ..exact() }).expect("imports");
    assert_eq!((shorter.manifest.model.max_seq_len, shorter.manifest.name.as_str()), (64, "mine"));
}

#[test]
fn a_gguf_file_and_a_folder_give_the_same_network() {
    let dir = folder();
    let path = dir.path().join("tiny.GGUF");
    write_gguf(&checkpoint(), &path).expect("writes");
    let of_file = import(&path, &exact()).expect("imports");
    let of_folder = import(dir.path(), &exact()).expect("imports");
    assert_eq!(of_file.tensors, of_folder.tensors);
    let logits = |checkpoint: &Checkpoint| {
        let llama = Llama::from_tensors(&checkpoint.manifest.model, &checkpoint.dense("policy"), &Device::flex());
        let llama = llama.expect("a network");
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(vec![5, 9, 40, 7], [1, 4]), &llama.device());
        llama.logits(llama.hidden(tokens)).into_data().try_into_vec::<f32>().expect("f32")
    };
    assert_eq!(logits(&of_file), logits(&of_folder));
}

#[test]
fn half_precision_is_read_and_other_types_are_named() {
    let of = |dtype| import(with_tensors(dtype, |_| {}).path(), &exact());
    let exact = checkpoint().dense("policy");
    for (dtype, tolerance) in [(Dtype::F32, 0.0), (Dtype::F16, 3e-4), (Dtype::BF16, 4e-3)] {
        let dense = of(dtype).expect("imports").dense("policy");
        for (name, tensor) in &exact {
            let largest = tensor.data.iter().zip(&dense[name].data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest <= tolerance, "{dtype:?} {name}: {largest}");
        }
    }
    let error = of(Dtype::F64).expect_err("refused").to_string();
    assert!(error.contains("stored as F64") && error.contains(TENSORS), "{error}");
}

#[test]
fn shards_are_put_together_and_stay_in_their_folder() {
    let dir = folder();
    let tensors = checkpoint().dense("policy");
    let mut map = serde_json::Map::new();
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let file = format!("part-{}.safetensors", i % 2);
        map.insert(name.clone(), file.into());
        let part = dir.path().join(format!("{i}.tmp"));
        std::fs::write(part, bytemuck::cast_slice(&tensor.data)).expect("writes");
    }
    for n in 0..2 {
        let of_part = tensors.iter().enumerate().filter(|(i, _)| i % 2 == n).map(|(_, (name, tensor))| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytemuck::cast_slice(&tensor.data));
            (name.clone(), view.expect("a view"))
        });
        let bytes = safetensors::serialize(of_part, None).expect("serialises");
        std::fs::write(dir.path().join(format!("part-{n}.safetensors")), bytes).expect("writes");
    }
    std::fs::remove_file(dir.path().join(TENSORS)).expect("removes");
    std::fs::write(dir.path().join(INDEX), json!({"weight_map": map}).to_string()).expect("writes");
    assert_eq!(import(dir.path(), &exact()).expect("imports").tensors, checkpoint().tensors);
    for bad in ["../elsewhere.safetensors", "/etc/passwd", "a\\b", ".hidden", ""] {
        let index = json!({"weight_map": {"x": bad}}).to_string();
        let error = shards(index.as_bytes(), Path::new(INDEX)).expect_err("refused").to_string();
        assert!(error.contains("not the name of a file"), "{bad}: {error}");
    }
}

#[test]
fn other_networks_are_refused_by_what_differs() {
    let says = refusal(CONFIG, |json| json["model_type"] = "qwen3".into());
    assert!(says.contains("\"qwen3\"") && says.contains("config.json"), "{says}");
    let of = |field: &'static str, value: Value| refusal(CONFIG, move |json| json[field] = value);
    assert!(of("attention_bias", true.into()).contains("biases"));
    assert!(of("hidden_act", "gelu".into()).contains("\"gelu\""));
    let partial = of("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}));
    assert!(partial.contains("rope_scaling: missing field `low_freq_factor`"), "{partial}");
    assert!(of("rope_scaling", json!({"type": "linear", "factor": 0.0})).contains("rope_scaling.factor is 0"));
    assert!(of("rope_parameters", json!({"rope_type": "yarn"})).contains("rope_parameters \"yarn\""));
    assert!(of("hidden_size", 48.into()).contains("d_model is 48"));
    assert!(of("num_key_value_heads", 3.into()).contains("n_kv_heads is 3"));
    assert!(of("num_hidden_layers", "two".into()).contains("not the configuration of a Llama"));
    let more = of("num_hidden_layers", 3.into());
    assert!(more.contains("tensor model.layers.2.input_layernorm.weight is missing"), "{more}");
    let fewer = of("num_hidden_layers", 1.into());
    assert!(fewer.contains("model.layers.1.") && fewer.contains("does not belong to a Llama of 1 layers"), "{fewer}");
    let wider = of("intermediate_size", 224.into());
    assert!(wider.contains("has shape [192, 64], config.json asks for [224, 64]"), "{wider}");
    let vocabulary = of("vocab_size", 262.into());
    assert!(vocabulary.contains("tokenizer has") && vocabulary.contains("262 rows"), "{vocabulary}");
}

#[test]
fn new_and_old_spellings_of_the_rotary_base_are_read() {
    let dir = folder();
    let path = dir.path().join(CONFIG);
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON");
    json.as_object_mut().expect("an object").remove("rope_theta");
    json["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1234.0});
    std::fs::write(&path, json.to_string()).expect("writes");
    assert_eq!(import(dir.path(), &exact()).expect("imports").manifest.model.rope_base, 1234.0);
}

/// Stretched positions, in both spellings, through a folder, the network of training and the engine of the page; and
/// through a GGUF file, which knows them as a factor a frequency.
#[test]
fn stretched_rotary_positions_are_read_computed_with_and_written() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let linear = json!({"type": "linear", "factor": 4.0});
    let plain = last_logits(&checkpoint());
    for (field, value) in [("rope_scaling", &llama3), ("rope_parameters", &llama3), ("rope_scaling", &linear)] {
        let dir = folder();
        let path = dir.path().join(CONFIG);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON");
        json[field] = value.clone();
        std::fs::write(&path, json.to_string()).expect("writes");
        let read = import(dir.path(), &exact()).expect("imports");
        let logits = last_logits(&read);
        assert!(logits.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-3), "{field} {value} matters");
        assert_close("the engine", &engine_logits(&read), &logits);

        let again = tempfile::tempdir().expect("a folder");
        write_folder(&read, again.path()).expect("writes");
        assert_eq!(import(again.path(), &exact()).expect("imports").manifest.model, read.manifest.model);
        let gguf = dir.path().join("stretched.gguf");
        write_gguf(&read, &gguf).expect("writes");
        let of_file = import(&gguf, &exact()).expect("imports");
        assert_close("of a GGUF file", &last_logits(&of_file), &logits);
        let factors = matches!(of_file.manifest.model.rope_scaling, Some(RopeScaling::Factors { .. }));
        let refused = write_folder(&of_file, again.path()).map_err(|error| error.to_string());
        assert_eq!(factors, *value == llama3);
        assert_eq!(refused.is_err_and(|text| text.contains("GGUF")), factors);
    }
}

fn prompt() -> Prompt {
    Prompt::from_query("how to cook rice and how to cook brown rice")
}

/// Logits after a prompt by the network of training.
fn last_logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let tokens = checkpoint.tokenizer().expect("a tokenizer").encode_prompt(&prompt(), 100);
    let llama = Llama::from_tensors(&checkpoint.manifest.model, &checkpoint.dense("policy"), &Device::flex());
    let (llama, n) = (llama.expect("a network"), tokens.len());
    let tokens = tokens.into_iter().map(|token| token as i32).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new::<i32, _>(tokens, [1, n]), &llama.device());
    let logits = llama.logits(llama.hidden(tokens)).into_data().try_into_vec::<f32>().expect("f32");
    logits[(n - 1) * checkpoint.manifest.model.vocab_size..].to_vec()
}

/// The same by the engine.
fn engine_logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let mut engine = Engine::cpu(checkpoint).expect("an engine");
    let mut steps = beckon_shaders::ready(engine.greedy(&prompt(), 1)).expect("no waiting").expect("runs");
    steps.remove(0).logits
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "{what}: logits differ by {worst}");
}

#[test]
fn an_output_matrix_of_its_own_goes_through_folder_file_and_both_networks() {
    let checkpoint = untied();
    let dir = tempfile::tempdir().expect("a folder");
    write_folder(&checkpoint, dir.path()).expect("writes");
    let gguf = dir.path().join("untied.gguf");
    write_gguf(&checkpoint, &gguf).expect("writes");
    for path in [dir.path(), gguf.as_path()] {
        let again = import(path, &exact()).expect("imports");
        assert_eq!((&again.tensors, &again.manifest.model), (&checkpoint.tensors, &checkpoint.manifest.model));
    }
    edit_json(&dir, CONFIG, |json| assert_eq!(json["tie_word_embeddings"], false));
    let quantized = import(dir.path(), &Options::default()).expect("imports");
    assert_eq!(quantized.tensors["policy.lm_head.weight"].format, BlockFormat::Q8, "as the embedding");
    let logits = last_logits(&checkpoint);
    assert_close("the engine", &engine_logits(&checkpoint), &logits);
    let mut tied = checkpoint.clone();
    tied.tensors.remove("policy.lm_head.weight");
    tied.manifest.model.tied_embedding = true;
    assert!(last_logits(&tied).iter().zip(&logits).any(|(a, b)| (a - b).abs() > 0.1), "the matrix matters");
}

#[test]
fn what_a_configuration_says_of_the_output_matrix_holds_and_else_what_is_there() {
    let copy = |tensors: &mut BTreeMap<String, (Vec<usize>, Vec<f32>)>| {
        let embedding = tensors["model.embed_tokens.weight"].clone();
        tensors.insert(OUTPUT.into(), embedding);
    };
    let says = |says: Option<bool>, has_matrix: bool| {
        let dir = if has_matrix { with_tensors(Dtype::F32, copy) } else { folder() };
        edit_json(&dir, CONFIG, |json| match says {
            Some(tied) => json["tie_word_embeddings"] = tied.into(),
            None => _ = json.as_object_mut().expect("an object").remove("tie_word_embeddings"),
        });
        import(dir.path(), &exact())
    };
    for (tied, has_matrix, want) in
        [(Some(true), true, true), (None, false, true), (Some(false), true, false), (None, true, false)]
    {
        let read = says(tied, has_matrix).expect("imports");
        assert_eq!(read.manifest.model.tied_embedding, want, "{tied:?} and {has_matrix}");
        assert_eq!(read.tensors.contains_key("policy.lm_head.weight"), !want, "{tied:?} and {has_matrix}");
        // it is a copy of the embedding
        assert_eq!(last_logits(&read), last_logits(&checkpoint()));
    }
    let error = says(Some(false), false).expect_err("announced").to_string();
    assert!(error.contains("tensor lm_head.weight is missing"), "{error}");
}

#[test]
fn tensors_that_do_not_belong_are_named() {
    let bias = with_tensors(Dtype::F32, |t| {
        _ = t.insert("model.layers.0.self_attn.q_proj.bias".into(), (vec![64], vec![0.0; 64]))
    });
    let error = import(bias.path(), &exact()).expect_err("a bias").to_string();
    assert!(error.contains("q_proj.bias of shape [64] does not belong"), "{error}");
}

#[test]
fn missing_and_damaged_files_are_named() {
    for file in [CONFIG, TOKENIZER, TENSORS] {
        let dir = folder();
        std::fs::remove_file(dir.path().join(file)).expect("removes");
        let error = import(dir.path(), &exact()).expect_err("refused").to_string();
        assert!(error.starts_with("cannot read") && error.contains(file), "{error}");
        std::fs::write(dir.path().join(file), b"{ damaged").expect("writes");
        let error = import(dir.path(), &exact()).expect_err("refused").to_string();
        assert!(error.contains(file), "{error}");
    }
    let dir = folder();
    let path = dir.path().join(TENSORS);
    let bytes = std::fs::read(&path).expect("reads");
    std::fs::write(&path, &bytes[..bytes.len() - 7]).expect("cuts");
    assert!(import(dir.path(), &exact()).expect_err("cut").to_string().contains("not a safetensors file"));
    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "x").expect("writes");
    assert!(import(&text, &exact()).expect_err("no model").to_string().contains("neither a folder"));
    let gone = import(&dir.path().join("gone.gguf"), &exact()).expect_err("gone").to_string();
    assert!(gone.starts_with("cannot read the model") && gone.contains("gone.gguf"), "{gone}");
    let gguf = dir.path().join("cut.gguf");
    write_gguf(&checkpoint(), &gguf).expect("writes");
    let bytes = std::fs::read(&gguf).expect("reads");
    std::fs::write(&gguf, &bytes[..bytes.len() / 2]).expect("cuts");
    let error = import(&gguf, &exact()).expect_err("cut").to_string();
    assert!(
        error.contains("tensor ") && error.contains("the file ends at byte") && error.contains("cut.gguf"),
        "{error}"
    );
}

/// A hub on this machine: answers each request from `files`, by path, until the test ends.
fn hub(files: BTreeMap<String, Vec<u8>>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let n_requests = Arc::new(AtomicUsize::new(0));
    let counter = n_requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            let first = lines.next().expect("a request").expect("text");
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            counter.fetch_add(1, Ordering::Relaxed);
            let path = first.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match files.get(path) {
                Some(body) => ("200 OK", &body[..]),
                None => ("404 Not Found", &b""[..]),
            };
            // a file called cut loses its end
            let n_sent = if path.ends_with("cut.gguf") { body.len() / 2 } else { body.len() };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body[..n_sent]].concat());
        }
    });
    (url, n_requests)
}

#[test]
fn a_model_is_pulled_once_and_imported() {
    let dir = folder();
    let mut files = BTreeMap::new();
    let mut siblings = Vec::new();
    for name in [CONFIG, TOKENIZER, TOKENIZER_CONFIG, TENSORS] {
        let bytes = std::fs::read(dir.path().join(name)).expect("reads");
        files.insert(format!("/me/tiny/resolve/abc123/{name}"), bytes);
        siblings.push(json!({"rfilename": name}));
    }
    files.insert("/me/tiny/resolve/abc123/cut.gguf".into(), vec![0; 100]);
    let info = json!({"sha": "abc123", "siblings": siblings}).to_string();
    files.insert("/api/models/me/tiny/revision/main".into(), info.into_bytes());
    files.insert("/api/models/me/odd/revision/main".into(), b"<html>".to_vec());
    files.insert("/api/models/me/evil/revision/main".into(), br#"{"sha": "..", "siblings": []}"#.to_vec());
    let (endpoint, n_requests) = hub(files);
    let cache = tempfile::tempdir().expect("a folder");
    let hub = Hub { endpoint, token: None, cache: cache.path().to_owned() };
    let pulled = hub.pull("me/tiny", "main", None).expect("pulls");
    assert_eq!(import(&pulled, &exact()).expect("imports").tensors, checkpoint().tensors);
    let n_first = n_requests.load(Ordering::Relaxed);
    assert_eq!(hub.pull("me/tiny", "main", None).expect("is there"), pulled);
    assert_eq!(n_requests.load(Ordering::Relaxed), n_first + 1, "only the description is asked for again");
    let says = |model: &str, gguf| hub.pull(model, "main", gguf).expect_err("refused").to_string();
    assert!(says("me/other", None).contains("the hub answers 404 for me/other (main)"));
    assert!(says("me/tiny", Some("gone.gguf")).contains("404 for gone.gguf of me/tiny"));
    assert!(says("me/odd", None).contains("cannot be used"));
    for bad in ["tiny", "me/../tiny", "me/tiny/x", "/etc", "me/ti ny"] {
        assert!(says(bad, None).contains("is not the name of a model"), "{bad}");
    }
    assert!(says("me/evil", None).contains("is not the name of a commit"));
    assert!(says("me/tiny", Some("../x.gguf")).contains("is not the name of a file"));
    // a download that breaks off leaves nothing that looks whole
    assert!(says("me/tiny", Some("cut.gguf")).contains("cut.gguf"));
    assert!(!pulled.join("cut.gguf").exists() && !pulled.join("cut.partial").exists());
}

#[test]
fn without_a_hub_the_message_says_what_to_do() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let cache = tempfile::tempdir().expect("a folder");
    let hub = Hub { endpoint: format!("http://{closed}"), token: None, cache: cache.path().to_owned() };
    let error = hub.pull("me/tiny", "main", None).expect_err("nobody listens").to_string();
    for part in ["no model hub answers at http://127.0.0.1", "beckon model import FOLDER", "HF_ENDPOINT"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// A tokenizer with other special tokens brings its chat template along, or turns become lines.
#[test]
fn a_foreign_tokenizer_brings_its_prompt_format() {
    let dir = folder();
    let path = dir.path().join(TOKENIZER);
    let text = std::fs::read_to_string(&path).expect("reads");
    std::fs::write(&path, text.replace("<|user|>", "<|im_start|>").replace("<|end|>", "<|im_end|>")).expect("writes");
    let set = |template: Option<&str>| {
        let json =
            json!({"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "chat_template": template});
        std::fs::write(dir.path().join(TOKENIZER_CONFIG), json.to_string()).expect("writes");
        import(dir.path(), &exact())
    };
    let chatml =
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}";
    let chat = set(Some(chatml)).expect("imports");
    let format = chat.manifest.prompt_format.clone().expect("a format of its own");
    assert_eq!((format.suggest.as_str(), format.end.as_str()), ("<|im_start|>user\n", "<|im_end|>"));
    let tokenizer = chat.tokenizer().expect("a tokenizer");
    let tokens = tokenizer.encode_prompt(&Prompt::from_query("rice"), 64);
    assert_eq!((tokens[0], tokenizer.end()), (1, 4));
    assert_eq!(tokens.iter().filter(|token| **token == 4).count(), 1, "{tokens:?}");
    // it goes with the model
    let out = tempfile::tempdir().expect("a folder");
    write_folder(&chat, out.path()).expect("writes");
    let again = import(out.path(), &exact()).expect("imports");
    assert_eq!(again.manifest.prompt_format, chat.manifest.prompt_format);
    let plain = set(None).expect("imports").manifest.prompt_format.expect("lines");
    assert_eq!(plain, PromptFormat::plain("<|im_start|>", "<|im_end|>"));
    let error = set(Some("{{ nothing }}")).expect_err("no template").to_string();
    assert!(error.contains("cannot be cut into turns") && error.contains(TOKENIZER), "{error}");
}
