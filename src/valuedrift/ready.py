"""Whether a plan can be carried out: all that can be known before the first step, found in one way for `check` and `run`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import registry, resolve, suites
from .nouns import BadInput, Checkpoint, Item, Prompt
from .plan import BASE, Node, Plan
from .records import digest_of
from .train import processes, task

if TYPE_CHECKING:
    from .train.readiness import Start


@dataclass
class Ready:
    """What a plan will do, and what to know of it beforehand."""

    prompts: list[Prompt]
    parameters: float | None
    """Of the starting model; None if its size is not known."""
    stages: list[dict[str, Any]]
    """One line per stage, as `check` prints it, with `n_seen`: the records it sees, repeats counted."""
    notes: list[str]


def ready(plan: Plan, out: Path, fetch: bool = False) -> Ready:
    """Return what a plan will do in a run folder. Raises BadInput for everything that would stop it later.

    With `fetch`, missing models and data are fetched or built. Without it, checks that need them are skipped and named in `notes`.
    """
    processes.check_started_once()
    prompts = suites.load(plan.suite, plan.topics)
    resolve.gold_of(plan.gold)
    _check_folder(out)
    readers = _check_asking(plan, prompts, fetch)
    nodes = plan.nodes()
    if all(node.stage.scores for node in nodes):
        raise BadInput("the plan trains reward models only, and there is no language model to ask; add a stage that trains one")
    sources = _Sources(fetch)
    for node in nodes:  # before a model is fetched or built for them
        with _of(node):
            sources.records(node)
    start, parameters, weights = _start(plan.model, fetch)
    known: dict[tuple[str, int], str | None] = {(BASE, seed): weights for seed in plan.seeds}
    lines, notes, checked = [], [], set[str]()
    for node in nodes:
        with _of(node):
            records, anchored = sources.records(node), sources.anchored(node)
            lines.append(_line(node, known, out, sources, records))
            settings = node.stage.model_dump_json(exclude={"after"}) + node.reward
            if start is not None and records is not None and settings not in checked:
                from .train.readiness import check_stage

                checked.add(settings)
                notes += [f"{node.name}: {said}." for said in check_stage(start, node.stage, records, anchored, bool(node.reward))]
    if start is not None:
        from .models.family import family_notes
        from .train.readiness import check_questions

        notes += family_notes(readers, [start.path])
        notes += check_questions(start, prompts, plan.prompt_format, plan.max_new_tokens)
        registry.find("backend", plan.backend)(plan).check([Checkpoint(BASE, 0, start.path, weights or "")], prompts)
        _check_disk(out, start.model.num_parameters(), lines)  # without the model here, the plan is priced for another machine
    else:
        notes.append("The model is not on this machine: its chat template, special tokens and context are checked once `run` has it.")
    return Ready(prompts, parameters, lines, list(dict.fromkeys(notes)))


@dataclass
class _Sources:
    """The data of a plan, each source read once, however many stages, seeds and sweep values use it."""

    fetch: bool
    read: dict[tuple[str, ...], Any] = field(default_factory=dict)
    contents: dict[int, str] = field(default_factory=dict)

    def records(self, node: Node) -> Any:
        """Return what a stage trains on; None if it is not on this machine and is not to be fetched."""
        source = node.stage.data
        key = registry.algorithm(node.stage.algorithm).data_format, source, str(node.stage.max_bad_rows)
        if key not in self.read:
            on_hub = source.startswith("hf:") and not os.path.exists(source.removeprefix("hf:").partition("?")[0])
            # a folder that is not there yet may be another command's to make; in one that is there, a missing file is a slip
            to_come = not re.match(r"\w+:", source) and not os.path.exists(os.path.dirname(source) or ".")
            self.read[key] = None if (on_hub or to_come) and not self.fetch else task.records_of(node.stage)
        return self.read[key]

    def anchored(self, node: Node) -> Any:
        """Return the questions of a stage's anchor."""
        anchor = node.stage.anchor
        key = ("anchor", anchor.data, anchor.target) if anchor else ()
        if key not in self.read:
            self.read[key] = task.anchored_of(node.stage)
        return self.read[key]

    def content(self, records: Any) -> str:
        """Return the digest of a stage's records."""
        if id(records) not in self.contents:
            self.contents[id(records)] = digest_of(records)
        return self.contents[id(records)]


@contextlib.contextmanager
def _of(node: Node) -> Iterator[None]:
    """Prefix the error message with the stage's name."""
    try:
        yield
    except (BadInput, OSError) as error:
        raise BadInput(f"stage {node.name!r}: {error}") from error


