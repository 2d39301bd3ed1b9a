"""Corrected shares and drifts: by hand, against ppi_py, and in simulation with a judge that is wrong in a known way."""

import numpy as np
import polars as pl
import pytest

from valuedrift.nouns import OUTCOMES, BadInput
from valuedrift.stats import correct
from valuedrift.stats.drift import drifts
from valuedrift.stats.gold import drawn_from
from valuedrift.stats.intervals import difference, ratio
from valuedrift.stats.profile import profiles

ONE_CELL = np.zeros(20, int)
STAGES = [{"name": "sft", "total_steps": 10}]


def rectified(judge, label, weight, cell=None, prompt=None, share=1, chance=0.4):
    judge, label = np.asarray(judge, float)[:, None], np.asarray(label, float)[:, None]
    n = len(judge)
    cell, prompt = (np.zeros(n, int) if cell is None else cell), (np.arange(n) if prompt is None else prompt)
    return correct.rectified(judge, label, cell, prompt, np.ones(n) * share, np.ones(n) * chance, weight)[:, 0]


def test_rectified_by_hand():
    nan = np.nan
    g = rectified([0.4, 0.8, 0.6, 1.0], [1, 0, nan, nan], 0.5)
    # Rests y - f/2: 1 - .2 = .8 and 0 - .4 = -.4; b = .2; off it by .6 and -.6. Labelled share 1/2, widened by sqrt(2 / 1): x 2.8284.
    assert g == pytest.approx([0.2 + 0.2 + 0.6 * 8**0.5, 0.4 + 0.2 - 0.6 * 8**0.5, 0.3 + 0.2, 0.5 + 0.2])
    assert g.mean() == pytest.approx(0.5 * 0.7 + 0.2)  # w mean(f) + mean of the rests
    # Both labels on one prompt show no spread between prompts.
    assert np.isnan(rectified([0.4, 0.8, 0.6, 1.0], [1, 0, nan, nan], 0.5, prompt=np.array([7, 7, 8, 9]))[0])


def test_labels_stand_for_as_many_answers_as_their_chance_says():
    # Prompt 0 has one answer, prompt 1 four; one label each, drawn with chance 1 and 1/4.
    # Every prompt weighs 1: b = (1 x 1 + 1/4 x 4 x 0) / 2.
    nan, prompt = np.nan, np.array([0, 1, 1, 1, 1])
    share, chance = np.array([1, *[1 / 4] * 4]), np.array([1, 1 / 4, *[nan] * 3])
    g = rectified([0] * 5, [1, 0, nan, nan, nan], 0.0, prompt=prompt, share=share, chance=chance)
    # q = (1 + 1/4 x 4) / 2 = 1; off b by .5 and -.5; sqrt(2 / 1): .5 + .5 x 1.4142, .5 - 4 x .5 x 1.4142.
    assert g == pytest.approx([0.5 + 0.5 * 2**0.5, 0.5 - 2 * 2**0.5, 0.5, 0.5, 0.5])
    assert (share * g).sum() / 2 == pytest.approx(0.5)
    # Only ratios of chances count: where labelling stopped early, all are too large alike.
    assert rectified([0] * 5, [1, 0, nan, nan, nan], 0.0, prompt=prompt, share=share, chance=chance / 3) == pytest.approx(g)


def test_cells_do_not_lend_each_other_labels():
    g = rectified([0.5] * 8, [1, 1, np.nan, np.nan, 0, 0, np.nan, np.nan], 1.0, cell=np.repeat([0, 1], 4))
    assert g == pytest.approx([1] * 4 + [0] * 4)


LABELS_8 = np.array([1, 0, 0, 1, 1, 0, 0, 0, *[np.nan] * 12])
JUDGE_20 = np.array([0.9, 0.2, 0.7, 0.3, 0.6, 0.6, 0.1, 0.5, 0.8, 0.3, 0.5, 0.9, 0.2, 0.6, 0.7, 0.4, 0.1, 0.9, 0.8, 0.6])


