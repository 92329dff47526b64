"""PyTorch's optimizers and schedulers as server optimizers.

Here: one step of a torch optimizer for one tensor of the model, and what it keeps as plain arrays.
Not here: the rules of the literature (`optimizers.py`), the mean (`fedopt.py`, `fedbuff.py`), who
keeps the arrays (the driver). torch is imported by the first use, not by this module.

Theory of operation. A step is a function of its inputs: it may be made again, by another process,
to the same bits. So nothing lives on between steps. For each tensor an optimizer is made anew, what
it kept is put into it, it steps, and what it keeps is taken out: every number goes to the first
places of an array that is as long as the tensor, which float64 holds exactly. Which numbers there
are, and of which type, is learnt from an optimizer of a tensor of the same shape. A scheduler sees
no tensor: what it does to the settings is found by counting to the number of the step, for each
shape, on which an optimizer's settings may depend.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np

from .errors import BadSetting
from .optimizers import State
from .tensors.dtypes import F64

if TYPE_CHECKING:
    import torch

Shape: TypeAlias = tuple[int, ...]
# Any: the settings of one of torch's parameter groups, and what an optimizer keeps of a tensor.
Settings: TypeAlias = dict[str, Any]
Kept: TypeAlias = Mapping[str, Any]

#: Tensors that an optimizer is tried on: of a linear layer, of a convolution, a bias, a number.
_TRIAL_SHAPES: Final[tuple[Shape, ...]] = ((4, 3), (2, 3, 2, 2), (5,), ())
_TRIAL_STEPS: Final = 3  # what appears late, such as momentum, appears in the second
_TRIAL_DISTANCE: Final = 1e-9  # rounding may depend on where a tensor lies, other things may not

#: Held while a scheduler is counted, for a moment; of all rules, so that a rule can be copied.
_COUNTING: Final = threading.Lock()


class TorchOptimizer:
    """An optimizer of PyTorch on the server, with one of its schedulers if wanted.

    For each tensor w of the model, in each step:

    1. w.grad = -delta, the mean difference's negative.
    2. optimizer.step()
    3. scheduler.step()

    The arithmetic is in float64. What the optimizer keeps is part of the checkpoint, as numbers. It
    must keep tensors, numbers or None, no more numbers than the tensor has, and of each tensor by
    itself. So these are refused: LBFGS, which asks for further gradients; SparseAdam, which takes
    no dense ones; and ReduceLROnPlateau, which asks for a metric.

    Args:
        optimizer: A class such as `torch.optim.AdamW`, or a function. It is called with a list
            of one tensor and gives an optimizer. A function may choose by the tensor's shape, such
            as Muon for matrices and AdamW for the rest, or a learning rate by fan-in.
        args: Its keyword arguments, such as `{"lr": 0.01}`.
        scheduler: A class such as `torch.optim.lr_scheduler.CosineAnnealingLR`, or a function. It
            is called with the optimizer.
        scheduler_args: Its keyword arguments, such as `{"T_max": 50}`.
    """

    #: An optimizer may look at a tensor as a whole.
    whole_tensors: Final = True

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        args: Mapping[str, Any] | None = None,
        *,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        scheduler_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.args = dict(args or {})
        self.scheduler = scheduler
        self.scheduler_args = dict(scheduler_args or {})
        self._name = str(getattr(optimizer, "__name__", optimizer))
        self._learn_anew()

    def _learn_anew(self) -> None:
        self._forms: dict[Shape, _Form] = {}
        self._names: tuple[str, ...] | None = None
        self._courses: dict[Shape, _Course] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The settings; a copy learns for itself what it must know of tensors."""
        learnt = {"_forms", "_names", "_courses"}
        return {name: value for name, value in vars(self).items() if name not in learnt}

    def __setstate__(self, settings: Mapping[str, Any]) -> None:
        vars(self).update(settings)
        self._learn_anew()

    def __repr__(self) -> str:
        scheduled = ""
        if self.scheduler is not None:
            name = getattr(self.scheduler, "__name__", self.scheduler)
            scheduled = f", scheduler={name}, scheduler_args={self.scheduler_args}"
        return f"TorchOptimizer({self._name}, {self.args}{scheduled})"

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the optimizer keeps, by its own names.

        Raises:
            BadSetting: As `check`.
        """
        if self._names is None:
            self._names = self._try()
        return self._names

    def check(self, shapes: Iterable[Shape] = ()) -> None:
        """Try the settings and the scheduler out, on small tensors and on zeros of these shapes.

        Raises:
            BadSetting: The optimizer or the scheduler cannot be made or cannot step, or it keeps
                what cannot be kept.
        """
        names = self.state_names
        for shape in dict.fromkeys(shapes):
            if 0 not in shape and not {entry.name for entry in self._form(shape)} <= set(names):
                raise BadSetting("optimizer", f"{self._name} keeps other things of {shape}")
            if self.scheduler is not None:
                self._scheduled(shape, 1)

    def step(
        self, delta: F64, old: F64, out: F64, state: State, number: int, scale: float = 1.0
    ) -> None:
        """Steps 1 to 3 for one tensor; see `ServerOptimizer.step`.

        Raises:
            BadSetting: The optimizer raised, or keeps other things than it did when it was tried.
        """
        form = self._form(old.shape)
        np.copyto(out, old)
        tensor = _tensor(out)
        optimizer = self._make(tensor)
        self._set(optimizer, number, scale)
        if number > 1:
            optimizer.state[tensor] = form.restore(state)
        tensor.grad = _tensor(np.negative(delta, out=delta))
        self._advance(optimizer)
        np.copyto(out, tensor.numpy())
        if number == 1:
            for array in state.values():
                array.fill(0.0)  # also where nothing is kept
        form.save(_kept(optimizer, tensor), state)

    # One optimizer ---------------------------------------------------------

    def _make(self, *tensors: torch.Tensor) -> torch.optim.Optimizer:
        import torch

        try:
            made = cast("Callable[..., object]", self.optimizer)(list(tensors), **self.args)
        except Exception as error:
            raise BadSetting("optimizer", f"{self._name}: {error}") from error
        if not isinstance(made, torch.optim.Optimizer):
            raise BadSetting("optimizer", f"{self._name} gives {made!r}, no optimizer")
        groups = [[id(tensor) for tensor in group["params"]] for group in made.param_groups]
        if groups != [[id(tensor) for tensor in tensors]]:
            raise BadSetting("optimizer", f"{self._name} must have one group, of what it is given")
        return made

    def _advance(self, optimizer: torch.optim.Optimizer) -> None:
        import torch

        try:
            with torch.no_grad():
                optimizer.step()
        except Exception as error:
            raise BadSetting("optimizer", f"{self._name} cannot step: {error}") from error

    def _set(self, optimizer: torch.optim.Optimizer, number: int, scale: float) -> None:
        """Give an optimizer the settings that it has in a step."""
        (group,) = optimizer.param_groups
        if self.scheduler is not None:
            group.update(self._scheduled(tuple(group["params"][0].shape), number))
        if scale != 1.0:
            if "lr" not in group:
                raise BadSetting("optimizer", f"{self._name} has no lr that could be scaled")
            group["lr"] = group["lr"] * scale

    def _scheduled(self, shape: Shape, number: int) -> Settings:
        """What the scheduler makes of the settings that a tensor of this shape has."""
        with _COUNTING:
            if shape not in self._courses:
                self._courses[shape] = _Course(self, shape)
            return self._courses[shape].at(number)

    def scheduled(self, shape: Shape) -> tuple[torch.optim.Optimizer, Any]:
        """An optimizer of a tensor of zeros, which takes the memory of one, with its scheduler.

        Raises:
            BadSetting: The scheduler cannot be made.
        """
        import torch

        optimizer = self._make(torch.zeros((), dtype=torch.float64).expand(shape))
        optimizer.state.clear()  # Adagrad's is as large as the tensor from the beginning
        assert self.scheduler is not None
        name = getattr(self.scheduler, "__name__", self.scheduler)
        try:
            made: Any = self.scheduler(optimizer, **self.scheduler_args)
        except Exception as error:
            raise BadSetting("scheduler", f"{name}: {error}") from error
        if not callable(getattr(made, "step", None)):
            raise BadSetting("scheduler", f"{name} gives {made!r}, no scheduler")
        return optimizer, made

    # What it keeps ---------------------------------------------------------

    def _form(self, shape: Shape) -> _Form:
        """What is kept of a tensor of this shape."""
        if shape not in self._forms:
            import torch

            tensor = torch.zeros(shape, dtype=torch.float64)
            optimizer = self._make(tensor)
            tensor.grad = torch.ones_like(tensor)
            self._advance(optimizer)
            self._forms[shape] = _Form.of(_kept(optimizer, tensor), shape, self._name)
        return self._forms[shape]

    def _try(self) -> tuple[str, ...]:
        """Step with tensors of several shapes; gives the names of what is kept."""
        names: set[str] = set()
        refused: BadSetting | None = None
        worked = False
        for shape in _TRIAL_SHAPES:
            try:
                form = self._form(shape)
            except BadSetting as error:  # there are optimizers for matrices only
                refused = refused or error
                continue
            worked = True
            self._try_apart(shape)
            names.update(entry.name for entry in form)
            if self.scheduler is not None:
                self._scheduled(shape, _TRIAL_STEPS)
        if refused is not None and not worked:
            raise refused
        return tuple(sorted(names))

    def _try_apart(self, shape: Shape) -> None:
        """Compare optimizers that live on with ones made anew for each step, as `step` does.

        Two tensors are side by side in one, unless the user's function takes one tensor alone.
        """
        import torch

        size = (2, _TRIAL_STEPS, *shape)
        numbers = np.sin(1.0 + np.arange(float(np.prod(size)))).reshape(size)
        together = [torch.zeros(shape, dtype=torch.float64) for _ in range(2)]
        optimizers = self._side_by_side(together)
        before = [_settings_of(optimizer) for optimizer in optimizers]
        for step in range(_TRIAL_STEPS):
            for tensor, given in zip(together, numbers, strict=True):
                tensor.grad = torch.tensor(given[step])
            for optimizer in optimizers:
                self._advance(optimizer)
        if repr([_settings_of(optimizer) for optimizer in optimizers]) != repr(before):
            raise BadSetting("optimizer", f"{self._name} changes its own settings as it steps")
        form = self._form(shape)
        for tensor, given in zip(together, numbers, strict=True):
            alone = self._alone(form, given)
            if not np.allclose(alone, tensor.numpy(), _TRIAL_DISTANCE, _TRIAL_DISTANCE):
                why = "looks at several tensors at a time, or at chance"
                raise BadSetting("optimizer", f"{self._name} {why}; it must do with one")

    def _side_by_side(self, tensors: list[torch.Tensor]) -> list[torch.optim.Optimizer]:
        """One optimizer of these tensors, or one of each where there is none of several."""
        try:
            return [self._make(*tensors)]
        except BadSetting:
            return [self._make(tensor) for tensor in tensors]

    def _alone(self, form: _Form, gradients: F64) -> F64:
        """A tensor after steps of its own, each with an optimizer made anew."""
        import torch

        shape = gradients.shape[1:]
        state = {entry.name: np.zeros(shape) for entry in form}
        tensor = torch.zeros(shape, dtype=torch.float64)
        for number, gradient in enumerate(gradients):
            optimizer = self._make(tensor)
            if number:
                optimizer.state[tensor] = form.restore(state)
            tensor.grad = torch.tensor(gradient)
            self._advance(optimizer)
            form.save(_kept(optimizer, tensor), state)
        return cast("F64", tensor.numpy())


class _Course:
    """What a scheduler makes of an optimizer's settings, by the number of the step."""

    def __init__(self, rule: TorchOptimizer, shape: Shape) -> None:
        self._rule = rule
        self._shape = shape
        self._begin()

    def _begin(self) -> None:
        self._number = 1
        self._optimizer, self._scheduler = self._rule.scheduled(self._shape)

    def at(self, number: int) -> Settings:
        """The settings in a step, the first being 1."""
        if number < self._number:
            self._begin()
        while self._number < number:
            self._optimizer.step()  # of nothing, for there are no gradients
            try:
                self._scheduler.step()
            except Exception as error:
                name = type(self._scheduler).__name__
                raise BadSetting("scheduler", f"{name} cannot step: {error}") from error
            self._number += 1
        return _settings_of(self._optimizer)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One thing that is kept of a tensor.

    Attributes:
        name: The optimizer's name for it.
        type: A torch dtype, or Python's int, float or bool; None for what is None.
        shape: A tensor's.
    """

    name: str
    type: Any
    shape: Shape

    @classmethod
    def of(cls, name: str, value: object) -> _Entry | None:
        """What describes a value; None if it is nothing that can be kept."""
        import torch

        if isinstance(value, torch.Tensor):
            plain = value.layout is torch.strided and not value.is_complex()
            return cls(name, value.dtype, tuple(value.shape)) if plain else None
        if value is None:
            return cls(name, None, (0,))
        return cls(name, type(value), ()) if type(value) in (bool, int, float) else None

    @property
    def count(self) -> int:
        """How many numbers it is."""
        return int(np.prod(self.shape, dtype=np.int64))


class _Form(tuple[_Entry, ...]):
    """All that is kept of a tensor of some shape."""

    __slots__ = ()

    @classmethod
    def of(cls, kept: Kept, shape: Shape, optimizer: str) -> _Form:
        """Describe what an optimizer keeps; raise `BadSetting` if it cannot be kept."""
        most = int(np.prod(shape, dtype=np.int64))
        entries: list[_Entry] = []
        for name in sorted(kept, key=str):
            entry = _Entry.of(str(name), kept[name])
            if entry is None:
                what = type(kept[name]).__name__
                raise BadSetting("optimizer", f"{optimizer} keeps a {what}, {name!r}: no numbers")
            if entry.count > most:
                why = f"keeps {entry.count} numbers, {name!r}, of a tensor of {most}"
                raise BadSetting("optimizer", f"{optimizer} {why}")
            entries.append(entry)
        return cls(entries)

    def restore(self, state: State) -> dict[str, Any]:
        """What was kept, from a tensor's arrays; of full tensors of float64 no copy is made."""
        import torch

        kept: dict[str, Any] = {}
        for entry in self:
            numbers = state[entry.name].reshape(-1)[: entry.count]
            if entry.type is None:
                kept[entry.name] = None
            elif isinstance(entry.type, torch.dtype):
                kept[entry.name] = _tensor(numbers).to(entry.type).reshape(entry.shape)
            else:
                kept[entry.name] = entry.type(numbers[0])
        return kept

    def save(self, kept: Kept, state: State) -> None:
        """Put what is kept into a tensor's arrays; raise `BadSetting` if it has another form."""
        import torch

        for entry in self:
            if len(kept) != len(self) or _Entry.of(entry.name, kept.get(entry.name)) != entry:
                why = f"keeps other things than before, see {entry.name!r}"
                raise BadSetting("optimizer", f"what it keeps changes its form: it {why}")
            array, value = state[entry.name].reshape(-1), kept[entry.name]
            if isinstance(value, torch.Tensor):
                _tensor(array[: entry.count]).copy_(value.reshape(-1))
            elif value is not None:
                array[0] = value


def _tensor(array: F64) -> torch.Tensor:
    """A tensor on an array's memory."""
    import torch

    of: Callable[[F64], torch.Tensor] = getattr(torch, "from_numpy")  # noqa: B009 (its types)
    return of(array)


def _kept(optimizer: torch.optim.Optimizer, tensor: torch.Tensor) -> Kept:
    """What an optimizer keeps of a tensor."""
    others: Collection[Any] = optimizer.state.keys() - {tensor}
    if others:
        raise BadSetting("optimizer", "it keeps something that belongs to no tensor")
    return cast("Kept", optimizer.state[tensor])


def _settings_of(optimizer: torch.optim.Optimizer) -> Settings:
    (group,) = optimizer.param_groups
    return copy.deepcopy({name: group[name] for name in group if name != "params"})
