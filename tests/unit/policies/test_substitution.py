"""Replacing in a text that arrives in pieces: the same as in the whole, and nothing held without need."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import regex
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from luthien.formats.jsontext import paired
from luthien.policies.builtin.open_pattern import OpenPattern
from luthien.policies.builtin.substitution import GrowingText, MatchTimeout, Substitution, TimeLimit

UNBOUNDED = 1 << 40

# Letters whose upper and lower case are not one to one, a combining mark, and a noncharacter.
ALPHABET = "aaabbcA1 \n\rſsßé\u0301\U0010ffff"
TEXTS = st.text(st.sampled_from(ALPHABET), max_size=12)
CHARACTERS = st.sampled_from(
    ["a", "b", "c", "A", "ab", "s", "ß", "1", " ", ".", r"\w", r"\W", r"\d", r"\s", r"\S", r"\n", r"\R", r"\p{L}"]
    + [r"\P{Lu}", "[ab]", "[^a]", "[a-c1]", "[[:alpha:]]", r"[^b\n]", "[]a]", r"[\w$]", r"\.", r"\x61"]
)
REPEATS = st.sampled_from(
    ["?", "*", "+", "{2}", "{1,2}", "{2,}", "{,2}", "??", "*?", "+?", "{1,2}?", "?+", "*+", "++", "{1,2}+"]
)
ASSERTIONS = st.sampled_from([r"\b", r"\B", "^", "$", r"\A", r"\Z", r"\m", r"\M"])
OPENINGS = st.sampled_from(["(?:", "(", "(?>", "(?i:", "(?s:", "(?m:", "(?=", "(?!", "(?P<n>", "(?-i:"])


def joined(parts: st.SearchStrategy[str], max_size: int = 3) -> st.SearchStrategy[str]:
    return st.lists(parts, min_size=1, max_size=max_size).map("".join)


LOOKBEHINDS = st.builds(
    "{}{})".format,
    st.sampled_from(["(?<=", "(?<!"]),
    joined(st.one_of(CHARACTERS, CHARACTERS.map("{}?".format), CHARACTERS.map("{}{{1,2}}".format), st.just("^|"))),
)


def larger(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        joined(smaller),
        st.builds("(?:{}){}".format, smaller, REPEATS),
        st.builds("{}{})".format, OPENINGS, smaller),
        st.lists(smaller, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.builds(r"({}){}\1{}".format, smaller, smaller, st.one_of(st.just(""), REPEATS)),
    )


PATTERNS = st.builds(
    "{}{}".format,
    st.sampled_from(["", "", "", "(?i)", "(?m)", "(?s)", "(?ims)", "(?a)"]),
    st.recursive(st.one_of(CHARACTERS, CHARACTERS, ASSERTIONS, LOOKBEHINDS), larger, max_leaves=8),
)

KNOWN_PATTERNS = [
    *("secret", "a|ab", "ab|a", "abc|b", "a|aa|aaa", r"\bab\b", r"\Bb", "^a", "b$", r"a\Z", "(?m)^ab$", "(?i)ab+c"),
    *("(?s)a.*b", "(?s)a.*?b", "a.*b", "[ab]{2,4}", "(?:ab)+", "(?:ab)+?c", "(?:a.)+", "(?:a.)++", "(?>a+)b", "a++b"),
    *("a(?=b)", "a(?!b)", r"a(?!\b)", r"a(?!\w*1)", "(?<=a)b", "(?<!a)b", r"(?<=^|\n)a", r"(?<=\n)", r"(a+)b\1"),
    *(r"(?i)(a)\1", r"\b\p{L}+\b", r"\p{Lu}\p{Ll}*", r"\b\d+\b", "(?i)ß", "(?i)ſ", r"\w+@\w+", r"\R", r"\m\w+\M"),
    *("a$", "(?m)a$", r"(?s).\Z", "a{3}", "a{2,}?b", "(?:x|.*?)(?<=b)", r"(a)?b\1", "(?:(a)|b)*c", "(?:a|b|ab)*1"),
]


def halved(text: str) -> str:
    """The text as one who counts in UTF-16 cuts it: other characters as the two halves of a surrogate pair."""
    return "".join(
        char if char < "\U00010000" else char.encode("utf-16-be")[at : at + 2].decode("utf-16-be", "surrogatepass")
        for char in text
        for at in (range(0, 4, 2) if char >= "\U00010000" else (0,))
    )


def substitution(pattern: str, replace: str = r"<\g<0>>") -> Substitution:
    try:
        return Substitution(pattern, replace, is_regex=True)
    except ValueError:
        assume(False)  # it may match nothing at all, or refer to a group that is still open
        raise


def in_pieces(rule: Substitution, pieces: list[str], max_held_chars: int = UNBOUNDED) -> str:
    """The text as a stream of pieces leaves it, settled part by settled part."""
    growing = GrowingText(rule, max_held_chars, TimeLimit(5))
    whole = "".join(pieces)
    result: list[str] = []
    done = settled = 0
    for edits in [*(growing.add(piece) for piece in pieces), growing.end()]:
        assert growing.settled >= settled
        settled = growing.settled
        for edit in edits:
            assert done <= edit.start < edit.end <= settled
            result += (whole[done : edit.start], edit.text)
            done = edit.end
    assert settled == growing.length == len(whole)
    return "".join([*result, whole[done:]])


def in_whole(rule: Substitution, text: str) -> str:
    return rule.apply(text, TimeLimit(5))[0]


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[str]:
    text = draw(texts)
    if draw(st.booleans()):
        return list(text)
    at = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


class TestInPieces:
    @settings(max_examples=600)
    @given(PATTERNS, st.lists(cut(TEXTS), min_size=3, max_size=8))
    @example(r"a(?!\b)", [["a", "b"]])
    @example("a$", [["a", "\n", "b"], ["a", "\n"]])
    @example("(?:b.)+", [["b", "a", "b", "1"]])
    @example("(?:x|.*?)(?<=1)", [[" ", " ", "1"]])
    @example(r"(?:x|(?:[a-c])*?)(?<=a?ab|b)", [[*"caab"]])
    @example("a\U0010ffff?", [["a", "\U0010ffff"]])
    @example(r"(?a)(?:\bß1)", [["1", "ß", "1"]])
    def test_replacing_in_pieces_is_replacing_in_the_whole(self, pattern: str, cuts: list[list[str]]) -> None:
        rule = substitution(pattern)
        for pieces in cuts:
            assert in_pieces(rule, pieces) == in_whole(rule, "".join(pieces))

    @settings(max_examples=300)
    @given(PATTERNS, cut(TEXTS.map(halved)), st.integers(1, 4))
    @example("\U0010ffff", ["\udbff", "\udfff"], 1)
    @example("a.", ["a", "\udbff", "", "\udfff"], 1)
    @example(r"\w+", [*"a\udbff\udfffb\udbff\udfff"], 1)
    @example("a", ["a" * 300, "\udbff", "\udfffa", "\udbff", "\udfffa"], 1)
    def test_a_character_that_was_cut_in_two_is_one(self, pattern: str, pieces: list[str], times: int) -> None:
        rule = substitution(pattern)
        pieces = [*map(paired, pieces)] * times  # none holds both halves: JSON has them as one
        assert paired(in_pieces(rule, pieces)) == in_whole(rule, paired("".join(pieces)))

    @pytest.mark.parametrize("held", [1, 2, 3])
    def test_a_half_whose_other_half_comes_too_late_or_never_is_kept(self, held: int) -> None:
        rule = Substitution("b.*c", "-", is_regex=True)
        for pieces in (
            ["b", "\udbff", "\udfff", "c"],
            ["bc\udbff"],
            ["\udbff", "a", "\udfff"],
            ["bbb\udbff", "\udfff"],
        ):
            rest = in_pieces(rule, pieces, held).replace("-", "")
            assert rest in {"".join(pieces), "".join(pieces).replace("bc", ""), ""}

    @pytest.mark.parametrize("pattern", KNOWN_PATTERNS)
    def test_so_it_is_for_each_known_construct(self, pattern: str) -> None:
        rule = Substitution(pattern, r"<\g<0>>", is_regex=True)

        @settings(max_examples=40)
        @given(cut(st.text(st.sampled_from("aabbc1A\n @ſß"), max_size=14)))
        def holds(pieces: list[str]) -> None:
            assert in_pieces(rule, pieces) == in_whole(rule, "".join(pieces))

        holds()

    @given(st.text("ab", min_size=1, max_size=4), cut(st.text("ab", max_size=14)))
    def test_so_it_is_for_literal_text(self, find: str, pieces: list[str]) -> None:
        rule = Substitution(find, r"\1", is_regex=False)
        assert in_pieces(rule, pieces) == "".join(pieces).replace(find, r"\1")

    @given(cut(TEXTS), cut(TEXTS), st.sampled_from([r"\bab?", "(?<=a.{9})b|a+", "(?m)^a|b", "(?<!a)b"]))
    def test_so_it_is_after_much_text_that_is_forgotten(
        self, first: list[str], last: list[str], pattern: str
    ) -> None:
        """What lies far behind is dropped, but not what a match may look back at."""
        rule = Substitution(pattern, r"<\g<0>>", is_regex=True)
        pieces = [*first, "1" * 300, *"1\na", "b" * 300, *last, "a" * 9, *last]
        assert in_pieces(rule, pieces) == in_whole(rule, "".join(pieces))

    def test_a_long_text_is_not_kept(self) -> None:
        growing = GrowingText(Substitution("(?<=b{9})a", "", is_regex=True), UNBOUNDED, TimeLimit(5))
        for _ in range(100):
            growing.add("b" * 100)
        assert growing.length == growing.settled == 10_000
        assert len(growing._text) < 1000

    def test_a_template_may_use_what_the_match_captured(self) -> None:
        rule = Substitution(r"(\w+)@(?P<host>\w+)", r"\g<host> of \1", is_regex=True)
        assert in_pieces(rule, [*"ab@c, d@ef"]) == "c of ab, ef of d"

    def test_a_group_that_took_no_part_is_empty_in_the_template(self) -> None:
        rule = Substitution("(a)|b", r"<\1>", is_regex=True)
        assert in_pieces(rule, [*"ab"]) == "<a><>"

    def test_empty_matches_are_none(self) -> None:
        rule = Substitution("(?=a)|b", "x", is_regex=True)
        assert in_whole(rule, "aba") == in_pieces(rule, [*"aba"]) == "axa"


class TestHeld:
    @given(st.text("ab", min_size=1, max_size=4), cut(st.text("abc", max_size=12)))
    def test_of_literal_text_only_what_may_begin_a_match_is_held(self, find: str, pieces: list[str]) -> None:
        growing = GrowingText(Substitution(find, "", is_regex=False), UNBOUNDED, TimeLimit(5))
        whole, matched_to = "", 0
        for piece in pieces:
            whole += piece
            edits = growing.add(piece)
            matched_to = edits[-1].end if edits else matched_to
            held = whole[growing.settled :]
            assert find.startswith(held)
            assert held != find
            longest = [n for n in range(len(find)) if n <= len(whole) - matched_to and whole.endswith(find[:n])]
            assert len(held) == max(longest)

    @pytest.mark.parametrize(
        ("pattern", "text", "held"),
        [
            ("ab", "xab", ""),
            ("a|ab", "xa", ""),
            ("ab|a", "xa", "a"),
            ("ab|a", "xab", ""),
            ("a+", "xaa", "aa"),
            ("a+?", "xaa", ""),
            ("a{2}", "xaa", ""),
            ("a+b", "xaac", ""),
            (r"\bab\b", "x ab", "ab"),
            (r"\bab\b", "x abc", ""),
            (r"\d{3}-\d{4}", "call 555-12", "555-12"),
            (r"sk-\w{4}", "my sk-abcd", ""),
            ("a(?!b)", "xa", "a"),
            ("b$", "ab", "b"),
            ("b$", "ab\n", "b\n"),
            ("(?<=a)b", "xa", ""),
        ],
    )
    def test_what_no_more_text_can_change_is_settled(self, pattern: str, text: str, held: str) -> None:
        growing = GrowingText(Substitution(pattern, "", is_regex=True), UNBOUNDED, TimeLimit(5))
        growing.add(text)
        assert text[growing.settled :] == held

    @given(st.lists(st.text("ab", max_size=9), max_size=20), st.integers(1, 12))
    def test_no_more_is_held_than_allowed(self, pieces: list[str], max_held_chars: int) -> None:
        growing = GrowingText(Substitution("a[^c]*c", "", is_regex=True), max_held_chars, TimeLimit(5))
        for piece in pieces:
            growing.add(piece)
            assert growing.length - growing.settled <= max_held_chars

    @given(st.lists(st.text("abc", max_size=6), max_size=12), st.integers(1, 8))
    def test_what_outgrows_that_is_decided_on_what_is_there(self, pieces: list[str], max_held_chars: int) -> None:
        rule = Substitution("a+c", "-", is_regex=True)
        result = in_pieces(rule, pieces, max_held_chars)
        assert result.replace("-", "c").replace("a", "").replace("b", "") == "c" * "".join(pieces).count("c")

    def test_after_the_end_of_a_text_more_of_it_is_a_text_of_its_own(self) -> None:
        growing = GrowingText(Substitution("ab", "x", is_regex=False), UNBOUNDED, TimeLimit(5))
        assert growing.add("a") == []
        assert growing.end() == []
        assert [(edit.start, edit.end) for edit in growing.add("bab")] == [(2, 4)]


class TestHostile:
    PATTERN = "(?:a|aa)+b"
    TEXT = "a" * 60 + "c"

    def test_a_pattern_that_backtracks_without_end_is_stopped_in_a_whole_text(self) -> None:
        rule = Substitution(self.PATTERN, "", is_regex=True)
        with pytest.raises(MatchTimeout, match=r"matching took longer than 0\.05 s"):
            rule.apply(self.TEXT, TimeLimit(0.05))

    def test_so_it_is_in_a_stream(self) -> None:
        growing = GrowingText(Substitution(self.PATTERN, "", is_regex=True), UNBOUNDED, TimeLimit(0.05))
        with pytest.raises(MatchTimeout):
            growing.add(self.TEXT)

    def test_what_succeeds_at_once_in_the_whole_does_so_in_pieces(self) -> None:
        """It must not be tried in every other way as well."""
        rule = Substitution(r"(?:\w+ ?)+", "", is_regex=True)
        text = "one two three four five six seven eight nine ten eleven twelve!"
        assert in_pieces(rule, [text, text]) == "!!"

    def test_many_matches_share_one_limit(self) -> None:
        limit = TimeLimit(0.05)
        rule = Substitution("a", "", is_regex=False)
        with pytest.raises(MatchTimeout):
            while True:
                rule.apply("a" * 1000, limit)

    def test_the_limit_begins_anew_when_it_is_restarted_and_grows_with_the_text(self) -> None:
        limit = TimeLimit(1e-9)
        rule = Substitution("a", "", is_regex=False)
        with pytest.raises(MatchTimeout):
            rule.apply("a", limit)
        limit.restart(chars=10**16)
        assert rule.apply("a", limit) == ("", 1)
        limit.restart()
        with pytest.raises(MatchTimeout):
            rule.apply("a", limit)

    def test_only_the_time_of_the_thread_that_matches_counts(self) -> None:
        limit = TimeLimit(0.05)
        rule = Substitution("a", "", is_regex=False)
        rule.apply("a", limit)
        threading.Event().wait(0.1)
        assert rule.apply("a", limit) == ("", 1)

    def test_a_search_that_other_threads_cut_short_begins_anew(self) -> None:
        """The engine counts the time of all threads: here it says at once, and often, that all is used up."""
        cut_short = iter([True] * 30)

        def look(text: str, start: int, *, partial: bool, timeout: float) -> regex.Match[str] | None:
            assert 0 < timeout <= 5
            if next(cut_short, False):
                raise TimeoutError
            return regex.compile("a").search(text, start, partial=partial, timeout=timeout)

        found = TimeLimit(5).find(look, "bab", 0)
        assert found is not None
        assert found.start() == 1

    def test_but_not_for_ever(self) -> None:
        """However little of the time was its own."""
        asked: list[int] = []

        def look(text: str, start: int, *, partial: bool, timeout: float) -> None:
            asked.append(start)
            threading.Event().wait(0.05)
            raise TimeoutError

        with pytest.raises(MatchTimeout):
            TimeLimit(0.01).find(look, "bab", 0)
        assert len(asked) <= 6

    def test_each_thread_has_a_clock_of_its_own(self) -> None:
        limit = TimeLimit(0.05)
        rule = Substitution("a", "", is_regex=False)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(rule.apply, "a", limit).result() == ("", 1)
        while time.thread_time() < 0.1:
            pass
        assert rule.apply("a", limit) == ("", 1)

    def test_held_text_is_not_searched_from_every_position_each_time(self) -> None:
        """The engine is asked first where it was undecided before, and only there."""
        asked: list[int] = []

        class Noted(TimeLimit):
            def find(self, look: object, text: str, start: int, *, partial: bool = False) -> regex.Match[str] | None:
                asked.append(start)
                return super().find(look, text, start, partial=partial)  # type: ignore[arg-type]

        growing = GrowingText(Substitution("(?s)a.*b", "", is_regex=True), UNBOUNDED, Noted(5))
        growing.add("xxa")
        asked.clear()
        for _ in range(10):
            growing.add("aaaa")
        assert asked == [2] * 10


class TestMistakes:
    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("(", r"not a regular expression: missing \) at position 1"),
            ("a**", "not a regular expression: multiple repeat"),
            (r"\1", "not a regular expression: invalid group reference"),
            ("a*", "matches the empty text"),
            ("", "matches the empty text"),
            ("^|a", "matches the empty text"),
        ],
    )
    def test_what_is_no_pattern_is_refused(self, pattern: str, message: str) -> None:
        with pytest.raises(ValueError, match=message) as raised:
            Substitution(pattern, "", is_regex=True)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        ("pattern", "construct"),
        [
            (r"a\Gb", r"\G"),
            (r"a\Kb", r"\K"),
            (r"\X", r"\X"),
            ("(?x)a b", "(?x)"),
            ("(?x:a b)", "(?x:"),
            ("(?r)ab", "(?r)"),
            ("(?V1)[a--b]", "(?V1"),
            ("(?if)ß", "(?if"),
            ("(?w)a", "(?w)"),
            (r"b(?a)\w", "(?a)"),
            (r"(?a:\w)", "(?a:"),
            ("(?b)(?:ab){e<=1}", "(?b)"),
            ("(?:ab){e<=1}", "{"),
            ("(?:ab){i<=1,d<=1}", "{"),
            ('{"a"}', "{"),
            (r"\((?:[^()]|(?R))*\)", "(?R)"),
            ("(a)(?1)", "(?1)"),
            ("(?P<n>a)(?&n)", "(?&n"),
            ("(?P<n>a)(?P>n)", "(?P>"),
            ("(a)?(?(1)b|c)", "(?(1"),
            ("(?|(a)|(b))", "(?|("),
            ("(?#note)a", "(?#n"),
            ("a(*SKIP)b", "(*"),
            ("a(*FAIL)|b", "(*"),
        ],
    )
    def test_a_construct_of_which_no_prefix_can_be_judged_is_refused(self, pattern: str, construct: str) -> None:
        """A mistake in the configuration is better than a match that goes unnoticed when a stream is cut in it."""
        with pytest.raises(ValueError, match=regex.escape(f"{construct} is not supported")):
            Substitution(pattern, "", is_regex=True)

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("(?<=a*)b", "repeat anything without bound"),
            ("(?<!a+)b", "repeat anything without bound"),
            ("(?<=(?:a{2,})?)b", "repeat anything without bound"),
            (r"(a)(?<=\1)b", r"\\1 is not supported in a lookbehind"),
            (r"(?<=a\b)b", r"\\b is not supported in a lookbehind"),
            ("(?<=a$)b", r"\$ is not supported in a lookbehind"),
            ("(?<=a(?=b))b", r"\(\?= is not supported in a lookbehind"),
        ],
    )
    def test_a_lookbehind_may_only_look_back_and_not_for_ever(self, pattern: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Substitution(pattern, "", is_regex=True)

    @pytest.mark.parametrize(
        ("pattern", "chars"),
        [
            ("ab", 0),
            ("(?<=abc)d", 3),
            (r"(?<=\R)d", 2),
            ("(?<!a|bcd|ef)d", 3),
            ("(?<=a{3}b?)d", 4),
            (r"(?<=(?:ab){2,3}[cd]{,2}|\p{L})d", 8),
            ("(?<=a(?<=bcd))e(?<=f)", 4),
            ("(?<=^|,)d", 1),
            ("(?<=(?:ab){0})d", 0),
        ],
    )
    def test_how_far_a_match_looks_back_is_known(self, pattern: str, chars: int) -> None:
        assert OpenPattern(pattern).lookbehind_chars == chars

    def test_a_brace_can_be_written_escaped(self) -> None:
        assert in_whole(Substitution(r"\{a\}", "x", is_regex=True), "{a}") == "x"

    @pytest.mark.parametrize("replace", [r"\2", r"\g<x>", r"\q", r"\g<"])
    def test_a_template_that_does_not_fit_the_pattern_is_refused(self, replace: str) -> None:
        with pytest.raises(ValueError, match="not a replacement for this pattern"):
            Substitution("(a)", replace, is_regex=True)

    def test_literal_text_is_neither_pattern_nor_template(self) -> None:
        rule = Substitution("a.*{(", r"\1\g<x>", is_regex=False)
        assert in_whole(rule, "a.*{( ab{(") == r"\1\g<x> ab{("
