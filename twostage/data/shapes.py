"""The embedded data set: ten kinds of shapes, drawn by this file on textured backgrounds.

Every image is one row of uniform numbers, and only operations that IEEE 754 rounds exactly (+ - * / sqrt min max
floor) turn a row into pixels: no sine, no matrix product, no sum whose order could vary. The same seed therefore
gives the same bytes on every machine, and the first n images do not depend on `count`.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy import abs, floor, maximum, minimum, ndarray, sqrt

from twostage.config import Count, NonNegativeInt
from twostage.data.images import ArrayImages, LabelledArrays, Split

PENTAGON = ((0.0, -1.0), (0.951057, -0.309017), (0.587785, 0.809017), (-0.587785, 0.809017), (-0.951057, -0.309017))
"""Unit normals of a regular pentagon's sides; y points up."""


def length(x: ndarray, y: ndarray) -> ndarray:
    return sqrt(x * x + y * y)


def box(x: ndarray, y: ndarray, width: float, height: float) -> ndarray:
    return maximum(abs(x) - width, abs(y) - height)


def circle(x: ndarray, y: ndarray) -> ndarray:
    return length(x, y) - 0.88


def square(x: ndarray, y: ndarray) -> ndarray:
    return box(x, y, 0.84, 0.84)


def triangle(x: ndarray, y: ndarray) -> ndarray:
    y = y + 0.16
    return maximum(0.866025 * abs(x) + 0.5 * y, -y) - 0.6


def star(x: ndarray, y: ndarray) -> ndarray:
    """A point is in a pentagram when it is beyond at most one of the five lines that its edges lie on."""
    largest, second = np.full_like(x, -np.inf), np.full_like(x, -np.inf)
    for a, b in PENTAGON:
        side = a * x + b * y - 0.38
        second = maximum(second, minimum(largest, side))
        largest = maximum(largest, side)
    return second


def ring(x: ndarray, y: ndarray) -> ndarray:
    return abs(length(x, y) - 0.7) - 0.22


def cross(x: ndarray, y: ndarray) -> ndarray:
    return minimum(box(x, y, 0.33, 0.96), box(x, y, 0.96, 0.33))


def crescent(x: ndarray, y: ndarray) -> ndarray:
    x = x + 0.12
    return maximum(length(x, y) - 0.95, 0.72 - length(x - 0.5, y))


def heart(x: ndarray, y: ndarray) -> ndarray:
    """A square on its corner, and a disc on each of its upper sides."""
    x, y = abs(x), y + 0.12
    return minimum(0.707107 * (x + abs(y) - 0.84), length(x - 0.42, y - 0.42) - 0.593970)


def hourglass(x: ndarray, y: ndarray) -> ndarray:
    return maximum(0.77 * (abs(x) - 0.78 * abs(y) - 0.08), abs(y) - 0.88)


def arrow(x: ndarray, y: ndarray) -> ndarray:
    head = maximum(0.707107 * (abs(x) + y - 0.95), -y)
    return minimum(head, box(x, y + 0.4, 0.26, 0.5))


SHAPES: dict[str, Callable[[ndarray, ndarray], ndarray]] = {
    shape.__name__: shape for shape in (circle, square, triangle, star, ring, cross, crescent, heart, hourglass, arrow)
}
"""Name -> f(x, y), negative inside and near the signed distance to the edge; the shape fills about [-1, 1]^2."""


class Row:
    """Uniform numbers for n images, taken column by column; each column has shape [n, 1, 1]."""

    COLUMNS = 23

    def __init__(self, uniform: ndarray) -> None:
        self.columns: Iterator[ndarray] = iter(uniform.astype(np.float32).T[:, :, None, None])

    def between(self, low: float, high: float) -> ndarray:
        return low + (high - low) * next(self.columns)


def colour(hue: ndarray, saturation: ndarray, luminance: ndarray) -> ndarray:
    """RGB [n, 3, H, W] in [0, 1]: a hue mixed with grey by its saturation, then with black or white to its luminance.

    Hue and saturation are [n, 1, 1], the luminance [n, H, W].
    """
    luminance = luminance[:, None]
    offsets = np.array([0.0, 4.0, 2.0], dtype=np.float32)[:, None, None]
    angle = offsets + 6 * hue[:, None]
    angle = angle - 6 * floor(angle / 6)
    pure = 0.12 + 0.88 * minimum(maximum(abs(angle - 3) - 1, 0), 1)
    own = 0.299 * pure[:, :1] + 0.587 * pure[:, 1:2] + 0.114 * pure[:, 2:]
    muted = own + saturation[:, None] * (pure - own)
    white = maximum(luminance - own, 0) / (1 - own)
    return minimum(luminance / own, 1) * muted * (1 - white) + white