@pytest.mark.parametrize(("lam", "mean"), [(0, 3 / 8), (0.5, 0.41458333), (1, 0.45416667)])
def test_means_are_those_of_ppi_py(lam, mean):
    """ppi_py 0.2.3, ppi_mean_pointestimate(labels, judge of the 8, judge of the 12, lam=lam)."""
    assert rectified(JUDGE_20, LABELS_8, lam * (1 + 8 / 12)).mean() == pytest.approx(mean)


def test_power_is_that_of_ppi_py():
    """Its power-tuned mean of these numbers is 0.40329745; it divides the covariance by n, and we by n - 1 (7/8)."""
    weight = correct.power(JUDGE_20[:, None], LABELS_8[:, None], ONE_CELL)[0]
    assert rectified(JUDGE_20, LABELS_8, weight * 7 / 8).mean() == pytest.approx(0.40329745)


@pytest.mark.parametrize(("lam", "low", "high"), [(0, 0.49707684, 0.60958983), (1, 0.4475708, 0.56178122)])
def test_intervals_are_those_of_ppi_py(lam, low, high):
    """ppi_mean_ci of 300 labels and 1,700 answers without; no clusters, and our t and sqrt(m / (m - 1)) widen by less than 1 %."""
    rng = np.random.default_rng(0)
    f = rng.random(2000)
    y = (rng.random(2000) < 0.3 + 0.4 * f).astype(float)
    y[300:] = np.nan
    g = rectified(f, y, lam * (1 + 300 / 1700))[None]
    sample = correct.pooled_ratio([(g, np.ones_like(g), np.ones(g.shape, bool))], np.array(300))
    found = difference(sample)
    assert found.value == pytest.approx((low + high) / 2)
    assert found.high - found.low == pytest.approx(high - low, rel=0.02)


def test_power_weighs_the_judge_by_what_it_knows():
    rng = np.random.default_rng(1)
    y = (rng.random((4000, 3)) < 0.4).astype(float)
    judge = np.stack([y[:, 0], rng.random(4000), 1 - y[:, 2]], 1)  # perfect, ignorant, always wrong
    y[400:] = np.nan
    assert correct.power(judge, y, np.zeros(4000, int)) == pytest.approx([1, 0, 0], abs=0.1)


def test_power_is_not_fooled_by_differences_between_cells():
    # In each cell the judge is constant up to noise; between the cells it follows the labels perfectly.
    rng = np.random.default_rng(2)
    cell = np.repeat([0, 1], 2000)
    y = (rng.random(4000) < np.where(cell, 0.9, 0.1)).astype(float)
    judge = cell + rng.normal(0, 0.05, 4000)
    assert correct.power(judge[:, None], y[:, None], cell)[0] < 0.3


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_pooled_ratio_is_ratio_where_sums_are_positive(n_seeds):
    rng = np.random.default_rng(3)
    there = rng.random((4, n_seeds, 30)) < 0.9
    den = there * (rng.random(there.shape) if n_seeds == 1 else 1.0)  # with several seeds, the linearisation is around one ratio
    num = den * rng.random(den.shape)
    ours, theirs = correct.pooled_ratio([(num, den, den > 0)], np.full(4, 30)), ratio(num, den)
    assert ours.value_S == pytest.approx(theirs.value_S)
    assert ours.parts_SP == pytest.approx(theirs.parts_SP)


def test_a_denominator_that_may_be_zero_gives_no_ratio():
    den = np.array([[[1.0, -1.0, 1.0, 0.0]]])
    found = correct.pooled_ratio([(den / 2, den, np.ones(den.shape, bool))], np.array([4]))
    assert np.isnan(found.value)


def test_mean_of_topics_in_one_ratio():
    # Topic 1: num .2, den .5; topic 2: num .3, den 1: (.25) / (.75).
    topics = [(np.full((1, 6), a), np.full((1, 6), b), np.ones((1, 6), bool)) for a, b in ((0.2, 0.5), (0.3, 1.0))]
    assert correct.pooled_ratio(topics, np.array(12)).value == pytest.approx(1 / 3)


# -- tables --------------------------------------------------------------------------------------------------------------------


def keyed(table):
    return table.with_row_index("answer").with_columns(pl.col("answer").cast(pl.String), item=pl.lit("i"))


