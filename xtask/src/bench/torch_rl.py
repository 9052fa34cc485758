"""Rival of `beckon bench rl`: the same RL step with transformers' `generate` and PyTorch eager.

Same network, prompts of the same length, groups, new tokens, log-probabilities under policy and frozen
reference, policy gradient, gradient clipping and AdamW, f32, as many threads. Argument 1: `rl`; argument 2: the
figure's `setting` as JSON. Prints one JSON object: tokens of all sequences per second (median over the steps)
and the versions.
"""

import copy
import json
import statistics
import sys
import time

import torch
import transformers

N_WARMUP = 2


def logps_of(model, sequences, n_prompt):
    hidden = model.model(sequences, use_cache=False).last_hidden_state[:, n_prompt - 1 : -1]
    logits = model.lm_head(hidden).log_softmax(dim=-1)
    return logits.gather(2, sequences[:, n_prompt:, None]).squeeze(2)


def main():
    setting = json.loads(sys.argv[2])
    c, drawing = setting["model"], setting["drawing"]
    n_prompt, n_new = drawing["n_prompt_tokens"], drawing["n_new_tokens"]
    torch.set_num_threads(setting["n_threads"])
    torch.manual_seed(0)
    model = network(c)
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    speeds = []
    for step in range(N_WARMUP + setting["n_steps"]):
        prompts = torch.randint(5, c["vocab_size"], (drawing["n_prompts"], n_prompt))
        begun = time.perf_counter()
        with torch.no_grad():
            sequences = written(model, prompts, drawing["group_size"], n_new)
            baseline = logps_of(reference, sequences, n_prompt)
        logps = logps_of(model, sequences, n_prompt)
        advantages = torch.arange(len(sequences)).sin()[:, None] - 1e-3 * baseline
        loss = -(logps * advantages).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= N_WARMUP:
            speeds.append(sequences.numel() / (time.perf_counter() - begun))
    versions = f"{torch.__version__}, transformers {transformers.__version__}"
    print(json.dumps({"rival": statistics.median(speeds), "version": versions}))


main()
