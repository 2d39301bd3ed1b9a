"""What an answer says beside its stance: how far its checkpoint has moved from where preference training began, and how it is rewarded.

A KL divergence takes the weights of the checkpoint and of its reference, a score those of a reward model. Each number is kept by content,
so that the same command again computes nothing; a kill loses the checkpoint at hand.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import progress
from ..models.chat_format import Frame, PromptFormat, question
from ..models.loading import API, load_model
from ..nouns import Checkpoint, Example, Prompt, digest
from ..plan import Asking
from ..store import Store
from ..train.collation import Row, collate
from ..train.logprobs import answer_outputs, placed
from ..train.reward_model import RewardModel

SCHEMA = (
    {"stage": pl.String(), "step": pl.Int64(), "seed": pl.Int64()}
    | dict.fromkeys(("topic", "prompt", "companion", "reference"), pl.String())
    | {"value": pl.Float64()}
)
MOST_PROMPTS = 256
"""Prompts whose first answer is looked at: a mean over them is known to a sixteenth of the spread between prompts, and reading 256 answers
takes a small part of the time that writing them and the other draws took."""
FORMULA = 2
"""To be raised with every change of what is computed: stored numbers are then not taken for new ones."""
LOGITS = 2**26
"""Logits of one model held at once, unless a single answer has more: a quarter of a gigabyte in float32."""
ROWS = 16
"""Answers that a reward model reads at once."""
SFT = ("sft", "trl:SFTTrainer")
Answered = Mapping[str, Any]
"""One stored answer: stage, step, seed, topic, prompt, its key `answer`, `text`, `ended`, and the `question`."""
Said = Mapping[tuple[str, int, int], Sequence[Answered]]
"""The answers looked at, by stage, step and seed."""


def kl_nats(logits_NV: Tensor, reference_NV: Tensor, temperature: float) -> Tensor:
    """Return KL(p || q) = sum_v p_v (log p_v - log q_v) in nats at each position: p from the logits, q from the reference's, both / T.

    Summed over the positions of an answer that p wrote, it estimates the divergence between the distributions of whole answers without
    bias, is never negative, and varies less than the log-ratio of the answer (Amini et al. 2025, "Better Estimation of the KL Divergence
    Between Language Models": the Rao-Blackwellised estimator).
    """
    logp_NV, logq_NV = (F.log_softmax(logits.float() / temperature, -1) for logits in (logits_NV, reference_NV))
    return F.kl_div(logq_NV, logp_NV, log_target=True, reduction="none").sum(-1).clamp_min(0)


def divergences(model: Any, tokenizer: Any, reference: Any, said: Sequence[Answered], asking: Asking) -> list[float]:
    """Return the nats of KL from the reference for each answer, at the temperature it was sampled with (greedy answers: at 1).

    The words are tokenised anew, in the frame that they were asked in; an answer that ended by itself has one position more, where the end
    was predicted. top_p and top_k are left out of account: the divergence is between what the models say, not between what is kept of it.
    """
    prompt_format = PromptFormat(tokenizer, cast(Frame, asking.frame))
    rows = [_row(prompt_format, answer) for answer in said]
    device, width = model.device, min(each.get_output_embeddings().weight.shape[0] for each in (model, reference))  # the rest is padding
    sums = [0.0] * len(rows)
    for part in _parts(rows, max(1, LOGITS // width)):
        batch = collate([((rows[place],), {}) for place in part])
        batch = {name: values.to(device) if isinstance(values, Tensor) else values for name, values in batch.items()}
        with torch.inference_mode():
            logits_NV, reference_NV = (answer_outputs(each, batch)[1][:, :width] for each in (model, reference))
            sums_R = placed(kl_nats(logits_NV, reference_NV, asking.temperature or 1.0), batch).sum(1)
        for place, nats in zip(part, sums_R.tolist(), strict=True):
            sums[place] = nats
    return sums


def _row(prompt_format: PromptFormat, answer: Answered) -> Row:
    ids, n_prompt = prompt_format.with_reply(question(answer["question"]), answer["text"])
    # Of the end only the prediction counts, not which token came
    end = [prompt_format.tokenizer.eos_token_id or 0] if answer["ended"] == "stop" else []
    return Row(torch.tensor([*ids, *end], dtype=torch.int32).numpy(), n_prompt)


def _parts(rows: Sequence[Row], most_tokens: int) -> Iterator[list[int]]:
    """Yield places of rows of like length, few enough that their answers have at most `most_tokens` tokens."""
    part: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place].ids)):
        if part and sum(rows[other].n_answer for other in [*part, place]) > most_tokens:
            yield part
            part = []
        part.append(place)
    if part:
        yield part


# -- of a whole run --------------------------------------------------------------------------------------------------------


def companion_scores(
    store: Store,
    asking: Asking,
    stages: Sequence[Mapping[str, Any]],
    checkpoints: Sequence[Checkpoint],
    rewards: Sequence[Checkpoint],
    prompts: Sequence[Prompt],
    asked: pl.DataFrame,
) -> pl.DataFrame:
    """Return one row per checkpoint, prompt and companion (columns of SCHEMA), computing what the store does not hold yet.

    kl: `divergences` of draw 0, from the end of the nearest stage of supervised fine-tuning before (reference "sft"), else from the stage's
    own step 0 ("start"); none between models of different vocabularies, and of models behind an API. reward:NAME: the score of the same
    answers by the reward model of the same seed. length: words per answer, mean over draws, of every prompt. `asked`: the answers, one row
    each.
    """
    texts = {prompt.id: prompt.text for prompt in chosen(prompts)}
    ended = dict(store.answers().select("key", "ended").iter_rows())
    main = asked.filter(~pl.col("repeat"))
    said: dict[tuple[str, int, int], list[Answered]] = {}
    for row in main.filter((pl.col("draw") == 0) & pl.col("prompt").is_in(list(texts))).iter_rows(named=True):
        more = {"question": texts[row["prompt"]], "ended": ended[row["answer"]]}
        said.setdefault((row["stage"], row["step"], row["seed"]), []).append(row | more)
    numbers = Numbers(store)
    froms = references(stages, checkpoints)
    by_weights = _divergence_tables(asking, checkpoints, froms, said, numbers)
    return pl.concat([_lengths(main), *by_weights, *_score_tables(checkpoints, rewards, said, numbers)])


def _divergence_tables(
    asking: Asking,
    checkpoints: Sequence[Checkpoint],
    froms: Mapping[tuple[str, int], tuple[str, Checkpoint]],
    said: Said,
    numbers: Numbers,
) -> list[pl.DataFrame]:
    reader, tables = _Divergence(asking), []
    for checkpoint in checkpoints:
        if checkpoint.path.startswith(API):
            continue
        name, reference = froms[checkpoint.stage, checkpoint.seed]
        rows = said[checkpoint.stage, checkpoint.step, checkpoint.seed]
        values: Sequence[float | None] = [0.0] * len(rows)
        if checkpoint.weights != reference.weights:
            task = f"divergence of {checkpoint.stage} step {checkpoint.step}"
            values = numbers.of(("kl", reference.weights), rows, task, functools.partial(reader.read, checkpoint, reference))
        tables.append(_table(rows, "kl", name, values))
    return tables


def _score_tables(checkpoints: Sequence[Checkpoint], rewards: Sequence[Checkpoint], said: Said, numbers: Numbers) -> list[pl.DataFrame]:
    tables = []
    for reward in rewards:
        scorer = _Scorer(reward.path)
        for checkpoint in [checkpoint for checkpoint in checkpoints if checkpoint.seed == reward.seed]:
            rows = said[checkpoint.stage, checkpoint.step, checkpoint.seed]
            task = f"{reward.stage} scores {checkpoint.stage} step {checkpoint.step}"
            tables.append(_table(rows, f"reward:{reward.stage}", "", numbers.of(("reward", reward.weights), rows, task, scorer.read)))
    return tables


def chosen(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return at most `MOST_PROMPTS` prompts, spread evenly over the topics and within each by content."""
    rank: Counter[str] = Counter()
    ranked = []
    for named, prompt in sorted((digest("companion", prompt.text, prompt.id), prompt) for prompt in prompts):
        rank[prompt.topic] += 1
        ranked.append((rank[prompt.topic], named, prompt))
    return [prompt for *_, prompt in sorted(ranked, key=lambda entry: entry[:2])[:MOST_PROMPTS]]


def references(stages: Sequence[Mapping[str, Any]], checkpoints: Sequence[Checkpoint]) -> dict[tuple[str, int], tuple[str, Checkpoint]]:
    """Return for each stage and seed from which checkpoint its distance is measured, and what that is called: "sft" or "start"."""
    by_name = {(stage["name"], stage["seed"]): stage for stage in stages}
    ends: dict[tuple[str, int], list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        ends.setdefault((checkpoint.stage, checkpoint.seed), []).append(checkpoint)
    found = {}
    for (name, seed), stage in by_name.items():
        before = None if stage["algorithm"] in SFT else by_name.get((stage["after"], seed))
        while before is not None and before["algorithm"] not in SFT:
            before = by_name.get((before["after"], seed))
        found[name, seed] = ("start", ends[name, seed][0]) if before is None else ("sft", ends[before["name"], seed][-1])
    return found


def _lengths(main: pl.DataFrame) -> pl.DataFrame:
    at = ["stage", "step", "seed", "topic", "prompt"]
    words = main.with_columns(n=pl.col("text").str.count_matches(r"\S+").cast(pl.Float64))
    table = words.group_by(at, maintain_order=True).agg(value=pl.col("n").mean())
    return table.with_columns(companion=pl.lit("length"), reference=pl.lit("")).select(list(SCHEMA))


def _table(rows: Sequence[Answered], companion: str, reference: str, values: Sequence[float | None]) -> pl.DataFrame:
    told = [
        {name: row[name] for name in list(SCHEMA)[:5]} | {"companion": companion, "reference": reference, "value": value}
        for row, value in zip(rows, values, strict=True)
        if value is not None
    ]
    return pl.DataFrame(told, schema=SCHEMA)


class Numbers:
    """Numbers of answers, kept in the store."""

    def __init__(self, store: Store):
        self.store, self.known = store, store.numbers()

    def of(
        self,
        kind: tuple[str, str],
        rows: Sequence[Answered],
        task: str,
        compute: Callable[[Sequence[Answered]], Sequence[float | None]],
        unit: str = "answers",
    ) -> list[float | None]:
        """Return one number per answer; `kind` names what is computed and by which weights beside those that the answer's key names."""
        keys = [digest(*kind, FORMULA, row["answer"]) for row in rows]
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in self.known}
        if missing:
            with progress.task(task, len(missing), unit) as advance:
                new = dict(zip(missing, compute(list(missing.values())), strict=True))
                self.store.add_numbers(new)
                advance(len(missing))
            self.known |= new
        return [self.known[key] for key in keys]


class _Divergence:
    """Reads answers with two models; the reference is kept until another one is wanted."""

    def __init__(self, asking: Asking):
        self.asking = asking
        self._loaded: tuple[str, Any, Any] | None = None

    def read(self, checkpoint: Checkpoint, reference: Checkpoint, rows: Sequence[Answered]) -> list[float] | list[None]:
        if self._loaded is None or self._loaded[0] != reference.weights:
            self._loaded = None  # three models at once may not fit
            self._loaded = (reference.weights, *load_model(reference.path))
        model, tokenizer = load_model(checkpoint.path)
        if tokenizer.get_vocab() != self._loaded[2].get_vocab():
            return [None] * len(rows)
        return divergences(model, tokenizer, self._loaded[1], rows, self.asking)


class _Scorer:
    """A reward model that is loaded when the first answer is to be scored."""

    def __init__(self, path: str):
        self.path = path
        self._model: RewardModel | None = None

    def read(self, rows: Sequence[Answered]) -> list[float]:
        self._model = self._model or RewardModel(self.path, torch.accelerator.current_accelerator() or torch.device("cpu"))
        return self._model.scores([Example((("user", row["question"]),), row["text"]) for row in rows], ROWS).tolist()
