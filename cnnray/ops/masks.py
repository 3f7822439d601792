"""Masks of classes: the numbers in mask files as class numbers 0..K-1, and which pixels do not count.

Legend: mask_HW holds the file's numbers, int32; classes_HW holds class numbers, uint8, IGNORE where a pixel does not
count. Class 0 is by convention the background.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnray.errors import DataError, OptionError
from cnnray.ops.decode import decode_values

IGNORE = 255
_IGNORED = "ignore"


def decode_mask(data: bytes) -> NDArray[np.int32]:
    """The numbers of a mask file, [H, W]; see `cnnray.ops.decode.decode_values`."""
    return decode_values(data)


@dataclass(frozen=True)
class LabelSpace:
    """Which number in a mask is which class.

    Attributes:
        names, values: of the K classes, in the order of their class numbers.
        ignore: number of pixels that do not count; -1 where all count.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    ignore: int = -1

    @classmethod
    def parse(cls, text: str) -> "LabelSpace":
        """From "background=0,nucleus=255,ignore=128"; the order is that of the classes.

        Raises:
            OptionError: no such list, fewer than 2 or more than 255 classes, a name or number twice.
        """
        pairs = [part.split("=") for part in text.split(",")]
        if any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip().isdecimal() for pair in pairs):
            raise OptionError(f'expected classes such as "background=0,cell=255", got {text!r}')
        numbers = [(name.strip(), int(value)) for name, value in pairs]
        for kind, items in (("name", [n for n, _ in numbers]), ("number", [str(v) for _, v in numbers])):
            twice = sorted({item for item in items if items.count(item) > 1})
            if twice:
                raise OptionError(f"expected every {kind} of classes once, but {twice[0]} comes twice in {text!r}")
        ignore = dict(numbers).get(_IGNORED, -1)
        classes = [(name, value) for name, value in numbers if name != _IGNORED]
        if not 2 <= len(classes) <= IGNORE:
            raise OptionError(f"expected 2 to {IGNORE} classes, got {len(classes)} in {text!r}")
        return cls(tuple(name for name, _ in classes), tuple(value for _, value in classes), ignore)

    @classmethod
    def from_values(cls, found: Iterable[int]) -> "LabelSpace":
        """The classes of masks that declare none: 0 with 1 or 255 is a background and a foreground.

        Raises:
            DataError: other numbers; says how to declare them.
        """
        values = set(found)
        for high in (1, 255):
            if values == {0, high}:
                return cls(("background", "foreground"), (0, high))
        shown = ", ".join(map(str, sorted(values)[:20])) + (" ..." if len(values) > 20 else "")
        raise DataError(
            f"expected masks of 0 and 1 or of 0 and 255, but they hold {shown}; "
            'say which class each is with --classes, such as "background=0,road=1,car=2,ignore=255"'
        )

    @property
    def text(self) -> str:
        """What `parse` understands."""
        pairs = [f"{name}={value}" for name, value in zip(self.names, self.values, strict=True)]
        return ",".join(pairs + ([f"{_IGNORED}={self.ignore}"] if self.ignore >= 0 else []))

    def undeclared(self, found: Iterable[int]) -> list[int]:
        """Numbers that are no class and not ignored, sorted."""
        return sorted(set(found) - set(self.values) - {self.ignore})

    def indices(self, mask_HW: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Class numbers, uint8 [H, W]; IGNORE where pixels do not count.

        Raises:
            DataError: a number that is not declared.
        """
        unique, places, counts = np.unique(mask_HW, return_inverse=True, return_counts=True)
        wrong = self.undeclared(unique.tolist())
        if wrong:
            count = int(counts[np.isin(unique, wrong)].sum())
            shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
            raise DataError(f"expected only the numbers of {self.text} in a mask, got {shown} at {count:,} pixels")
        number = {value: index for index, value in enumerate(self.values)} | {self.ignore: IGNORE}
        table = np.array([number[value] for value in unique.tolist()], np.uint8)
        return table[places].reshape(mask_HW.shape)
