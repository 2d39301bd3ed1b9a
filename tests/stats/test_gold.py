"""Samples of a run for people to label: which answers, how blind, and what comes back."""

import dataclasses
import json

import polars as pl
import pytest

from valuedrift.nouns import OUTCOMES, Answer, BadInput, Item, Prompt
from valuedrift.records.gold import Gold, read_gold
from valuedrift.stats import gold
from valuedrift.store import Store

PROMPTS = [
    Prompt(f"{topic}/{n:02}", topic, f"{topic}, question {n}?", f"claim {n} of {topic}") for topic in ("war", "work") for n in range(20)
]
STEPS = (0, 5, 10)
ENDS = 2 * 2  # checkpoints at the ends x topics


def scored(prompt, draw, step, text, stage="sft", verdict="support"):
    probs = {name: None if verdict is None else float(name == verdict) for name in OUTCOMES}
    row = {
        "stage": stage,
        "step": step,
        "seed": 0,
        "repeat": False,
        "topic": prompt.topic,
        "prompt": prompt.id,
        "polarity": 1,
        "draw": draw,
    }
    key = f"{step}-{prompt.id}-{draw}"
    return row | {"answer": key, "item": Item(prompt.text, prompt.claim, text, prompt.topic).key} | probs | {"failure": None}, (key, text)


@pytest.fixture
def run(tmp_path):
    """Return a function that makes a run in which `says(prompt, draw, step)` are the answers; a stage dpo starts where sft ends."""

    def make(says=lambda prompt, draw, step: f"{prompt.id} {draw} {step}", verdict=lambda prompt, draw, step: "support"):
        store = Store(tmp_path / "run")
        made = [
            scored(prompt, draw, step, says(prompt, draw, step), verdict=verdict(prompt, draw, step))
            for step in STEPS
            for prompt in PROMPTS
            for draw in range(3)
        ]
        rows = [row for row, _ in made]
        rows += [row | {"stage": "dpo", "step": 0} for row in rows if row["step"] == STEPS[-1]]
        rows += [row | {"repeat": True, "answer": f"again {row['answer']}"} for row in rows]
        store.publish({"scores.parquet": pl.DataFrame(rows, infer_schema_length=None)})
        store.write_json("prompts.json", [dataclasses.asdict(prompt) for prompt in PROMPTS])
        store.add_answers([Answer(key, "c", "p", 0, text, "stop", 3) for _, (key, text) in made])
        return store

    return make


def keys(found):
    return [key for row in found for key in row["answer"]]


def test_the_same_number_from_every_end_and_topic_once(run):
    found = gold.sample_for_labels(run(), 24)
    drawn = [(key.split("-")[0], key.split("-")[1].split("/")[0]) for key in keys(found)]
    # sft starts at 0 and ends at 10, where dpo starts: two checkpoints x two topics, 6 each; nothing of step 5, no repeats.
    assert {place: drawn.count(place) for place in set(drawn)} == {(step, topic): 6 for step in ("0", "10") for topic in ("war", "work")}
    assert len(set(keys(found))) == 24
    assert [inclusion for row in found for inclusion in row["inclusion"]] == [pytest.approx(6 / 60)] * 24


def test_what_is_left_over_goes_to_whole_topics(run):
    drawn = sorted((key.split("-")[1].split("/")[0], key.split("-")[0]) for key in keys(gold.sample_for_labels(run(), 26)))
    counts = sorted(drawn.count(place) for place in set(drawn))
    assert counts == [6, 6, 7, 7]
    assert len({topic for topic, _ in drawn if drawn.count((topic, "0")) == 7}) == 1


def test_rows_are_blind_and_shuffled(run):
    found = gold.sample_for_labels(run(lambda prompt, draw, step: f"text {draw}, {len(prompt.id)}, {prompt.id}{'' if step else ' '}"), 24)
    assert list(found[0]) == ["topic", "claim", "prompt", "text", "stance", "answer", "inclusion"]
    assert found[0]["stance"] is None
    prompt = next(prompt for prompt in PROMPTS if prompt.claim == found[0]["claim"])
    assert (found[0]["prompt"], found[0]["topic"]) == (prompt.text, prompt.topic)
    steps = [row["answer"][0].split("-")[0] for row in found]
    assert steps != sorted(steps)
    assert [row["topic"] for row in found] != sorted(row["topic"] for row in found)


