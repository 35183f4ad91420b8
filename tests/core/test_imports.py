import sys
from pathlib import Path

import pytest

from renalplan import imports
from renalplan.errors import ModelError, UsageError
from renalplan.files import Record
from renalplan.imports import is_trusted, load_class, named_on_command_line, trust
from renalplan.plan import Plan


@pytest.fixture(autouse=True)
def _nothing_trusted_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_trusted", set())
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the current folder that leaves a mark when it is imported."""
    mark = tmp_path / "imported"
    (tmp_path / "stranger_module.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
        "from renalplan.files import Record\nclass Mine(Record):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger_module", raising=False)
    return mark


def test_our_own_classes_are_found() -> None:
    assert load_class("renalplan.plan:Plan", Record, "plan.json") is Plan


def test_the_standard_library_is_not_trusted() -> None:
    with pytest.raises(ModelError, match=r"trainer.json asks .* 'os', .* add --plugin os"):
        load_class("os:system", object, "trainer.json")


def test_a_similar_name_is_not_ours() -> None:
    assert not is_trusted("renalplanet")
    assert not is_trusted("renalplan_extras.nets")
    assert is_trusted("renalplan.networks.unet")


def test_an_untrusted_module_is_not_even_imported(stranger: Path) -> None:
    sys.path.append(str(stranger.parent))
    with pytest.raises(ModelError, match="not part of renalplan"):
        load_class("stranger_module:Mine", Record, "trainer.json")
    assert not stranger.exists()


def test_a_module_named_by_the_user_is_imported(stranger: Path) -> None:
    trust("stranger_module")
    assert load_class("stranger_module:Mine", Record, "--trainer").__name__ == "Mine"
    assert stranger.exists()


def test_naming_a_class_on_the_command_line_trusts_its_module(stranger: Path) -> None:
    assert named_on_command_line("stranger_module:Mine") == "stranger_module:Mine"
    assert is_trusted("stranger_module")
    assert is_trusted("stranger_module.inner")
    assert not stranger.exists()


@pytest.mark.parametrize(
    "module", ["no_such_module", "no_such.inner", "renalplan.nothing", ".", ""]
)
def test_a_module_that_is_not_there_is_not_trusted(module: str) -> None:
    with pytest.raises(UsageError, match=r"there is no module .* nor in the current folder"):
        trust(module)
    assert not imports.trusted()


@pytest.mark.parametrize("path", ["Mine", "module:", ":Mine", ""])
def test_a_path_needs_a_module_and_a_class(path: str) -> None:
    with pytest.raises(ModelError, match=r"is not of the form package.module:Class"):
        load_class(path, Record, "trainer.json")
    with pytest.raises(UsageError, match=r"is not of the form package.module:Class"):
        named_on_command_line(path)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("renalplan.nothing:Plan", r"renalplan.nothing cannot be imported"),
        ("renalplan.plan:Nothing", r"renalplan.plan has no class Nothing"),
        ("renalplan.files:write_json", r"is not a class derived from Record"),
        ("renalplan.files:os", r"is not a class derived from Record"),
        ("renalplan.labels:LabelScheme", r"is not a class derived from Record"),
    ],
)
def test_what_is_no_class_of_the_kind_is_refused(path: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=rf"trainer.json: .*{sentence}"):
        load_class(path, Record, "trainer.json")
