"""Sources of what is installed: actions by digest, packages by hash, torch from one index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HASHES = {
    path.name.removesuffix(".hashes.txt"): path for path in ROOT.glob("constraints/*.hashes.txt")
}
EXTRAS = {
    "newest": ("agents", "llm", "study", "explanation", "transformers", "test", "dev"),
    "oldest": ("agents", "llm", "study", "test"),
    "peers": ("agents", "test"),
}
"""Extras that the Makefile's environments install, by their pins."""
WITH_TORCH = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def pins(path: Path) -> dict[str, str]:
    """Names and versions of a file of pins."""
    found = {}
    for line in path.read_text().splitlines():
        if match := re.match(r"([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", line, re.IGNORECASE):
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


@pytest.mark.parametrize("file", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda p: p.name)
def test_actions_are_named_by_digest(file: Path) -> None:
    used = re.findall(r"^\s*-?\s*uses:\s*(\S+)(.*)$", file.read_text(), re.MULTILINE)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action} does not say its version"


@pytest.mark.parametrize("name", HASHES)
def test_every_pin_has_a_hash(name: str) -> None:
    hashed, pinned = pins(HASHES[name]), pins(ROOT / "constraints" / f"{name}.txt")
    assert len(hashed) > (20 if name == "tools" else 80)
    for package, version in hashed.items():
        # Packages of other systems alone are not among the pins.
        assert pinned.get(package, version) == version, f"{package}: run `make hashes`"
    for block in re.split(r"\n(?=\S)", HASHES[name].read_text().strip()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]
        assert "://" not in block  # from the usual index alone


@pytest.mark.parametrize("name", EXTRAS)
def test_requirements_are_hashed(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in EXTRAS[name]:
        wanted += project["optional-dependencies"][extra]
    if name == "peers":
        lines = (ROOT / "constraints" / "peers.in").read_text().splitlines()
        wanted += [line for line in lines if not line.startswith("#")]
    hashed = pins(HASHES[name])
    for requirement in wanted:
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert found is not None
        plain = re.sub(r"[-_.]+", "-", found[0]).lower()
        if plain != "rpp-env" and not WITH_TORCH.fullmatch(plain):
            assert plain in hashed, f"{plain}: run `make hashes`"


def test_packages_are_installed_by_hash() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert set(HASHES) == {*EXTRAS, "tools"}
    for name in HASHES:
        assert re.search(rf"--require-hashes -r constraints/{name}\.hashes\.txt", makefile)
    for line in makefile.splitlines():
        # What is installed beside, by a version at least.
        if "pip install" in line and "--require-hashes" not in line:
            assert "-c " in line or "-c $(pins)" in line, line


def test_torch_comes_from_one_index() -> None:
    """An extra index would be asked for every package, and could offer any of them."""
    for path in (ROOT / "Makefile", *ROOT.glob(".github/**/*.yml"), *ROOT.glob("*.md")):
        assert "--extra-index-url" not in path.read_text(), path
    makefile = (ROOT / "Makefile").read_text()
    assert "--index-url $(TORCH_INDEX) --no-deps" in makefile
    for name in ("oldest", "peers", "vllm"):
        assert re.search(
            rf"\.venv-{name}/\.stamp:.*\n\t\$\(fresh-venv\)\n\t\$\(torch\)\n", makefile
        )
    for file in sorted((ROOT / "constraints").glob("*.txt")):
        if not file.name.endswith(".hashes.txt") and file.name != "tools.txt":
            assert re.search(r"^torch==[\d.]+$", file.read_text(), re.MULTILINE), file
