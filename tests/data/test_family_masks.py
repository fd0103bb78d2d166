"""Of every family's conversations the model learns what it would have to write behind what a server sends: reasoning,
text, calls and the token that ends the turn, and nothing else (the complaints slime #1742, ms-swift #9875, Automodel
#3738 and slime #2263 are about masks that do not)."""

import json

import pytest
from family_templates import FAMILIES, merging_tokenizer

from hyla.answers.protocol import ReasoningDelta, TextDelta, ToolDelta
from hyla.answers.registry import answer_format
from hyla.answers.tools import ToolUse
from hyla.data.encoding import Encoder
from hyla.data.records import Damaged, Record
from hyla.server.reading.conversation import Conversation
from hyla.server.schemas.tools import FunctionTool

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = ToolUse((FunctionTool(name="weather", parameters=PARAMETERS),), "auto")
REASONING = ("easy one", "one\n\nmore")
TEXTS = ("It is 1.", "It is 2.")


def says(role, content, **more):
    return {"role": role, "content": content, **more}


def dialogue(is_reasoned):
    more = [{"reasoning_content": text} if is_reasoned else {} for text in REASONING]
    answers = [says("assistant", text, **own) for text, own in zip(TEXTS, more)]
    return [says("system", "Be brief."), says("user", "one?"), answers[0], says("user", "two?"), answers[1]]


def with_calls(is_reasoned):
    call = {"name": "weather", "arguments": json.dumps({"city": "Rome", "days": 2})}
    calls = [{"id": "functions.weather:0", "type": "function", "function": call}]
    more = {"reasoning": "ask the tool"} if is_reasoned else {}
    return [
        says("user", "sunny in Rome?"),
        says("assistant", None, tool_calls=calls, **more),
        says("tool", "sunny", tool_call_id="functions.weather:0"),
        says("assistant", TEXTS[0], **({"reasoning_content": REASONING[0]} if is_reasoned else {})),
    ]


def documents_of(tokenizer, messages, tools=None, names=None):
    return list(Encoder(tokenizer, is_chat=True).encode([Record("r", None, messages, tools, names)]))


def learnt_spans(one):
    """(first, last) of every run of learnt tokens."""
    places = [place for place, own in enumerate(one.is_learnt) if own]
    firsts = [place for place in places if place == 0 or not one.is_learnt[place - 1]]
    lasts = [place + 1 for place in places if place + 1 == len(one.ids) or not one.is_learnt[place + 1]]
    return list(zip(firsts, lasts))


def learnt(tokenizer, documents):
    """The texts that are learnt, in order, and how many documents they are in."""
    texts = []
    for one in documents:
        assert not isinstance(one, Damaged), one.reason
        for first, last in learnt_spans(one):
            texts.append(tokenizer.decode(one.ids[first:last], skip_special_tokens=False))
    return texts


def prompts_of(tokenizer, messages, tools=None):
    """For each answer the ids of every prompt that a server could send for it."""
    use = TOOLS if tools else ToolUse()
    found = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            switches = ({}, *({"enable_thinking": on, "thinking": on} for on in (True, False)))
            before = [Conversation(messages[:number], use, names).render(tokenizer) for names in switches]
            found.append([tokenizer.encode(text, add_special_tokens=False) for text in before])
    return found


def assert_behind_prompts(tokenizer, documents, messages, tools=None):
    before = [one.ids[:first] for one in documents for first, _ in learnt_spans(one)]
    prompts = prompts_of(tokenizer, messages, tools)
    assert len(before) == len(prompts)
    for ids, possible in zip(before, prompts):
        assert ids in possible


