"""A Slurm, and studies that run on it or on workers that a command starts."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="workers on other machines need studyctl[cluster]")

from tests.cluster import slurm as slurms
from tests.cluster.studies import Cluster, Results, results
from tests.run.studies import make_sources


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurms.Slurm]:
    """A controller and three nodes."""
    if reason := slurms.missing():
        pytest.skip(reason)
    # Each process of a parallel run has a Slurm of its own.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    started = slurms.Slurm(tmp_path_factory.mktemp("slurm"), 16900 + 10 * number)
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def cluster_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster-sources")
    make_sources(folder)
    return folder


@pytest.fixture
def cluster(cluster_sources: Path, tmp_path: Path) -> Iterator[Cluster]:
    """A folder with a study and profiles; every process that is left at the end is killed."""
    shutil.copytree(cluster_sources, tmp_path, dirs_exist_ok=True)
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def local_results(cluster_sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What the same study gives without a cluster."""
    folder = tmp_path_factory.mktemp("local")
    shutil.copytree(cluster_sources, folder, dirs_exist_ok=True)
    local = Cluster(folder)
    local.run(on="").wait()
    return results(local.paths)
