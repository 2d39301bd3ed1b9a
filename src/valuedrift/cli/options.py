"""The options of the verbs: those that several verbs share, and those made from the settings that they fill.

A setting's option has the name, type, default and description of its field, so that they are written in the model alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from typer import Argument, Option

from .. import plan
from ..distributed import storage

Json = Annotated[bool, Option("--json", help="One JSON object on stdout, progress on stderr.")]
Out = Annotated[
    Path,
    Option("--out", parser=storage.here, metavar="FOLDER", help="Run folder or its address (s3://…); the same command again continues it."),
]
RunFolder = Annotated[Path, Argument(parser=storage.here, metavar="RUN", help="A run folder, or its address.")]
Engine = Annotated[str, Option("--engine", help="local, or ray: stages and checkpoints are tasks of a Ray cluster (docs/scale.md).")]
Base = Annotated[str | None, Option("--base", help="The model that the training started from, a folder or org/name@revision: step 0.")]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Change a setting by its key, for example draws=3; see docs/run.md. Repeatable."),
]

Verb = Callable[..., None]


def settings(model: type[plan.Settings], *names: str, **defaults: str) -> Callable[[Verb], Verb]:
    """Return a decorator that replaces a verb's parameter of type `model` by an option for each of its settings.

    With `names`, the verb has these options alone; otherwise it has all, and --set. `defaults` are further names, with
    what the help calls their default; "required" makes the option required.
    """
    chosen = (*names, *defaults) or tuple(model.model_fields)
    made = {name: _option(name, model.model_fields[name], defaults.get(name)) for name in chosen}
    options = [option for option in made.values() if option]
    if not names and not defaults:
        options.append(inspect.Parameter("changes", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Set))

    def decorate(verb: Verb) -> Verb:
        signature = inspect.signature(verb, eval_str=True)
        place = next(name for name, parameter in signature.parameters.items() if parameter.annotation is model)

        @functools.wraps(verb)
        def command(**given: Any) -> None:
            changes = given.pop("changes", None) or []
            values = {option.name: value for option in options if (value := given.pop(option.name, None)) is not None}
            verb(**given, **{place: _filled(model, values, changes)})

        parameters = []
        for name, parameter in signature.parameters.items():
            parameters += options if name == place else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def shown_default(value: Any) -> str:
    """Return a default as help and docs show it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, "", []) else str(value)


def _option(name: str, field: FieldInfo, default: str | None) -> inspect.Parameter | None:
    """Return the option of a field; None if its value is a table."""
    kind = _kind(field.annotation)
    if issubclass(kind, plan.Settings):
        return None
    flag = "--" + name.replace("_", "-")
    shown = shown_default(field.default) if default is None else default
    about = Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=" ".join((field.description or "").partition("\n\n")[0].split()),
        show_default=False if shown in ("none", "required") else shown,
        metavar="A,B,…" if kind is list else None,
    )
    empty = inspect.Parameter.empty if default == "required" else None
    annotation: Any = Annotated[(str if kind is list else kind) | None, about]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=empty, annotation=annotation)


def _kind(annotation: Any) -> type:
    """Return the plain type of a field: str for a choice of words, and the type itself if it may also be None."""
    inner = [argument for argument in get_args(annotation) if argument is not NoneType]
    if not inner or get_origin(annotation) is list:
        return get_origin(annotation) or annotation
    return _kind(inner[0]) if not isinstance(inner[0], str) else str


def _filled(model: type[plan.Settings], values: dict[str, Any], changes: Sequence[str]) -> plan.Settings:
    """Return the settings that options and --set give. Raises BadInput naming the option."""
    for name, value in values.items():
        if _kind(model.model_fields[name].annotation) is list:
            values[name] = [part.strip() for part in value.split(",") if part.strip()]

    def at(key: str) -> str:
        return plan.set_by(key, changes) or "--" + key.partition(".")[0].replace("_", "-")

    try:
        return model.model_validate(plan.changed(values, changes))
    except ValidationError as error:
        raise plan.fault(error, at, model) from error
