"""Chat templates: filled in as written, shut off from everything else."""

import dataclasses
import json
from pathlib import Path

import pytest
from tiny_gguf import TinyModel, write_tiny

from maille_coordinator.slices import (
    ChatTemplate,
    ChatTemplateError,
    LanguageModel,
    UnsupportedModelError,
    read_model,
)

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi {{ 7 * 7 }} <b>"},
]


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    write_tiny(tmp_path / "tiny.gguf", TinyModel())
    return read_model(tmp_path / "tiny.gguf")


def templated(model: LanguageModel, source: str) -> ChatTemplate:
    return ChatTemplate(dataclasses.replace(model, chat_template=source))


def test_messages_are_data_and_are_never_run_or_escaped(model: LanguageModel) -> None:
    template = templated(
        model,
        "{% for message in messages %}\n"
        "  {%- if message.role == 'system' %}[{{ message['content'] | trim }}]\n"
        "  {%- else %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endif %}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}assistant:{% endif %}",
    )

    assert template.render(MESSAGES) == "[Be brief.]user: Hi {{ 7 * 7 }} <b><|0|>assistant:"
    assert template.render(MESSAGES, add_generation_prompt=False).endswith("<|0|>")


def test_what_hugging_face_templates_use_is_there(model: LanguageModel) -> None:
    template = templated(
        model,
        "{{ tools | tojson }}{{ strftime_now('%Y')[:2] }}"
        "{% for message in messages %}{% if loop.last %}{% break %}{% endif %}x{% endfor %}"
        "{% set found = namespace(n=0) %}{% set found.n = 3 %}{{ found.n }}{{ nothing }}",
    )
    tools = [{"name": "now", "description": "<time>"}]

    assert template.render(MESSAGES, tools=tools) == json.dumps(tools) + "20x3"


def test_a_refusal_by_the_template_reaches_the_user(model: LanguageModel) -> None:
    template = templated(model, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatTemplateError, match=r"roles must alternate.*check their roles"):
        template.render(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
        "{{ 'x'.format(1).nothing.nothing }}",
        "{{ 1 / 'a' }}",
    ],
)
def test_a_template_cannot_reach_out_of_its_sandbox(model: LanguageModel, source: str) -> None:
    with pytest.raises(ChatTemplateError):
        templated(model, source).render(MESSAGES)


def test_a_template_cannot_write_without_end(model: LanguageModel) -> None:
    source = "{% for a in range(99999) %}{{ messages[0].content * 100 }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="too long"):
        templated(model, source).render(MESSAGES)


def test_a_broken_template_is_refused_when_the_model_is_taken_in(model: LanguageModel) -> None:
    with pytest.raises(UnsupportedModelError, match=r"not understood.*another file"):
        templated(model, "{% for message in %}")


def test_without_a_template_a_model_of_chatml_tokens_gets_that_and_others_none(
    model: LanguageModel,
) -> None:
    with pytest.raises(UnsupportedModelError, match="no chat template"):
        ChatTemplate(model)
    vocabulary = dataclasses.replace(
        model.vocabulary, tokens=(*model.vocabulary.tokens[:-1], "<|im_start|>")
    )
    chatml = ChatTemplate(dataclasses.replace(model, vocabulary=vocabulary))
    assert chatml.render([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
