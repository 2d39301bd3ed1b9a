"""Checkpoint folders: what their weights are called by content, which chat template they carry, and the model itself."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..nouns import BadInput, digest
from ._server import address

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
API = "openai:"
"""What the path of a checkpoint begins with that exists only behind an API."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "added_tokens.json",
    "special_tokens_map.json",
)
_NOTES = {"_name_or_path", "name_or_path", "base_model_name_or_path", "transformers_version", "peft_version", "dtype", "torch_dtype"}
"""Names in settings that do not decide what a model says. `_CHAT_TEMPLATE` is left out too: a checkpoint's `frame` names it."""
_CHAT_TEMPLATE = "chat_template"


def weights_digest(path: Path | str) -> str:
    """Return the digest of everything that decides the model's output: weights, architecture, end tokens and tokenizer.

    Of an adapter folder it is the digest of the base model, the adapter and its settings. Raises BadInput where the folder is missing
    or empty, has no weights or truncated ones, or where an adapter's base is missing.

    Of a model behind an API ("openai:MODEL") it is the digest of the address and the name: nothing more can be known of it.
    """
    if str(path).startswith(API):
        return digest("endpoint", address(), str(path).removeprefix(API))
    folder = local_folder(path)
    if _is_adapter(folder):
        weights = _named(folder, ADAPTER_WEIGHTS, "adapter weights")
        parts = [weights_digest(base_of(folder)), _bytes_digest(weights), _settings(folder / "adapter_config.json")]
    else:
        parts = [[_bytes_digest(file) for file in _weight_files(folder)], *_architecture(folder)]
    return digest("weights", *parts, _tokenizer_parts(folder))


def likeness(path: Path | str) -> str:
    """Return the digest of all that two checkpoints must share for a switch: all but the weights. "" where there is no switching.

    An adapter is merged into its base anew, and weights that are not safetensors are loaded by transformers itself. The type of the numbers
    counts, because off a CPU a checkpoint keeps its own.
    """
    folder = local_folder(path)
    if _is_adapter(folder):
        return ""
    files, config = _weight_files(folder), _json(folder / "config.json") or {}
    if any(file.suffix != ".safetensors" for file in files):
        return ""
    with safe_open(files[0], framework="pt") as tensors:
        types = [config.get("dtype") or config.get("torch_dtype"), str(tensors.get_slice(next(iter(tensors.keys()))).get_dtype())]
    return digest("likeness", types, *_architecture(folder), _tokenizer_parts(folder), chat_template(folder))


def _architecture(folder: Path) -> list[Any]:
    """Return what decides the output beside weights and tokenizer: the settings, and the tokens that end an answer."""
    return [_settings(folder / "config.json"), (_settings(folder / "generation_config.json") or {}).get("eos_token_id")]


def chat_template(path: Path | str) -> str | None:
    """Return the chat template a checkpoint carries (of an adapter: its own, else its base's), or None where there is none."""
    folder = local_folder(path)
    if (file := folder / "chat_template.jinja").exists():
        return file.read_text()
    template = (_json(folder / "tokenizer_config.json") or {}).get(_CHAT_TEMPLATE)
    if isinstance(template, list):  # several named templates: apply_chat_template takes the one called "default"
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if template is None and _is_adapter(folder):
        return chat_template(base_of(folder))
    return template


