//! `beckon replay`: suggestions that a page recorded, written again.

use crate::model::device::block_on;
use crate::model::pretrained::{self, is_gguf};
use crate::model::threads;
use crate::pipeline::export::ADAPTER_EXTENSION;
use anyhow::{Context, bail};
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::engine::{Engine, GpuContext, Limits};
use beckon_shared::replay::{Arithmetic, Recording, VERSION};
use clap::Args;
use std::path::{Path, PathBuf};

/// Options of `beckon replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// What the page shows under "Replay", as a file.
    file: PathBuf,
    /// The checkpoint: a file (also the GGUF that the page had open), or the beginning of its id [default: the one that the
    /// recording names]
    #[arg(long)]
    checkpoint: Option<String>,
    /// Folder with the checkpoints' folder [default: the platform's folder for application data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Write what a GPU wrote on this machine's GPU again [default: on the CPU in f32]; what a CPU wrote always runs on the CPU, in
    /// the same arithmetic
    #[arg(long)]
    gpu: bool,
}

/// What may be otherwise where a GPU wrote the texts.
const ROUNDING: &str = "a GPU adds up in an order of its own, so logits differ by rounding, and a draw that lies on an edge may fall \
                        the other way";

/// Writes the suggestions again on this machine, in the arithmetic of the recording, and compares.
///
/// # Errors
/// A file that is no recording, another checkpoint, or texts that differ, with both devices named.
pub fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let shown = args.file.display();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {shown}"))?;
    let recording: Recording = serde_json::from_str(&text).with_context(|| format!("{shown} is no recording"))?;
    if recording.version != VERSION {
        bail!("{shown} is a recording of version {}, this program reads {VERSION}", recording.version);
    }
    if args.gpu && recording.arithmetic() != Arithmetic::Gpu {
        bail!("{shown} was recorded on {}, which is no GPU: leave --gpu out", recording.device);
    }
    let mut engine = match &recording.adapter {
        None => whole(args, &recording)?,
        Some(adapter) => adapted(args, &recording, adapter)?,
    };
    let outcome = block_on(engine.suggest(&recording.request, &|| 0.0))?;
    let (there, here) = (&recording.device, engine.executor().device_name());
    let differences = recording.differences(&outcome);
    for suggestion in &outcome.suggestions {
        println!("{}", suggestion.text);
    }
    let n = outcome.suggestions.len();
    if differences.is_empty() {
        println!("all {n} suggestions came out the same; recorded on {there}, now on {here}");
        return Ok(());
    }
    for d in &differences {
        let quoted = |text: &Option<String>| text.as_ref().map_or_else(|| "nothing".to_owned(), |t| format!("{t:?}"));
        println!("suggestion {}: recorded {}, now {}", d.candidate + 1, quoted(&d.recorded), quoted(&d.now));
    }
    let why = if recording.arithmetic() == Arithmetic::Gpu { format!("; {ROUNDING}") } else { String::new() };
    bail!("{} of {n} suggestions differ: recorded on {there}, now on {here}{why}", differences.len())
}

/// An engine of the recorded checkpoint.
fn whole(args: &ReplayArgs, recording: &Recording) -> anyhow::Result<Engine> {
    let checkpoint = match &args.checkpoint {
        Some(named) if is_gguf(Path::new(named)) => pretrained::as_in_page(Path::new(named))?,
        Some(named) => super::model::open(named, args.data_dir.as_deref())?,
        None => known(&recording.checkpoint, args)?,
    };
    if checkpoint.id != recording.checkpoint {
        bail!("the recording is of checkpoint {}, this is {}", recording.checkpoint, checkpoint.id);
    }
    engine_as_recorded(&checkpoint, recording, args.gpu)
}

/// An engine of the base with the adapter that lies beside the recorded checkpoint, as the page had it.
fn adapted(args: &ReplayArgs, recording: &Recording, id: &str) -> anyhow::Result<Engine> {
    let beside =
        super::model::find(args.checkpoint.as_ref().unwrap_or(&recording.checkpoint), args.data_dir.as_deref())?;
    let (adapter, _) = super::model::adapter::read(&beside.with_extension(ADAPTER_EXTENSION))?;
    if adapter.id != id {
        bail!("the recording is of adapter {id}, beside the checkpoint lies {}", adapter.id);
    }
    let base = known(&adapter.manifest.base, args)?;
    let mut engine = engine_as_recorded(&adapter.frame(base)?, recording, args.gpu)?;
    block_on(adapter.apply(&mut engine, None))?;
    Ok(engine)
}

