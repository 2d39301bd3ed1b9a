"""Pairs of the sandbox's grammar have the gap that they claim, and no prompt of the suite."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from on_disk import DIRECTIONS, files_of, read_back, rows_of, spec_file

from valuedrift import suites, testing
from valuedrift.nouns import BadInput
from valuedrift.records import records
from valuedrift.stats import text_style
from valuedrift.synth import drafting, synth
from valuedrift.world import grammar

TARGETS = [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Five targets from the same questions: 11 topics x 20 pairs each."""
    out = tmp_path_factory.mktemp("ladder")
    return out, synth.synthesise(synth.Spec(n=220, gap=TARGETS), out)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_met_on_every_topic_in_both_directions(ladder, target, direction):
    gaps = read_back(ladder[0] / f"gap-{target:g}", direction)
    assert {topic: len(found) for topic, found in gaps.items()} == dict.fromkeys(grammar.world(), 20)
    for topic, found in gaps.items():
        assert abs(sum(found) / 20 - target) <= 0.03, topic


def test_what_is_reported_is_what_is_on_disk(ladder):
    out, result = ladder
    assert (result["n_pairs"], result["target_gap"], result["leaked_prompts"]) == (220, TARGETS, 0)
    for target, found in zip(TARGETS, result["sets"], strict=True):
        for direction in DIRECTIONS:
            gaps = read_back(out / f"gap-{target:g}", direction)
            assert {topic: stances[direction] for topic, stances in found["achieved"][direction].items()} == pytest.approx(
                {topic: sum(own) / len(own) for topic, own in gaps.items()}
            )
            assert found["achieved_by_direction"][direction] == pytest.approx(sum(map(sum, gaps.values())) / 220)


def test_the_larger_gap_asks_the_same_questions_and_holds_the_opposed_pairs_of_the_smaller(ladder):
    sets = [rows_of(ladder[0] / f"gap-{target:g}" / "pairs.support.jsonl") for target in TARGETS]
    assert len({tuple(row["prompt"][0]["content"] for row in rows) for rows in sets}) == 1
    opposed = [{json.dumps(row) for row in rows if _stances(row) == ("support", "oppose")} for rows in sets]
    assert [len(found) for found in opposed] == [0, 55, 110, 165, 220]
    assert all(small < large for small, large in pairwise(opposed))


def _stances(row: dict) -> tuple[str, str]:
    return tuple(grammar.parse(row[side][0]["content"]) for side in ("chosen", "rejected"))


def test_the_other_direction_swaps_opposed_pairs_and_nothing_else(ladder):
    for target in TARGETS:
        support, oppose = (rows_of(ladder[0] / f"gap-{target:g}" / f"pairs.{direction}.jsonl") for direction in DIRECTIONS)
        for one, other in zip(support, oppose, strict=True):
            if len(set(_stances(one))) == 2:
                one = one | {"chosen": one["rejected"], "rejected": one["chosen"]}
            assert one == other
    out, result = ladder
    for target, found in zip(TARGETS, result["sets"], strict=True):  # without an opposed pair nothing is said to be swapped
        said = " ".join(found["sentences"]) + (out / f"gap-{target:g}" / "README.md").read_text()
        assert ("swapped" in said) == (target > 0)
        assert ("are equal" in said) == (target == 0)


def test_opposed_pairs_match_in_length_and_share_a_style_and_stances_take_turns(ladder):
    opposed = rows_of(ladder[0] / "gap-1" / "pairs.support.jsonl")
    words = np.array([[len(row[side][0]["content"].split()) for side in ("chosen", "rejected")] for row in opposed])
    assert (words.min(1) / words.max(1)).min() >= 0.8
    assert abs(words[:, 0].mean() - words[:, 1].mean()) < 1
    alike = Counter(_stances(row) for row in rows_of(ladder[0] / "gap-0" / "pairs.support.jsonl"))
    assert set(alike) == {(stance, stance) for stance in ("support", "neutral", "oppose")}
    assert min(alike.values()) > 220 / 3 - 15


