"""PyTorch's optimizers on the server against plain loops of PyTorch."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.algorithms import (
    BadSetting,
    Buffer,
    Contribution,
    FedAvg,
    FedBuff,
    FedOpt,
    TorchOptimizer,
    apply,
    new_state,
    walk,
)
from covey.algorithms.tensors import DTYPES, Layout

from .blobs import DIFF, F64, blob_of, folded, lanes_of, numbers

# Any: torch's optimizers take whatever they take.
Optim: Any = torch.optim
Schedulers: Any = torch.optim.lr_scheduler
SHAPES = {"conv": (2, 3, 2, 2), "number": (), "w": (4, 3), "bias": (5,), "one": (1,)}
STEPS = 6


def layout_of(dtype: str = "F64") -> Layout:
    return Layout.canonical([(n, DTYPES[dtype], s) for n, s in SHAPES.items()], "torch")


def muon_or_adamw(params: list[torch.Tensor], lr: float) -> Any:
    """Muon for matrices, AdamW for the rest."""
    return Optim.Muon(params, lr=lr) if params[0].ndim == 2 else Optim.AdamW(params, lr=lr)


def warm_up(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    first = Schedulers.LinearLR(optimizer, 0.1, total_iters=steps)
    second = Schedulers.ExponentialLR(optimizer, 0.9)
    return Schedulers.SequentialLR(optimizer, [first, second], [steps])


def falling(step: int) -> float:
    return 1 / (1 + step)


# A factory that chooses by shape cannot be given all tensors at a time: a group for each.
CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "SGD": (Optim.SGD, {"lr": 0.5}),
    "momentum": (Optim.SGD, {"lr": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "Adam": (Optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "AdamW": (Optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "fused": (Optim.AdamW, {"lr": 0.01, "fused": True}),
    "foreach": (Optim.Adam, {"lr": 0.01, "foreach": True}),
    "maximize": (Optim.SGD, {"lr": 0.5, "maximize": True}),
    "Adamax": (Optim.Adamax, {"lr": 0.01}),
    "NAdam": (Optim.NAdam, {"lr": 0.01}),
    "RAdam": (Optim.RAdam, {"lr": 0.01}),
    "Adagrad": (Optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.1}),
    "Adadelta": (Optim.Adadelta, {}),
    "RMSprop": (Optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "Rprop": (Optim.Rprop, {"lr": 0.01}),
    "ASGD": (Optim.ASGD, {"lr": 0.1}),
    "Adafactor": (Optim.Adafactor, {"lr": 0.1}),
    "by shape": (muon_or_adamw, {"lr": 0.02}),
}
COURSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "none": (None, {}),
    "cosine": (Schedulers.CosineAnnealingLR, {"T_max": STEPS}),
    "lambda": (Schedulers.LambdaLR, {"lr_lambda": falling}),
    "sequence": (warm_up, {"steps": 3}),
    "one cycle": (Schedulers.OneCycleLR, {"max_lr": 0.5, "total_steps": STEPS + 1}),
}


def made(case: str, course: str = "none") -> TorchOptimizer:
    (optimizer, args), (scheduler, more) = CASES[case], COURSES[course]
    return TorchOptimizer(optimizer, args, scheduler=scheduler, scheduler_args=more)


def deltas(seed: int = 1) -> list[dict[str, F64]]:
    random = np.random.default_rng(seed)
    return [
        {n: np.asarray(random.standard_normal(s) * 0.1) for n, s in SHAPES.items()}
        for _ in range(STEPS)
    ]


def start() -> dict[str, F64]:
    random = np.random.default_rng(7)
    return {n: np.asarray(random.standard_normal(s)) for n, s in SHAPES.items()}


def plain_loop(
    case: str, course: str, given: Sequence[dict[str, F64]], rounded: bool = False
) -> dict[str, F64]:
    """What anybody would write with PyTorch; a list of optimizers only for those by shape."""
    (optimizer, args), (scheduler, more) = CASES[case], COURSES[course]
    params = {n: torch.tensor(value, dtype=torch.float64) for n, value in start().items()}
    groups = [[p] for p in params.values()] if case == "by shape" else [list(params.values())]
    optimizers = [optimizer(group, **args) for group in groups]
    schedulers = [scheduler(each, **more) for each in optimizers if scheduler is not None]
    for delta in given:
        for name, param in params.items():
            param.grad = -torch.tensor(delta[name])
        for each in (*optimizers, *schedulers):
            each.step()
        for param in params.values() if rounded else ():
            param.copy_(param.float())
    return {name: param.numpy() for name, param in params.items()}


def by_rounds(
    rule: FedOpt, given: Sequence[dict[str, F64]], dtype: str = "F64"
) -> Iterator[tuple[bytearray, dict[str, F64]]]:
    """The model and the state after each of the rounds of one site."""
    layout = layout_of(dtype)
    model, state = blob_of(layout, start()), new_state(layout, rule)
    for number, delta in enumerate(given, 1):
        updates = [Contribution("s", 2.0, DIFF, blob_of(layout, delta))]
        model = folded(model, layout, updates, rule, state, number)
        yield model, state


def check(model: Any, expected: dict[str, F64], dtype: str, within: float) -> None:
    for name, value in expected.items():
        own = numbers(model, layout_of(dtype), name)
        np.testing.assert_allclose(own, value.reshape(-1), rtol=within, atol=within)


@pytest.mark.parametrize("case", CASES)
def test_an_optimizer_does_what_a_plain_loop_does(case: str) -> None:
    *_, (model, _) = by_rounds(FedOpt(made(case)), deltas())
    check(model, plain_loop(case, "none", deltas()), "F64", 1e-12)


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("case", ["momentum", "AdamW", "by shape"])
def test_a_scheduler_does_what_a_plain_loop_does(case: str, course: str) -> None:
    *_, (model, _) = by_rounds(FedOpt(made(case, course)), deltas())
    check(model, plain_loop(case, course, deltas()), "F64", 1e-12)


@pytest.mark.parametrize("case", ["Adam", "Adafactor", "by shape"])
def test_a_float32_model_is_rounded_once_in_each_step(case: str) -> None:
    *_, (model, _) = by_rounds(FedOpt(made(case, "cosine")), deltas(), "F32")
    check(model, plain_loop(case, "cosine", deltas(), rounded=True), "F32", 1e-6)


@pytest.mark.parametrize("case", ["SGD", "NAdam", "Adafactor"])
def test_a_buffer_steps_as_a_round_does(case: str) -> None:
    layout, rule = layout_of(), FedBuff(buffer_size=2, optimizer=made(case, "lambda"))
    buffer = Buffer(rule.answers(layout), rule.params_type)
    model, state = blob_of(layout, start()), new_state(layout, rule)
    for number, delta in enumerate(deltas(), 1):
        for factor in (0.5, 1.5):  # of which the mean is 1
            part = blob_of(layout, {name: value * factor for name, value in delta.items()})
            buffer.add(part, 1.0, DIFF)
        sums, new = buffer.swap(), bytearray()
        apply(model, layout, sums, rule, new.extend, state=state, number=number)
        buffer.give_back(sums)
        model = new
    check(model, plain_loop(case, "lambda", deltas()), "F64", 1e-12)


@given(
    case=st.sampled_from(sorted(CASES)),
    course=st.sampled_from(sorted(COURSES.keys() - {"one cycle"})),  # not of each optimizer
    seed=st.integers(0, 1000),
    cut=st.integers(1, STEPS - 1),
)
@settings(max_examples=25, deadline=None)
def test_a_step_depends_on_model_arrays_and_number_alone(
    case: str, course: str, seed: int, cut: int
) -> None:
    given_ = deltas(seed)
    whole = [(bytes(m), {n: a.tobytes() for n, a in s.items()})
             for m, s in by_rounds(FedOpt(made(case, course)), given_)]  # fmt: skip
    layout, other = layout_of(), FedOpt(made(case, course))  # of another process, say
    model: Any = whole[cut - 1][0]
    state = {n: np.frombuffer(a, np.float64).copy() for n, a in whole[cut - 1][1].items()}
    for number in range(cut + 1, STEPS + 1):
        updates = [Contribution("s", 2.0, DIFF, blob_of(layout, given_[number - 1]))]
        folded(model, layout, updates, other, {n: a.copy() for n, a in state.items()}, number)
        model = folded(model, layout, updates, other, state, number)  # made again, after a fault
        expected = whole[number - 1]
        assert (bytes(model), {n: a.tobytes() for n, a in state.items()}) == expected
    first = [Contribution("s", 2.0, DIFF, blob_of(layout, given_[0]))]
    anew = folded(blob_of(layout, start()), layout, first, other, state, 1)
    assert (bytes(anew), {n: a.tobytes() for n, a in state.items()}) == whole[0]


def test_a_tensor_of_many_blocks_is_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [bytes(model) for model, _ in by_rounds(FedOpt(made("Adafactor")), deltas())]
    monkeypatch.setattr(walk, "BLOCK_LANES", 3)
    monkeypatch.setattr(walk, "CHUNK_BYTES", 16)
    layout, rule = layout_of(), FedOpt(made("Adafactor"))
    model, state, lengths = blob_of(layout, start()), new_state(layout, rule), list[int]()
    from covey.algorithms import fold

    for number, delta in enumerate(deltas(), 1):
        updates, new = [Contribution("s", 1.0, DIFF, blob_of(layout, delta))], bytearray()

        def write(data: memoryview, new: bytearray = new) -> None:
            lengths.append(len(data))
            new.extend(data)

        fold(model, layout, updates, rule, write, state=state, number=number)
        model = new
        assert bytes(model) == whole[number - 1]
    assert max(length for length in lengths if length != layout.data_start) == 16


def test_integers_bools_and_excluded_variables_are_none_of_its_business() -> None:
    layout = Layout.canonical(
        [("w", DTYPES["F32"], (5, 2)), ("steps", DTYPES["I64"], (2,)),
         ("mask", DTYPES["BOOL"], (3,)), ("head", DTYPES["F32"], (2,)),
         ("nothing", DTYPES["F32"], (0, 3))], "torch",
    )  # fmt: skip
    old = blob_of(layout, {"w": np.ones(10), "steps": [3, 4], "mask": [1, 0, 1], "head": [7, 8],
                           "nothing": []})  # fmt: skip
    rule = FedOpt(made("AdamW"), exclude_vars=["head"])
    updates = [
        Contribution(f"s{i}", 1.0 + i, DIFF, blob_of(rule.answers(layout), {
            "w": np.arange(10.0), "steps": [10 * i, 1], "mask": [0, 1, 1], "nothing": []}))
        for i in range(2)
    ]  # fmt: skip
    state = new_state(layout, rule)
    ours = folded(old, layout, updates, rule, state)
    plain = folded(old, layout, updates, FedAvg(exclude_vars=["head"]))
    for name in ("steps", "mask", "head"):
        np.testing.assert_array_equal(lanes_of(ours, layout, name), lanes_of(plain, layout, name))
    assert (numbers(ours, layout, "w") != numbers(plain, layout, "w")).any()


def test_complex_numbers_are_pairs_as_they_are_for_torch() -> None:
    layout = Layout.canonical([("z", DTYPES["C64"], (3,))], "torch")
    pairs, delta = np.arange(6.0), np.linspace(-1, 1, 6)
    rule = FedOpt(made("AdamW"))
    updates = [Contribution("s", 1.0, DIFF, blob_of(layout, {"z": delta}))]
    old = blob_of(layout, {"z": pairs})
    new = folded(old, layout, updates, rule, new_state(layout, rule))
    z = torch.tensor(pairs.reshape(3, 2)).view(3, 2)
    z = torch.view_as_complex(z.contiguous())
    optimizer = Optim.AdamW([z], **CASES["AdamW"][1])
    z.grad = torch.view_as_complex(-torch.tensor(delta.reshape(3, 2)))
    optimizer.step()
    expected = torch.view_as_real(z).numpy().reshape(-1)
    np.testing.assert_allclose(numbers(new, layout, "z"), expected, rtol=1e-6)


def test_a_schedule_and_a_delay_scale_the_learning_rate() -> None:
    rule = FedOpt(made("momentum", "cosine"), schedule=lambda number: 0.5)
    *_, (model, _) = by_rounds(rule, deltas())
    halved = TorchOptimizer(
        Optim.SGD, CASES["momentum"][1] | {"lr": 0.25}, scheduler=Schedulers.CosineAnnealingLR,
        scheduler_args={"T_max": STEPS},
    )  # fmt: skip
    *_, (expected, _) = by_rounds(FedOpt(halved), deltas())
    np.testing.assert_allclose(
        numbers(model, layout_of(), "w"), numbers(expected, layout_of(), "w")
    )


def by_fan_in(params: list[torch.Tensor]) -> Any:
    """A learning rate that depends on the tensor's shape."""
    return Optim.SGD(params, lr=1.0 / max(1, params[0].numel()))


