"""PyTorch's scaled_dot_product_attention in bf16 at the shapes of the kernels' op_bench, forward and backward.

python attention.py [--threads 2] [--seconds 1]; needs torch. Keys and values are repeated to one head a query head
before the clock starts. Where the head sizes of keys and values differ, PyTorch falls back to products of whole
matrices.
"""

import argparse
import time

import torch
from torch.nn.functional import scaled_dot_product_attention as attend


def timed(seconds, call):
    call()
    start, all = time.perf_counter(), []
    while len(all) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        all.append(time.perf_counter() - before)
    all.sort()
    return all[len(all) // 2], all[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads: GFLOP/s of unmasked pairs, median (best)")
    for heads, dqk, dv in [(14, 64, 64), (12, 128, 128), (16, 192, 128)]:
        for length, count in [(512, 4), (2048, 1)]:
            q, k, v = (torch.randn(count, heads, length, d, dtype=torch.bfloat16) for d in (dqk, dqk, dv))
            with torch.no_grad():
                forward = timed(options.seconds, lambda: attend(q, k, v, is_causal=True))
            for x in (q, k, v):
                x.requires_grad_()
            out = attend(q, k, v, is_causal=True)
            gradient = torch.randn_like(out)
            backward = timed(
                options.seconds, lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)
            )
            pairs = count * heads * length * (length + 1) / 2
            parts = []
            for name, flop, (median, best) in [
                ("forward", pairs * 2 * (dqk + dv), forward),
                ("backward", pairs * 2 * (3 * dqk + 2 * dv), backward),
            ]:
                parts.append(f"{name} {flop / median / 1e9:6.0f} ({flop / best / 1e9:6.0f}) {median * 1e3:8.2f} ms")
            print(f"  {heads} heads of {dqk}/{dv}, {count} x {length}: {' | '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
