"""PyTorch: the matrix products of `loar bench gemm`, forward (x·Wᵀ) and back to the input (dY·W).

python torch_gemm.py [--dtype bf16|f32] [--tokens 2048]; needs torch.
"""

import argparse
import statistics
import time

import shapes
import torch


def median_seconds(call, seconds=0.3, calls=5):
    call()
    taken, start = [], time.perf_counter()
    while len(taken) < calls or time.perf_counter() - start < seconds:
        one = time.perf_counter()
        call()
        taken.append(time.perf_counter() - one)
    return statistics.median(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(shapes.QWEN2), default="r1-distill-qwen-1.5b")
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--tokens", type=int, default=2048)
    shapes.add_threads(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    _, hidden, intermediate, *_ = shapes.QWEN2[args.shape]
    m, cases, flop, total = args.tokens, [], 0.0, 0.0
    for k, n in ((hidden, hidden), (hidden, intermediate), (intermediate, hidden)):
        x, w, dy = (torch.randn(size).to(dtype) for size in ((m, k), (n, k), (m, n)))
        for product, call, inner, outer in (
            ("forward", lambda: torch.nn.functional.linear(x, w), k, n),
            ("backward", lambda: dy @ w, n, k),
        ):
            taken = median_seconds(call)
            flop, total = flop + 2.0 * m * k * n, total + taken
            cases.append(dict(m=m, k=inner, n=outer, product=product, gflops=2.0 * m * k * n / taken / 1e9))
    shapes.report(
        "torch", "gemm", gflops=flop / total / 1e9, cases=cases, versions=dict(torch=torch.__version__),
        options=dict(
            shape=args.shape, dtype=args.dtype, tokens=m, threads=args.threads,
            capability=torch.backends.cpu.get_cpu_capability(),
        ),
    )


if __name__ == "__main__":
    main()