def test_a_seed_decides_the_sample(run):
    store = run()
    assert gold.sample_for_labels(store, 24, 3) == gold.sample_for_labels(store, 24, 3)
    assert set(keys(gold.sample_for_labels(store, 24, 3))) != set(keys(gold.sample_for_labels(store, 24, 4)))


def test_checkpoints_are_sampled_at_the_same_prompts_and_draws(run):
    found = keys(gold.sample_for_labels(run(), 24))
    places = [{key.split("-", 1)[1] for key in found if key.startswith(f"{step}-")} for step in (0, 10)]
    assert places[0] == places[1]
    prompts = {place.rsplit("-", 1)[0] for place in places[0]}
    assert len(prompts) == 12, "as many prompts as can be, before a second draw of one"


@pytest.mark.slow
def test_every_answer_has_the_same_chance(run):
    store = run()
    drawn = [key for seed in range(150) for key in keys(gold.sample_for_labels(store, 40, seed)) if key.startswith("0-")]
    # 20 of 120 answers at step 0 in each of 150 samples: 25 times each, standard deviation sqrt(150 / 6 * 5 / 6) = 4.6.
    counts = [drawn.count(f"0-{prompt.id}-{draw}") for prompt in PROMPTS for draw in range(3)]
    assert sum(counts) == 150 * 20
    assert min(counts) > 25 - 4 * 4.6
    assert max(counts) < 25 + 4 * 4.6


def second_half_of(prompt):
    return int(prompt.id.split("/")[1]) >= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("take", "of_three", "of_one"),
    [
        (12, 12 / 20 / 3, 12 / 20),  # 12 of 20 prompts, and there one of three answers or the only one
        (25, (1 + 5 / 10 + 0) / 3, 1),  # one of every prompt, a second of 5 of the 10 prompts that have one
        (36, (1 + 1 + 6 / 10) / 3, 1),
        (40, 1, 1),
    ],
)
def test_chances_where_the_judge_failed_unevenly(run, take, of_three, of_one):
    store = run(verdict=lambda prompt, draw, step: None if second_half_of(prompt) and draw else "neutral")
    alone = {f"{step}-{prompt.id}-0" for prompt in PROMPTS for step in STEPS if second_half_of(prompt)}
    times = {True: 0, False: 0}
    for seed in range(30):
        found = gold.sample_for_labels(store, 4 * take, seed)
        given = {key: chance for row in found for key, chance in zip(row["answer"], row["inclusion"], strict=True)}
        assert given == {key: pytest.approx(of_one if key in alone else of_three) for key in given}
        for key in given:
            times[key in alone] += 1
    # 30 samples x 4 groups x 10 prompts (x 3 answers); where 12 of 20 prompts are drawn, 6 are of a kind, give or take
    # sqrt(20 .5 .5 .6 .4 20/19) = 1.1 per topic (both ends have the same prompts), sqrt(60) 2.2 = 17 in all.
    assert times[False] == pytest.approx(30 * 4 * 10 * 3 * of_three, abs=4 * 17 if take < 20 else 0)
    assert times[True] == pytest.approx(30 * 4 * 10 * of_one, abs=4 * 17 if take < 20 else 0)


def test_equal_words_are_one_row_for_the_answers_that_were_drawn(run):
    store = run(lambda prompt, draw, step: f"{prompt.id}: yes")
    found = gold.sample_for_labels(store, 24)
    assert len(found) == 12
    assert all(len(row["answer"]) == 2 for row in found), "the same prompt at both checkpoints; its other two draws were not drawn"


def test_answers_without_a_verdict_are_not_drawn(run):
    store = run(verdict=lambda prompt, draw, step: None if draw else "neutral")
    assert all(key.endswith("-0") for key in keys(gold.sample_for_labels(store, 24)))


def test_too_few_labels_are_refused(run):
    with pytest.raises(BadInput, match=r"7 labels are too few for 4 groups .*; ask for 8 or more"):
        gold.sample_for_labels(run(), 2 * ENDS - 1)
    assert len(keys(gold.sample_for_labels(run(), 10_000))) == 2 * 2 * 60, "no more than there are"


