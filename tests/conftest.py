"""What holds for every test."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")  # a machine that has other things to do is no fault of what is tested


@pytest.fixture(scope="session", autouse=True)
def _private_files() -> Iterator[None]:
    """Clients do not believe files that a group may write, which some systems' umask makes of all of them."""
    previous = os.umask(0o022)
    yield
    os.umask(previous)


@pytest.fixture(scope="session", autouse=True)
def _in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trial's `mktemp` makes its files under the current folder; let that be one that is cleaned up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trial"))
        yield
