"""Image corruptions: float images [N C H W] in [0, 1] -> the same shape; randomness depends on the seed only."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFTS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # down, right


def shifted(x: Tensor, down: int, right: int) -> Tensor:
    """Shifted by pixels; the border is repeated."""
    height, width = x.shape[2:]
    rows = (torch.arange(height, device=x.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) - right).clamp(0, width - 1)
    return x[:, :, rows][:, :, :, columns]


def noisy(x: Tensor, level: float, seed: int) -> Tensor:
    """Additive Gaussian noise with standard deviation `level`."""
    return (x + level * torch.randn(x.shape, generator=seeded_generator(seed)).to(x)).clamp(0, 1)


def blurred(x: Tensor, level: float, seed: int) -> Tensor:
    """Gaussian blur with a standard deviation of `level` pixels."""
    from torchvision.transforms.v2.functional import gaussian_blur

    size = 2 * min(round(3 * level + 0.5), min(x.shape[2:]) - 1) + 1
    return gaussian_blur(x, [size, size], [level, level])


def occluded(x: Tensor, level: float, seed: int) -> Tensor:
    """A rectangle of `level` of the area at a random position, in the mean colour of the image."""
    n, (height, width) = len(x), x.shape[2:]
    tall, wide = max(1, round(height * level**0.5)), max(1, round(width * level**0.5))
    position = torch.rand(2, n, generator=seeded_generator(seed)).to(x.device)
    top, left = (position[0] * (height - tall + 1)).long(), (position[1] * (width - wide + 1)).long()
    y, x_ = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    rows, columns = (y >= top[:, None]) & (y < top[:, None] + tall), (x_ >= left[:, None]) & (x_ < left[:, None] + wide)
    mask = (rows[:, :, None] & columns[:, None])[:, None]  # [N 1 H W]
    return torch.where(mask, x.mean((2, 3), keepdim=True), x)


def shuffled(x: Tensor, level: float, seed: int) -> Tensor:
    """Cut into level x level tiles, shuffled in another random order for each image.

    Rows and columns beyond the last whole tile stay.
    """
    k, (height, width) = int(level), x.shape[2:]
    tall, wide = height // k, width // k
    result = x.clone()
    inside = x[:, :, : k * tall, : k * wide]
    tiles = F.unfold(inside, (tall, wide), stride=(tall, wide))  # [N C*t*w k*k]
    order = torch.rand(len(x), k * k, generator=seeded_generator(seed)).argsort(1).to(x.device)
    mixed = tiles.gather(2, order[:, None].expand_as(tiles))
    result[:, :, : k * tall, : k * wide] = F.fold(mixed, (k * tall, k * wide), (tall, wide), stride=(tall, wide))
    return result


def low_passed(x: Tensor, level: float, seed: int) -> Tensor:
    """Low-pass filter: frequencies up to `level` of the Nyquist frequency."""
    return filtered(x, frequencies(x) <= level).clamp(0, 1)


def high_passed(x: Tensor, level: float, seed: int) -> Tensor:
    """High-pass filter: the mean and frequencies above `level` of the Nyquist frequency."""
    far = frequencies(x)
    return filtered(x, (far > level) | (far == 0)).clamp(0, 1)


def frequencies(x: Tensor) -> Tensor:
    """The frequencies of the Fourier transform of an image, as a fraction of the Nyquist frequency: [H W/2+1]."""
    down, across = torch.fft.fftfreq(x.shape[2], device=x.device), torch.fft.rfftfreq(x.shape[3], device=x.device)
    return 2 * torch.hypot(down[:, None], across)


def filtered(x: Tensor, mask: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(x) * mask
    return torch.fft.irfft2(spectrum, s=x.shape[2:])


def smaller(x: Tensor, level: float, seed: int) -> Tensor:
    """Downscaled to `level` of its side, centred on the mean colour of its border."""
    height, width = x.shape[2:]
    tall, wide = max(1, round(height * level)), max(1, round(width * level))
    small = F.interpolate(x, (tall, wide), mode="bilinear", antialias=True, align_corners=False)
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], dim=2).mean(2)
    result = border[:, :, None, None].expand_as(x).clone()
    top, left = (height - tall) // 2, (width - wide) // 2
    result[:, :, top : top + tall, left : left + wide] = small
    return result.clamp(0, 1)


def seeded_generator(seed: int) -> torch.Generator:
    """A generator with the same numbers on every device."""
    return torch.Generator().manual_seed(seed)


Disturb = Callable[[Tensor, float, int], Tensor]
KINDS: dict[str, tuple[Disturb, tuple[float, ...]]] = {  # by name: function and levels, from weak to strong
    "noise": (noisy, (0.05, 0.1, 0.2, 0.4)),
    "blur": (blurred, (0.5, 1.0, 2.0)),
    "occlusion": (occluded, (0.1, 0.25, 0.5)),
    "patch shuffle": (shuffled, (2, 4, 7)),
    "low frequencies only": (low_passed, (0.5, 0.25, 0.125)),
    "high frequencies only": (high_passed, (0.125, 0.25)),
    "small objects": (smaller, (0.8, 0.6, 0.4)),
}
