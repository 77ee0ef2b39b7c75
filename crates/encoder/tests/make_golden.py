"""Makes tests/golden: three tiny random encoders as sentence-transformers writes them, and what it computes with them.

    pip install torch transformers sentence-transformers
    python tests/make_golden.py

bert   BERT, mean pooling, normalised, WordPiece, truncated at 24 tokens
cls    BERT, [CLS] and maximum side by side, not normalised, weights stored as bf16
e5     XLM-RoBERTa, mean pooling, normalised, Unigram, prompts `query` and `passage`, the first one by default

The texts cover both languages, an unknown character, an empty text and one that is cut.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

HERE = Path(__file__).parent / "golden"
WORDS = "the loan rate of a bank is low high risk court law rain what question query passage : , . ? 3 7".split()
CHARACTERS = "风险等级低高贷款利率法院天气下雨吗，。？"
TEXTS = [
    "what is the loan rate of a bank?",
    "The RATE, of a loan: 3.7",
    "贷款利率高吗？",
    "法院 court law 天气 rain",
    "",
    "unknown ☃ zebra words",
    "the rain is a risk of the loan, " * 8,
    "低",
]


def randomise(model):
    torch.manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "LayerNorm.weight" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            else:
                p.copy_(0.3 * torch.randn_like(p))
    return model.eval()


def wordpiece():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + WORDS + ["##s", "##e"] + sorted(set(CHARACTERS))
    vocab = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    # as released folders have them; a reader must not pad
    tokenizer.enable_padding(length=32, pad_id=0, pad_token="[PAD]")
    special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    return tokenizer, special


def unigram():
    pieces = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces += ["▁" + word for word in WORDS] + ["▁"] + sorted(set(CHARACTERS)) + list("aeorstn:.,?")
    pieces = list(dict.fromkeys(pieces))
    vocab = [(piece, 0.0 if at < 4 else -2.0 - at / 10) for at, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer, dict(pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>")


def folder(name, model, tokenizer, special, modules, pooling, length, prompts, bf16=False):
    out = HERE / name
    out.mkdir(parents=True)
    model.save_pretrained(out)
    if bf16:
        path = out / "model.safetensors"
        save_file({k: v.to(torch.bfloat16) for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    tensors = load_file(out / "model.safetensors")  # the pooler is no part of a sentence encoder
    save_file({k: v for k, v in tensors.items() if not k.startswith("pooler")}, out / "model.safetensors",
              metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    write = lambda file, value: (out / file).write_text(json.dumps(value, indent=1) + "\n")
    write("tokenizer_config.json", dict(tokenizer_class="PreTrainedTokenizerFast", model_max_length=length, **special))
    kinds = ["Transformer", "Pooling", "Normalize"][:modules]
    write("modules.json", [
        dict(idx=at, name=str(at), path="" if at == 0 else f"{at}_{kind}", type=f"sentence_transformers.models.{kind}")
        for at, kind in enumerate(kinds)
    ])
    (out / "1_Pooling").mkdir()
    write("1_Pooling/config.json", pooling)
    write("sentence_bert_config.json", dict(max_seq_length=length, do_lower_case=False))
    write("config_sentence_transformers.json", dict(prompts=prompts, default_prompt_name="query" if prompts else None))
    encoder = SentenceTransformer(str(out), device="cpu", model_kwargs={"dtype": torch.float32})
    vectors = [encoder.encode([text], convert_to_numpy=True)[0].tolist() for text in TEXTS]
    write("expected.json", [dict(text=t, vector=[round(x, 7) for x in v]) for t, v in zip(TEXTS, vectors)])


def pooling(*modes):
    known = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"]
    return dict(word_embedding_dimension=16, **{f"pooling_mode_{mode}": mode in modes for mode in known})


shutil.rmtree(HERE, ignore_errors=True)
size = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=40)
tokenizer, special = wordpiece()
n = tokenizer.get_vocab_size()
bert = BertConfig(vocab_size=n, max_position_embeddings=32, pad_token_id=0, **size)
folder("bert", randomise(BertModel(bert)), tokenizer, special, 3, pooling("mean_tokens"), 24, {})
folder("cls", randomise(BertModel(bert)), tokenizer, special, 2, pooling("cls_token", "max_tokens"), 32, {}, bf16=True)
tokenizer, special = unigram()
n = tokenizer.get_vocab_size()
e5 = XLMRobertaConfig(vocab_size=n, max_position_embeddings=34, pad_token_id=1, bos_token_id=0, eos_token_id=2,
                      type_vocab_size=1, layer_norm_eps=1e-5, **size)
folder("e5", randomise(XLMRobertaModel(e5)), tokenizer, special, 3, pooling("mean_tokens"), 32,
       {"query": "query: ", "passage": "passage: "})
