"""Prediction-powered correction: shares and drifts, corrected by human labels of a random sample of the answers.

Let f be the judge's probabilities of an answer, y its one-hot label, x = 1 if it has a label, and p the probability that it was drawn for
labelling (known up to a factor). The rectified verdict is

    g = w f + b + x / (q p) (y - w f - b)        b = mean of y - w f, weighted by x / p; q = mean of x / p; both per checkpoint and topic

Its mean is w mean_all(f) + mean_labelled(y - w f), each label standing for 1 / p answers (Hajek 1971), which estimates the mean of y
however wrong the judge is: if p is the same for all, the estimator of Angelopoulos et al. (2023, arXiv 2301.09633) for w = 1 + n/N,
power-tuned (PPI++: Angelopoulos, Duchi & Zrnic 2023, arXiv 2311.01453) by w = cov(y, f) / var(f), which is lambda (1 + n/N) there,
because here the n labelled answers are among all n + N. A judge without information gets w = 0, which leaves the labels alone. Rectified
verdicts replace the judge's in the sums of each prompt. So shares stay ratios of sums, and prompts (not draws or labels) stay the unit,
paired between checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import polars as pl

from ..nouns import OUTCOMES, STANCES, BadInput
from .cells import ALL, KEYS, Cells, cells, viewed
from .intervals import TINY, Sample, difference, mean_over, nanmean, share_interval
from .profile import by_topic, frame

MIN_LABELLED = 10
"""Fewest labelled prompts per checkpoint. With 5, the interval of a refusal share of .05 covered it in 52 % of trials."""
SURE = 3.0
"""Standard errors by which the denominator, the share of stances, must exceed 0. Otherwise the ratio is biased (Cochran 1977, ch. 6)."""
LABELS = [f"label {outcome}" for outcome in OUTCOMES]
AT = dict.fromkeys(("value", "low", "high"), pl.Float64())
BESIDE = {"n_labels": pl.Int64(), "uncorrected": pl.Float64(), "judge_weight": pl.Float64()}
PROFILE_SCHEMA = {"stage": pl.String(), "step": pl.Int64(), "view": pl.String(), "topic": pl.String(), "outcome": pl.String()} | AT | BESIDE
DRIFT_SCHEMA = (
    dict.fromkeys(("stage", "view", "topic", "stance"), pl.String()) | {"from_step": pl.Int64(), "to_step": pl.Int64()} | AT | BESIDE
)


def corrected_profiles(scores: pl.DataFrame, labels: pl.DataFrame, view: str = "claim") -> pl.DataFrame:
    """Return one row per stage x step x topic x outcome of the labelled checkpoints: the corrected share and the judge's own.

    `labels` holds answer, item, outcome and inclusion (`gold.labels_of`): a random sample within each checkpoint and topic, in which an
    answer has the chance `inclusion`, or a fixed part of it if labelling stopped early. Empty if fewer than
    10 prompts have a label ("all": or fewer than 2 of some topic), or if the share of answers that take a stance is too uncertain.
    `n_labels` counts labelled answers; `judge_weight` is w. Answers on which the judge failed are left out, labelled or not.
    """
    read = _read(scores, labels, view)
    read = read.filter(pl.col(LABELS[0]).is_not_null().any().over("stage", "step"))
    if not read.height:
        return pl.DataFrame(schema=PROFILE_SCHEMA)
    found, judged = _shares(read), _judged(scores, read, view)
    rows: list[dict[str, Any]] = []
    for topic, sample in found.by_topic.items():
        value, (low, high) = sample.value.clip(0, 1), share_interval(_inside(sample))
        columns = (value, np.minimum(low, value), np.maximum(high, value))  # at 0 and 1 the interval is that of a share just inside
        for c, (stage, step) in enumerate(found.checkpoints):
            for o, outcome in enumerate(OUTCOMES):
                row = {"stage": stage, "step": step, "view": view, "topic": topic, "outcome": outcome}
                row |= {"n_labels": found.n_labels[topic][c]}
                row |= dict(zip(AT, (column[c, o] for column in columns), strict=True))
                rows.append(row | {"uncorrected": judged[topic].value[c, o], "judge_weight": found.weight_O[o]})
    return frame(rows, PROFILE_SCHEMA)


def corrected_drifts(scores: pl.DataFrame, stages: Sequence[Mapping[str, Any]], labels: pl.DataFrame, view: str = "claim") -> pl.DataFrame:
    """Return one row per stage x topic x outcome: the corrected change from the first step to the last, over the prompts in both.

    As `corrected_profiles`. A stage has no rows unless both of its ends are labelled. `n_labels` counts both ends.
    """
    everything = _read(scores, labels, view)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(entry["name"] for entry in stages):
        read = _ends(everything.filter(pl.col("stage") == name))
        if read[LABELS[0]].is_not_null().any() and read.filter(pl.col(LABELS[0]).is_not_null())["step"].n_unique() == 2:
            rows += _drift_rows(name, view, _shares(read), _judged(scores, read, view))
    return frame(rows, DRIFT_SCHEMA)


def _drift_rows(stage: str, view: str, found: _Shares, judged: dict[str, Sample]) -> list[dict[str, Any]]:
    (_, first), (_, last) = found.checkpoints
    rows: list[dict[str, Any]] = []
    for topic, sample in found.by_topic.items():
        result, own = difference(sample[-1] - sample[0]), (judged[topic][-1] - judged[topic][0]).value
        for o, outcome in enumerate(OUTCOMES):
            row: dict[str, Any] = {"stage": stage, "view": view, "topic": topic, "stance": outcome, "from_step": first, "to_step": last}
            row |= {"value": result.value[o], "low": result.low[o], "high": result.high[o], "n_labels": found.n_labels[topic].sum()}
            rows.append(row | {"uncorrected": own[o], "judge_weight": found.weight_O[o]})
    return rows


# -- from rows to shares -----------------------------------------------------------------------------------------------------


def _read(scores: pl.DataFrame, labels: pl.DataFrame, view: str) -> pl.DataFrame:
    """Return the main rows with a verdict in a view, with the columns LABELS and `inclusion` (null: no label)."""
    cells(scores.clear(), view)  # raises for an unknown view or missing columns
    if "inclusion" not in labels.columns:
        raise BadInput("the labels lack the column inclusion; draw a sample with `valuedrift calibrate --sample` and label that")
    rows = scores.filter(~pl.col("repeat") & pl.col("support").is_not_null()).join(labels, on=["answer", "item"], how="left")
    said = viewed(rows.with_columns((pl.col("outcome") == outcome).alias(outcome) for outcome in OUTCOMES), view)
    return viewed(rows, view).with_columns(said[outcome].alias(name) for outcome, name in zip(OUTCOMES, LABELS, strict=True))


def _ends(read: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a stage's first and last step, for the prompts and seeds with verdicts at both."""
    ends = read.filter(pl.col("step").is_in([read["step"].min(), read["step"].max()]))
    return ends.filter(pl.col("step").n_unique().over("seed", "topic", "prompt") == 2)


