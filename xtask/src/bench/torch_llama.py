"""What the rivals that write text share; stands before each of them."""

import torch
import transformers


def network(c):
    """Our network with random weights; `c` is a figure's `setting["model"]`."""
    config = transformers.LlamaConfig(
        vocab_size=c["vocab_size"],
        hidden_size=c["d_model"],
        intermediate_size=c["d_ff"],
        num_hidden_layers=c["n_layers"],
        num_attention_heads=c["n_heads"],
        num_key_value_heads=c["n_kv_heads"],
        head_dim=c["head_dim"],
        max_position_embeddings=c["max_seq_len"],
        rms_norm_eps=c["norm_eps"],
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def written(model, prompts, n_sequences, n_new):
    """As many sequences a prompt, as many new tokens each, drawn at temperature 1 from the whole distribution."""
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=n_sequences,
        min_new_tokens=n_new,
        max_new_tokens=n_new,
    )


