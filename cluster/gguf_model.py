"""Reads a Llama-architecture GGUF file and writes it as a Hugging Face model folder.

Written out: ``model.safetensors`` (float16), ``config.json``, ``generation_config.json``, ``tokenizer.json``,
``tokenizer_config.json`` and ``chat_template.jinja``. Needs numpy, gguf, safetensors and tokenizers, and no torch.
Not covered: other architectures, SentencePiece vocabularies, rope scaling. They are refused, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of special tokens


class UnsupportedModel(Exception):
    """The GGUF file holds something that this reader does not know."""


def convert_llama(source: Path, target: Path, progress: Callable[[str], None]) -> None:
    """Write the model of ``source`` into the existing folder ``target``. Raises UnsupportedModel."""
    from gguf import GGUFReader

    progress("reading the packaged model")
    reader = GGUFReader(source)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    architecture, vocabulary = metadata.get("general.architecture"), metadata.get("tokenizer.ggml.model")
    if architecture != "llama" or vocabulary != "gpt2" or any("rope.scaling" in name for name in metadata):
        raise UnsupportedModel(f"{source.name}: architecture {architecture!r} with a {vocabulary!r} vocabulary")
    tensor_names = _write_tensors(reader, metadata, target, progress)
    progress("writing the tokenizer")
    _write_tokenizer(metadata, target)
    _write_config(metadata, target, tied="lm_head.weight" not in tensor_names)


def huggingface_name(name: str) -> str:
    """``blk.3.attn_q.weight`` is ``model.layers.3.self_attn.q_proj.weight``. Raises UnsupportedModel."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _LAYER_NAMES:
        raise UnsupportedModel(f"tensor {name} is not part of a plain Llama model")
    return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.weight"


def unpermute(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Undo GGUF's order of the rows of a q or k projection, shape (heads * head_dim, width).

    GGUF interleaves the two halves that rotary embedding turns together; transformers and vLLM keep them apart.
    """
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _write_tensors(
    reader: Any, metadata: dict[str, Any], target: Path, progress: Callable[[str], None]
) -> frozenset[str]:
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    heads = {
        "self_attn.q_proj.weight": int(metadata["llama.attention.head_count"]),
        "self_attn.k_proj.weight": int(metadata["llama.attention.head_count_kv"]),
    }
    tensors: dict[str, NDArray[np.float16]] = {}
    for number, tensor in enumerate(reader.tensors):
        if number % 50 == 0:
            progress(f"unpacking tensor {number + 1} of {len(reader.tensors)}")
        name = huggingface_name(tensor.name)
        weight = dequantize(tensor.data, tensor.tensor_type)
        projection = name.split(".", 3)[-1]
        if projection in heads:
            weight = unpermute(weight, heads[projection])
        tensors[name] = np.ascontiguousarray(weight, dtype=np.float16)
    progress("writing the weights")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return frozenset(tensors)


def _write_tokenizer(metadata: dict[str, Any], target: Path) -> None:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    byte_level = ByteLevel(add_prefix_space=False, use_regex=True)
    split_digits = metadata.get("tokenizer.ggml.pre") == "smollm"
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), byte_level]) if split_digits else byte_level
    tokenizer.decoder = ByteLevelDecoder()
    kinds = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(target / "tokenizer.json"))
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    settings: dict[str, Any] = {
        f"{name}_token": tokens[int(metadata[f"tokenizer.ggml.{key}_token_id"])]
        for name, key in names.items()
        if f"tokenizer.ggml.{key}_token_id" in metadata
    }
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": metadata["llama.context_length"]}
    _write_json(target / "tokenizer_config.json", settings)
    (target / "chat_template.jinja").write_text(metadata["tokenizer.chat_template"])


def _write_config(metadata: dict[str, Any], target: Path, *, tied: bool) -> None:
    token_ids = {
        "bos_token_id": int(metadata["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(metadata["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(metadata.get("tokenizer.ggml.padding_token_id", metadata["tokenizer.ggml.eos_token_id"])),
    }
    heads = int(metadata["llama.attention.head_count"])
    width = int(metadata["llama.embedding_length"])
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "head_dim": int(metadata["llama.rope.dimension_count"]),
        "intermediate_size": int(metadata["llama.feed_forward_length"]),
        "num_hidden_layers": int(metadata["llama.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(metadata["llama.attention.head_count_kv"]),
        "max_position_embeddings": int(metadata["llama.context_length"]),
        "rms_norm_eps": round(float(metadata["llama.attention.layer_norm_rms_epsilon"]), 9),
        "rope_theta": float(metadata["llama.rope.freq_base"]),
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": int(metadata["llama.vocab_size"]),
        "torch_dtype": "float16",
        **token_ids,
    }
    _write_json(target / "config.json", config)
    _write_json(target / "generation_config.json", token_ids)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
