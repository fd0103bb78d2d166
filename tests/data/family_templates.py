"""How each family's published chat template writes conversations: where its turns begin and end, where its reasoning
stands and when it is left out, what its prompts open. In our own words; DeepSeek-V3.2 has a format of its own in the
package."""

from dataclasses import dataclass

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from hyla.checkpoints import Tokenizer
from hyla.checkpoints.templates.deepseek_v32 import DeepSeekV32

LAST_USER = (
    "{% set last = namespace(user=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
)
TOOLS = "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
HERMES = (
    "{% for c in m.tool_calls or [] %}{{ '\n' if m.content or not loop.first else '' }}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}"
)
XML = (
    "{% for c in m.tool_calls or [] %}{{ '\n\n' if m.content and loop.first else '' }}"
    "<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments | items %}"
    "<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
    "{% endfor %}"
)
RESULT = "<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"


def chatml(answer: str, opening: str, *, before: str = "", system: str = "") -> str:
    """ChatML. answer: how an assistant's message is written; opening: what a prompt has behind its last header."""
    return (
        before
        + "{% if tools %}<|im_start|>system\n"
        + TOOLS
        + "<|im_end|>\n{% endif %}"
        + system
        + "{% for m in messages %}"
        "{% if m.role == 'assistant' %}<|im_start|>assistant\n" + answer + "<|im_end|>\n"
        "{% elif m.role == 'tool' %}"
        + RESULT
        + "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n" + opening + "{% endif %}"
    )