def _judged(scores: pl.DataFrame, read: pl.DataFrame, view: str) -> dict[str, Sample]:
    """Return the judge's own shares on the same prompts, as in profiles and drifts."""
    table = cells(scores.join(read, on=KEYS, how="semi"), view)
    return by_topic(table.num_CSPO, table.den_CSPO, table.topics)


@dataclass(frozen=True)
class _Shares:
    """Corrected shares; the leading axes of each Sample are C, O, its `n` counts labelled prompts."""

    checkpoints: list[tuple[str, int]]
    by_topic: dict[str, Sample]
    weight_O: np.ndarray
    n_labels: dict[str, np.ndarray]


def _shares(read: pl.DataFrame) -> _Shares:
    cell_N = (read.select(pl.struct("stage", "step", "topic").rank("dense")).to_series() - 1).to_numpy()
    share_N = read.select(1 / pl.len().over(KEYS)).to_series().to_numpy()
    judge_NO, label_NO = (read.select(names).to_numpy().astype(float) for names in (OUTCOMES, LABELS))
    prompt_N, chance_N = read["prompt"].rank("dense").to_numpy(), read["inclusion"].to_numpy().astype(float)
    weight_O = power(*_linear(judge_NO, label_NO, cell_N, share_N), cell_N)
    tables = []
    for weight in weight_O:
        verdicts_NO = rectified(judge_NO, label_NO, cell_N, prompt_N, share_N, chance_N, weight)
        tables.append(cells(read.with_columns(pl.DataFrame(verdicts_NO, schema=list(OUTCOMES))), "claim"))
    num_CSPO = np.stack([table.num_CSPO[..., o] for o, table in enumerate(tables)], -1)
    den_CSPO = np.stack([table.den_CSPO[..., o] for o, table in enumerate(tables)], -1)
    n_prompts, n_labels = _counts(read, tables[0])
    samples = _with_mean(_sums(num_CSPO, den_CSPO, tables[0]), n_prompts, cells(read, "claim"))
    return _Shares(tables[0].checkpoints, samples, weight_O, n_labels)


Sums = tuple[np.ndarray, np.ndarray, np.ndarray]


