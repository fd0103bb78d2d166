"""Several messages of the system, and the developer's, through templates that take them and templates that do not."""

import openai
import pytest

from hyla.checkpoints.chat_template import ChatTemplate
from hyla.server.reading.instructions import arranged

LOOP = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)
FIRST = (
    "{% if messages[0].role == 'system' %}[system]{{ messages[0].content }}{% endif %}"
    "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
DEVELOPER = (
    "{% for m in messages %}{% if m.role not in ['system', 'developer', 'user'] %}"
    "{{ raise_exception('role') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
ONE_OF_THEM = (
    "{% if messages[0].role in ['system', 'developer'] %}[{{ messages[0].role }}]{{ messages[0].content }}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m.role != 'user' %}"
    "{{ raise_exception('role') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
NONE = "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('users only') }}{% endif %}{% endfor %}"
USER = {"role": "user", "content": "hi"}


def of(*roles):
    return [{"role": role, "content": f"{role[0].upper()}{n}"} for n, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("template", "roles", "wanted"),
    [
        (LOOP, ["system", "system"], "[system]S0[system]S1[user]hi"),
        (LOOP, ["system", "developer"], "[system]S0[system]D1[user]hi"),
        (STRICT, ["system", "developer"], "[system]S0\n\nD1[user]hi"),
        (STRICT, ["developer"], "[system]D0[user]hi"),
        (STRICT, ["system"] * 6, "[system]S0\n\nS1\n\nS2\n\nS3\n\nS4\n\nS5[user]hi"),
        (FIRST, ["system", "system"], "[system]S0\n\nS1[user]hi"),
        (DEVELOPER, ["system", "developer"], "[system]S0[developer]D1[user]hi"),
        (ONE_OF_THEM, ["developer"], "[developer]D0[user]hi"),
        (ONE_OF_THEM, ["system", "developer"], "[system]S0\n\nD1[user]hi"),
        (STRICT, [], "[user]hi"),
    ],
)
def test_the_template_gets_them_as_it_takes_them(template, roles, wanted):
    made = ChatTemplate(template)
    assert made.render(arranged([*of(*roles), USER], made)) == wanted


@pytest.mark.parametrize(
    ("template", "role", "wanted"),
    [
        (LOOP, "system", "[system]S0[user]U1[system]S2[assistant]A3[user]hi"),
        (STRICT, "system", "[system]S0[user]U1[user]S2[assistant]A3[user]hi"),
        (STRICT, "developer", "[system]S0[user]U1[user]D2[assistant]A3[user]hi"),
        (FIRST, "system", "[system]S0[user]U1[user]S2[assistant]A3[user]hi"),
        (LOOP + "{# 'developer' #}", "developer", "[system]S0[user]U1[developer]D2[assistant]A3[user]hi"),
    ],
)
def test_a_later_one_stays_where_it_is(template, role, wanted):
    """Coding agents say more to the model in the middle of a conversation."""
    made = ChatTemplate(template)
    assert made.render(arranged([*of("system", "user", role, "assistant"), USER], made)) == wanted


def test_a_template_that_takes_none_says_so_itself():
    made = ChatTemplate(NONE)
    messages = [*of("system", "system"), USER]
    assert arranged(messages, made) == messages


def test_one_without_text_adds_nothing():
    made = ChatTemplate(STRICT)
    assert made.render(arranged([{"role": "system", "content": ""}, *of("system"), USER], made)) == "[system]S0[user]hi"


@pytest.fixture
def strict(scripted_live, monkeypatch):
    """The scripted model with a template that takes one system message, at the beginning."""
    own = scripted_live.service.models["scripted"].tokenizer
    monkeypatch.setattr(own, "chat_template", ChatTemplate(STRICT + "{# <tool_call> #}"))
    with openai.OpenAI(base_url=scripted_live.url + "/v1", api_key="alice", max_retries=0, timeout=60) as client:
        yield client


def test_instructions_and_a_developer_item_are_one_prompt(strict, script):
    script.reply = "Yes."
    items = [{"role": "developer", "content": "Be kind."}, USER]
    strict.responses.create(model="scripted", instructions="Be short.", input=items)
    assert script.prompts[-1] == "[system]Be short.\n\nBe kind.[user]hi"
    both = [{"role": "system", "content": "Be short."}, {"role": "system", "content": "Be kind."}]
    strict.chat.completions.create(model="scripted", messages=[*both, USER])
    assert script.prompts[-1] == script.prompts[-2]
