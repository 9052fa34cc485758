// Both sides in one page: the worker that the product's page ships, driven by the product's own messages, and wllama
// on as many threads. Neither page sees the other's clock: prefill and decoding are timed inside each engine, the whole
// job from here.

import { Wllama } from "/wllama/index.js";

let worker;
let lastId = 0;

// A request to the product's worker; gives the reply's data.
function ask(request) {
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    const listener = ({ data }) => {
      const message = JSON.parse(data);
      if (message.id !== id || message.reply.progress) return;
      worker.removeEventListener("message", listener);
      if (message.reply.failed) reject(new Error(message.reply.failed));
      else resolve(Object.values(message.reply)[0]);
    };
    worker.addEventListener("message", listener);
    worker.postMessage(JSON.stringify({ id, request }));
  });
}

async function startWorker(script) {
  worker = new Worker(script, { type: "module" });
  await new Promise((resolve, reject) => {
    worker.addEventListener("message", resolve, { once: true });
    worker.addEventListener("error", (event) => reject(new Error(event.message)), { once: true });
  });
}

const logger = { debug() {}, log() {}, warn() {}, error: console.error };
const rival = new Wllama({ default: "/wllama/wasm/wllama.wasm" }, { suppressNativeLog: true, logger });

// Loads the checkpoint on the CPU and the same model in wllama; says what each runs on.
window.load = async ({ script, checkpoint, model, nThreads }) => {
  await startWorker(script);
  const loaded = await ask({ load: { side: "a", checkpoint, executor: "cpu" } });
  const file = await (await fetch(model)).blob();
  await rival.loadModel([file], { n_threads: nThreads, n_gpu_layers: 0, n_ctx: 1024, n_parallel: 1 });
  if (rival.isMultithread() !== nThreads > 1 || rival.getNumThreads() !== nThreads) throw new Error(`wllama took ${rival.getNumThreads()} threads`);
  return { adapter: loaded.adapter, version: Wllama.getLibllamaVersion(), agent: navigator.userAgent };
};

// Suggestions of our engine, with its timings and the seconds of the whole job as the page sees it.
window.ours = async ({ turns, sampling }, nCandidates, nTokens) => {
  const begun = performance.now();
  const got = await ask({
    suggest: { side: "a", prompt: turns, n_candidates: nCandidates, max_new_tokens: nTokens, sampling },
  });
  const secs = (performance.now() - begun) / 1e3;
  return {
    secs, prefillSecs: got.prefill_secs, decodeSecs: got.decode_secs, scoreSecs: got.score_secs,
    promptTokens: got.n_prompt_tokens, tokens: got.n_decoded_tokens, text: got.candidates[0].text,
    scored: got.candidates.filter((c) => c.score).length, executor: got.engine.executor,
  };
};

// The same by wllama, completion after completion; its prompt cache is on, and warm from the second one on.
window.theirs = async ({ text, sampling }, nCandidates, nTokens) => {
  const { temperature, top_k, top_p, seed } = sampling;
  const result = { prefillSecs: 0, decodeSecs: 0, promptTokens: 0, tokens: 0, cached: [] };
  const begun = performance.now();
  for (let i = 0; i < nCandidates; i++) {
    const got = await rival.createCompletion({
      prompt: text, max_tokens: nTokens, temperature, top_k, top_p, min_p: 0, seed: seed + i, ignore_eos: true,
      cache_prompt: true,
    });
    result.tokens += got.usage.completion_tokens;
    result.promptTokens = got.usage.prompt_tokens;
    result.prefillSecs += got.timings.prompt_ms / 1e3;
    result.decodeSecs += got.timings.predicted_ms / 1e3;
    result.cached.push(got.timings.cache_n);
    result.text ??= got.choices[0].text;
  }
  result.secs = (performance.now() - begun) / 1e3;
  return result;
};
window.ready = true;