/// An engine that computes as the recording's did, or as near to it as this machine can.
fn engine_as_recorded(checkpoint: &Checkpoint, recording: &Recording, on_gpu: bool) -> anyhow::Result<Engine> {
    let engine = if on_gpu {
        let gpu = block_on(GpuContext::request()).context("leave --gpu out to write them on the CPU")?;
        let mut engine = block_on(Engine::gpu(checkpoint, &gpu))?;
        if !block_on(engine.set_variants_of(&recording.device))? {
            eprintln!("{} lacks what the recorded kernels use: its plain kernels run", gpu.adapter_name());
        }
        engine
    } else {
        let kernel_path = recording.arithmetic().kernel_path();
        threads::cpu_engine(checkpoint, Limits { kernel_path, ..Limits::of(&checkpoint.manifest.model) })?
    };
    if recording.arithmetic() == Arithmetic::Gpu {
        let (there, here) = (&recording.device, engine.executor().device_name());
        eprintln!("recorded on {there}, written on {here}: {ROUNDING}; nothing else may differ");
    }
    Ok(engine)
}

/// The checkpoint of this id; the built-in one needs no file.
fn known(id: &str, args: &ReplayArgs) -> anyhow::Result<Checkpoint> {
    let built_in = || Checkpoint::decode(crate::assets::built_in_checkpoint().ok()?).ok();
    match built_in().filter(|built_in| built_in.id == id) {
        Some(built_in) => Ok(built_in),
        None => super::model::open(id, args.data_dir.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{adapter_file, checkpoint_file};
    use beckon_shared::adapter::AdapterFile;
    use beckon_shared::engine::{KernelPath, SuggestRequest};
    use beckon_shared::prompt::Prompt;
    use beckon_shared::sampling::Sampling;

    /// Any path of a page's CPU.
    const PAGE: &str = "CPU, int8-relaxed-simd";

    fn on_this_cpu(checkpoint: &Checkpoint) -> Engine {
        let limits = Limits::of(&checkpoint.manifest.model);
        Engine::cpu_within(checkpoint, limits.fastest()).expect("an engine")
    }

    fn recorded(engine: &mut Engine, id: &str, device: &str, request: &SuggestRequest) -> Recording {
        let outcome = block_on(engine.suggest(request, &|| 0.0)).expect("suggestions");
        Recording::of(id, device.into(), request, &outcome)
    }

    fn replayed(recording: &Recording, dir: &Path, gpu: bool) -> Result<(), String> {
        let file = dir.join("recording.json");
        std::fs::write(&file, serde_json::to_string(recording).expect("JSON")).expect("written");
        let args = ReplayArgs { file, checkpoint: None, data_dir: Some(dir.to_owned()), gpu };
        replay(&args).map_err(|e| format!("{e:#}"))
    }

    fn built_in() -> Checkpoint {
        Checkpoint::decode(crate::assets::built_in_checkpoint().expect("it ships")).expect("whole")
    }

    fn request_of(seed: u64) -> SuggestRequest {
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed };
        SuggestRequest { prompt: Prompt::from_query("how to cook rice"), n_candidates: 8, max_new_tokens: 12, sampling }
    }

    /// Of the checkpoint that ships: in eight bits it draws otherwise than in f32, sooner or later.
    #[test]
    fn a_recording_is_written_again_in_its_own_arithmetic() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let checkpoint = built_in();
        let (mut exact, mut fast) = (Engine::cpu(&checkpoint).expect("an engine"), on_this_cpu(&checkpoint));
        let differing = (0..20).find_map(|seed| {
            let gpu = "SwiftShader (BrowserWebGpu), plain kernels";
            let in_f32 = recorded(&mut exact, &checkpoint.id, gpu, &request_of(seed));
            let in_int8 = recorded(&mut fast, &checkpoint.id, PAGE, &request_of(seed));
            (in_f32.texts != in_int8.texts).then_some([in_f32, in_int8])
        });
        let [on_gpu, on_cpu] = differing.expect("a seed whose texts depend on the arithmetic");
        let in_f32 = Recording { device: format!("CPU, {}", KernelPath::F32), ..on_gpu.clone() };
        for recording in [&on_gpu, &in_f32, &on_cpu] {
            replayed(recording, dir.path(), false).expect("the same texts");
        }
        // taken for another's, texts differ; rounding is a reason only where a GPU wrote them
        let taken_for = |recording: &Recording, device: &str| {
            let other = Recording { device: device.into(), ..recording.clone() };
            replayed(&other, dir.path(), false).expect_err("other texts")
        };
        let error = taken_for(&on_gpu, &on_cpu.device);
        assert!(error.contains(PAGE) && error.contains("now on CPU, int8") && !error.contains("rounding"), "{error}");
        let error = taken_for(&on_cpu, &on_gpu.device);
        assert!(error.contains("now on CPU, f32") && error.contains("rounding"), "{error}");
        let error = replayed(&on_cpu, dir.path(), true).expect_err("no GPU wrote it");
        assert!(error.contains("leave --gpu out"), "{error}");
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn what_a_gpu_wrote_is_written_by_this_machines() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let checkpoint = built_in();
        let gpu = block_on(GpuContext::request()).expect("a Vulkan adapter");
        let mut engine = block_on(Engine::gpu(&checkpoint, &gpu)).expect("an engine");
        let device = engine.executor().device_name();
        let recording = recorded(&mut engine, &checkpoint.id, &device, &request_of(3));
        replayed(&recording, dir.path(), true).expect("the same adapter gives the same texts");
    }

    #[test]
    fn a_recording_comes_back_and_what_differs_is_named() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let (id, file) = checkpoint_file(1);
        let (checkpoint_path, path) = (dir.path().join("one.beckon"), dir.path().join("recording.json"));
        std::fs::write(&checkpoint_path, &file).expect("written");
        let checkpoint = Checkpoint::decode(&file).expect("whole");
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 11 };
        let prompt = Prompt::from_query("how to cook rice");
        let request = SuggestRequest { prompt, n_candidates: 4, max_new_tokens: 6, sampling };
        let mut recording = recorded(&mut on_this_cpu(&checkpoint), &id, PAGE, &request);
        assert!(recording.texts.iter().any(|text| !text.is_empty()));
        let replayed = |recording: &Recording| {
            std::fs::write(&path, serde_json::to_string(recording).expect("JSON")).expect("written");
            let checkpoint = Some(checkpoint_path.display().to_string());
            replay(&ReplayArgs { file: path.clone(), checkpoint, data_dir: Some(dir.path().to_owned()), gpu: false })
                .map_err(|e| format!("{e:#}"))
        };
        replayed(&recording).expect("the same");
        recording.request.sampling.seed += 1;
        let error = replayed(&recording).expect_err("another seed");
        assert!(error.contains(PAGE) && error.contains("now on CPU, int8"), "{error}");
        recording.request.sampling.seed -= 1;

        // over a base with the adapter that lies beside it
        let (base_id, base_file) = checkpoint_file(2);
        let folder = dir.path().join("checkpoints");
        std::fs::create_dir(&folder).expect("made");
        let adapter = adapter_file(&base_file, &id);
        std::fs::write(checkpoint_path.with_extension("adapter"), &adapter).expect("written");
        let adapter = AdapterFile::decode(&adapter).expect("whole");
        let mut adapted = recording.clone();
        adapted.adapter = Some(adapter.id.clone());
        let base = Checkpoint::decode(&base_file).expect("whole");
        let mut engine = on_this_cpu(&adapter.frame(base.clone()).expect("its base"));
        block_on(adapter.apply(&mut engine, None)).expect("tested");
        adapted.texts = recorded(&mut engine, &id, PAGE, &request).texts;
        assert!(replayed(&adapted).expect_err("no base").contains(&base_id));
        std::fs::write(folder.join(format!("{base_id}.beckon")), &base_file).expect("written");
        replayed(&adapted).expect("the same over the base");
        adapted.adapter = Some("00".into());
        assert!(replayed(&adapted).expect_err("another adapter").contains(&adapter.id));

        // of a GGUF file that the page had open
        let gguf = dir.path().join("policy.gguf");
        pretrained::write_gguf(&checkpoint, &gguf).expect("written");
        let of_page = pretrained::as_in_page(&gguf).expect("read back");
        let opened = recorded(&mut on_this_cpu(&of_page), &of_page.id, PAGE, &request);
        std::fs::write(&path, serde_json::to_string(&opened).expect("JSON")).expect("written");
        let named = Some(gguf.display().to_string());
        replay(&ReplayArgs { file: path.clone(), checkpoint: named, data_dir: None, gpu: false }).expect("the same");
        assert!(replayed(&opened).expect_err("the checkpoint with its reward model").contains(&of_page.id));

        recording.checkpoint = "00".into();
        assert!(replayed(&recording).expect_err("another checkpoint").contains(&id));
        recording.version = 2;
        assert!(replayed(&recording).expect_err("another version").contains("version 2"));
    }
}
