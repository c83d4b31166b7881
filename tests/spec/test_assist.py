"""What the editor says of a place in a spec, and what it offers there; ``|`` marks the cursor."""

import pytest

from studyctl.completions import Completions
from studyctl.spec.assist import Help, complete, explain
from tests.spec.specs import FULL

STUDY = '[study]\nname = "mine"\n\n[[models]]\nid = "org/alpha"\n\n'


def at(marked: str) -> tuple[str, int, int]:
    before, _, after = marked.partition("|")
    return before + after, before.count("\n"), len(before.rpartition("\n")[2])


def offered(marked: str) -> list[str]:
    return [item.label for item in complete(*at(marked)).items]


def chosen(marked: str, label: str) -> str:
    """Return the text as it is when the item is taken."""
    text, row, column = at(marked)
    result: Completions = complete(text, row, column)
    item = next(item for item in result.items if item.label == label)
    lines = text.split("\n")
    lines[row] = lines[row][: result.start] + item.insert + lines[row][result.end :]
    return "\n".join(lines)


def help_at(marked: str) -> Help:
    result = explain(*at(marked))
    assert result is not None
    return result


# -- help


def test_a_key_is_explained_with_type_bounds_and_default() -> None:
    result = help_at("[calibration]\nsam|ples = 9\n")
    assert result.name == "samples"
    assert result.facts == ("whole number", "at least 1 and at most 100000", "default 128")
    assert result.about == "number of windows"


def test_a_value_is_explained_by_its_key() -> None:
    assert help_at("[calibration]\nsamples = 9|\n").name == "samples"


def test_an_item_of_a_list_over_several_lines_is_explained_by_its_key() -> None:
    assert help_at('[evaluation.tasks]\nnames = [\n  "a",\n  "b|",\n]\n').name == "names"


def test_a_swept_key_says_that_a_list_makes_variants() -> None:
    result = help_at('[[compression]]\nmethod = "wanda"\nsparsity = [0.3, 0.|5]\n')
    assert result.facts[:2] == ("number, or a list: a variant for each", "at least 0 and less than 1")


def test_choices_are_named() -> None:
    assert "one of bfloat16, float16, float32, auto" in help_at('[[models]]\nid = "x"\ndtype = "|"\n').facts


def test_a_required_key_says_so() -> None:
    assert help_at('[study]\nname = "m|"\n').facts[0] == "required"


@pytest.mark.parametrize(
    "marked",
    [
        "[calibration]\nsource = \nsam|ples = 9\n\n[[models]]\n",
        '[calibration]\nsource = "po\nsam|ples = 9\n',
        "[[models]]\nid = [\n\n[calibration]\nsam|ples = \n",
        "[calibration\n[calibration]\nsam|ples\n = [[[\n",
    ],
)
def test_keys_are_explained_in_text_that_is_no_toml(marked: str) -> None:
    assert help_at(marked).name == "samples"


def test_no_place_of_no_half_written_text_is_too_hard() -> None:
    rows = FULL.split("\n")
    for row in range(len(rows)):
        for column in range(0, len(rows[row]) + 1, 3):
            half = "\n".join([*rows[:row], rows[row][:column]])
            for text in (half, half + "\n" + "\n".join(rows[row + 1 :])):
                complete(text, row, column)
                explain(text, row, column)


def test_keys_of_a_compression_table_follow_its_method() -> None:
    assert help_at('[[compression]]\nmethod = "awq"\ngroup_s|ize = 64\n').name == "group_size"
    assert help_at('[[compression]]\nmethod = "wanda"\ngroup_s|ize = 64\n').name == "[[compression]]"


def test_a_header_is_explained() -> None:
    assert help_at("[calib|ration]\n").about.startswith("The calibration text of every variant")


def test_a_table_in_braces_is_explained_with_and_without_a_list_around_it() -> None:
    for value in ('[{}, { languages = ["s|w"] }]', '{ languages = ["s|w"] }'):
        assert help_at(f'[[compression]]\nmethod = "wanda"\ncalibration = {value}\n').name == "languages"


def test_nothing_is_known_of_a_table_that_there_is_not() -> None:
    assert explain(*at("[nonsense]\nx| = 1\n")) is None


# -- keys


def test_keys_that_are_there_are_not_offered_again() -> None:
    names = offered('[calibration]\nsource = "pocket"\n|\nsamples = 9\n')
    assert names == ["languages", "sequence_length", "ids"]


def test_keys_are_filtered_by_what_is_typed() -> None:
    assert offered("[calibration]\nse|\n") == ["sequence_length"]
    assert offered("[calibration]\nlen|\n") == ["sequence_length"]


def test_a_key_is_written_with_its_equals_sign_once() -> None:
    assert chosen("[calibration]\nsa|\n", "samples") == "[calibration]\nsamples = \n"
    assert chosen("[calibration]\nsa| = 3\n", "samples") == "[calibration]\nsamples = 3\n"


