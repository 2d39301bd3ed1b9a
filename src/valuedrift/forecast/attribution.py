"""The verb attribute: which training examples moved a stance, by gradients, and what training without them does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from .. import pipeline, resolve
from ..judge.cache import CachedJudge
from ..models import loading
from ..nouns import OUTCOMES, BadInput, Example, Pair, digest
from ..plan import EvaluationSettings, Plan, Stage
from ..registry import among
from ..stats import gap
from ..stats.contrast import contrast
from ..stats.forecast import rank_correlation
from ..store import Store, sealed
from ..train.collation import answers_of
from ..train.step_counts import course
from ..train.task import records_of
from . import archive
from .page import write_attribution_page
from .starts import Starts

Record = Pair | Example
SHOWN = 20
"""Examples at either end of the ranking in the result and on the page; scores.json has all."""


def attribute(
    folder: Path, topic: str, stance: str, stage: str = "", seed: int | None = None, verify: int = 0, out: Path | None = None
) -> dict[str, Any]:
    """Return the examples of a trained stage, ranked by their first-order effect on the share of `stance` on `topic`.

    With `verify` = K, the stage is trained again without the top K, with their labels flipped (pairs), and with as many random ones; the
    result has the paired differences. Writes attribution.json and attribution.html into `out`, by default RUN/attribution/…; the run itself
    is not changed. Raises BadInput for an unknown topic, stance or stage, and for a stage without gradients.
    """
    store = Store(folder)
    store.finished()
    training = _training(store, stage, seed)
    prompts = store.prompts()
    for what, word, known in (("topic", topic, sorted({one.topic for one in prompts})), ("stance", stance, list(OUTCOMES))):
        if word not in known:
            raise BadInput(f"unknown {what} {word!r}{among(word, known)}")
    out = out or folder / "attribution" / f"{training.name}-seed{training.seed}"
    plan = Plan(**store.read_json("plan.json"))
    written, starts = Store(out), Starts(plan, out)
    judge = CachedJudge(resolve.judge_of(plan.judge, plan.max_cost), written)
    data = records_of(training.stage)
    with written.locked():
        influence = starts.influence(training.start.path, training.stage.lora, prompts)
        kept, values_NM = influence.scores(training.stage, training.seed, data)
        score_N = values_NM[:, influence.names.index((topic, stance))]
        claims = [prompt.claim for prompt in prompts if prompt.topic == topic]
        others = baselines([data[at] for at in kept], claims, stance, topic, prompts, judge)
        order = np.argsort(-score_N, kind="stable")
        shown = [*order[:SHOWN], *order[SHOWN:][-SHOWN:]]
        result = {
            "run": str(folder),
            "stage": training.name,
            "seed": training.seed,
            "topic": topic,
            "stance": stance,
            "data": training.stage.data,
            "n": len(kept),
            "left_out": len(data) - len(kept),
            "first_order": float(score_N.mean()) * course(training.stage, len(kept))[0],
            "examples": [_example(data[kept[at]], kept[at], float(score_N[at]), rank) for rank, at in enumerate(order) if at in set(shown)],
            "agreement": {name: rank_correlation(score_N, values) for name, values in others.items()},
            "verified": verified(training, plan, data, [kept[at] for at in order], topic, stance, verify, out) if verify else [],
        }
        result = sealed(result)
        written.write_json("attribution.json", result)
        written.write_json("scores.json", {"places": kept, "scores": score_N.tolist(), **{k: v.tolist() for k, v in others.items()}})
        return result | {"report": str(write_attribution_page(written, result))}


def _training(store: Store, stage: str, seed: int | None) -> archive.Training:
    """Return the training of a stage: by default of the last one, with its first seed."""
    known = list(archive.trainings(store))
    if not known:
        raise BadInput(f"{store.root} holds no training of its own, only checkpoints that were traced; give a folder that 'run' wrote")
    names = list(dict.fromkeys(one.name for one in known))
    name = stage or names[-1]
    if name not in names:
        raise BadInput(f"{store.root} has no stage {name!r}{among(name, names)}")
    seeds = [one.seed for one in known if one.name == name]
    if seed is not None and seed not in seeds:
        raise BadInput(f"{name} was trained with the seeds {', '.join(map(str, seeds))}, not with {seed}")
    return next(one for one in known if one.name == name and one.seed == (seeds[0] if seed is None else seed))


# -- baselines ---------------------------------------------------------------------------------------------------------------------


def baselines(records: Sequence[Record], claims: Sequence[str], stance: str, topic: str, prompts: Any, judge: Any) -> dict[str, np.ndarray]:
    """Return other scores of the records: BM25 of their words with the topic's claims, and their own judged gap towards the stance.

    A record off the topic, or one whose replies have no verdict, has the gap 0.
    """
    texts = [" ".join([*(text for _, text in record.prompt), *answers_of(record)]) for record in records]
    found = {"bm25": bm25(texts, " ".join(claims))}
    replies = gap.read(records, prompts, judge)
    gap_N, o = np.zeros(len(records)), OUTCOMES.index(stance)
    for at, place in enumerate(replies.on):
        if replies.subjects[at].topic == topic and not np.isnan(replies.probs_NSO[at]).any():
            of = replies.probs_NSO[at, :, o]
            gap_N[place] = of[0] - of[1] if len(of) == 2 else of[0]
    return found | {"own gap": gap_N}


def bm25(texts: Sequence[str], query: str, k1: float = 1.2, b: float = 0.75) -> np.ndarray:
    """Return the BM25 score of each text for a query's different words (Robertson and Zaragoza 2009, eq. 3.15)."""
    counter = CountVectorizer(stop_words="english")
    count_ND = counter.fit_transform(texts).toarray().astype(float)
    asked = counter.transform([query]).toarray()[0] > 0
    n_D = (count_ND > 0).sum(0)
    idf_D = np.log(1 + (len(texts) - n_D + 0.5) / (n_D + 0.5))
    length_N1 = count_ND.sum(1, keepdims=True)
    weight_ND = count_ND * (k1 + 1) / (count_ND + k1 * (1 - b + b * length_N1 / max(length_N1.mean(), 1)))
    return (weight_ND * idf_D)[:, asked].sum(1)


