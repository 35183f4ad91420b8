import json
import os
import stat
from pathlib import Path

import pytest

from renalplan.errors import DatasetError, PlanError
from renalplan.files import (
    TEMPORARY,
    Record,
    atomic_file,
    atomic_folder,
    content_hash,
    parse_record,
    read_json,
    read_record,
    remove_leftovers,
    value_hash,
    write_json,
)


class Point(Record):
    x: int
    y: int = 0


class Line(Record):
    ends: tuple[Point, Point]


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.nii.gz"
    with atomic_file(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_block_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_before_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a.txt"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with atomic_folder(path) as temporary:
        (temporary / "new.txt").write_text("new")
        assert (path / "old.txt").exists()
    assert [p.name for p in path.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_block_keeps_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old.txt").write_text("old")

    def fill_half() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "new.txt").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill_half()
    assert [p.name for p in path.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_as_open_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    with atomic_folder(tmp_path / "made"):
        pass
    usual, made = ((tmp_path / name).stat().st_mode for name in ("usual", "made"))
    assert stat.S_IMODE(made) == stat.S_IMODE(usual)


def test_leftovers_of_killed_runs_go_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}1-a.txt").write_text("half")
    (tmp_path / f"{TEMPORARY}1-b").mkdir()
    (tmp_path / f"{TEMPORARY}1-b" / "inner.txt").write_text("half")
    (tmp_path / "whole.txt").write_text("whole")
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["whole.txt"]
    remove_leftovers(tmp_path / "never made")


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    line = Line(ends=(Point(x=1), Point(x=2, y=3)))
    write_json(tmp_path / "line.json", line)
    assert read_record(tmp_path / "line.json", Line) == line


def test_json_is_written_for_people(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"Grösse": "2 µm"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "Grösse": "2 µm"\n}\n'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{\n  "x": 1,\n  "y" 2\n}', r"a.json is not valid JSON: line 3, column 7"),
        (b"", r"a.json is not valid JSON: line 1, column 1"),
        (b"\xff\xfe", r"a.json cannot be read: .*utf-8"),
        (b"[" * 100_000, r"a.json cannot be read: .*recursion"),
    ],
)
def test_what_is_no_json_is_named_with_its_place(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(PlanError, match=sentence):
        read_json(tmp_path / "a.json", PlanError)


def test_a_missing_file_or_a_folder_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone.json does not exist\."):
        read_json(tmp_path / "gone.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"ends": [{"x": 1}, {"x": 2, "z": 3}]}, r"line.json: ends.1.z: Extra inputs"),
        ({"ends": [{"x": 1}, {"y": 2}]}, r"line.json: ends.1.x: Field required"),
        ({"ends": [{"x": "one"}, {"y": 2}]}, r"line.json: ends.0.x: .*integer.* \(and 1 more\)"),
        ([1, 2], r"line.json: the whole file: "),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(
    tmp_path: Path, value: object, sentence: str
) -> None:
    (tmp_path / "line.json").write_text(json.dumps(value))
    with pytest.raises(PlanError, match=sentence):
        read_record(tmp_path / "line.json", Line, PlanError)


class Share(Record):
    share: float


@pytest.mark.parametrize("text", ["nan", "NAN", "inf", "-Infinity"])
def test_a_text_is_no_way_round_finite_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "share.json").write_text(json.dumps({"share": text}))
    with pytest.raises(DatasetError, match=r"share\.json: share: Input should be a finite number"):
        read_record(tmp_path / "share.json", Share)


def test_the_source_of_a_value_is_named() -> None:
    with pytest.raises(DatasetError, match=r"--set: x: Field required"):
        parse_record({}, Point, "--set")


def test_a_record_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Point(x=1).x = 2  # type: ignore[misc]


def test_equal_contents_have_equal_hashes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"same")
    second.write_bytes(b"same")
    assert content_hash(first) == content_hash(second)
    os.utime(second, (0, 0))
    assert content_hash(first) == content_hash(second)
    second.write_bytes(b"samf")
    assert content_hash(first) != content_hash(second)
    assert content_hash(first, second) != content_hash(second, first)


def test_the_order_of_keys_does_not_change_a_hash() -> None:
    assert value_hash({"a": 1, "b": [2]}) == value_hash({"b": [2], "a": 1})
    assert value_hash({"a": 1}) != value_hash({"a": 2})
    assert value_hash(Point(x=1)) == value_hash({"x": 1, "y": 0})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"x": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"x": NaN}', "NaN is no number"),
        (b'{"x": [-Infinity]}', "-Infinity is no number"),
        (b'{"x": 1e999}', "1e999 is no number"),
    ],
)
def test_numbers_that_are_none_are_no_json(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(PlanError, match=rf"a\.json is not valid JSON: .*{reason}"):
        read_json(tmp_path / "a.json", PlanError)


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\uDFFF": 1}'])
def test_half_a_character_is_refused_and_a_whole_one_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.json cannot be read: .*surrogates"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('"\\ud83d\\ude00"')
    assert read_json(tmp_path / "b.json") == "\N{GRINNING FACE}"
