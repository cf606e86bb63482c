"""Files from others: too large or malicious content is refused, in bounded memory."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rpp_env.data import atomic, load_dataset, make_tasks, read_selection
from rpp_env.errors import InvalidData, RPPError

GOOD = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
    f"u{u}\ti{(u + k) % 30}\t{k}\n" for u in range(6) for k in range(4)
)
ITEM = "item_id:token\ttitle:token_seq\tyear:token\tbrand:token\tgenre:token_seq\n"


def folder_of(root: Path, titles: dict[int, str] | None = None, **columns: str) -> Path:
    """A small folder: some titles, and one year, brand and genre for all."""
    folder = root / "small"
    folder.mkdir()
    (folder / "small.inter").write_text(GOOD, encoding="utf-8")
    rest = "\t".join(columns.get(name, "") for name in ("year", "brand", "genre"))
    rows = [f"i{i}\t{(titles or {}).get(i, f'Film {i}')}\t{rest}\n" for i in range(30)]
    (folder / "small.item").write_text(
        ITEM + "".join(rows), encoding="utf-8", errors="surrogatepass", newline="\n"
    )
    return folder


def in_little_memory(code: str, *words: str, megabytes: int = 700) -> subprocess.CompletedProcess:
    """Run code in a process that may not hold more."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    return subprocess.run(
        [sys.executable, "-c", code, *words],
        preexec_fn=limit,
        env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


LOAD = """
import sys
from rpp_env.data import load_dataset
from rpp_env.errors import InvalidData
try:
    load_dataset(sys.argv[1])
except InvalidData as error:
    print(error)
"""

needs_limits = pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory")


def gzip_of_zeros(path: Path, start: bytes, megabytes: int) -> None:
    """A gzip file of many members, each 64 MiB of zeros."""
    member = gzip.compress(b"0" * (1 << 26), 1)
    path.write_bytes(gzip.compress(start) + member * (megabytes // 64))


@needs_limits
def test_a_small_gzip_file_of_gigabytes_is_refused_in_little_memory(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "small.inter").unlink()
    gzip_of_zeros(folder / "small.inter.gz", GOOD.encode() + b"u0\ti1\t", 2000)
    assert (folder / "small.inter.gz").stat().st_size < 10_000_000
    done = in_little_memory(LOAD, str(folder))
    assert "unpacks to more than 200 times its size" in done.stdout, done.stderr


@needs_limits
def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with (folder / "small.item").open("r+b") as file:
        file.truncate(20 << 30)  # sparse: it takes no room
    began = time.perf_counter()
    done = in_little_memory(LOAD, str(folder))
    assert "holds more than 1,073,741,824 bytes" in done.stdout, done.stderr
    assert time.perf_counter() - began < 20


def test_the_limit_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)
    monkeypatch.setattr(atomic, "MAX_TEXT", 100)
    with pytest.raises(InvalidData, match=r"more than 100 bytes.* rpp_env\.data\.atomic"):
        load_dataset(folder)
    monkeypatch.setattr(atomic, "MAX_TEXT", 10_000)
    load_dataset(folder)


def test_gzip_that_packs_well_is_no_bomb(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    text = GOOD + "u0\ti1\t5\n" * 20_000
    (folder / "small.inter").unlink()
    (folder / "small.inter.gz").write_bytes(gzip.compress(text.encode()))
    read = load_dataset(folder)
    assert len(read.items) == 20_024


@pytest.mark.parametrize(
    "title",
    [
        "Z" + "\u0301\u0323" * 60_000,
        "\u0301" * 120_000,
        "&#" + "9" * 5000 + ";",
        "&amp;#" + "9" * 4000,
        "&#x" + "f" * 3000 + ";Film",
        "&" * 100_000,
        "<b " * 50_000,
        "(a, The" * 20_000,
        "Film, The" * 20_000,
        "(" * 100_000,
        "x" * 900_000,
        "<|" * 50_000,
        "#" * 100_000,
        "\u200d" * 100_000,
    ],
    ids=lambda title: f"{title[:8].encode('unicode_escape').decode()} x {len(title):,}",
)
def test_endless_titles_take_no_time(tmp_path: Path, title: str) -> None:
    folder = folder_of(tmp_path, {3: title})
    began = time.perf_counter()
    data = load_dataset(folder, domain="movies")
    assert time.perf_counter() - began < 3
    assert all(0 < len(title) <= 120 for title in data.titles)


@pytest.mark.parametrize("column", ["year", "brand", "genre"])
def test_endless_notes_do_not_make_endless_titles(tmp_path: Path, column: str) -> None:
    folder = folder_of(tmp_path, {1: "Owl", 2: "Owl"}, **{column: "y" * 500_000})
    rows = (folder / "small.item").read_text().split("\n")
    rows[2] = rows[2].replace("y" * 500_000, "z" * 500_000)
    (folder / "small.item").write_text("\n".join(rows))
    data = load_dataset(folder)
    assert max(map(len, data.titles)) <= 120
    assert max(len(genre) for genres in data.genres for genre in genres or ("",)) <= 4096


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "u" * 300 + "\ti1\t5\n", r"line 26, column user_id: .* got 300 characters"),
        (GOOD + "\u200b\ti1\t5\n", r"line 26, column user_id: .* got nothing that can be seen"),
        (GOOD + "u1\ti1\t" + "1" * 400 + "\n", r"line 26, column timestamp: expected a number"),
        (GOOD + "u1\ti1\t" + "9" * 5000 + "\n", r"line 26, column timestamp: expected a number"),
        ("x:token\t" * 200_000, r"line 1: expected a header, got 1,600,000 characters"),
        (GOOD + "u1\ti1\t1" + "0" * 10_000_000 + "\n", r"line 26: expected at most 1,048,576"),
    ],
    ids=["long id", "unseen id", "infinite", "digits", "header", "row"],
)
def test_too_long_fields_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    folder = folder_of(tmp_path)
    (folder / "small.inter").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidData, match=message) as caught:
        load_dataset(folder)
    assert len(str(caught.value)) < 600