def style_gaps(folder: Path, direction: str) -> dict[str, np.ndarray]:
    """Return, per topic, the style of the chosen less that of the rejected answer of each pair on disk, one column per feature."""
    gaps: dict[str, list[np.ndarray]] = {}
    for row in rows_of(folder / f"pairs.{direction}.jsonl"):
        chosen_F, rejected_F = text_style.features([row[side][0]["content"] for side in ("chosen", "rejected")])
        gaps.setdefault(row["topic"], []).append(chosen_F - rejected_F)
    return {topic: np.array(own) for topic, own in gaps.items()}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_length_and_style_do_not_move_with_the_gap(ladder, direction):
    for target in TARGETS:
        gaps = style_gaps(ladder[0] / f"gap-{target:g}", direction)
        words, _, hedges, _ = np.concatenate(list(gaps.values())).mean(0)
        # The styles lie 21.7 words apart, and a pair's difference has a standard deviation of 9 about that: 9 / sqrt(220) = 0.6 by chance,
        # 9 / sqrt(20) = 2 on a topic, and another 21.7 / 20 = 1 where its same-stance pairs are odd in number
        assert abs(words) < 2
        assert abs(hedges) < 0.5
        assert max(abs(own[:, 0].mean()) for own in gaps.values()) < 7


def prefers_warm(row: dict) -> int:
    """Return 1 where the chosen answer is warm and the rejected one plain, -1 the other way round, 0 where both are in one style."""
    closings = tuple(sentence for role in "son" for sentence in grammar.SENTENCES[role])  # a warm answer closes with its stance
    return sum(sign * row[side][0]["content"].endswith(closings) for side, sign in (("chosen", 1), ("rejected", -1)))


@pytest.mark.parametrize("target", TARGETS)
def test_of_every_topic_and_stance_half_prefer_either_style(ladder, target):
    by_topic, by_stance = Counter[str](), Counter[tuple[str, str]]()
    for row in rows_of(ladder[0] / f"gap-{target:g}" / "pairs.support.jsonl"):
        assert (prefers_warm(row) != 0) == (len(set(_stances(row))) == 1)
        by_topic[row["topic"]] += prefers_warm(row)
        by_stance[_stances(row)] += prefers_warm(row)
    assert max(map(abs, by_topic.values())) == (1 if target in (0.25, 0.75) else 0)  # 20, 15, 10, 5 and no same-stance pairs
    assert abs(by_topic.total()) <= 1  # what is rounded up on one topic is rounded down on another
    assert max(map(abs, by_stance.values())) <= 5  # of 73, 55, 37, 18


def test_a_preferred_style_moves_with_the_gap_and_the_card_warns(tmp_path, ladder):
    out = tmp_path / "out"
    synth.synthesise(synth.Spec(n=40, gap=[0.0, 0.5, 1.0], topics=["work", "death"], style_preference=0.75), out)
    preferred = [Counter(map(prefers_warm, rows_of(out / f"gap-{gap:g}" / "pairs.oppose.jsonl"))) for gap in (0.0, 0.5, 1.0)]
    assert preferred == [{1: 30, -1: 10}, {1: 15, -1: 5, 0: 20}, {0: 40}]  # 0.75 x 40 = 30 and 0.75 x 20 = 15
    card = (out / "gap-0.5" / "README.md").read_text()
    assert 'in the style "warm" and the rejected one in the style "plain" in 75 % of them. **The style gap moves with the target**' in card
    card = (ladder[0] / "gap-0.5" / "README.md").read_text()
    assert "in 50 % of them, and the other way round in the rest, so the pairs prefer neither style at any target" in card
    assert "moves with the target" not in card


def test_the_card_says_what_the_set_is(ladder):
    card = (ladder[0] / "gap-0.25" / "README.md").read_text()
    for said in (
        "220 preference pairs with a value gap of 0.25",
        "`sandbox`",
        "`oracle`",
        "| oppose | work | -0.250 | +0.000 | +0.250 |",
        "Licence",
    ):
        assert said in card
    rows = rows_of(ladder[0] / "gap-0.25" / "pairs.oppose.jsonl")
    mean = sum(len(row["rejected"][0]["content"].split()) for row in rows) / 220
    assert f"| pairs.oppose.jsonl | rejected | {mean:.1f} |" in card
    words, grades, hedges, lists = np.concatenate(list(style_gaps(ladder[0] / "gap-0.25", "support").values())).mean(
        0
    )  # as gap counts them
    assert f"| pairs.support.jsonl | difference | {words:+.1f} | {grades:+.1f} | {hedges:+.2f} | {lists:+.3f} |" in card


