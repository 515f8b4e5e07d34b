"""Small tokenizers in the shapes of public model families, written to folders as theirs are.

Vocabularies are single characters or bytes with a few merges; special tokens, their flags, chat
templates and configuration files are as the families publish them, shortened where a part is about
tools or pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = """{%- for message in messages %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- else %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.last %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% else %}"
    "{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}{% else %}"
    "{% set system = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content']"
    " + '<|end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GLM4 = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ALPACA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] +"
    " '\n\n' }}{% elif m['role'] == 'assistant' %}{{ '### Response:\n' + m['content'] + '\n\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)

_CHARACTERS = [chr(code) for code in range(33, 127)]


@dataclass(frozen=True)
class Shape:
    """One family's tokenizer, and what must come out of it."""

    name: str
    build: Callable[[Path], None]
    stops: tuple[str, ...]
    """The tokens that end an answer."""
    end_of_turn: str | None
    """The token that an imitated answer ends with."""
    bos: str | None = None
    has_template: bool = True
    takes_system: bool = True
    before_end: str = ""


def special(content: str, **flags: bool) -> AddedToken:
    return AddedToken(content, special=True, normalized=False, **flags)


def plain(content: str) -> AddedToken:
    return AddedToken(content, special=False, normalized=False)


def byte_level(*added: AddedToken) -> Tokenizer:
    """Bytes with a few merges, as GPT-2, Qwen and Llama 3 have them."""
    merges = [("b", "o"), ("bo", "x"), ("}", "Ċ"), ("Ċ", "Ċ"), ("Ġ", "a"), ("<", "|"), ("?", "<")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    core = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_tokens(list(added))
    return core


def sentence_piece(*added: AddedToken, in_vocabulary: tuple[str, ...], prepend: str) -> Tokenizer:
    """Characters with byte fallback, as Llama 2, Mistral, Phi 3 and Gemma have them.

    `prepend` says what marks the beginning of a word: `first` and `always` are schemes of
    Metaspace, `legacy` is Llama 2's normalizer, `never` is Gemma's.
    """
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("▁", "a"), ("b", "o"), ("bo", "x"), ("<", "/")]
    tokens = [*in_vocabulary, *bytes_, *_CHARACTERS, "▁", *(a + b for a, b in merges)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    core = Tokenizer(
        BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if prepend in ("first", "always"):
        core.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend, split=False)
    else:
        steps = [normalizers.Prepend("▁")] if prepend == "legacy" else []
        core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [] if prepend == "never" else [decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    core.add_tokens(list(added))
    return core


def save(
    folder: Path,
    core: Tokenizer,
    template: str | None,
    *,
    config: dict,
    generation: dict | None = None,
    bos_first: bool = False,
    **names: object,
) -> None:
    """Write what a model's folder has beside its weights."""
    if bos_first:
        bos = str(names["bos_token"])
        core.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, core.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **names
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))


_QWEN_TOKENS = (
    special("<|endoftext|>"),
    special("<|im_start|>"),
    special("<|im_end|>"),
    plain("<tool_call>"),
    plain("</tool_call>"),
    plain("<think>"),
    plain("</think>"),
)


def qwen_base(folder: Path) -> None:
    core = byte_level(*_QWEN_TOKENS)
    end = core.token_to_id("<|endoftext|>")
    save(
        folder,
        core,
        CHATML,
        config={"eos_token_id": end},
        generation={"eos_token_id": end, "max_new_tokens": 2048},
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )


