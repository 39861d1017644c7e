"""Tiny random models of the mixture-of-experts classes that our experts serve, and random layers of experts."""

from __future__ import annotations

VOCABULARY = 97

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LATENT_ATTENTION = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
_CHANGES = {
    "deepseek_v2": _LATENT_ATTENTION,
    "deepseek_v3": _LATENT_ATTENTION,
    "gpt_oss": {"sliding_window": 64},
    "nemotron_h": {"layers_block_type": ["attention", "moe"]},  # its Mamba layers are slow without their kernels
}

# The families named in the documentation come first; after them one class of each other layout, gate or router.
CLASSES = (
    *("olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3"),
    "gpt_oss",  # biases, transposed and interleaved weights, a gate of its own
    "aria_text",  # transposed weights
    "nemotron_h",  # no gate
    *("phimoe", "granitemoe", "glm4_moe", "ernie4_5_moe", "minimax_m2", "flex_olmo", "hunyuan_v1_moe"),
)


def make_model(model_type, *, seed=0, **changes):
    """Return a model with wide random weights, so that its logits are far apart, in evaluation mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**_SHAPE, **_CHANGES.get(model_type, {}), **changes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_layer(experts, hidden, inner, top_k, tokens, *, dtype, seed=0, device="cpu"):
    """Return tokens, chosen experts, router weights and SwiGLU experts, all random."""
    import torch

    from llmrouter.moe.experts import swiglu_weights

    draw = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    layer = swiglu_weights(
        (normal(experts, 2 * inner, hidden) / hidden**0.5).to(device, dtype),
        (normal(experts, hidden, inner) / inner**0.5).to(device, dtype),
    )
    weights, index = normal(tokens, experts).softmax(-1).topk(top_k)
    return normal(tokens, hidden).to(device, dtype), index.to(device), weights.to(device, dtype), layer


def exact(hidden, index, weights, layer):
    """Return the layer's output in float64, pair by pair, as the definition says."""
    import torch

    output = torch.zeros(hidden.shape, dtype=torch.float64)
    up, down = layer.up.double().cpu(), layer.down.double().cpu()
    for token, (experts, shares) in enumerate(zip(index.tolist(), weights.double().tolist())):
        for expert, share in zip(experts, shares):
            if 0 <= expert < layer.count:
                gate, other = (up[expert] @ hidden[token].double().cpu()).chunk(2)
                output[token] += share * (down[expert] @ (gate * torch.sigmoid(gate) * other))
    return output