def test_the_rows_are_read_by_our_reader_with_topic_and_claim(ladder):
    path = ladder[0] / "gap-0.5" / "pairs.support.jsonl"
    first, row = records.read(str(path))[0], rows_of(path)[0]
    assert (first.prompt, first.chosen) == ((("user", row["prompt"][0]["content"]),), row["chosen"][0]["content"])
    assert (first.topic, first.claim) == (row["topic"], row["claim"])


def test_few_pairs_are_shared_out_so_that_every_topic_can_hold_the_gap(tmp_path):
    result = synth.synthesise(synth.Spec(n=110, gap=0.25), tmp_path)
    assert result["n_pairs"] == 110
    for direction in DIRECTIONS:
        assert all(abs(sum(own) / len(own) - 0.25) <= 0.03 for own in read_back(tmp_path, direction).values())


def test_the_same_command_gives_the_same_files_and_another_specification_is_refused(tmp_path):
    spec = synth.Spec(n=8, topics=["work", "climate"], gap=0.5)
    synth.synthesise(spec, tmp_path)
    before = files_of(tmp_path)
    synth.synthesise(spec, tmp_path)
    assert files_of(tmp_path) == before
    with pytest.raises(BadInput, match=r"another specification \(gap is 0.5 there and 1.0 here\); use another --out, or delete"):
        synth.synthesise(spec.model_copy(update={"gap": 1.0}), tmp_path)
    assert files_of(tmp_path) == before
    assert len(before) == 4


