// A thread of the engine: takes pieces of products for as long as the worker lives (shaders/build/team.rs).
onmessage = ({ data: [module, memory, place] }) =>
  new WebAssembly.Instance(module, { page: { memory } }).exports.help(place);
