// Starts the page: loads the wasm module and calls page_main. What goes wrong is shown, not only logged.
import init, { page_main } from "./{{beckon.js}}";

try {
  await init({ module_or_path: new URL("./{{beckon.wasm}}", import.meta.url) });
  page_main();
} catch (error) {
  const text = document.getElementById("boot-text");
  if (text) {
    text.textContent =
      `The page could not start: ${error}. It needs a browser with WebAssembly SIMD ` +
      "(Chrome 91, Firefox 89, Safari 16.4 or newer). Reload to try again.";
    text.setAttribute("role", "alert");
  }
  throw error;
}
