"""GGUF files: a model in one file, with its settings, tokenizer and chat template. transformers reads and dequantises it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from ..nouns import BadInput
from ..parts import read_once
from .files import ADAPTER_WEIGHTS, WEIGHTS, checked, reason_of

INSTEAD = "give the folder of the model that it was made from"
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_QUANTISED = re.compile(r"[-._](?:UD[-_])?(?:I?Q\d\w*|TQ\d\w*|MXFP\d\w*|B?F16|F?P?(?:16|32))$", re.IGNORECASE)
"""What quantisation adds to the name of a model: "-Q4_K_M", ".IQ2_XS", "-f16"."""


class Header(NamedTuple):
    """What a GGUF file says besides its weights."""

    chat_template: str | None
    n_parameters: int
    dtype: str
    """The dtype of its weights; bfloat16 if they are quantised."""


def is_gguf(path: Path | str) -> bool:
    """Return whether a path names a GGUF file."""
    return Path(path).suffix.lower() == ".gguf" and not Path(path).is_dir()


def files_in(folder: Path) -> list[Path]:
    """Return the GGUF files that are the weights of a folder; none if it holds other weights."""
    if any((folder / name).exists() for name in (*WEIGHTS, *ADAPTER_WEIGHTS)):
        return []
    return sorted(path for path in folder.iterdir() if is_gguf(path))


def only_file(folder: Path) -> Path | None:
    """Return the GGUF file that is the model of a folder; None if there is none. Raises BadInput if there are several."""
    files = files_in(folder)
    if len(files) > 1:
        raise BadInput(f"{folder} holds {len(files)} GGUF files ({', '.join(file.name for file in files)}); name the file")
    return files[0] if files else None


def unquantised(file: Path) -> str:
    """Return the name of a file's model, without its quantisation."""
    return _QUANTISED.sub("", file.stem)


def check(file: Path) -> None:
    """Raise BadInput if the package gguf is missing, or the file is missing, damaged, cut short or one part of a model."""
    if not file.is_file():
        raise BadInput(f"there is no GGUF file {file}; check its name")
    checked(file)
    if _PART.search(file.stem):
        raise BadInput(f"{file} is one part of a model; join the parts with llama.cpp's 'llama-gguf-split --merge' and give the whole file")
    header(file)


@read_once
def header(file: Path) -> Header:
    """Return what a GGUF file says besides its weights. Raises BadInput if the package gguf is missing, or the file is damaged."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise BadInput(f"{file} needs the package gguf; install it with: pip install 'valuedrift[gguf]'") from error
    try:
        found = GGUFReader(file)  # it also looks for the bytes of every tensor
        template = found.get_field("tokenizer.chat_template")
        types = {tensor.tensor_type.name for tensor in found.tensors}
        dtype = "float32" if types <= {"F32"} else "float16" if types <= {"F32", "F16"} else "bfloat16"
        size = sum(int(tensor.n_elements) for tensor in found.tensors)
        return Header(None if template is None else str(template.contents()), size, dtype)
    except Exception as error:  # the reader trusts what the file says
        raise BadInput(f"{file} is damaged or cut short: {reason_of(error)}; copy it again") from error


@read_once  # transformers reads the whole vocabulary for it
def config(file: Path) -> Any:
    """Return the transformers configuration of a GGUF file."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(**source(file), trust_remote_code=False)


def tokenizer(file: Path) -> Any:
    """Return the tokenizer of a GGUF file. Tokenizer files beside it are ignored."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as place:
        (alone := Path(place) / file.name).symlink_to(file.resolve())
        return AutoTokenizer.from_pretrained(**source(alone), trust_remote_code=False)


def source(place: Path) -> dict[str, Any]:
    """Return the arguments that name a folder or a GGUF file to from_pretrained."""
    if not is_gguf(place):
        return {"pretrained_model_name_or_path": place}
    return {"pretrained_model_name_or_path": place.parent, "gguf_file": place.name}


def dequantised(place: Path) -> dict[str, Any]:
    """Return the arguments that make from_pretrained dequantise a GGUF file; none for a folder."""
    import transformers

    settings = getattr(transformers, "GgufConfig", None)  # releases without it always dequantise
    return {"quantization_config": settings(dequantize=True)} if is_gguf(place) and settings else {}