def _start(model: str, fetch: bool) -> tuple[Start | None, float | None, str | None]:
    """Return a plan's model without its weights, its parameters and its digest; None each if it is not known."""
    from .models import loading
    from .train import price

    if not fetch and not resolve.is_cached(model):
        return None, None, None
    path = resolve.resolve_model(model)
    if not fetch and not Path(path).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", path):
        return None, price.parameters_of(path), None
    weights = loading.weights_digest(path)
    from .train import readiness

    start = readiness.start_of(path)
    return start, start.model.num_parameters(), weights


def _line(node: Node, known: dict[tuple[str, int], str | None], out: Path, sources: _Sources, records: Any) -> dict[str, Any]:
    """Return a stage's line of `check`; adds what its end is called by content, if it is trained, to `known`."""
    from .models import loading
    from .train import price, saved_stage, step_counts

    known[node.name, node.seed] = None
    n_records = price.records_of(node.stage.data) if records is None else len(records)
    line = {"name": node.name, "after": node.parent, "seed": node.seed, "algorithm": node.stage.algorithm, "data": node.stage.data}
    line |= {"asked": not node.stage.scores, "adapter": node.stage.lora is not None, "done": False}
    line |= {"by_card": records is None and n_records is not None}
    line |= {"bytes_per_parameter": 2 if node.stage.dtype == "bfloat16" else 4}  # as trained and saved
    if n_records is None and node.stage.steps is None:
        return line | {"records": None, "steps": None, "saves": None, "n_seen": None, "saved": 0}
    n_seen, steps = step_counts.course(node.stage, n_records or 1)
    parent = known.get((node.parent, node.seed))
    reward = known.get((node.reward, node.seed)) if node.reward else ""
    folder = None
    if parent and reward is not None and records is not None:
        folder = resolve.stage_folder(node, parent, sources.content(records), out, reward)
    finished = saved_stage.finished(folder) if folder else None
    saved = len(saved_stage.complete(folder)) if folder else 0
    if finished and folder:  # the records left out are known only now
        steps, saves = finished["total"], finished["steps"]
        known[node.name, node.seed] = loading.weights_digest(folder / f"checkpoint-{saves[-1]}")
    else:
        saves = step_counts.save_steps(node.stage.save_at, steps)
    counted = {"records": n_records, "steps": steps, "saves": len(saves), "done": finished is not None}
    return line | counted | {"n_seen": n_seen, "saved": saved}


# -- what is asked ---------------------------------------------------------------------------------------------------------


def _check_asking(plan: Plan, prompts: Sequence[Prompt], fetch: bool) -> Sequence[str]:
    """Return the models that the judge reads with. Raises BadInput for a backend or a judge that could not do its work."""
    if plan.backend == "openai":
        raise BadInput("the backend 'openai' evaluates only models behind an API; a plan's checkpoints are folders, so set another")
    if plan.capability:
        from .evaluate.capability import check_tasks

        check_tasks(plan.capability)
    if resolve.builds(plan.judge) and not fetch:
        return ()
    judge = resolve.judge_of(plan.judge, plan.max_cost)
    if fetch or not judge.is_remote:
        _ = judge.identity  # a remote judge may ask its server for it
    for one in judge.members or [judge]:
        if one.exact:  # it reads only what it was made for, and costs nothing
            one.read([Item(prompt.text, prompt.claim, "", prompt.topic) for prompt in prompts])
    return judge.models


# -- where it is written -----------------------------------------------------------------------------------------------------


def _existing(out: Path) -> Path:
    return next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())


def _check_folder(out: Path) -> None:
    """Raise BadInput if the run folder cannot be made or written."""
    place = _existing(out)
    if not place.is_dir():
        raise BadInput(f"the run folder {out} cannot be made: {place} is a file; choose another with --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise BadInput(f"the run folder {out} cannot be written: {place} is read-only; choose another with --out")


def _check_disk(out: Path, parameters: float, lines: Sequence[dict[str, Any]]) -> None:
    """Raise BadInput if the checkpoints of whole models will not fit on the disk."""
    waiting = [line for line in lines if line["saves"] and not line["done"] and not line["adapter"]]
    if not waiting:
        return
    sizes = [line["bytes_per_parameter"] * parameters for line in waiting]
    # while a stage trains, its optimizer takes the space of two more checkpoints
    needed = sum((line["saves"] - line["saved"]) * size for line, size in zip(waiting, sizes, strict=True)) + 2 * max(sizes)
    free = shutil.disk_usage(_existing(out)).free
    if needed > free:
        raise BadInput(
            f"the checkpoints need about {needed / 1e9:,.1f} GB, and only {free / 1e9:,.1f} GB are free at {out}; free some space, "
            "save fewer of them (save_at), or choose another folder with --out"
        )
