"""DeepSeek-V3.2's messages: the publishers' examples (huggingface.co/deepseek-ai/DeepSeek-V3.2, folder encoding), with
shorter texts in them, and what their program leaves open."""

import json
import random

import pytest
import tokenizers
from test_parsers import CALLS, TOOLS, message, pieces_of, read
from tokenizers import decoders, models, pre_tokenizers

from hyla.answers import registry
from hyla.checkpoints import Tokenizer, load_tokenizer
from hyla.checkpoints.templates.deepseek_v32 import DSML, TOKENS, DeepSeekV32
from hyla.errors import RequestError
from hyla.server.reading.conversation import Conversation, message_for_template

BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
SCHEMA = {"type": "object", "properties": {"date": {"type": "string", "description": "YYYY-MM-DD"}}}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Wetter für einen Tag", "parameters": SCHEMA},
}
WEATHER_TEXT = (
    '{"name": "get_weather", "description": "Wetter für einen Tag", "parameters": {"type": "object", "properties": '
    '{"date": {"type": "string", "description": "YYYY-MM-DD"}}}}'
)
TOOLS_TEXT = f"""\n\n## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part of your reply to the user:
<｜DSML｜function_calls>
<｜DSML｜invoke name="$FUNCTION_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$FUNCTION_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. Here is an example:

<｜DSML｜function_calls>
...
</｜DSML｜function_calls>

<function_results>
...
</function_results>

<think>...thinking about results</think>

Here are the functions available in JSONSchema format:
<functions>
{WEATHER_TEXT}
</functions>
"""  # noqa: E501 (as it is published)


def called(*calls):
    """An assistant's message. calls: (id, arguments)."""
    made = [
        {"id": name, "type": "function", "function": {"name": "get_weather", "arguments": json.dumps(arguments)}}
        for name, arguments in calls
    ]
    return {"role": "assistant", "reasoning_content": "I ask.", "tool_calls": made}


def call_text(*parameters):
    lines = [
        f'<{DSML}parameter name="{name}" string="{text}">{value}</{DSML}parameter>' for name, text, value in parameters
    ]
    return "\n".join([f'<{DSML}invoke name="get_weather">', *lines, f"</{DSML}invoke>"])


def calls_text(*calls):
    return "\n".join([f"\n\n<{DSML}function_calls>", *calls, f"</{DSML}function_calls>"])


def result(name, text):
    return {"role": "tool", "tool_call_id": name, "content": text}


def render(messages, **names):
    return DeepSeekV32().render(messages, **{"add_generation_prompt": True, "tools": None, **names})


SHORT = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "Hello! I am DeepSeek.", "reasoning_content": "thinking..."},
    {"role": "user", "content": "1+1=?"},
]


@pytest.mark.parametrize("names, opening", [({"thinking": True}, "<think>"), ({"enable_thinking": True}, "<think>"),
                                            ({}, "</think>"), ({"thinking": False}, "</think>")])  # fmt: skip
def test_the_short_example_drops_old_reasoning_in_either_mode(names, opening):
    first = f"{BEGIN}<｜User｜>hello<｜Assistant｜></think>Hello! I am DeepSeek.{END}"
    expected = f"{first}<｜User｜>1+1=?<｜Assistant｜>{opening}"
    assert render(SHORT, **names) == expected


LONG = [
    {"role": "system", "content": "You are a helpful Assistant."},
    {"role": "user", "content": "Tomorrow?"},
    called(("a", {"date": "today"})),
    result("a", '{"now": 1}'),
    called(("b", {"date": "1-16", "days": 3, "deep": {"ü": [True, None]}}), ("c", {})),
    result("b", "65"),
    result("c", "28"),
    {"role": "assistant", "content": "Cold.", "reasoning_content": "Now I format."},
    {"role": "user", "content": "Thanks! And after?"},
    called(("d", {"date": "1-17"})),
    result("d", "30"),
    {"role": "assistant", "content": "Colder.", "reasoning_content": "Got it."},
]


@pytest.mark.parametrize("thinks", [True, False])
def test_the_long_example_with_tools(thinks):
    first = call_text(("date", "true", "today"))
    second = call_text(("date", "true", "1-16"), ("days", "false", "3"), ("deep", "false", '{"ü": [true, null]}'))
    empty = f'<{DSML}invoke name="get_weather">\n\n</{DSML}invoke>'
    opening = "<think>" if thinks else "</think>"
    asked, got = ("I ask.</think>", "Got it.</think>") if thinks else ("", "")
    expected = (
        f"{BEGIN}You are a helpful Assistant.{TOOLS_TEXT}<｜User｜>Tomorrow?<｜Assistant｜></think>"
        f"{calls_text(first)}{END}"
        '\n\n<function_results>\n<result>{"now": 1}</result>\n</function_results>\n\n</think>'
        f"{calls_text(second, empty)}{END}"
        "\n\n<function_results>\n<result>65</result>\n<result>28</result>\n</function_results>\n\n</think>Cold."
        f"{END}<｜User｜>Thanks! And after?<｜Assistant｜>{opening}{asked}"
        f"{calls_text(call_text(('date', 'true', '1-17')))}{END}"
        f"\n\n<function_results>\n<result>30</result>\n</function_results>\n\n{opening}{got}Colder.{END}"
    )
    assert render(LONG, tools=[WEATHER], thinking=thinks) == expected


