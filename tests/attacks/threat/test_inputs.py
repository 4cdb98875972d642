import re

import pytest
import torch

from vaerdict.attacks.threat import check_mask, settle


@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_rounding_is_brought_back_with_a_warning(box: tuple[float, float]) -> None:
    images = torch.tensor([[box[0], box[1] * (1 + 5e-7)], [0.25, 0.5]], dtype=torch.float64)
    with pytest.warns(UserWarning, match="clamped"):
        settled = settle(images, box)
    assert settled.tolist() == [[box[0], box[1]], [0.25, 0.5]]


@pytest.mark.parametrize("value", [0.5, 1.0, 1.01, -0.01, torch.inf, torch.nan])
def test_images_within_or_far_outside_are_left_as_they_are(value: float) -> None:
    images = torch.tensor([[0.0, value]])
    assert settle(images, (0.0, 1.0)) is images


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 1, 2, 2), "expected a boolean `mask`, got torch.float32"),
        (torch.ones(2, 1, 2, 2, dtype=torch.bool), "expected `mask` of shape (3, 1, 2, 2) or (1, 1, 2, 2), got (2,"),
        (torch.ones(2, 2, dtype=torch.bool), "expected `mask` of shape (3, 1, 2, 2) or (1, 1, 2, 2), got (2, 2)"),
        (torch.eye(3).bool()[:, [0, 0, 1, 1]].reshape(3, 1, 2, 2), "expected a `mask` with pixels to attack, got none"),
    ],
)
def test_wrong_masks_are_refused(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_mask(mask, torch.zeros(3, 1, 2, 2))


def test_masks_come_back_as_given() -> None:
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert torch.equal(check_mask(mask, torch.zeros(3, 1, 2, 2)), mask)
    assert check_mask(None, torch.zeros(3, 1, 2, 2)) is None
