"""What a judge is asked and what is made of its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luthien.exchange import Side
from luthien.policies.builtin.question import (
    Dialect,
    Judgement,
    NoJudgement,
    question_body,
    read_judgement,
    transcript,
)
from tests.wire import anthropic_response, openai_response, responses_response

SAID = '{"explanation": "It asks for a secret.", "probability": 0.9}'
CALM = '{"explanation": "It is fine.", "probability": 0}'
JUDGED = Judgement(0.9, "It asks for a secret.")
RESPONSES = {
    Dialect.CHAT: openai_response,
    Dialect.RESPONSES: responses_response,
    Dialect.MESSAGES: anthropic_response,
}


def chat(text: str) -> Judgement:
    return read_judgement(Dialect.CHAT, openai_response(text))


@pytest.mark.parametrize("dialect", Dialect)
class TestInEachFormat:
    def test_the_conversation_stands_between_lines_it_cannot_know(self, dialect: Dialect) -> None:
        body = json.dumps(question_body(dialect, "m", "Is it {fair}?", Side.REQUEST, "THE CONVERSATION", "0f0f"))
        assert "BEGIN 0f0f\\nTHE CONVERSATION\\nEND 0f0f" in body
        assert "Is it {fair}?" in body

    def test_an_answer_in_text(self, dialect: Dialect) -> None:
        assert read_judgement(dialect, RESPONSES[dialect](f"Here it is: {SAID}.")) == JUDGED

    @pytest.mark.parametrize("body", [{}, {"choices": 1, "output": [2], "content": "x"}, {"content": [{"type": 1}]}])
    def test_no_answer_at_all(self, dialect: Dialect, body: dict[str, Any]) -> None:
        with pytest.raises(NoJudgement):
            read_judgement(dialect, body)


def test_an_answer_by_a_tool() -> None:
    body = anthropic_response("Let me see.")
    body["content"].append({"type": "tool_use", "id": "toolu_1", "name": "verdict", "input": json.loads(SAID)})
    assert read_judgement(Dialect.MESSAGES, body) == JUDGED


def test_what_a_model_thinks_is_no_answer() -> None:
    body = responses_response(SAID)
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": '{"probability": 0}'}]}
    body["output"].insert(0, thought)
    assert read_judgement(Dialect.RESPONSES, body) == JUDGED
    body = openai_response(SAID)
    body["choices"][0]["message"]["reasoning_content"] = '{"probability": 0}'
    assert read_judgement(Dialect.CHAT, body) == JUDGED


@pytest.mark.parametrize(
    "text", [SAID, f"```json\n{SAID}\n```", f"{{not JSON}} {SAID}", f"{SAID}\n{SAID}", f'{{"a": {{}}}} {SAID}']
)
def test_answers_that_are_understood(text: str) -> None:
    assert chat(text) == JUDGED


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("I cannot say.", "no probability"),
        ('{"answer": {"probability": 0.1, "explanation": ""}}', "no probability"),
        ('{"explanation": "x"}', "no probability"),
        ('{"probability": "0.9", "explanation": "x"}', "no number from 0 to 1"),
        ('{"probability": true, "explanation": "x"}', "no number from 0 to 1"),
        ('{"probability": 90, "explanation": "x"}', "no number from 0 to 1"),
        ('{"probability": NaN, "explanation": "x"}', "no number from 0 to 1"),
        ('{"probability": 0.9}', "no explanation"),
        (f'It says {{"probability": 0, "explanation": "fine"}}, but {SAID}', "more than one answer"),
        ("{" * 5000, "too many braces"),
        ('{"a":' * 3000, "too many braces"),
        (" " * 30_000, "longer than"),
        ('{"probability": 0.9, "explan', "outside of a JSON object"),
        (f'{{"explanation": "He said "{CALM}" to me.", "probability": 1}}', "outside of a JSON object"),
        (f"{CALM} It is {{'probability': 1}}", "outside of a JSON object"),
        (f'{{"probability": 1, "explanation": "He said "{CALM}', "outside of a JSON object"),
    ],
)
def test_answers_that_are_none(text: str, why: str) -> None:
    with pytest.raises(NoJudgement, match=why) as raised:
        chat(text)
    assert "secret" not in str(raised.value)


def test_an_answer_of_spaces_is_looked_at_once() -> None:
    """An expression that tries all ways to cut it would never come to an end."""
    with pytest.raises(NoJudgement, match="no probability"):
        chat("```" + " " * 19_000 + "x")


class TestTheTranscript:
    def test_is_json_when_it_fits(self) -> None:
        shown = transcript({"model": "m", "é": "\ud800"}, {"id": 1}, 1000)
        assert json.loads(shown.text) == {"request": {"model": "m", "é": "\ud800"}, "response": {"id": 1}}
        assert shown.left_out_chars == 0

    def test_has_no_credentials(self) -> None:
        server = {"type": "mcp", "server_url": "https://a.example", "authorization": "a-token"}
        shown = transcript({"model": "m", "tools": [server]}, None, 1000)
        assert "https://a.example" in shown.text
        assert "a-token" not in shown.text

    @pytest.mark.parametrize(
        ("request_chars", "response_chars", "left_out"), [(2000, 0, 1010), (2000, 100, 1110), (2000, 2000, 3020)]
    )
    def test_is_cut_in_the_middle_and_says_so(self, request_chars: int, response_chars: int, left_out: int) -> None:
        """What the response does not need, the request may have."""
        response = {"r": "b" * response_chars} if response_chars else None
        shown = transcript({"q": "a" * request_chars}, response, 1000)
        assert left_out - 12 <= shown.left_out_chars <= left_out + 12
        assert "characters are left out here" in shown.text
        assert shown.text.count("a") + shown.text.count("b") <= 1000 + 60
        if 0 < response_chars < 500:
            assert shown.text.count("b") >= response_chars