def labels_for(table, every=1):
    """Label the answers with the judge's own likeliest outcome, turned round between support and oppose."""
    said = {"support": "oppose", "oppose": "support"}
    rows = [row for number, row in enumerate(table.iter_rows(named=True)) if number % every == 0 and row["support"] is not None]
    outcomes = [max(OUTCOMES, key=lambda name: row[name]) for row in rows]
    return pl.DataFrame(
        [(row["answer"], "i", said.get(outcome, outcome), 1 / every) for row, outcome in zip(rows, outcomes, strict=True)],
        schema=["answer", "item", "outcome", "inclusion"],
        orient="row",
    )


def two_ends(scores):
    before = {f"p{i}": "SN" if i < 6 else "OR" for i in range(10)}
    after = {f"p{i}": "SS" if i < 8 else "xO" for i in range(10)}
    return keyed(pl.concat([scores(before), scores(after, step=10)]))


def test_with_all_answers_labelled_the_labels_are_the_result(scores, row):
    table = two_ends(scores)
    found = correct.corrected_profiles(table, labels_for(table))
    # Before: 6 S, 6 N, 4 O, 4 R among 20; the labels say S for O and O for S: support 4/16, oppose 6/16, refusal 4/20.
    for outcome, value, judged in (
        ("support", 4 / 16, 6 / 16),
        ("neutral", 6 / 16, 6 / 16),
        ("oppose", 6 / 16, 4 / 16),
        ("refusal", 0.2, 0.2),
    ):
        got = row(found, step=0, topic="work", outcome=outcome)
        assert (got["value"], got["uncorrected"], got["n_labels"]) == (pytest.approx(value), pytest.approx(judged), 20)
        assert got["low"] < value < got["high"]
    moved = row(correct.corrected_drifts(table, STAGES, labels_for(table)), topic="work", stance="oppose")
    # After: prompts 0-7 S S, 8-9 one O each (the other draw failed): by prompt support 8/10; the labels say oppose 8/10.
    assert moved["value"] == pytest.approx(0.8 - 6 / 16)
    assert (moved["uncorrected"], moved["n_labels"]) == (pytest.approx(0.2 - 4 / 16), 38)


def test_uncorrected_numbers_are_those_of_profiles_and_drifts(scores):
    table = two_ends(scores)
    for view in ("claim", "axis", "paper"):
        labels = labels_for(table, 2)
        both = correct.corrected_profiles(table, labels, view).join(profiles(table, view), on=["stage", "step", "topic", "outcome"])
        assert both.height == 20
        assert both["uncorrected"].to_list() == pytest.approx(both["value_right"].to_list())
        both = correct.corrected_drifts(table, STAGES, labels, view).join(drifts(table, STAGES, view), on=["stage", "topic", "stance"])
        assert both["uncorrected"].to_list() == pytest.approx(both["value_right"].to_list())


def test_axis_view_turns_the_labels_with_the_verdicts(scores, row):
    table = keyed(scores({f"p{i}": "SS" for i in range(12)}, polarity={f"p{i}": -1 if i < 10 else 0 for i in range(12)}))
    found = correct.corrected_profiles(table, labels_for(table), "axis")
    # The labels say oppose; on the axis of a negative claim that is support; prompts of polarity 0 are out.
    assert row(found, topic="work", outcome="support") | {"low": 0, "high": 0} == {
        "stage": "sft", "step": 0, "view": "axis", "topic": "work", "outcome": "support", "value": pytest.approx(1), "low": 0, "high": 0,
        "n_labels": 20, "uncorrected": 0, "judge_weight": 0,
    }  # fmt: skip


def test_paper_view_weighs_answers_as_profiles_do(scores, row):
    # All are labelled, so that the labels decide: 5 x (support, refusal), 5 x (oppose, oppose): 10 of 15 answers with a stance oppose.
    draws = {f"p{i}": [(0.2, 0.0, 0.0, 0.8, 0.0), "S"] if i < 5 else [(0.5, 0.2, 0.1, 0.2, 0.0)] * 2 for i in range(10)}
    table = keyed(scores(draws))
    labels = pl.DataFrame(
        {"answer": table["answer"], "item": "i", "outcome": ["refusal", "support"] * 5 + ["oppose"] * 10, "inclusion": 1.0}
    )
    got = row(correct.corrected_profiles(table, labels, "paper"), topic="work", outcome="oppose")
    # The judge: 5 x (nothing, 0), 10 x .1 / .8 = 1.25 of 15.
    assert (got["value"], got["uncorrected"]) == (pytest.approx(2 / 3), pytest.approx(1.25 / 15))
    assert row(profiles(table, "paper"), topic="work", outcome="oppose")["value"] == pytest.approx(1.25 / 15)


