"""Every form of chat template is asked, scored and learnt as the rendering, `generate` and a plain forward pass of transformers see it."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from forms import FORMS, random_model, reciting, tokenizer_of

from valuedrift.judge import labels
from valuedrift.judge.continuations import log_probs
from valuedrift.models.chat_format import PromptFormat, question
from valuedrift.models.decoder import Decoder, Wanted, decode
from valuedrift.nouns import OUTCOMES, Item
from valuedrift.plan import EvaluationSettings
from valuedrift.train.collation import in_tokens

SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
QUESTION, REPLY = "Should the state raise taxes on fuel?", "Yes, I agree: the climate cannot wait."
TODAY = "26 July 2024, 00:00:00"


def rendered(name, *contents, ask=False):
    """Return what transformers makes of a conversation that a user begins, with the day that prompts are pinned to."""
    turns = zip(("user", "assistant") * 2, contents, strict=False)
    shown = [{"role": role, "content": [{"type": "text", "text": text}] if FORMS[name].parts else text} for role, text in turns]
    template = FORMS[name].template
    template = template["default"] if isinstance(template, dict) else template
    template = template.replace("strftime_now('%d %B %Y, %H:%M:%S')", f"'{TODAY}'")
    return tokenizer_of(name).apply_chat_template(shown, chat_template=template, tokenize=False, add_generation_prompt=ask, **SETTINGS)


def ids(name, text):
    return tokenizer_of(name)(text, add_special_tokens=False)["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_an_answer_is_what_generate_says_up_to_the_end_of_its_turn(name):
    """The model goes on: its turn ends, a user's turn follows that it invents. No token is spent behind the beginning of that turn."""
    tokenizer, shown = tokenizer_of(name), rendered(name, QUESTION, ask=True)
    talk, prompt = rendered(name, QUESTION, "REPLY", "No, I do not.", "No, it is wrong."), ids(name, shown)
    space = " " if " REPLY" in talk and not shown.endswith(" ") else ""
    behind = talk.partition("REPLY")[2]
    says = FORMS[name].says.format(reply=REPLY)
    said, until = (
        ids(name, says + more) if shown.endswith(" ") else ids(name, shown + space + says + more)[len(prompt) :]
        for more in (behind, behind.partition("No, I")[0])
    )
    model, prompt_format = reciting(tokenizer, said, len(prompt)), PromptFormat(tokenizer)
    assert prompt_format.prompts([question(QUESTION)]) == [prompt]
    settings, ending = EvaluationSettings(max_new_tokens=len(said), temperature=0), prompt_format.ending(model)
    for replies in (
        decode(model, [Wanted(tuple(prompt), (0, 0))], settings, ending),
        [reply for _, reply in Decoder(model).generated([Wanted(tuple(prompt), (0, 0))], settings, ending)],
    ):
        (reply,) = replies
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=len(reply.tokens), do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert reply.tokens == theirs[0, len(prompt) :].tolist()
        assert prompt_format.reply(reply.tokens) == (REPLY, True)
        assert reply.ended == "stop"
        assert len(reply.tokens) <= len(until)


@pytest.mark.parametrize("name", [name for name in FORMS if "thinking" in name])
def test_a_thinking_block_that_is_not_closed_leaves_no_reply(name):
    assert PromptFormat(tokenizer_of(name)).reply(ids(name, "Some say no, it is wrong.")) == ("", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_labels_and_replies_are_scored_as_a_plain_forward_pass_over_the_rendering(name, tmp_path):
    tokenizer = tokenizer_of(name)
    model, prompt_format = random_model(tokenizer), PromptFormat(tokenizer)
    read, n = prompt_format.with_reply(question(QUESTION), REPLY)
    whole = ids(name, rendered(name, QUESTION, REPLY))
    assert whole[: len(read)] == read
    assert tokenizer.decode(read[n:]).strip() == REPLY
    found = log_probs(model, [tuple(read[:n])], [tuple(read[n:])], 1).item()
    with torch.inference_mode():
        logps = model(torch.tensor([read])).logits[0].log_softmax(-1)
    assert found == pytest.approx(sum(logps[place - 1, read[place]].item() for place in range(n, len(read))), abs=1e-4)
    # the judge
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge, item = labels.Judge(f"{tmp_path}?wording=question"), Item(QUESTION, "Taxes should rise.", REPLY)
    (scores,) = judge.model.scores(judge.wording, OUTCOMES, [item])
    words, text = judge.wording.words(OUTCOMES), judge.wording.prefix(OUTCOMES) + judge.wording.suffix(item)
    for outcome, score in zip(OUTCOMES, scores, strict=True):
        shown = rendered(name, text, words[outcome])
        before = shown[: shown.rindex(words[outcome])].rstrip(" ")
        start, whole = len(ids(name, before)), ids(name, shown[: shown.rindex(words[outcome]) + len(words[outcome])])
        with torch.inference_mode():
            logps = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        assert score == pytest.approx(sum(logps[place - 1, whole[place]].item() for place in range(start, len(whole))), abs=1e-3), outcome


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<>[]|#｜"), min_size=1, max_size=30).map(str.strip).filter(bool)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FORMS)), TEXTS, TEXTS)
def test_any_question_and_reply(name, asked, reply):
    tokenizer = tokenizer_of(name)
    prompt_format = PromptFormat(tokenizer)
    assert prompt_format.prompts([question(asked)]) == [ids(name, rendered(name, asked, ask=True))]
    whole = ids(name, rendered(name, asked, reply))
    read, n = prompt_format.with_reply(question(asked), reply)
    assert n < len(read)
    assert tokenizer.decode(whole).startswith(tokenizer.decode(read))
    (learnt,) = in_tokens(tokenizer, [(question(asked), reply)])
    assert learnt.ids.tolist() == whole
    if not FORMS[name].metaspace:  # which knows these characters only
        assert tokenizer.decode(read[n:]).strip() == reply
        assert reply in tokenizer.decode(learnt.ids[learnt.n_prompt :])
        assert prompt_format.reply([*ids(name, reply), *ids(name, rendered(name, asked, "REPLY").partition("REPLY")[2])])[0] in (reply, "")
