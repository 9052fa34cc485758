"""Rival of the bench `generate`: transformers' `generate` in bf16 on the GPU that PyTorch sees.

Same shape, random weights, as many rows going on from one prompt, as many new tokens drawn at temperature 1 from the whole
distribution. Argument 1: `generate`; argument 2: the figure's `setting` as JSON. Prints one JSON object: new tokens of all
rows per second (median over the calls, one before them warms up), the most memory that PyTorch held, the GPU and the
versions.
"""

import json
import statistics
import sys
import time

import torch
import transformers


def main():
    setting = json.loads(sys.argv[2])
    c = setting["model"]
    n_rows, n_new = setting["n_rows"], setting["n_new_tokens"]
    if not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} sees no GPU")
    torch.manual_seed(0)
    model = network(c).to(device="cuda", dtype=torch.bfloat16).eval()
    prompt = torch.randint(5, c["vocab_size"], (1, setting["n_prompt_tokens"]), device="cuda")
    speeds = []
    for call in range(1 + setting["n_repeats"]):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.inference_mode():
            sequences = written(model, prompt, n_rows, n_new)
        torch.cuda.synchronize()
        n_written = n_rows * (sequences.shape[1] - prompt.shape[1])
        if call > 0:
            speeds.append(n_written / (time.perf_counter() - begun))
    versions = f"{torch.__version__}, transformers {transformers.__version__}"
    memory = torch.cuda.max_memory_allocated()
    device = torch.cuda.get_device_name(0)
    print(json.dumps({"rival": statistics.median(speeds), "version": versions, "memory_bytes": memory, "device": device}))


main()
