r"""A few of all the states that were ever seen, each as likely to be among them as any other.

J. Vitter, "Random Sampling with a Reservoir", ACM Transactions on Mathematical Software 11, 1985, algorithm R.

Of a stream of rows, the first M are kept. Row n > M draws a place and takes it from whoever is there, if there is one:

    j ∼ uniform(1, …, n),      x_j ← s_n   where j ≤ M                                                            (1)

after which each of the n rows is in the reservoir with probability M / n.

| symbol | shape | here |
|---|---|---|
| x | (M, …) | of the type of the first rows that came; the first min(n, M) are filled |
| s_n | (…) | a row; `add` takes k of them, (k, …) |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Reservoir:
    """At most M rows, on the CPU."""

    def __init__(self, capacity: int):
        self.capacity, self.seen = capacity, 0
        self.x: Tensor | None = None

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, rows: Tensor, g: torch.Generator) -> None:
        """Eq. (1) with the rows of (k, …), one after another; g: of the CPU."""
        if self.x is None:
            self.x = torch.empty((self.capacity, *rows.shape[1:]), dtype=rows.dtype)
        n = self.seen + torch.arange(len(rows))  # counted from 0, as places are
        place = (torch.rand(len(rows), generator=g, dtype=torch.float64) * (n + 1)).long()
        place = torch.where(n < self.capacity, n, place)
        kept = place < self.capacity
        self.x.numpy()[place[kept].numpy()] = rows[kept.to(rows.device)].cpu().numpy()  # of one place, the last row's
        self.seen += len(rows)

    def rows(self, like: Tensor) -> Tensor:
        """What it holds, on the device of `like`, in the order of places."""
        return like[:0] if self.x is None else self.x[: len(self)].to(like.device)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, **({} if self.x is None else {"x": self.x[: len(self)].clone()})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.x = state["seen"], None
        if "x" in state:
            self.x = torch.empty((self.capacity, *state["x"].shape[1:]), dtype=state["x"].dtype)
            self.x[: len(self)] = state["x"]
