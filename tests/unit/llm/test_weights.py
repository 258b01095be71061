"""The one-off conversion of a GGUF model: names, order of rows, tokenizer, and a cache that notices damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cluster.gguf_model import UnsupportedModel, huggingface_name, unpermute
from cluster.weights import WeightsError, build, ensure_weights, packaged_model

WIDTH, HEADS, KEY_HEADS, INNER = 8, 2, 1, 16
ALPHABET = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]]  # GPT-2's visible bytes
VOCABULARY = ["<|im_start|>", "<|im_end|>", *ALPHABET, *(chr(256 + number) for number in range(68)), "Ġt", "Ġth"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def permute(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """What the writer of a Llama GGUF does to q and k (llama.cpp's convert script), the inverse of ``unpermute``."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tensor_of(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    seed = sum(name.encode())
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SHAPES = {
    "token_embd.weight": (len(VOCABULARY), WIDTH),
    "output_norm.weight": (WIDTH,),
    "blk.0.attn_norm.weight": (WIDTH,),
    "blk.0.attn_q.weight": (WIDTH, WIDTH),
    "blk.0.attn_k.weight": (WIDTH // 2, WIDTH),
    "blk.0.attn_v.weight": (WIDTH // 2, WIDTH),
    "blk.0.attn_output.weight": (WIDTH, WIDTH),
    "blk.0.ffn_norm.weight": (WIDTH,),
    "blk.0.ffn_gate.weight": (INNER, WIDTH),
    "blk.0.ffn_up.weight": (INNER, WIDTH),
    "blk.0.ffn_down.weight": (WIDTH, INNER),
}


def write_gguf(path: Path, architecture: str = "llama", shapes: dict[str, tuple[int, ...]] = SHAPES) -> Path:
    gguf = pytest.importorskip("gguf", reason="the LLM extra is not installed")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3, 3, *[1] * (len(VOCABULARY) - 2)])
    writer.add_token_merges(["Ġ t", "Ġt h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    for name, shape in shapes.items():
        heads = {"blk.0.attn_q.weight": HEADS, "blk.0.attn_k.weight": KEY_HEADS}.get(name)
        weight = tensor_of(name, shape)
        writer.add_tensor(name, permute(weight, heads) if heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "Tiny.F32.gguf")


def ignore(detail: str) -> None:
    """Progress that nobody looks at."""


@given(heads=st.integers(1, 6), half=st.integers(1, 6), width=st.integers(1, 5))
def test_the_order_of_rows_is_restored(heads: int, half: int, width: int) -> None:
    weight = np.arange(heads * half * 2 * width).reshape(heads * half * 2, width)
    assert np.array_equal(unpermute(permute(weight, heads), heads), weight)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.12.attn_output.weight", "model.layers.12.self_attn.o_proj.weight"),
        ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
    ],
)
def test_tensors_get_the_names_that_vllm_loads(name: str, expected: str) -> None:
    assert huggingface_name(name) == expected


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.ffn_gate_exps.weight", "blk.x.attn_q.weight", ""])
def test_an_unknown_tensor_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModel, match="not part of a plain Llama model"):
        huggingface_name(name)


def test_every_tensor_comes_out_as_it_was_before_gguf(tmp_path: Path, source: Path) -> None:
    folder = build(tmp_path / "cache", source, ignore)
    from safetensors.numpy import load_file

    written = load_file(folder / "model.safetensors")
    assert set(written) == {huggingface_name(name) for name in SHAPES}
    for name, shape in SHAPES.items():
        assert np.array_equal(written[huggingface_name(name)], tensor_of(name, shape).astype(np.float16)), name
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert (config["num_key_value_heads"], config["rms_norm_eps"], config["eos_token_id"]) == (KEY_HEADS, 1e-5, 1)


def test_the_tokenizer_and_template_are_those_of_the_file(tmp_path: Path, source: Path) -> None:
    from tokenizers import Tokenizer

    folder = build(tmp_path / "cache", source, ignore)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode(" th 12<|im_end|>").tokens == ["Ġth", "Ġ", "1", "2", "<|im_end|>"]
    text = "Ünïcode /etc/passwd 10.0.0.1"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_a_second_call_makes_nothing_anew(tmp_path: Path, source: Path) -> None:
    said: list[str] = []
    folder = ensure_weights(tmp_path / "cache", said.append, source)
    assert said[0] == "reading the packaged model"
    made = (folder / "model.safetensors").stat().st_mtime_ns
    said.clear()
    assert ensure_weights(tmp_path / "cache", said.append, source) == folder
    assert said == []
    assert (folder / "model.safetensors").stat().st_mtime_ns == made


@pytest.mark.parametrize("damage", ["flip a byte", "truncate", "remove a file", "spoil the manifest", "remove all"])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, source: Path, damage: str) -> None:
    folder = build(tmp_path / "cache", source, ignore)
    weights = folder / "model.safetensors"
    intact = weights.read_bytes()
    match damage:
        case "flip a byte":
            weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
        case "truncate":
            weights.write_bytes(intact[:100])
        case "remove a file":
            (folder / "tokenizer.json").unlink()
        case "spoil the manifest":
            (folder / "manifest.json").write_text('{"format": 1, "files": []}')
        case "remove all":
            for path in folder.iterdir():
                path.unlink()
    assert build(tmp_path / "cache", source, ignore) == folder
    assert weights.read_bytes() == intact
    assert (folder / "tokenizer.json").exists()


def test_a_conversion_that_was_cut_off_leaves_no_folder_and_hinders_nothing(tmp_path: Path, source: Path) -> None:
    def cut_off(detail: str) -> None:
        if detail == "writing the tokenizer":
            raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        build(cache, source, cut_off)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert (build(cache, source, ignore) / "manifest.json").exists()


def test_another_source_gets_a_folder_of_its_own(tmp_path: Path, source: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_gguf(tmp_path / "other" / "Tiny.F32.gguf", shapes={**SHAPES, "output.weight": (len(VOCABULARY), 8)})
    first, second = build(tmp_path / "cache", source, ignore), build(tmp_path / "cache", other, ignore)
    assert first != second
    assert json.loads((second / "config.json").read_text())["tie_word_embeddings"] is False


def test_another_architecture_is_refused_with_its_name(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "Gemma.gguf", architecture="gemma")
    with pytest.raises(WeightsError, match="architecture 'gemma'"):
        ensure_weights(tmp_path / "cache", ignore, source)


def test_a_file_that_is_no_gguf_is_an_error_that_names_it(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the LLM extra is not installed")
    source = tmp_path / "Noise.gguf"
    source.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(WeightsError, match=r"converting Noise\.gguf failed"):
        ensure_weights(tmp_path / "cache", ignore, source)


def test_the_packaged_model_is_found_without_importing_its_package() -> None:
    try:
        assert packaged_model().suffix == ".gguf"
    except WeightsError as error:
        assert "requirements/llm.txt" in str(error)  # without the LLM extra
