import torch
from torch import Tensor

from segmentation.inference.tta import d4_mean


def test_an_equivariant_function_is_left_as_it_is() -> None:
    image = torch.rand(2, 3, 5, 7)
    assert torch.allclose(d4_mean(lambda x: x[:, :1] * 2, image), image[:, :1] * 2)


def test_the_mean_over_all_eight_symmetries() -> None:
    """A function that only sees the top left pixel answers from each corner twice."""
    image = torch.rand(1, 1, 4, 6)
    seen = []

    def corner(x: Tensor) -> Tensor:
        seen.append(x[0, 0, 0, 0].item())
        return x[:, :, :1, :1].expand_as(x)

    mean = d4_mean(corner, image)
    corners = image[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert sorted(seen) == sorted(2 * corners.tolist())
    assert torch.allclose(mean, corners.mean().expand_as(image))
