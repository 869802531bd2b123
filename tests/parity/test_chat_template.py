"""Chat templates come out as transformers renders them."""

import re
from typing import Any

import pytest

from edgepeft.errors import DataError
from edgepeft.text import render

MESSAGES = [
    {"role": "system", "content": "é <b> 'q'"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes"},
]


@pytest.mark.parametrize(
    "template",
    [
        "{% if tools is not none %}tools{% else %}no tools{% endif %}{{ documents is none }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}",
        "{{ messages | tojson }}",
        "{{ messages[0] | tojson(indent=2) }}",
        "{{ messages[0] | tojson(ensure_ascii=True) }}",
        "{{ messages[0] | tojson(separators=(',', ':'), sort_keys=True) }}",
        "{% for m in messages %}\n  {% if loop.first %}{% continue %}{% endif %}\n{{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "{{ bos_token }}|{{ unknown }}|{{ add_generation_prompt }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    ],
)
def test_templates_come_out_alike(template: str) -> None:
    """Letter by letter, for each thing that a template may use."""
    chat_template_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    values = {"add_generation_prompt": True, "bos_token": "<s>"}
    expected, _ = chat_template_utils.render_jinja_template([MESSAGES], chat_template=template, **values)
    assert render(template, MESSAGES, **values) == expected[0]


#: The manners in which widespread models have their conversations written, each with its own tricks.
STYLES = {
    # Turns between two marks; a system message is put in where there is none.
    "ChatML": """{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if (message.role == 'user') or (message.role == 'system' and loop.first) or message.role == 'assistant' -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' -}}
    {%- else -%}
        {{- raise_exception('unexpected role ' ~ message.role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
""",
    # Whitespace left to trim_blocks and lstrip_blocks; optional values; a date; the system message apart.
    "Llama 3": """{{ bos_token }}
{% if not date_string is defined %}
    {% set date_string = "26 Jul 2024" %}
{% endif %}
{% if messages[0]['role'] == 'system' %}
    {% set system_message = messages[0]['content'] | trim %}
    {% set messages = messages[1:] %}
{% else %}
    {% set system_message = "" %}
{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{% if tools is not none %}
    {{- "Environment: ipython\\n" }}
{% endif %}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{% for message in messages %}
    {% if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {% elif 'tool_calls' in message %}
        {{- message.tool_calls[0].function | tojson }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{% endif %}
""",
    # Users in brackets, roles that must take turns, the system message inside the last user's turn.
    "Mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must alternate user/assistant/user/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if system_message is defined and loop.last and message == user_messages[-1] %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    # No system message at all, another name for the assistant, expressions in brackets.
    "Gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}
""",
    # What a thinking model does: what was thought in earlier turns is left out, by string methods and slices.
    "thinking": """{%- set ns = namespace(last=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and ns.last == messages | length - 1 %}
        {%- set ns.last = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' and loop.index0 < ns.last and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|' ~ message.role ~ '|>' ~ content ~ ('' if loop.last else '\\n') }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% if enable_thinking is defined %}<think>{% endif %}{% endif %}
""",
}


def said(*turns: str) -> list[dict[str, Any]]:
    """Messages of turns such as "user: hi"."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


CONVERSATIONS = {
    "one question": said("user: Where is the key?"),
    "one answer": said("user: Where is the key?", "assistant:  Under the pot. \n"),
    "several turns": said(
        "user: a", "assistant: b", "user: c\nd", "assistant: <think>e</think>\n\nf", "user: g"
    ),
    "system": said(
        "system:  Be brief. ", "user: é <b> 'q' \"r\" {{ x }} &", "assistant: \U0001f511", "user: \u3042"
    ),
    "system and answer": said(
        "system: Be brief.", "user: a", "assistant: <think>no</think>b", "user: c", "assistant: d"
    ),
    "two users": said("user: a", "user: b"),
    "starts with the assistant": said("assistant: a", "user: b"),
    "a late system message": said("user: a", "system: b", "user: c"),
    "another role": said("user: a", "tool: b"),
    "empty text": [{"role": "user", "content": ""}],
}


@pytest.mark.parametrize("prompt", [False, True], ids=["whole", "prompt"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("style", STYLES)
def test_conversations_come_out_alike(style: str, conversation: str, prompt: bool) -> None:  # noqa: FBT001
    """Letter by letter; what the template refuses there, it refuses here, with the same reason."""
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    messages, template = CONVERSATIONS[conversation], STYLES[style]
    values = {"add_generation_prompt": prompt, "bos_token": "<s>", "eos_token": "</s>"}
    try:
        (expected,), _ = render_jinja_template([messages], chat_template=template, **values)
        reason = None
    except jinja2.TemplateError as error:
        reason = str(error)
    if reason is None:
        assert render(template, messages, **values) == expected
    else:
        with pytest.raises(DataError, match=re.escape(reason)):
            render(template, messages, **values)


def test_the_conversations_prove_something() -> None:
    """Every style takes some, and those that refuse any are seen to."""
    values = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
    refused = dict.fromkeys(STYLES, 0)
    for style, template in STYLES.items():
        for messages in CONVERSATIONS.values():
            try:
                render(template, messages, **values)
            except DataError:
                refused[style] += 1
    assert refused == {"ChatML": 2, "Llama 3": 0, "Mistral": 2, "Gemma": 4, "thinking": 0}
