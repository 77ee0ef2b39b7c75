"""Optimiser steps of LoRA on a transformers model: what peft_step.py and v2_lite.py time."""

import statistics
import sys
import time

import shapes
import torch


def arguments(parser):
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--targets", choices=["all-linear", "attention"], default="all-linear")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--masked", type=float, default=0.0, help="share of each document without loss")
    parser.add_argument("--steps", type=int, default=6, help="timed steps, after one that is not")
    parser.add_argument("--seed", type=int, default=0)
    shapes.add_threads(parser)


def dtype_of(args):
    return torch.bfloat16 if args.dtype == "bf16" else torch.float32


def build(args, make):
    """The base in its own dtype; its random weights are those of `torch.manual_seed`."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.set_default_dtype(dtype_of(args))
    try:
        return make()
    finally:
        torch.set_default_dtype(torch.float32)


def padded(documents, vocab, masked, generator):
    """A right-padded batch as a collator makes it: ids, attention mask, labels (-100: no loss)."""
    shape = (len(documents), max(documents))
    ids = torch.randint(0, vocab, shape, generator=generator)
    attention, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    for row, length in enumerate(documents):
        attention[row, :length] = 1
        first = shapes.prompt_tokens(length, masked)
        labels[row, first:length] = ids[row, first:length]
    return dict(input_ids=ids, attention_mask=attention, labels=labels)


def measure(args, model, lora, vocab, shape):
    """Attaches the adapter, takes the steps and reports them."""
    import peft
    import transformers

    model = peft.get_peft_model(model, lora)
    if args.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    generator = torch.Generator().manual_seed(args.seed)
    seconds, tokens, losses = [], [], []
    for i, documents in enumerate(shapes.mix(args.steps + 1)):
        batch = padded(documents, vocab, args.masked, generator)
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        took = time.perf_counter() - start
        losses.append(loss.item())
        print(f"{i + 1}/{args.steps + 1}  {sum(documents)} tokens, {took:.2f} s", file=sys.stderr, flush=True)
        if i > 0:
            seconds.append(took)
            tokens.append(sum(documents))
    shapes.report(
        "peft", "train",
        useful_tokens_per_s=sum(tokens) / sum(seconds),
        peak_rss_bytes=shapes.peak_rss(),
        median_step_seconds=statistics.median(seconds),
        step_seconds=seconds,
        step_tokens=tokens,
        losses=losses,
        trainable=sum(p.numel() for p in trained),
        versions=dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__),
        options=dict(
            shape=shape, dtype=args.dtype, rank=args.rank, targets=args.targets, checkpointing=args.checkpointing,
            masked=args.masked, steps=args.steps, threads=args.threads, capability=torch.backends.cpu.get_cpu_capability(),
        ),
    )