def test_a_scheduler_keeps_settings_that_depend_on_the_shape() -> None:
    halving = {"gamma": 0.5}
    rule = TorchOptimizer(by_fan_in, scheduler=Schedulers.ExponentialLR, scheduler_args=halving)
    rule.check([(4, 10), (2, 5), (7,)])
    for shape in ((4, 10), (2, 5), (7,), ()):
        for number in (1, 2):
            old, out = np.zeros(shape), np.empty(shape)
            rule.step(np.ones(shape), old, out, {}, number)
            np.testing.assert_allclose(out, 0.5 ** (number - 1) / max(1, old.size))


def of_one(params: list[torch.Tensor]) -> Any:
    """Takes a list of one tensor, as is promised."""
    (param,) = params
    return Optim.AdamW([param], lr=0.01 if param.ndim > 1 else 0.1)


def test_a_function_is_promised_one_tensor_and_needs_to_take_no_more() -> None:
    assert TorchOptimizer(of_one).state_names == TorchOptimizer(Optim.AdamW).state_names


def own_rate_of_one(params: list[torch.Tensor]) -> Any:
    (param,) = params
    return OwnRate([param])


def test_an_optimizer_of_one_tensor_is_tried_too() -> None:
    with pytest.raises(BadSetting, match="changes its own settings"):
        TorchOptimizer(own_rate_of_one).check()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_rule_can_be_copied_after_use(copied: Callable[[Any], Any]) -> None:
    rule = made("momentum", "cosine")
    model = list(by_rounds(FedOpt(rule), deltas()))[-1][0]
    other = copied(rule)
    assert repr(other) == repr(rule)
    again = list(by_rounds(FedOpt(other), deltas()))[-1][0]
    np.testing.assert_array_equal(
        numbers(again, layout_of(), "w"), numbers(model, layout_of(), "w")
    )


