"""Code that would fail at every client is found before anything starts, with its file and line."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import pytest

from covey.recipes import ConfigError, FedEvalRecipe, TrainContext, batched

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab


def one_argument(params: dict[str, Any]) -> dict[str, Any]:
    return params


def three_arguments(params: dict[str, Any], ctx: TrainContext, lr: float) -> dict[str, Any]:
    return params


class Trainer:
    def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        return params

    def train(self, params: dict[str, Any], ctx: TrainContext, *rest: int, lr: float = 0.1) -> Any:
        return params


@pytest.mark.parametrize(
    ("function", "name", "line"),
    [
        (one_argument, "one_argument", "def one_argument("),
        (three_arguments, "three_arguments", "def three_arguments("),
        (functools.partial(one_argument, {}), "partial", "def one_argument("),
        (lambda: None, "<lambda>", "(lambda: None,"),
        (Trainer(), "Trainer", "def __call__("),
    ],
)
def test_a_function_of_a_wrong_signature_is_told_with_its_place(
    lab: Lab, function: Any, name: str, line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        lab.recipe(train=function)
    assert caught.value.setting == "train"
    told, file, source = str(caught.value).splitlines()
    assert told.startswith(f"train: {name}(")
    assert told.endswith(f"it should be {name}(params, ctx)")
    assert file.startswith(f'  File "{__file__}", line ')
    assert source.strip().startswith(line)
    assert not lab.folders()


def anything(*arguments: Any) -> Any:
    return arguments[0]


def with_lr(function: Any) -> Any:
    """Supplies an argument that clients do not give."""

    @functools.wraps(function)
    def inner(params: dict[str, Any], ctx: TrainContext) -> Any:
        return function(params, ctx, 0.1)

    return inner


def without_context(function: Any) -> Any:
    """Takes one argument, whatever it wraps."""

    @functools.wraps(function)
    def alone(params: dict[str, Any]) -> Any:
        return function(params, None)

    return alone


#: `dict` has no signature that could be read.
GOOD: list[Any] = [functools.partial(three_arguments, lr=0.1), anything, Trainer().train, dict]


@pytest.mark.parametrize("function", GOOD)
def test_whatever_takes_two_arguments_is_a_function(lab: Lab, function: Any) -> None:
    recipe = lab.recipe(train=function, evaluate=function)
    assert (recipe.train, recipe.evaluate) == (function, function)


def test_a_decorator_may_supply_arguments_of_what_it_wraps(lab: Lab) -> None:
    for function in (with_lr(three_arguments), batched(with_lr(three_arguments))):
        recipe = lab.recipe(train=function, evaluate=function)
        assert recipe.train is recipe.evaluate is function


def test_what_a_decorator_makes_is_looked_at_and_not_what_it_wraps(lab: Lab) -> None:
    for function in (without_context(anything), batched(without_context(anything))):
        with pytest.raises(ConfigError, match=r"^train: anything\(params\)") as caught:
            lab.recipe(train=function)
        assert str(caught.value).splitlines()[-1].strip().startswith("@functools.wraps(")


def test_a_batched_function_is_looked_at(lab: Lab) -> None:
    wrong: Any = batched(one_argument)
    with pytest.raises(ConfigError, match=r"^train: one_argument\("):
        lab.recipe(train=wrong)


def test_a_function_that_evaluates_is_looked_at_too(lab: Lab) -> None:
    good, wrong = Trainer().train, cast("Any", one_argument)
    with pytest.raises(ConfigError, match=r"^evaluate: one_argument"):
        lab.recipe(train=good, evaluate=wrong)
    with pytest.raises(ConfigError, match=r"^evaluate: one_argument"):
        FedEvalRecipe(initial_model={"w": [0.0]}, evaluate=wrong)
    with pytest.raises(ConfigError, match=r"^train: one_argument"):
        lab.recipe(train=good).replace(train=wrong)


@pytest.mark.parametrize(
    ("file", "text", "why", "line"),
    [
        ("client.py", "import helper\ndef f(:\n", "SyntaxError", 2),
        ("client.py", "x = 1\n\nreturn x\n", "SyntaxError: 'return' outside function", 3),
        ("client.py", "if True:\nprint()\n", "IndentationError", 2),
        ("helper.py", "x = (\n", "SyntaxError: '(' was never closed", 1),
    ],
)
def test_a_script_that_is_no_python_is_told_before_anything_starts(
    lab: Lab, file: str, text: str, why: str, line: int
) -> None:
    (lab.folder / "helper.py").write_text("")
    lab.client(text="import helper\n")
    (lab.folder / file).write_text(text)
    with pytest.raises(ConfigError) as caught:
        lab.recipe().execute(lab.env())
    assert caught.value.setting == "train_script"
    assert str(caught.value).startswith(f"train_script: {why}")
    assert f'\n  File "{lab.folder / file}", line {line}\n' in str(caught.value)
    assert not lab.folders()


def test_warnings_of_a_scripts_syntax_are_no_errors(lab: Lab) -> None:
    path = lab.client("'\\d'")
    assert r"'\d'" in path.read_text()
    lab.recipe(num_rounds=1).execute(lab.env(1))