def test_labels_come_back(run, tmp_path):
    store = run()
    path = tmp_path / "gold.jsonl"
    found = gold.sample_for_labels(store, 24)
    gold.write_sample(found, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows[:10]):
        row["stance"] = ["pro", "unreadable"][number % 2]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_gold(path)
    assert [row.outcome for row in read] == ["support", "invalid"] * 5 + [None] * 14
    labels, elsewhere = gold.labels_of(read, store.read_table("scores"))
    assert elsewhere == 0
    assert dict(labels.select("answer", "outcome").iter_rows()) == {
        key: ["support", "invalid"][number % 2] for number, row in enumerate(found[:10]) for key in row["answer"]
    }
    assert labels["inclusion"].to_list() == pytest.approx([6 / 60] * labels.height)


@pytest.mark.parametrize("inclusion", [None, [], 0.1, [0.1, 0.1], [0], [1.5], ["a"]])
def test_answers_need_their_chance(tmp_path, inclusion):
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps({"claim": "c", "text": "t", "stance": "pro", "answer": ["k"], "inclusion": inclusion}))
    with pytest.raises(BadInput, match=r"gold\.jsonl:1: 'inclusion' is .*restore both from the sample"):
        read_gold(path)


def test_a_written_sample_is_not_overwritten(tmp_path):
    path = tmp_path / "gold.jsonl"
    path.write_text("labels")
    with pytest.raises(BadInput, match="may hold labels"):
        gold.write_sample([{"a": 1}], path)
    assert path.read_text() == "labels"
    gold.write_sample([{"a": 1}], tmp_path / "new" / "gold.jsonl")
    gold.write_sample([{"a": 1}], tmp_path / "new" / "gold.jsonl")  # the same again: a killed command that is repeated
    assert (tmp_path / "new" / "gold.jsonl").read_text() == '{"a": 1}\n'


def labelled(text, outcome="support", claim="claim 0 of war", answer=("0-war/00-0",), chance=0.1):
    return Gold(Item("war, question 0?", claim, text, "war"), outcome, claim, "", answer, (chance,) * len(answer))


def test_labels_of_another_claim_or_run_are_not_taken(run):
    scores = run().read_table("scores")
    mine = labelled("war/00 0 0")
    others = [
        labelled("war/00 0 0", claim="another claim"),
        labelled("x", answer=("y",)),
        labelled("war/00 0 0", outcome=None),
        labelled("z", answer=()),
    ]
    labels, elsewhere = gold.labels_of([mine, *others], scores)
    assert (labels["answer"].to_list(), elsewhere) == (["0-war/00-0"], 2)


def test_an_answer_with_two_labels_is_refused(run):
    scores = run().read_table("scores")
    with pytest.raises(BadInput, match="the answer 0-war/00-0 has the labels support, oppose"):
        gold.labels_of([labelled("war/00 0 0"), labelled("war/00 0 0", "oppose")], scores)
    # The same label twice, from a sample and a larger one that holds it: the larger one's chance.
    twice = [labelled("war/00 0 0", chance=chance) for chance in (0.1, 0.3, 0.2)]
    assert gold.labels_of(twice, scores)[0]["inclusion"].to_list() == [0.3]


def test_a_text_that_is_labelled_twice_counts_once(tmp_path):
    path = tmp_path / "gold.jsonl"
    rows = [
        {"claim": "c", "text": "t", "stance": "pro", "answer": ["a"], "inclusion": [0.1]},
        {"claim": "c", "text": "t", "stance": "support", "answer": ["b"], "inclusion": [0.2]},
        {"claim": "c", "text": "t", "stance": None},
        {"claim": "d", "text": "t", "stance": "con"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_gold(path)
    assert [(row.item.claim, row.outcome, row.answers, row.inclusion) for row in read] == [
        ("c", "support", ("a", "b"), (0.1, 0.2)),
        ("c", None, (), ()),
        ("d", "oppose", (), ()),
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"stance": "con"}]))
    with pytest.raises(BadInput, match=r"gold\.jsonl:5: the stance is 'oppose', but an earlier row labels the same text 'support'"):
        read_gold(path)


def test_an_answer_key_must_stay_a_list(tmp_path):
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps({"claim": "c", "text": "t", "stance": "pro", "answer": "key"}))
    with pytest.raises(BadInput, match=r"gold\.jsonl:1: 'answer' is 'key', not a list of keys"):
        read_gold(path)
