"""The files of a checkpoint folder: their names, contents and completeness. Nothing here loads a model."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..nouns import BadInput
from ..parts import file_digest, read_once

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
VOCABULARY = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "added_tokens.json",
)
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES = (*VOCABULARY, *TOKENIZER_SETTINGS)
TEMPLATE = "chat_template.jinja"
_POINTER = b"version https://git-lfs"
_PAIR = ("vocab.json", "merges.txt")


def reason_of(error: BaseException) -> str:
    """Return an error's whole message on one line."""
    words = " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(error)).split()).rstrip(".:;")  # torch writes in bold
    return f"{type(error).__name__}: {words}" if isinstance(error, LookupError) or not words else words


def json_of(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if the file is absent."""
    if not file.exists():
        return None
    try:
        content = json.loads(text_of(file))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid JSON ({reason_of(error)}); copy or save it again") from error
    if not isinstance(content, dict):
        raise BadInput(f"{file} does not hold a JSON object; copy or save it again")
    return content


def text_of(file: Path) -> str:
    """Return the text of a file. Raises BadInput if it is not text."""
    checked(file)
    try:
        return file.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise BadInput(f"{file} is no text in UTF-8 ({reason_of(error)}); copy or save it again") from error


def named(folder: Path, names: Sequence[str], what: str) -> Path:
    """Return the first of these files that the folder holds. Raises BadInput if it holds none."""
    for file in (folder / name for name in names):
        if file.exists():
            return file
        if file.is_symlink():
            raise BadInput(f"{file} is a link to {file.readlink()}, which is not there; copy the checkpoint again")
    raise BadInput(f"{folder} holds no {what} ({' or '.join(names)}); give a folder written by save_pretrained")


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files that transformers would load. Raises BadInput if one is damaged."""
    if json_of(folder / "config.json") is None:
        raise BadInput(f"{folder} has no config.json; give a folder written by save_pretrained")
    file = named(folder, WEIGHTS, "weights")
    files = [file]
    if file.suffix == ".json":
        places = (json_of(file) or {}).get("weight_map")
        if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
            raise BadInput(f"{file} lists no weight files (weight_map); copy or save it again")
        files = [folder / name for name in sorted(set(places.values()))]
    for part in files:
        if not part.exists():
            raise BadInput(f"{folder} lacks {part.name}, which {file.name} lists; copy the checkpoint again")
        checked(part)
    return files


def adapter_file(folder: Path) -> Path:
    """Return the weight file of an adapter. Raises BadInput if it is damaged."""
    file = named(folder, ADAPTER_WEIGHTS, "adapter weights")
    checked(file)
    return file


def words_lent(folder: Path, lenders: Sequence[Path]) -> dict[str, Path]:
    """Return the tokenizer files that a folder lacks, by name, each from the first of the lenders that has it.

    Vocabulary and settings are lent separately, because a folder may hold only one of them. A chat template belongs to the settings.
    """
    lent: dict[str, Path] = {}
    if not has_vocabulary(folder):
        lender = next(filter(has_vocabulary, lenders), None)
        lent |= _missing(folder, lender, VOCABULARY)
    if not (folder / TOKENIZER_SETTINGS[0]).exists():
        lender = next((place for place in lenders if (place / TOKENIZER_SETTINGS[0]).exists()), None)
        lent |= _missing(folder, lender, (*TOKENIZER_SETTINGS, TEMPLATE))
    return lent


def has_vocabulary(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer's vocabulary."""
    whole = any((folder / name).exists() for name in VOCABULARY if name not in (*_PAIR, "added_tokens.json"))
    return whole or all((folder / name).exists() for name in _PAIR)


def _missing(folder: Path, lender: Path | None, names: Sequence[str]) -> dict[str, Path]:
    return {name: lender / name for name in names if lender and (lender / name).exists() and not (folder / name).exists()}


# -- whether a file is whole ---------------------------------------------------------------------------------------------


def checked(file: Path) -> None:
    """Raise BadInput for a folder, a Git LFS pointer, an empty or truncated file, or a pickle that could run code."""
    if file.is_dir():
        raise BadInput(f"{file} is a folder and not a file; copy or save the checkpoint again")
    size = file.stat().st_size
    try:
        with open(file, "rb") as handle:
            pointer = handle.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {reason_of(error)}; check who may read it") from error
    if pointer:
        raise BadInput(f"{file} is a Git LFS pointer and not the file itself; run 'git lfs pull' in {file.parent}")
    if not size:
        raise BadInput(f"{file} is damaged or cut short (it has 0 bytes); copy or save it again")
    if file.suffix in (".safetensors", ".bin"):
        tensors_of(file)


@read_once
def tensors_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a weight file by name, without reading their values."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="np") as tensors:
                return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - it is no dict
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{file} is damaged or cut short: {reason_of(error)}; copy or save it again") from error
    import torch

    try:
        content = torch.load(file, map_location="meta", mmap=zipfile.is_zipfile(file), weights_only=True)
        return {name: tuple(values.shape) for name, values in content.items()}
    except Exception as error:  # a pickle may fail in any way
        raise BadInput(
            f"{file} cannot be read as weights: {reason_of(error)}; it is damaged, cut short or holds more than tensors, "
            "so save the model as safetensors"
        ) from error


def bytes_digest(file: Path) -> str:
    """Return the sha256 of a file. Raises BadInput if it is damaged."""
    checked(file)
    return file_digest(file)
