"""llama.cpp through llama-cpp-python: prompt and decoding pace on random weights of a shape.

python llamacpp.py FOLDER [--bench prefill|decode] [--type q8_0|q4_0|f16] [--plain]; needs llama-cpp-python, gguf, numpy.

The model file is written to FOLDER once (f16, then quantised by llama.cpp itself) and mapped. The measurement runs in
a child process: llama.cpp built by GCC 12 dies with SIGSEGV on processors with AMX, and README.md says how to build it
so that it does not. `--plain` leaves out the extra weight layouts (AMX and repacked), which works with any build.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import time

import shapes


def write(path, shape):
    """A gguf file without a vocabulary: token ids go in, so none is needed."""
    import gguf
    import numpy

    layers, hidden, intermediate, heads, kv_heads, vocab, tied, theta = shapes.QWEN2[shape]
    width = hidden // heads
    rng = numpy.random.default_rng(0)
    out = gguf.GGUFWriter(path, "qwen2")
    out.add_block_count(layers)
    out.add_context_length(8192)
    out.add_embedding_length(hidden)
    out.add_feed_forward_length(intermediate)
    out.add_head_count(heads)
    out.add_head_count_kv(kv_heads)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(theta)
    out.add_vocab_size(vocab)
    out.add_tokenizer_model("none")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)

    def matrix(name, rows, columns):
        values = rng.standard_normal((rows, columns), dtype=numpy.float32)
        out.add_tensor(name + ".weight", (0.02 * values).astype(numpy.float16))

    def vector(name, size, value):
        out.add_tensor(name, numpy.full(size, value, numpy.float32))

    matrix("token_embd", vocab, hidden)
    if not tied:
        matrix("output", vocab, hidden)
    vector("output_norm.weight", hidden, 1.0)
    for layer in range(layers):
        block = f"blk.{layer}."
        vector(block + "attn_norm.weight", hidden, 1.0)
        vector(block + "ffn_norm.weight", hidden, 1.0)
        for name, rows in (("q", heads * width), ("k", kv_heads * width), ("v", kv_heads * width)):
            matrix(block + "attn_" + name, rows, hidden)
            vector(block + "attn_" + name + ".bias", rows, 0.0)
        matrix(block + "attn_output", hidden, heads * width)
        matrix(block + "ffn_gate", intermediate, hidden)
        matrix(block + "ffn_up", intermediate, hidden)
        matrix(block + "ffn_down", hidden, intermediate)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def model_file(folder, shape, kind):
    """The path of the model, made first if need be. An unfinished file never has the final name."""
    import llama_cpp

    whole = os.path.join(folder, f"{shape}-f16.gguf")
    path = os.path.join(folder, f"{shape}-{kind}.gguf")
    if not os.path.exists(path) and not os.path.exists(whole):
        os.makedirs(folder, exist_ok=True)
        write(whole + ".part", shape)
        os.replace(whole + ".part", whole)
    if not os.path.exists(path):
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
        how.nthread = os.cpu_count()
        if llama_cpp.llama_model_quantize(whole.encode(), (path + ".part").encode(), ctypes.byref(how)) != 0:
            sys.exit(f"llama.cpp could not quantise to {kind}")
        os.replace(path + ".part", path)
    return path


def measure(args):
    import llama_cpp
    import numpy

    path = model_file(args.folder, args.shape, args.type)
    if args.plain:
        defaults = llama_cpp.llama_model_default_params

        def without_extra_layouts():
            params = defaults()
            params.use_extra_bufts = False
            return params

        # the wrapper class starts from these and has no argument for it
        llama_cpp.llama_model_default_params = without_extra_layouts
        llama_cpp.llama_cpp.llama_model_default_params = without_extra_layouts
    model = llama_cpp.Llama(
        model_path=path, n_ctx=args.prompt + args.new + 8, n_batch=args.prompt, n_ubatch=args.prompt,
        n_threads=args.threads, n_threads_batch=args.threads, verbose=False, logits_all=False,
    )
    vocab = shapes.QWEN2[args.shape][5]
    rng = numpy.random.default_rng(1)
    prefill, decode = [], []
    for i in range(args.steps + 1):
        model.reset()
        prompt = rng.integers(0, vocab, args.prompt).tolist()
        start = time.perf_counter()
        model.eval(prompt)
        first = time.perf_counter() - start
        taken = 0.0
        if args.bench == "decode":
            tokens = rng.integers(0, vocab, args.new - 1).tolist()
            start = time.perf_counter()
            for token in tokens:
                model.eval([token])
            taken = time.perf_counter() - start
        if i > 0:  # the first reads the file
            prefill.append(args.prompt / first)
            decode.append((args.new - 1) / taken if taken else 0.0)
    size = os.path.getsize(path)
    pace = statistics.median(decode if args.bench == "decode" else prefill)
    fields = dict(weights_read_bytes_per_s=pace * size) if args.bench == "decode" else {}
    shapes.report(
        "llama.cpp", args.bench, tokens_per_s=pace, peak_rss_bytes=shapes.peak_rss(), file_bytes=size, **fields,
        versions=dict(llama_cpp_python=llama_cpp.__version__, system=llama_cpp.llama_print_system_info().decode()),
        options=dict(
            shape=args.shape, type=args.type, plain=args.plain, prompt=args.prompt, new=args.new, steps=args.steps,
            threads=args.threads,
        ),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--bench", choices=["prefill", "decode"], default="decode")
    parser.add_argument("--shape", choices=list(shapes.QWEN2), default="r1-distill-qwen-1.5b")
    parser.add_argument("--type", choices=["q8_0", "q4_0", "f16"], default="q8_0")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    shapes.add_threads(parser)
    args = parser.parse_args()
    if args.child:
        measure(args)
        return
    code = subprocess.run([sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--child"]).returncode
    if code < 0:
        sys.exit(f"llama.cpp died of signal {-code}; see README.md about GCC 12 and AMX, or try --plain")
    sys.exit(code)


if __name__ == "__main__":
    main()
