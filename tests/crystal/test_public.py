"""The public face of crystals."""

from __future__ import annotations

import inspect

import dgent.crystal
from dgent.crystal import default_schemas


def test_the_public_names_are_sorted_there_and_described() -> None:
    for module in (dgent.crystal, default_schemas):
        assert list(module.__all__) == sorted(set(module.__all__), key=lambda name: (not name.isupper(), name))
        assert set(module.__all__) <= set(dir(module))
        assert [name for name in module.__all__ if not inspect.getdoc(getattr(module, name))] == []


def test_no_public_class_is_left_out() -> None:
    found = {
        name
        for name, each in vars(dgent.crystal).items()
        if inspect.isclass(each) and each.__module__.startswith("dgent.crystal") and not name.startswith("_")
    }
    assert found <= set(dgent.crystal.__all__)
    assert {"Crystal", "CrystalMeta", "DataMixin", "Schema", "Universe", "get_universe", "schema"} <= set(
        dgent.crystal.__all__
    )
