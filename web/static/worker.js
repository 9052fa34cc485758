// Starts the engine host: the same wasm module as the page, entered through worker_main.
import init, { worker_main } from "./{{beckon.js}}";

try {
  await init({ module_or_path: new URL("./{{beckon.wasm}}", import.meta.url) });
  worker_main();
} catch (error) {
  postMessage(JSON.stringify({ id: 0, reply: { failed: `the engine could not start: ${error}` } }));
  throw error;
}
