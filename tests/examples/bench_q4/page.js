// Both sides of the bench in one page: onnxruntime-web's session and our kernel, on the same adapter, inputs and
// outputs on the GPU. A timing is the time from the call until the queue is idle, divided by the products made.

import * as ort from "/ort/ort.webgpu.min.mjs";

const N_REPEATS = 5;
const { COPY_DST, COPY_SRC, MAP_READ, STORAGE, UNIFORM } = GPUBufferUsage;

const fetched = async (path) => {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.arrayBuffer();
};

const buffer = (device, bytes, usage) => {
  const made = device.createBuffer({ size: Math.max(16, bytes.byteLength), usage: usage | COPY_DST | COPY_SRC });
  device.queue.writeBuffer(made, 0, bytes);
  return made;
};

let ourDevice;
async function device() {
  if (!ourDevice) {
    const adapter = await navigator.gpu.requestAdapter();
    const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
    ourDevice = await adapter.requestDevice({ requiredLimits: { maxBufferSize, maxStorageBufferBindingSize } });
    ourDevice.addEventListener("uncapturederror", (event) => console.error(event.error.message));
  }
  return ourDevice;
}

async function ours(job, x) {
  const gpu = await device();
  const module = gpu.createShaderModule({ code: new TextDecoder().decode(await fetched("/kernel.wgsl")) });
  const compute = { module, entryPoint: "main", constants: job.constants };
  const pipeline = await gpu.createComputePipelineAsync({ layout: "auto", compute });
  const params = buffer(gpu, new Uint32Array(job.params), UNIFORM);
  const input = buffer(gpu, x, STORAGE);
  const held = [params, input];
  const outputs = [];
  const groups = [];
  for (let i = 0; i < job.n_ops; i++) {
    const [quants, scales] = await Promise.all(["quants", "scales"].map((part) => fetched(`/${part}/${i}`)));
    const weights = [quants, scales].map((bytes) => buffer(gpu, bytes, STORAGE));
    const out = gpu.createBuffer({ size: job.n_rows * job.n_outputs * 4, usage: STORAGE | COPY_SRC });
    held.push(...weights, out);
    outputs.push(out);
    const entries = [params, ...weights, input, out].map((b, binding) => ({ binding, resource: { buffer: b } }));
    groups.push(gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  }
  return {
    async run() {
      const encoder = gpu.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      for (const group of groups) {
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...job.workgroups);
      }
      pass.end();
      gpu.queue.submit([encoder.finish()]);
      await gpu.queue.onSubmittedWorkDone();
    },
    async output() {
      const last = outputs.at(-1);
      const staging = gpu.createBuffer({ size: last.size, usage: MAP_READ | COPY_DST });
      const encoder = gpu.createCommandEncoder();
      encoder.copyBufferToBuffer(last, 0, staging, 0, last.size);
      gpu.queue.submit([encoder.finish()]);
      await staging.mapAsync(GPUMapMode.READ);
      const values = new Float32Array(staging.getMappedRange().slice(0));
      staging.destroy();
      return values;
    },
    free: () => held.forEach((b) => b.destroy()),
  };
}

async function rival(job, x) {
  ort.env.wasm.numThreads = 1;
  const options = { executionProviders: ["webgpu"], preferredOutputLocation: "gpu-buffer" };
  const session = await ort.InferenceSession.create(new Uint8Array(await fetched("/model")), options);
  const gpu = await ort.env.webgpu.device;
  const input = buffer(gpu, x, STORAGE);
  const dims = [1, job.n_rows, job.cols];
  const feeds = { x: ort.Tensor.fromGpuBuffer(input, { dataType: "float32", dims }) };
  let outputs = {};
  const dispose = () => Object.values(outputs).forEach((tensor) => tensor.dispose());
  return {
    async run() {
      dispose();
      outputs = await session.run(feeds);
      await gpu.queue.onSubmittedWorkDone();
    },
    output: () => outputs[`y${job.n_ops - 1}`].getData(),
    async free() {
      dispose();
      input.destroy();
      await session.release();
    },
  };
}

async function timed(side, job) {
  const begun = performance.now();
  await side.run();
  return (performance.now() - begun) / job.n_ops;
}

// Milliseconds a product of every repeat, and how far the two results lie apart.
window.bench = async (job) => {
  const x = new Float32Array(await fetched("/input"));
  const us = await ours(job, x);
  const them = await rival(job, x);
  await us.run();
  await them.run();
  const [a, b] = [await us.output(), await them.output()];
  let difference = a.length === b.length ? 0 : Infinity;
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const apart = Math.abs(a[i] - b[i]);
    // a comparison with NaN is false; infinity arrives as null
    if (!(apart <= difference)) difference = Number.isNaN(apart) ? Infinity : apart;
    largest = Math.max(largest, Math.abs(b[i]));
  }
  const result = { ours: [], rival: [], difference, largest };
  for (let i = 0; i < N_REPEATS; i++) {
    result.ours.push(await timed(us, job));
    result.rival.push(await timed(them, job));
  }
  us.free();
  await them.free();
  return result;
};
window.ready = true;
