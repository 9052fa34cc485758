"""Lets llama.cpp load exported GGUF files: `llama_cpp.py ORIGINAL EXPORTED NANO`.

EXPORTED holds the same blocks as ORIGINAL, so greedy texts must be equal and log-probabilities equal to rounding.
NANO is Beckon's own tokenizer and network: it must load, tokenize lower-case text without unknown tokens, and write.
Prints one line a file; the exit status is 1 where something differs.
"""

import json
import sys
import urllib.request

import xllamacpp

PROMPTS = ["how to cook rice", "The capital of France is", "plan a weekend in lisbon for 2", "crème brûlée 東京"]
N_TOKENS = 16


class Model:
    def __init__(self, path):
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx = 256
        params.cpuparams.n_threads = 1
        self.server = xllamacpp.Server(params)

    def ask(self, route, body):
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.server.listening_address}/{route}", data, headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text):
        return self.ask("tokenize", {"content": text, "add_special": False})["tokens"]

    def greedy(self, prompt):
        """Token ids and log-probabilities of greedy decoding."""
        body = {"prompt": prompt, "n_predict": N_TOKENS, "temperature": 0, "n_probs": 1, "cache_prompt": False}
        answer = self.ask("completion", body)
        steps = answer["completion_probabilities"]
        return [step["id"] for step in steps], [step["logprob"] for step in steps]


def main(original, exported, nano):
    before, after, own = Model(original), Model(exported), Model(nano)
    largest = 0.0
    for prompt in PROMPTS:
        if before.tokens(prompt) != after.tokens(prompt):
            sys.exit(f"{exported}: other tokens than {original} for {prompt!r}")
        (ids, logps), (other_ids, other_logps) = before.greedy(prompt), after.greedy(prompt)
        if ids != other_ids or not ids:
            sys.exit(f"{exported}: writes {other_ids}, the original {ids}")
        largest = max(largest, max(abs(a - b) for a, b in zip(logps, other_logps)))
    if not largest <= 1e-3:
        sys.exit(f"{exported}: log-probabilities differ by {largest}")
    print(f"{exported}: llama.cpp writes the same {len(PROMPTS)} texts, log-probabilities within {largest:.1e} nats")
    for prompt in PROMPTS:
        tokens = own.tokens(prompt.lower())
        if not tokens or min(tokens) < 5:
            sys.exit(f"{nano}: {prompt!r} becomes {tokens}, special tokens among them")
    ids, _ = own.greedy("<|user|>how to cook rice<|suggest|>")
    print(f"{nano}: llama.cpp loads it and writes {len(ids)} tokens")


main(*sys.argv[1:])
