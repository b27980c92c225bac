"""One builder for all tests of the Kubernetes objects: each folder is built once."""

from __future__ import annotations

import pytest

from tests.kube.manifests import Builder


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("kube") / "forms")
