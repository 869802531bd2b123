"""Chat templates come out as transformers renders them."""

import pytest

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