def test_a_selection_is_bounded_and_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path)
    data = load_dataset(folder)
    (folder / "selected").mkdir()
    file = folder / "selected" / "small.all"
    file.write_text("u0 \ti1  i2\u00a0i3\n", encoding="utf-8")
    assert read_selection("all", data)[0].tolist() == [1, 2, 3]
    file.write_text("u0\ti1\u2028u1\ti2\n", encoding="utf-8")
    with pytest.raises(InvalidData, match="line 1"):
        read_selection("all", data)
    monkeypatch.setattr(atomic, "MAX_TEXT", 4)
    with pytest.raises(InvalidData, match="more than 4 bytes"):
        read_selection("all", data)


# ---- what enters ----

STEERS = [
    "\x1b[2J",
    "\x1b]0;x\x07",
    "\x9b31m",
    "\r",
    "\u2028",
    "\u202e",
    "\u200b",
    "\u2066",
    "\ufeff",
    "\x00",
]
MARKS = ["[INST]", "<<SYS>>", "<|im_start|>", "### Instruction:", "</s>", "<start_of_turn>"]


@pytest.mark.parametrize("odd", STEERS + MARKS, ids=ascii)
def test_nothing_that_steers_reaches_a_prompt(tmp_path: Path, odd: str) -> None:
    """By titles, brands and years that tell equal titles apart, ids, and genres."""
    folder = tmp_path / "small"
    folder.mkdir()
    safe = odd.replace("\t", "").replace("\n", "")
    (folder / "small.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n"
        + "".join(f"u{safe}{u}\ti{safe}{(u + k) % 40}\t{k}\n" for u in range(6) for k in range(5)),
        encoding="utf-8",
        newline="\n",
    )
    kinds = ["Same", f"Same{safe}", f"T{safe}{{}}", "By brand", "By year"]
    rows = [
        f"i{safe}{i}\t{kinds[i % 5].format(i)}\t{i}{safe}\tB{safe}{i}\tG{safe}|H\n"
        for i in range(40)
    ]
    (folder / "small.item").write_text(ITEM + "".join(rows), encoding="utf-8", newline="\n")
    data = load_dataset(folder, domain="movies")
    tasks = make_tasks(data, range(6), num_candidates=10)
    texts = [*data.titles, *data.item_tokens, *data.user_tokens]
    texts += [genre for genres in data.genres for genre in genres]
    texts += [text for i in range(6) for text in (tasks.task(i).user, *tasks.task(i).candidates)]
    bad = [odd] if odd in MARKS else list(set(odd) - set(map(chr, range(32, 127))))
    assert not [text for text in texts if any(b in text for b in bad)]
    assert all(text == " ".join(text.split()) for text in texts)
    assert tasks.task(0).candidates == tuple(data.titles[i] for i in tasks.candidates[0])


