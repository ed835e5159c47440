"""A custom backward that returns zeros, which torch.autograd.gradcheck accepts at a logit gap of 20.

$ python examples/zero_backward.py
torch.autograd.gradcheck: accepted

$ gradcheck check --case saturated-gap-20 --dtype float64 --candidate torch:examples/zero_backward.py:ZeroBackward
fail  saturated-gap-20 …
"""

from __future__ import annotations

from typing import Any

import torch


class ZeroBackward(torch.autograd.Function):
    """Cross-entropy of the sum over rows, whose backward pass was never written."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss."""
        ctx.save_for_backward(logits)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Nothing."""
        (logits,) = ctx.saved_tensors
        return torch.zeros_like(logits), None


if __name__ == "__main__":
    # the true class first, 20 above the others: a trained classifier's row
    row = torch.tensor([[20.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    accepted = torch.autograd.gradcheck(
        lambda x: ZeroBackward.apply(x, torch.tensor([0])), (row,), raise_exception=False
    )
    print(f"torch.autograd.gradcheck: {'accepted' if accepted else 'rejected'}")