EMPTY = "<think>\n\n</think>\n\n"
IS_OFF = "{% if enable_thinking is defined and enable_thinking is false %}"
REASONED = "<think>\n{{ (m.reasoning_content or '').strip() }}\n</think>\n\n"
RECENT = "{% if loop.index0 > last.user %}"
QWEN3_ANSWER = RECENT + "{% if loop.last or m.reasoning_content %}" + REASONED + "{% endif %}{% endif %}{{ m.content }}"
QWEN35_ANSWER = RECENT + REASONED + "{% endif %}{{ m.content }}"
NEMOTRON_ANSWER = (
    "{% if m.reasoning_content and loop.index0 > last.user %}<think>\n{{ m.reasoning_content }}\n</think>\n"
    "{% else %}<think></think>{% endif %}{{ m.content }}"
)
MIMO_ANSWER = RECENT + "<think>{{ m.reasoning_content or '' }}</think>{% endif %}{{ m.content }}"
KIMI = (
    "{% if tools %}<|im_system|>tool_declare<|im_middle|>" + TOOLS + "<|im_end|>{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' %}<|im_assistant|>assistant<|im_middle|>{{ m.content }}{% if m.tool_calls %}"
    "<|tool_calls_section_begin|>{% for c in m.tool_calls %}<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>"
    "{{ c.function.arguments | tojson }}<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>{% endif %}"
    "{% elif m.role == 'tool' %}<|im_system|>tool<|im_middle|>## Return of {{ m.tool_call_id }}\n{{ m.content }}"
    "{% else %}<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"
)
DEEPSEEK_V31 = (
    "{% set thinks = thinking if thinking is defined else false %}{{ bos_token }}{{ tools | tojson if tools else '' }}"
    "{% set n = namespace(asked=false) %}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}{% set n.asked = true %}{% elif m.role == 'assistant' %}"
    "{% if n.asked %}<｜Assistant｜></think>{% endif %}{% set n.asked = false %}{{ m.content }}{% if m.tool_calls %}"
    "<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}{{ '<｜tool▁call▁begin｜>' + c.function.name + '<｜tool▁sep｜>'"
    " + c.function.arguments + '<｜tool▁call▁end｜>' }}{% endfor %}<｜tool▁calls▁end｜>{% endif %}<｜end▁of▁sentence｜>"
    "{% else %}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt and n.asked %}<｜Assistant｜>{{ '<think>' if thinks else '</think>' }}{% endif %}"
)
MINIMAX_M2 = (
    LAST_USER + "{% if tools %}]~b]system\n" + TOOLS + "[e~[\n{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' %}]~b]ai\n{% if m.reasoning_content and loop.index0 > last.user %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{% if m.tool_calls %}"
    "{{ '\n' }}<minimax:tool_call>\n"
    '{% for c in m.tool_calls %}<invoke name="{{ c.function.name }}">\n{% for k, v in c.function.arguments | items %}'
    '<parameter name="{{ k }}">{{ v if v is string else v | tojson }}</parameter>\n{% endfor %}</invoke>\n{% endfor %}'
    "</minimax:tool_call>{% endif %}{% elif m.role == 'tool' %}]~b]tool\n<response>{{ m.content }}</response>"
    "{% else %}]~b]{{ m.role }}\n{{ m.content }}{% endif %}[e~[\n{% endfor %}"
    "{% if add_generation_prompt %}]~b]ai\n<think>\n{% endif %}"
)
MINIMAX_TEXT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<beginning_of_sentence>ai name=assistant\n"
    "{% elif m.role == 'system' %}<beginning_of_sentence>system ai_setting=assistant\n"
    "{% else %}<beginning_of_sentence>user name=user\n{% endif %}{{ m.content }}<end_of_sentence>\n{% endfor %}"
    "{% if add_generation_prompt %}<beginning_of_sentence>ai name=assistant\n{% endif %}"
)
LING = (
    "{% if tools %}<role>SYSTEM</role>" + TOOLS + "<|role_end|>{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' %}<role>ASSISTANT</role>{{ m.content }}" + HERMES + "<|role_end|>"
    "{% elif m.role == 'tool' %}<role>OBSERVATION</role><tool_response>\n{{ m.content }}\n</tool_response><|role_end|>"
    "{% elif m.role == 'system' %}<role>SYSTEM</role>{{ m.content }}<|role_end|>"
    "{% else %}<role>HUMAN</role>{{ m.content }}<|role_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"
)
RING = (
    LAST_USER
    + LING.replace(
        "{{ m.content }}" + HERMES,
        "{% if m.reasoning_content and loop.index0 > last.user %}<think>\n{{ m.reasoning_content }}\n</think>\n"
        "{% endif %}{{ m.content }}" + HERMES,
    ).removesuffix("{% endif %}")
    + "<think>\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}"
    "<|end_header_id|>\n\n{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}{% else %}{{ m.content | trim }}{% endif %}'
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SMOLLM2 = chatml(
    "{{ m.content }}",
    "",
    system="{% if messages[0].role != 'system' %}<|im_start|>system\nYou are SmolLM.<|im_end|>\n{% endif %}",
)
MIMO_OPENING = "{% if not enable_thinking %}<think></think>{% endif %}"

SPECIAL = (
    "<|end|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|im_system|>",
    "<|im_user|>",
    "<|im_assistant|>",
    "<|im_middle|>",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "]~b]",
    "[e~[",
    "<beginning_of_sentence>",
    "<end_of_sentence>",
    "<role>",
    "</role>",
    "<|role_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
"""Tokens that `decode` leaves out."""
PLAIN_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "｜DSML｜")
"""Tokens of their own that it does not leave out, as Qwen and DeepSeek have them."""
CORPUS = ("It is 1.\n\nIt is 2.\n\none? two? three?\n\n", "easy one\n\nask the tool\n\nsunny in Rome, 2 days\n\n\n")


@dataclass(frozen=True)
class Family:
    """end: what ends a turn. reasons: how the three kinds of answers are learnt; see `test_family_masks`."""

    template: str | DeepSeekV32
    end: str
    reasoned: str | None = None
    """An answer with the reasoning R and the text C; None: the template has no reasoning."""
    plain: str | None = "C"
    """One without reasoning; None: the template cannot write it behind what a server sends."""
    call: str | None = None
    """A call of `weather` with {"city": "Rome", "days": 2}, id "functions.weather:0"; None: it has no calls."""
    is_one_document: bool = True
    """Whether earlier answers without reasoning stay as the model wrote them."""


JSON_ARGUMENTS = '{"city": "Rome", "days": 2}'
HERMES_CALL = '<tool_call>\n{"name": "weather", "arguments": ' + JSON_ARGUMENTS + "}\n</tool_call>"
XML_CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
    "</function>\n</tool_call>"
)
KIMI_CALL = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
    + JSON_ARGUMENTS
    + "<|tool_call_end|><|tool_calls_section_end|>"
)
V31_CALL = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
    + JSON_ARGUMENTS
    + "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