def test_surrogates_are_removed_from_your_own_datasets(tmp_path: Path, making) -> None:
    with pytest.raises(InvalidData, match="expected UTF-8"):
        load_dataset(folder_of(tmp_path, {1: "a\ud800"}))
    data = making.of([[0, 1, 2]], 30, titles=("\ud800Owl\x1b[2J", *(f"F{i}" for i in range(29))))
    assert data.titles[0] == "Owl [2J"


# ---- genres ----


@pytest.mark.parametrize(
    ("written", "genres"),
    [
        ("Action|Drama", ("Action", "Drama")),
        ("Action | Film Noir", ("Action", "Film Noir")),
        ("|Action||Drama|", ("Action", "Drama")),
        ("Action, Film Noir", ("Action", "Film Noir")),
        ("Action;Drama", ("Action", "Drama")),
        ("Action Drama", ("Action", "Drama")),
        ("['Action', 'Drama']", ("Action", "Drama")),
        ("'Hair Care', 'Make-up & Co'", ("Hair Care", "Make-up & Co")),
        ("Action|Action", ("Action",)),
        ("(no genres listed)|Drama", ("Drama",)),
        ("", ()),
        ("  ", ()),
    ],
)
def test_genres_are_parted_as_they_are_written(
    tmp_path: Path, written: str, genres: tuple[str, ...]
) -> None:
    assert load_dataset(folder_of(tmp_path, genre=written)).genres[0] == genres


def test_a_column_with_bars_is_parted_by_bars_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    file = folder / "small.item"
    rows = file.read_text().split("\n")
    rows[1] += "Film Noir"
    rows[2] += "Drama|Film Noir"
    rows[3] += "Food, Drink"
    file.write_text("\n".join(rows))
    genres = load_dataset(folder).genres
    assert genres[:3] == (("Film Noir",), ("Drama", "Film Noir"), ("Food, Drink",))


@pytest.mark.parametrize("name", ["ml-1m", "ml-100k", "ml-latest-small"])
def test_genres_of_real_files(real, name: str) -> None:
    known = {genre for genres in real(name).genres for genre in genres}
    assert 18 <= len(known) <= 20
    assert {"Action", "Drama", "Sci-Fi", "Film-Noir"} <= known


# ---- whole folders ----


@pytest.mark.parametrize("name", ["small.inter", "small.item"])
@pytest.mark.parametrize("kind", ["folder", "device", "loop", "pipe", "utf16", "nul"])
def test_files_that_are_none_end_in_a_sentence(tmp_path: Path, name: str, kind: str) -> None:
    folder = folder_of(tmp_path)
    file = folder / name
    text = file.read_text()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "utf16":
        file.write_bytes(text.encode("utf-16"))
    else:
        file.write_bytes(b"\0" * 1000)
    with pytest.raises(RPPError) as caught:
        load_dataset(folder)
    assert len(str(caught.value)) < 600
