"""Load checkpoints: weights digest, chat template, tokenizer and model. Every model is loaded here."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .. import progress
from ..nouns import BadInput, digest
from . import causal, gguf
from .adapters import NO_TEXT, is_adapter, merged
from .files import (
    TEMPLATE,
    TOKENIZER_FILES,
    adapter_file,
    bytes_digest,
    checked,
    json_of,
    reason_of,
    tensors_of,
    text_of,
    weight_files,
    words_lent,
)
from .local_server import address

API = "openai:"
"""The prefix of a path that names a model behind an API."""
_NOTES = {"_name_or_path", "name_or_path", "base_model_name_or_path", "transformers_version", "peft_version", "dtype", "torch_dtype"} | {
    "chat_template"
}
"""Settings that the digest of the weights leaves out. They do not affect the output; a checkpoint's `prompt_format` covers the template."""


def weights_digest(path: Path | str) -> str:
    """Return the digest of everything that decides the model's output: weights, architecture, end tokens and tokenizer.

    For a model behind an API ("openai:MODEL") only its address and name are known. Raises BadInput if a file is missing or damaged.
    """
    if str(path).startswith(API):
        return digest("endpoint", address(), str(path).removeprefix(API))
    folder = local_checkpoint(path)
    if gguf.is_gguf(folder):
        return digest("weights", bytes_digest(folder))
    if is_adapter(folder):
        parts = [weights_digest(base_of(folder)), bytes_digest(adapter_file(folder)), _settings(folder / "adapter_config.json")]
    else:
        parts = [[bytes_digest(file) for file in weight_files(folder)], *_architecture(folder)]
    return digest("weights", *parts, tokenizer_parts(folder))


def likeness(path: Path | str) -> str:
    """Return the digest of everything but the weights: an engine of one whole model can take the weights of another with the same digest.

    It is "" for weights other than safetensors. The dtype counts, because a checkpoint keeps its own on an accelerator.
    """
    folder = local_folder(path)
    files, config = weight_files(folder), json_of(folder / "config.json") or {}
    if any(file.suffix != ".safetensors" for file in files):
        return ""
    with safe_open(files[0], framework="np") as tensors:
        types = [config.get("dtype") or config.get("torch_dtype"), str(tensors.get_slice(next(iter(tensors.keys()))).get_dtype())]
    return digest("likeness", types, *_architecture(folder), tokenizer_parts(folder), chat_template(folder))


def _architecture(folder: Path) -> list[Any]:
    """Return what decides the output besides weights and tokenizer: the settings and the end tokens."""
    return [_settings(folder / "config.json"), (_settings(folder / "generation_config.json") or {}).get("eos_token_id")]


def chat_template(path: Path | str) -> str | None:
    """Return a checkpoint's chat template (for an adapter its own, else its base's), or None."""
    folder = local_checkpoint(path)
    if gguf.is_gguf(folder):
        return gguf.header(folder).chat_template
    if (file := folder / TEMPLATE).exists():
        return text_of(file)
    template = (json_of(folder / "tokenizer_config.json") or {}).get("chat_template")
    try:
        if isinstance(template, list):  # several named templates: apply_chat_template uses "default"
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
    except (LookupError, TypeError) as error:
        raise BadInput(f"{folder / 'tokenizer_config.json'}: its chat_template is no list of names and templates; correct it") from error
    if not isinstance(template, str | None):
        raise BadInput(f"{folder / 'tokenizer_config.json'}: its chat_template is no text; correct it")
    return chat_template(base_of(folder)) if template is None and is_adapter(folder) else template