def test_the_search_example_gives_a_developers_message_to_the_user():
    asked = {"role": "developer", "content": "帮我", "tools": [WEATHER]}
    expected = f"{BEGIN}<｜User｜>{TOOLS_TEXT}\n\n# The user's message is: 帮我<｜Assistant｜><think>"
    assert render([asked], thinking=True) == expected
    # An older one goes with the reasoning.
    later = [asked, {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
    assert render(later, thinking=True) == f"{BEGIN}x{END}<｜User｜>y<｜Assistant｜><think>"
    assert "帮我" in render(later)


def test_tools_without_a_system_message_have_one_of_their_own():
    assert render([{"role": "user", "content": "x"}], tools=[WEATHER]).startswith(f"{BEGIN}{TOOLS_TEXT}<｜User｜>x")


def test_results_stand_in_the_order_of_their_calls():
    asked = called(("b", {}), ("c", {}))
    user = {"role": "user", "content": "x"}
    swapped = render([user, asked, result("c", "C"), result("b", "B")])
    assert swapped == render([user, asked, result("b", "B"), result("c", "C")])
    assert "<result>B</result>\n<result>C</result>" in swapped
    # Ids that say nothing leave it as it is; a result may be missing.
    assert "<result>C</result>\n<result>B</result>" in render([user, asked, result("x", "C"), result("y", "B")])
    assert render([user, asked, result("c", "C")]).endswith("<result>C</result>\n</function_results>\n\n</think>")


@pytest.mark.parametrize(
    "messages, reason",
    [
        ([result("a", "x")], "1 results of tools follow 0 calls"),
        ([{"role": "user", "content": "x"}, result("a", "x")], r"messages\[1\]: 1 results of tools follow 0 calls"),
        ([called(("a", {})), result("a", "x"), result("b", "y")], "2 results of tools follow 1 calls"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\].role = 'robot' is none of this model's"),
        ([called(("a", [1]))], "the arguments of a call of 'get_weather' are no JSON object"),
    ],
)
def test_what_the_format_cannot_show_is_refused(messages, reason):
    with pytest.raises(RequestError, match=reason):
        render(messages)


def test_without_an_answer_to_come_no_turn_is_opened():
    assert render(SHORT[:1], add_generation_prompt=False) == f"{BEGIN}<｜User｜>hello"
    ends = render([SHORT[0], called(("a", {})), result("a", "x")], add_generation_prompt=False)
    assert ends.endswith("\n</function_results>")
    assert render([], add_generation_prompt=True) == BEGIN


def test_an_answer_goes_on_after_its_own_text():
    made = [*SHORT[:1], {"role": "assistant", "content": "Hello! I"}]
    tokenizer = deepseek_tokenizer()
    text = Conversation(made, continues_final_message=True, template_names={"thinking": True}).render(tokenizer)
    assert text == f"{BEGIN}<｜User｜>hello<｜Assistant｜><think></think>Hello! I"


@pytest.mark.parametrize("reasoning", [None, "let me\n\nthink"])
@pytest.mark.parametrize("text", ["", "I look."])
def test_what_is_written_is_read_back_by_the_answers_parser(text, reasoning):
    form = registry.answer_format(DeepSeekV32.source)
    assert form.names() == {"tools": "deepseek_v32", "reasoning": "think"}
    names = {"tools": TOOLS.for_template(), "thinking": reasoning is not None}
    asked = [{"role": "user", "content": "hi"}]
    prompt = render(asked, **names)
    whole = render([*asked, message_for_template(message(text, CALLS, reasoning))], **names)
    assert whole.startswith(prompt) and whole.endswith(END)
    answer = whole[len(prompt) : -len(END)]
    cuts = [random.Random(0).randrange(len(answer)) for _ in range(50)]
    for pieces in ([answer], list(answer), pieces_of(answer, cuts)):
        got_text, got_reasoning, calls = read(form.reading(prompt, TOOLS).parser(), pieces)
        assert (got_text, got_reasoning) == (text, reasoning or "")
        assert [(own[0], json.loads(own[1])) for own in calls] == CALLS


def deepseek_tokenizer(**settings):
    backend = tokenizers.Tokenizer(
        models.BPE({char: n for n, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(TOKENS))
    return Tokenizer(backend, special={"bos_token": TOKENS[0]}, chat_template=DeepSeekV32(), settings=settings)


@pytest.mark.parametrize(
    "config, is_chat", [({"model_type": "deepseek_v32"}, True), ({"model_type": "deepseek_v3"}, False), (None, False)]
)
def test_a_folder_of_the_family_without_a_template_has_the_format(tmp_path, config, is_chat):
    deepseek_tokenizer().save(tmp_path)
    assert not list(tmp_path.glob("*.jinja"))
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer.chat_template, DeepSeekV32) == is_chat
    if is_chat:
        assert tokenizer.decode(tokenizer.encode_chat(SHORT), skip_special_tokens=False) == render(SHORT)
        (tmp_path / "chat_template.jinja").write_text("x")
        assert load_tokenizer(tmp_path).render_chat(SHORT) == "x"


def test_another_vocabulary_has_no_such_format(tmp_path):
    from tiny_text import byte_tokenizer

    byte_tokenizer(None).save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "deepseek_v32"}')
    assert load_tokenizer(tmp_path).chat_template is None


def test_a_clients_developer_is_the_systems():
    messages = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": "x"}]
    text = Conversation(messages).render(deepseek_tokenizer())
    assert text == f"{BEGIN}Be short.<｜User｜>x<｜Assistant｜></think>"