def test_paper_view_is_the_claim_view_of_whole_votes(scores):
    rng = np.random.default_rng(6)
    draws = rng.dirichlet([1, 1, 1, 1, 0.1], (30, 2))
    votes = draws[..., :3] / draws[..., :3].sum(-1, keepdims=True) * (draws.argmax(-1, keepdims=True) < 3)
    table, paper = (
        keyed(scores({f"p{i:02}": [tuple(draw) for draw in one] for i, one in enumerate(probs)}))
        for probs in (draws, np.concatenate([votes, draws[..., 3:]], -1))
    )
    labels = labels_for(table, 3)
    ours, same = correct.corrected_profiles(table, labels, "paper"), correct.corrected_profiles(paper, labels)
    for name in ("value", "low", "high", "uncorrected"):
        assert ours[name].to_list() == pytest.approx(same[name].to_list())
    assert ours["value"].to_list() != pytest.approx(correct.corrected_profiles(table, labels)["value"].to_list(), abs=1e-3)
    assert ours["uncorrected"].to_list() == pytest.approx(profiles(table, "paper").filter(topic="work")["value"].to_list() * 2)


def test_only_prompts_read_at_both_ends_drift(scores):
    before = {f"p{i}": "SO" for i in range(10)}
    after = {f"p{i}": "SS" for i in range(10)} | {"p10": "NN", "p11": "NN"}
    half = keyed(pl.concat([scores(before | {"p10": "xx", "p11": "NN"}), scores(after | {"p11": "xx"}, step=10)]))
    both = half.filter(~pl.col("prompt").is_in(["work/p10", "work/p11"]))
    assert correct.corrected_drifts(half, STAGES, labels_for(half)).equals(correct.corrected_drifts(both, STAGES, labels_for(both)))


def test_repeats_for_the_noise_floor_are_left_out(scores):
    main = scores({f"p{i}": "SO" for i in range(10)})
    table = keyed(pl.concat([main, scores({f"p{i}": "NN" for i in range(10)}, repeat=True)]))
    labels = labels_for(table)
    assert correct.corrected_profiles(table, labels).equals(correct.corrected_profiles(table.filter(~pl.col("repeat")), labels))


def test_all_where_a_topic_cannot_say_how_much_it_refuses(scores, row):
    said = {"war": (0.4, 0.0, 0.1, 0.5, 0.0), "work": (0.5, 0.0, 0.5, 0.0, 0.0)}
    table = keyed(pl.concat([scores({f"p{i}": [draw] for i in range(9)}, topic=topic) for topic, draw in said.items()]))
    given = dict(zip(("0", "1", "2", *map(str, range(9, 17))), "SSRSSSSOOOO", strict=True))
    labels = said_as(given)
    # War: 2/3 support among 2/3 with a stance, which may be few (standard error 1/3); work: 1/2 among all. Means: (7/12) / (5/6) = .7.
    # The judge: mean of ratios (.8 + .5) / 2 = .65, ratio of means .45 / .75 = .6.
    assert row(correct.corrected_profiles(table, labels), topic="all", outcome="support")["value"] == pytest.approx(0.7 + 0.05)
    # Four more labels on a stance, and war is known: mean of ratios (1 + .5) / 2.
    more = said_as(given | dict.fromkeys("3456", "S"))
    assert row(correct.corrected_profiles(table, more), topic="all", outcome="support")["value"] == pytest.approx(0.75)


def said_as(letters):
    """Return labels from {answer: S, O or R}."""
    names = {"S": "support", "O": "oppose", "R": "refusal"}
    return pl.DataFrame({"answer": list(letters), "item": "i", "outcome": [names[letter] for letter in letters.values()], "inclusion": 0.5})