def load_model(path: Path | str, device: str = "auto", dtype: str = "float32") -> tuple[Any, Any]:
    """Return (model in eval mode, tokenizer) of a checkpoint; adapters are merged into their base, GGUF files are dequantised.

    `dtype` is what `precision.dtype_of` returns. An adapter is merged in float32, because 16 bits would round small changes away before
    they are added. Raises BadInput if the folder holds no whole causal language model.
    """
    import torch
    import transformers

    check_causal(path)
    folder = local_checkpoint(path)
    device = str(torch.accelerator.current_accelerator() or "cpu") if device == "auto" else device
    with _loading(path, "a causal language model"):
        tokenizer = load_tokenizer(folder)
        if is_adapter(folder):
            model = merged(_loaded(transformers.AutoModelForCausalLM, base_of(folder), dtype="float32"), folder)
            for weights in model.parameters():  # not the buffers: rotary frequencies stay in float32
                weights.data = weights.data.to(getattr(torch, dtype))
        else:
            model = _loaded(transformers.AutoModelForCausalLM, folder, dtype=dtype)
        causal.check_rows(model, tokenizer, folder)
        model = model.to(device).eval()
        causal.check_left_to_right(model, path)
    return model, tokenizer


def skeleton(path: Path | str) -> Any:
    """Return a causal language model without its weights; for an adapter, its base. Raises BadInput as `load_model` does."""
    import transformers

    check_causal(path)
    folder = local_folder(path)
    with _loading(path, "a causal language model"):
        return _loaded(transformers.AutoModelForCausalLM, base_of(folder) if is_adapter(folder) else folder, device_map="meta")


def load_classifier(path: Path | str, dtype: str = "float32", weights: bool = True) -> Any:
    """Return a sequence classifier or reward model in eval mode; an adapter brings its score layer.

    Without weights, an adapter is represented by its base.
    """
    import transformers

    folder = local_folder(path)
    placed: dict[str, Any] = {} if weights else {"device_map": "meta"}
    with _loading(path, "a sequence classifier"):
        if not is_adapter(folder):
            weight_files(folder)
            return _loaded(transformers.AutoModelForSequenceClassification, folder, dtype=dtype, **placed).eval()
        if not _head(tensors_of(adapter_file(folder))):
            raise NoScore(f"the adapter {path} holds no score layer; save it with its score layer (task_type SEQ_CLS does that)")
        model = _loaded(transformers.AutoModelForSequenceClassification, base_of(folder), head=True, dtype=dtype, num_labels=1, **placed)
        return merged(model, folder).eval() if weights else model


def load_to_train(folder: str, dtype: Any, n_scores: int = 0) -> Any:
    """Return a model to train: a causal language model, or with `n_scores` a classifier with a new layer of so many outputs.

    Its weights are not checked, because a process of FSDP or DeepSpeed may hold only parts of them.
    """
    import transformers

    architecture = transformers.AutoModelForSequenceClassification if n_scores else transformers.AutoModelForCausalLM
    with _loading(folder, "a model to train"):
        return architecture.from_pretrained(folder, dtype=dtype, trust_remote_code=False, **({"num_labels": n_scores} if n_scores else {}))


def load_encoder(path: Path | str) -> tuple[Any, Any]:
    """Return (sentence encoder in eval mode, tokenizer)."""
    import transformers

    with _loading(path, "an embedding model"):
        return transformers.AutoModel.from_pretrained(local_folder(path), trust_remote_code=False), load_tokenizer(path)


