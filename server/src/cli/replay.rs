//! `beckon replay`: suggestions that a page recorded, written again.

use crate::model::pretrained::{self, is_gguf};
use crate::pipeline::export::ADAPTER_EXTENSION;
use anyhow::{Context, bail};
use beckon_shaders::ready;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::engine::{Engine, Limits};
use beckon_shared::replay::{Recording, VERSION};
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
}

/// Writes the suggestions again on this machine's CPU and compares.
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
    let mut engine = match &recording.adapter {
        None => whole(args, &recording)?,
        Some(adapter) => adapted(args, &recording, adapter)?,
    };
    let outcome = ready(engine.suggest(&recording.request, &|| 0.0)).context("the engine waits for a device")??;
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
    bail!("{} of {n} suggestions differ: recorded on {there}, now on {here}", differences.len())
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
    on_this_cpu(&checkpoint)
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
    let mut engine = on_this_cpu(&adapter.frame(base)?)?;
    ready(adapter.apply(&mut engine, None)).context("the engine waits for a device")??;
    Ok(engine)
}

fn on_this_cpu(checkpoint: &Checkpoint) -> anyhow::Result<Engine> {
    Ok(Engine::cpu_within(checkpoint, Limits::of(&checkpoint.manifest.model).fastest())?)
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
    use beckon_shared::engine::SuggestRequest;
    use beckon_shared::prompt::Prompt;
    use beckon_shared::sampling::Sampling;

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
        let limits = Limits::of(&checkpoint.manifest.model);
        let mut engine = Engine::cpu_within(&checkpoint, limits.fastest()).expect("an engine");
        let outcome = ready(engine.suggest(&request, &|| 0.0)).expect("no waiting").expect("suggestions");
        let mut recording = Recording::of(&id, "a page".into(), &request, &outcome);
        assert!(recording.texts.iter().any(|text| !text.is_empty()));
        let replayed = |recording: &Recording| {
            std::fs::write(&path, serde_json::to_string(recording).expect("JSON")).expect("written");
            let checkpoint = Some(checkpoint_path.display().to_string());
            replay(&ReplayArgs { file: path.clone(), checkpoint, data_dir: Some(dir.path().to_owned()) })
                .map_err(|e| format!("{e:#}"))
        };
        replayed(&recording).expect("the same");
        recording.request.sampling.seed += 1;
        let error = replayed(&recording).expect_err("another seed");
        assert!(error.contains("a page") && error.contains("CPU, int8"), "{error}");
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
        let mut engine = on_this_cpu(&adapter.frame(base.clone()).expect("its base")).expect("an engine");
        ready(adapter.apply(&mut engine, None)).expect("no waiting").expect("tested");
        let outcome = ready(engine.suggest(&request, &|| 0.0)).expect("no waiting").expect("suggestions");
        adapted.texts = outcome.suggestions.into_iter().map(|s| s.text).collect();
        assert!(replayed(&adapted).expect_err("no base").contains(&base_id));
        std::fs::write(folder.join(format!("{base_id}.beckon")), &base_file).expect("written");
        replayed(&adapted).expect("the same over the base");
        adapted.adapter = Some("00".into());
        assert!(replayed(&adapted).expect_err("another adapter").contains(&adapter.id));

        // of a GGUF file that the page had open
        let gguf = dir.path().join("policy.gguf");
        pretrained::write_gguf(&checkpoint, &gguf).expect("written");
        let of_page = pretrained::as_in_page(&gguf).expect("read back");
        let mut engine = on_this_cpu(&of_page).expect("an engine");
        let outcome = ready(engine.suggest(&request, &|| 0.0)).expect("no waiting").expect("suggestions");
        let opened = Recording::of(&of_page.id, "a page".into(), &request, &outcome);
        std::fs::write(&path, serde_json::to_string(&opened).expect("JSON")).expect("written");
        let named = Some(gguf.display().to_string());
        replay(&ReplayArgs { file: path.clone(), checkpoint: named, data_dir: None }).expect("the same");
        assert!(replayed(&opened).expect_err("the checkpoint with its reward model").contains(&of_page.id));

        recording.checkpoint = "00".into();
        assert!(replayed(&recording).expect_err("another checkpoint").contains(&id));
        recording.version = 2;
        assert!(replayed(&recording).expect_err("another version").contains("version 2"));
    }
}