def _counts(read: pl.DataFrame, table: Cells) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return labelled prompts and labelled answers per checkpoint, by topic and in total."""
    labelled = read.filter(pl.col(LABELS[0]).is_not_null())
    by_cell = labelled.group_by("stage", "step", "topic").agg(pl.col("prompt").n_unique(), pl.len())
    found = {(stage, step, topic): numbers for stage, step, topic, *numbers in by_cell.iter_rows()}
    prompts, answers = (
        {topic: np.array([found.get((*at, topic), (0, 0))[which] for at in table.checkpoints]) for topic in table.topics}
        for which in (0, 1)
    )
    return tuple({**counts, ALL: np.sum(list(counts.values()), axis=0)} for counts in (prompts, answers))  # type: ignore[return-value]


def _sums(num_CSPO: np.ndarray, den_CSPO: np.ndarray, table: Cells) -> dict[str, Sums]:
    """Return by topic: numerators, denominators, and whether there are verdicts, axes C, O, S, P."""
    num, den, there = (np.moveaxis(np.broadcast_to(x, num_CSPO.shape), -1, 1) for x in (num_CSPO, den_CSPO, table.read_CSP[..., None]))
    return {topic: (num[..., place], den[..., place], there[..., place]) for topic, place in table.topics.items()}


def _with_mean(sums: dict[str, Sums], n_prompts: dict[str, np.ndarray], judged: Cells) -> dict[str, Sample]:
    """Return the shares of every topic and their mean under "all"; no evidence if there are too few labels.

    If some topic has too few labels for a ratio of its own, "all" is the ratio of means over topics plus a correction: the judge's mean of
    ratios minus its ratio of means, which is 0 if all topics refuse alike. Fewer than 2 labelled prompts on some topic make "all" nan.
    """
    samples = {topic: pooled_ratio([sums[topic]], n_prompts[topic][:, None]) for topic in sums}
    mean, together = mean_over(list(samples.values())), pooled_ratio(list(sums.values()), n_prompts[ALL][:, None])
    own = list(_sums(judged.num_CSPO, judged.den_CSPO, judged).values())
    apart_CO = by_topic(judged.num_CSPO, judged.den_CSPO, judged.topics)[ALL].value - pooled_ratio(own, together.n).value
    there_TC = np.array([there[:, 0].any((1, 2)) for *_, there in sums.values()])
    unsure_CO = (np.array([np.isnan(sample.value) for sample in samples.values()]) & there_TC[..., None]).any(0)
    moved = replace(together, value_S=together.value_S + apart_CO[..., None])
    overall = Sample(*(_where(unsure_CO, getattr(moved, field.name), getattr(mean, field.name)) for field in fields(Sample)))
    return {
        topic: replace(sample, value_S=np.where((sample.n < MIN_LABELLED)[..., None], np.nan, sample.value_S))
        for topic, sample in (samples | {ALL: overall}).items()
    }


def _where(which_CO: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """Return np.where, with the axes that the values have beyond C, O."""
    return np.where(which_CO.reshape(which_CO.shape + (1,) * (yes.ndim - which_CO.ndim)), yes, no)


def _inside(sample: Sample) -> Sample:
    """Return the sample with its shares moved into (0, 1), where Wilson's interval is defined; a rectified share may lie outside."""
    edge = 1 / (2 * np.maximum(sample.n, 1) + 2)[..., None]
    return replace(sample, value_S=np.clip(sample.value_S, edge, 1 - edge))


# -- the formulas --------------------------------------------------------------------------------------------------------------


