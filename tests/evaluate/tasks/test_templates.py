"""Templates of a stranger's task: no code runs, nothing takes the machine; those of lm-eval give what they gave before."""

import json
import resource
import signal
from pathlib import Path

import jinja2
import lm_eval.utils
import pytest

from studyctl.evaluate.tasks import templates
from studyctl.evaluate.tasks.templates import bounded, sandbox_templates
from tests.evaluate.tasks.test_task_data import problem_of, request_of

DEFINITION = """
task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: items.jsonl}}}}
test_split: test
output_type: loglikelihood
doc_to_text: {template}
doc_to_target: "{{{{answer}}}}"
"""
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ lipsum.__globals__['os'].system('touch RAN') }}",
    "{{ question|attr('__class__') }}",
    "{{ '{0.__class__}'.format(question) }}",
    "{% for x in (1,).__iter__.__self__.__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ self.__init__.__globals__ }}",
    "{{ words.append('more') }}",
)


@pytest.fixture(autouse=True)
def _sandboxed() -> None:
    sandbox_templates()


@pytest.mark.parametrize("template", ESCAPES)
def test_pythons_internals_are_refused(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(jinja2.TemplateError, match=r"unsafe|undefined|not safely"):
        lm_eval.utils.apply_template(template, {"question": "why", "words": ["a"]})
    assert not list(tmp_path.iterdir())


def test_the_error_names_task_and_item(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text(json.dumps({"question": "why", "answer": "so"}))
    definition = tmp_path / "own.yaml"
    definition.write_text(DEFINITION.format(template=json.dumps(ESCAPES[0])))
    why = "item 0 of task `task` does not fit task `task`: access to attribute '__class__' of 'str' object is unsafe."
    assert problem_of(request_of(definition, None)).what == why


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 'ab'.ljust(10**10) }}",
        "{{ '%10000000000d' % 1 }}",
        "{% set t = namespace(x='a') %}{% for i in range(40) %}{% set t.x = t.x ~ t.x %}{% endfor %}{{ t.x }}",
        "{{ [question] * 10**10 }}",
    ],
)
def test_text_without_end_is_refused(template: str) -> None:
    with pytest.raises(jinja2.TemplateError, match="takes more than 1 GiB of memory"):
        lm_eval.utils.apply_template(template, {"question": "why"})


def test_loops_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(jinja2.TemplateError, match=r"takes more than 0\.2 s of processor time"):
        lm_eval.utils.apply_template(loop, {})
    with pytest.raises(jinja2.TemplateError, match=r"takes more than 0\.2 s of processor time"):
        lm_eval.utils.apply_template("{{ ('a' * 40)|regex_replace('(a+)+b', '') }}", {})
    with pytest.raises(OverflowError, match="Range too big"):
        lm_eval.utils.apply_template("{{ range(10**9)|list }}", {})


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(jinja2.TemplateError, match="nested too deeply"):
        lm_eval.utils.apply_template("{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}", {})


def test_an_item_gets_its_own_values() -> None:
    texts = [lm_eval.utils.apply_template("{{ question }}!", {"question": word}) for word in ("why", "how")]
    assert texts == ["why!", "how!"]


def test_limits_are_of_one_text_only() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(jinja2.TemplateError):
        lm_eval.utils.apply_template("{{ 'a' * 10**10 }}", {})
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGVTALRM)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_a_chat_template_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.2)

    def render(messages: object) -> str:
        while True:
            pass

    with pytest.raises(jinja2.TemplateError, match=r"takes more than 0\.2 s"):
        bounded()(render)([])


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{question.strip()[:3]|upper}}{{'.' if words|length > 1}}\n", "WHY.\n"),
        ("{{ words|map('trim')|join(', ') }}", "a, b"),
        ("{{ question|regex_replace('\\s*h', 'H') }}", "  wHy  "),
        ("{{ choices['text'].index('b') }}{{ choices.text[0] }}", "1a"),
        ("{% for key, value in choices.items() %}{{ key }}={{ value|length }}{% endfor %}", "text=2"),
        ("{% set n = namespace(x=0) %}{% for w in words %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}", "2"),
        ("{{ '{:>4}|{}'.format(question.strip(), words[1].strip()) }}", " why|b"),
        ("{{ '%s' % words[0] }}{{ range(3)|list }}", "a[0, 1, 2]"),
    ],
)
def test_what_tasks_write_is_rendered_as_before(template: str, text: str) -> None:
    item = {"question": "  why  ", "words": ["a", " b"], "choices": {"text": ["a", "b"]}}
    assert lm_eval.utils.apply_template(template, item) == text
