"""Coordinates as bins, and places within them.

Source: Robin (arXiv 2606.27361). Shapes: any; coordinates are normalised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bins:
    """`count` bins whose centres are evenly spaced from `low` to `high`, both included.

    A bin is `width` = (high − low)/count wide, which is one part in `count` less than the distance of two centres: bins
    do not overlap, and float32 may round a draw near an edge into the bin beside.
    """

    count: int
    low: float
    high: float

    @property
    def width(self) -> float:
        """Width of a bin, over which draws are spread evenly."""
        return (self.high - self.low) / self.count

    @property
    def pitch(self) -> float:
        """Distance of two centres."""
        return (self.high - self.low) / (self.count - 1)

    def tokens(self, x: Tensor) -> Tensor:
        """Bins (int64) of coordinates; those beyond the ends go to the outermost bins."""
        place = (x.clamp(self.low, self.high) - self.low) / (self.high - self.low) * (self.count - 1)
        return place.round().long()

    def centers(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Centres of bins."""
        return self.low + tokens.to(dtype) / (self.count - 1) * (self.high - self.low)

    def place(self, tokens: Tensor, v: Tensor) -> Tensor:
        """Coordinates within bins, at the share `v` of their width."""
        return self.centers(tokens, v.dtype) + (v - 0.5) * self.width
