from __future__ import annotations

from pathlib import Path

import emulation_toolchain as toolchain
import pytest


@pytest.fixture(scope="session")
def emulation_runtime(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Object files of the runtime, compiled once for all variants."""
    reason = toolchain.missing()
    if reason is not None:
        pytest.skip(reason)
    return toolchain.compile_runtime(tmp_path_factory.mktemp("emulation_runtime"))


@pytest.fixture(scope="session")
def emulation_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulation")
