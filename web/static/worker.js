// Starts the engine host: the same wasm module as the page, entered through worker_main.
import init, { kernel_module, team_place, worker_main } from "./{{beckon.js}}";

const url = new URL("./{{beckon.wasm}}", import.meta.url);
const n_most = Math.min(new URLSearchParams(location.search).get("threads") ?? navigator.hardwareConcurrency, 8);

// Threads need a memory that they share. The module was made for one of its own, and this worker stays the only one that runs its code:
// others run the kernels' small module, which has no state. So it is enough to set a flag in its limits (2 of section 5).
async function start_shared() {
  const answer = await fetch(url);
  if (!answer.ok) throw answer.status;
  const bytes = new Uint8Array(await answer.arrayBuffer());
  let at = 8;
  const number = () => {
    let value = 0;
    for (let shift = 0, byte = 128; byte > 127; shift += 7) value |= ((byte = bytes[at++]) & 127) << shift;
    return value;
  };
  while (bytes[at++] !== 5) {
    const size = number();
    at += size;
  }
  number(); // bytes
  number(); // memories
  bytes[at] |= 2;
  // what a browser does not take from a shared memory it gets as a copy
  const { decode } = TextDecoder.prototype;
  TextDecoder.prototype.decode = function (view) {
    return decode.call(this, view?.slice());
  };
  TextEncoder.prototype.encodeInto = function (text, view) {
    const bytes = this.encode(text);
    view.set(bytes);
    return { read: text.length, written: bytes.length };
  };
  const random = crypto.getRandomValues.bind(crypto);
  crypto.getRandomValues = (view) => view.set(random(new Uint8Array(view.length)));
  return init({ module_or_path: bytes });
}

async function start() {
  let wasm;
  if (self.crossOriginIsolated && n_most > 1) {
    try {
      wasm = await start_shared();
    } catch (error) {
      // as where so much memory cannot be shared
      console.warn(`one thread: ${error}`);
    }
  }
  const is_shared = !!wasm;
  const { memory } = wasm ?? (await init({ module_or_path: url }));
  let n_threads = 0;
  try {
    const module = new WebAssembly.Module(kernel_module(is_shared));
    self.kernels = new WebAssembly.Instance(module, { page: { memory } }).exports;
    for (n_threads = 1; is_shared && n_threads < n_most; n_threads++) {
      new Worker(new URL("./{{helper.js}}", import.meta.url)).postMessage([module, memory, team_place()]);
    }
  } catch {
    // a browser without relaxed vectors
  }
  worker_main(n_threads, n_threads > 0 && self.kernels.has_dot());
}

try {
  await start();
} catch (error) {
  postMessage(JSON.stringify({ id: 0, reply: { failed: `the engine could not start: ${error}` } }));
  throw error;
}