def test_too_few_labels_are_no_evidence(scores, row):
    table = keyed(pl.concat([scores({f"p{i}": "SO" for i in range(12)}, topic=topic) for topic in ("war", "work")]))
    # 9 prompts on war, then 2 on work (a second label of one prompt is none more).
    few = labels_for(table).filter(pl.col("answer").cast(int).is_in([*range(0, 18, 2), 1, 24, 26]))
    found = correct.corrected_profiles(table, few)
    assert [row(found, topic=topic, outcome="support")["value"] for topic in ("war", "work")] == [None, None]
    assert row(found, topic="war", outcome="support")["n_labels"] == 10
    assert row(found, topic="all", outcome="support")["low"] is not None
    for fewer in (few.head(11), few.tail(3)):  # a single label on work; three labels in all
        got = row(correct.corrected_profiles(table, fewer), topic="all", outcome="support")
        assert (got["value"], got["low"], got["high"]) == (None, None, None)
    none = few.head(0)
    assert correct.corrected_profiles(table, none).height == correct.corrected_drifts(table, STAGES, none).height == 0


def test_labels_at_one_end_only_correct_no_drift(scores):
    table = two_ends(scores)
    at_start = labels_for(table).join(table.filter(step=0), on="answer", how="semi")
    assert correct.corrected_profiles(table, at_start)["step"].unique().to_list() == [0]
    assert correct.corrected_drifts(table, STAGES, at_start).height == 0


def test_unknown_view_is_refused(scores):
    table = two_ends(scores)
    with pytest.raises(BadInput, match="unknown view 'clam'"):
        correct.corrected_profiles(table, labels_for(table), "clam")


def test_labels_without_their_chance_are_refused(scores):
    table = two_ends(scores)
    with pytest.raises(BadInput, match="the labels lack the column inclusion; draw a sample with"):
        correct.corrected_profiles(table, labels_for(table).drop("inclusion"))


# -- coverage ------------------------------------------------------------------------------------------------------------------

N_SETS = 40
N_TOPICS, N_PROMPTS, N_DRAWS = 11, 50, 2


def world(rng, n_prompts=N_PROMPTS):
    """Return labels [checkpoint, topic, prompt, draw]: topics differ, some refuse more, and support grows by half a logit."""
    topics = np.random.default_rng(5).normal(0, 0.6, (N_TOPICS, 1, 3))
    logits = rng.normal(0, 1, (N_TOPICS, n_prompts, 3)) + topics + [0.3, -0.3, 0]
    refusing = np.clip(0.1 * np.exp(topics[..., 0]), 0, 0.5)
    u = rng.random((N_TOPICS, n_prompts, N_DRAWS, 1))  # common to both checkpoints
    ends = []
    for checkpoint in (0, 1):
        stances = np.exp(logits + np.array([0.5 * checkpoint, 0, 0]))
        said = stances / stances.sum(-1, keepdims=True) * (1 - refusing[..., None])
        ends.append((u > said.cumsum(-1)[:, :, None]).sum(-1))
    return np.stack(ends)


def shares(labels):
    """Return the mean over topics of the shares of support, neutral, oppose, by checkpoint."""
    stances = (labels < 3).sum((2, 3))
    return np.stack([((labels == o).sum((2, 3)) / stances) for o in range(3)], -1)


def biased_judge(rng, labels):
    """Return probabilities; of all that is no refusal, 30 % (50 % at the last checkpoint) is taken for support."""
    flip = (rng.random(labels.shape) < np.array([0.3, 0.5])[:, None, None, None]) & (labels != 3)
    return 0.8 * np.eye(5)[np.where(flip, 0, labels)] + 0.2 * rng.dirichlet([2, 1, 1, 0.2, 0.1], labels.shape)


def as_scores(labels, probs):
    c, t, p, d = (axis.ravel() for axis in np.indices(labels.shape))
    places = {"step": c * 10, "seed": 0 * c, "polarity": 1 + 0 * c, "draw": d}
    names = {"topic": [f"t{x:02}" for x in t], "prompt": [f"{x}/{y}" for x, y in zip(t, p, strict=True)]}
    table = pl.DataFrame({"stage": ["sft"] * len(c), "repeat": [False] * len(c), **places, **names}).with_columns(
        failure=pl.lit(None, pl.String)
    )
    table = table.with_columns(pl.DataFrame(probs.reshape(-1, 5), schema=list(OUTCOMES)), outcome=np.array(OUTCOMES)[labels.ravel()])
    return keyed(table)