# What is refused ----------------------------------------------------------------


class Optimizer(torch.optim.Optimizer):
    """Gradient descent, with a quirk of each subclass."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for param in group["params"]:
                self.quirk(param, group)

    def quirk(self, param: Any, group: Any) -> None:
        raise AssertionError


class Together(Optimizer):
    def step(self, closure: Any = None) -> Any:
        params = self.param_groups[0]["params"]
        norm = sum(param.grad.square().sum() for param in params) ** 0.5
        for param in params:
            param.sub_(param.grad / norm)


class Chance(Optimizer):
    def quirk(self, param: Any, group: Any) -> None:
        param.add_(torch.randn_like(param))


class OwnRate(Optimizer):
    def quirk(self, param: Any, group: Any) -> None:
        group["lr"] *= 0.5


class Lists(Optimizer):
    def quirk(self, param: Any, group: Any) -> None:
        self.state[param].setdefault("history", []).append(1.0)


class Matrices(Optimizer):
    def quirk(self, param: Any, group: Any) -> None:
        self.state[param]["factor"] = torch.eye(max(param.numel(), 2))


class Late(Optimizer):
    """Keeps something more from the fifth step."""

    def quirk(self, param: Any, group: Any) -> None:
        state = self.state[param]
        state["step"] = state.get("step", 0) + 1
        state["late"] = None if state["step"] < 5 else torch.zeros(())


class Elsewhere(Optimizer):
    def quirk(self, param: Any, group: Any) -> None:
        everything: Any = self.state
        everything["all"] = {"steps": 1}


def no_optimizer(params: Any) -> Any:
    return params


def of_others(params: Any) -> Any:
    return Optim.SGD([torch.zeros(2)])


def no_scheduler(optimizer: Any) -> Any:
    return 3


def misspelt(optimizer: Any) -> Any:
    return optimizer.lr


REFUSED: list[tuple[TorchOptimizer, str]] = [
    (TorchOptimizer(Optim.LBFGS), "LBFGS cannot step: .*closure"),
    (TorchOptimizer(Optim.SparseAdam), "SparseAdam cannot step: .*dense gradients"),
    (TorchOptimizer(Optim.AdamW, {"learning_rate": 0.1}), "AdamW: .*learning_rate"),
    (TorchOptimizer(Optim.AdamW, {"lr": -0.1}), "AdamW: .*-0.1"),
    (TorchOptimizer(no_optimizer), "no optimizer"),
    (TorchOptimizer(of_others), "one group, of what it is given"),
    (TorchOptimizer(Together), "looks at several tensors at a time"),
    (TorchOptimizer(Chance), "or at chance"),
    (TorchOptimizer(OwnRate), "changes its own settings"),
    (TorchOptimizer(Lists), "keeps a list, 'history'"),
    (TorchOptimizer(Matrices), "keeps 144 numbers, 'factor', of a tensor of 12"),
    (TorchOptimizer(Elsewhere), "belongs to no tensor"),
    (TorchOptimizer(Optim.SGD, scheduler=Schedulers.ReduceLROnPlateau), "cannot step: .*metrics"),
    (TorchOptimizer(Optim.SGD, scheduler=Schedulers.StepLR), "StepLR: .*step_size"),
    (TorchOptimizer(Optim.SGD, scheduler=misspelt), "'SGD' object"),
    (TorchOptimizer(Optim.SGD, scheduler=no_scheduler), "no scheduler"),
]


@pytest.mark.parametrize(("optimizer", "match"), REFUSED, ids=[match for _, match in REFUSED])
def test_what_cannot_work_is_told_when_a_rule_is_made_of_it(
    optimizer: TorchOptimizer, match: str
) -> None:
    for rule in (FedOpt, FedBuff):
        with pytest.raises(BadSetting, match=match) as caught:
            rule(optimizer=optimizer)
        assert caught.value.setting in ("optimizer", "scheduler")


def test_shapes_of_a_model_are_tried_when_they_are_given() -> None:
    muon = TorchOptimizer(Optim.Muon)
    muon.check([(4, 3), (100, 7), (0, 2)])
    with pytest.raises(BadSetting, match=r"Muon: .*2D"):
        muon.check([(4, 3), (7,)])


def test_an_optimizer_that_keeps_something_new_later_ends_the_step() -> None:
    rounds = by_rounds(FedOpt(TorchOptimizer(Late)), deltas())
    with pytest.raises(BadSetting, match=r"changes its form: it keeps other things .*'late'"):
        list(rounds)


def test_making_one_imports_no_torch_and_using_one_draws_no_random_numbers() -> None:
    code = """
        import sys
        from covey.algorithms import FedOpt, TorchOptimizer
        def adam(params, lr):
            import torch
            return torch.optim.Adam(params, lr=lr)
        optimizer = TorchOptimizer(adam, {"lr": 0.1})
        assert "torch" not in sys.modules
        assert repr(optimizer) == "TorchOptimizer(adam, {'lr': 0.1})"
        import torch
        before = torch.random.get_rng_state()
        assert FedOpt(optimizer).state_names == ("exp_avg", "exp_avg_sq", "step")
        assert torch.equal(torch.random.get_rng_state(), before)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
