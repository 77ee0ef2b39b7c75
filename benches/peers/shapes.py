"""What the peers share with `loar bench`: model shapes, document lengths, and how a result is told.

Only the standard library; torch is imported where lengths are drawn.
"""

import json
import os
import platform
import resource

# layers, hidden, intermediate, heads, key-value heads, vocabulary, tied head, rope theta
QWEN2 = {
    "qwen2-0.5b": (24, 896, 4864, 14, 2, 151936, True, 1e6),
    "r1-distill-qwen-1.5b": (28, 1536, 8960, 12, 2, 151936, False, 1e4),
}

# config.json of DeepSeek-V2-Lite, but for the depth
V2_LITE = dict(
    vocab_size=102400, hidden_size=2048, intermediate_size=10944, num_attention_heads=16, num_key_value_heads=16,
    q_lora_rank=None, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
    moe_intermediate_size=1408, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6,
    first_k_dense_replace=1, n_group=1, topk_group=1, topk_method="greedy", norm_topk_prob=False,
    routed_scaling_factor=1.0, max_position_embeddings=163840, rms_norm_eps=1e-6, tie_word_embeddings=False,
)

ROWS = 4  # documents a step


def mix(batches, longest=512):
    """Lengths of `batches` batches: log-normal (5.2, 0.7), cut to 32..longest, from torch's generator with seed 1."""
    import torch

    generator = torch.Generator().manual_seed(1)
    draws = (torch.empty(1).log_normal_(5.2, 0.7, generator=generator).item() for _ in range(ROWS * batches))
    lengths = [min(longest, max(32, int(x))) for x in draws]
    return [lengths[i : i + ROWS] for i in range(0, len(lengths), ROWS)]


def prompt_tokens(length, share):
    """Tokens at the front of a document without loss, as `loar bench --masked` counts them."""
    return min(length, max(1, int(length * share + 0.5)))


def peak_rss():
    """Largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu():
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def report(peer, bench, **fields):
    """One JSON line, like that of `loar bench --json`."""
    print(json.dumps({"peer": peer, "bench": bench, **fields, "machine": {"cpu": cpu()}}), flush=True)


def add_threads(parser):
    parser.add_argument("--threads", type=int, default=os.cpu_count())
