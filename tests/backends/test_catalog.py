"""What each package can do, and how a spec's settings become what it does."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from studyctl.backends.catalog import BACKENDS, Backend, effective, refusals, runs_on
from studyctl.backends.environments import CHECK, GUARD
from studyctl.backends.exchange import DRIVER
from studyctl.contract.methods import AWQ, GPTQ, METHODS, RTN, Magnitude, MethodSettings, SparseGPT, Wanda
from studyctl.contract.methods import PruneThenQuantize as Both

every_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)


class TestPins:
    @every_backend
    def test_every_package_of_an_environment_has_one_exact_version(self, backend: Backend) -> None:
        lines = backend.requirements.read_text().splitlines()
        wrong = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)]
        assert wrong == []
        names = [line.partition("==")[0].lower().replace("_", "-") for line in lines]
        assert len(set(names)) == len(names)
        assert {backend.package, "torch", "transformers", "safetensors", "numpy"} <= set(names)

    @pytest.mark.parametrize(
        ("name", "version"),
        [
            ("autoawq", "0.2.9"),
            ("auto-gptq", "0.7.1"),
            ("gptqmodel", "7.6.0"),
            ("llm-compressor", "0.14.0.1"),
        ],
    )
    def test_the_version_is_that_of_the_package_itself(self, name: str, version: str) -> None:
        assert BACKENDS[name].version == version
        assert re.search(rf"(?mi)^{BACKENDS[name].package.replace('-', '[-_]')}=={re.escape(version)}$",
                         BACKENDS[name].requirements.read_text())  # fmt: skip

    def test_no_two_environments_have_the_same_content(self) -> None:
        assert len({backend.pins_key for backend in BACKENDS.values()}) == len(BACKENDS)


class TestTheTable:
    @every_backend
    def test_names_methods_and_options_that_a_spec_has(self, backend: Backend) -> None:
        for method, ability in backend.abilities.items():
            fields = METHODS[method].settings.model_fields
            assert ability.takes.keys() <= fields.keys()
            assert ability.fixed.keys() <= fields.keys()
            assert not ability.takes.keys() & ability.fixed.keys()

    @every_backend
    def test_defaults_of_a_spec_can_be_run_but_for_what_the_package_lacks(self, backend: Backend) -> None:
        for method in backend.abilities:
            share = {"sparsity": 0.5} if method in ("wanda", "sparsegpt") else {}
            settings = METHODS[method].settings.model_validate({"method": method, **share})
            assert refusals(backend.name, effective(backend.name, settings)) == []


class TestEffectiveSettings:
    def test_are_the_packages_own_where_the_spec_says_nothing(self) -> None:
        assert AWQ().objective == "linear"
        assert effective("autoawq", AWQ()) == AWQ(objective="block")
        assert effective("llm-compressor", AWQ()) == AWQ(objective="block", clip=False)
        assert effective("gptqmodel", GPTQ(bits=3)) == GPTQ(bits=3, order="stage")

    def test_leave_alone_what_the_spec_asks_for(self) -> None:
        assert effective("gptqmodel", GPTQ(block_size=64)) == GPTQ(block_size=64, order="stage")
        assert effective("autoawq", AWQ(ratios=40)).ratios == 40

    def test_are_those_of_the_spec_for_studyctl_and_for_methods_that_the_package_lacks(self) -> None:
        both = Both(method=("wanda", "rtn"), sparsity=0.5)
        for name, settings in (("studyctl", AWQ()), ("autoawq", GPTQ()), ("llm-compressor", both)):
            assert effective(name, settings) is settings


class TestRefusals:
    @pytest.mark.parametrize(
        ("backend", "settings", "option", "what", "who"),
        [
            ("autoawq", GPTQ(), "backend", "`autoawq` has no method `gptq`",
             "studyctl, auto-gptq, gptqmodel, llm-compressor can"),
            ("gptqmodel", Wanda(sparsity=0.5), "backend", "`gptqmodel` has no method `wanda`", "studyctl, llm-compressor can"),
            ("llm-compressor", Magnitude(sparsity=0.5), "backend", "`llm-compressor` has no method `magnitude`", "only studyctl can"),
            ("llm-compressor", Both(method=("sparsegpt", "gptq"), sparsity=0.5), "backend",
             "`llm-compressor` has no method `sparsegpt+gptq`", "only studyctl can"),
            ("gptqmodel", GPTQ(propagate="dense"), "propagate", "`gptqmodel` has no option `propagate` for gptq", "only studyctl can"),
            ("llm-compressor", SparseGPT(sparsity=0.5, propagate="dense"), "propagate",
             "`llm-compressor` has no option `propagate` for sparsegpt", "only studyctl can"),
            ("gptqmodel", GPTQ(order="block"), "order", '`gptqmodel` takes `order = "stage"` only', "studyctl, llm-compressor can"),
            ("llm-compressor", AWQ(clip=False, ratios=40), "ratios", "`llm-compressor` takes `ratios = 20` only", "only studyctl can"),
            ("autoawq", AWQ(bits=3), "bits", "`autoawq` takes `bits = 4` only", "only studyctl can"),
            ("autoawq", AWQ(bits=8), "bits", "`autoawq` takes `bits = 4` only", "studyctl, llm-compressor can"),
            ("autoawq", AWQ(symmetric=True), "symmetric", "`autoawq` takes `symmetric = false` only", "studyctl, llm-compressor can"),
            ("llm-compressor", RTN(bits=3), "bits", "`llm-compressor` takes `bits = 4` or `bits = 8` only", "studyctl, gptqmodel can"),
            ("gptqmodel", GPTQ(bits=5), "bits", "`gptqmodel` takes `bits = 2` or `bits = 3` or `bits = 4` or `bits = 8` only",
             "only studyctl can"),
            ("gptqmodel", GPTQ(block_size=64), "block_size", "`gptqmodel` takes `block_size = 128` only", "studyctl, llm-compressor can"),
            ("llm-compressor", GPTQ(act_order=True), "act_order", "`llm-compressor` has `act_order` with `static_groups = true` only",
             "studyctl, auto-gptq, gptqmodel can"),
        ],
    )  # fmt: skip
    def test_name_the_option_and_who_has_it(
        self, backend: str, settings: MethodSettings, option: str, what: str, who: str
    ) -> None:
        assert refusals(backend, effective(backend, settings)) == [(option, what, who)]

    def test_are_all_listed_at_once(self) -> None:
        reasons = refusals("autoawq", effective("autoawq", AWQ(bits=3, symmetric=True, ratios=7)))
        assert [refusal.option for refusal in reasons] == ["bits", "symmetric", "ratios"]

    def test_there_are_none_for_what_the_package_takes(self) -> None:
        for backend, settings in (
            ("llm-compressor", GPTQ(act_order=True, static_groups=True, block_size=64, damping=0.1)),
            ("llm-compressor", Wanda(pattern="2:4")),
            ("gptqmodel", GPTQ(bits=3, group_size=0, symmetric=True, act_order=True)),
            ("auto-gptq", GPTQ(bits=2, static_groups=True)),
            ("autoawq", AWQ(group_size=64, weight_term=True, clip=False)),
        ):
            assert refusals(backend, effective(backend, settings)) == []


class TestDevices:
    def test_are_those_of_the_method(self) -> None:
        assert runs_on("llm-compressor", GPTQ(), "cpu")
        assert not runs_on("llm-compressor", AWQ(), "cpu")
        assert runs_on("llm-compressor", AWQ(), "cuda:1")
        assert not runs_on("auto-gptq", GPTQ(), "cpu")
        assert runs_on("auto-gptq", GPTQ(), "cuda")

    def test_say_nothing_of_methods_that_are_not_there(self) -> None:
        assert runs_on("auto-gptq", AWQ(), "cpu")

    def test_of_a_package_are_those_of_any_of_its_methods(self) -> None:
        assert {name: backend.devices for name, backend in BACKENDS.items()} == {
            "autoawq": ("cpu", "cuda"),
            "auto-gptq": ("cuda",),
            "gptqmodel": ("cpu", "cuda"),
            "llm-compressor": ("cpu", "cuda"),
        }


class TestWhatRunsElsewhere:
    """Scripts that other environments run cannot have what only this one has."""

    SHARED = frozenset({"torch", "transformers", "tokenizers", "safetensors", "numpy"})

    @staticmethod
    def imported(path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path} imports relatively"
                yield node.module or ""

    def packages_of(self, path: Path) -> set[str]:
        return {name.partition(".")[0] for name in self.imported(path)} - sys.stdlib_module_names

    @pytest.mark.parametrize("path", [DRIVER, CHECK, GUARD], ids=lambda path: path.name)
    def test_the_driver_needs_only_what_every_environment_has(self, path: Path) -> None:
        assert self.packages_of(path) <= self.SHARED

    @every_backend
    def test_an_adapter_needs_only_what_its_pins_bring(self, backend: Backend) -> None:
        pinned = backend.requirements.read_text().lower().replace("-", "_")
        for name in self.packages_of(backend.adapter) - self.SHARED:
            package = {"awq": "autoawq"}.get(name, name)
            assert f"\n{package}==" in f"\n{pinned}", f"{backend.name} imports {name}"

    @every_backend
    def test_an_adapter_reports_the_version_of_its_package(self, backend: Backend) -> None:
        tree = ast.parse(backend.adapter.read_text())
        (packages,) = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PACKAGES"
        ]
        assert packages[0] == backend.package
        assert {"transformers", "torch"} <= set(packages)
        assert any(isinstance(node, ast.FunctionDef) and node.name == "compress" for node in tree.body)
