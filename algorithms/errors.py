"""What can go wrong in the mathematics, as one small tree.

Here: the exception types of this room, each with the data a caller acts on (which tensor, which
site, which setting). Not here: raising policy; the functions that raise them say when.
"""

from __future__ import annotations


class AlgorithmError(Exception):
    """Root of every error raised by this room."""


class BadSetting(AlgorithmError, ValueError):
    """A parameter of an algorithm is not usable.

    Attributes:
        setting: Name of the parameter.
        why: What is wrong with its value, and what would be right.
    """

    def __init__(self, setting: str, why: str) -> None:
        """Name the setting and the reason."""
        super().__init__(f"{setting}: {why}")
        self.setting = setting
        self.why = why


class BadHeader(AlgorithmError):
    """The head of a blob is not one that this room accepts as safetensors.

    Attributes:
        why: The rule that was broken.
    """

    def __init__(self, why: str) -> None:
        """Name the broken rule."""
        super().__init__(f"not an acceptable safetensors header: {why}")
        self.why = why


class BadUpdate(AlgorithmError):
    """A state dict cannot stand for the model it should answer.

    Attributes:
        tensor: The offending variable, or "" when the update as a whole is wrong.
        why: What is wrong with it, and what was expected.
    """

    def __init__(self, tensor: str, why: str) -> None:
        """Name the tensor and the reason."""
        super().__init__(f"tensor {tensor!r}: {why}" if tensor else why)
        self.tensor = tensor
        self.why = why


class ManifestMismatch(BadUpdate):
    """A blob's tensors are not those of the model it should match.

    Attributes:
        tensor: First tensor that differs.
        expected: What the model has, such as "F32 [3, 4]", or "absent".
        got: What the blob has, in the same form.
    """

    def __init__(self, tensor: str, expected: str, got: str) -> None:
        """Name the tensor, what was expected of it and what came."""
        super().__init__(tensor, f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got


class NonFiniteUpdate(BadUpdate):
    """Folding a site's update gives NaN or infinity, so the aggregate would be lost.

    Drop that site's contribution and fold again.

    Attributes:
        site: The site whose update is to blame.
        tensor: The tensor in which it showed first.
    """

    def __init__(self, site: str, tensor: str, why: str) -> None:
        """Name the site, the tensor and what was found."""
        super().__init__(tensor, f"{why} in the update of {site}")
        self.site = site


class TooStale(BadUpdate):
    """An update started from a model that is too old to be of use.

    Attributes:
        site: Who sent it.
        staleness: Versions that the global model has advanced since.
        limit: The largest staleness that the rule takes.
    """

    def __init__(self, site: str, staleness: int, limit: int) -> None:
        """Name the site, the staleness and the limit."""
        late = "1 version" if staleness == 1 else f"{staleness} versions"
        super().__init__("", f"the update of {site} is {late} late, limit {limit}")
        self.site = site
        self.staleness = staleness
        self.limit = limit


class NonFiniteModel(AlgorithmError):
    """A step would put NaN or infinity into the model, though every update was finite.

    The sum that the step was made of is lost; the old model still stands.

    Attributes:
        tensor: The tensor in which it showed first.
    """

    def __init__(self, tensor: str) -> None:
        """Name the tensor."""
        super().__init__(
            f"tensor {tensor!r} would leave the range of its type; "
            "lower the server's learning rate, or the sites'"
        )
        self.tensor = tensor


class SumsOutstanding(AlgorithmError):
    """A buffer was to hand out its sums while those of the last step are not back.

    There are two accumulators: one that is filled and one for a step. End the step, then give its
    sums back.
    """


class UnsafeFile(AlgorithmError):
    """A model file is in a format that can run code when loaded, or is not a tensor file.

    It was recognised by its first bytes; nothing of it was executed or imported.

    Attributes:
        path: The file.
        format: What it looks like, such as "a pickle".
    """

    def __init__(self, path: str, format: str) -> None:
        """Name the file and the recognised format."""
        super().__init__(
            f"{path} is {format}; only safetensors files are read, because they cannot carry code. "
            "Load it yourself and pass the module, its state dict, or a file written by "
            "safetensors.torch.save_file"
        )
        self.path = path
        self.format = format
