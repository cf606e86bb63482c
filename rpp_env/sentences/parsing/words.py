"""Words around titles and numbers in replies, in the languages in which models answer."""

# ruff: noqa: RUF001 - the lists contain Cyrillic words
from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Sequence
from functools import lru_cache

__all__ = [
    "JOINING",
    "NOUN",
    "affirmed",
    "announces",
    "chooses",
    "compares",
    "kind_of",
    "refuses",
]

_RANKS = "rank position pos rang rango posicion puesto lugar platz posto место 名次 位次 ランク"
_NUMBERS = (
    "id candidate choice no nr number num index idx item doc document passage option entry "
    "nummer numero candidato candidat kandidat kandidatennummer opcion номер кандидат "
    "编号 編號 序号 候选 候選 选项 番号 候補 번호 후보"
)
_TITLES = (
    "title name movie film song track album artist band game product book show series "
    "titel titre titulo titolo nome nom название фильм 电影 片名 标题 名称 书名 歌手 "
    "映画 タイトル 作品 名前 영화 제목"
)
_OTHER = (
    "score relevance probability prob likelihood confidence rating weight similarity "
    "points year runtime match percent percentage step tier group level part user "
    "评分 分数 スコア 점수"
)
_REASONS = (
    "reason reasoning reasons why explanation because note notes comment genre genres "
    "rationale justification description summary director cast plot theme themes history "
    "analysis similar liked enjoyed watched loved fans comparable grund raison razon motivo "
    "理由 原因 说明 이유"
)
_LABELS = "ranking ranked order place classement 排名 排序 順位 순위"
_KINDS: dict[str, str] = {}
for _kind, _words in (
    ("other", _OTHER),
    ("reason", _REASONS),
    ("title", _TITLES),
    ("number", _NUMBERS),
    ("rank", _RANKS),
    ("label", _LABELS),
):
    _KINDS |= dict.fromkeys(_words.split(), _kind)

_BEFORE_NUMBERS = [
    word
    for words in (_RANKS, _NUMBERS, _TITLES, "place")
    for word in words.split()
    if word.isalpha() and word not in ("show", "entry")
]
_LONGEST_FIRST = "|".join(sorted(_BEFORE_NUMBERS, key=len, reverse=True))
NOUN = rf"(?=[^\W\d_])(?:(?:{_LONGEST_FIRST})(?:[ _](?:id|no|number|nr))?)"
"""Nouns before a number: "Candidate 3", "Movie #3", "Rank 3"."""

JOINING = (
    r"and|then|next|first|second|third|fourth|fifth|last|lastly|finally|followed by|after that"
    r"|after it|und|dann|zuletzt|et|puis|ensuite|enfin|y|luego|e|poi|depois|и|затем"
)
"""Words between the entries of a list in one line."""

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ANNOUNCES = re.compile(
    r"rank|answer|result|final|refined|revised|updated|output|response|list|order|recommend|top\b|"
    r"réponse|classement|antwort|rangliste|reihenfolge|respuesta|clasificación|risposta|classifica|"
    r"resposta|ответ|рейтинг|список|答|排|结果|結果|推荐|推薦|ランキング|順位|回答|순위|답|결과|추천",
    re.IGNORECASE,
)

_REFUSAL = re.compile(
    r"\b(?:can(?:no|')t|can not|cannot|can’t|unable to|not able to|won['’]t|will not|would not|"
    r"wouldn['’]t|do not recommend|don['’]t recommend|not recommended|refuse to|decline to|"
    r"no puedo|ne peux pas|kann (?:\w+ ){0,4}nicht|non posso|não posso|не могу)\b"
    r"|无法|不能|不会推荐|できません|できない|할 수 없|수 없습니다",
    re.IGNORECASE,
)

_NOT = r"(?:(?:do|does|did|is|are|was|were|would|should|could|have|has|had|ca|wo)n['’]?t|not|never)"
_NEGATION = re.compile(
    rf"\b(?:{_NOT}|cannot|no|nothing|nobody|none|neither|nor|without|lacks?|avoid|skip|hates?"
    r"|dislikes?|refuses?|impossible|unfamiliar|unaware|nicht|keinen?|jamais|nunca)\b",
    re.IGNORECASE,
)
_NEGATED_AFTER = re.compile(
    r" *(?:(?:is|are|was|were|do|does|did|has|have|will|would|can|could|should|may|might) "
    r"(?:be )?)?"
    rf"(?:{_NOT}|cannot|no|nothing|impossible)\b",
    re.IGNORECASE,
)
_NO_NEGATION = re.compile(  # phrases that contain a negation but do not refuse
    r"\b(?:not (?:only|just|to be missed)|(?:no|without) (?:a )?(?:doubt|question)|why not"
    r"|no (?:other|better|choice)|nothing (?:beats|but)"
    rf"|(?:{_NOT}|cannot) (?:go wrong|wait|miss|skip|overlook|mind|hesitate|regret"
    r"|disappoints?|fails?"
    r"|be (?:disappointed|bored|sorry)|(?:yet )?(?:seen|watched|rated)(?: yet)?))\b",
    re.IGNORECASE,
)

