//! Loading: a whole checkpoint, or, where the checkpoint that it was trained from is here, the adapter over it, or a GGUF file. What
//! is new is made and tested beside the old one and then exchanged; after a failure the old one goes on.

use super::{Host, Hosted, Order, Progress, cpu_engine, device_name, faster, fault, measure};
use crate::fetch::{self, Fetched, Unannounced};
use crate::platform::picked::Picked;
use crate::platform::{clock, kept};
use crate::wire::{ExecutorChoice, ExecutorKind, Gguf, LoadStep, Loaded, Over};
use beckon_shared::adapter::{AdapterError, AdapterFile};
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::CheckpointInfo;
use beckon_shared::engine::EngineError;
use beckon_shared::gguf::Ranges;
use beckon_shared::gguf::llama::checkpoint_of_page;

/// What engines are made of.
struct Files {
    /// The checkpoint, or the base as an adapter wants it.
    checkpoint: Checkpoint,
    adapter: Option<AdapterFile>,
    /// Bytes that came over the network.
    n_bytes: u64,
    /// Size of a file that nobody announced.
    n_file_bytes: Option<u64>,
    notice: Option<String>,
}

impl Host {
    /// Puts what was ordered in place of the side's old one.
    pub(super) async fn load(&mut self, id: u32, order: Order) -> Result<Loaded, String> {
        let begun = clock::now_secs();
        let name = order.info.name.clone();
        let progress = Progress { id, name: &name };
        progress.at(if order.gguf.is_some() { LoadStep::Read } else { LoadStep::Download }).await;
        let side = order.side.index();
        if let Some(over) = order.over.as_ref().filter(|over| self.lies_over(&order, over))
            && let Some(loaded) = self.swap(&order, over, &progress, begun).await?
        {
            return Ok(loaded);
        }
        let files = self.meanwhile(order.side, files(&order, &progress)).await?;
        let over = order.over.filter(|_| files.adapter.is_some());
        let (n_fetched_bytes, notice) = (files.n_bytes, files.notice.clone());
        let mut info = order.info;
        if let Some(n_bytes) = files.n_file_bytes {
            // what was not announced gets its name here
            info.id.clone_from(&files.checkpoint.id);
            info.n_bytes = n_bytes;
        }
        let mut hosted = self.prepare(files, (info, over), order.choice, &progress).await?;
        let loaded = &mut hosted.loaded;
        let unscored = if order.gguf.is_some() {
            "A GGUF file holds no reward model: suggestions are written, and nothing scores them."
        } else {
            "This checkpoint has no reward model yet: suggestions are not scored."
        };
        let unscored = unscored.to_owned();
        // a device that is back need not be the faster executor
        let returned = self.lost.take_if(|_| self.gpu.is_some());
        let returned = returned.map(|why| format!("The GPU was lost ({why}) and is back."));
        let notices = [notice, returned, (!hosted.cpu.has_reward()).then_some(unscored)];
        let notices = notices.into_iter().flatten().collect::<Vec<_>>();
        loaded.notice = (!notices.is_empty()).then(|| notices.join(" "));
        loaded.gguf = order.gguf;
        loaded.n_fetched_bytes = n_fetched_bytes;
        loaded.load_secs = clock::now_secs() - begun;
        loaded.quota = kept::quota().await;
        let loaded = loaded.clone();
        self.sides[side] = Some(hosted);
        Ok(loaded)
    }

    /// Whether the side's engines lie over this base already, so that only the adapter has to be exchanged.
    fn lies_over(&self, order: &Order, over: &Over) -> bool {
        self.sides[order.side.index()].as_ref().is_some_and(|hosted| {
            let base = hosted.adapter.as_ref().map(|adapter| &adapter.manifest.base);
            // a GPU that was lost comes back with engines of its own
            let may_return = order.choice != ExecutorChoice::Cpu && hosted.was_lost;
            base == Some(&over.base.id) && hosted.choice == order.choice && !may_return
        })
    }

    /// Another adapter over the same base, on all executors or on none. `None` where its reward model has another depth:
    /// then the engines have to be made anew.
    async fn swap(
        &mut self,
        order: &Order,
        over: &Over,
        progress: &Progress<'_>,
        begun: f64,
    ) -> Result<Option<Loaded>, String> {
        let Fetched { file, n_bytes, notice } =
            self.meanwhile(order.side, adapter(&order.info, over, progress)).await?;
        progress.at(LoadStep::Swap).await;
        let Some(hosted) = &mut self.sides[order.side.index()] else { return Err("it was unloaded".into()) };
        let old = hosted.adapter.as_ref();
        if old.is_some_and(|old| old.manifest.reward.n_layers != file.manifest.reward.n_layers) {
            return Ok(None);
        }
        file.apply(&mut hosted.cpu, old).await.map_err(|e| e.to_string())?;
        if let Some(gpu) = &mut hosted.gpu
            && let Err(error) = file.apply(gpu, old).await
        {
            let AdapterError::Engine(error @ EngineError::Gpu(_)) = error else {
                hosted.cpu.set_adapter(old.map(|old| &old.adapter)).await.map_err(|e| e.to_string())?;
                return Err(error.to_string());
            };
            let why = fault(&mut self.gpu, &error).await;
            hosted.drop_gpu(&why);
            self.lost = Some(why);
        }
        hosted.adapter = Some(file);
        let loaded = &mut hosted.loaded;
        loaded.checkpoint = order.info.clone();
        loaded.over = Some(over.clone());
        loaded.n_fetched_bytes = n_bytes;
        loaded.notice = notice;
        loaded.load_secs = clock::now_secs() - begun;
        loaded.quota = kept::quota().await;
        Ok(Some(loaded.clone()))
    }