def expected(family, form, reasoning, text):
    return form.replace("R", "\0").replace("C", text).replace("\0", reasoning) + family.end


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_answers_without_reasoning_are_learnt_with_their_ends(family):
    tokenizer, messages = merging_tokenizer(family.template), dialogue(False)
    documents = documents_of(tokenizer, messages)
    if family.plain is None:
        (found,) = documents
        assert isinstance(found, Damaged) and "message 2" in found.reason and "reasoning_content" in found.reason
        return
    assert learnt(tokenizer, documents) == [expected(family, family.plain, "", text) for text in TEXTS]
    assert_behind_prompts(tokenizer, documents, messages)
    assert (len(documents) == 1) is family.is_one_document


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_reasoning_is_learnt_where_the_template_writes_it_and_refused_where_a_reasoning_model_would_lose_it(family):
    tokenizer, messages = merging_tokenizer(family.template), dialogue(True)
    documents = documents_of(tokenizer, messages)
    if family.reasoned is None and "think" not in tokenizer.chat_template.source:  # no part of the model's answers
        assert [one.ids for one in documents] == [one.ids for one in documents_of(tokenizer, dialogue(False))]
        assert learnt(tokenizer, documents) == [expected(family, family.plain, "", text) for text in TEXTS]
        return
    if family.reasoned is None:
        (found,) = documents
        assert isinstance(found, Damaged) and "message 2" in found.reason
        assert "leaves its reasoning out" in found.reason
        return
    pairs = zip(REASONING, TEXTS)
    assert learnt(tokenizer, documents) == [expected(family, family.reasoned, *pair) for pair in pairs]
    assert_behind_prompts(tokenizer, documents, messages)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_calls_are_learnt_and_results_are_not(family):
    tokenizer = merging_tokenizer(family.template)
    is_reasoned = family.plain is None
    messages, tools = with_calls(is_reasoned), TOOLS.for_template()
    documents = documents_of(tokenizer, messages, tools)
    if family.call is None:
        (found,) = documents
        assert isinstance(found, Damaged) and "message 1" in found.reason and "tool calls out" in found.reason
        return
    reasoning = ("ask the tool", REASONING[0]) if is_reasoned else ("", "")
    form = family.reasoned if is_reasoned else family.plain
    texts = [expected(family, form, why, text) for why, text in zip(reasoning, (family.call, TEXTS[0]))]
    assert learnt(tokenizer, documents) == texts
    assert_behind_prompts(tokenizer, documents, messages, tools)


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].reasoned and FAMILIES[name].call])
def test_a_server_reads_what_was_learnt_back_as_the_message_that_it_was(name):
    family = FAMILIES[name]
    tokenizer, messages = merging_tokenizer(family.template), with_calls(True)
    form = answer_format(tokenizer.chat_template.source, model_type=name, special=tokenizer.special_texts)
    documents = documents_of(tokenizer, messages, TOOLS.for_template())
    spans = [(one, *span) for one in documents for span in learnt_spans(one)]
    for (one, first, last), message in zip(spans, (messages[1], messages[3]), strict=True):
        prompt = tokenizer.decode(one.ids[:first], skip_special_tokens=False)
        answer = tokenizer.decode(one.ids[first:last], skip_special_tokens=False).removesuffix(family.end)
        parser = form.reading(prompt, TOOLS).parser()
        deltas = [*parser.push(answer), *parser.finish()]
        found = {kind: [d for d in deltas if isinstance(d, kind)] for kind in (ReasoningDelta, TextDelta, ToolDelta)}
        reasoning = message.get("reasoning_content", message.get("reasoning"))
        assert "".join(d.text for d in found[ReasoningDelta]) == reasoning
        assert "".join(d.text for d in found[TextDelta]).strip() == (message["content"] or "")
        calls = message.get("tool_calls", [])
        assert [d.name for d in found[ToolDelta] if d.name] == [call["function"]["name"] for call in calls]
        for call in calls:
            text = "".join(d.arguments for d in found[ToolDelta])
            assert json.loads(text) == json.loads(call["function"]["arguments"])


def test_reasoning_in_tags_before_the_text_counts_as_reasoning():
    family = FAMILIES["deepseek_v3"]  # its template cuts such reasoning off
    cutting = family.template.replace("m.content }}{% if m.tool", "m.content.split('</think>')[-1] }}{% if m.tool")
    messages = [says("user", "one?"), says("assistant", "<think>easy one</think>It is 1.")]
    (found,) = documents_of(merging_tokenizer(cutting), messages)
    assert isinstance(found, Damaged) and "leaves its reasoning out" in found.reason


def test_a_record_may_say_what_the_template_is_given():
    family = FAMILIES["qwen3_5"]
    tokenizer, messages = merging_tokenizer(family.template), dialogue(False)[1:3]
    (off,) = documents_of(tokenizer, messages)
    (on,) = documents_of(tokenizer, messages, names={"enable_thinking": True})
    assert learnt(tokenizer, [off]) == ["It is 1.<|im_end|>"]
    assert learnt(tokenizer, [on]) == ["\n</think>\n\nIt is 1.<|im_end|>"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"content": [{"type": "image_url", "image_url": {}}]}, "no text"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "["}}]}, "no JSON object"),
        ({"tool_calls": [{"function": {"arguments": "{}"}}]}, "no function.name"),
    ],
)
def test_what_no_template_can_write_is_a_damaged_record(message, words):
    tokenizer = merging_tokenizer(FAMILIES["qwen2"].template)
    (found,) = documents_of(tokenizer, [says("user", "x"), {"role": "assistant", **message}])
    assert isinstance(found, Damaged) and "message 1" in found.reason and words in found.reason
