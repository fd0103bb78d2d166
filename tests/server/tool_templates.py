"""How each format's chat template writes an assistant's message: small templates in our own words.

By name: (template, parser names that it asks for). The prompt is what stands before the answer.
"""

OPEN_THINK = "<|im_start|>assistant\n<think>\n"
TURN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}"
    "CALLS{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
    "{# tools #}"
)


def chat(calls: str) -> str:
    return TURN.replace("CALLS", calls)


EACH = "{% for c in m.tool_calls or [] %}{% set f = c.function %}"
QWEN_VALUE = "{{ v if v is string else v | tojson }}"

TEMPLATES = {
    "hermes": chat(
        EACH + "{{ '\n' if m.content or not loop.first else '' }}"
        '<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>{% endfor %}'
    ),
    "qwen_xml": chat(
        EACH + "\n\n<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments | items %}"
        "<parameter={{ k }}>\n" + QWEN_VALUE + "\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}"
    ),
    "mimo": chat(
        EACH + "<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments | items %}"
        "{{ '<parameter=' ~ k ~ '>' ~ (v if v is string else v | tojson) ~ '</parameter>\n' }}"
        "{% endfor %}</function>\n</tool_call>{% endfor %}"
    ),
    "kimi_k2": chat(
        "{% if m.tool_calls %}<|tool_calls_section_begin|>" + EACH + "<|tool_call_begin|>{{ c.id }}"
        "<|tool_call_argument_begin|>{{ f.arguments | tojson }}<|tool_call_end|>{% endfor %}"
        "<|tool_calls_section_end|>{% endif %}"
    ),
    "deepseek_v3": chat(
        "{% if m.tool_calls %}<｜tool▁calls▁begin｜>" + EACH + "{{ '' if loop.first else '\n' }}"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ f.name }}\n```json\n{{ f.arguments | tojson }}\n```"
        "<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endif %}"
    ),
    "deepseek_v31": chat(
        "{% if m.tool_calls %}<｜tool▁calls▁begin｜>" + EACH + "{{ '<｜tool▁call▁begin｜>' + f.name + '<｜tool▁sep｜>'"
        " + f.arguments + '<｜tool▁call▁end｜>' }}{% endfor %}<｜tool▁calls▁end｜>{% endif %}"
    ),
    "deepseek_v32": chat(
        "{% if m.tool_calls %}\n\n<｜DSML｜function_calls>\n" + EACH + '<｜DSML｜invoke name="{{ f.name }}">\n'
        '{% for k, v in f.arguments | items %}<｜DSML｜parameter name="{{ k }}" string="{{ "true" if v is string else '
        '"false" }}">' + QWEN_VALUE + "</｜DSML｜parameter>\n{% endfor %}</｜DSML｜invoke>\n{% endfor %}"
        "</｜DSML｜function_calls>{% endif %}"
    ),
    "minimax_m1": chat(
        "{% if m.tool_calls %}\n<tool_calls>\n" + EACH + '{"name": "{{ f.name }}", "arguments": '
        "{{ f.arguments | tojson }}}\n{% endfor %}</tool_calls>{% endif %}"
    ),
    "minimax_m2": chat(
        "{% if m.tool_calls %}\n<minimax:tool_call>\n" + EACH + '<invoke name="{{ f.name }}">\n'
        '{% for k, v in f.arguments | items %}<parameter name="{{ k }}">' + QWEN_VALUE + "</parameter>\n{% endfor %}"
        "</invoke>\n{% endfor %}</minimax:tool_call>{% endif %}"
    ),
    "nemotron_json": chat(
        "{% if m.tool_calls %}<TOOLCALL>[" + EACH + '{% if not loop.first %}, {% endif %}{"name": "{{ f.name }}", '
        '"arguments": {{ f.arguments | tojson }}}{% endfor %}]</TOOLCALL>{% endif %}'
    ),
}

SCRIPTED = "{% if tools %}tools: {% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}" + TEMPLATES[
    "hermes"
].replace(
    "{% for m in messages %}", "{% for m in messages %}{% if m.tool_call_id %}[{{ m.tool_call_id }}]{% endif %}", 1
)
"""Hermes, with the tools and the ids of their results shown."""
