"""PyTorch + PEFT on the layers of DeepSeek-V2-Lite: latent attention, 64 experts of which 6, random weights.

python v2_lite.py [--layers 4] [--targets attention|all-linear] …; needs torch, transformers and peft.

transformers keeps the experts of a layer in one tensor, which PEFT adapts by `target_parameters`; dense and shared
MLPs are ordinary modules.
"""

import argparse

import lora_step
import shapes

ATTENTION = ["q_proj", "kv_a_proj_with_mqa", "o_proj"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    lora_step.arguments(parser)
    args = parser.parse_args()

    from peft import LoraConfig
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

    rope = dict(
        rope_type="yarn", rope_theta=10000.0, factor=40.0, beta_fast=32, beta_slow=1, mscale=0.707,
        mscale_all_dim=0.707, original_max_position_embeddings=4096,
    )
    config = DeepseekV2Config(**shapes.V2_LITE, num_hidden_layers=args.layers, rope_parameters=rope)
    config._attn_implementation = "sdpa"
    model = lora_step.build(args, lambda: DeepseekV2ForCausalLM(config))
    lora = dict(r=args.rank, lora_alpha=2 * args.rank, task_type="CAUSAL_LM")
    if args.targets == "attention":
        lora["target_modules"] = ATTENTION
    else:
        lora["target_modules"] = ATTENTION + ["kv_b_proj", "gate_proj", "up_proj", "down_proj"]
        lora["target_parameters"] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    lora_step.measure(args, model, LoraConfig(**lora), shapes.V2_LITE["vocab_size"], "deepseek-v2-lite")


if __name__ == "__main__":
    main()
