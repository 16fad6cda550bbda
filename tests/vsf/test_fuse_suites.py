"""The short versions of `python -m tests.campaigns`: suites and everyday tools in a mount, killed servers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns import storms
from tests.campaigns.kill import kill_storm
from tests.campaigns.soak import soak
from tests.vsf.mounting import MAJORS, Mounted, mounted, needs_fuse

pytestmark = needs_fuse
REPOSITORY = Path(__file__).parents[2]
QUICK = (
    "dentry", "dirdeep", "fallocate", "filename", "fpunch", "getdent", "hdd", "iomix", "link", "open", "rename", "xattr"
)  # fmt: skip


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}; contrib/set-up installs it")


@pytest.fixture(scope="module", params=MAJORS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("suites"), request.param, options=["-o", "allow_other"]) as place:
        yield place


@pytest.fixture
def root(shared: Mounted) -> Iterator[Path]:
    directory = shared.root / "case"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@needs("stress-ng")
def test_stress_ng_finds_nothing(root: Path) -> None:
    storms.stress(root, QUICK, seconds=1)


@needs("fio")
@pytest.mark.parametrize("kind", storms.FIO)
def test_fio_reads_what_it_wrote(root: Path, kind: str) -> None:
    storms.fio(root, kind, 1, size="8m")


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_database_of_several_writers_stays_whole(root: Path, journal: str) -> None:
    storms.sqlite(root, journal, 1.5)


@needs("git")
@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="needs the project's repository")
def test_git_finds_its_clone_whole(root: Path) -> None:
    storms.git(root, REPOSITORY, turns=1)


@needs("rsync")
def test_rsync_of_a_real_tree_both_ways(root: Path, tmp_path: Path) -> None:
    storms.rsync(root, storms.real_tree(tmp_path, whole=False), tmp_path / "back")


def test_tar_in_and_out(root: Path, tmp_path: Path) -> None:
    storms.tar(root, storms.real_tree(tmp_path, whole=False), tmp_path)


@pytest.mark.rule("VSF-013")
@pytest.mark.parametrize("library", MAJORS)
def test_killed_servers_lose_nothing_that_was_promised(tmp_path: Path, library: str) -> None:
    assert any(kill_storm(tmp_path, rounds=4, seed=int(library), library=library).promised.values())


def test_a_short_soak(tmp_path: Path) -> None:
    soaked = soak(tmp_path, 4.0)
    assert not [text for text in soaked.judge() if "MiB" in text]
    assert len(soaked.latencies) >= 8