def rectified(
    judge_NO: np.ndarray,
    label_NO: np.ndarray,
    cell_N: np.ndarray,
    prompt_N: np.ndarray,
    share_N: np.ndarray,
    chance_N: np.ndarray,
    weight: float,
) -> np.ndarray:
    """Return g of the module's docstring per answer; nan in a cell with fewer than two labelled prompts.

    Missing labels are nan. `share_N` is the weight of an answer in its cell, and `chance_N` is p of labelled answers: a sample of one
    answer per prompt weighs prompts equally, as shares do. The labels' part is widened by sqrt(m / (m - 1)), with m labelled prompts in
    the cell, because b is fitted to them. This does not change the cell's mean.
    """
    labelled_N = ~np.isnan(label_NO[:, 0])
    rest_NO = np.where(labelled_N[:, None], label_NO - weight * judge_NO, 0)
    stands_N = np.where(labelled_N, 1 / np.where(labelled_N, chance_N, 1), 0)
    n_cells = cell_N.max() + 1
    pairs = np.unique(np.stack([cell_N, prompt_N])[:, labelled_N], axis=1)
    m_K = np.bincount(pairs[0], minlength=n_cells)
    all_K, drawn_K = np.bincount(cell_N, share_N, n_cells), np.bincount(cell_N, share_N * stands_N, n_cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        b_KO = np.stack([np.bincount(cell_N, share_N * stands_N * rest, n_cells) for rest in rest_NO.T], 1) / drawn_K[:, None]
        pull_K = np.where(m_K > 1, all_K / drawn_K * np.sqrt(m_K / (m_K - 1)), np.nan)
    b_NO = b_KO[cell_N]
    return weight * judge_NO + b_NO + (stands_N * pull_K[cell_N])[:, None] * (rest_NO - b_NO)


def power(judge_NO: np.ndarray, label_NO: np.ndarray, cell_N: np.ndarray) -> np.ndarray:
    """Return w per column: cov(label, judge) over the labelled / var(judge) over all answers, both within cells, clipped to [0, 1].

    For a timid judge, w above 1 would narrow the interval with many labels, but with 50 labels it fits their noise and covers less.
    """
    labelled_N = ~np.isnan(label_NO[:, 0])
    both = [_centred(x_NO[labelled_N], cell_N[labelled_N]) for x_NO in (judge_NO, label_NO)]
    df_labelled, df_all = (len(x_N) - len(np.unique(x_N)) for x_N in (cell_N[labelled_N], cell_N))
    variance_O = (_centred(judge_NO, cell_N) ** 2).sum(0) / max(df_all, 1)
    covariance_O = (both[0] * both[1]).sum(0) / max(df_labelled, 1)
    return np.where(variance_O > TINY, covariance_O / np.maximum(variance_O, TINY), 0).clip(0, 1)


def _centred(values_NO: np.ndarray, cell_N: np.ndarray) -> np.ndarray:
    """Return the values less the mean of their cell."""
    _, place_N = np.unique(cell_N, return_inverse=True)
    means_KO = np.stack([np.bincount(place_N, column) / np.bincount(place_N) for column in values_NO.T], 1)
    return values_NO - means_KO[place_N]


def _linear(judge_NO: np.ndarray, label_NO: np.ndarray, cell_N: np.ndarray, share_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the contribution of judge and label to a share: numerator - (the judge's share in the cell) x denominator."""
    n_stances = len(STANCES)
    den_NO, said_NO = (
        np.concatenate([np.repeat(x[:, :n_stances].sum(1, keepdims=True), n_stances, 1), np.ones_like(x[:, n_stances:])], 1)
        for x in (judge_NO, label_NO)
    )
    num_KO, den_KO = (np.stack([np.bincount(cell_N, share_N * column) for column in x.T], 1) for x in (judge_NO, den_NO))
    share_NO = (num_KO / np.maximum(den_KO, TINY))[cell_N]
    return judge_NO - share_NO * den_NO, label_NO - share_NO * said_NO


def pooled_ratio(topics: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], n: np.ndarray) -> Sample:
    """Return mean(num) / mean(den) over seeds, topics and the prompts of each, linearised around that one ratio for every seed.

    Each topic gives num_SP, den_SP and there_SP (whether there are verdicts), with equal weight. For one topic this is `intervals.ratio`
    for sums that may be negative; a seed with few labels has too small a denominator of its own. nan unless the denominator exceeds 0
    by `SURE` standard errors.
    """
    num_TS, den_TS = (np.stack([_prompt_mean(topic[which], topic[2]) for topic in topics]) for which in (0, 1))
    num, den = (nanmean(nanmean(np.moveaxis(x_TS, 0, -1))) for x_TS in (num_TS, den_TS))
    n_topics = (~np.isnan(den_TS)).any(-1).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = num / den
        value_S = share[..., None] + nanmean(np.moveaxis(num_TS - share[..., None] * den_TS, 0, -1)) / den[..., None]
        scale = (1 / np.maximum(n_topics, 1))[..., None, None]
        parts_num, parts_den = (np.concatenate([_parts(topic[which], topic[2]) for topic in topics], -1) * scale for which in (0, 1))
        parts_SP = (parts_num - share[..., None, None] * parts_den) / den[..., None, None]
        error = np.sqrt((parts_den.mean(-2) ** 2).sum(-1))
        known = (den > SURE * error)[..., None]
    return Sample(np.where(known, value_S, np.nan), parts_SP, np.broadcast_to(n, share.shape), n_topics)


def _prompt_mean(values_SP: np.ndarray, there_SP: np.ndarray) -> np.ndarray:
    """Return the mean over the prompts with verdicts; nan if there are none."""
    n_S = there_SP.sum(-1)
    return np.where(n_S > 0, np.where(there_SP, values_SP, 0).sum(-1) / np.maximum(n_S, 1), np.nan)


def _parts(values_SP: np.ndarray, there_SP: np.ndarray) -> np.ndarray:
    """Return each prompt's contribution to that mean, in the form of `Sample.parts_SP`."""
    n_S = there_SP.sum(-1)
    widen_S = np.sqrt(n_S / np.maximum(n_S - 1, 1)) / np.maximum(n_S, 1)
    centred_SP = values_SP - np.nan_to_num(_prompt_mean(values_SP, there_SP))[..., None]
    return np.where(there_SP, centred_SP * widen_S[..., None], 0)