def bounds_of(table, n_checkpoints=2):
    """Return low and high, each by checkpoint and stance; nan without evidence."""
    return (table[name].cast(float).fill_null(np.nan).to_numpy().reshape(n_checkpoints, 3) for name in ("low", "high"))


def covered(low, high, truth):
    return ((low <= truth) & (truth <= high)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("n_labels", [50, 300])
def test_coverage_with_a_biased_judge(n_labels):
    """2 checkpoints x 550 prompts x 2 draws, labels drawn as `sample_for_labels` does; the judge's own intervals hold nothing.

    With 400 data sets in place of N_SETS, "all" came out at 91-96 % (50 labels), 94-96 % (100) and 94-96 % (300), its drifts at 94-97 %.
    """
    rng = np.random.default_rng(11)
    by_topic = shares(world(np.random.default_rng(12), 40_000))
    truth = by_topic.mean(1)
    ours, of_topics, of_drifts, judged, wide = [], [], [], [], []
    stances = pl.col("outcome").is_in(OUTCOMES[:3])
    for number in range(N_SETS):
        labels = world(rng)
        table = as_scores(labels, biased_judge(rng, labels))
        drawn = drawn_from(table, n_labels, number).select("answer", "item", "outcome", "inclusion")
        table = table.drop("outcome")
        found = correct.corrected_profiles(table, drawn).filter(stances)
        bounds = list(bounds_of(found.filter(topic="all")))
        ours += covered(*bounds, truth)
        wide.append((bounds[1] - bounds[0]).mean())
        change = correct.corrected_drifts(table, STAGES, drawn).filter(pl.col("stance").is_in(OUTCOMES[:3]), topic="all")
        of_drifts += covered(*(x[0] for x in bounds_of(change, 1)), truth[1] - truth[0])
        judged += covered(*bounds_of(profiles(table).filter(stances, topic="all")), truth)
        for topic in range(N_TOPICS if n_labels == 300 else 0):
            of_topics += covered(*bounds_of(found.filter(topic=f"t{topic:02}")), by_topic[:, topic])
    assert 0.92 <= np.mean(ours) <= 0.98
    assert 0.92 <= np.mean(of_drifts) <= 0.98
    assert np.mean(judged) < 0.1
    if of_topics:
        assert 0.94 <= np.mean(of_topics) <= 0.98
    # Labels alone: 2 x 1.96 sqrt(.25 / labels per checkpoint) at the most.
    assert np.mean(wide) < 1.05 * 2 * 1.96 * (0.25 / (n_labels / 2)) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("n_labels", [40, 130])
def test_a_judge_that_fails_unevenly_does_not_bias(n_labels):
    """120 prompts x 5 draws; on every second prompt the judge reads one answer of five, and of those .8 support, elsewhere .2.

    Prompts weigh the same: support is .5. Labels weighed as a simple random sample of answers said .7. The judge knows nothing.
    """
    rng = np.random.default_rng(8)
    found, held = [], []
    for number in range(N_SETS):
        sparse = np.arange(120) % 2 == 1
        labels = np.where(rng.random((1, 1, 120, 5)) < np.where(sparse, 0.8, 0.2)[:, None], 0, 2)
        probs = rng.dirichlet([1, 1, 1, 1, 1], labels.shape)
        probs[:, :, sparse, 1:] = np.nan
        table = as_scores(labels, probs).with_columns(pl.col(OUTCOMES).fill_nan(None))
        drawn = drawn_from(table.filter(pl.col("support").is_not_null()), n_labels, number).select("answer", "item", "outcome", "inclusion")
        row = correct.corrected_profiles(table.drop("outcome"), drawn).row(
            by_predicate=(pl.col("topic") == "all") & (pl.col("outcome") == "support"), named=True
        )
        found.append(row["value"])
        held += covered(np.array([row["low"]]), np.array([row["high"]]), 0.5)
    # Standard error of the mean of 40 values: sqrt(.25 / 40 / 40) = .0125.
    assert np.mean(found) == pytest.approx(0.5, abs=0.04)
    assert np.mean(held) >= 0.9
