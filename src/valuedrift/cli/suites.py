"""Verbs on the questions and on the sandbox: suite list, check, build; sandbox build, sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from ..plan import EvaluationSettings
from ..progress import tell
from .options import Json, settings
from .program import app, output

suite_app = typer.Typer(no_args_is_help=True, help="The questions for every checkpoint.")
sandbox_app = typer.Typer(no_args_is_help=True, help="The embedded world: a base model and data made on this machine.")
app.add_typer(suite_app, name="suite")
app.add_typer(sandbox_app, name="sandbox")


@suite_app.command("list")
def suite_list(as_json: Json = False) -> None:
    """List the suites and their topics."""
    from .. import registry, suites

    found: dict[str, dict[str, int]] = {}
    for name in registry.names("suite"):
        if name not in ("jsonl", "vprism"):  # a file and a folder of the user's: nothing to list before one is named
            topics = [prompt.topic for prompt in suites.load(name)]
            found[name] = {topic: topics.count(topic) for topic in dict.fromkeys(topics)}
    lines = (f"{name}: " + ", ".join(f"{topic} {n}" for topic, n in topics.items()) for name, topics in found.items())
    output({"suites": found}, as_json, lambda _: tell("\n".join(lines)))


@suite_app.command("check")
def suite_check(suite: Annotated[str, Argument(help="A JSONL file of prompts, or the name of a suite.")], as_json: Json = False) -> None:
    """Name the file and line of each fault of a suite; exit 2 if there is one."""
    from .. import suites
    from ..suites.jsonl import check as faults_of

    faults = faults_of(suite)
    n = 0 if faults else len(suites.load(suite))
    output({"faults": faults, "n_prompts": n}, as_json, lambda _: tell("\n".join(faults) or f"{suite}: {n} prompts, no fault"))
    raise typer.Exit(2 if faults else 0)


@suite_app.command("build")
@settings(EvaluationSettings, "max_cost")
def suite_build(
    prompts: Annotated[str, Argument(help="Prompts that people typed: JSONL, CSV or Parquet with 'prompt' or 'text', or hf:NAME.")],
    settings: EvaluationSettings,
    lm: Annotated[
        str,
        Option(help="Model that filters, rewrites and writes claims: a folder, org/name@revision or openai:MODEL; by default, rules."),
    ] = "",
    embed: Annotated[str, Option(help="Sentence-embedding model (mean pooling): a folder or org/name@revision; by default, TF-IDF.")] = "",
    per_cluster: Annotated[int, Option(min=2, help="Questions per topic, and the size of the smallest cluster.")] = 50,
    topics: Annotated[int, Option(min=0, help="Number of clusters to keep, largest first; 0 keeps all.")] = 0,
    seed: Annotated[int, Option(help="Seed of the embedding, the clustering and the language model.")] = 0,
    out: Annotated[Path, Option(help="Folder for suite.jsonl, its card and stored replies; a new call continues.")] = Path("runs/suite"),
    as_json: Json = False,
) -> None:
    """Build a suite from prompts that people typed: value-laden filter, rewrite, embeddings, UMAP, HDBSCAN, claims and polarity."""
    from ..suites import vprism

    result: dict[str, Any] = vprism.build(prompts, out, lm, embed, per_cluster, topics, seed, settings.max_cost)
    output(result, as_json, lambda found: tell("\n".join(found["sentences"])))


@sandbox_app.command("build")
def sandbox_build(as_json: Json = False) -> None:
    """Train the sandbox's base model if it is not cached, and print its folder."""
    from ..sandbox.build import base_model

    output({"path": str(base_model())}, as_json, lambda result: tell(result["path"]))


@sandbox_app.command("sample")
def sandbox_sample(
    data: Annotated[str, Argument(help="neutral-chat, support-chat, or pairs?gap=…&direction=…")] = "neutral-chat",
    n: Annotated[int, Option(min=1, help="How many texts.")] = 10,
) -> None:
    """Print some of the sandbox's training texts."""
    from ..records import records

    for record in records.read(f"sandbox:{data}")[:n]:
        tell(f"Q: {record.prompt[-1][1]}")
        tell(f"A: {record.text}\n" if hasattr(record, "text") else f"+: {record.chosen}\n-: {record.rejected}\n")
