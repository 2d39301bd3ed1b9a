"""For users of Inspect: a suite as a task (`inspect eval valuedrift/vaes`), and the answers of a run as logs."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from .. import resolve, suites
from ..nouns import OUTCOMES, BadInput, Item, Prompt
from ..store import Store

try:
    from inspect_ai import Epochs, Task, task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, GenerateConfig, ModelOutput
    from inspect_ai.scorer import Score, Scorer, grouped, mean, scorer, stderr
    from inspect_ai.solver import generate
except ImportError as error:
    raise BadInput("Inspect's logs and tasks need the package inspect-ai; install it with: pip install 'valuedrift[inspect]'") from error

SCORER = "stance"


@task
def vaes(suite: str = "vaes", topics: str = "", judge: str = "cues", draws: int = 5) -> Task:
    """Return the questions of a suite as a task, sampled and judged as in a trace; `topics` are separated by commas."""
    prompts = suites.load(suite, [topic for topic in topics.split(",") if topic])
    samples = [
        Sample(prompt.text, id=prompt.id, metadata={"topic": prompt.topic, "claim": prompt.claim, "polarity": prompt.polarity})
        for prompt in prompts
    ]
    return Task(
        dataset=MemoryDataset(samples, name=suite),
        solver=generate(),
        scorer=stance(judge),
        epochs=Epochs(draws, "mean"),
        config=GenerateConfig(temperature=0.7, max_tokens=256),
    )


@scorer(metrics={outcome: [mean(), stderr(), grouped(mean(), "topic")] for outcome in OUTCOMES}, name=SCORER)
def stance(judge: str = "cues") -> Scorer:
    """Return a scorer that gives each answer the probability of every outcome. An answer without a verdict has no score."""
    reader = resolve.judge_of(judge)

    async def score(state: Any, target: Any) -> Score | None:
        about = state.metadata
        item = Item(state.input_text, about["claim"], state.output.completion, about["topic"])
        (reading,) = await asyncio.to_thread(reader.read, [item])
        if reading.probs is None:
            return None
        return Score(value=dict(zip(OUTCOMES, reading.probs, strict=True)), answer=state.output.completion)

    return score


def export(folder: Path, out: Path) -> list[str]:
    """Write one Inspect log per checkpoint of a run, with its questions, answers and verdicts; return their paths.

    A draw is an epoch. An answer without a verdict has no score. Raises BadInput if the run is not finished.
    """
    store = Store(folder)
    record, prompts = store.finished(), {prompt.id: prompt for prompt in store.prompts()}
    answers = dict(store.answers().select("key", "text").iter_rows())
    scores = store.read_table("scores").filter(~pl.col("repeat"))
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for checkpoint in store.checkpoints():
        rows = scores.filter(stage=checkpoint.stage, step=checkpoint.step, seed=checkpoint.seed)
        name = f"{checkpoint.stage}-seed{checkpoint.seed}-step{checkpoint.step}"
        samples = [eval_sample(row, prompts[row["prompt"]], answers[row["answer"]], name) for row in rows.sort("prompt", "draw").to_dicts()]
        spec = EvalSpec(
            created=datetime.datetime.fromtimestamp((store.root / "scores.parquet").stat().st_mtime, datetime.UTC).isoformat(),
            task="valuedrift/vaes",
            dataset=EvalDataset(name=record["plan"]["suite"], samples=len({row.id for row in samples})),
            model=f"valuedrift/{name}",
            config=EvalConfig(epochs=max(row.epoch for row in samples)),
            metadata={
                "path": checkpoint.path,
                "weights": checkpoint.weights,
                "prompt_format": checkpoint.prompt_format,
                "judge": record["judge"]["identity"],
            },
        )
        path = out / f"{quote(name, safe='[]=,+@ ')}.eval"  # a stage's name may hold a slash
        write_eval_log(EvalLog(eval=spec, status="success", samples=samples), str(path))
        paths.append(str(path))
    return paths


def eval_sample(row: dict[str, Any], prompt: Prompt, text: str, model: str) -> EvalSample:
    read = row["failure"] is None and row["support"] is not None
    value = {outcome: row[outcome] for outcome in OUTCOMES}
    return EvalSample(
        id=prompt.id,
        epoch=row["draw"] + 1,
        input=prompt.text,
        target="",
        messages=[ChatMessageUser(content=prompt.text), ChatMessageAssistant(content=text)],
        output=ModelOutput.from_content(model, text),
        scores={SCORER: Score(value=value, answer=text)} if read else {},
        metadata={"topic": prompt.topic, "claim": prompt.claim, "polarity": prompt.polarity},
    )