def load_tokenizer(path: Path | str) -> Any:
    """Return a tokenizer with the checkpoint's chat template. An adapter's base lends the files that the adapter lacks."""
    from transformers import AutoTokenizer

    folder = local_checkpoint(path)
    if gguf.is_gguf(folder):
        with _loading(path, "a tokenizer"):
            return gguf.tokenizer(folder)
    base = base_of(folder) if is_adapter(folder) else folder
    lent, template = words_lent(folder, [base]), chat_template(folder)
    own = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    if not own and not lent:
        raise BadInput(f"{base} has no tokenizer; copy the tokenizer files of the model it was trained from into it")
    for file in own:
        checked(file)
    try:
        if not lent or not own:
            tokenizer = AutoTokenizer.from_pretrained(base if lent else folder, trust_remote_code=False)
        else:
            with tempfile.TemporaryDirectory() as place:
                for file in [*own, *lent.values()]:
                    (Path(place) / file.name).symlink_to(file.resolve())
                (Path(place) / "config.json").symlink_to((base / "config.json").resolve())
                tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        tokenizer.decode(tokenizer("Some text.")["input_ids"])  # some faulty settings show only now
    except Exception as error:  # the tokenizers library raises bare exceptions
        names = ", ".join(file.name for file in [*own, *lent.values()])
        raise BadInput(
            f"the tokenizer of {path} cannot be loaded ({names}): {reason_of(error)}; copy the tokenizer files of the model it was trained "
            "from into it"
        ) from error
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def context_of(model: Any) -> int | None:
    """Return a model's context length in tokens, or None if its settings set no limit."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return context if context and context > 0 else None


class NoScore(BadInput):
    """A folder without the layer that scores texts."""


@contextlib.contextmanager
def _loading(path: Path | str, what: str) -> Iterator[None]:
    """Turn any error of the libraries during loading into one sentence, and silence their warnings; the checks here say more."""
    import torch
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with progress.quiet():
            yield
    except BadInput:
        raise
    except Exception as error:
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        advice = "free memory or take a device with more" if full else "check its files, or save the model again"
        raise BadInput(f"{path} cannot be loaded as {what}: {reason_of(error)}; {advice}") from error
    finally:
        logging.set_verbosity(level)


def _loaded(architecture: Any, folder: Path, head: bool = False, **options: Any) -> Any:
    """Return a model with every weight from its folder; with `head`, all but a score layer that an adapter brings."""
    model, found = architecture.from_pretrained(
        **gguf.source(folder),
        **gguf.dequantised(folder),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        trust_remote_code=False,
        **options,
    )
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise BadInput(
            f"{folder}: {len(found['mismatched_keys'])} weights do not have the shape that config.json gives them, {name} first "
            f"({tuple(stored)} in the file, {tuple(wanted)} by config.json); save the model again"
        )
    missing = sorted(name for name in found["missing_keys"] if not (head and name.split(".")[0] in _HEADS))
    if missing:
        score = not any(name.startswith(f"{model.base_model_prefix}.") for name in missing)
        raise (NoScore if score else BadInput)(
            f"{folder} lacks {len(missing)} weights of its architecture, {missing[0]} first; save the whole model"
        )
    unused = sorted(found["unexpected_keys"])
    if layers := [name for name in unused if re.search(r"\.\d+\.", name)]:
        raise BadInput(
            f"{folder}: {len(layers)} weights, {layers[0]} first, have no place in the model that config.json describes; "
            "correct config.json or save the model again"
        )
    if unused:
        progress.say(f"{folder}: {len(unused)} weights are no part of the model and are not used: {', '.join(unused[:5])}")
    return model


# -- checks of models --------------------------------------------------------------------------------------------------------


_HEADS = ("score", "classifier", "classification_head", "qa_outputs", "regression_head", "reward_head")
"""Names of score layers."""


def check_causal(path: Path | str) -> None:
    """Raise BadInput unless settings and weight names fit a causal language model."""
    if str(path).startswith(API):
        return
    folder = local_checkpoint(path)
    advice = "give the folder of a model that writes text; a reward model, an encoder or a classifier does not"
    if is_adapter(folder):
        settings = json_of(folder / "adapter_config.json") or {}
        if settings.get("task_type") in NO_TEXT:
            raise BadInput(f"{path} is not a causal language model: its adapter_config.json has the task {settings['task_type']}; {advice}")
        if head := _head(tensors_of(adapter_file(folder))):
            raise BadInput(f"{path} is not a causal language model: the adapter holds the layer {head!r}; {advice}")
        check_causal(base_of(folder))
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    whole = gguf.is_gguf(folder)
    files = [] if whole else weight_files(folder)
    config = config_of(folder)
    named = [config.architectures] if isinstance(config.architectures, str) else [*map(str, config.architectures or [])]
    writes = any(re.search(r"ForCausalLM|LMHead", name) or name in CAUSAL.values() for name in named)
    if getattr(config, "is_encoder_decoder", False) or (named and not writes):
        where, kind = "metadata" if whole else "config.json", ", ".join(named) or config.model_type
        raise BadInput(f"{path} is not a causal language model: its {where} names {kind}; {advice}")
    ends = (json_of(folder / "generation_config.json") or {}).get("eos_token_id")
    if not all(isinstance(end, int | None) for end in (ends if isinstance(ends, list) else [ends])):
        raise BadInput(f"{folder / 'generation_config.json'}: eos_token_id is {ends!r} and no number of a token; correct it")
    if head := next(filter(None, (_head(tensors_of(file)) for file in files)), ""):
        raise BadInput(f"{path} is not a causal language model: its weights hold the layer {head!r}; {advice}")


def config_of(folder: Path) -> Any:
    """Return the transformers configuration of a folder or a GGUF file. Raises BadInput if it is missing or wrong."""
    from transformers import AutoConfig

    whole = gguf.is_gguf(folder)
    try:
        return gguf.config(folder) if whole else AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each model's configuration checks its values in its own way
        what, advice = (folder, gguf.INSTEAD) if whole else (folder / "config.json", "correct it or save the model again")
        raise BadInput(f"{what} cannot be used: {reason_of(error)}; {advice}") from error


def _head(names: Any) -> str:
    """Return the name of the score layer among tensors, or ""."""
    tops = (name.removeprefix("base_model.model.").split(".")[0] for name in names)
    return next((top for top in tops if top in _HEADS), "")


# -- folders and settings ------------------------------------------------------------------------------------------------


def local_folder(path: Path | str) -> Path:
    """Return the local folder of a checkpoint. Raises BadInput if it is a GGUF file."""
    place = local_checkpoint(path)
    if gguf.is_gguf(place):
        raise BadInput(
            f"{place} is a GGUF file, which only the backend 'transformers', the judge 'labels' and writers can read; {gguf.INSTEAD}"
        )
    return place


def local_checkpoint(path: Path | str) -> Path:
    """Return the local folder or the GGUF file of a checkpoint; "org/name@revision" is downloaded into the hub's cache."""
    place = Path(path)
    if not gguf.is_gguf(place):
        if not place.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", str(path)):
            return _from_hub(*str(path).split("@"))
        if not place.is_dir():
            raise BadInput(f"there is no checkpoint folder {path}; give a folder, or a hub id with its revision (org/name@revision)")
        if not any(place.iterdir()):
            raise BadInput(f"the checkpoint folder {path} is empty; give one that holds a saved model")
        place = gguf.only_file(place) or place
    if gguf.is_gguf(place):
        gguf.check(place)
    return place


