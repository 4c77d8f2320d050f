"""How many values an attribute of metrics may have, whoever chooses them."""

from __future__ import annotations

from luthien.telemetry.conventions import OTHER
from luthien.telemetry.vocabulary import MAX_MODELS, MAX_UNPROVEN_MODELS, ModelNames, Vocabulary


def test_ten_thousand_names_make_two_hundred_values_and_one_for_the_rest() -> None:
    vocabulary = Vocabulary()
    said = [vocabulary.of(f"model-{number}") for number in range(10_000)]
    assert said[:200] == [f"model-{number}" for number in range(200)]
    assert {*said[200:]} == {OTHER}
    assert vocabulary.of("model-7") == "model-7"


def test_what_cannot_be_exported_is_cleaned_and_what_is_long_is_cut() -> None:
    """So that names which differ only there are one, and little is kept of any."""
    vocabulary = Vocabulary(2)
    assert vocabulary.of("\ud800") == vocabulary.of("\udfff") == vocabulary.of("\x00") == "\ufffd"
    assert vocabulary.of("m" * 10_000_000) == vocabulary.of("m" * 200) == "m" * 128
    assert vocabulary.of("one too many") == OTHER


def test_names_that_are_made_up_use_up_nobody_elses_place() -> None:
    models = ModelNames()
    made_up = {models.of(f"made-up-{number}") for number in range(10_000)}
    assert len(made_up) == MAX_UNPROVEN_MODELS + 1
    assert models.of("real") == OTHER
    models.prove("real")
    assert models.of("real") == "real"


def test_what_is_proven_makes_room_and_is_bounded_too() -> None:
    models = ModelNames()
    said = set()
    for number in range(1000):
        said.add(models.of(f"model-{number}"))
        models.prove(f"model-{number}")
        said.add(models.of(f"model-{number}"))
    assert len(said) == MAX_MODELS + MAX_UNPROVEN_MODELS + 1
    assert models.of("model-7") == "model-7"