_CLAUSES = re.compile(r"[,;:()]|\s[-–—]\s|\b(?:but|so|although|because|since|while|then)\b")

_LIKED = re.compile(
    r"\b(?:you|user|viewer|they|he|she|i|we|have|has)(?:['’]ve)? (?:\w+ ){0,2}"
    r"(?:liked?|likes|enjoy(?:ed|s)?|loved?|loves|watched|seen|saw|rated)\b"
    r"|\b(?:similar to|because of|due to|based on|fans? of|history|reminiscent of|in the vein of)\b"
    r"|看过|喜欢|好き|見た|좋아",
    re.IGNORECASE,
)
_CHOOSES = re.compile(
    r"\b(?:recommend(?:ation)?|suggest(?:ion)?|choose|choice|pick|go with|rank(?:ing)?|best"
    r"|favou?rite|first|top|answer|next)\b|推荐|推薦|おすすめ|추천",
    re.IGNORECASE,
)

_AFTER_ALL = re.compile(
    r"\b(?:but|however|nevertheless|still|instead|here|aber|pero|mais)\b|但|ただ|しかし|하지만",
    re.IGNORECASE,
)


def announces(label: str) -> bool:
    """Return whether a label announces a ranking, in words such as "Final answer:"."""
    return _ANNOUNCES.search(label) is not None


def refuses(sentence: str) -> bool:
    """Return whether a sentence refuses to do something, and offers nothing instead."""
    sentence = _NO_NEGATION.sub("", sentence)
    found = _REFUSAL.search(sentence)
    return found is not None and _AFTER_ALL.search(sentence, found.end()) is None


def affirmed(sentence: str, spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Return whether the clause around each of these titles affirms it rather than negating it.

    Parameters
    ----------
    sentence : str
    spans : sequence of pairs of int
        Start and end of each title, in order. Words in the titles themselves are ignored.
    """
    if not spans:
        return []
    bare = list(sentence)
    for start, end in spans:
        bare[start:end] = "_" * (end - start)
    text = _NO_NEGATION.sub(lambda found: "_" * len(found[0]), "".join(bare))
    clauses = [found.end() for found in _CLAUSES.finditer(text)]
    denials = [found.start() for found in _NEGATION.finditer(text)]
    stand = []
    for start, end in spans:
        i, j = bisect(clauses, start), bisect(denials, start)
        begin = clauses[i - 1] if i else 0
        said_before = j > 0 and denials[j - 1] >= begin
        stand.append(not said_before and _NEGATED_AFTER.match(text, end) is None)
    return stand


def compares(text: str) -> bool:
    """Return whether this text introduces what the user liked, not what is ranked."""
    return _LIKED.search(text) is not None


def chooses(sentence: str) -> int | None:
    """Return where a sentence begins to state its choice, if it does."""
    found = _CHOOSES.search(sentence)
    return None if found is None else found.end()


@lru_cache(maxsize=1 << 10)
def kind_of(key: str) -> str:
    """Return the kind of the value under a key; "" for an unknown key.

    "rank"; "number" of a candidate, or "title" (the value decides between "item: 3" and "item:
    Alien"); "label" for words that are a rank in an object and announce a list above one; "reason"
    and "other" (scores, years, parts of a list) for the rest. The last known word decides.
    """
    if key.strip() == "#":
        return "rank"
    if key[:1].islower():
        key = _CAMEL.sub(" ", key)  # "movieTitle"
    words = re.findall(r"[^\W\d_]+", key)
    for word in map(str.casefold, reversed(words)):
        if word in _KINDS:
            return _KINDS[word]
        if not word.isascii():  # no blanks between words
            for ending, kind in _KINDS.items():
                if not ending.isascii() and word.endswith(ending):
                    return kind
    return ""