V32_CALL = (
    '\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'
)
M2_CALL = (
    '\n<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Rome</parameter>\n'
    '<parameter name="days">2</parameter>\n</invoke>\n</minimax:tool_call>'
)
IM_END, SENTENCE_END = "<|im_end|>", "<｜end▁of▁sentence｜>"

FAMILIES = {
    "qwen2": Family(chatml("{{ m.content }}" + HERMES, ""), IM_END, call=HERMES_CALL),
    "qwen3": Family(
        chatml(QWEN3_ANSWER + HERMES, IS_OFF + EMPTY + "{% endif %}", before=LAST_USER),
        IM_END,
        reasoned="<think>\nR\n</think>\n\nC",
        call=HERMES_CALL,
        is_one_document=False,
    ),
    "qwen3_next, thinking": Family(
        chatml(QWEN3_ANSWER + HERMES, "<think>\n", before=LAST_USER),
        IM_END,
        reasoned="R\n</think>\n\nC",
        plain="\n</think>\n\nC",
        call=HERMES_CALL,
        is_one_document=False,
    ),
    "qwen3_5": Family(
        chatml(QWEN35_ANSWER + XML, IS_OFF + EMPTY + "{% else %}<think>\n{% endif %}", before=LAST_USER),
        IM_END,
        reasoned="R\n</think>\n\nC",
        call=XML_CALL,
        is_one_document=False,
    ),
    "nemotron_h": Family(
        chatml(NEMOTRON_ANSWER + XML, IS_OFF + "<think></think>{% else %}<think>\n{% endif %}", before=LAST_USER),
        IM_END,
        reasoned="R\n</think>\nC",
        call=XML_CALL,
    ),
    "mimo_v2_flash": Family(
        chatml(MIMO_ANSWER + XML, MIMO_OPENING, before=LAST_USER),
        IM_END,
        reasoned="<think>R</think>C",
        call=XML_CALL,
        is_one_document=False,
    ),
    "kimi_linear": Family(KIMI, IM_END, call=KIMI_CALL),
    "deepseek_v3": Family(DEEPSEEK_V31, SENTENCE_END, call=V31_CALL),
    "deepseek_v32": Family(DeepSeekV32(), SENTENCE_END, reasoned="R</think>C", call=V32_CALL),
    "minimax_m2": Family(MINIMAX_M2, "[e~[", reasoned="R\n</think>\n\nC", plain=None, call=M2_CALL),
    "minimax": Family(MINIMAX_TEXT, "<end_of_sentence>"),
    "bailing_moe_v2": Family(LING, "<|role_end|>", call=HERMES_CALL),
    "bailing_moe_linear": Family(RING, "<|role_end|>", reasoned="R\n</think>\nC", plain=None, call=HERMES_CALL),
    "llama": Family(LLAMA3, "<|eot_id|>", call='{"name": "weather", "parameters": ' + JSON_ARGUMENTS + "}"),
    "llama, SmolLM2": Family(SMOLLM2, IM_END),
}


def merging_tokenizer(template) -> Tokenizer:
    """A byte-level BPE that merges across spaces and line ends, so that where a text is cut shows in its ids."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    backend.add_tokens(list(PLAIN_TAGS))
    special = {"eos_token": "<|end|>", "bos_token": "<｜begin▁of▁sentence｜>"}
    return Tokenizer(backend, special=special, chat_template=template)