def test_a_compression_table_without_a_method_offers_it() -> None:
    assert offered("[[compression]]\n|\n") == ["method"]


def test_keys_of_a_method_are_offered_in_the_right_one_of_several_tables() -> None:
    text = '[[compression]]\nmethod = "wanda"\n\n[[compression]]\nmethod = "rtn"\n|\n'
    assert "group_size" in offered(text)
    assert "sparsity" not in offered(text)


def test_a_key_that_is_typed_does_not_spoil_the_value_above_it() -> None:
    assert offered('[[compression]]\nmethod = "wanda"\nprop|\nsparsity = 0.5\n') == ["propagate"]
    assert offered('[evaluation.tasks]\nnames = [\n  "a",\n]\nsh|\n') == ["shots"]


def test_keys_inside_braces() -> None:
    head = '[[compression]]\nmethod = "wanda"\n'
    assert offered(head + "calibration = [{ sa|\n") == ["samples"]
    assert offered(head + "calibration = { sa|\n") == ["samples"]
    assert offered("[text.x]\nsplit = { |\n") == ["calibration", "perplexity"]


def test_tasks_with_local_files_are_offered_by_name() -> None:
    assert offered('[evaluation.tasks]\nnames = ["arc", "boolq"]\ndata = { |') == ["arc", "boolq"]


# -- values


def test_methods_are_offered_and_replace_what_is_in_the_quotes() -> None:
    assert offered('[[compression]]\nmethod = "spa|"\n') == ["sparsegpt"]
    assert chosen('[[compression]]\nmethod = "spa|"\n', "sparsegpt").endswith('method = "sparsegpt"\n')
    assert chosen("[[compression]]\nmethod = |\n", "wanda").endswith('method = "wanda"\n')
    assert chosen('[[compression]]\nmethod = "wa|\n', "wanda").endswith('method = "wanda"\n')


def test_a_pair_offers_what_prunes_then_what_quantizes() -> None:
    assert offered('[[compression]]\nmethod = ["|') == ["magnitude", "wanda", "sparsegpt"]
    assert "gptq" in offered('[[compression]]\nmethod = ["wanda", "|')
    assert "wanda" not in offered('[[compression]]\nmethod = ["wanda", "|')


def test_choices_of_a_key() -> None:
    assert offered('[[models]]\nid = "x"\ndtype = "b|"\n') == ["bfloat16"]
    assert offered("[[models]]\nchat_template = |\n") == ["true", "false"]
    assert offered('[evaluation.fidelity]\nmetrics = ["kl", "|"]\n') == ["kl", "top1", "snr"]


def test_text_sources_are_the_bundled_ones_and_those_of_this_text() -> None:
    text = '[text.web]\ndataset = "a/b"\n\n[calibration]\nsource = "|"\n'
    assert offered(text) == ["web", "pocket"]


def test_languages_are_those_of_the_source_and_not_there_yet() -> None:
    languages = offered('[calibration]\nsource = "pocket"\nlanguages = ["en", "|"]\n')
    assert languages == ["ar", "de", "es", "ru", "sw", "zh"]
    own = '[text.web]\ndataset = "a/b"\nconfig = { en = "x", fi = "y" }\n\n[calibration]\nsource = "web"\n'
    assert offered(own + 'languages = ["|') == ["en", "fi"]


def test_a_list_is_written_where_a_list_is_wanted() -> None:
    assert chosen("[calibration]\nlanguages = |\n", "de").endswith('languages = ["de"]\n')


def test_models_are_offered_to_a_filter() -> None:
    assert offered(STUDY + '[[compression]]\nmethod = "wanda"\nmodels = ["|"]\n') == ["org/alpha"]


def test_a_default_is_offered_for_a_number() -> None:
    assert offered("[calibration]\nsamples = |\n") == ["128"]


@pytest.mark.parametrize(
    "marked", ["# a comment |\n", '[study]\nname = "x" |\n', '[study]\nname = "x" # m|\n', "[study] |\n"]
)
def test_nothing_is_offered_where_nothing_can_be_written(marked: str) -> None:
    assert offered(marked) == []


# -- headers


def test_tables_are_offered_once_and_lists_again() -> None:
    names = offered(STUDY + "[|")
    assert "[study]" not in names
    assert {"[[models]]", "[[compression]]", "[calibration]", "[evaluation.tasks]", "[text.…]"} <= set(names)
    assert chosen(STUDY + "[evaluation.per|", "[evaluation.perplexity]").endswith("[evaluation.perplexity]")
    assert chosen(STUDY + "[[comp|]]", "[[compression]]").endswith("\n[[compression]]")


def test_an_empty_text_offers_tables() -> None:
    assert offered("|")[0] == "[study]"
