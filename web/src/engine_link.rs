//! The page's end of the engine: starts the worker, numbers requests, keeps what each side has loaded,
//! and loads what the user (or a new checkpoint) asks for. A new engine replaces the old one only when it
//! is loaded and has passed its self-test; until then, and after a failure, the old one answers.

use crate::api;
use crate::live::Live;
use crate::platform::promise::{self, Sender};
use crate::platform::worker_link::WorkerLink;
use crate::platform::{clock, dom, spawn, storage};
use crate::wire::{
    ExecutorChoice, ExecutorKind, FromWorker, Gguf, LoadProgress, Loaded, Over, Reply, Request, Side, Suggested,
    ToWorker,
};
use beckon_shared::control::CheckpointInfo;
use beckon_shared::control::registry::AdapterInfo;
use beckon_shared::json;
use leptos::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;

/// Requests that may be under way; more is a defect of the caller, and is refused.
const MAX_PENDING: usize = 32;

/// For an answer to another request.
pub const UNEXPECTED: &str = "the engine gave an unexpected answer; reload the page";
/// How often a GPU that was lost is taken again in one visit; one that is lost time and again is left.
const MAX_RECOVERIES: u32 = 3;

type Answer = Result<Reply, String>;

struct Pending {
    answer: Sender<Answer>,
    progress: Option<RwSignal<Option<LoadProgress>>>,
}

/// A GGUF file.
#[derive(Clone)]
pub enum Opened {
    /// Of the user's.
    Picked(web_sys::File),
    /// At an address of this origin.
    Address(String),
}

#[derive(Default)]
struct Inner {
    worker: Option<WorkerLink>,
    listening: bool,
    /// Texts, with files, that wait for the worker to listen.
    outbox: Vec<(String, Option<web_sys::File>)>,
    /// What was opened, by the id under which it is picked.
    opened: HashMap<String, Opened>,
    next_id: u32,
    pending: HashMap<u32, Pending>,
}

thread_local! {
    // the worker belongs to the page, not to a component
    static INNER: RefCell<Inner> = RefCell::default();
}

/// What one side shows.
#[derive(Clone, Copy)]
pub struct SideState {
    /// What is wanted: a checkpoint id; for A `None` follows the newest, for B it means off.
    pub pick: RwSignal<Option<String>>,
    /// Engine that answers.
    pub loaded: RwSignal<Option<Loaded>>,
    /// A load under way.
    pub progress: RwSignal<Option<LoadProgress>>,
    /// Why the last load failed.
    pub failure: RwSignal<Option<String>>,
    /// Whether the load that failed could be tried without an adapter.
    pub has_whole: RwSignal<bool>,
    /// Checkpoint that is wanted whole.
    whole: RwSignal<Option<String>>,
    /// Checkpoint and choice of the last load that was begun.
    attempt: RwSignal<Option<(String, ExecutorChoice)>>,
}

/// The engine as the page sees it.
#[derive(Clone, Copy)]
pub struct EngineLink {
    /// Sides A and B.
    pub sides: [SideState; 2],
    /// Executor the user wants.
    pub choice: RwSignal<ExecutorChoice>,
    /// Whether anyone needs the engine yet; it is not loaded before.
    pub wanted: RwSignal<bool>,
    /// GGUF files that can be picked beside the server's checkpoints.
    pub opened: RwSignal<Vec<CheckpointInfo>>,
    live: Live,
    /// Adapters by checkpoint, as the server last said.
    adapters: StoredValue<HashMap<String, Over>>,
    n_recoveries: StoredValue<u32>,
}

impl EngineLink {
    /// No worker yet; it starts when [`Self::wanted`] becomes true.
    pub fn new(live: Live) -> Self {
        let side = || SideState {
            pick: RwSignal::new(None),
            loaded: RwSignal::new(None),
            progress: RwSignal::new(None),
            failure: RwSignal::new(None),
            has_whole: RwSignal::new(false),
            whole: RwSignal::new(None),
            attempt: RwSignal::new(None),
        };
        let link = Self {
            sides: [side(), side()],
            choice: RwSignal::new(storage::load("executor").unwrap_or_default()),
            wanted: RwSignal::new(false),
            opened: RwSignal::new(Vec::new()),
            live,
            adapters: StoredValue::new(HashMap::new()),
            n_recoveries: StoredValue::new(0),
        };
        Effect::new(move || storage::save("executor", &link.choice.get()));
        for side in Side::ALL {
            Effect::new(move || link.follow(side));
        }
        link
    }

