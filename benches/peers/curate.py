#!/usr/bin/env python3
"""Curating one file of mixed Chinese and English conversations, by loar or by datatrove, in one process of one thread.

curate.py loar|datatrove [--mb 50] [--english] [--threads 1] [--loar PROGRAM] [--dir DIR] [--config EXTRA.toml]

The rows are made here from a seed: half Chinese, half English, lengths as in instruction data, one in twenty a near
repetition of an earlier one, some with a phone number or an address. loar runs its whole pipeline (reading, control
tokens, language, rules, PII, MinHash repetition, split, verdicts); datatrove runs reading, PII and its four MinHash
stages, with spaCy's English tokenizer for all rows. The words are invented; with --english, two in five of the English rows'
words are the commonest of English, without which no program can tell the language by words. Prints one JSON object.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time

COMMON = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指几九区强放决西被干做必战先回则任取据处队南给色光门即保治北造百规热领七海口东导器压志世金增争济阶油思术极交受联什认六共权收证改清己美再采转更单风切打白教速花带安场身车例真务具万每目至达走积示议声报斗完类八离华名确才科张信马节话米整空元况今集温传土许步群广石记需段研界拉林律叫且究观越织装影算低持音众书布复容儿须际商非验连断深难近矿千周委素技备半办青省列习响约支般史感劳便团往酸历市克何除消构府称太准精值号率族维划选标写存候毛亲快效斯院查江型眼王按格养易置派层片始却专状育厂京识适属圆包火住调满县局照参红细引听该铁价严"


FUNCTION = "the of and to a in is it that for was on are as with his they at be this have from or had by not but what all were we when your can said there use an each which she do how their if will up other about out many then them these so some her would make like him into time has look two more go see no way could people my than first been who its now find long down day did get come made may part".split()


def words(random_):
    made = []
    for _ in range(6000):
        made.append("".join(random_.choice("bcdfghklmnprstvw") + random_.choice("aeiou") for _ in range(random_.choice([1, 2, 2, 3, 3, 4]))))
    return made


def corpus(path, megabytes, function_words=False):
    """Writes the rows unless they are there; the same bytes for the same size."""
    if os.path.exists(path):
        return
    draw = random.Random(7)
    vocabulary = words(draw)
    weights = [1 / (i + 3) for i in range(len(vocabulary))]
    han = [1 / (i + 8) for i in range(len(COMMON))]

    common = [1 / (i + 1) for i in range(len(FUNCTION))]

    def english(n):
        if function_words:
            chosen = zip(draw.choices(vocabulary, weights, k=n), draw.choices(FUNCTION, common, k=n))
            return " ".join(known if draw.random() < 0.4 else other for other, known in chosen).capitalize() + "."
        return " ".join(draw.choices(vocabulary, weights, k=n)).capitalize() + "."

    def chinese(n):
        text = "".join(draw.choices(COMMON, han, k=n))
        return "，".join(text[i : i + 14] for i in range(0, n, 14)) + "。"

    size, kept = 0, []
    with open(path + ".part", "w", encoding="utf-8") as out:
        while size < megabytes * 1_000_000:
            if kept and draw.random() < 0.05:
                question, answer = draw.choice(kept)
                answer += " Also." if answer.isascii() else "另外。"
            elif draw.random() < 0.5:
                question, answer = english(draw.randint(8, 60)), english(draw.randint(20, 300))
            else:
                question, answer = chinese(draw.randint(15, 90)), chinese(draw.randint(40, 500))
            if draw.random() < 0.02:
                question += f" 电话 138{draw.randrange(10**8):08d}, mail a{draw.randrange(10**6)}@example.com"
            if len(kept) < 2000:
                kept.append((question, answer))
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            line = json.dumps({"messages": turns}, ensure_ascii=False) + "\n"
            size += len(line.encode())
            out.write(line)
    os.rename(path + ".part", path)


def run_loar(args, path, folder):
    config = os.path.join(folder, "data.toml")
    extra = open(args.config, encoding="utf-8").read() if args.config else ""
    with open(config, "w", encoding="utf-8") as out:
        out.write(f'out = "set"\n[pii]\n[compliance]\n[[source]]\nname = "mix"\npaths = ["{path}"]\n{extra}')
    done = subprocess.run([args.loar, "data", config, "--threads", str(args.threads), "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    made = json.loads(done.stdout.splitlines()[-1])
    return made["rows"], made["rows"] - made["dropped"]


def run_datatrove(args, path, folder):
    import logging

    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from loguru import logger

    logging.disable(logging.CRITICAL)
    logger.remove()

    def text(self, data, path, id_in_file):
        return {"text": "\n".join(turn["content"] for turn in data["messages"]), "id": f"{path}/{id_in_file}", "metadata": {}}

    def at(name):
        return os.path.join(folder, name)

    def read():
        return JsonlReader(os.path.dirname(path), glob_pattern=os.path.basename(path), adapter=text)

    config = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8)
    stages = [
        ([read(), PIIFormatter(), MinhashDedupSignature(at("sig"), config=config, language="eng")], 1),
        ([MinhashDedupBuckets(at("sig"), at("buckets"), config=config)], config.num_buckets),
        ([MinhashDedupCluster(at("buckets"), at("ids"), config=config)], 1),
        ([read(), PIIFormatter(), MinhashDedupFilter(at("ids")), JsonlWriter(at("out"), compression=None)], 1),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=at(f"log{number}")).run()
    kept = sum(1 for name in os.listdir(at("out")) for _ in open(os.path.join(at("out"), name), encoding="utf-8"))
    return sum(1 for _ in open(path, encoding="utf-8")), kept


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("program", choices=["loar", "datatrove"])
    parse.add_argument("--mb", type=int, default=50)
    parse.add_argument("--english", action="store_true", help="English rows with function words")
    parse.add_argument("--threads", type=int, default=1)
    parse.add_argument("--loar", default="loar")
    parse.add_argument("--dir", default="/tmp/loar-curate")
    parse.add_argument("--config", help="further sections of loar's file")
    args = parse.parse_args()
    os.makedirs(args.dir, exist_ok=True)
    path = os.path.join(os.path.abspath(args.dir), f"mix-{args.mb}{'-english' if args.english else ''}.jsonl")
    corpus(path, args.mb, args.english)
    folder = os.path.join(os.path.abspath(args.dir), f"{args.program}-{args.mb}-{args.threads}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    start = time.perf_counter()
    rows, kept = (run_loar if args.program == "loar" else run_datatrove)(args, path, folder)
    seconds = time.perf_counter() - start
    shutil.rmtree(folder, ignore_errors=True)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    size = os.path.getsize(path)
    print(json.dumps(dict(program=args.program, bytes=size, threads=args.threads, seconds=seconds, mb_per_s=size / 1e6 / seconds, rows=rows, kept=kept, peak_rss_bytes=peak * 1024)))


if __name__ == "__main__":
    main()