def qwen_instruct(folder: Path) -> None:
    core = byte_level(*_QWEN_TOKENS)
    ends = [core.token_to_id("<|im_end|>"), core.token_to_id("<|endoftext|>")]
    save(
        folder,
        core,
        QWEN3,
        config={"eos_token_id": ends[0]},
        generation={"eos_token_id": ends},
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def deepseek_r1(folder: Path) -> None:
    core = byte_level(
        special("<｜begin▁of▁sentence｜>"),
        special("<｜end▁of▁sentence｜>"),
        plain("<｜User｜>"),
        plain("<｜Assistant｜>"),
        plain("<think>"),
        plain("</think>"),
    )
    save(
        folder,
        core,
        DEEPSEEK_R1,
        config={"eos_token_id": core.token_to_id("<｜end▁of▁sentence｜>")},
        bos_first=True,
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
    )


def llama3(folder: Path) -> None:
    names = ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eom_id", "eot_id")
    core = byte_level(*(special(f"<|{name}|>") for name in names))
    save(
        folder,
        core,
        LLAMA3,
        config={"eos_token_id": core.token_to_id("<|end_of_text|>")},
        generation=None,
        bos_first=True,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
    )


def mistral(folder: Path) -> None:
    core = sentence_piece(
        special("<unk>"),
        special("<s>"),
        special("</s>"),
        special("[INST]"),
        special("[/INST]"),
        in_vocabulary=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        prepend="first",
    )
    save(
        folder,
        core,
        MISTRAL,
        config={"eos_token_id": 2},
        generation={"eos_token_id": 2},
        bos_first=True,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def llama2(folder: Path) -> None:
    core = sentence_piece(
        special("<unk>"),
        special("<s>"),
        special("</s>"),
        in_vocabulary=("<unk>", "<s>", "</s>"),
        prepend="legacy",
    )
    template = MISTRAL.replace("'[/INST]'", "' [/INST]'").replace(
        "m['content'] + eos_token", "m['content'] + ' ' + eos_token"
    )
    save(
        folder,
        core,
        template,
        config={"eos_token_id": 2},
        bos_first=True,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def gemma(folder: Path) -> None:
    vocabulary = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "\n\n")
    core = sentence_piece(
        *(special(name) for name in vocabulary[:6]),
        plain("\n\n"),
        in_vocabulary=vocabulary,
        prepend="never",
    )
    save(
        folder,
        core,
        GEMMA,
        config={"text_config": {"eos_token_id": [1, 5]}},
        generation={"eos_token_id": 1},
        bos_first=True,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def phi3(folder: Path) -> None:
    stripping = ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
    core = sentence_piece(
        special("<unk>"),
        special("<s>"),
        AddedToken("</s>", special=False, normalized=False, rstrip=True),
        special("<|endoftext|>"),
        *(special(name, rstrip=True) for name in stripping),
        in_vocabulary=("<unk>", "<s>", "</s>"),
        prepend="legacy",
    )
    end = core.token_to_id("<|endoftext|>")
    save(
        folder,
        core,
        PHI3,
        config={"eos_token_id": end},
        generation={"eos_token_id": [end, core.token_to_id("<|assistant|>")]},
        bos_token="<s>",
        eos_token="<|endoftext|>",
        unk_token="<unk>",
    )


def glm4(folder: Path) -> None:
    names = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
    core = byte_level(*(special(name) for name in names))
    end = core.token_to_id("<|endoftext|>")
    save(folder, core, GLM4, config={"eos_token_id": end}, eos_token="<|endoftext|>")


def bare(folder: Path) -> None:
    core = byte_level(special("<|begin|>"), special("<|endoftext|>"))
    save(
        folder,
        core,
        None,
        config={"eos_token_id": core.token_to_id("<|endoftext|>")},
        bos_first=True,
        bos_token="<|begin|>",
        eos_token="<|endoftext|>",
    )


def several_ends(folder: Path) -> None:
    """A fine-tune whose end of turn is an added token without the special flag."""
    core = byte_level(
        special("<|endoftext|>"), special("<|stop|>"), plain("<|im_start|>"), plain("<|im_end|>")
    )
    end, stop = core.token_to_id("<|endoftext|>"), core.token_to_id("<|stop|>")
    save(
        folder,
        core,
        CHATML,
        config={"eos_token_id": end},
        generation={"eos_token_id": [end, stop]},
        eos_token="<|endoftext|>",
    )


def unigram(folder: Path) -> None:
    """Special tokens are pieces of the model, which its search could find in a text as well."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -1.0)]
    pieces += [(c, -2.0) for c in _CHARACTERS] + [("\n", -2.0)]
    core = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always", split=True)
    core.decoder = decoders.Metaspace("▁", "always")
    core.add_tokens([special("<unk>"), special("<s>"), special("</s>")])
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    save(
        folder,
        core,
        template,
        config={"eos_token_id": 2},
        bos_first=True,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


SHAPES = (
    Shape("qwen-base", qwen_base, ("<|endoftext|>", "<|im_end|>"), "<|im_end|>"),
    Shape("qwen-instruct", qwen_instruct, ("<|endoftext|>", "<|im_end|>"), "<|im_end|>"),
    Shape(
        "deepseek-r1",
        deepseek_r1,
        ("<｜end▁of▁sentence｜>",),
        "<｜end▁of▁sentence｜>",
        bos="<｜begin▁of▁sentence｜>",
    ),
    Shape(
        "llama-3", llama3, ("<|end_of_text|>", "<|eot_id|>"), "<|eot_id|>", bos="<|begin_of_text|>"
    ),
    Shape("mistral", mistral, ("</s>",), "</s>", bos="<s>"),
    Shape("llama-2", llama2, ("</s>",), "</s>", bos="<s>", before_end=" "),
    Shape(
        "gemma", gemma, ("<eos>", "<end_of_turn>"), "<end_of_turn>", bos="<bos>", takes_system=False
    ),
    Shape("phi-3", phi3, ("<|endoftext|>", "<|assistant|>", "<|end|>"), "<|end|>"),
    Shape("glm-4", glm4, ("<|endoftext|>", "<|user|>"), "<|endoftext|>"),
    Shape("bare", bare, ("<|endoftext|>",), "<|endoftext|>", bos="<|begin|>", has_template=False),
    Shape("several-ends", several_ends, ("<|endoftext|>", "<|stop|>", "<|im_end|>"), "<|im_end|>"),
    Shape("unigram", unigram, ("</s>",), "</s>", bos="<s>"),
)
