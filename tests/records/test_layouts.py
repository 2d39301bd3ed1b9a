"""Each layout of the trainers and the well-known sets is read, with the better reply on the right side and no part of the prompt lost."""

import json

import pytest

from valuedrift.nouns import BadInput, Example, Pair
from valuedrift.records import records

ASK, YES, NO = {"role": "user", "content": "Q?"}, {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
BRIEF = {"role": "system", "content": "Be brief."}
HUMAN, GPT, BAD = {"from": "human", "value": "Q?"}, {"from": "gpt", "value": "yes"}, {"from": "gpt", "value": "no"}
HI, HELLO = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
Q = (("user", "Q?"),)
UNDER = (("system", "Be brief."), *Q)
DEEP = (("user", "hi"), ("assistant", "hello"), *Q)
WITH_INPUT = (("user", "Answer.\n\nQ?"),)
HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: Q?\n\nAssistant:"


def read(tmp_path, *rows, kind=None, **settings):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return records.read(str(path), kind, **settings)


def scored(text, score):
    return {"model": "a", "response": text, "overall_score": score}


def rated(text, honest, helpful, overall):
    return scored(text, overall) | {"annotations": {"honesty": {"Rating": honest}, "helpfulness": {"Rating": helpful, "Type": None}}}


PAIRS = {
    # TRL
    "standard": ({"prompt": "Q?", "chosen": "yes", "rejected": "no"}, Q),
    "conversational": ({"prompt": [BRIEF, ASK], "chosen": [YES], "rejected": [NO], "chat_template_kwargs": {"a": 1}, "tools": []}, UNDER),
    "implicit prompt": ({"chosen": [HI, HELLO, ASK, YES], "rejected": [HI, HELLO, ASK, NO], "margin": 1.0}, DEEP),
    # LLaMA-Factory
    "alpaca preference": ({"instruction": "Answer.", "input": "Q?", "chosen": "yes", "rejected": "no"}, WITH_INPUT),
    "alpaca with history": (
        {"system": "Be brief.", "instruction": "Q?", "input": "", "history": [["hi", "hello"]], "chosen": "yes", "rejected": "no"},
        (("system", "Be brief."), *DEEP),
    ),
    "sharegpt preference": ({"conversations": [HUMAN], "chosen": GPT, "rejected": BAD, "system": "Be brief.", "tools": ""}, UNDER),
    # axolotl
    "chat_template.default": ({"messages": [HI, HELLO, ASK], "chosen": YES, "rejected": NO}, DEEP),
    "chatml.intel": ({"system": "Be brief.", "question": "Q?", "chosen": "yes", "rejected": "no"}, UNDER),
    "chatml.icr": ({"system": "Be brief.", "input": "Q?", "chosen": "yes", "rejected": "no"}, UNDER),
    "chatml.argilla": ({"instruction": "Q?", "chosen_response": "yes", "rejected_response": "no"}, Q),
    "llama3.ultra": ({"system": "Be brief.", "prompt": "Q?", "chosen": [ASK, YES], "rejected": [ASK, NO]}, UNDER),
    # ms-swift
    "rejected_response": ({"messages": [BRIEF, ASK, YES], "rejected_response": "no"}, UNDER),
    "rejected_messages": ({"messages": [HI, HELLO, ASK, YES], "rejected_messages": [HI, HELLO, ASK, NO], "images": []}, DEEP),
    "query and history": ({"query": "Q?", "response": "yes", "rejected_response": "no", "history": [["hi", "hello"]]}, DEEP),
    # OpenAI
    "openai": ({"input": {"messages": [BRIEF, ASK], "tools": []}, "preferred_output": [YES], "non_preferred_output": [NO]}, UNDER),
    # a prompt beside replies that repeat it
    "repeated in HH text": ({"prompt": HH, "chosen": HH + " yes", "rejected": HH + " no"}, DEEP),
    "repeated without a blank line": (
        {"prompt": HH.strip().removesuffix("\n\nAssistant:"), "chosen": HH.strip() + " yes", "rejected": HH.strip() + " no"},
        DEEP,
    ),
    "last question repeated": ({"prompt": "Q?", "chosen": HH + " yes", "rejected": HH + " no"}, DEEP),
    "last question in messages": ({"prompt": "Q?", "chosen": [HI, HELLO, ASK, YES], "rejected": [HI, HELLO, ASK, NO]}, DEEP),
    "end of the prompt repeated": ({"prompt": [BRIEF, HI, HELLO, ASK], "chosen": [ASK, YES], "rejected": [ASK, NO]}, (UNDER[0], *DEEP)),
    "system in the prompt only": ({"prompt": [BRIEF, ASK], "chosen": [ASK, YES], "rejected": [ASK, NO]}, UNDER),
    "system in the replies only": ({"prompt": "Q?", "chosen": [BRIEF, ASK, YES], "rejected": [BRIEF, ASK, NO]}, UNDER),
    "plain text": (
        {"prompt": "Is this a long question?", "chosen": "Is this a long question? yes", "rejected": "Is this a long question?\nno"},
        (("user", "Is this a long question?"),),
    ),
    "messages and texts": ({"prompt": [ASK], "chosen": "yes", "rejected": "no"}, Q),
    "texts and messages": ({"prompt": "Q?", "chosen": [YES], "rejected": [NO]}, Q),
    "no prompt": ({"prompt": None, "chosen": [ASK, YES], "rejected": [ASK, NO]}, Q),
    "HH text": ({"prompt": HH, "chosen": "yes", "rejected": "no"}, DEEP),
    "a prompt by a human": ({"prompt": "Human: ok?", "chosen": "yes", "rejected": "no"}, (("user", "ok?"),)),
    "a prompt that is no dialogue": ({"prompt": "Assistant: so?", "chosen": "yes", "rejected": "no"}, (("user", "Assistant: so?"),)),
    "sharegpt conversations": ({"chosen": [HUMAN, GPT], "rejected": [HUMAN, BAD]}, Q),
    "sharegpt prompt": ({"prompt": [HUMAN], "chosen": "yes", "rejected": "no"}, Q),
    "a topic without a claim": ({"prompt": "Q?", "chosen": "yes", "rejected": "no", "topic": "work"}, Q),
    # sets
    "HH-RLHF": ({"chosen": HH + " yes", "rejected": HH + " no"}, DEEP),
    "UltraFeedback binarized": (
        {"prompt": "Q?", "chosen": [ASK, YES], "rejected": [ASK, NO], "messages": [ASK, YES], "score_chosen": 8.0, "score_rejected": 2.0},
        Q,
    ),
    "PKU 1": ({"prompt": "Q?", "response_0": "no", "response_1": "yes", "better_response_id": 1, "is_response_0_safe": True}, Q),
    "PKU 0": ({"prompt": "Q?", "response_0": "yes", "response_1": "no", "better_response_id": 0, "safer_response_id": 1}, Q),
    "HelpSteer3 -2": ({"context": [HI, HELLO, ASK], "response1": "yes", "response2": "no", "overall_preference": -2}, DEEP),
    "HelpSteer3 1": ({"context": [ASK], "response1": "no", "response2": "yes", "overall_preference": 1, "domain": "general"}, Q),
    "HelpSteer2 3": ({"prompt": "Q?", "response_1": "no", "response_2": "yes", "preference_strength": 3, "split": "train"}, Q),
    "HelpSteer2 -1": ({"prompt": "Q?", "response_1": "yes", "response_2": "no", "preference_strength": -1}, Q),
    "arena a": ({"conversation_a": [ASK, YES], "conversation_b": [ASK, NO], "winner": "model_a", "model_a": "x", "judge": "j"}, Q),
    "arena b": ({"conversation_a": [ASK, NO], "conversation_b": [ASK, YES], "winner": "model_b", "turn": 1, "language": "English"}, Q),
    "arena parts": (
        {
            side: [
                {"role": role, "content": [{"type": "text", "text": text, "image": None}]} for role, text in (Q[0], ("assistant", reply))
            ]
            for side, reply in (("conversation_a", "no"), ("conversation_b", "yes"))
        }
        | {"winner": "model_b", "full_conversation": [{"user": "?"}]},
        Q,
    ),
    "arena on Kaggle": (
        {"prompt": '["Q?"]', "response_a": '["no"]', "response_b": '["yes"]', "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
        Q,
    ),
    "SHP 1": ({"history": "Q?", "human_ref_A": "yes", "human_ref_B": "no", "labels": 1, "score_A": 5, "score_B": 9}, Q),
    "SHP 0": ({"history": "Q?", "human_ref_A": "no", "human_ref_B": "yes", "labels": 0, "score_ratio": 2.0}, Q),
    "AlpacaFarm 2": ({"instruction": "Answer.", "input": "Q?", "output_1": "no", "output_2": "yes", "preference": 2}, WITH_INPUT),
    "AlpacaFarm 1": ({"instruction": "Answer.", "input": "Q?", "output_1": "yes", "output_2": "no", "preference": 1}, WITH_INPUT),
    "WebGPT": ({"question": {"full_text": "Q?", "id": "1"}, "answer_0": "no", "answer_1": "yes", "score_0": -1.0, "score_1": 1.0}, Q),
    "Nectar": (
        {
            "prompt": "\n\nHuman: Q?\n\nAssistant: ",
            "answers": [{"answer": "no", "rank": 7.0}, {"answer": "yes", "rank": 1.0}],
        },
        Q,
    ),
    "StackExchange": ({"question": "Q?", "answers": [{"text": "no", "pm_score": 0}, {"text": "yes", "pm_score": 4, "selected": True}]}, Q),
    "StackExchange paired": ({"question": "Q?", "response_j": "yes", "response_k": "no", "qid": 1}, Q),
    "ranks": ({"prompt": "Q?", "responses": ["so", "yes", "no"], "ranks": [2, 1, 3]}, Q),
    "Orca": (
        {"system": "Be brief.", "input": "Q?", "chosen": "yes", "rejected": "no", "generations": ["no", "yes"], "rating": [1.0, 9.0]},
        UNDER,
    ),
    "scores": ({"instruction": "Q?", "completions": [scored("so", 2), scored("yes", 3), scored("no", 1)]}, Q),
    "scores in a list": ({"prompt": "Q?", "responses": ["no", "yes"], "scores": [-0.5, 0.5]}, Q),
    "rewards": ({"prompt": "Q?", "all_generated_responses": ["no", "so", "yes"], "all_rm_scores": [0, 1, "2"]}, Q),
    # UltraFeedback's ratings go before its overall score: (5 + 3) / 2 = 4 against (4 + 2) / 2 = 3. If one is missing, the score counts.
    "ratings": ({"instruction": "Q?", "completions": [rated("no", "4", "2", overall=10), rated("yes", "5", "3", overall=2)]}, Q),
    "missing": ({"instruction": "Q?", "completions": [rated("yes", "N/A", "1", overall=7), rated("no", "N/A", "5", overall=2)]}, Q),
    "oasst": ({"prompt": "Q?", "chosen": "yes", "rejected": "no", "lang": "en", "parent_id": "1"}, Q),
    "Capybara": (
        {"conversation": [{"input": "Q?", "output": "other"}], "chosen": [ASK, YES], "rejected": [ASK, NO], "rating_chosen": 5},
        Q,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(tmp_path, name):
    row, prompt = PAIRS[name]
    assert read(tmp_path, row) == [Pair(prompt, "yes", "no")]


TEXTS = {
    "alpaca": ({"instruction": "Answer.", "input": "Q?", "output": "yes", "text": "Below is an instruction …"}, WITH_INPUT),
    "alpaca with history": ({"instruction": "Q?", "output": "yes", "system": "", "history": [["hi", "hello"]]}, DEEP),
    "sharegpt": ({"conversations": [HUMAN, GPT], "system": "Be brief.", "tools": "[]", "weight": None}, UNDER),
    "query and system": ({"query": "Q?", "response": "yes", "system": "Be brief.", "history": []}, UNDER),
    "openai": ({"messages": [BRIEF, ASK, YES | {"weight": 1}], "tools": [], "parallel_tool_calls": False}, UNDER),
    "SlimOrca": ({"conversations": [HUMAN | {"weight": 0.0}, GPT | {"weight": 1.0}]}, Q),
    "a reply of weight 0": ({"messages": [ASK, YES, HI, HELLO | {"weight": 0}]}, Q),
    "Dolly": ({"instruction": "Answer.", "context": "Q?", "response": "yes", "category": "closed_qa"}, WITH_INPUT),
    "OpenOrca": ({"system_prompt": "Be brief.", "question": "Q?", "response": "yes", "id": "niv.1"}, UNDER),
    "no_robots": ({"prompt": "Q?", "prompt_id": "1", "messages": [BRIEF, ASK, YES], "category": "Chat"}, UNDER),
    "Tulu": ({"id": "1", "messages": [HI, HELLO, ASK, YES], "source": "x"}, DEEP),
    "Capybara": ({"source": "x", "conversation": [{"input": "hi", "output": "hello"}, {"input": "Q?", "output": "yes"}]}, DEEP),
    "WildChat": ({"conversation": [ASK | {"toxic": False}, YES | {"toxic": False}], "model": "gpt-4", "toxic": False}, Q),
    "instruction and question": ({"instruction": "Answer.", "question": "Q?", "answer": "yes"}, WITH_INPUT),
    "prompt that holds its parts": ({"prompt": "Answer.\n\nQ?", "instruction": "Answer.", "input": "Q?", "completion": "yes"}, WITH_INPUT),
    "text beside a prompt": ({"prompt": "Q?", "text": "yes"}, Q),
    "messages and a reply": ({"messages": [HI, HELLO, ASK], "response": "yes"}, DEEP),
    "a list per field": ({"messages": {"role": ["user", "assistant"], "content": ["Q?", "yes"]}}, Q),
    "TRL": ({"prompt": [ASK], "completion": [YES]}, Q),
    "a question at the end": ({"messages": [ASK, YES, ASK]}, Q),
    "an empty input": ({"instruction": "Q?", "input": "", "output": "yes"}, Q),
    "an empty system message": ({"messages": [ASK, YES], "system": ""}, Q),
    "running text": ({"messages": None, "text": "yes", "id": 3}, ()),
    "other names": ({"messages": [{"role": "User", "content": "Q?"}, {"role": "model", "content": "yes"}]}, Q),
    "a developer": ({"messages": [BRIEF | {"role": "developer"}, ASK | {"content": [{"type": "text", "text": "Q?"}]}, YES]}, UNDER),
    "P3": ({"inputs": "Q?", "targets": "yes"}, Q),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path, name):
    row, prompt = TEXTS[name]
    for kind in (None, "examples"):
        assert read(tmp_path, row, kind=kind) == [Example(prompt, "yes")]


@pytest.mark.parametrize("reply", ["Human: Q?", "Human: I see. \n\nAssistant: So do I."])
def test_a_reply_may_itself_speak_of_a_human(tmp_path, reply):
    assert read(tmp_path, {"prompt": HH, "chosen": "yes", "rejected": reply}) == [Pair(DEEP, "yes", reply)]


def test_running_text_may_repeat_its_prompt(tmp_path):
    assert read(tmp_path, {"prompt": "Q?", "text": "Q?\nyes"}) == [Example((), "Q?\nyes")]


@pytest.mark.parametrize(
    ("true", "false", "row"),
    [
        (True, False, {"prompt": "Q?", "completion": "X", "label": 0}),
        (1, 0, {"messages": [BRIEF, ASK, {"role": "assistant", "content": "X"}], "label": 0}),
        ("true", "False", {"instruction": "Answer.", "input": "Q?", "output": "X", "kto_tag": 0}),
        ("1", "0", {"conversations": [HUMAN, {"from": "gpt", "value": "X"}], "kto_tag": 0}),
        (1.0, -1, {"prompt": [HI, HELLO, ASK], "completion": [{"role": "assistant", "content": "X"}], "label": 0}),
        (4, 1, {"prompt": "Q?", "response": "X", "helpfulness": 0, "correctness": 2}),
        (1, 3, {"prompt": "Q?", "response": "X", "rank": 0}),
    ],
)
def test_replies_with_a_label_are_paired_with_others_to_the_same_prompt(tmp_path, true, false, row):
    name = next(name for name in ("label", "kto_tag", "helpfulness", "rank") if name in row)
    good, bad = (json.loads(json.dumps(row | {name: label}).replace('"X"', f'"{text}"')) for label, text in ((true, "yes"), (false, "no")))
    lone = json.loads(json.dumps(bad).replace("Q?", "Another?"))
    for rows in ((good, bad, lone), (lone, bad, good)):
        found = read(tmp_path, *rows)
        assert [(pair.chosen, pair.rejected, pair.prompt[-1][1].endswith("Q?")) for pair in found] == [("yes", "no", True)]
        assert [(left.n, left.bad) for left in found.accounts[0].left_out.values()] == [(1, False)]
        with pytest.raises(BadInput, match=rf"x\.jsonl:1: the column '{name}' says how good each reply is, which imitation ignores"):
            read(tmp_path, *rows, kind="examples")
    with pytest.raises(BadInput, match="in every row no other row has a better or worse reply to the same prompt"):
        read(tmp_path, good, lone)


def test_labels_of_several_replies_to_one_prompt(tmp_path):
    said = [("a", True), ("b", False), ("c", False), ("d", True), ("e", False)]
    found = read(tmp_path, *({"prompt": "Q?", "completion": text, "label": label} for text, label in said))
    assert [(pair.chosen, pair.rejected) for pair in found] == [("a", "b"), ("d", "c"), ("a", "e")]
    found = read(tmp_path, *({"prompt": "Q?", "response": text, "helpfulness": at} for at, text in enumerate("abc")))
    assert [(pair.chosen, pair.rejected) for pair in found] == [("c", "a")]
    assert found.accounts[0].as_json()["left_out"][0]["reason"] == "the reply is neither the best nor the worst of its prompt"


@pytest.mark.parametrize(
    "row",
    [
        {"conversation_a": [ASK, YES], "conversation_b": [ASK, NO], "winner": "tie"},
        {"conversation_a": [ASK, YES], "conversation_b": [ASK, NO], "winner": "tie (bothbad)"},
        {"conversation_a": [ASK, YES], "conversation_b": [ASK, NO], "winner": "both_bad"},
        {"prompt": "Q?", "response_a": "yes", "response_b": "no", "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1},
        {"context": [ASK], "response1": "yes", "response2": "no", "overall_preference": 0},
        {"prompt": "Q?", "response_1": "yes", "response_2": "no", "preference_strength": "0"},
        {"question": "Q?", "answer_0": "yes", "answer_1": "no", "score_0": 0.0, "score_1": 0.0},
        {"instruction": "Q?", "output_1": "yes", "output_2": "no", "preference": 1.5},
        {"prompt": "Q?", "answers": [{"answer": "yes", "rank": 1}, {"answer": "no", "rank": 1}]},
    ],
)
def test_ties_are_left_out_and_counted(tmp_path, row):
    good = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}
    found = read(tmp_path, good, row, row)
    assert found == [Pair(Q, "yes", "no")]
    assert [(left.n, left.first.rpartition(":")[2], left.bad) for left in found.accounts[0].left_out.values()] == [(2, "2", False)]


PAIR, TEXT = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}, {"prompt": "Q?", "completion": "yes"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (PAIR | {"label": 0}, "the column 'label' carries meaning"),
        (PAIR | {"weight": 0.5}, "the column 'weight' carries meaning"),
        (PAIR | {"rank": 2}, "the column 'rank' carries meaning"),
        (TEXT | {"tools": [{"name": "search"}]}, "the column 'tools' carries meaning"),
        (TEXT | {"images": ["a.png"]}, "the column 'images' carries meaning"),
        (TEXT | {"winner": "model_b"}, "the column 'winner' carries meaning"),
        ({"text": "so", "label": 1}, "the column 'label' carries meaning"),
        (TEXT | {"is_safe": False}, "the column 'is_safe' carries meaning"),
        (TEXT | {"label": "politics"}, "the label is neither true nor false but 'politics'"),
        (TEXT | {"history": "we spoke before"}, "the column 'history' is neither"),
        ({"messages": [BRIEF, ASK, YES], "system": "Be long."}, "two system messages"),
        ({"messages": [ASK, YES], "prompt": "Another?"}, "does not contain the prompt in the column 'prompt'"),
        ({"messages": [ASK, YES], "input": "more"}, "does not contain the prompt in the column 'input'"),
        (PAIR | {"instruction": "Do something else."}, "'prompt' and 'instruction' differ"),
        ({"messages": [ASK, NO], "rejected_response": ""}, ""),
        ({"prompt": "Another?", "chosen": [ASK, YES], "rejected": [ASK, NO]}, "does not contain the prompt"),
        ({"messages": [ASK, HELLO], "chosen": YES, "rejected": NO}, "end in a reply that is neither of the two"),
        ({"messages": [ASK, YES | {"weight": 0}]}, "every reply has weight 0"),
        ({"messages": [ASK, YES | {"tool_calls": [{"id": "1"}]}]}, "calls a tool"),
        ({"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}, "calls a tool"),
        ({"conversations": [HUMAN, {"from": "function_call", "value": "{}"}, GPT]}, "calls a tool"),
        (
            {"prompt": "Q?", "response_0": "yes", "response_1": "no", "better_response_id": 2},
            "names neither reply but is 2",
        ),
        ({"prompt": "Q?", "response_0": "yes", "response_1": "no"}, "no column says which of 'response_0' and 'response_1' is better"),
        ({"conversation_a": [ASK, YES], "conversation_b": [ASK, NO], "winner": "gpt-4"}, "'winner' names neither reply"),
        ({"prompt": "Q?", "chosen": '[{"role": "user", "content": "Q', "rejected": "no"}, "'chosen' looks like messages as text"),
        ({"input": {"messages": [ASK], "tools": [{"type": "f"}]}, "preferred_output": [YES], "non_preferred_output": [NO]}, "offers tools"),
    ],
)
def test_what_would_be_lost_is_refused_with_its_column(tmp_path, row, said):
    if not said:
        assert read(tmp_path, row) == [Pair(Q, "no", "")]
        return
    with pytest.raises(BadInput, match=rf"x\.jsonl:1: .*{said}"):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("pairs", {"question": "a", "answer": "b"}, "'chosen' with 'rejected'.*has the keys 'question', 'answer'"),
        ("pairs", {"prompt": "a", "chosen": "b", "rejected": None}, "has the keys 'prompt', 'chosen'"),
        ("pairs", {"chosen": "b", "rejected": "c"}, "needs 'prompt'"),
        ("pairs", {"chosen": [YES], "rejected": [NO]}, "needs 'prompt'"),
        ("pairs", {"chosen": [ASK, YES], "rejected": [YES, ASK]}, "last message is by 'user'"),
        ("pairs", {"prompt": [], "chosen": "b", "rejected": "c"}, "empty list of messages"),
        ("pairs", {"prompt": [{"from": "human"}], "chosen": "b", "rejected": "c"}, "a message needs 'role' and 'content'"),
        ("pairs", {"prompt": [{"role": "narrator", "content": "x"}], "chosen": "b", "rejected": "c"}, "unknown role 'narrator'"),
        ("pairs", {"prompt": 3, "chosen": "b", "rejected": "c"}, r"a message needs 'role' and 'content' \(or .*as texts, not 3"),
        ("pairs", {"completions": [{"response": "a", "score": 1}]}, "needs .*'completions'"),
        ("pairs", {"prompt": "a", "responses": ["b", "c"], "scores": [1]}, r"2 replies and the scores \[1\]"),
        ("pairs", {"prompt": "a", "completions": [{"score": 1}]}, "a reply needs its text"),
        ("pairs", {"prompt": "a", "chosen": ["b"], "rejected": ["c"]}, "a message needs"),
        ("examples", {"question": "a"}, "a row needs 'messages'.*but has the keys 'question'"),
        ("examples", {"messages": [ASK]}, "no message is by 'assistant'"),
        ("examples", {"messages": []}, "no message is by 'assistant'"),
        ("examples", {"messages": "hello"}, "a message needs 'role' and 'content'"),
        ("examples", {"text": 3}, "'text' is int, not text"),
        ("examples", {"instruction": "a", "output": ["b"]}, "a message needs 'role' and 'content'"),
        ("examples", {"instruction": "a", "input": 3, "output": "b"}, "'input' is int, not text"),
        ("examples", {"conversations": [{"from": "humna", "value": "x"}]}, "unknown role 'humna'; did you mean 'human'"),
    ],
)
def test_faults_name_the_row(tmp_path, kind, row, said):
    good = PAIR if kind == "pairs" else TEXT
    with pytest.raises(BadInput, match=rf"x\.jsonl:2: .*{said}"):
        read(tmp_path, good, row, kind=kind)


def test_what_is_harmless_is_named(tmp_path, caplog):
    found = read(tmp_path, PAIR | {"id": 3, "lang": "en", "weight": 1, "tools": []}, PAIR | {"id": 4})
    account = found.accounts[0].as_json()
    assert (account["n_rows"], account["n_records"], account["columns_used"]) == (2, 2, ["chosen", "prompt", "rejected"])
    assert account["columns_not_used"] == ["id", "lang", "weight"]
    assert "2 records from 2 rows; columns used: chosen, prompt, rejected; not used: id, lang, weight." in caplog.text


def test_a_second_verdict_that_says_otherwise_is_counted(tmp_path):
    row = {"prompt": "Q?", "response_0": "yes", "response_1": "no", "better_response_id": 0}
    found = read(tmp_path, row | {"safer_response_id": 0}, row | {"safer_response_id": 1})
    assert found.accounts[0].as_json()["noted"][0]["n"] == 1
    assert "the unused column 'safer_response_id' contradicts the preference" in found.accounts[0].sentences()[1]


def test_bad_rows_are_left_out_up_to_the_limit(tmp_path):
    bad = {"prompt": "Q?", "chosen": None, "rejected": "no"}
    found = read(tmp_path, *[PAIR] * 12, bad)  # one of 13 is more than 5 %, but from ten rows on one is always left out
    assert len(found) == 12
    assert [(left.n, left.first.rpartition(":")[2]) for left in found.accounts[0].left_out.values()] == [(1, "13")]
    for rows, settings in (([PAIR] * 12 + [bad], {"max_bad_rows": 0}), ([PAIR] * 8 + [bad], {}), ([PAIR] * 37 + [bad] * 2, {})):
        with pytest.raises(BadInput, match=rf"x\.jsonl:{rows.index(bad) + 1}: the row has 'rejected' and no 'chosen'"):
            read(tmp_path, *rows, **settings)
    assert len(read(tmp_path, *[PAIR] * 38, *[bad] * 2)) == 38  # 2 of 40 are 5 %
    assert len(read(tmp_path, PAIR, bad, max_bad_rows=0.5)) == 1


def test_a_broken_line_is_a_bad_row(tmp_path):
    (tmp_path / "x.jsonl").write_text((json.dumps(PAIR) + "\n") * 11 + '{"prompt": "Q')
    found = records.read(str(tmp_path / "x.jsonl"))
    assert (len(found), found.accounts[0].n_bad) == (11, 1)


def test_half_a_character_is_replaced_and_counted(tmp_path):
    found = read(tmp_path, PAIR | {"chosen": "yes \ud83d"}, PAIR)
    assert found[0].chosen == "yes ?"
    assert "in 1 row half of a surrogate pair in a text was replaced" in found.accounts[0].sentences()[1]