# -- verification ------------------------------------------------------------------------------------------------------------------


def verified(
    training: archive.Training, plan: Plan, data: Sequence[Record], ranked: Sequence[int], topic: str, stance: str, k: int, out: Path
) -> list[dict[str, Any]]:
    """Train again on changed data, with every seed of the plan, and return the paired differences at the ends of the trainings.

    Each row is a training on data without (or with flipped) top K minus one without (or with flipped) K random records, which makes the
    number of records and steps the same on both sides.
    """
    if not 0 < k <= len(ranked) // 2:
        raise BadInput(f"--verify {k} is not between 1 and {len(ranked) // 2}, half of the records; give fewer")
    top = set(ranked[:k])
    drawn = set(np.random.default_rng(0).permutation(sorted(ranked))[:k].tolist())
    kinds: dict[str, Any] = {"without": lambda record: None}
    if isinstance(data[0], Pair):
        kinds["flipped"] = lambda record: Pair(record.prompt, record.rejected, record.chosen, record.topic, record.claim)
    name = digest("verify", sorted(top), sorted(drawn), training.stage.trained_by(), loading.weights_digest(training.start.path))[:12]
    root = out / f"verify-{name}"
    stages: dict[str, Stage] = {}
    for kind, change in kinds.items():
        for which, chosen in (("top", top), ("random", drawn)):
            changed = [change(record) if at in chosen else record for at, record in enumerate(data)]
            path = root / f"{kind}-{which}.jsonl"
            Store(root).write_bytes(path.name, "".join(_line(record) for record in changed if record is not None).encode())
            stages[f"{kind}-{which}"] = training.stage.changed(["data"], str(path)).model_copy(update={"after": "base", "save_at": "log:1"})
    common = plan.model_dump(include=set(EvaluationSettings.model_fields)) | {
        "side_metrics": False,
        "capability": [],
        "floor": False,
        "gold": "",
    }
    pipeline.run(
        Plan(**common, model=training.start.path, seeds=plan.seeds, stage=stages),
        root / "run",
    )
    store = Store(root / "run")
    scores = store.read_table("scores").filter(repeat=False)
    ends = {name: scores.filter(stage=name) for name in stages}
    ends = {name: rows.filter(step=rows["step"].max()) for name, rows in ends.items()}
    found = []
    for kind in kinds:
        row = next(
            row
            for row in contrast(ends[f"{kind}-random"], ends[f"{kind}-top"], "claim").to_dicts()
            if row["topic"] == topic and row["outcome"] == stance
        )
        found.append({"kind": kind, "k": k, "seeds": len(plan.seeds)} | {name: row[name] for name in ("value", "low", "high", "n")})
    return found


def _line(record: Record) -> str:
    """Return a record as a line that the readers of data understand."""
    prompt = [{"role": role, "content": text} for role, text in record.prompt]
    said = [[{"role": "assistant", "content": text}] for text in answers_of(record)]
    own: dict[str, Any] = {"topic": record.topic, "claim": record.claim} if record.topic and record.claim else {}
    if isinstance(record, Pair):
        return json.dumps({"prompt": prompt, "chosen": said[0], "rejected": said[1], **own}) + "\n"
    if not prompt:
        return json.dumps({"text": record.text, **own}) + "\n"
    return json.dumps({"messages": [*prompt, *said[0]], **own}) + "\n"


def _example(record: Record, place: int, score: float, rank: int) -> dict[str, Any]:
    texts = dict(zip(("chosen", "rejected") if isinstance(record, Pair) else ("text",), answers_of(record), strict=True))
    question = next((text for role, text in reversed(record.prompt) if role == "user"), "")
    return {"rank": rank + 1, "row": place + 1, "score": score, "prompt": question, **texts, "topic": record.topic}


def sentences(result: dict[str, Any]) -> list[str]:
    """Return what the attribution says, one sentence each."""
    of = f"{result['stance']} on {result['topic']}"
    found = [
        f"To first order, the {result['n']:,} records move {of} by {result['first_order']:+.3f} over the training. Its sign counts, "
        "not its size."
    ]
    if not result["verified"]:
        found.append("These are candidates: nothing was trained without them. --verify K trains again without the first K.")
    for row in result["verified"]:
        words = {"without": f"Without the first {row['k']}", "flipped": f"With the labels of the first {row['k']} flipped"}[row["kind"]]
        shown = "no evidence" if row["value"] is None else f"{row['value']:+.3f}"
        ends = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
        seeds = "1 seed" if row["seeds"] == 1 else f"{row['seeds']} seeds"
        found.append(f"{words}, {of} differs by {shown}{ends} from a training with {row['k']} random ones treated alike ({seeds}).")
    return found