    /// One side.
    pub fn side(&self, side: Side) -> SideState {
        self.sides[side.index()]
    }

    /// Checkpoint that a side should have, tracked.
    pub fn target(&self, side: Side) -> Option<CheckpointInfo> {
        let pick = self.side(side).pick.get();
        let opened = self.opened.with(|opened| opened.iter().find(|c| pick.as_ref() == Some(&c.id)).cloned());
        if opened.is_some() {
            return opened;
        }
        self.live.checkpoints.with(|list| {
            let list = list.value()?;
            match (pick, side) {
                (Some(id), _) => list.iter().find(|c| c.id == id).cloned(),
                (None, Side::A) => list.first().cloned(),
                (None, Side::B) => None,
            }
        })
    }

    /// The newest checkpoint other than `id`.
    pub fn other_checkpoint(&self, id: Option<&str>) -> Option<String> {
        self.live.checkpoints.with_untracked(|list| {
            list.value()?.iter().map(|c| &c.id).find(|other| Some(other.as_str()) != id).cloned()
        })
    }

    /// Puts a GGUF file among what can be picked, and picks it.
    pub fn open(&self, side: Side, opened: Opened) {
        let (name, n_bytes) = match &opened {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the size of a file")]
            Opened::Picked(file) => (file.name(), file.size() as u64),
            Opened::Address(address) => (address.clone(), 0),
        };
        let id = INNER.with_borrow_mut(|inner| {
            let id = format!("gguf-{}", inner.opened.len() + 1);
            inner.opened.insert(id.clone(), opened);
            id
        });
        let (simulated, built_in) = (false, false);
        let info =
            CheckpointInfo { id: id.clone(), name, run_id: None, n_bytes, created_millis: 0, simulated, built_in };
        self.opened.update(|all| all.push(info));
        let state = self.side(side);
        state.failure.set(None);
        state.pick.set(Some(id));
        self.wanted.set(true);
    }

    /// Tries the last load again; `whole`: without an adapter.
    pub fn retry(&self, side: Side, whole: bool) {
        let state = self.side(side);
        state.failure.set(None);
        if whole {
            state.whole.set(state.attempt.get_untracked().map(|(id, _)| id));
        }
        state.attempt.set(None);
    }