def texture(x: ndarray, y: ndarray, row: Row) -> ndarray:
    """Plain, a gradient, stripes or checks [n, H, W] in [-1, 1]; coordinates in [-1, 1]."""
    kind, cos, sin = row.between(0, 4), row.between(-1, 1), row.between(0.1, 1)
    norm = length(cos, sin)
    cos, sin = cos / norm, sin / norm
    u, v = cos * x + sin * y, cos * y - sin * x
    frequency, phase = row.between(1.2, 1.9), row.between(0, 1)

    def wave(t: ndarray) -> ndarray:
        t = frequency * t + phase
        return minimum(maximum(4 * (4 * abs(t - floor(t) - 0.5) - 1), -1), 1)

    stripes = wave(u)
    gradient = minimum(maximum(1.2 * u, -1), 1)
    pattern = np.where(kind < 3, stripes, stripes * wave(v))
    return np.where(kind < 1, np.float32(0), np.where(kind < 2, gradient, pattern))


def draw(uniform: ndarray, labels: ndarray, size: int) -> ndarray:
    """Images uint8 [n, 3, size, size] from numbers in [0, 1) [n, Row.COLUMNS] and labels [n] into `SHAPES`."""
    row = Row(uniform)
    centres = ((2 * np.arange(size, dtype=np.float32) + 1) / size - 1)[None]
    x, y = centres[:, None, :], -centres[:, :, None]

    radius = row.between(0.68, 0.86)
    room = 0.98 - radius
    x_shape, y_shape = (x - room * row.between(-1, 1)) / radius, (y - room * row.between(-1, 1)) / radius
    half_angle = row.between(-0.13, 0.13)  # its tangent: rotations within 15 degrees, without a sine
    cos = (1 - half_angle * half_angle) / (1 + half_angle * half_angle)
    sin = 2 * half_angle / (1 + half_angle * half_angle)
    x_shape, y_shape = cos * x_shape + sin * y_shape, cos * y_shape - sin * x_shape

    distance = np.empty_like(x_shape)
    for label, shape in enumerate(SHAPES.values()):
        distance[labels == label] = shape(x_shape[labels == label], y_shape[labels == label])
    inside = minimum(maximum(0.5 - distance * radius * (size / 2), 0), 1)[:, None]

    dark = row.between(0, 1) < 0.5
    ground = np.where(dark, row.between(0.1, 0.26), row.between(0.8, 0.92)) + 0.025 * texture(x, y, row)
    fill = np.where(dark, row.between(0.58, 0.8), row.between(0.28, 0.48)) + 0.06 * texture(x, y, row)
    hue = row.between(0, 1)
    background = colour(hue, row.between(0.3, 0.65), ground)
    foreground = colour(hue + row.between(0.2, 0.8), row.between(0.75, 1), fill)  # never the background's own hue
    pixels = background + inside * (foreground - background)
    return (255 * pixels + 0.5).astype(np.uint8)


class Shapes(ArrayImages):
    """Coloured shapes, one an image: varied place, size, rotation, colours and texture, on varied backgrounds.

    Ten classes, the keys of `SHAPES`, in turn: image i shows class i mod 10. Held in memory as uint8.

    Args:
        split: "train" and "test" are independent streams of the same seed.
        image_size: H = W; the drawing is resolution independent, 32 is what it is made for.
        count: number of images; by default 8000 for training, 1000 for testing.
        seed: of the whole set.
    """

    def __init__(
        self, split: Split, *, image_size: Count = 32, count: Count | None = None, seed: NonNegativeInt = 0
    ) -> None:
        total = count or {"train": 8000, "test": 1000}[split]
        stream = np.random.SeedSequence([seed, ("train", "test").index(split)])
        uniform = np.random.Generator(np.random.PCG64(stream)).random((total, Row.COLUMNS))
        labels = np.arange(total, dtype=np.int64) % len(SHAPES)
        images = np.empty((total, 3, image_size, image_size), np.uint8)
        batch = max(1, 2**17 // image_size**2)
        for start in range(0, total, batch):
            part = slice(start, start + batch)
            images[part] = draw(uniform[part], labels[part], image_size)
        super().__init__(LabelledArrays(images, labels), list(SHAPES))