def _from_hub(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]))
    except Exception as error:  # errors of the hub's client, of HTTP and of the operating system
        raise BadInput(
            f"{name}@{revision} cannot be fetched: {reason_of(error)}; check the name and the connection, or give a folder"
        ) from error


def base_of(adapter: Path) -> Path:
    """Return the folder of an adapter's base, which its config names by path (from here or the adapter) or by hub id."""
    config = json_of(adapter / "adapter_config.json") or {}
    name = str(config.get("base_model_name_or_path") or "")
    for place in (Path(name), adapter / name):
        if name and place.is_dir():
            return local_folder(place)
    reason = ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):  # trainers seldom write the revision; the digest of the files tells revisions apart
        try:
            return _from_hub(name, config.get("revision") or "main")
        except BadInput as error:
            reason = f" ({str(error).partition('; ')[0]})"
    advice = f"correct base_model_name_or_path in {adapter / 'adapter_config.json'} or, to trace, name it with --base"
    raise BadInput(f"the adapter {adapter} belongs to the base model {name or '(none named)'!r}, which is not there{reason}; {advice}")


def _settings(file: Path) -> Any:
    """Return the settings in a file that affect a model's output, or None if there is no such file."""

    def without_notes(value: Any) -> Any:
        return {key: without_notes(entry) for key, entry in value.items() if key not in _NOTES} if isinstance(value, dict) else value

    found = without_notes(json_of(file))
    if isinstance(found, dict) and "local_files_only" in found:
        found["local_files_only"] = False  # whether it was saved offline decides nothing; false keeps the digests of earlier versions
    return found


def tokenizer_parts(folder: Path) -> list[Any]:
    """Return the content of a checkpoint's tokenizer files, for a digest."""
    if gguf.is_gguf(folder):
        return [bytes_digest(folder)]
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    return [[file.name, _settings(file) if file.name == "tokenizer_config.json" else bytes_digest(file)] for file in files]
