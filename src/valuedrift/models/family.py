"""The family of a model, as far as its settings or its name tell it. A judge should not be of the family whose answers it reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..nouns import BadInput
from .adapters import is_adapter
from .loading import API, base_of, config_of, local_checkpoint


def family_of(path: str) -> str:
    """Return a model's family: "gemma" for the model_type "gemma3_text" and for the name "openai:gemma-3-4b"; "" if it is not known.

    A folder or GGUF file has a model_type (an adapter that of its base). Of a hub id and of a model behind an API the first word of the
    name counts, so that nothing is fetched.
    """
    if path.startswith(API) or not Path(path).exists():
        name = path.removeprefix(API).rpartition("/")[2]
        return re.split(r"[\d@:._\s-]", name.lower())[0]
    try:
        place = local_checkpoint(path)
        kind = str(config_of(base_of(place) if is_adapter(place) else place).model_type)
    except BadInput:
        return ""
    return re.split(r"_?v?\d|_text|_moe", kind)[0]


def family_notes(readers: Sequence[str], writers: Sequence[str]) -> list[str]:
    """Return a sentence for each model that a judge reads with (`readers`) and that is of the family of a traced model (`writers`)."""
    traced = {family: path for path in dict.fromkeys(writers) if (family := family_of(path))}
    notes = []
    for path in readers:
        if (family := family_of(path)) in traced:
            notes.append(
                f"The judge reads with {path}, and {traced[family]} wrote the answers: by model_type or name, both are of the family "
                f"{family!r}. A model may favour or misread texts of its own kind. Use a judge of another family, or measure this one with "
                "'valuedrift calibrate'."
            )
    return notes