    /// Asks for suggestions. A GPU that is lost meanwhile has been replaced by the CPU, and is taken again.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn suggest(&self, side: Side, request: Request) -> Result<Suggested, String> {
        let Reply::Suggested(suggested) = self.call(request, None).await? else { return Err(UNEXPECTED.into()) };
        let loaded = self.side(side).loaded;
        let was = loaded.with_untracked(|l| l.as_ref().map(|l| l.executor));
        loaded.set(Some(suggested.engine.clone()));
        if was == Some(ExecutorKind::Gpu) && suggested.engine.executor == ExecutorKind::Cpu {
            self.live.announce(format!("Preview {}: {}.", side.letter(), suggested.engine.why));
            let n_recoveries = self.n_recoveries.get_value();
            if n_recoveries < MAX_RECOVERIES {
                self.n_recoveries.set_value(n_recoveries + 1);
                self.retry(side, false);
            }
        }
        Ok(*suggested)
    }

    /// The adapter that gives a checkpoint over another one. Without an answer from the server what it said before holds.
    async fn over(&self, id: &str) -> Option<Over> {
        if let Ok(list) = api::registry().await {
            let base = |id: &str| list.iter().find(|entry| entry.info.id == id).map(|entry| entry.info.clone());
            let over = |adapter: AdapterInfo| Some(Over { base: base(&adapter.base)?, adapter });
            let all = list.iter().filter_map(|entry| Some((entry.info.id.clone(), over(entry.adapter.clone()?)?)));
            self.adapters.set_value(all.collect());
        }
        self.adapters.with_value(|all| all.get(id).cloned())
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// What the engine says, or that it stopped.
    pub async fn call(&self, request: Request, progress: Option<RwSignal<Option<LoadProgress>>>) -> Answer {
        self.call_with(request, None, progress).await
    }

    async fn call_with(
        &self,
        request: Request,
        file: Option<web_sys::File>,
        progress: Option<RwSignal<Option<LoadProgress>>>,
    ) -> Answer {
        let (sender, receiver) = promise::channel();
        self.post(request, file, Pending { answer: sender, progress })?;
        match receiver.receive().await {
            Some(Ok(Reply::Failed(reason))) => Err(reason),
            Some(answer) => answer,
            None => Err("the engine stopped".into()),
        }
    }

    /// Waits until a side has an engine.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ready(&self, side: Side) -> Result<Loaded, String> {
        self.wanted.set(true);
        let state = self.side(side);
        loop {
            if let Some(loaded) = state.loaded.get_untracked() {
                return Ok(loaded);
            }
            if let Some(failure) = state.failure.get_untracked() {
                return Err(failure);
            }
            if side == Side::B && state.pick.with_untracked(Option::is_none) {
                return Err("nothing is compared any more".to_owned());
            }
            let no_list = self.live.checkpoints.with_untracked(|c| match c.value() {
                Some(list) if list.is_empty() => Some("the server has no checkpoint yet".to_owned()),
                _ => c.failure().map(str::to_owned),
            });
            if let Some(reason) = no_list {
                return Err(reason);
            }
            clock::sleep(50).await;
        }
    }

    /// Effect: loads what a side should have and has not tried yet.
    fn follow(self, side: Side) {
        if !self.wanted.get() {
            return;
        }
        let state = self.side(side);
        let choice = self.choice.get();
        let target = self.target(side);
        let attempt = state.attempt.get();
        let Some(target) = target else {
            let is_off = side == Side::B && state.pick.with(Option::is_none);
            if is_off && attempt.is_some() {
                state.attempt.set(None);
                state.loaded.set(None);
                state.failure.set(None);
                state.progress.set(None);
                spawn(async move {
                    // a worker that is gone has nothing to free
                    let _ = self.call(Request::Unload { side }, None).await;
                });
            }
            return;
        };
        if attempt.as_ref().is_some_and(|(id, tried)| *id == target.id && *tried == choice) {
            return;
        }
        state.attempt.set(Some((target.id.clone(), choice)));
        spawn(self.load(side, target, choice));
    }

    async fn load(self, side: Side, checkpoint: CheckpointInfo, choice: ExecutorChoice) {
        let state = self.side(side);
        let (name, id) = (checkpoint.name.clone(), checkpoint.id.clone());
        state.failure.set(None);
        let (gguf, file) = match INNER.with_borrow(|inner| inner.opened.get(&id).cloned()) {
            None => (None, None),
            Some(Opened::Picked(file)) => (Some(Gguf::Picked), Some(file)),
            Some(Opened::Address(address)) => (Some(Gguf::Address(address)), None),
        };
        let is_whole = gguf.is_some() || state.whole.with_untracked(|whole| whole.as_ref() == Some(&id));
        let over = if is_whole { None } else { self.over(&id).await };
        let is_last =
            || state.attempt.with_untracked(|a| a.as_ref().is_some_and(|(last, by)| *last == id && *by == choice));
        // another choice was made while the server was asked, and is with the worker already
        if !is_last() {
            return;
        }
        let has_whole = over.is_some();
        let request = Request::Load { side, checkpoint, executor: choice, over, gguf };
        let answer = self.call_with(request, file, Some(state.progress)).await;
        if !is_last() {
            // a later load has taken over and its outcome counts; until then this is what the worker has
            if let (Ok(Reply::Loaded(loaded)), true) = (answer, state.attempt.with_untracked(Option::is_some)) {
                state.loaded.set(Some(*loaded));
            }
            return;
        }
        state.progress.set(None);
        match answer {
            Ok(Reply::Loaded(loaded)) => {
                let over = loaded.over.as_ref().map(|over| format!(" as an adapter over {}", over.base.name));
                self.live.announce(format!(
                    "Preview {} uses checkpoint {}{}{} on {}",
                    side.letter(),
                    loaded.checkpoint.name,
                    over.unwrap_or_default(),
                    if loaded.checkpoint.simulated { ", trained on simulated clicks," } else { "" },
                    loaded.executor.label(),
                ));
                state.failure.set(None);
                state.loaded.set(Some(*loaded));
            }
            Ok(_) => state.failure.set(Some(UNEXPECTED.into())),
            Err(reason) => {
                state.has_whole.set(has_whole);
                let kept = state.loaded.with_untracked(|l| l.as_ref().map(|l| l.checkpoint.name.clone()));
                let kept = kept.map(|kept| format!(" {kept} stays in use.")).unwrap_or_default();
                let text = format!("Checkpoint {name} could not be loaded: {reason}.{kept}");
                self.live.announce(text.clone());
                state.failure.set(Some(text));
            }
        }
    }

    fn post(&self, request: Request, file: Option<web_sys::File>, pending: Pending) -> Result<(), String> {
        let link = *self;
        INNER.with_borrow_mut(|inner| {
            if inner.pending.len() >= MAX_PENDING {
                return Err("the engine is busy; try again in a moment".to_owned());
            }
            if inner.worker.is_none() {
                let url = dom::meta("beckon-worker").ok_or("index.html names no worker")? + &dom::search();
                inner.worker =
                    Some(WorkerLink::start(&url, move |text| link.receive(&text), move |e| link.crashed(&e))?);
                inner.listening = false;
            }
            inner.next_id = inner.next_id.wrapping_add(1).max(1);
            let id = inner.next_id;
            let text = serde_json::to_string(&ToWorker { id, request }).map_err(|e| e.to_string())?;
            inner.pending.insert(id, pending);
            match &inner.worker {
                Some(worker) if inner.listening => worker.post(&text, file.as_ref()),
                _ => {
                    inner.outbox.push((text, file));
                    Ok(())
                }
            }
        })
    }

    fn receive(&self, text: &str) {
        let Ok(FromWorker { id, reply }) = json::parse(text) else { return };
        match reply {
            Reply::Listening => INNER.with_borrow_mut(|inner| {
                inner.listening = true;
                for (text, file) in std::mem::take(&mut inner.outbox) {
                    if let Some(worker) = &inner.worker {
                        let _ = worker.post(&text, file.as_ref());
                    }
                }
            }),
            // number 0: the worker could not start
            Reply::Failed(reason) if id == 0 => self.crashed(&reason),
            Reply::Progress(progress) => {
                let signal = INNER.with_borrow(|inner| inner.pending.get(&id).and_then(|p| p.progress));
                if let Some(signal) = signal {
                    signal.set(Some(progress));
                }
            }
            reply => {
                if let Some(pending) = INNER.with_borrow_mut(|inner| inner.pending.remove(&id)) {
                    pending.answer.send(Ok(reply));
                }
            }
        }
    }

    /// Takes the worker down; the next request starts a new one.
    fn crashed(&self, reason: &str) {
        let (worker, pending) = INNER.with_borrow_mut(|inner| {
            inner.outbox.clear();
            (inner.worker.take(), std::mem::take(&mut inner.pending))
        });
        // we may be inside a callback of this worker, so it is dropped later
        spawn(async move {
            clock::sleep(0).await;
            drop(worker);
        });
        let text = format!("the engine stopped ({reason})");
        for side in self.sides {
            if side.loaded.with_untracked(Option::is_some) {
                side.loaded.set(None);
                side.failure.set(Some(format!("{text}. Load it again.")));
            }
        }
        for (_, pending) in pending {
            pending.answer.send(Err(text.clone()));
        }
    }
}