    /// Engines of `files`, tested and measured.
    async fn prepare(
        &mut self,
        files: Files,
        (info, over): (CheckpointInfo, Option<Over>),
        choice: ExecutorChoice,
        progress: &Progress<'_>,
    ) -> Result<Hosted, String> {
        let Files { checkpoint, adapter, .. } = files;
        progress.at(LoadStep::Compile).await;
        let (n_params, max_seq_len) = (checkpoint.manifest.model.n_params(), checkpoint.manifest.model.max_seq_len);
        let mut cpu = cpu_engine(checkpoint)?;
        let mut hosted_gpu = None;
        let mut self_test = None;
        let mut measured = Vec::new();
        let mut tested = match choice {
            ExecutorChoice::Cpu => Err("you chose the CPU".to_owned()),
            _ => self.tested_gpu(&mut cpu, progress, &mut self_test).await,
        };
        if let Some(adapter) = &adapter {
            adapter.apply(&mut cpu, None).await.map_err(|e| e.to_string())?;
            if let Ok(gpu) = &mut tested
                && let Err(error) = adapter.apply(gpu, None).await
            {
                tested = Err(format!("the GPU refused the adapter: {error}"));
            }
        }
        let (executor, why) = match tested {
            Err(why) => (ExecutorKind::Cpu, why),
            Ok(gpu) => {
                let gpu = hosted_gpu.insert(gpu);
                if choice == ExecutorChoice::Gpu {
                    (ExecutorKind::Gpu, "you chose the GPU, and it passed the self-test".to_owned())
                } else {
                    progress.at(LoadStep::Measure).await;
                    measured.push(measure(ExecutorKind::Cpu, &mut cpu).await.map_err(|e| e.to_string())?);
                    match measure(ExecutorKind::Gpu, gpu).await {
                        Ok(of_gpu) => {
                            measured.push(of_gpu);
                            faster(&measured)
                        }
                        Err(error) => {
                            let why = fault(&mut self.gpu, &error).await;
                            (ExecutorKind::Cpu, format!("the GPU failed while it was measured: {why}"))
                        }
                    }
                }
            }
        };
        if executor == ExecutorKind::Cpu {
            hosted_gpu = None;
        }
        let loaded = Loaded {
            n_params,
            max_seq_len,
            adapter: device_name(hosted_gpu.as_ref().unwrap_or(&cpu)),
            checkpoint: info,
            executor,
            why,
            self_test,
            measured,
            over,
            gguf: None,
            n_fetched_bytes: 0,
            quota: None,
            load_secs: 0.0,
            notice: None,
        };
        Ok(Hosted { loaded, choice, cpu, gpu: hosted_gpu, adapter, was_lost: false })
    }
}

/// The adapter over its base where the browser keeps that one, else the whole checkpoint.
async fn files(order: &Order, progress: &Progress<'_>) -> Result<Files, String> {
    if let Some(gguf) = &order.gguf {
        return files_of_gguf(gguf, order.file.as_ref(), progress).await;
    }
    let on_share = |share| progress.share(LoadStep::Download, Some(share));
    if let Some(over) = &order.over
        && let Some(base) = fetch::kept_checkpoint(&over.base, &on_share).await
    {
        let Fetched { file, n_bytes, notice } = adapter(&order.info, over, progress).await?;
        let checkpoint = file.frame(base).map_err(|e| e.to_string())?;
        return Ok(Files { checkpoint, adapter: Some(file), n_bytes, n_file_bytes: None, notice });
    }
    let Fetched { file, n_bytes, notice } = fetch::checkpoint(&order.info, &on_share).await?;
    Ok(Files { checkpoint: file, adapter: None, n_bytes, n_file_bytes: None, notice })
}

/// A GGUF file as a checkpoint; what is in memory at any time are its weights and one part of the file.
async fn files_of_gguf(gguf: &Gguf, file: Option<&web_sys::File>, progress: &Progress<'_>) -> Result<Files, String> {
    let on_share = |share| progress.share(LoadStep::Read, Some(share));
    let (checkpoint, n_bytes, n_file_bytes) = match gguf {
        Gguf::Picked => {
            let mut file = Picked(file.ok_or("the file is gone; pick it again")?.clone());
            (checkpoint_of_page(&mut file, &on_share).await, 0, file.n_bytes())
        }
        Gguf::Address(url) => {
            let mut file = Unannounced::open(url).await?;
            (checkpoint_of_page(&mut file, &on_share).await, file.n_fetched(), file.n_bytes())
        }
    };
    let checkpoint = checkpoint.map_err(|e| e.to_string())?;
    Ok(Files { checkpoint, adapter: None, n_bytes, n_file_bytes: Some(n_file_bytes), notice: None })
}

/// The adapter of a checkpoint, for the base that it was announced with.
async fn adapter(info: &CheckpointInfo, over: &Over, progress: &Progress<'_>) -> Result<Fetched<AdapterFile>, String> {
    let on_share = |share| progress.share(LoadStep::Download, Some(share));
    let fetched = fetch::adapter(&info.id, &over.adapter, &on_share).await;
    let fits = fetched.and_then(|fetched| {
        fetched.file.check_base(&over.base.id).map_err(|e| e.to_string())?;
        Ok(fetched)
    });
    fits.map_err(|e| format!("its adapter over {} was not used: {e}", over.base.name))
}