def load_model(path: Path | str, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """Return (model in eval mode, tokenizer) of a folder or of a hub id "org/name@revision"; adapters are merged into their base.

    dtype "auto" is float32 on a CPU and the checkpoint's own elsewhere. Raises BadInput where something is missing or does not fit.
    """
    import torch
    import transformers

    from ..progress import quiet

    folder = local_folder(path)
    adapter, base = (folder, base_of(folder)) if _is_adapter(folder) else (None, folder)
    _weight_files(base)
    accelerator = torch.accelerator.current_accelerator()
    device = str(accelerator or "cpu") if device == "auto" else device
    dtype = "float32" if dtype == "auto" and device == "cpu" else dtype
    try:
        tokenizer = load_tokenizer(folder)
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        with quiet():
            model, found = load(base, dtype=dtype, output_loading_info=True)
        if missing := sorted(found["missing_keys"]):
            raise BadInput(f"{base} lacks {len(missing)} weights of its architecture, {missing[0]} first; save the whole model")
        if adapter:
            model = _merged(model, adapter)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise BadInput(
            f"{path} cannot be loaded as a causal language model: {first_sentence(error)}; check the files of the folder"
        ) from error
    return model.to(device).eval(), tokenizer


def load_tokenizer(path: Path | str) -> Any:
    """Return the tokenizer of a folder, of an adapter its own or else its base's, with the checkpoint's chat template."""
    from transformers import AutoTokenizer

    folder = local_folder(path)
    base = base_of(folder) if _is_adapter(folder) else folder
    words = next((place for place in (folder, base) if any((place / name).exists() for name in TOKENIZER_FILES)), None)
    if words is None:
        raise BadInput(f"{base} has no tokenizer; copy the tokenizer files of the model it was trained from into it")
    tokenizer = AutoTokenizer.from_pretrained(words)
    if (template := chat_template(folder)) is not None:
        tokenizer.chat_template = template
    return tokenizer


def context_of(model: Any) -> int | None:
    """Return how many tokens a model was made to read, or None if its settings set no limit."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return context if context and context > 0 else None


def _merged(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    _checked(_named(adapter, ADAPTER_WEIGHTS, "adapter weights"))
    wrapped = PeftModel.from_pretrained(model, str(adapter))
    if wrapped.active_peft_config.is_prompt_learning:
        raise BadInput(f"{adapter} is a prompt adapter, which cannot be merged into its base; use a LoRA-like adapter")
    return wrapped.merge_and_unload()


def first_sentence(error: Exception) -> str:
    return re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".:") or type(error).__name__


# -- where things are ----------------------------------------------------------------------------------------------------


def local_folder(path: Path | str) -> Path:
    """Return the local folder of a checkpoint; "org/name@revision" is fetched through the hub's own cache."""
    folder = Path(path)
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", str(path)):
        return _from_hub(*str(path).split("@"))
    if not folder.is_dir():
        raise BadInput(f"there is no checkpoint folder {path}; give a folder, or a hub id with its revision (org/name@revision)")
    if not any(folder.iterdir()):
        raise BadInput(f"the checkpoint folder {path} is empty; give one that holds a saved model")
    return folder


def _from_hub(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]))
    except Exception as error:  # the hub's client raises its own, HTTP's and the operating system's errors
        raise BadInput(
            f"{name}@{revision} cannot be fetched: {first_sentence(error)}; check the name and the connection, or give a folder"
        ) from error


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def base_of(adapter: Path) -> Path:
    """Return the folder of an adapter's base model, which its config names by path (from here or from the adapter) or by hub id."""
    config = _json(adapter / "adapter_config.json") or {}
    name = str(config.get("base_model_name_or_path") or "")
    for place in (Path(name), adapter / name):
        if name and place.is_dir():
            return local_folder(place)
    reason = ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):  # trainers seldom write the revision; its files are digested, so that none is mistaken
        try:
            return _from_hub(name, config.get("revision") or "main")
        except BadInput as error:
            reason = f" ({str(error).partition('; ')[0]})"
    advice = f"correct base_model_name_or_path in {adapter / 'adapter_config.json'} or, to trace, name it with --base"
    raise BadInput(f"the adapter {adapter} belongs to the base model {name or '(none named)'!r}, which is not there{reason}; {advice}")


def _named(folder: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise BadInput(f"{folder} holds no {what} ({' or '.join(names)}); give a folder written by save_pretrained")


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files that transformers would load, each checked to be whole."""
    if _json(folder / "config.json") is None:
        raise BadInput(f"{folder} has no config.json; give a folder written by save_pretrained")
    file = _named(folder, WEIGHTS, "weights")
    files = [file]
    if file.suffix == ".json":
        files = [folder / name for name in sorted(set((_json(file) or {}).get("weight_map", {}).values()))]
    for part in files:
        if not part.exists():
            raise BadInput(f"{folder} lacks {part.name}, which {file.name} lists; copy the checkpoint again")
        _checked(part)
    return files


# -- reading ---------------------------------------------------------------------------------------------------------------


def _checked(file: Path) -> None:
    """Raise BadInput where a file is empty, or a safetensors file is shorter or longer than its header says."""
    size = file.stat().st_size
    whole = size == _safetensors_bytes(file) if file.suffix == ".safetensors" else size > 0
    if not whole:
        raise BadInput(f"{file} is damaged or cut short (it has {size} bytes); copy or save it again")


def _safetensors_bytes(file: Path) -> int | None:
    """Return the size that the header of a safetensors file asks for, or None where the header cannot be read."""
    with open(file, "rb") as handle:
        start = handle.read(8)
        n_header = int.from_bytes(start, "little")
        if len(start) < 8 or n_header >= file.stat().st_size:
            return None
        try:
            header = json.loads(handle.read(n_header))
        except ValueError:
            return None
    return 8 + n_header + max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)


def _bytes_digest(file: Path) -> str:
    _checked(file)
    about = file.stat()
    return _read_digest(str(file.resolve()), about.st_size, about.st_mtime_ns)


@functools.cache  # within one process: every adapter of a run names the same base
def _read_digest(path: str, n_bytes: int, mtime_ns: int) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _json(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise BadInput(f"{file} is not valid JSON ({error}); copy or save it again") from error
    if not isinstance(content, dict):
        raise BadInput(f"{file} does not hold a JSON object; copy or save it again")
    return content


def settings_of(folder: Path) -> dict[str, Any]:
    """Return the settings of a model's folder; empty where it has none."""
    return _json(folder / "config.json") or {}


def _settings(file: Path) -> Any:
    return _without_notes(_json(file))


def _without_notes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_notes(entry) for key, entry in value.items() if key not in _NOTES and key != _CHAT_TEMPLATE}
    return value


def _tokenizer_parts(folder: Path) -> list[Any]:
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    return [[file.name, _settings(file) if file.name == "tokenizer_config.json" else _bytes_digest(file)] for file in files]
