"""A secret in a recipe is refused, and never repeated."""

import pytest
from small_run import ROOT

from forethought.config.recipe_files import load_recipe

QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")
SECRET = "hunter2-and-more"
SERVER = ("judge.type=rating", "judge.engine.type=openai")
URL = "judge.engine.base_url=http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ((f"judge.engine.base_url=http://me:{SECRET}@localhost/v1",), "base_url"),
        ((f"judge.engine.base_url=http://{SECRET}@localhost/v1",), "base_url"),
        ((URL, f"judge.engine.extra_body.api_key={SECRET}"), "extra_body.api_key"),
        ((URL, f"judge.engine.extra_body={{h: [{{Authorization: {SECRET}}}]}}"), "extra_body.h.0"),
        ((URL, f"judge.engine.api_key={SECRET}"), "judge.engine.api_key"),
        ((URL, f"judge.engine.price={{token: {SECRET}}}"), "judge.engine.price"),
        ((f"judge.engine=[{{password: {SECRET}}}]",), "judge.engine"),
    ],
)
def test_its_place_is_named_and_it_is_not(words, place):
    with pytest.raises(ValueError, match="recipe") as error:
        load_recipe([QUICKSTART, *SERVER, *words])
    assert place in str(error.value)
    assert SECRET not in str(error.value)


def test_what_only_sounds_like_one_may_stand(tmp_path):
    body = "judge.engine.extra_body={max_tokens: 8, stop_token: x, prompt_cache_key: y}"
    recipe = load_recipe([QUICKSTART, *SERVER, URL, body, "judge.engine.api_key_env=KEY"])
    assert recipe.judge.identity()["engine"]["extra_body"]["max_tokens"] == 8
