"""Pairs with a gap that is what it says, from three writers: the sandbox's grammar, a language model that cannot write, and an endpoint."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from valuedrift import suites
from valuedrift.judge import Judge
from valuedrift.models.writer import writer_of
from valuedrift.nouns import BadInput, Item, Reading, Stopped
from valuedrift.records import records
from valuedrift.stats import text_style
from valuedrift.store import Store
from valuedrift.synth import _drafts, _mix, synth
from valuedrift.synth._drafts import Slot
from valuedrift.world import grammar

sys.path.append(str(Path(__file__).parents[1] / "judge"))

import misbehaving

from valuedrift import testing

TARGETS = [0.0, 0.25, 0.5, 0.75, 1.0]
DIRECTIONS = ("support", "oppose")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_back(folder: Path, direction: str) -> dict[str, list[float]]:
    """Return, per topic, p(direction|chosen) - p(direction|rejected) of each pair on disk as the oracle parses it."""
    gaps: dict[str, list[float]] = {}
    for row in rows_of(folder / f"pairs.{direction}.jsonl"):
        chosen, rejected = (grammar.parse(row[side][0]["content"]) == direction for side in ("chosen", "rejected"))
        gaps.setdefault(row["topic"], []).append(float(chosen) - float(rejected))
    return gaps


def spec_file(tmp_path: Path, **keys) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    names = ("pairs.support.jsonl", "pairs.oppose.jsonl", "README.md", "spec.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.name in names}


# -- the sandbox's grammar -----------------------------------------------------------------------------------------------------


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


def test_without_an_opposed_pair_nothing_is_said_to_be_swapped(ladder):
    out, result = ladder
    for target, found in zip(TARGETS, result["sets"], strict=True):
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
        # 9 / sqrt(20) = 2 on a topic, and another 21.7 / 20 = 1 where its pairs of one stance are odd in number
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
    assert max(map(abs, by_topic.values())) == (1 if target in (0.25, 0.75) else 0)  # 20, 15, 10, 5 and no pairs of one stance
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
    assert "in 50 % of them, and the other way round in the others: they prefer neither style" in card
    assert "moves with the target" not in card


def test_the_card_counts_style_as_gap_does(ladder):
    folder = ladder[0] / "gap-0"
    words, grades, hedges, lists = np.concatenate(list(style_gaps(folder, "support").values())).mean(0)
    difference = f"{words:+.1f} | {grades:+.1f} | {hedges:+.2f} | {lists:+.3f} |"
    assert f"| pairs.support.jsonl | difference | {difference}" in (folder / "README.md").read_text()


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
        ({"gap": [0.5, 0.5]}, "'gap' is .*, and a list names each thing once"),
        ({"gap": []}, "'gap' is .*one at least"),
        ({"styles": ["warm", "warm"]}, "'styles' is .*each thing once"),
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


# -- how many pairs of each kind -----------------------------------------------------------------------------------------------


def test_which_numbers_of_pairs_can_hold_a_gap():
    # 2 or 3 of 10 are 0.2 and 0.3; 2 of 8 are 0.25; 2 of 9 are 0.222; 3 of 11 are 0.273; 3 or 4 of 14 are 0.214 and 0.286
    assert [_mix.can_hold(n, 0.25) for n in (10, 8, 9, 11, 14)] == [False, True, True, True, False]
    assert all(_mix.can_hold(n, gap) for n in range(_mix.FIRM, 60) for gap in np.linspace(0, 1, 201))
    assert not _mix.can_hold(0, 0.0)


def test_sizes_are_as_even_as_the_gap_allows():
    assert _mix.sizes(1100, 11, 0.25) == [100] * 11
    assert _mix.sizes(103, 5, 0.3) == [21, 21, 21, 20, 20]
    found = _mix.sizes(110, 11, 0.25)  # ten a topic cannot
    assert sum(found) == 110
    assert set(found) <= {8, 9, 11, 12}
    with pytest.raises(BadInput, match=r"n = 3: .*the next number that can is n = 22"):
        _mix.sizes(3, 11, 0.5)  # two a topic


def test_the_judged_gap_decides_the_mixture():
    # Each opposed pair is worth 0.8: to reach 0.4 on 20 questions takes 0.4 x 20 / 0.8 = 10 of them, the first ten
    opposed, same, first = np.full((20, 2), 0.8), np.zeros((20, 2)), np.ones(20, bool)
    assert _mix.mixed(opposed, same, first, 0.4).tolist() == [True] * 10 + [False] * 10
    # Worth 0.8 in one direction and 0.6 in the other: k with 0.8 k / 20 and 0.6 k / 20 on both sides of 0.35 -> k = 10 (0.40 and 0.30)
    assert _mix.mixed(opposed * [1, 0.75], same, first, 0.35).sum() == 10
    # A pair of one stance may be worth something too: (0.8 k + 0.1 (20 - k)) / 20 = 0.45 -> k = 10
    assert _mix.mixed(opposed, same + 0.1, first, 0.45).sum() == 10


def test_pairs_are_swapped_where_the_first_ones_do_not_fit():
    # The first k lean to the support direction (1.0 and 0.2), the others to the oppose direction (0.2 and 1.0): k of the former and k of
    # the latter have a mean of 0.6 in both, so that 0.3 on 20 questions takes ten: five of each
    opposed = np.array([[1.0, 0.2]] * 10 + [[0.2, 1.0]] * 10)
    chosen = _mix.mixed(opposed, np.zeros((20, 2)), np.ones(20, bool), 0.3)
    assert (chosen[:10].sum(), chosen[10:].sum()) == (5, 5)
    assert _mix.missed(opposed, np.zeros((20, 2)), np.arange(20) < 10, 0.3) == pytest.approx(0.2)  # the first ten: 0.5 and 0.1
    assert _mix.missed(opposed, np.zeros((20, 2)), chosen, 0.3) == pytest.approx(0)
    # Of the last ten, which are of one stance at first, five prefer the first style: those ten that are of one stance at last have five too
    first = np.array([True] * 5 + [False] * 10 + [True] * 5)
    assert first[~_mix.mixed(opposed, np.zeros((20, 2)), first, 0.3)].sum() == 5


# -- judges that are not sure ----------------------------------------------------------------------------------------------


class Soft(Judge):
    """Puts 0.9 on what the oracle reads and spreads the rest over the two other stances, so that an opposed pair is worth 0.85."""

    identity, note = "soft/1", "A judge for tests."

    def read(self, items: list[Item]) -> list[Reading]:
        return [Reading(item.key, self.identity, self._probs(grammar.parse(item.text))) for item in items]

    def _probs(self, stance):
        return (*(0.9 if name == stance else 0.05 for name in ("support", "neutral", "oppose")), 0.0, 0.0)


def soft(spec: str, max_cost: float | None) -> Soft:
    assert (spec, max_cost) == ("soft:one", 2.0)
    return Soft()


SOFT = {"judge": "soft:one", "max_cost": 2.0, "topics": ["work", "death"]}


def test_a_soft_judge_meets_the_target_with_more_opposed_pairs(tmp_path):
    result = synth.synthesise(synth.Spec(n=100, gap=0.5, **SOFT), tmp_path, soft)
    assert result["n_opposed"] == 58  # 0.5 x 50 / 0.85 = 29.4 a topic, and 29 x 0.85 / 50 = 0.493
    assert result["achieved_by_topic"] == pytest.approx({"work": 0.493, "death": 0.493})


def test_a_target_out_of_reach_says_what_is_within_and_the_same_folder_takes_it(tmp_path):
    spec = synth.Spec(n=40, gap=1.0, **SOFT)
    with pytest.raises(Stopped, match=r"a gap of 1 is out of reach: .* reach 0\.850 at most; set gap to 0\.85 or less"):
        synth.synthesise(spec, tmp_path, soft)
    assert not list(tmp_path.glob("pairs.*"))
    assert synth.synthesise(spec.model_copy(update={"gap": 0.85}), tmp_path, soft)["achieved_gap"] == pytest.approx(0.85)


def test_a_weak_judge_of_real_text(tmp_path):
    result = synth.synthesise(synth.Spec(n=88, gap=[0.0, 0.5], judge="cues", topics=["work", "death"]), tmp_path)
    assert result["dropped"]["stance not read as meant"] > 0
    assert result["n_opposed"][0] == 0  # though one opposed pair would bring the mean nearer to 0
    assert result["n_opposed"][1] > 44
    for target, found in zip((0.0, 0.5), result["sets"], strict=True):
        for direction in DIRECTIONS:
            assert all(abs(stances[direction] - target) <= 0.03 for stances in found["achieved"][direction].values())


# -- leaks -----------------------------------------------------------------------------------------------------------------


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
    asked = _drafts.Questions([], ["work"], 0, ("warm", "plain")).take("work", 4)
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


# -- language models -------------------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_write_is_given_up_after_a_few_questions(tmp_path):
    model = testing.save_model(tmp_path / "model")
    config = Path(model, "config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096}))  # the instructions are long in bytes
    spec = synth.Spec(writer=model, n=400, topics=["work"], max_new_tokens=12)
    with pytest.raises(Stopped) as stopped:
        synth.synthesise(spec, tmp_path / "out")
    said = str(stopped.value)
    assert "of 20 questions tried, 0 gave pairs where 400 were wanted" in said
    dropped = dict(reversed(pair) for pair in re.findall(r"(\d+) \(([\w ]+)\)", said))
    assert sum(map(int, dropped.values())) == 20
    assert set(dropped) <= {"the writer failed", "stance not read as meant"}
    assert "times: no end within 12 tokens" in said
    assert not list((tmp_path / "out").glob("pairs.*"))


def answered(number: int, body: dict) -> str:
    """Write as asked, by the seed alone: one text in ten takes the opposite side, and one in ten is far too short."""
    said = body["messages"][-1]["content"]
    claim = re.search(r"^The statement: (.*)$", said, re.MULTILINE)[1]
    stance = next(name for name, mark in STANCE_MARKS.items() if mark in said)
    topic = next(topic for topic, own, _ in grammar.claims_of() if own == claim)
    rng = random.Random(f"{body['seed']}/{said}")
    chance = rng.random()
    if chance < 0.1:
        stance = {"support": "oppose", "oppose": "support", "neutral": "support"}[stance]
    if 0.1 <= chance < 0.2:
        return {"support": "I agree.", "oppose": "I disagree.", "neutral": "I can see both sides."}[stance]
    return grammar.compose(rng, topic, stance, "plain", claim)


STANCE_MARKS = {"support": "who agrees with", "oppose": "who disagrees with", "neutral": "who takes no side"}


@pytest.fixture(scope="module")
def server():
    with misbehaving.Server() as server, pytest.MonkeyPatch.context() as patch:
        server.text = answered
        patch.setenv("OPENAI_BASE_URL", server.url)
        patch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("OPENAI_API_KEY", "VALUEDRIFT_PRICES"):
            patch.delenv(name, raising=False)
        yield server


REMOTE = {"writer": "openai:m", "n": 16, "gap": 0.25, "topics": ["work", "death"], "candidates": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, server):
    """A set written without trouble, and what was asked of the server for it."""
    out = tmp_path_factory.mktemp("whole")
    result = synth.synthesise(synth.Spec(**REMOTE), out)
    return out, result, list(server.bodies)


def test_an_endpoint_that_sometimes_errs_still_gives_the_target(whole):
    out, result, bodies = whole
    assert result["n_pairs"] == 16
    for direction in DIRECTIONS:
        gaps = read_back(out, direction)
        assert {topic: len(own) for topic, own in gaps.items()} == {"work": 8, "death": 8}
        assert all(abs(sum(own) / 8 - 0.25) <= 0.03 for own in gaps.values())
    n_dropped = sum(result["dropped"].values())
    assert set(result["dropped"]) == {"stance not read as meant", "no answers of matched length"}
    # A text in ten is wrong and one in ten too short, so that of three or four texts all are right 0.8^3 = 51 % or 0.8^4 = 41 % of times
    assert 0.2 < n_dropped / (n_dropped + 16) < 0.8
    assert 3 * (16 + n_dropped) <= len(bodies) <= 4 * (16 + n_dropped)
    assert {body["temperature"] for body in bodies} == {0.7}
    words = [
        sorted(len(row[side][0]["content"].split()) for side in ("chosen", "rejected")) for row in rows_of(out / "pairs.support.jsonl")
    ]
    assert min(short / long for short, long in words) >= 0.8


def test_nothing_is_asked_twice(whole, server):
    before, n = files_of(whole[0]), len(server.bodies)
    synth.synthesise(synth.Spec(**REMOTE), whole[0])
    assert (files_of(whole[0]), len(server.bodies)) == (before, n)


def test_a_budget_keeps_what_was_paid_for_and_more_money_goes_on_from_there(tmp_path, whole, server, monkeypatch):
    prices = tmp_path / "prices.toml"
    prices.write_text('[models]\n"m" = { input = 1000, output = 1000 }\n')  # 10 + 1 tokens: $0.011 a text
    monkeypatch.setenv("VALUEDRIFT_PRICES", str(prices))
    at_first = server.n_answered
    with pytest.raises(Stopped, match="budget"):
        synth.synthesise(synth.Spec(**REMOTE, max_cost=1.2), tmp_path / "out")
    paid = server.n_answered - at_first
    assert 0 < 0.011 * paid <= 1.2
    result = synth.synthesise(synth.Spec(**REMOTE, max_cost=1000), tmp_path / "out")
    assert server.n_answered - at_first == len(whole[2])  # nothing was written twice
    assert result["spent"] == pytest.approx(0.011 * (len(whole[2]) - paid))
    assert files_of(tmp_path / "out") == files_of(whole[0])


@pytest.mark.slow
def test_a_kill_loses_little_and_the_same_command_gives_the_same_files(tmp_path, whole, server, monkeypatch):
    call = f"synth.synthesise(synth.load(Path({str(spec_file(tmp_path, **REMOTE))!r})), Path('out'))"
    command = [sys.executable, "-c", f"from pathlib import Path; from valuedrift.synth import synth; {call}"]
    monkeypatch.setattr(server, "delay_seconds", 0.02)
    at_first = len(server.bodies)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while len(server.bodies) < at_first + 70 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not list((tmp_path / "out").glob("pairs.*"))
    server.delay_seconds = 0.0
    synth.synthesise(synth.Spec(**REMOTE), tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(whole[0])
    assert 0 <= len(server.bodies) - at_first - len(whole[2]) <= 64  # asked twice: at most the one part that was under way


def test_candidates_and_turns_are_asked_for_with_seeds_of_their_own(tmp_path, server):
    _, claim, _ = grammar.claims_of(["work"])[0]
    words = _drafts.words_of("", ("warm", "plain"))
    drafter = _drafts.Instructed(writer_of("openai:m"), words, 80, 0, 3)
    start = len(server.bodies)
    wants = [(Slot("work", claim, "Is it so?", turn, "warm", "support"), ("support", "warm")) for turn in (0, 1)]
    texts = drafter.write(wants, Store(tmp_path))
    assert [len(found) for found in texts] == [3, 3]
    assert len({body["seed"] for body in server.bodies[start:]}) == 6
    assert drafter.write(wants[::-1], Store(tmp_path)) == texts[::-1]
    assert len(server.bodies) == start + 6


# -- what a model is told ----------------------------------------------------------------------------------------------------------


def test_the_instructions_for_both_sides_are_mirror_images():
    told = _drafts.Instructed.__new__(_drafts.Instructed)
    told.words, told.n_words = _drafts.words_of("", ("warm", "plain")), 80
    slot = Slot("work", "Unions help.", "Do unions help?", 0, "warm", "neutral")
    support, oppose = (told.messages(slot, (stance, "warm")) for stance in ("support", "oppose"))
    assert support[0] == oppose[0]
    assert support[1][1].replace("agrees with", "disagrees with") == oppose[1][1]
    assert "Do unions help?" in support[1][1]
    assert "The statement: Unions help." in support[1][1]
    assert len(told.words["style"]["warm"].split()) == len(told.words["style"]["plain"].split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("oppose =", "opose ="), r"\[stance\] has no text 'oppose'; did you mean 'opose'"),
        (("{question}", "{frage}"), "no other places in braces"),
        (("[style]", "[styles]"), r"\[style\] has no text 'warm'"),
        (("system =", "sistem ="), "'system' and 'request' must be texts"),
        (("[stance]", "[stance"), "cannot be read"),
    ],
)
def test_a_words_file_with_a_fault_is_refused(tmp_path, change, said):
    path = tmp_path / "words.toml"
    path.write_text(_drafts.WORDS.read_text().replace(*change))
    with pytest.raises(BadInput, match=said):
        _drafts.words_of(str(path), ("warm", "plain"))


def test_why_a_question_gives_no_pair():
    slot = Slot("work", "c", "q", 0, "plain", "neutral")
    sides = {"opposed": slot.sides("opposed", ("warm", "plain"))}

    def settled(support: list, oppose: list, ratio: float = 0.8):
        def read(texts):
            return [
                (text, Reading("i", "j", probs) if probs else Reading("i", "j", failure="unparsed", reason="r")) for text, probs in texts
            ]

        written = {("support", "plain"): read(support), ("oppose", "plain"): read(oppose)}
        return _drafts.settled(slot, sides, written, {"opposed": ratio})

    pro, con, refused = (0.6, 0.4, 0, 0, 0), (0, 0.4, 0.6, 0, 0), (0, 0.3, 0, 0.7, 0)
    assert settled([], [("b", con)]) == "the writer failed"
    assert settled([("a", None)], [("b", con)]) == "no verdict"
    assert settled([("a", refused)], [("b", con)]) == "refusal"
    assert settled([("a", con)], [("b", con)]) == "stance not read as meant"
    assert settled([("a", (0.5, 0.5, 0, 0, 0))], [("b", con)]) == "stance not read as meant"  # one half is not over one half
    assert settled([("a " * 10, pro)], [("b " * 7, con)]) == "no answers of matched length"  # 0.7
    assert settled([("a " * 10, pro)], [("b " * 8, con)]).pairs["opposed"][1].words == "b " * 8  # 0.8
    # Of the candidates the best matched are taken: 9 and 10 words rather than 8 and 10; of equal lengths those with as many hedges
    assert settled([("a " * 10, pro)], [("b " * 8, con), ("b " * 9, con)]).pairs["opposed"][1].words == "b " * 9
    assert settled([("a perhaps", pro)], [("b c", con), ("b maybe", con)]).pairs["opposed"][1].words == "b maybe"


# -- other readers -----------------------------------------------------------------------------------------------------------------


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