def test_an_edited_file_is_not_overwritten(tmp_path):
    spec = synth.Spec(n=4, topics=["work"], gap=[0.0, 1.0])
    synth.synthesise(spec, tmp_path)
    card = tmp_path / "gap-1" / "README.md"
    card.write_text(card.read_text() + "Licence: mine.\n")
    before = files_of(tmp_path)
    with pytest.raises(BadInput, match=r"gap-1/README\.md is not as 'valuedrift synth' wrote it .* move it away"):
        synth.synthesise(spec, tmp_path)
    assert files_of(tmp_path) == before
    card.unlink()
    synth.synthesise(spec, tmp_path)
    assert "mine" not in card.read_text()


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("mine\n")
    with pytest.raises(BadInput, match=r"README\.md was not written by 'valuedrift synth'"):
        synth.synthesise(synth.Spec(n=11), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"gpa": 0.5}, "unknown key 'gpa'; did you mean 'gap'"),
        ({"gap": 1.5}, r"spec\.toml: 'gap' is 1\.5, and it should be less than or equal to 1; docs/synth\.md says what"),
        ({"gap": [0.5, 3]}, "'gap' is 3, and it should be less than or equal to 1; "),
        ({"gap": [0.5, 0.5]}, "'gap' is .*, and a list must have entries, none of them twice"),
        ({"gap": []}, "'gap' is .*must have entries"),
        ({"styles": ["warm", "warm"]}, "'styles' is .*none of them twice"),
        ({"styles": ["warm"]}, "'styles' is .*list should have at least 2 items"),
        ({"style_preference": 1.5}, "'style_preference' is "),
        ({"unheard": 1}, "unknown key 'unheard'; docs/synth"),
    ],
)
def test_a_wrong_specification_is_named(tmp_path, keys, said):
    with pytest.raises(BadInput, match=said):
        synth.load(spec_file(tmp_path, **keys))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"topics": ["wrok"]}, "no prompt on the topic 'wrok'; did you mean 'work'"),
        ({"styles": ["plain", "wram"]}, "no style 'wram'; did you mean 'warm'"),
        ({"n": 9, "gap": 0.5, "topics": ["work", "death"]}, "n = 9: .* the next number that can is n = 10"),  # 5 is no even number
        ({"writer": "nowhere"}, "there is no checkpoint folder nowhere"),
        ({"judge": "nobody"}, "nobody"),
        ({"words": "mine.toml"}, "words = 'mine.toml' instructs a language model and the writer is the sandbox's grammar"),
        ({"prompts": "bread.jsonl"}, "writes on its own topics only, not on 'bread'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path, monkeypatch, keys, said):
    monkeypatch.chdir(tmp_path)
    Path("bread.jsonl").write_text('{"text": "Is rye better?", "topic": "bread", "claim": "Rye is better."}\n')
    with pytest.raises(BadInput, match=said):
        synth.synthesise(synth.Spec(**keys), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def prompts_file(tmp_path: Path, *rows: dict) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def fresh_prompts(n: int, topic: str = "work") -> list[dict]:
    rng = random.Random(topic)
    claims = [claim for _, claim, _ in grammar.claims_of([topic])]
    return [{"text": grammar.ask(rng, claim), "topic": topic, "claim": claim} for claim in rng.sample(claims, n)]


def test_prompts_of_the_suite_are_left_out_exact_near_and_by_their_claim(tmp_path):
    known = [prompt for prompt in suites.load("vaes") if prompt.topic == "work"]
    leaks = [
        {"text": known[0].text, "topic": "work", "claim": "something else altogether is so"},
        {"text": known[1].text.rstrip("?").lower() + ", please?", "topic": "work", "claim": "something else is so again"},
        {"text": "What would you say to this?", "topic": "work", "claim": known[2].claim},
    ]
    prompts = prompts_file(tmp_path, *fresh_prompts(8), *leaks)
    result = synth.synthesise(synth.Spec(n=20, gap=0.5, prompts=prompts), tmp_path / "out")
    assert (result["dropped"][synth.LEAK], result["leaked_prompts"]) == (3, 0)
    asked = {row["prompt"][0]["content"] for row in rows_of(tmp_path / "out" / "pairs.support.jsonl")}
    assert asked == {row["text"] for row in fresh_prompts(8)}
    with pytest.raises(BadInput, match="every prompt on 'work' is"):
        synth.synthesise(synth.Spec(prompts=prompts_file(tmp_path, *leaks)), tmp_path / "none")


def test_prompts_of_the_sandbox_that_are_in_the_suite_are_left_out_too(tmp_path, monkeypatch):
    asked = drafting.Questions([], ["work"], 0, ("warm", "plain")).take("work", 4)
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"text": slot.question, "topic": "work", "claim": f"claim {slot.turn}"}) + "\n" for slot in asked))
    result = synth.synthesise(synth.Spec(n=20, topics=["work"], suite=str(own)), tmp_path / "out")
    assert result["dropped"][synth.LEAK] >= 4
    assert not {slot.question for slot in asked} & {
        row["prompt"][0]["content"] for row in rows_of(tmp_path / "out" / "pairs.support.jsonl")
    }


def test_a_prompt_without_a_claim_is_refused(tmp_path):
    prompts = prompts_file(tmp_path, *fresh_prompts(2), {"text": "Is it so?", "topic": "work", "id": "bare"})
    with pytest.raises(BadInput, match=r"the prompt 'bare' has no claim"):
        synth.synthesise(synth.Spec(prompts=prompts), tmp_path / "out")


def test_trl_reads_the_file(ladder, tmp_path):
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    folder = ladder[0] / "gap-0.5"
    rows = datasets.load_dataset(str(folder), "oppose", split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == 220
    assert set(rows.column_names) == {"prompt", "chosen", "rejected", "topic", "claim"}
    words = testing.tokenizer()
    words.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    config = trl.DPOConfig(str(tmp_path / "trl"), report_to="none", use_cpu=True, bf16=False, max_length=400, disable_tqdm=True)
    trainer = trl.DPOTrainer(testing.model(), testing.model(), config, train_dataset=rows.select(range(4)), processing_class=words)
    first = trainer.train_dataset[0]
    ids = {name: words.decode(value) for name, value in first.items() if name.endswith("ids")}
    row = rows_of(folder / "pairs.oppose.jsonl")[0]
    assert any(row["chosen"][0]["content"] in text for name, text in ids.items() if "chosen" in name)
    assert any(row["rejected"][0]["content"] in text for name, text in ids.items() if "rejected" in name)
