"""PyTorch + PEFT: LoRA steps on a Qwen2 shape with random weights, the work of `loar bench train`.

python peft_step.py [--shape qwen2-0.5b] [--checkpointing] [--masked 0.6] …; needs torch, transformers and peft.
"""

import argparse

import lora_step
import shapes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(shapes.QWEN2), default="qwen2-0.5b")
    parser.add_argument("--layers", type=int)
    lora_step.arguments(parser)
    args = parser.parse_args()

    from peft import LoraConfig
    from transformers import Qwen2Config, Qwen2ForCausalLM

    layers, hidden, intermediate, heads, kv_heads, vocab, tied, _ = shapes.QWEN2[args.shape]
    config = Qwen2Config(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=args.layers or layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied, max_position_embeddings=4096,
    )
    config._attn_implementation = "sdpa"
    model = lora_step.build(args, lambda: Qwen2ForCausalLM(config))
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    targets = attention if args.targets == "attention" else attention + ["gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=targets, task_type="CAUSAL_LM")
    lora_step.measure(args, model, lora, vocab, args.shape)


if __name__ == "__main__":
    main()
